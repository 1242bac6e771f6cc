"""The parent half: starts a worker, watches it, ends it, starts it again. It never touches the data.

The law of the shutdown: order to drain, wait for the worker's word or the bus's deadline, SIGTERM, `TERM_SECONDS`,
SIGKILL to its process group and to the processes that its SDK started, wait until all are gone.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.to_thread
import msgspec
from pydantic import BaseModel, ConfigDict, PositiveFloat

from receivers import _processes
from receivers._control import Beat, Done, Drain, Failed, Flush, Inbox, News, Phase, Settled, Start, decode_news, pack

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from eventbus.abc import Cursor, Feed

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

TERM_SECONDS = 2.0
"""Grace between SIGTERM and SIGKILL."""

CHECK_SECONDS = 0.25
"""How often deadlines are looked at."""

BACK_OFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pause before each further start in a row; any progress starts over. Jittered, so that workers don't move in step."""

PATIENT_ATTEMPTS = 3
"""A drain waits for a worker that starts, but not for one that was started in vain so often."""

GONE_SECONDS = 5.0
"""How long a killed process may take to disappear: one that waits for a dead disk takes for ever."""

POLL_SECONDS = 0.02
"""How often an ending process is looked at."""

CAUSES = 20
"""Causes of failures that are kept apart: an error that names an address or a time is new each time."""

_logger = logging.getLogger("trackbus.receivers")


class WorkerPolicy(BaseModel):
    """Deadlines of a worker process, in seconds.

    Attributes:
        start_timeout: From the start to the first look into the journal, and for opening a run: SDKs take 0.5 to 6 s
            to import, and a fresh MLflow store up to 20 s to create.
        process_timeout: For one batch, or for closing a run: beyond it the SDK hangs.
        heartbeat_timeout: Without a sign of life: the process is stopped or its GIL is stuck.
        orphan_timeout: How long a worker goes on when its parent has died.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_timeout: PositiveFloat = 60.0
    process_timeout: PositiveFloat = 30.0
    heartbeat_timeout: PositiveFloat = 10.0
    orphan_timeout: PositiveFloat = 30.0


@dataclass(slots=True)
class Watch:
    """Says whether a worker is overdue. Pure: it is given the news and the time."""

    policy: WorkerPolicy
    phase: str = "starting"
    phase_since: float = 0.0
    last_beat: float | None = None

    def hear(self, news: News, now: float) -> None:
        """Take note of a message."""
        self.last_beat = now
        if isinstance(news, Phase):
            self.phase, self.phase_since = news.name, now

    @property
    def is_starting(self) -> bool:
        """Whether it is busy with what takes long and is no sign of trouble."""
        return self.phase in ("starting", "standing by", "opening")

    def overdue(self, now: float) -> str | None:
        """Return what the worker has failed to do in time, or None."""
        if self.last_beat is not None and now - self.last_beat > self.policy.heartbeat_timeout:
            return f"gave no sign of life for {self.policy.heartbeat_timeout:g} s"
        limit = self._limit()
        if limit is not None and now - self.phase_since > limit:
            return f"was {self.phase} for more than {limit:g} s"
        return None

    def _limit(self) -> float | None:
        if self.phase in ("starting", "opening"):
            return self.policy.start_timeout
        return self.policy.process_timeout if self.phase in ("batch", "closing") else None


@dataclass(slots=True)
class Health:
    """What the supervisor knows of its workers.

    Attributes:
        state: What the worker does now.
        restarts: How often it was started again.
        failures: Why it was, by cause.
        counts: The consumer's totals by (kind, name) since it exists.
        baseline: The same when this supervisor's first worker began.
    """

    state: str = "new"
    restarts: int = 0
    failures: dict[str, int] = field(default_factory=dict[str, int])
    counts: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    baseline: dict[tuple[str, str], int] | None = None

    def settle(self, counts: dict[tuple[str, str], int]) -> bool:
        """Take the totals that a worker reports; tell whether they have grown."""
        grown = counts != self.counts
        if self.baseline is None:
            self.baseline = counts
        self.counts = counts
        return grown

    def fail(self, reason: str) -> None:
        """Count a failure."""
        if reason not in self.failures and len(self.failures) >= CAUSES:
            reason = "other causes"
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def since_start(self) -> dict[tuple[str, str], int]:
        """Return what this supervisor's workers did."""
        baseline = self.baseline or {}
        return {key: value - baseline.get(key, 0) for key, value in self.counts.items()}


