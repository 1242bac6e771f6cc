"""A job that is ready to run: plain objects, whatever it was made from.

`training.job` makes one from Python or from an exported folder; `training.engines` runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from eventbus import Report
    from receivers import Receiver
    from training.abc import Workflow

ParamsFormat = Literal["pytorch", "numpy", "raw"]
"""What a script gets params as: torch tensors, numpy arrays; `raw` means whichever were sent."""

Transfer = Literal["FULL", "DIFF"]


@dataclass(frozen=True, slots=True)
class ScriptPlan:
    """The training script of a site, and how it is run.

    Attributes:
        script: The script's file, absolute.
        args: Its arguments.
        command: What starts it as a process of its own, such as `("python3", "-u")`, or a launcher such as torchrun;
            `python` and `python3` mean the interpreter that runs the job. Empty: it runs inside the site's process.
        params_format: What it gets params as.
        transfer: DIFF: the client sends the difference from what it was sent, where the script sends whole weights.
        launch_once: Whether one process serves the whole job; else each task starts one. For `command` only.
        launch_timeout: Seconds until it must have called `init`.
        shutdown_timeout: Seconds that it may take to end once the job is over, before it is stopped.
        task_names: Which tasks it serves; `*` is any.
    """

    script: Path
    args: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    params_format: ParamsFormat = "pytorch"
    transfer: Transfer = "FULL"
    launch_once: bool = True
    launch_timeout: float | None = 300.0
    shutdown_timeout: float = 10.0
    task_names: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class SitePlan:
    """A site of a job.

    Attributes:
        name: Its name.
        script: What it runs.
        search_path: Folders in which its script finds modules of the job's own (`custom/`).
        receivers: Trackers that are filled at the site.
        config: What `get_config()` returns there, beside what the engine adds.
    """

    name: str
    script: ScriptPlan
    search_path: tuple[Path, ...] = ()
    receivers: tuple[Receiver, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job.

    Attributes:
        name: Its name: W&B's project and group, MLflow's experiment.
        workflows: What the server does, in order.
        components: The server's components by id, in order.
        sites: The sites, in order.
        app_folder: Folder of the job's own files at the server.
        receivers: Trackers that are filled at the server. Where there are none, what the sites log stays with them.
        min_sites: With fewer sites left the job ends.
        seed: Everything that trackbus draws depends on it alone; scripts find it in their environment as
            `TRACKBUS_SEED`.
        run: Id of the run; by default `<job>-<4 random>`.
        global_metrics: Whether the server logs a run of its own, where it has receivers: the aggregated metrics of each
            round, in the group of the sites' runs.
        system_metrics: Seconds between two samples of what the machine does, in every run of the job: see
            `writers.system`. 0 leaves it to the environment.
    """

    name: str
    workflows: Sequence[Workflow]
    components: Mapping[str, object]
    sites: Sequence[SitePlan]
    app_folder: Path
    receivers: tuple[Receiver, ...] = ()
    min_sites: int = 1
    seed: int = 0
    run: str | None = None
    global_metrics: bool = False
    system_metrics: float = 0.0


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a job did.

    Attributes:
        folder: The run's workspace: models, results, journals, and by default the trackers' files.
        run: Id of the run in the trackers.
        error: Why it ended early; empty when all workflows did what they were to do.
        problems: What went wrong at sites, also where the job went on without them: by site.
        reports: What became of the events on each bus, by site, the server's among them.
        seconds: How long each part took: `start` (to the first task), `training`, `end` (last answer to exit).
    """

    folder: Path
    run: str
    error: str = ""
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])
    reports: Mapping[str, Report] = field(default_factory=dict[str, "Report"])
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def exit_code(self) -> int:
        """0 when the job did all of its work and nothing that was logged is lost, else 1."""
        lost = any(report.refused or any(line.lost for line in report.lines) for report in self.reports.values())
        return 1 if self.error or lost else 0
