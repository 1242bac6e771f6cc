"""Engines run jobs: `run_job` runs one on this machine, each site's script in a process of its own."""

from training.engines.run import prepare, run_job

__all__ = ["prepare", "run_job"]
