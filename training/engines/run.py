"""Runs a job on this machine: the server in this process, each site's script in a process of its own."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import threading
import time
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread
import msgspec

from eventbus import EventBus, Relay, Scope
from eventbus.errors import TrackbusError
from eventbus.tracking import TRACKING
from eventbus.workspace import ENVIRONMENT as BUS
from eventbus.workspace import SERVER, check_name, name_from
from training._wire import ENVIRONMENT as CLIENT
from training._wire import LinkAddress
from training.abc import ComponentProblem, Server, ServerEvent, SiteProblem
from training.engines.gpus import gpu_groups
from training.engines.link import Guest, open_door
from training.engines.orders import Spawn
from training.engines.processes import open_nursery, start_ahead
from training.engines.script import command_of
from training.engines.site import Home, Site
from training.engines.sites import SiteGroup
from training.errors import JobError
from training.plan import JobPlan, JobResult, SitePlan
from writers import TrackingWriter
from writers.system import SYSTEM_METRICS, SystemMetrics

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

SEED = "TRACKBUS_SEED"
"""Environment variable of scripts: the job's seed."""

OF_RANKS = frozenset(
    (
        *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME"),
        *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    )
)
"""Environment variables of launchers such as torchrun."""

FOR_SCRIPTS = ("numpy", "writers", "training.client")
FOR_TORCH_SCRIPTS = ("torch", "torch.optim", "torch._dynamo")
"""What a script imports first of all: loaded once, before it is forked. The first optimizer imports torch._dynamo."""

IN_THREAD = 4
"""Blocking calls of workflows and components that run at the same time."""

_logger = logging.getLogger("trackbus.engines")


async def run_job(
    plan: JobPlan,
    workspace: Path,
    *,
    threads: int | None = None,
    gpu: str | None = None,
    tell: Callable[[ServerEvent], object] = lambda _: None,
) -> JobResult:
    """Run a job to its end.

    A cancellation ends it: its processes are gone, what was logged is stored, and runs end KILLED. In the main thread
    SIGTERM does the same, and then what it does by default, unless the program handles it.

    Args:
        plan: The job.
        workspace: Folder of the run, made if missing: models, results, journals, and `sites/<site>/` with the same
            and with `log.txt`, what the site's script prints. A script runs in its site's folder.
        threads: How many sites may work at a task at the same time; all by default.
        gpu: Graphics cards for the sites in turn; see `gpu_groups`.
        tell: Takes what happens at the server while it happens; it must be quick. What it raises is logged.

    Returns:
        What it did; also when it ended early, and why.
    """
    return await _Job(plan, Path.cwd() / workspace, threads or max(1, len(plan.sites)), tell).run(gpu)


def prepare() -> None:
    """Begin to load what scripts with torch want, for a `run_job` that follows.

    Loading torch takes seconds, in a process of its own as in the caller's: so let both begin as early as they can. A
    job whose scripts want something else ends what was begun.
    """
    start_ahead((*FOR_SCRIPTS, *FOR_TORCH_SCRIPTS))


