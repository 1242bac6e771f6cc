"""From journal to sinks: plan, write, flush, settle. Knows nothing of processes.

A batch is planned before it is written: which stretches of which partitions it holds and where each run's row numbers
begin are committed to the consumer's file. Rows are a pure function of the plan, so after a crash the same rows are
built again and each sink leaves out what its tracker has.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from eventbus.journals.consumer import Part, Plan, RunKey, Segment
from eventbus.tracking import RunFinished, RunStatus
from receivers._layout import Layout, verdict
from receivers._rows import Counts, Numbering, Rows, segments_of, split_after_end
from receivers.abc import Position, Row, RunInfo, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventbus._topic import Selector
    from eventbus.abc import Cursor, StoredRecord
    from eventbus.journals._reader import JournalReader, PartitionReader
    from eventbus.journals.consumer import ConsumerFile

OPEN_RUNS = 64
"""Sinks that are open at once: each holds files, some a process. The one written to longest ago lets go of its run."""

_logger = logging.getLogger("trackbus.worker")


@dataclass(slots=True)
class _Written:
    """A plan whose rows are written, until its sinks have stored them."""

    plan: Plan
    counts: Counts = field(default_factory=Counter[tuple[str, str]])


class _Altered(NamedTuple):
    """What a sink counted while it wrote a run's rows up to a number: they count once these are stored."""

    key: RunKey
    row: int
    counts: Counts


