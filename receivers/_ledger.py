"""What is written and not known to be stored, and what is committed once it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from receivers._rows import Counts

if TYPE_CHECKING:
    from eventbus.abc import Cursor
    from eventbus.journals.consumer import ConsumerFile, Plan, RunKey
    from receivers.abc import Position

OUTSTANDING = 100
"""Batches that may be written and not known to be stored: a sink that stores nothing gets no more to remember."""


@dataclass(slots=True)
class _Written:
    """A plan whose rows are written, until its sinks have stored them."""

    plan: Plan
    counts: Counts


class _Altered(NamedTuple):
    """What a sink counted while it wrote a run's rows up to a number: they count once these are stored."""

    key: RunKey
    row: int
    counts: Counts


class Ledger:
    """Keeps a consumer's accounts: cursor, runs and counts move as one when batches are stored.

    Args:
        file: The consumer's own file.

    Attributes:
        runs: What is known of each run.
        cursor: Position up to which everything is stored.
        counts: Totals since the consumer exists.
        progress: How often a tracker has proved that it stored something.
    """

    def __init__(self, file: ConsumerFile) -> None:
        self._file = file
        self.runs = file.runs()
        self.cursor: Cursor = file.cursor()
        self.counts: Counts = Counter(file.counts())
        self.progress = 0
        self._changed: set[RunKey] = set()
        self._written: list[_Written] = []
        self._altered: list[_Altered] = []
        self._uncommitted: Counts = Counter()

    @property
    def outstanding(self) -> int:
        """Batches that are written but not known to be stored."""
        return len(self._written)

    @property
    def next_batch(self) -> int:
        """Number of the next batch."""
        return self._written[-1].plan.batch + 1 if self._written else 1

    def write(self, plan: Plan, counts: Counts) -> None:
        """Take note that a plan is being written, and what it adds to the counts."""
        self._written.append(_Written(plan, counts))

    def alter(self, key: RunKey, row: int, counts: Counts) -> None:
        """Take note of what a sink counted while it wrote a run's rows up to a number."""
        self._altered.append(_Altered(key, row, counts))

    def count(self, counts: Counts) -> None:
        """Take note of what counts with the next commit."""
        self._uncommitted.update(counts)

    def change(self, key: RunKey) -> None:
        """Have a run saved with the next commit."""
        self._changed.add(key)

    def note(self, key: RunKey, position: Position) -> None:
        """Take note of how far a run is stored."""
        state = self.runs[key]
        self.progress += position.row > state.position
        state.position, state.token = position.row, position.token
        self.change(key)

    def settle(self) -> bool:
        """Commit where all runs stand and which batches are stored; tell whether any is."""
        stored = len(list(takewhile(lambda one: self._is_stored(one.plan), self._written)))
        written, self._written = self._written[:stored], self._written[stored:]
        counts = self._counts_of_stored()
        for one in written:
            counts.update(one.counts)
            self.cursor.update(one.plan.cursor())
        self._file.settle([one.plan for one in written], {key: self.runs[key] for key in self._changed}, counts)
        self.counts.update(counts)
        self._changed.clear()
        return stored > 0

    def settle_batches(self) -> bool:
        """Do the same once a batch is stored; until then a crash may forget where the runs stand."""
        return bool(self._written) and self._is_stored(self._written[0].plan) and self.settle()

    def owes(self, key: RunKey) -> bool:
        """Tell whether a run has rows that are written and not known to be stored."""
        position = self.runs[key].position
        return any((site, run) == key and position < last for one in self._written for site, run, last in one.plan.ends)

    def _is_stored(self, plan: Plan) -> bool:
        return all(self.runs[site, run].position >= last for site, run, last in plan.ends)

    def _counts_of_stored(self) -> Counts:
        """Take what sinks altered in rows that will not be written again, and what they counted beside."""
        counts, self._uncommitted = self._uncommitted, Counter()
        outstanding: list[_Altered] = []
        for one in self._altered:
            if self.runs[one.key].position >= one.row:
                counts.update(one.counts)
            else:
                outstanding.append(one)
        self._altered = outstanding
        return counts
