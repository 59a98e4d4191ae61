"""Send: any job, unchanged, to a cluster. Knows only "a job": a command line that may be called again."""

from slurm.cluster import ClusterError, ClusterSettings
from slurm.states import JobState, cancel, states
from slurm.submit_job import Job, Submission, submit

__all__ = ["ClusterError", "ClusterSettings", "Job", "JobState", "Submission", "cancel", "states", "submit"]