class Delivery:
    """Delivers one consumer's records.

    Args:
        reader: Reads the journal.
        file: The consumer's own file.
        selectors: What it is subscribed to.
        make_sink: Makes the sink of one run.
        announce: Told before a step that has a deadline: `opening`, `batch`, `closing`.
        layout: Whether each site has runs of its own.
    """

    def __init__(
        self,
        reader: JournalReader,
        file: ConsumerFile,
        selectors: Iterable[Selector],
        make_sink: Callable[[], Sink[Any]],
        announce: Callable[[str], None],
        *,
        layout: Layout = "per_site",
    ) -> None:
        self._reader = reader
        self._file = file
        self._make_sink = make_sink
        self._announce = announce
        self._runs = file.runs()
        self._layout: Layout = layout
        self._numbering = Numbering(selectors, self._runs, layout)
        self._changed: set[RunKey] = set()
        self._sinks: dict[RunKey, Sink[Any]] = {}
        self._written: list[_Written] = []
        self._altered: list[_Altered] = []
        self._uncommitted: Counts = Counter()
        self._cursor = file.cursor()
        self._counts: Counts = Counter(file.counts())
        self.read_to: Cursor = dict(self._cursor)

    @property
    def cursor(self) -> Cursor:
        """Position up to which everything is stored."""
        return self._cursor

    @property
    def counts(self) -> list[tuple[str, str, int]]:
        """Totals by (kind, name) since the consumer exists."""
        return [(kind, name, value) for (kind, name), value in sorted(self._counts.items())]

    @property
    def outstanding(self) -> int:
        """Batches that are written but not known to be stored."""
        return len(self._written)

    def recover(self) -> None:
        """Write again what was planned before a crash; sinks leave out what their trackers have.

        The rows end where they ended before, unless the consumer is subscribed to something else now.
        """
        given: dict[RunKey, int] = {}
        for plan in self._file.plans():
            numbered = Rows()
            records = [record for segment in plan.segments for record in self._planned(segment, numbered)]
            starts = {(site, run): max(first, given.get((site, run), 0) + 1) for site, run, first in plan.starts}
            self._numbering.number(records, starts, numbered)
            given.update({key: rows[-1].number for key, rows in numbered.rows.items()})
            self.read_to.update(plan.cursor())
            self._write(replace(plan, ends=numbered.ends()), numbered)
        self.flush()

    def _planned(self, segment: Segment, numbered: Rows) -> list[StoredRecord]:
        try:
            return self._reader.partition(segment.partition).between(segment.first, segment.last)
        except KeyError:
            numbered.drop("partition gone", segment.partition, segment.last - segment.first + 1)
            _logger.warning("%s is gone: records %s to %s are lost", segment.partition, segment.first, segment.last)
            return []

    def deliver(self, records: list[StoredRecord]) -> None:
        """Plan one batch and write it."""
        numbered = Rows()
        self._numbering.number(records, {}, numbered)
        batch = self._written[-1].plan.batch + 1 if self._written else 1
        plan = Plan(
            batch=batch,
            segments=segments_of(records),
            starts=[(*key, rows[0].number) for key, rows in numbered.rows.items()],
            ends=numbered.ends(),
        )
        self.read_to.update(plan.cursor())
        self._file.add_plan(plan, {key: self._runs[key] for key in numbered.rows})
        self._write(plan, numbered)
        self.flush()

    # --- writing ------------------------------------------------------------------------------------------------

    def _write(self, plan: Plan, numbered: Rows) -> None:
        self._written.append(_Written(plan, numbered.counts))
        for key, rows in numbered.rows.items():
            for part in split_after_end(rows) if self._layout == "per_site" else [rows]:
                self._write_part(key, part)

    def _write_part(self, key: RunKey, rows: list[Row]) -> None:
        if rows[-1].number <= self._runs[key].position:  # it is stored, and the run closed if it ends it
            return
        sink = self._sinks.get(key) or self._open(key)
        self._sinks[key] = self._sinks.pop(key)  # the last one to be let go
        self._announce("batch")
        sink.write(rows)
        self._altered.append(_Altered(key, rows[-1].number, _taken_counts(sink)))
        last = rows[-1].envelope.event
        if isinstance(last, RunFinished) and self._layout == "per_site":  # else its other sites may go on
            self._close(key, RunStatus(last.status), last.reason)

    def _open(self, key: RunKey) -> Sink[Any]:
        while len(self._sinks) >= OPEN_RUNS:
            self._close(next(iter(self._sinks)), None)
        self._announce("opening")
        state = self._runs[key]
        sink = self._make_sink()
        info = RunInfo(id=key[1], site=key[0], name=state.name, group=state.group, started_ns=state.started_ns)
        sink.open(info, Position(state.position, state.token))
        self._sinks[key] = sink
        return sink

    def _close(self, key: RunKey, status: RunStatus | None, reason: str = "") -> None:
        sink = self._sinks.get(key) or self._open(key)
        self._announce("closing")
        position = sink.close(status, reason)
        del self._sinks[key]
        self._note(key, position, sink)
        if status is not None:
            self._runs[key].status = status.value

    def _note(self, key: RunKey, position: Position, sink: Sink[Any]) -> None:
        state = self._runs[key]
        state.position, state.token = position.row, position.token
        self._changed.add(key)
        self._uncommitted.update(_taken_counts(sink))

    # --- settling -----------------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """Ask the sinks how far they got and settle what is stored; tell whether the cursor moved."""
        if not self._written:
            return False
        for key, sink in self._sinks.items():
            if self._runs[key].position < self._runs[key].rows:
                self._announce("batch")
                self._note(key, sink.flush(), sink)
        stored = 0
        while stored < len(self._written) and self._is_stored(self._written[stored].plan):
            stored += 1
        if stored:
            self._settle(stored)
        return stored > 0

    def _is_stored(self, plan: Plan) -> bool:
        return all(self._runs[site, run].position >= last for site, run, last in plan.ends)

    def _settle(self, stored: int) -> None:
        """Commit that the first so many batches are stored, and where all runs stand."""
        written, self._written = self._written[:stored], self._written[stored:]
        counts = self._counts_of_stored()
        for one in written:
            counts.update(one.counts)
            self._cursor.update(one.plan.cursor())
        self._file.settle([one.plan for one in written], {key: self._runs[key] for key in self._changed}, counts)
        self._counts.update(counts)
        self._changed.clear()

    def _counts_of_stored(self) -> Counts:
        """Take what sinks altered in rows that will not be written again, and what they counted beside."""
        counts, self._uncommitted = self._uncommitted, Counter()
        outstanding: list[_Altered] = []
        for one in self._altered:
            if self._runs[one.key].position >= one.row:
                counts.update(one.counts)
            else:
                outstanding.append(one)
        self._altered = outstanding
        return counts

    # --- the ends of runs ---------------------------------------------------------------------------------------

    def end_lost_runs(self, ending: str = "") -> None:
        """Close the runs all of whose sites have ended, also without saying how.

        A partition that was closed in order, and the one named `ending`, end as FINISHED; one whose writer vanished
        ends as KILLED, and so does a site's part of a run that has one of these.
        """
        unfinished = {key: state for key, state in self._runs.items() if state.status is None}
        writers = {one for state in unfinished.values() for part in state.parts.values() for one in part.writers}
        ended = self._ended(writers, ending)
        for key, state in unfinished.items():
            for part in state.parts.values():
                if part.status is None and ended.keys() >= set(part.writers):
                    _end_part(part, orderly=all(ended[writer] for writer in part.writers))
                    self._changed.add(key)
            if (found := verdict(state.parts)) is not None:
                self._close(key, *found)
                self._settle(0)

    def _ended(self, writers: set[str], ending: str) -> dict[str, bool]:
        """Return which of the partitions have ended, and whether in order."""
        orderly: dict[str, bool] = {}
        for partition in self._reader.partitions() if writers else ():
            key = partition.header.key
            if key in writers and (key == ending or self._is_over(partition)):
                orderly[key] = key == ending or partition.closed_in_order()
        return orderly

    def _is_over(self, partition: PartitionReader) -> bool:
        return partition.ended() and self.read_to.get(partition.header.key, 0) >= partition.end()

    def leave(self) -> None:
        """Let go of the runs that go on without this worker."""
        for key in list(self._sinks):
            self._close(key, None)
        self.flush()
        self._settle(0)


def _end_part(part: Part, *, orderly: bool) -> None:
    part.status = (RunStatus.FINISHED if orderly else RunStatus.KILLED).value
    part.reason = "" if orderly else "the writing process vanished"


def _taken_counts(sink: Sink[Any]) -> Counts:
    counts: Counts = Counter({("altered", cause): count for cause, count in sink.counts.items()})
    sink.counts.clear()
    return counts
