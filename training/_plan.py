"""What a federation is told, and what it tells: plain data, without torch.

Rounds, epochs and steps count from 0. Every metric has one axis:

| Metric | At | Step |
| --- | --- | --- |
| `train/loss`, `train/accuracy` | site | batches since the start: `round * steps per round + i` |
| `epoch/loss`, `epoch/accuracy` | site | epochs since the start: `round * local epochs + epoch` |
| `validation/loss`, `validation/accuracy` | site: its own model, before averaging | the round |
| `global/loss`, `global/accuracy` | server: the averaged model | the round |

Losses are mean cross-entropy in nats, accuracies shares of 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from eventbus.workspace import check_name
from training._data_choice import DatasetName, parse_scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventbus import Report
    from training.checkpoint import BestRecord
    from training.trackers import Account

MAX_SITES = 50
"""Sites in one process: each needs a thread and 13 open files, and many shells allow a process no more than 1024."""

Name = Annotated[str, AfterValidator(lambda name: check_name("name", name))]
"""Name of a job or a run."""


def _check_scheme(text: str) -> str:
    parse_scheme(text)
    return text


PartitionName = Annotated[str, AfterValidator(_check_scheme)]
"""How a data set is shared out: `iid`, `dirichlet:0.5`, `shards:2`, `quantity`."""


_NO_PARAMS = {"workspace", "name", "run", "data_root", "ready_timeout", "resume", "system_metrics"}
"""Settings that change nothing of the training."""


class FederationConfig(BaseModel):
    """A federation of sites that train one model in rounds.

    Attributes:
        workspace: Folder of the server; the sites' own are `sites/<site>` in it.
        name: Name of the job: W&B's project and group, MLflow's experiment.
        run: Id of the run, the same at all sites; by default `<name>-<4 random>`.
        sites: How many sites; they are called `site-1`, `site-2` ...
        rounds: How often the sites' models are averaged.
        local_epochs: Epochs that a site trains per round.
        batch_size: Samples per step.
        learning_rate: Of the sites' SGD.
        momentum: Of the sites' SGD; it starts anew with each round.
        seed: Fixes data split, first weights and the order of the samples.
        dataset: What to train on.
        partition: How it is shared out: `iid`, `dirichlet:ALPHA`, `shards:CLASSES` or `quantity`.
        data_root: Folder of downloaded data sets; by default one in the user's cache.
        log_every: Steps between two logged ones; the last of an epoch is always logged.
        ready_timeout: Seconds that the first step may wait for the trackers' workers. 0: training never waits.
        resume: Go on with the workspace's last run, after its last complete round. What a process had logged of the
            round in which it ended is logged anew: the trackers have both.
        system_metrics: Seconds between two samples of what the machine does, in every run: see `writers.system`. 0
            leaves it to the environment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    workspace: Path
    name: Name = "federated"
    run: Name | None = None
    sites: int = Field(default=2, ge=1, le=MAX_SITES)
    rounds: PositiveInt = 3
    local_epochs: PositiveInt = 1
    batch_size: PositiveInt = 16
    learning_rate: PositiveFloat = 0.02
    momentum: float = Field(default=0.9, ge=0, lt=1)
    seed: int = 0
    dataset: DatasetName = "digits"
    partition: PartitionName = "iid"
    data_root: Path | None = None
    log_every: PositiveInt = 5
    ready_timeout: NonNegativeFloat = 0.0
    resume: bool = False
    system_metrics: NonNegativeFloat = 0.0

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of the sites, in order."""
        return tuple(f"site-{number}" for number in range(1, self.sites + 1))

    @property
    def models_folder(self) -> Path:
        """Folder of the best global model and the last."""
        return self.workspace / "models"

    def params(self) -> dict[str, int | float | str]:
        """Return what a tracker should know of the training: its hyperparameters."""
        return self.model_dump(exclude=_NO_PARAMS)

    def settings(self) -> dict[str, object]:
        """Return what a process must know that resumes the run."""
        return {"name": self.name, "system_metrics": self.system_metrics, **self.params()}


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """What a round brought.

    Attributes:
        round: Its number.
        loss: Of the averaged model, on the data that all sites test on.
        accuracy: The same.
        sites: What each site measured: `loss` and `accuracy` of its last epoch, `validation_loss` and
            `validation_accuracy` of the model that it handed in.
    """

    round: int
    loss: float
    accuracy: float
    sites: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class FederationResult:
    """What a federation did.

    Attributes:
        run: Id of the run; empty where nothing was tracked.
        rounds: What each round brought.
        best: The best model of the workspace; None if no round had a finite accuracy.
        best_path: Where it is.
        best_is_new: Whether it is of this run; a workspace may hold a better one of an earlier run.
        training_seconds: From the order for the first step to the last site's answer in the last round.
        ready_seconds: How long the first step waited for the trackers' workers.
        reports: What became of the events on each bus, by site, the server's among them.
        accounts: What became of each site's events in each tracker.
    """

    run: str
    rounds: tuple[RoundMetrics, ...]
    best: BestRecord | None
    best_path: Path
    best_is_new: bool
    training_seconds: float
    ready_seconds: float
    reports: dict[str, Report]
    accounts: tuple[Account, ...]


# --- progress: facts for whoever looks on --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunResumed:
    """A run goes on of which so many rounds are complete."""

    run: str
    completed: int


@dataclass(frozen=True, slots=True)
class DataDealt:
    """The data are shared out; `classes` says how often each class occurs, by site."""

    classes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class SiteReady:
    """A site has its data and could begin; `steps` is what it will train in all rounds together."""

    site: str
    steps: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """A site has trained `done` steps since the start. Told as often as steps are logged."""

    site: str
    done: int
    loss: float


@dataclass(frozen=True, slots=True)
class RoundDone:
    """The sites' models of a round are averaged and measured."""

    metrics: RoundMetrics


@dataclass(frozen=True, slots=True)
class TrainingDone:
    """The last round is over; what remains is to store the rest of the events."""

    seconds: float


Progress = DataDealt | RunResumed | SiteReady | StepDone | RoundDone | TrainingDone
