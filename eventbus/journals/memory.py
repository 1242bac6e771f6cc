"""The journal in memory: for tests and for buses whose records need not outlive the process."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventbus._codec import encode
from eventbus._event import Envelope, Event, Origin
from eventbus._topic import Scope
from eventbus.abc import Cursor, LocalJournal, PartitionHeader, RelayedBatch, StoredRecord
from eventbus.errors import BadInputError
from eventbus.journals._partition import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_logger = logging.getLogger("trackbus.journal")


@dataclass(slots=True)
class _Mirror:
    """A partition that was appended in batches."""

    header: PartitionHeader
    records: deque[tuple[int, bytes]]
    mark: int = 0


class MemoryJournal(LocalJournal):
    """A journal that ends with the process.

    Args:
        origin: Who writes the own partition.
        max_events: How many records of each partition are kept; older ones are forgotten, and counted if they are own.
    """

    def __init__(self, origin: Origin, *, max_events: int = 1000) -> None:
        self.origin = origin
        self._max_events = max_events
        self._header = PartitionHeader(origin=origin, created_ns=time.time_ns())
        self._own: deque[Envelope[Event]] = deque(maxlen=max_events)
        self._seq = 0
        self._mirrors: dict[str, _Mirror] = {}
        self._cursors: dict[str, Cursor] = {}

    @property
    def header(self) -> PartitionHeader:
        """What stands once in the own partition."""
        return self._header

    @property
    def last_seq(self) -> int:
        """Number of the own partition's last record."""
        return self._seq

    def append_nowait(self, event: Event, topic: str, scope: Scope, run: str, time_ns: int) -> Envelope[Event]:
        """Append one record; it is encoded only when somebody reads it back."""
        self._seq = seq = self._seq + 1
        envelope = Envelope(event, topic, scope, run, time_ns, self.origin, seq)
        self._own.append(envelope)
        return envelope

    @property
    def lost(self) -> dict[str, int]:
        """How many own records were forgotten; handlers got them, and a relay counts what it missed."""
        forgotten = self._seq - len(self._own)
        return {"no longer in memory": forgotten} if forgotten else {}

    async def append(self, batch: RelayedBatch) -> int:
        """Append a stretch of another journal's partition, once."""
        mirror = self._mirrors.get(batch.header.key)
        if mirror is None:
            mirror = self._mirrors[batch.header.key] = _Mirror(batch.header, deque(maxlen=self._max_events))
        mirror.records += [record for record in batch.records if record[0] > mirror.mark]
        mirror.mark = max(mirror.mark, batch.last)
        return mirror.mark

    async def marks(self) -> Cursor:
        """Return the mark of every partition that was appended in batches."""
        return {key: mirror.mark for key, mirror in list(self._mirrors.items())}

    async def read(self, after: Mapping[str, int], limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a cursor, in order within each partition."""
        found: list[StoredRecord] = []
        for record in self._after(after):
            if len(found) >= limit:
                break
            found.append(record)
        return found

    def _after(self, after: Mapping[str, int]) -> Iterator[StoredRecord]:
        """Yield what comes after a cursor, from copies that are made in one step: other threads append meanwhile."""
        for key, mirror in list(self._mirrors.items()):
            position = after.get(key, 0)
            yield from (StoredRecord(mirror.header, *record) for record in list(mirror.records) if record[0] > position)
        position = after.get(self._header.key, 0)
        for envelope in list(self._own):
            if envelope.seq > position and (body := _encoded(envelope)) is not None:
                yield StoredRecord(self._header, envelope.seq, body)

    async def ends(self) -> Cursor:
        """Return the last sequence of every partition."""
        ends = {key: mirror.records[-1][0] for key, mirror in list(self._mirrors.items()) if mirror.records}
        return ends | {self._header.key: self._seq} if self._seq else ends

    async def cursor(self, consumer: str) -> Cursor:
        """Return the committed position of a consumer, empty for a new one."""
        return dict(self._cursors.get(consumer, {}))

    async def commit(self, consumer: str, cursor: Mapping[str, int]) -> None:
        """Move a consumer's cursor; positions of partitions that are not named stay."""
        self._cursors.setdefault(consumer, {}).update(cursor)

    def close(self) -> None:
        """Nothing is held that would need closing."""


def _encoded(envelope: Envelope[Event]) -> bytes | None:
    """Return a record's bytes; of one that can't be encoded None, or empty ones if it may cross."""
    try:
        return encode(envelope.event, envelope.topic, envelope.scope, envelope.run, envelope.time_ns)
    except BadInputError as error:  # a journal on disk says so at the append; here the others must still be read
        _logger.warning("record %s is left out: %s", envelope.seq, error)
        return LOST if envelope.scope is Scope.FEDERATED else None
