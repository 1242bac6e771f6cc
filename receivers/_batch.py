"""Decides when records are written. Pure: it is given records and the time, and says hold or flush."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from eventbus.abc import StoredRecord


class FlushPolicy(BaseModel):
    """When a batch is written: as soon as one of the three bounds is reached.

    Attributes:
        max_items: Records in a batch.
        max_bytes: Encoded bytes in a batch.
        max_delay: Seconds that a record waits for others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_items: PositiveInt = 1000
    max_bytes: PositiveInt = 512 * 1024
    max_delay: PositiveFloat = 2.0


class Batcher:
    """Collects records into batches."""

    def __init__(self, policy: FlushPolicy) -> None:
        self._policy = policy
        self._held: deque[StoredRecord] = deque()
        self._bytes = 0
        self._since = 0.0

    @property
    def room(self) -> int:
        """How many records still fit into the current batch."""
        return max(0, self._policy.max_items - len(self._held))

    def add(self, records: list[StoredRecord], now: float) -> None:
        """Hold records that arrived at `now`, in seconds of any steady clock."""
        if records and not self._held:
            self._since = now
        self._held += records
        self._bytes += sum(len(record.body) for record in records)

    def wait(self, now: float) -> float | None:
        """Return the seconds until the batch is due, 0 if it is, None if nothing is held."""
        if not self._held:
            return None
        if len(self._held) >= self._policy.max_items or self._bytes >= self._policy.max_bytes:
            return 0.0
        return max(0.0, self._since + self._policy.max_delay - now)

    def take(self) -> list[StoredRecord]:
        """Return the next batch: what is held, up to the bounds, at least one record."""
        batch: list[StoredRecord] = []
        taken = 0
        while self._held and len(batch) < self._policy.max_items:
            taken += len(self._held[0].body)
            if batch and taken > self._policy.max_bytes:
                break
            batch.append(self._held.popleft())
        self._bytes = sum(len(record.body) for record in self._held)
        return batch
