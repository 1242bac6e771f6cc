"""Federated averaging over sites in one process, every number of which is tracked.

Each site is a coroutine with a bus of its own in `<workspace>/sites/<site>`; its steps run in a thread, so the loop
stays free. A relay carries what the sites log to the server's bus, and the trackers are subscribed there. So this is
the shape of a federation over many machines, on one.

    result = await run_federation(FederationConfig(workspace="runs/exp1"), receivers=[TensorBoardReceiver()])

What is logged at which step stands in `FederationConfig`'s module, `training._plan`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar, cast

import anyio
import anyio.to_thread
import torch

from eventbus import EventBus, Receipt, Relay, Report, Scope
from eventbus.errors import NotDeliveredError, TrackbusError
from eventbus.tracking import TRACKING
from eventbus.workspace import SERVER
from receivers import Receiver
from training._plan import (
    DataDealt,
    FederationConfig,
    FederationResult,
    Progress,
    RoundDone,
    RoundMetrics,
    RunResumed,
    SiteReady,
    StepDone,
    TrainingDone,
)
from training._resume import LastRound
from training._server import Server, last_round
from training._site import LocalSite, NoLog, RunLog, Site, SiteWorker, TrackedLog, data_spec, make_local_site
from training.average import ModelUpdate
from training.checkpoint import BestModel
from training.data import Dataset
from training.model import State
from training.trackers import Account, settle_accounts

__all__ = [
    "DataDealt",
    "Federation",
    "FederationConfig",
    "FederationResult",
    "LocalSite",
    "Progress",
    "RoundDone",
    "RoundMetrics",
    "RunResumed",
    "Site",
    "SiteFailedError",
    "SiteMaker",
    "SiteReady",
    "SiteWorker",
    "StepDone",
    "TrainingDone",
    "make_local_site",
    "run_federation",
]

SWITCH_SECONDS = 0.0005
"""How long a site's thread may keep the others from Python: at the usual 5 ms a log call waits longer than it works."""

SiteMaker = Callable[[Site], Awaitable[SiteWorker]]
"""Makes a site's worker; it is ready to train when this returns."""

T = TypeVar("T")


class SiteFailedError(TrackbusError, RuntimeError):
    """Raised when a site could not do its work; its run is FAILED, those of the other sites are KILLED.

    Attributes:
        site: Which one; the cause is this error's own cause.
    """

    def __init__(self, site: str, cause: BaseException) -> None:
        """Name the site first: that is what people ask."""
        super().__init__(f"{site} failed: {type(cause).__name__}: {cause}".removesuffix(": "))
        self.site = site


async def run_federation(
    config: FederationConfig,
    *,
    receivers: Sequence[Receiver] = (),
    tracking: bool = True,
    make_site: SiteMaker = make_local_site,
    on_progress: Callable[[Progress], object] = lambda _: None,
) -> FederationResult:
    """Train a model at several sites, and track it.

    Args:
        config: What to train.
        receivers: Trackers to fill, subscribed at the server.
        tracking: False trains the same without a bus and without a log: what tracking costs is the difference.
        make_site: Makes each site's worker.
        on_progress: Takes what happens while it happens, from any thread; it must be quick, and not raise.

    Raises:
        SiteFailedError: A site could not do its work.
        ConfigurationError: The data set is not there, it can't be shared out so, or there is no such run to resume.
        MissingExtraError: The data set's package is not installed.
        WorkspaceError: The workspace can't be written.
        UpdateRefusedError: A site's model has a NaN or an infinity in it: a lower learning rate may help.
    """
    federation = Federation(
        config, receivers=receivers, tracking=tracking, make_site=make_site, on_progress=on_progress
    )
    return await federation.run()


