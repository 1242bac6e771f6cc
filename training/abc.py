"""What a federated workflow and its components implement, and what they are given to work with.

A job at the server is a list of workflows that run one after another, and components that hear what happens. Neither
knows how sites are reached: that is the engine's part (`Sites`).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from training.fl_model import FLModel
    from writers import TrackingWriter

T = TypeVar("T")

_logger = logging.getLogger("trackbus.training")

TRAIN = "train"
VALIDATE = "validate"
SUBMIT_MODEL = "submit_model"
"""Names of the tasks that training scripts know, as NVFLARE has them."""


# --- asking the sites ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a site is asked to do.

    Attributes:
        name: `train`, `validate`, `submit_model`, or a name that the job's scripts know.
        model: What it is sent; its params are None where the task needs none. Others are sent it too: never write into
            it.
    """

    name: str
    model: FLModel


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a site sent back.

    Attributes:
        site: Which one, as the connection says.
        model: What it sent; params are torch tensors on the CPU.
    """

    site: str
    model: FLModel


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a task waits for its answers.

    Attributes:
        min_answers: With so many accepted answers the task is done once `grace` is over.
        timeout: Seconds that the sites have in all; None waits for as long as they live.
        grace: Seconds that the others have once `min_answers` are there; None waits for all within `timeout`.
    """

    min_answers: int
    timeout: float | None = None
    grace: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task.

    Attributes:
        accepted: Sites whose answer was taken, in the order in which they came.
        problems: Why the others have none: by site, in words for people.
    """

    accepted: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict[str, str])


class Sites(Protocol):
    """The sites of a job, as its workflows reach them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Those that can be asked now, in the job's order: a site that has left or failed is not among them."""
        ...

    @property
    def left(self) -> Mapping[str, str]:
        """Those that can't be asked any more, and why."""
        ...

    async def ask(
        self, task: Task, targets: Sequence[str], accept: Callable[[Answer], object], patience: Patience
    ) -> Outcome:
        """Send a task to sites, and take their answers as they come.

        Args:
            task: What to do.
            targets: Which sites.
            accept: Takes an answer; called off the loop, one answer at a time, and the answer is forgotten afterwards,
                so memory doesn't grow with the sites. An `UpdateRefusedError` of its makes its reason that site's
                problem, and the site goes on; any other exception ends the job.
            patience: How long to wait.

        Returns:
            Who answered, and why the others did not. It never raises for what a site does: a site that dies, leaves, is
            late or sends what can't be read has a problem. A late answer is thrown away when it comes, and counted.
        """
        ...


# --- what happens at the server --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoundStarted:
    """A round begins; rounds count from the workflow's `start_round`."""

    round: int
    total_rounds: int


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """One site's part of a round.

    Attributes:
        site: Which one.
        weight: What its update weighs in the average, unscaled.
        metrics: What it measured on the model that it was sent, before it trained.
        steps: How many steps, or samples, it says that it trained; 1 where it doesn't say.
    """

    site: str
    weight: float
    metrics: Mapping[str, Any]
    steps: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class RoundAggregated:
    """A round's updates are averaged.

    Attributes:
        round: Its number.
        sent: The global model that the sites were sent, and that their metrics speak of.
        aggregated: The new global model; its metrics are the weighted mean of the contributions'.
        contributions: One for each site in the average.
    """

    round: int
    sent: FLModel
    aggregated: FLModel
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BestModelFound:
    """A global model is better than all before it.

    Attributes:
        round: The round in whose beginning it was the global model.
        model: The model itself.
        metric: What it was judged by.
        value: How good it is.
        mode: `max` or `min`: whether more or less is better.
    """

    round: int
    model: FLModel
    metric: str
    value: float
    mode: str


@dataclass(frozen=True, slots=True, eq=False)
class ModelValidated:
    """A site has measured a model that is not necessarily its own.

    Attributes:
        site: Who measured it, on whose data.
        model_owner: Whose model: a site's name, or a server model's, such as `SRV_best_FL_global_model.pt`.
        metrics: What was measured: numbers by name, and by class dicts of numbers with a `support`.
    """

    site: str
    model_owner: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SiteProblem:
    """A site gave no answer that counts: it failed, left, is late, or its update was refused."""

    site: str
    task: str
    round: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class StoppedEarly:
    """A workflow ends before its last round, since it is good enough or no longer gets better."""

    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class ComponentProblem:
    """A component could not write what it keeps; the job goes on without it."""

    component: str
    reason: str


