"""What supervisor and worker say to each other, over a socket whose descriptor is passed to the worker.

Not over its standard streams: SDKs print there. A message is a length in 4 bytes and a tagged msgpack map.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from receivers._batch import FlushPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_MESSAGE_BYTES = 16 << 20
"""A longer message is no message: whoever sends it is treated as dead."""

_LENGTH = struct.Struct(">I")


class Start(msgspec.Struct, tag=True, kw_only=True):
    """First message to a worker: what to deliver, from where, into what.

    Attributes:
        journal: Folder of the journal.
        cursors: Folder of the consumers' files.
        name: The consumer's name.
        partition: The parent's own partition: it has ended once the parent drains.
        selectors: (pattern, event name or "", scope or None) of each subscription.
        sink: Import path of the sink, `module:Class`.
        config_type: Import path of its settings' class.
        config: The settings, JSON.
        workspace: Folder of the bus.
        max_items, max_bytes, max_delay: The flush policy.
        orphan_timeout: Seconds that the worker goes on after its parent has died.
    """

    journal: str
    cursors: str
    name: str
    partition: str
    selectors: list[tuple[str, str, int | None]]
    sink: str
    config_type: str
    config: str
    workspace: str
    max_items: int
    max_bytes: int
    max_delay: float
    orphan_timeout: float

    def flush_policy(self) -> FlushPolicy:
        """Return the flush policy."""
        return FlushPolicy(max_items=self.max_items, max_bytes=self.max_bytes, max_delay=self.max_delay)


class Flush(msgspec.Struct, tag=True):
    """Order: somebody waits, write what is held without delay."""


class Drain(msgspec.Struct, tag=True):
    """Order: store what the journal holds now, let go of all runs, end."""


class Phase(msgspec.Struct, tag=True):
    """The worker begins `starting`, `standing by`, `opening`, `batch`, `closing` or `idle`: most have a deadline."""

    name: str


class Beat(msgspec.Struct, tag=True):
    """The worker's threads run."""


class Settled(msgspec.Struct, tag=True):
    """Everything up to the cursor is stored; the counts are totals by (kind, name)."""

    cursor: dict[str, int]
    counts: list[tuple[str, str, int]]


class Failed(msgspec.Struct, tag=True):
    """The worker ends because of an error."""

    reason: str


class Done(msgspec.Struct, tag=True):
    """The worker has drained and ends."""


Order = Start | Flush | Drain
News = Phase | Beat | Settled | Failed | Done

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


class WorkerChannel:
    """The worker's end of the socket. Sending is legal from any of its threads.

    Attributes:
        parent_lost: Set when the parent's end is closed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._inbox = Inbox(decode_order)
        self._lock = threading.Lock()
        self._waiting: list[Order] = []
        self.parent_lost = threading.Event()

    def send(self, message: News) -> None:
        """Send; a lost parent is noted, not raised."""
        try:
            with self._lock:
                self._socket.sendall(pack(message))
        except OSError:
            self.parent_lost.set()

    def receive(self, timeout: float) -> Order | None:
        """Return the next order, or None after `timeout` seconds."""
        if self._waiting:
            return self._waiting.pop(0)
        if self.parent_lost.is_set():
            self.parent_lost_pause(timeout)
            return None
        readable, _, _ = select.select([self._socket], [], [], timeout)
        if not readable:
            return None
        try:
            data = self._socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.parent_lost.set()
            return None
        self._waiting += self._inbox.feed(data)
        return self._waiting.pop(0) if self._waiting else None

    def parent_lost_pause(self, timeout: float) -> None:
        """Wait without a parent to listen to."""
        select.select([], [], [], timeout)
