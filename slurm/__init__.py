"""Send jobs to a cluster. A job is any call of pretint that can be run again to resume."""

from slurm.cluster import ClusterError, ClusterSettings
from slurm.states import JobState, cancel, states
from slurm.submit_job import Job, Submission, submit

__all__ = ["ClusterError", "ClusterSettings", "Job", "JobState", "Submission", "cancel", "states", "submit"]
