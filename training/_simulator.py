"""Runs a job's folder on this machine, and shows it."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from training._job_screen import JobScreen
from training._say import say
from training.errors import JobError, JobFailedError
from training.jobs._export import replacing
from training.jobs._load import LoadedJob
from training.jobs._terms import META

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.plan import JobPlan, JobResult

JOB_FOLDER = "job"
"""Folder of the workspace with the job as it was run."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """How a job is run.

    Attributes:
        workspace: Folder of the run.
        sites: Names of the sites; none: those that the job names.
        threads: How many may work at the same time; all by default.
        gpu: Graphics cards for the sites in turn.
        seed: Everything that trackbus draws depends on it alone.
    """

    workspace: Path
    sites: Sequence[str] = ()
    threads: int | None = None
    gpu: str | None = None
    seed: int = 0


def simulate(job: LoadedJob, how: Simulation) -> JobResult:
    """Run a job of one's own: its classes in `custom/` are imported.

    Raises:
        JobError: It can't be run as it is written.
    """
    from training.engines import prepare
    from training.engines.gpus import gpu_groups

    gpu_groups(how.gpu)  # what is written wrong is said before anything starts
    prepare()  # what the plan imports, its scripts' processes import meanwhile
    with job.importing():
        plan = job.plan(how.sites, seed=how.seed, trust_custom=True)
        _check_receivers(plan, how.workspace.absolute())
        for note in job.notes:
            say(f"note: {note}")
        with JobScreen(plan, how.workspace) as screen:
            result = _run(plan, how, screen)
        screen.print_result(result)
    return result


def _check_receivers(plan: JobPlan, workspace: Path) -> None:
    """Refuse trackers that can't work before anything is started."""
    for receiver in plan.receivers:
        receiver.config.check(workspace)
    for site in plan.sites:
        for receiver in site.receivers:
            receiver.config.check(workspace / "sites" / site.name)


def check(result: JobResult) -> JobResult:
    """Return a result if the job did all of its work and nothing that was logged is lost.

    Raises:
        JobFailedError: It did not.
    """
    if result.exit_code:
        raise JobFailedError(result.error or "events are lost: see above", result)
    return result


def _run(plan: JobPlan, how: Simulation, screen: JobScreen) -> JobResult:
    from training.engines import run_job

    run = partial(run_job, plan, how.workspace, threads=how.threads, gpu=how.gpu, tell=screen.tell)
    if not _in_loop():
        return anyio.run(run)
    with ThreadPoolExecutor(1) as elsewhere:  # a notebook's cell is in a loop, and can't start another in its thread
        return elsewhere.submit(anyio.run, run).result()


def _in_loop() -> bool:
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:
        return False
    return True


def keep_job(job: LoadedJob, workspace: Path) -> Path:
    """Copy a job's files into the workspace, so that it tells what was run; return the copy.

    Raises:
        JobError: There is something else in its place, or the job would be copied into or over itself.
    """
    target = (workspace / JOB_FOLDER).resolve()
    source = job.folder.resolve()
    if source == target:
        return target
    if source.is_relative_to(target) or any(target.is_relative_to(app.resolve()) for app in job.apps):
        raise JobError(
            f"the run keeps a copy of its job in {target}, and the job itself is {source}: name another workspace"
        )
    with replacing(target) as scratch:
        shutil.copy(source / META, scratch)
        for app in job.apps:
            shutil.copytree(app, scratch / app.relative_to(job.folder), dirs_exist_ok=True)
    return target
