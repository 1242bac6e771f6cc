"""A journal folder that is only read: for a replay, which has no bus and writes no partition of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeVar

import anyio.to_thread

from eventbus._event import Envelope, Event, Origin
from eventbus.abc import Cursor, LocalJournal, PartitionHeader, RefusedError, RelayedBatch, StoredRecord
from eventbus.journals._look import count_after
from eventbus.journals._reader import JournalReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from eventbus._topic import Scope

T = TypeVar("T")

_NOBODY = Origin(site="", rank=0, incarnation="", job="")


class ReadOnlyJournal(LocalJournal):
    """Reads the partitions of a folder, whoever wrote them.

    Args:
        folder: The journal, or a receiver's dead letters.
        again: Whether these are dead letters, to be delivered again.
    """

    def __init__(self, folder: Path, *, again: bool = False) -> None:
        self.folder = folder
        self.again = again
        self.origin = _NOBODY
        self._reader = JournalReader(folder, again=again)
        self._threads = anyio.CapacityLimiter(1)  # the reader serves one thread at a time

    @property
    def header(self) -> PartitionHeader:
        """What would stand in an own partition."""
        return PartitionHeader(origin=_NOBODY, created_ns=0)

    @property
    def last_seq(self) -> int:
        """There is no own partition."""
        return 0

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(call, limiter=self._threads)

    async def count(self) -> int:
        """Count all records."""
        return await self._in_thread(lambda: sum(count_after(one, 0) for one in self._reader.partitions()))

    async def marks(self) -> Cursor:
        """Return the mark of every partition that was appended in batches."""
        return await self._in_thread(self._reader.marks)

    async def read(self, after: Mapping[str, int], limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a cursor, in order within each partition."""
        return await self._in_thread(lambda: self._reader.read(after, limit))

    async def ends(self) -> Cursor:
        """Return the last sequence of every partition."""
        return await self._in_thread(self._reader.ends)

    def close(self) -> None:
        """Let go of all files."""
        self._reader.close()

    # --- what it does not do ------------------------------------------------------------------------------------

    def append_nowait(self, event: Event, topic: str, scope: Scope, run: str, time_ns: int) -> Envelope[Event]:
        """Refuse a record."""
        del event, topic, scope, run, time_ns
        _refuse()

    async def append(self, batch: RelayedBatch) -> int:
        """Refuse a batch."""
        del batch
        _refuse()

    async def cursor(self, consumer: str) -> Cursor:
        """Return nothing: positions are kept in the workspace that is filled."""
        del consumer
        return {}

    async def commit(self, consumer: str, cursor: Mapping[str, int]) -> None:
        """Refuse a position."""
        del consumer, cursor
        _refuse()


def _refuse() -> NoReturn:
    raise RefusedError("the journal is only read")