ServerEvent = (
    RoundStarted | RoundAggregated | BestModelFound | ModelValidated | SiteProblem | StoppedEarly | ComponentProblem
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Server:
    """What a workflow and its components are given.

    Attributes:
        job: Name of the job.
        folder: The run's folder: models and results go into it.
        app_folder: The folder with the job's own files (`custom/`): relative checkpoints are looked for there.
        seed: Of the run: what is drawn at the server depends on it alone.
        sites: Those that train.
        components: The job's components by id, in its order.
        writer: Logs to the server's own run; None where it has none: see `JobPlan.global_metrics`. It is one that
            counts bad input, as sites choose the names of their metrics.
        in_thread: Runs a blocking call off the loop.
        tell: Takes every event, after the components have, from any thread: for a progress view. It must be quick, and
            not raise.
    """

    job: str
    folder: Path
    app_folder: Path
    seed: int
    sites: Sites
    components: Mapping[str, object]
    writer: TrackingWriter | None
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]]
    tell: Callable[[ServerEvent], object] = lambda _: None

    async def notify(self, event: ServerEvent) -> None:
        """Have every component hear an event, in the job's order, off the loop; then tell it to who looks on."""
        await self.in_thread(lambda: self.hear(event))

    def hear(self, event: ServerEvent) -> None:
        """Do what `notify` does, where one is off the loop already: in what accepts a site's answer."""
        pending = deque([event])
        while pending:
            event = pending.popleft()
            for name, component in self.components.items():
                if isinstance(component, Component) and (found := self._have_heard(name, component, event)):
                    pending.append(found)
            self.tell(event)

    def _have_heard(self, name: str, component: Component, event: ServerEvent) -> ServerEvent | None:
        try:
            return component.handle(event, self)
        except OSError as error:  # a full disk need not end the training; what is lost is told
            _logger.warning("component %r could not do its work: %s", name, error)
            self.tell(ComponentProblem(name, str(error)))
            return None

    def component(self, component_id: str, kind: type[T]) -> T:
        """Return a component of the job.

        Raises:
            JobError: There is none of that id, or it is of another kind; the message names those there are.
        """
        from training.errors import JobError

        found = self.components.get(component_id)
        if isinstance(found, kind):
            return found
        known = ", ".join(f"{key} ({type(one).__name__})" for key, one in self.components.items()) or "none"
        raise JobError(f"there is no {kind.__name__} with the id {component_id!r} at the server; there are: {known}")


class Component:
    """Base of what listens at the server: model selector, persistor, result writer, your own.

    Its `handle` is called off the loop, one event at a time. What it raises ends the job, unless it is an `OSError`:
    that is told as a `ComponentProblem`, and the job goes on.
    """

    def handle(self, event: ServerEvent, server: Server) -> ServerEvent | None:
        """Hear an event, and return what follows from it, which all components hear next; None if nothing does."""


class ModelPersistor(Component, ABC):
    """Loads the model that a job begins with, and keeps the one that it ends with; all of it off the loop."""

    @abstractmethod
    def load_model(self, server: Server) -> FLModel:
        """Return the first global model: whole weights, torch tensors on the CPU.

        Raises:
            JobError: There is none, or it can't be read.
        """

    @abstractmethod
    def save_model(self, model: FLModel, server: Server) -> None:
        """Keep a global model in place of the one before.

        Raises:
            OSError: It can't be written; the one before is still there.
        """


class ModelLocator(Component, ABC):
    """Finds models of the server that sites are to evaluate; all of it off the loop."""

    @abstractmethod
    def get_model_names(self, server: Server) -> list[str]:
        """Return the names of the models there are."""

    @abstractmethod
    def locate_model(self, model_name: str, server: Server) -> FLModel:
        """Return a model: whole weights, torch tensors on the CPU.

        Raises:
            JobError: There is none of that name, or it can't be read.
        """


class ModelAggregator(ABC):
    """Makes one model out of those that the sites send, in your own way; given to `FedAvg` as its `aggregator`.

    It is called off the loop, one model at a time. Params are torch tensors on the CPU.
    """

    @abstractmethod
    def accept_model(self, model: FLModel) -> None:
        """Take a site's model; its name is `model.meta["site_name"]`, what was measured `model.metrics`.

        Raises:
            UpdateRefusedError: The model can't be used: that is the site's problem, and the round goes on.
        """

    @abstractmethod
    def aggregate_model(self) -> FLModel:
        """Return what the models of this round come to: whole weights, or with `ParamsType.DIFF` what is to be added.

        What it leaves out of `params` stays as it was.
        """

    @abstractmethod
    def reset_stats(self) -> None:
        """Forget what was taken: a round begins."""

    def info(self, message: str) -> None:
        """Log what people may want to know."""
        _logger.info("%s", message)

    def warning(self, message: str) -> None:
        """Log what people ought to look at."""
        _logger.warning("%s", message)

    def error(self, message: str) -> None:
        """Log what went wrong."""
        _logger.error("%s", message)


class Workflow(ABC):
    """What the server does: FedAvg, cross-site evaluation, your own. A job's workflows run one after another."""

    @abstractmethod
    async def run(self, server: Server) -> None:
        """Do all of it.

        Raises:
            RoundFailedError: Fewer sites answered than the workflow needs; the message says why each of the others
                did not.
        """
