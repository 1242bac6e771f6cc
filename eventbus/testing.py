"""For tests of code on the bus: a handler that keeps what it got, a journal that refuses, a suite for journals.

Nothing in here sleeps: whoever waits says for how long, and is told what came instead.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from eventbus._conformance import JOURNAL_CHECKS, check_journal
from eventbus._event import Event, Origin
from eventbus.abc import LocalJournal, RefusedError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from eventbus._bus import Bus
    from eventbus._event import Envelope
    from eventbus._topic import Scope, Topic
    from eventbus.abc import Cursor, PartitionEnd, PartitionHeader, RelayedBatch, StoredRecord
    from eventbus.blobs import BlobStore

__all__ = ["JOURNAL_CHECKS", "FaultyJournal", "Recorder", "check_journal", "recording"]

E = TypeVar("E", bound=Event)

WAIT_SECONDS = 5.0
"""How long `Recorder.wait_for` waits unless told otherwise: enough for a busy machine."""

RECORDER_QUEUE = 1 << 20
"""Bound of a recorder's queue: a test that publishes without waiting loses nothing to it."""


class Recorder(Generic[E]):
    """A handler that keeps what it got, in order: `bus.subscribe(MetricsLogged, recorder)`.

    Wait for it on the loop that the bus runs on.

    Attributes:
        events: What came so far.
    """

    def __init__(self) -> None:
        self.events: list[E] = []
        self._listening = True
        self._came = anyio.Event()

    async def __call__(self, event: E) -> None:
        """Take one event."""
        if self._listening:
            self.events.append(event)
            self._came.set()

    async def wait_for(self, count: int, timeout: float = WAIT_SECONDS) -> list[E]:
        """Return all events so far, once there are at least `count` of them.

        Args:
            count: How many to wait for.
            timeout: Seconds to wait.

        Raises:
            AssertionError: It took longer; the message says how many came, and the last one.
        """
        with anyio.move_on_after(timeout):
            while len(self.events) < count:
                self._came = anyio.Event()
                await self._came.wait()
        if len(self.events) < count:
            last = f", the last one {self.events[-1]!r}" if self.events else ""
            msg = f"{len(self.events)} of {count} events came within {timeout:g} s{last}"
            raise AssertionError(msg)
        return self.events

    def stop(self) -> None:
        """Keep nothing from now on."""
        self._listening = False


@contextmanager
def recording(bus: Bus, what: type[E] | Topic[E]) -> Generator[Recorder[E]]:
    """Record what is published within a block.

    Written `with recording(bus, TRACKING) as recorder:`.

    Raises:
        BusStateError: The bus is not entered.
    """
    recorder: Recorder[E] = Recorder()
    bus.subscribe(what, recorder, queue_events=RECORDER_QUEUE)
    try:
        yield recorder
    finally:
        recorder.stop()


class FaultyJournal(LocalJournal):
    """A journal whose environment fails on demand: `bus = Bus(lambda: FaultyJournal(MemoryJournal(origin)))`.

    Args:
        journal: What it stands on; everything that is not refused goes there.

    Attributes:
        reason: Why it refuses now, or None while it takes records.
        refusals: How many appends it refused, by reason.
    """

    def __init__(self, journal: LocalJournal) -> None:
        self._journal = journal
        self.origin: Origin = journal.origin
        self.folder: Path | None = journal.folder
        self.reason: str | None = None
        self.refusals: Counter[str] = Counter()

    @contextmanager
    def refusing(self, reason: str = "no space left on device") -> Generator[None]:
        """Refuse every append within the block."""
        self.reason = reason
        try:
            yield
        finally:
            self.reason = None

    def _check(self) -> None:
        if self.reason is not None:
            self.refusals[self.reason] += 1
            raise RefusedError(self.reason)

    @property
    def header(self) -> PartitionHeader:
        """What stands once in the own partition."""
        return self._journal.header

    @property
    def last_seq(self) -> int:
        """Number of the own partition's last record."""
        return self._journal.last_seq

    def append_nowait(self, event: Event, topic: str, scope: Scope, run: str, time_ns: int) -> Envelope[Event]:
        """Append one record, or refuse it."""
        self._check()
        return self._journal.append_nowait(event, topic, scope, run, time_ns)

    async def append(self, batch: RelayedBatch) -> int:
        """Append a stretch of another journal's partition, or refuse it."""
        self._check()
        return await self._journal.append(batch)

    async def marks(self) -> Cursor:
        """Return the mark of every partition that was appended in batches."""
        return await self._journal.marks()

    async def read(self, after: Mapping[str, int], limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a cursor."""
        return await self._journal.read(after, limit)

    async def ends(self) -> Cursor:
        """Return the last sequence of every partition."""
        return await self._journal.ends()

    async def ended(self) -> list[PartitionEnd]:
        """Return the ends of the partitions of other processes whose writers have ended."""
        return await self._journal.ended()

    async def closed(self) -> set[str]:
        """Return the keys of the relayed partitions of which is stored how they ended."""
        return await self._journal.closed()

    async def cursor(self, consumer: str) -> Cursor:
        """Return the committed position of a consumer."""
        return await self._journal.cursor(consumer)

    async def commit(self, consumer: str, cursor: Mapping[str, int]) -> None:
        """Move a consumer's cursor."""
        await self._journal.commit(consumer, cursor)

    @property
    def lost(self) -> dict[str, int]:
        """How many own records were taken and may be gone, by cause."""
        return self._journal.lost

    async def synced(self, seq: int) -> str | None:
        """Return when the own partition is on the disk up to `seq`, or why it will never be."""
        return await self._journal.synced(seq)

    def wait_synced(self, seq: int, timeout: float | None = None) -> str | None:
        """Do what `synced` does, from a thread."""
        return self._journal.wait_synced(seq, timeout)

    def care_for(self, blobs: BlobStore, *, durable: bool) -> None:
        """Look after the store of the blobs that the journal's events name."""
        self._journal.care_for(blobs, durable=durable)

    def close(self) -> None:
        """Close the journal underneath."""
        self._journal.close()
