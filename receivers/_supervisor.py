"""The parent half: starts a worker, watches it, ends it, starts it again. It never touches the data.

The law of the shutdown: order to drain, wait for the worker's word or the bus's deadline, SIGTERM, `TERM_SECONDS`,
SIGKILL to its process group and to the processes that its SDK started, wait until all are gone.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.to_thread
import msgspec
from msgspec.structs import replace

from receivers import _processes
from receivers._alarm import Alarm
from receivers._control import (
    Beat,
    Buried,
    Done,
    Failed,
    Inbox,
    LeftOut,
    Lost,
    News,
    Opened,
    Phase,
    Settled,
    Start,
    Unavailable,
    decode_news,
    pack,
)
from receivers._joint import Told, new_orders
from receivers._watch import Health, Watch, WorkerPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from eventbus.abc import Cursor
    from receivers._control import Order
    from receivers._joint import Joint, Latch

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

TERM_SECONDS = 2.0
"""Grace between SIGTERM and SIGKILL."""

CHECK_SECONDS = 0.25
"""How often deadlines are looked at."""

PATIENT_ATTEMPTS = 3
"""A drain waits for a worker that starts, but not for one that was started in vain so often."""

GONE_SECONDS = 5.0
"""How long a killed process may take to disappear: one that waits for a dead disk takes for ever."""

POLL_SECONDS = 0.02
"""How often an ending process is looked at."""

DIED = "died"
"""Why a worker is lost that said nothing; how it died is told with it."""

ORDERED_EXITS = (-signal.SIGTERM, 128 + signal.SIGTERM)
"""Exit codes of a worker that somebody told to end: no event did."""

_logger = logging.getLogger("trackbus.receivers")


class Supervisor:
    """Keeps one worker delivering until its buses have drained.

    Args:
        feed: The buses that it works for.
        make_start: Makes the start order.
        environment: What the worker's environment needs beyond the parent's.
        policy: Deadlines.
        health: Where it writes what it knows.
        ready: Set when a worker has looked into the journal.
        python: Interpreter of the worker.
    """

    def __init__(
        self,
        feed: Joint,
        make_start: Callable[[], Start],
        environment: Mapping[str, str],
        policy: WorkerPolicy,
        *,
        health: Health,
        ready: Latch,
        python: str = sys.executable,
    ) -> None:
        self._feed = feed
        self._make_start = make_start
        self._environment = environment
        self._policy = policy
        self._health = health
        self._python = python
        self._done = False
        self._ready = ready
        self._told = Told(set())
        self._cursor: Cursor = {}
        self._lost: Lost | None = None
        self._threads = anyio.CapacityLimiter(1)

    async def run(self) -> None:
        """Start workers until one has drained."""
        self._alarm = Alarm(self._feed.name, self._feed.tell)
        while not self._done:
            try:
                reason = await self._run_worker(self._make_start())
            except Exception as error:  # border: no process, descriptor, thread: the next try may find some
                _logger.exception("the worker of %s can't be run", self._feed.name)
                reason = f"can't be started: {error}"
            if reason is not None:
                _logger.warning("the worker of %s %s; it is started again", self._feed.name, reason)
                self._health.fail(reason)
                self._health.restarts += 1
                await self._back_off(self._alarm.lose(reason, self._health.restarts, hurried=self._feed.draining))
        self._health.state = "drained"

    async def _back_off(self, pause: float) -> None:
        """Wait before the next start, but not when the drain begins meanwhile: its time is short."""
        self._health.state = self._alarm.state or "waiting to start again"
        drained_before = self._feed.draining
        with anyio.move_on_after(pause):
            while self._feed.draining == drained_before:
                await self._feed.wait_for_orders(pause)

    async def _run_worker(self, start: Start) -> str | None:
        """Run one worker to its end; return why it was lost, or None when it has drained."""
        start = replace(start, lost=self._lost, failures=self._alarm.circuit.failures)
        name = secrets.token_hex(8)
        self._lost = None
        self._alarm.begin()
        async with self._worker(start, name) as (process, ours):
            watch = Watch(self._policy, phase_since=time.monotonic())
            lost: str | None = None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._give_orders, ours, start)
                lost = await self._listen(ours, watch)
                tasks.cancel_scope.cancel()
            if lost in (None, DIED):
                await _wait_for_exit(process, TERM_SECONDS)  # by itself: SDKs have exit handlers
            if lost == DIED:
                lost = _how_it_died(process.returncode)
                self._blame(name, lost, may_be_events=process.returncode not in ORDERED_EXITS)
            elif lost is not None and watch.overdue(time.monotonic()):
                self._blame(name, lost, may_be_events=watch.is_writing)
            self._alarm.isolating = watch.isolates
            return lost

    def _blame(self, worker: str, reason: str, *, may_be_events: bool) -> None:
        """Tell the next worker of a loss that events may have caused; of an error a worker has told itself."""
        self._lost = Lost(worker, reason) if may_be_events else None

    async def _give_orders(self, ours: socket.socket, start: Start) -> None:
        """Say what to do, then pass on what the bus wants; a worker that is gone is noticed by the one who listens."""
        self._told = Told({source.bus for source in start.sources})
        await _send(ours, start)
        while True:
            for order in new_orders(self._feed.members(), self._told):
                await _send(ours, order)
            await self._feed.wait_for_orders(CHECK_SECONDS)

    async def _listen(self, ours: socket.socket, watch: Watch) -> str | None:
        """Hear a worker out; return why it is lost, or None when it has drained."""
        inbox = Inbox(decode_news)
        while not self._done:
            with anyio.move_on_after(CHECK_SECONDS):
                await anyio.wait_readable(ours)
            lost = self._hear_all(ours, inbox, watch) or watch.overdue(time.monotonic())
            if lost:
                return lost
        return None

    def _hear_all(self, ours: socket.socket, inbox: Inbox[News], watch: Watch) -> str | None:
        try:
            data = ours.recv(65536)
            messages = inbox.feed(data)
        except BlockingIOError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            return DIED if isinstance(error, OSError) else f"sent nonsense: {error}"
        for news in messages:
            watch.hear(news, time.monotonic())
            if objection := self._objection(news):
                return objection
            self._hear(news, watch)
            self._health.state = self._alarm.state or watch.phase
        return None if data or self._done else DIED

    def _objection(self, news: News) -> str | None:
        """Return why a worker that says so is lost."""
        if isinstance(news, Failed):
            self._alarm.for_good = news.for_good
            return f"failed: {news.reason}"
        if isinstance(news, Settled) and any(member.contradicts(news.cursor) for member in self._feed.members()):
            return "sent nonsense: it has stored what was never logged"
        if isinstance(news, Done) and not self._told.left:
            return "sent nonsense: it ends without an order"
        return None

    def _hear(self, news: News, watch: Watch) -> None:
        if isinstance(news, Settled):
            self._hear_settled(news)
        elif isinstance(news, Done):
            self._done = True
        elif self._is_progress(news, watch):
            self._feed.touch()
        else:
            self._take_note(news)
        if watch.has_closed:
            self._alarm.recover()

    def _take_note(self, news: News) -> None:
        if isinstance(news, Unavailable):
            self._health.fail(f"tracker unavailable: {news.reason}")
            self._alarm.be_unavailable(news)
        elif isinstance(news, Buried):
            self._alarm.bury(news)
        elif isinstance(news, Opened):
            self._health.runs[news.site, news.run] = news.tracker
        elif isinstance(news, LeftOut):
            self._feed.leave_out(news.files)

    def _hear_settled(self, news: Settled) -> None:
        if self._health.settle({(kind, name): value for kind, name, value in news.counts}):
            self._alarm.recover()
        if news.cursor != self._cursor:
            self._cursor = news.cursor
            self._feed.moved(news.cursor)
        self._feed.drained(news.drained)
        self._ready.set()

    def _is_progress(self, news: News, watch: Watch) -> bool:
        """Tell whether a drain may wait on: for a start, for one of many runs to close, for one of many parts."""
        if isinstance(news, Beat):
            return watch.is_starting and self._alarm.circuit.failures < PATIENT_ATTEMPTS
        return isinstance(news, Phase) and news.name in ("closing", "isolating")

    # --- processes ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _worker(self, start: Start, token: str) -> AsyncGenerator[tuple[subprocess.Popen[bytes], socket.socket]]:
        log = await self._in_thread(_open_log, Path(start.workspace), start.name)
        try:
            ours, theirs = socket.socketpair()
            ours.settimeout(0)  # the loop waits, not the socket
            with theirs, ExitStack() as undo:
                undo.callback(ours.close)
                process = self._spawn(start, theirs.fileno(), log, token)
                undo.pop_all()
        finally:
            os.close(log)
        with ours:
            try:
                yield process, ours
            finally:
                with anyio.CancelScope(shield=True):
                    await _end(process)
                    await self._in_thread(_processes.end_worker_processes, token)

    async def _in_thread(self, call: Callable[[Unpack[Arguments]], T], *arguments: *Arguments) -> T:
        """Call in a thread that no work of the trainer can take."""
        return await anyio.to_thread.run_sync(call, *arguments, limiter=self._threads)

    def _spawn(self, start: Start, channel: int, log: int, token: str) -> subprocess.Popen[bytes]:
        """Start a worker from the loop's own thread: the kernel ends a child with the thread that started it."""
        marks = {_processes.MARKER: str(Path(start.cursors) / f"{start.name}.db"), _processes.WORKER: token}
        marks[_processes.PARENT] = str(os.getpid())
        return subprocess.Popen(
            [self._python, "-P", "-m", "receivers._worker", str(channel)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **_import_path(), **self._environment, **marks},
            start_new_session=True,
            pass_fds=[channel],
        )


