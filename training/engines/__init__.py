"""Engines run jobs: `run_job` runs one on this machine, each site's script in a process of its own."""

from training.engines.run import run_job

__all__ = ["run_job"]
