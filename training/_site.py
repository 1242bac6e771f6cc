"""A site of a federation: what it logs, and its rounds in threads of this process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread
import torch
from torch.optim import SGD

from eventbus import Receipt, Scope
from training._plan import FederationConfig, SiteReady, StepDone
from training.average import ModelUpdate
from training.data import DataSpec
from training.loop import EpochResult, EvalResult, StepResult, evaluate, round_generator, train_epoch, warm_up
from training.model import build_model, get_state, load_state
from writers import MLflowWriter, SummaryWriter, WandBWriter
from writers.system import SystemMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventbus import EventBus
    from training._plan import Progress
    from training.data import Dataset
    from training.model import State


class SiteWorker(Protocol):
    """The seam between a federation and its engines: one site's work, wherever it is done."""

    async def train(self, state: State, round_number: int) -> ModelUpdate:
        """Train on from the global model, and hand back what came of it.

        Args:
            state: The global model. Others hold it too: never write into it.
            round_number: The round, from 0.
        """
        ...


class RunLog(Protocol):
    """Where a site or the server logs its run. Legal from any thread."""

    def describe(self, params: Mapping[str, object], tags: Mapping[str, str]) -> Receipt | None:
        """Log what is set once."""
        ...

    def measure(self, name: str, result: StepResult | EpochResult | EvalResult, step: int) -> None:
        """Log loss and accuracy as `<name>/loss` and `<name>/accuracy`."""
        ...


class NoLog:
    """Logs nothing: what training costs without any tracking."""

    def describe(self, params: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Log nothing."""

    def measure(self, name: str, result: StepResult | EpochResult | EvalResult, step: int) -> None:
        """Log nothing."""


class TrackedLog:
    """Logs to a bus with three look-alikes at once: each of them fills every tracker.

    Args:
        bus: The bus.
        scope: How far it travels.
        system_metrics: Seconds between two samples of what the machine does; 0 for none.
    """

    def __init__(self, bus: EventBus, scope: Scope, system_metrics: float = 0.0) -> None:
        self._mlflow = MLflowWriter(bus=bus, scope=scope)
        if system_metrics:
            SystemMetrics(self._mlflow, system_metrics).start()
        self._wandb = WandBWriter(bus=bus, scope=scope)
        self._tensorboard = SummaryWriter(bus=bus, scope=scope)

    def describe(self, params: Mapping[str, object], tags: Mapping[str, str]) -> Receipt:
        """Log what is set once, as a script for MLflow does."""
        self._mlflow.set_tags(dict(tags))
        return self._mlflow.log_params(dict(params))

    def measure(self, name: str, result: StepResult | EpochResult | EvalResult, step: int) -> None:
        """Log steps as a script for W&B does, in one record, and what is rarer as one for TensorBoard."""
        if isinstance(result, StepResult):
            self._wandb.log({f"{name}/loss": result.loss, f"{name}/accuracy": result.accuracy}, step=step)
            return
        self._tensorboard.add_scalar(f"{name}/loss", result.loss, step)
        self._tensorboard.add_scalar(f"{name}/accuracy", result.accuracy, step)


@dataclass(frozen=True, slots=True)
class Site:
    """What a site is given to work with.

    Attributes:
        name: Its name.
        index: Its number, from 0: which share of the data is its own.
        config: The federation's settings.
        log: Where it logs.
        tell: Takes the facts that a progress view shows, from any thread.
        should_stop: Asked before each step: true once nobody waits for the result any more.
        threads: Bounds how many sites train at the same time.
    """

    name: str
    index: int
    config: FederationConfig
    log: RunLog
    tell: Callable[[Progress], object]
    should_stop: Callable[[], bool]
    threads: anyio.CapacityLimiter


async def make_local_site(site: Site) -> SiteWorker:
    """Make a site whose steps run in threads of this process: as fast as torch leaves the GIL alone.

    Returns:
        It is ready: it has its data, and what a process's first step costs is paid.
    """
    data = await anyio.to_thread.run_sync(_prepare, site, limiter=site.threads)
    return LocalSite(site, data)


def _prepare(site: Site) -> Dataset:
    torch.set_num_threads(1)  # it counts per thread; more of them fight over the cores and are up to 16 x slower
    warm_up()
    return data_spec(site.config, site.index).load()


def data_spec(config: FederationConfig, index: int) -> DataSpec:
    """Return what the site of that number, from 0, is to load."""
    root = None if config.data_root is None else str(config.data_root.absolute())
    return DataSpec(index, config.sites, config.dataset, config.seed, config.partition, root)


class LocalSite:
    """Trains its share of the data, one round at a time; see `make_local_site`."""

    def __init__(self, site: Site, data: Dataset) -> None:
        self._site = site
        self._data = data
        self._model = build_model(site.config.seed, data.classes)
        self._steps_per_epoch = math.ceil(len(data.train) / site.config.batch_size)
        epochs = site.config.rounds * site.config.local_epochs
        site.log.describe({"samples": len(data.train)}, {"engine": "local"})
        site.tell(SiteReady(site.name, epochs * self._steps_per_epoch))

    async def train(self, state: State, round_number: int) -> ModelUpdate:
        """Train the round's epochs in a thread, then measure the model on the data that all sites test on."""
        update = await anyio.to_thread.run_sync(self._train, state, round_number, limiter=self._site.threads)
        await anyio.lowlevel.checkpoint_if_cancelled()  # a stopped round has no result
        return update

    def _train(self, state: State, round_number: int) -> ModelUpdate:
        torch.set_num_threads(1)
        config, name = self._site.config, self._site.name
        load_state(self._model, state)
        optimizer = SGD(self._model.parameters(), config.learning_rate, config.momentum)
        generator = round_generator(config.seed, name, round_number)
        epochs = range(round_number * config.local_epochs, (round_number + 1) * config.local_epochs)
        results = [self._train_epoch(epoch, optimizer, generator) for epoch in epochs]
        return ModelUpdate(
            name, get_state(self._model), len(self._data.train), self._validate(round_number, results[-1])
        )

    def _train_epoch(self, epoch: int, optimizer: SGD, generator: torch.Generator) -> EpochResult:
        result = train_epoch(
            self._model,
            self._data.train,
            optimizer,
            batch_size=self._site.config.batch_size,
            generator=generator,
            on_step=lambda step: self._note(step, epoch * self._steps_per_epoch + step.step),
            should_stop=self._site.should_stop,
        )
        if not result.stopped:
            self._site.log.measure("epoch", result, epoch)
        return result

    def _note(self, result: StepResult, step: int) -> None:
        is_last = result.step == self._steps_per_epoch - 1
        if is_last or result.step % self._site.config.log_every == 0:
            self._site.log.measure("train", result, step)
            self._site.tell(StepDone(self._site.name, step + 1, result.loss))

    def _validate(self, round_number: int, epoch: EpochResult) -> dict[str, float]:
        if epoch.stopped:
            return {}
        result = evaluate(self._model, self._data.test)
        self._site.log.measure("validation", result, round_number)
        return {
            "loss": epoch.loss,
            "accuracy": epoch.accuracy,
            "validation_loss": result.loss,
            "validation_accuracy": result.accuracy,
        }