class _Job:
    def __init__(self, plan: JobPlan, workspace: Path, threads: int, tell: Callable[[ServerEvent], object]) -> None:
        self._plan = plan
        self._workspace = workspace
        self._threads = threads
        self._tell = tell
        self._buses: dict[str, EventBus] = {}
        self._sites: list[Site] = []
        self._problems: dict[str, list[str]] = {}
        self._limiter = anyio.CapacityLimiter(IN_THREAD)
        self._moments = {"begin": time.perf_counter()}
        self._is_terminated = False

    async def run(self, gpu: str | None) -> JobResult:
        error = ""
        async with anyio.create_task_group() as tasks:
            if _may_heed_sigterm():
                tasks.start_soon(self._heed_sigterm, tasks.cancel_scope)
            try:
                await self._run_at_server(self._checked(gpu))
            except Exception as failure:  # noqa: BLE001 - border: a job's end, whatever it is, is told in its result
                error = _told(failure)
            tasks.cancel_scope.cancel()
        if self._is_terminated:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._result(error)

    async def _heed_sigterm(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                self._is_terminated = True
                break
        scope.cancel()  # a second SIGTERM does what it does by default

    def _checked(self, gpu: str | None) -> tuple[str, ...]:
        names = [site.name for site in self._plan.sites]
        for name in names:
            check_name("site", name)
        if not names or len(set(names)) < len(names) or SERVER in names:
            raise JobError(f"the sites {names} can't be: there must be one, each once, and none is called {SERVER!r}")
        return gpu_groups(gpu)

    async def _run_at_server(self, gpus: tuple[str, ...]) -> None:
        plan = self._plan
        job = name_from(plan.name)
        async with EventBus(self._workspace, site=SERVER, job=job, run=plan.run) as bus:
            self._buses[SERVER] = bus
            for receiver in plan.receivers:
                bus.subscribe(TRACKING, receiver)
            failure = await self._run_with_sites(bus, gpus)
            if failure:
                raise failure

    async def _run_with_sites(self, bus: EventBus, gpus: tuple[str, ...]) -> Exception | None:
        """Run the workflows beside the sites; return what has ended them, so that no group of tasks wraps it up."""
        failure: Exception | None = None
        async with _open_home(self._plan) as home, anyio.create_task_group() as tasks:
            self._sites = [self._make_site(index, home, bus, gpus) for index in range(len(self._plan.sites))]
            group = self._group()
            for site in self._sites:
                tasks.start_soon(self._run_site, site, bus)
            try:
                await self._run_workflows(group, bus)
            except Exception as error:  # noqa: BLE001 - border: a workflow's or component's; it is raised again outside
                failure = error
            self._note("over")
            for site in self._sites:
                site.end("" if failure is None else f"the job has failed: {failure}")
        return failure

    async def _run_workflows(self, group: SiteGroup, bus: EventBus) -> None:
        plan = self._plan
        server = Server(
            job=plan.name,
            folder=self._workspace,
            app_folder=plan.app_folder,
            seed=plan.seed,
            sites=group,
            components=plan.components,
            writer=self._writer(bus),
            in_thread=self._in_thread,
            tell=self._hear,
        )
        for workflow in plan.workflows:
            await workflow.run(server)

    def _writer(self, bus: EventBus) -> TrackingWriter | None:
        """Return what logs to the server's own run, where it has one."""
        if not (self._plan.receivers and self._plan.global_metrics):
            return None
        writer = TrackingWriter(bus=bus, on_bad_input="count")
        if self._plan.system_metrics:
            SystemMetrics(writer, self._plan.system_metrics).start()
        return writer

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await anyio.to_thread.run_sync(call, limiter=self._limiter)

    # --- sites ----------------------------------------------------------------------------------------------------

    def _group(self) -> SiteGroup:
        return SiteGroup(
            self._sites,
            min_sites=self._plan.min_sites,
            threads=self._threads,
            report=self._add_problem,
            moved=self._note,
        )

    def _hear(self, event: ServerEvent) -> None:
        """Keep what went wrong, and pass everything on."""
        if isinstance(event, SiteProblem):
            self._add_problem(event.site, event.reason)
        elif isinstance(event, ComponentProblem):
            self._add_problem(SERVER, f"{event.component}: {event.reason}")
        try:
            self._tell(event)
        except Exception:  # border: whoever looks on never ends the job
            _logger.exception("an event of the job could not be shown: %s", type(event).__name__)

    def _add_problem(self, site: str, reason: str) -> None:
        reasons = self._problems.setdefault(site, [])
        if reason not in reasons:
            reasons.append(reason)

    def _make_site(self, index: int, home: Home, server: EventBus, gpus: tuple[str, ...]) -> Site:
        plan = self._plan.sites[index]
        folder = self._folder_of(plan.name)
        bus = EventBus(
            folder,
            site=plan.name,
            job=server.job,
            run=server.run,
            scope=Scope.FEDERATED if self._plan.receivers else Scope.LOCAL,
        )
        self._buses[plan.name] = bus
        environment = {
            BUS: msgspec.json.encode(bus.address).decode(),
            SEED: str(self._plan.seed),
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": str(self._torch_threads),
        }
        if self._plan.system_metrics:
            environment[SYSTEM_METRICS] = str(self._plan.system_metrics)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        order = partial(self._order, plan, folder, environment, home.door.path)
        return Site(plan, home, order, folder / "log.txt")

    def _folder_of(self, site: str) -> Path:
        return self._workspace / "sites" / site

    @property
    def _torch_threads(self) -> int:
        return max(1, len(os.sched_getaffinity(0)) // min(self._threads, len(self._plan.sites)))

    def _order(self, plan: SitePlan, folder: Path, environment: dict[str, str], socket: str, guest: Guest) -> Spawn:
        """Return the order for a process of a site's script."""
        address = LinkAddress(socket=socket, token=guest.token, site=plan.name, job=self._plan.name)
        script = plan.script
        search_path = tuple(str(one) for one in plan.search_path)
        more = {CLIENT: msgspec.json.encode(address).decode()}
        if script.command:
            more["PYTHONPATH"] = os.pathsep.join(filter(None, (*search_path, os.environ.get("PYTHONPATH"))))
            more["PYTHONUNBUFFERED"] = "1"  # the last lines say why it was killed
        return Spawn(
            script=str(script.script),
            args=script.args,
            command=command_of(script.command, script.script, script.args),
            search_path=search_path,
            folder=str(folder),
            log=str(folder / "log.txt"),
            environment=_own_environment() | environment | more,
            threads=self._torch_threads,
            seed=site_seed(self._plan.seed, plan.name),
        )

    async def _run_site(self, site: Site, server: EventBus) -> None:
        """Run a site within its bus: what it has logged is stored once its script has ended."""
        try:
            self._folder_of(site.name).mkdir(
                parents=True, exist_ok=True
            )  # its script runs there, also where no bus records
            async with self._buses[site.name] as bus:
                if self._plan.receivers:
                    bus.subscribe(TRACKING.federated, Relay(server))
                for receiver in site.plan.receivers:
                    bus.subscribe(TRACKING, receiver)
                await site.run()
        except Exception as error:  # noqa: BLE001 - border: what a site's bus or link raises is its site's problem
            site.leave(_told(error))
        for reason in site.complaints:
            self._add_problem(site.name, reason)
        if site.failure:
            self._add_problem(site.name, site.failure)

    # --- figures --------------------------------------------------------------------------------------------------

    def _note(self, moment: str) -> None:
        """Note the time of the job's first `sent` and of its last `answered` and `over`."""
        if moment != "sent" or moment not in self._moments:
            self._moments[moment] = time.perf_counter()

    def _result(self, error: str) -> JobResult:
        server = self._buses.get(SERVER)
        return JobResult(
            folder=self._workspace,
            run=server.run if server else self._plan.run or "",
            error=error,
            problems=self._problems,
            reports={name: bus.report() for name, bus in self._buses.items()},
            seconds=self._seconds(time.perf_counter()),
        )

    def _seconds(self, now: float) -> dict[str, float]:
        begin = self._moments["begin"]
        sent = self._moments.get("sent", now)
        answered = self._moments.get("answered", sent)
        return {"start": sent - begin, "training": answered - sent, "end": now - answered}


def site_seed(seed: int, site: str) -> int:
    """Return the seed of a site's random states: 63 bits that the job's seed and the site's name decide."""
    digest = hashlib.sha256(f"{seed}/{site}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _own_environment() -> dict[str, str]:
    """Return this process's environment, but for what a launcher has told it alone: a script has ranks of its own."""
    return {name: value for name, value in os.environ.items() if name not in OF_RANKS and "TORCHELASTIC" not in name}


def _may_heed_sigterm() -> bool:
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@asynccontextmanager
async def _open_home(plan: JobPlan) -> AsyncGenerator[Home]:
    async with open_nursery(_modules(plan)) as nursery, open_door() as door:
        yield Home(plan.name, nursery, door)


def _modules(plan: JobPlan) -> tuple[str, ...]:
    forked = [site.script for site in plan.sites if not site.script.command]
    wants_torch = any(script.params_format == "pytorch" for script in forked)
    return (*(FOR_SCRIPTS if forked else ()), *(FOR_TORCH_SCRIPTS if wants_torch else ()))


def _told(failure: Exception) -> str:
    """Return why a job has ended, for people; what is no error of ours is a defect in somebody's component."""
    failure = _only(failure)
    if isinstance(failure, TrackbusError):
        return str(failure)
    _logger.error("the job has failed", exc_info=failure)
    return f"{type(failure).__name__}: {failure}".removesuffix(": ")


def _only(failure: Exception) -> Exception:
    """Take an error out of groups in which it is alone."""
    inner = cast("tuple[Exception, ...]", getattr(failure, "exceptions", ()))
    return _only(inner[0]) if len(inner) == 1 else failure
