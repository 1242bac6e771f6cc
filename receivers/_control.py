"""What supervisor and worker say to each other, over a socket whose descriptor is passed to the worker.

Not over its standard streams: SDKs print there. A message is a length in 4 bytes and a tagged msgpack map.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from eventbus.abc import TrackerRun
from receivers._batch import FlushPolicy
from receivers._layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_MESSAGE_BYTES = 16 << 20
"""A longer message is no message: whoever sends it is treated as dead."""

PUSH_SECONDS = 0.1
"""How often the last words are tried again."""

_LENGTH = struct.Struct(">I")


class Lost(msgspec.Struct, frozen=True):
    """A worker that was lost by what may be an event's fault.

    Attributes:
        worker: Its name.
        reason: What happened to it, for people.
    """

    worker: str
    reason: str


class Source(msgspec.Struct, frozen=True):
    """A bus whose journal is read.

    Attributes:
        bus: What parent and worker call it.
        journal: Folder of its journal.
        partition: The bus's own partition.
        cursors: Folder of the consumers' files in its workspace; empty if the consumer's own file is there.
    """

    bus: int
    journal: str
    partition: str
    cursors: str = ""

    @property
    def label(self) -> str:
        """Under which name its journal's part of the counts stands; empty where the consumer's own file is."""
        return self.journal if self.cursors else ""


class Start(msgspec.Struct, tag=True, kw_only=True):
    """First message to a worker: what to deliver, from where, into what.

    Attributes:
        journal: Folder of the journal in whose workspace the consumer's own file is.
        again: Whether it holds the consumer's dead letters, to be delivered again.
        beside: Folder of the other of the two: what was begun with one may have to be ended with the other.
        sources: The buses that it serves; more may be attached later.
        cursors: Folder of the consumer's own file.
        name: The consumer's name.
        selectors: (pattern, import path of the event's class or "", scope or None, sites, runs) of each subscription.
        search_path: Folders to look for a user's modules in, after all others.
        sink: Import path of the sink, `module:Class`.
        config_type: Import path of its settings' class.
        config: The settings, JSON.
        workspace: Folder that holds what the sinks write unless they are told otherwise.
        layout: How the sites of a run are laid out.
        max_items, max_bytes, max_delay: The flush policy.
        process_timeout: Seconds that one call of a sink may take.
        orphan_timeout: Seconds that the worker goes on after its parent has died.
        lost: The worker before this one, if something that it wrote may have ended it.
        failures: How often its tracker has failed in a row.
    """

    journal: str
    again: bool
    beside: str
    sources: list[Source]
    cursors: str
    name: str
    selectors: list[tuple[str, str, int | None, tuple[str, ...], tuple[str, ...]]]
    search_path: list[str]
    sink: str
    config_type: str
    config: str
    workspace: str
    layout: Layout
    max_items: int
    max_bytes: int
    max_delay: float
    process_timeout: float
    orphan_timeout: float
    lost: Lost | None = None
    failures: int = 0

    def flush_policy(self) -> FlushPolicy:
        """Return the flush policy."""
        return FlushPolicy(max_items=self.max_items, max_bytes=self.max_bytes, max_delay=self.max_delay)


class Flush(msgspec.Struct, tag=True):
    """Order: somebody waits, write what is held without delay."""


class Attach(msgspec.Struct, tag=True):
    """Order: serve one more bus."""

    source: Source


class Drain(msgspec.Struct, tag=True):
    """Order: store what a bus's journal holds now, and say so; with the last one, let go of all runs and end.

    Attributes:
        bus: Which.
        partition: Its own by now: it has ended.
    """

    bus: int
    partition: str


class Detach(msgspec.Struct, tag=True):
    """Order: read no more for a bus that waits no longer."""

    bus: int


class Phase(msgspec.Struct, tag=True):
    """What the worker begins: most phases have a deadline.

    They are `starting`, `standing by`, `opening`, `batch`, `isolating` (a batch in parts, to find the event that ends
    every worker), `closing`, `waiting for the tracker` and `idle`. One that is told again goes on, and its deadline
    begins anew.

    Attributes:
        name: Which one.
        seconds: What it may take beyond its deadline: a large file is on its way.
    """

    name: str
    seconds: float = 0.0


class Beat(msgspec.Struct, tag=True):
    """The worker's threads run."""


class Settled(msgspec.Struct, tag=True):
    """Everything up to the cursor is stored.

    Attributes:
        cursor: The position, over all journals.
        counts: Totals by (kind, name).
        drained: The buses whose journals are stored as far as they were ordered to be.
    """

    cursor: dict[str, int]
    counts: list[tuple[str, str, int]]
    drained: list[int] = []


class Opened(msgspec.Struct, tag=True):
    """A run was opened in the tracker, which calls it so."""

    site: str
    run: str
    tracker: TrackerRun


class LeftOut(msgspec.Struct, tag=True):
    """Files of the journal that can't be read at present, and why, by path."""

    files: dict[str, str]


class Failed(msgspec.Struct, tag=True):
    """The worker ends because of an error; `for_good` says that it does not mend itself."""

    reason: str
    for_good: bool = False


class Unavailable(msgspec.Struct, tag=True):
    """The tracker can't be reached: the worker leaves it alone for some seconds.

    Attributes:
        reason: What it said, for people.
        seconds: When it is tried again.
        for_good: Whether that does not mend itself: it refuses the key, or has lost what was stored.
    """

    reason: str
    seconds: float
    for_good: bool = False


class Buried(msgspec.Struct, tag=True):
    """A record lies among the dead letters."""

    partition: str
    seq: int
    reason: str


class Done(msgspec.Struct, tag=True):
    """The worker has drained and ends."""


Order = Start | Attach | Flush | Drain | Detach
News = Phase | Beat | Settled | Opened | LeftOut | Failed | Unavailable | Buried | Done

decode_order = msgspec.msgpack.Decoder[Order](Order).decode
decode_news = msgspec.msgpack.Decoder[News](News).decode

M = TypeVar("M")


class Inbox(Generic[M]):
    """Puts received bytes together into messages."""

    def __init__(self, decode: Callable[[bytes], M]) -> None:
        self._decode = decode
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[M]:
        """Take received bytes and return the messages that are complete.

        Raises:
            ValueError: The bytes are none of our messages.
        """
        self._buffer += data
        messages: list[M] = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def _next(self) -> M | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_MESSAGE_BYTES:
            msg = f"message of {length} bytes"
            raise ValueError(msg)
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return self._decode(body)


def pack(message: Order | News) -> bytes:
    """Return a message as bytes."""
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


class Flag:
    """Is set once. It has no lock: a signal handler that struck within `threading.Event.set` would wait for itself."""

    def __init__(self) -> None:
        self._value = False

    def set(self) -> None:
        """Set it."""
        self._value = True

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._value


class WorkerChannel:
    """The worker's end of the socket. Sending is legal from any of its threads.

    Sending never waits: while the parent does not listen (its loop is busy with a training step), the newest message
    of each kind, or of each run, is kept and the older ones are forgotten.

    Attributes:
        parent_lost: Set when the parent's end is closed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(0)
        self._inbox = Inbox(decode_order)
        self._lock = threading.Lock()
        self._waiting: list[Order] = []
        self._outbox: dict[object, News] = {}
        self._rest = b""
        self.parent_lost = Flag()

    def send(self, message: News) -> None:
        """Send, now or when the parent listens; a lost parent is noted, not raised."""
        with self._lock:
            key = (message.site, message.run) if isinstance(message, Opened) else type(message)
            self._outbox.pop(key, None)
            self._outbox[key] = message
            self._push()

    def send_last(self, message: News, timeout: float) -> None:
        """Send before the process ends: give the parent some seconds to listen."""
        self.send(message)
        deadline = time.monotonic() + timeout
        while (self._rest or self._outbox) and not self.parent_lost.is_set() and time.monotonic() < deadline:
            self._wait(select.POLLOUT, PUSH_SECONDS)
            with self._lock:
                self._push()

    def _push(self) -> None:
        try:
            while self._rest or self._outbox:
                self._rest = self._rest or pack(self._outbox.pop(next(iter(self._outbox))))
                self._rest = self._rest[self._socket.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self.parent_lost.set()

    def put_back(self, order: Order) -> None:
        """Let the next `receive` return an order."""
        self._waiting.insert(0, order)

    def receive(self, timeout: float) -> Order | None:
        """Return the next order, or None after `timeout` seconds; a lost parent gives none."""
        deadline = time.monotonic() + timeout
        while not self._waiting:
            left = max(0.0, deadline - time.monotonic())
            if self.parent_lost.is_set():
                time.sleep(left)
                return None
            if not self._wait(select.POLLIN, left):
                return None
            self._take_in()
        return self._waiting.pop(0)

    def _take_in(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.parent_lost.set()
        self._waiting += self._inbox.feed(data)

    def _wait(self, event: int, timeout: float) -> bool:
        """Wait with `poll`: `select` knows no descriptor beyond 1023, and the number is the parent's."""
        poll = select.poll()
        poll.register(self._socket, event)
        return bool(poll.poll(timeout * 1000))
