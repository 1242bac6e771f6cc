"""Where a recipe runs: on this machine, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from training.errors import JobError

if TYPE_CHECKING:
    from training.jobs._job import FedJob
    from training.plan import JobResult

WORKSPACE_ROOT = "runs"

COMPLETED = "FINISHED:COMPLETED"
"""Status of a run whose job has done all of its work: NVFLARE's word. Any other raises."""


class ExecEnv(Protocol):
    """Where jobs run."""

    def deploy(self, job: FedJob) -> Run:
        """Run a job to its end."""
        ...


class SimEnv:
    """Runs jobs on this machine.

    Args:
        num_clients: How many sites: `site-1`, `site-2` ...
        clients: Their names, instead.
        num_threads: How many sites may work at the same time; all by default.
        gpu_config: Graphics cards for the sites in turn, as in `[0],[1]`.
        log_config: Has no effect: what a script prints is in its site's folder.
        workspace_root: Folder that gets a folder for each job.
        extra: Has no effect.
        seed: Everything that trackbus draws depends on it alone.

    Raises:
        JobError: There are no sites, or their number and names differ.
    """

    def __init__(
        self,
        *,
        num_clients: int = 0,
        clients: list[str] | None = None,
        num_threads: int | None = None,
        gpu_config: str | None = None,
        log_config: str | None = None,
        workspace_root: str | Path = WORKSPACE_ROOT,
        extra: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.clients = site_names(num_clients, clients)
        self.num_clients = len(self.clients)
        self.num_threads = num_threads
        self.gpu_config = gpu_config
        self.log_config = log_config
        self.workspace_root = Path(workspace_root)
        self.extra = dict(extra or {})
        self.seed = seed

    def deploy(self, job: FedJob) -> Run:
        """Run a job to its end.

        Raises:
            JobError: It can't be run as it is written.
            JobFailedError: It ended without doing all of its work, or has lost events.
        """
        from training.engines import prepare

        prepare()  # what the job's scripts want is loaded while the job is written and read
        workspace = self.workspace_root / job.name
        result = job.run(workspace, self.clients, threads=self.num_threads, gpu=self.gpu_config, seed=self.seed)
        return Run(job.name, result)


class Run:
    """A job that has run.

    Args:
        job_id: Name of the job.
        result: What it did.
    """

    def __init__(self, job_id: str, result: JobResult) -> None:
        self.job_id = job_id
        self.result = result

    def get_job_id(self) -> str:
        """Return the name of the job."""
        return self.job_id

    def get_status(self) -> str:
        """Return NVFLARE's word for how it ended."""
        return COMPLETED

    def get_result(self, timeout: float = 0.0, clean_up: bool = True) -> str:  # noqa: ARG002, FBT001, FBT002 - NVFLARE's
        """Return the run's workspace. It is there, and stays: the arguments have no effect."""
        return str(self.result.folder)

    def abort(self) -> None:
        """Do nothing: it is over."""


def site_names(number: int, names: list[str] | None) -> list[str]:
    """Return the names of a run's sites.

    Raises:
        JobError: There are none, or their number and names differ.
    """
    if names and number and len(names) != number:
        raise JobError(f"{number} sites, and {len(names)} names: {', '.join(names)}")
    if not names and number < 1:
        raise JobError("there are no sites: say how many with num_clients, or name them with clients")
    return list(names or (f"site-{count}" for count in range(1, number + 1)))
