"""The command `trackbus simulator`: runs an exported job, NVFLARE's too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventbus.errors import ConfigurationError, JournalError, SubscriptionError, TrackbusError, WorkspaceError
from training.cli import EXIT_FAILED, EXIT_USAGE, leave

WRONG_JOB = (ConfigurationError, JournalError, SubscriptionError, WorkspaceError)
"""What a person can put right before anything has run."""


def simulator(
    job: Annotated[Path, typer.Argument(metavar="JOB_DIR", help="The job's folder: the one with meta.json.")],
    *,
    workspace: Annotated[
        Path | None, typer.Option("-w", "--workspace", help="Folder of the run.", show_default="runs/JOB")
    ] = None,
    n_clients: Annotated[
        int,
        typer.Option(
            "-n",
            "--n_clients",
            min=0,
            help="How many sites: site-1, site-2 ...",
            show_default="those that the job names",
        ),
    ] = 0,
    clients: Annotated[
        str, typer.Option("-c", "--clients", metavar="NAMES", help="Their names, in a list with commas.")
    ] = "",
    threads: Annotated[
        int | None, typer.Option("-t", "--threads", min=1, help="How many sites may work at the same time.")
    ] = None,
    gpu: Annotated[str | None, typer.Option("-gpu", "--gpu", help="Graphics cards for the sites: [0],[1] say.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed runs the same.")] = 0,
) -> None:
    """Run an exported job on this machine, with its own code: as many sites as you say, each a process."""
    from training._simulator import Simulation, keep_job, simulate
    from training.jobs._env import WORKSPACE_ROOT, site_names
    from training.jobs._load import load_job

    try:
        loaded = load_job(job)
        names = [name.strip() for name in clients.split(",") if name.strip()]
        sites = site_names(n_clients, names) if n_clients or names else ()
        folder = workspace or Path(WORKSPACE_ROOT, loaded.name)
        result = simulate(load_job(keep_job(loaded, folder)), Simulation(folder, sites, threads, gpu, seed))
    except WRONG_JOB as error:
        leave(str(error), EXIT_USAGE)
    except (TrackbusError, OSError) as error:
        leave(str(error), EXIT_FAILED)
    raise typer.Exit(result.exit_code)