class Supervisor:
    """Keeps one worker delivering until its bus drains.

    Args:
        feed: The subscription that it works for.
        make_start: Makes the start order.
        environment: What the worker's environment needs beyond the parent's.
        policy: Deadlines.
        health: Where it writes what it knows.
        ready: Set when a worker has looked into the journal.
        python: Interpreter of the worker.
    """

    def __init__(
        self,
        feed: Feed,
        make_start: Callable[[], Start],
        environment: Mapping[str, str],
        policy: WorkerPolicy,
        *,
        health: Health,
        ready: anyio.Event,
        python: str = sys.executable,
    ) -> None:
        self._feed = feed
        self._make_start = make_start
        self._environment = environment
        self._policy = policy
        self._health = health
        self._python = python
        self._attempt = 0
        self._done = False
        self._ready = ready
        self._cursor: Cursor = {}
        self._threads = anyio.CapacityLimiter(1)

    async def run(self) -> None:
        """Start workers until one has drained."""
        while not self._done:
            start = self._make_start()
            try:
                lost = await self._run_worker(start)
            except Exception as error:  # border: no process, descriptor, thread: the next try may find some
                _logger.exception("the worker of %s can't be run", start.name)
                lost = f"can't be started: {error}"
            if lost is not None:
                self._health.fail(lost)
                _logger.warning("the worker of %s %s; it is started again", start.name, lost)
                self._health.restarts += 1
                await self._back_off()
        self._health.state = "drained"

    async def _back_off(self) -> None:
        """Wait before the next start, but not when the drain begins meanwhile: its time is short."""
        self._health.state = "waiting to start again"
        pause = BACK_OFF_SECONDS[min(self._attempt, len(BACK_OFF_SECONDS) - 1)]
        self._attempt += 1
        drained_before = self._feed.draining
        with anyio.move_on_after(pause * random.uniform(0.5, 1.0)):  # noqa: S311 - no secret hangs on it
            while self._feed.draining == drained_before:
                await self._feed.wait_for_orders(pause)

    async def _run_worker(self, start: Start) -> str | None:
        """Run one worker to its end; return why it was lost, or None when it has drained."""
        async with self._worker(start) as (process, ours):
            watch = Watch(self._policy, phase_since=time.monotonic())
            lost: str | None = None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._give_orders, ours, start)
                lost = await self._listen(ours, watch)
                tasks.cancel_scope.cancel()
            if lost is None:
                await _wait_for_exit(process, TERM_SECONDS)  # by itself: SDKs have exit handlers
            return lost

    async def _give_orders(self, ours: socket.socket, start: Start) -> None:
        """Say what to do, then pass on what the bus wants; a worker that is gone is noticed by the one who listens."""
        await _send(ours, start)
        wanted = 0
        while not self._feed.draining:
            if self._feed.wanted > wanted:
                wanted = self._feed.wanted
                await _send(ours, Flush())
            await self._feed.wait_for_orders(CHECK_SECONDS)
        await _send(ours, Drain())

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
            return f"sent nonsense: {error}" if not isinstance(error, OSError) else "died"
        for news in messages:
            watch.hear(news, time.monotonic())
            self._health.state = watch.phase
            if isinstance(news, Failed):
                return f"failed: {news.reason}"
            self._hear(news, watch)
        return None if data or self._done else "died"

    def _hear(self, news: News, watch: Watch) -> None:
        if isinstance(news, Settled):
            if self._health.settle({(kind, name): value for kind, name, value in news.counts}):
                self._attempt = 0
            if news.cursor != self._cursor:
                self._cursor = news.cursor
                self._feed.moved(news.cursor)
            self._ready.set()
        elif self._is_progress(news, watch):
            self._feed.touch()
        elif isinstance(news, Done):
            self._done = True

    def _is_progress(self, news: News, watch: Watch) -> bool:
        if isinstance(news, Beat):
            return watch.is_starting and self._attempt < PATIENT_ATTEMPTS
        return isinstance(news, Phase) and news.name == "closing"  # one of perhaps many runs

    # --- processes ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _worker(self, start: Start) -> AsyncGenerator[tuple[subprocess.Popen[bytes], socket.socket]]:
        token = secrets.token_hex(8)
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


async def _send(ours: socket.socket, message: Start | Flush | Drain) -> None:
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
