"""The server's half of the nursery: processes of scripts, as their sites hold them."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec
from msgspec.structs import replace

from training.engines.orders import MAX_DATAGRAM, Ended, Order, Report, Signal, Spawn
from training.engines.script import ScriptFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

NURSERY = "training.engines.nursery"
"""Its program; a module that is run must not be imported beside."""

END_SECONDS = 10.0
"""How long the nursery may take to end: what it waits for, and as long again on a busy machine."""

TERMINATE_SECONDS = 3.0
"""How long a process may take after SIGTERM: enough to write a file, too little to train on."""

RESERVED_BYTES = 32
"""What the system takes for itself of the room for a datagram."""

_reports = msgspec.msgpack.Decoder(Report)

_logger = logging.getLogger("trackbus.engines")


@dataclass(slots=True, eq=False)
class Process:
    """A process that the nursery has started.

    Attributes:
        exited: Set when it has ended.
        code: How it ended: its exit code, or the negative number of a signal; None: the nursery is dead, and it too.
    """

    number: int
    send: Callable[[Order], None]
    on_exit: Callable[[], object]
    exited: anyio.Event = field(default_factory=anyio.Event)
    code: int | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send it and its group a signal, if it still lives."""
        if not self.exited.is_set():
            self.send(Signal(number=self.number, signal=number))

    async def stop(self) -> None:
        """End it: politely, then at once. Returns when it is gone; a cancellation doesn't keep it alive."""
        with anyio.CancelScope(shield=True):
            self.signal(signal.SIGTERM)
            with anyio.move_on_after(TERMINATE_SECONDS):
                await self.exited.wait()
            self.signal(signal.SIGKILL)
            with anyio.move_on_after(TERMINATE_SECONDS):  # a process that waits for a dead disk takes for ever
                await self.exited.wait()

    def ended(self, code: int | None) -> None:
        """Take note of its end."""
        self.code = code
        self.exited.set()
        self.on_exit()


class NurseryClient:
    """Starts processes. Made by `open_nursery`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._room = control.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - RESERVED_BYTES
        self._life = anyio.CancelScope(shield=True)
        self._processes: dict[int, Process] = {}
        self._outbox: deque[Order] = deque()
        self._news = anyio.Event()
        self._ready = anyio.Event()
        self._count = 0
        self._is_dead = False

    @property
    def is_ready(self) -> bool:
        """Whether it has loaded all; before that it has started nothing."""
        return self._ready.is_set()

    def spawn(self, order: Spawn, on_exit: Callable[[], object]) -> Process:
        """Start a process.

        Args:
            order: What to start.
            on_exit: Called on the loop when it has ended.

        Raises:
            ScriptFailedError: Its environment and its arguments are too long.
        """
        self._count += 1
        process = Process(self._count, self._post, on_exit)
        if self._is_dead:
            process.ended(None)
        else:
            self._post(replace(order, number=process.number))
            self._processes[process.number] = process
        return process

    def _post(self, order: Order) -> None:
        """Have an order sent once the nursery, which may be loading its modules still, has room for it."""
        if isinstance(order, Signal) and self._drop(order):
            return
        size = len(msgspec.msgpack.encode(order))
        if size > self._room:
            raise ScriptFailedError(
                f"its script can't be started: environment and arguments take {size} bytes; {self._room} may"
            )
        self._outbox.append(order)
        self._news.set()

    def _drop(self, order: Signal) -> bool:
        """Rather than send a signal, forget the order for its process, if that is still here."""
        found = [one for one in self._outbox if isinstance(one, Spawn) and one.number == order.number]
        for one in found:
            self._outbox.remove(one)
            self._processes.pop(one.number).ended(-order.signal)
        return bool(found)

    async def live(self) -> None:
        """Send orders and take reports, until `end`: also when the job is cancelled, so that it sees processes end."""
        with self._life:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._deliver)
                tasks.start_soon(self._listen)

    def end(self) -> None:
        """End all of it."""
        self._life.cancel()
        with suppress(OSError):  # the nursery is dead
            self._control.shutdown(socket.SHUT_RDWR)

    async def _deliver(self) -> None:
        """Send what is in the outbox, once the nursery reads: its socket holds some dozens of orders."""
        await self._ready.wait()
        while True:
            self._news = anyio.Event()
            while self._outbox:
                await self._deliver_one(self._outbox[0])
            await self._news.wait()

    async def _deliver_one(self, order: Order) -> None:
        try:
            self._control.send(msgspec.msgpack.encode(order), socket.MSG_DONTWAIT)
            self._outbox.popleft()
        except BlockingIOError:
            await anyio.wait_writable(self._control)
        except ConnectionError:  # dead: the listener finds out, and tells the sites
            self._outbox.clear()

    async def _listen(self) -> None:
        """Take note of the ends of processes, until the nursery's own."""
        while data := await self._receive():
            report = _reports.decode(data)
            if isinstance(report, Ended):
                self._processes.pop(report.number).ended(report.code)
            else:
                self._ready.set()
        self._is_dead = True
        for process in self._processes.values():
            process.ended(None)

    async def _receive(self) -> bytes:
        while True:
            await anyio.wait_readable(self._control)
            with suppress(BlockingIOError):
                try:
                    return self._control.recv(MAX_DATAGRAM, socket.MSG_DONTWAIT)
                except ConnectionError:
                    return b""


@dataclass(frozen=True, slots=True, eq=False)
class Started:
    """A nursery's process.

    Attributes:
        modules: What it loads.
        process: The process itself.
        control: Takes orders, brings reports; what is sent before it is ready waits there.
    """

    modules: tuple[str, ...]
    process: subprocess.Popen[bytes]
    control: socket.socket

    def discard(self) -> None:
        """End it; it has started nothing."""
        self.control.close()
        with self.process:
            self.process.kill()


_ahead: list[Started] = []


def start_ahead(modules: Sequence[str]) -> None:
    """Start a nursery for a job that is about to be opened: it loads modules while the caller does."""
    if not _ahead:
        _ahead.append(_start(tuple(modules)))
        atexit.register(_discard_ahead)


def _discard_ahead() -> None:
    while _ahead:
        _ahead.pop().discard()


@asynccontextmanager
async def open_nursery(modules: Sequence[str]) -> AsyncGenerator[NurseryClient]:
    """Start a nursery that loads modules, or take the one that was started ahead; leaving ends all of it."""
    started = _take(tuple(modules))
    home = NurseryClient(started.control)
    with started.control:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(home.live)
            try:
                yield home
            finally:
                home.end()
                await _see_off(started.process, kill=not home.is_ready)


def _take(modules: tuple[str, ...]) -> Started:
    if _ahead and _ahead[0].modules == modules:
        return _ahead.pop()
    _discard_ahead()
    return _start(modules)


def _start(modules: tuple[str, ...]) -> Started:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", NURSERY, str(theirs.fileno()), *modules],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            # The OpenMP runtime reads this once, when torch is loaded: threads that spin on shared cores cost 10 x.
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
            start_new_session=True,  # an interrupt from the keyboard is the server's to handle
        )
    return Started(modules, process, ours)


async def _see_off(process: subprocess.Popen[bytes], *, kill: bool) -> None:
    if kill:
        process.kill()
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(_wait, process)


def _wait(process: subprocess.Popen[bytes]) -> None:
    with process:
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            _logger.warning("the process that starts scripts had to be killed: pid %s", process.pid)
            process.kill()