class Federation:
    """One federated training; see `run_federation`. What it did can be asked also when it failed."""

    def __init__(
        self,
        config: FederationConfig,
        *,
        receivers: Sequence[Receiver] = (),
        tracking: bool = True,
        make_site: SiteMaker = make_local_site,
        on_progress: Callable[[Progress], object] = lambda _: None,
    ) -> None:
        self.config = config
        self._receivers = tuple(receivers)
        self._tracking = tracking
        self._make_site = make_site
        self._tell = on_progress
        self._threads = anyio.CapacityLimiter(config.sites)  # anyio's own is shared with files and receivers
        self._stop = threading.Event()
        self._buses: dict[str, EventBus] = {}

    def reports(self) -> dict[str, Report]:
        """Return what became of the events on each bus, by site; final once `run` has ended, also by an error."""
        return {site: bus.report() for site, bus in self._buses.items()}

    def accounts(self) -> tuple[Account, ...]:
        """Return what became of each site's events in each tracker; final once `run` has ended, also by an error."""
        server = self._buses.get(SERVER)
        return () if server is None else settle_accounts(self._buses, self._receivers, server)

    async def run(self) -> FederationResult:
        """Train all rounds.

        Raises:
            SiteFailedError: A site could not do its work.
        """
        threads, interval = torch.get_num_threads(), sys.getswitchinterval()
        torch.set_num_threads(1)
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            data = await self._in_thread(self._load)  # what is wrong with the data shows before a run begins
            last = await self._in_thread(last_round, self.config)
            trained = await self._train(data, last)
        finally:
            torch.set_num_threads(threads)
            sys.setswitchinterval(interval)
        return self._result(trained)

    def _load(self) -> Dataset:
        spec = data_spec(self.config, 0)
        self._tell(DataDealt(dict(zip(self.config.site_names, spec.histograms(), strict=True))))
        return spec.load()

    async def _train(self, data: Dataset, last: LastRound | None) -> _Trained:
        async with self._open_bus(SERVER, last.run if last else self.config.run) as bus:
            server = Server(self.config, data, self._log_on(bus, Scope.LOCAL), bus.run if bus else "", last)
            await self._in_thread(server.keep)
            if last:
                self._tell(RunResumed(last.run, last.completed))
            async with self._sites() as links:
                for link in links:
                    await link.ready.wait()
                waited = await self._wait_for_trackers(server.describe())
                return await self._train_rounds(links, server, waited)

    @asynccontextmanager
    async def _open_bus(self, site: str, run: str | None) -> AsyncGenerator[EventBus | None]:
        """Open a site's bus on its workspace; None where nothing is tracked."""
        if not self._tracking:
            yield None
            return
        server = self._buses.get(SERVER)
        folder = self.config.workspace / "sites" / site if server else self.config.workspace
        async with EventBus(folder, site=site, job=self.config.name, run=run or None) as bus:
            self._buses[site] = bus
            if server:
                bus.subscribe(TRACKING.federated, Relay(server))
            for receiver in () if server else self._receivers:
                bus.subscribe(TRACKING, receiver)
            yield bus

    @asynccontextmanager
    async def _sites(self) -> AsyncGenerator[list[_Link]]:
        """Run the sites beside the body; whatever ends the body ends the steps in the threads too."""
        links = [_Link(index, name) for index, name in enumerate(self.config.site_names)]
        with _closing(links), _one_error():
            async with anyio.create_task_group() as tasks:
                for link in links:
                    tasks.start_soon(self._run_site, link)
                try:
                    yield links
                finally:
                    self._stop.set()
                for link in links:
                    link.orders.close()  # no more orders: the sites' runs are FINISHED

    async def _run_site(self, link: _Link) -> None:
        try:
            run = self._buses[SERVER].run if self._tracking else None
            async with self._open_bus(link.name, run) as bus:
                log = self._log_on(bus, Scope.FEDERATED)
                log.describe(self.config.params(), {"role": "site"})
                await self._work(link, log)
        except Exception as error:  # border: whatever a site's work raises is told under its name
            raise SiteFailedError(link.name, error) from error

    async def _work(self, link: _Link, log: RunLog) -> None:
        """Serve the orders of the server until there are no more."""
        site = Site(link.name, link.index, self.config, log, self._tell, self._stop.is_set, self._threads)
        worker = await self._make_site(site)
        link.ready.set()
        async for order in link.inbox:
            await link.outbox.send(await worker.train(order.state, order.round))

    async def _wait_for_trackers(self, receipt: Receipt | None) -> float:
        started = time.perf_counter()
        if receipt and self._receivers and self.config.ready_timeout:
            with suppress(NotDeliveredError):  # slow trackers cost no more than what was allowed
                await receipt.delivered(self.config.ready_timeout)
        return time.perf_counter() - started

    async def _train_rounds(self, links: list[_Link], server: Server, waited: float) -> _Trained:
        rounds: list[RoundMetrics] = []
        started = answered = time.perf_counter()
        for round_number in range(server.completed, self.config.rounds):
            updates = await _ask_all(links, _Order(round_number, server.state()))
            answered = time.perf_counter()
            rounds.append(await self._in_thread(server.conclude, round_number, updates))
            self._tell(RoundDone(rounds[-1]))
        server.describe_best()
        self._tell(TrainingDone(answered - started))
        return _Trained(tuple(rounds), server.best, server.improved, answered - started, waited)

    def _log_on(self, bus: EventBus | None, scope: Scope) -> RunLog:
        return NoLog() if bus is None else TrackedLog(bus, scope, self.config.system_metrics)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await anyio.to_thread.run_sync(function, *args, limiter=self._threads)

    def _result(self, trained: _Trained) -> FederationResult:
        server = self._buses.get(SERVER)
        return FederationResult(
            run=server.run if server else "",
            rounds=trained.rounds,
            best=trained.best.best,
            best_path=trained.best.path,
            best_is_new=trained.best_is_new,
            training_seconds=trained.training_seconds,
            ready_seconds=trained.ready_seconds,
            reports=self.reports(),
            accounts=self.accounts(),
        )


@dataclass(frozen=True, slots=True)
class _Trained:
    rounds: tuple[RoundMetrics, ...]
    best: BestModel
    best_is_new: bool
    training_seconds: float
    ready_seconds: float


# --- between the server and its sites ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Order:
    round: int
    state: State


class _Link:
    """What connects a site's coroutine with the server's."""

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name
        self.ready = anyio.Event()
        self.orders, self.inbox = anyio.create_memory_object_stream[_Order]()
        self.outbox, self.answers = anyio.create_memory_object_stream[ModelUpdate](1)

    def close(self) -> None:
        for end in (self.orders, self.inbox, self.outbox, self.answers):
            end.close()


@contextmanager
def _closing(links: Sequence[_Link]) -> Generator[None]:
    try:
        yield
    finally:
        for link in links:
            link.close()


async def _ask_all(links: Sequence[_Link], order: _Order) -> list[ModelUpdate]:
    """Let all sites train a round at the same time; the answers are in the order of the sites."""
    updates: dict[str, ModelUpdate] = {}

    async def ask(link: _Link) -> None:
        await link.orders.send(order)
        updates[link.name] = await link.answers.receive()

    async with anyio.create_task_group() as tasks:
        for link in links:
            tasks.start_soon(ask, link)
    return [updates[link.name] for link in links]


@contextmanager
def _one_error() -> Generator[None]:
    """Let one error out of a task group, without the group: that of the first site that failed, if one did."""
    try:
        yield
    except BaseExceptionGroup as group:
        found = _first(group.subgroup(SiteFailedError) or group)
        raise found from found.__cause__


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
