"""Send: any job, unchanged, to a cluster. Knows only "a job": a function that may be called again."""

from slurm.jobs import ClusterSettings, submit

__all__ = ["ClusterSettings", "submit"]