def _how_it_died(code: int | None) -> str:
    if code is None:
        return f"{DIED}: it closed its channel"
    return f"{DIED}: {signal.Signals(-code).name}" if code < 0 else f"{DIED}: exit code {code}"


async def _wait_for_exit(process: subprocess.Popen[bytes], seconds: float) -> None:
    with anyio.move_on_after(seconds):
        while process.poll() is None:  # noqa: ASYNC110 - a process that ends wakes nobody
            await anyio.sleep(POLL_SECONDS)


async def _end(process: subprocess.Popen[bytes]) -> None:
    """End a worker and its process group."""
    if process.poll() is None:
        _processes.signal_group(process.pid, signal.SIGTERM)
        await _wait_for_exit(process, TERM_SECONDS)
    _processes.signal_group(process.pid, signal.SIGKILL)
    await _wait_for_exit(process, GONE_SECONDS)


async def _send(ours: socket.socket, message: Order) -> None:
    data = pack(message)
    while data:
        try:
            data = data[ours.send(data) :]
        except BlockingIOError:
            await anyio.wait_writable(ours)
        except OSError:  # the worker is gone: the listener hears of it
            return


def _import_path() -> dict[str, str]:
    """Let the worker import what the parent imported: trackbus may run from a source tree."""
    root = Path(__file__).resolve().parent.parent
    if "site-packages" in root.parts:
        return {}
    existing = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{root}{os.pathsep}{existing}" if existing else str(root)}


def _open_log(workspace: Path, name: str) -> int:
    path = workspace / "workers" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
