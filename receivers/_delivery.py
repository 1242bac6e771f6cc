"""From journal to sinks: plan, write, flush, settle. Knows nothing of processes.

A batch is planned before it is written: which stretches of which partitions it holds and where each run's row numbers
begin are committed to the consumer's file. Rows are a pure function of the plan, so after a crash the same rows are
built again and each sink leaves out what its tracker has.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from eventbus._blob_names import blobs_in, may_name_blobs
from eventbus.abc import TrackerRun
from eventbus.errors import TrackbusError
from eventbus.tracking import RunFinished, RunStatus
from receivers._layout import Layout, verdict
from receivers._ledger import OUTSTANDING, Ledger
from receivers._rows import Counts, Numbering, Rows, kinds_of, split_after_end
from receivers._suspects import FAILURES
from receivers._uri import redacted
from receivers.abc import Position, Row, RunInfo, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventbus._topic import Selector
    from eventbus.abc import Cursor, StoredRecord
    from eventbus.journals._partition_reader import PartitionReader
    from eventbus.journals.consumer import ConsumerFile, Part, Plan, RunKey, Segment
    from receivers._sources import Journals
    from receivers._suspects import Suspects

SLOWEST = 4_000_000
"""Bytes per second that storing the files of records takes at least: a slow tracker is none that hangs."""

LONGEST = 21_600.0
"""Seconds that a step may take beyond its deadline at most, whatever sizes its records claim."""

OPEN_RUNS = 64
"""Sinks that are open at once: each holds files, some a process. The one written to longest ago lets go of its run."""

_logger = logging.getLogger("trackbus.worker")


class StuckError(TrackbusError, RuntimeError):
    """Raised when a sink takes rows and never says that they are stored."""


class Announce(Protocol):
    """Told of a step, and of the seconds that it may take beyond its deadline."""

    def __call__(self, name: str, seconds: float = 0.0, /) -> None:
        """Tell it."""
        ...


class Delivery:
    """Delivers one consumer's records.

    Attributes:
        read_to: Position up to which everything is planned.

    Args:
        reader: Reads the journals.
        file: The consumer's own file.
        selectors: What it is subscribed to.
        make_sink: Makes the sink of one run.
        announce: Told before a step that has a deadline: `opening`, `batch`, `isolating`, `closing`; and while it
            lasts, with the seconds that it may take beyond it.
        layout: Whether each site has runs of its own.
        suspects: Knows what earlier workers failed at.
        bury: Puts a record among the dead letters, with the reason.
        opened: Told what the tracker calls a run that was opened.
    """

    def __init__(
        self,
        reader: Journals,
        file: ConsumerFile,
        selectors: Iterable[Selector],
        make_sink: Callable[[], Sink[Any]],
        announce: Announce,
        *,
        layout: Layout = "per_site",
        suspects: Suspects,
        bury: Callable[[StoredRecord, str], None],
        opened: Callable[[RunKey, TrackerRun], None] = lambda _key, _run: None,
    ) -> None:
        self._reader = reader
        self._file = file
        self._make_sink = make_sink
        self._announce = announce
        self._suspects = suspects
        self._bury = bury
        self._opened = opened
        self._dead = file.dead()
        self._ledger = Ledger(file)
        self._runs = self._ledger.runs
        self._layout: Layout = layout
        self._numbering = Numbering(selectors, self._runs, layout, reader.label_of)
        self._sinks: dict[RunKey, Sink[Any]] = {}
        self._named: dict[RunKey, int] = {}  # bytes that the records of a run name which are not known to be stored
        self.read_to: Cursor = dict(self._ledger.cursor)

    @property
    def cursor(self) -> Cursor:
        """Position up to which everything is stored."""
        return self._ledger.cursor

    @property
    def counts(self) -> list[tuple[str, str, int]]:
        """Totals by (kind, name) since the consumer exists."""
        return [(kind, name, value) for (kind, name), value in sorted(self._ledger.counts.items())]

    @property
    def outstanding(self) -> int:
        """Batches that are written but not known to be stored."""
        return self._ledger.outstanding

    @property
    def is_full(self) -> bool:
        """Whether so much is outstanding that no more may be written."""
        return self._ledger.outstanding >= OUTSTANDING

    @property
    def progress(self) -> int:
        """How often a tracker has proved that it stored something."""
        return self._ledger.progress

    def recover(self) -> None:
        """Write again what was planned before a crash; sinks leave out what their trackers have."""
        self._put_aside()
        for plan in self._file.plans():
            numbered = self._rebuild(plan)
            self.read_to.update(plan.cursor())
            self._write(replace(plan, ends=numbered.ends()), numbered)
        self.flush()
        if self._suspects.narrowing:  # and so each part of it was stored
            self._suspects.clear()

    def _put_aside(self) -> None:
        """Put the event aside that is proved to end every worker."""
        part = self._suspects.condemned
        if part is None:
            return
        with suppress(KeyError):  # its partition is gone: there is nothing left to put aside
            for record in self._reader.stretch(part.partition, part.seq, part.seq):
                self._bury(record, self._suspects.reason)
        self._dead[part.partition, part.seq] = self._suspects.reason
        self._suspects.put_aside(part)

    def _rebuild(self, plan: Plan) -> Rows:
        numbered = Rows(self._reader.label_of, plan)
        for segment in plan.segments:
            for record in self._planned(segment, numbered):
                self._numbering.number_again(record, self._dead, numbered)
        for site, run, _ in plan.starts:  # a record that was put aside changes its run, though it makes no row
            self._ledger.change((site, run))
        numbered.close_gap(plan)
        return numbered

    def _planned(self, segment: Segment, numbered: Rows) -> list[StoredRecord]:
        try:
            return self._reader.stretch(segment.partition, segment.first, segment.last)
        except KeyError:
            numbered.miss("partition gone", segment.partition, segment.last - segment.first + 1)
            _logger.warning("%s is gone: records %s to %s are lost", segment.partition, segment.first, segment.last)
            return []

    def deliver(self, records: list[StoredRecord]) -> None:
        """Plan one batch and write it."""
        numbered = self._numbering.number(records)
        self._count_trimmed(records, numbered)
        plan = numbered.plan(self._ledger.next_batch, records)
        self.read_to.update(plan.cursor())
        self._file.add_plan(plan, {key: self._runs[key] for key in numbered.rows})
        self._write(plan, numbered)
        self.flush()

    def _count_trimmed(self, records: list[StoredRecord], numbered: Rows) -> None:
        """Count what a partition had lost to the journal's bound before this consumer came to it."""
        for key, record in {record.header.key: record for record in reversed(records)}.items():
            is_new = key not in self.read_to and not record.header.origin.again  # dead letters are few of many
            if is_new and record.seq > record.header.first and not self._reader.has_gaps(key):
                self._numbering.miss_before(record, numbered)

    # --- writing ------------------------------------------------------------------------------------------------

    def _write(self, plan: Plan, numbered: Rows) -> None:
        self._ledger.write(plan, numbered.counts)
        for key, rows in numbered.rows.items():
            for part in split_after_end(rows) if self._layout == "per_site" else [rows]:
                if part[-1].number > self._runs[key].position:  # else it is stored, and the run closed if it ends it
                    self._write_part(key, part)

    def _write_part(self, key: RunKey, rows: list[Row]) -> None:
        if not self._suspects.narrowing:
            self._write_rows(key, rows, "batch")
            return
        if key not in self._sinks:
            self._open(key)
            self._flush_sink(key, "isolating")  # what the tracker has may not come again in another part
        for few in self._suspects.parts([row for row in rows if row.number > self._runs[key].position]):
            self._write_rows(key, few, "isolating")
            self._secure(key, few[-1].number)

    def _write_rows(self, key: RunKey, rows: list[Row], phase: str) -> None:
        sink = self._sinks.get(key) or self._open(key)
        self._sinks[key] = self._sinks.pop(key)  # the last one to be let go
        self._named[key] = self._named.get(key, 0) + sum(_bytes_named(row) for row in rows)
        self._begin(phase, sink, self._named[key])
        with self._suspects.blaming(rows):
            sink.write(rows)
        label = self._reader.label_of(rows[-1].envelope.origin.partition)
        self._ledger.alter(key, rows[-1].number, _taken_counts(sink, label))
        last = rows[-1].envelope.event
        if isinstance(last, RunFinished) and self._layout == "per_site":  # else its other sites may go on
            self._close(key, RunStatus(last.status), last.reason)

    def _secure(self, key: RunKey, row: int) -> None:
        """Have rows stored before others are at risk."""
        if key in self._sinks:
            self._flush_sink(key, "isolating")
        if self._runs[key].position < row:
            self._close(key, None)
        self._ledger.settle()
        self._suspects.passed()

    def _open(self, key: RunKey) -> Sink[Any]:
        while len(self._sinks) >= OPEN_RUNS:
            self._close(next(iter(self._sinks)), None)
        self._announce("opening")
        state = self._runs[key]
        sink = self._sinks[key] = self._make_sink()
        info = RunInfo(id=key[1], site=key[0], name=state.name, group=state.group, started_ns=state.started_ns)
        with self._suspects.step(key):
            sink.open(info, Position(state.position, state.token))
        if sink.tracker_run is not None:
            state.tracker = _shown(sink.tracker_run)
            self._ledger.change(key)
            self._opened(key, state.tracker)
        return sink

    def _close(self, key: RunKey, status: RunStatus | None, reason: str = "") -> None:
        sink = self._sinks.get(key) or self._open(key)
        self._begin("closing", sink, self._named.pop(key, 0))
        with self._suspects.blaming():
            position = sink.close(status, reason)
        del self._sinks[key]
        self._note(key, position, sink)
        self._ledger.progress += 1
        if status is not None:
            self._runs[key].status = status.value

    def _begin(self, phase: str, sink: Sink[Any], named: int) -> None:
        """Announce a step; the more bytes its records name, the longer it may take. A sink may know better."""
        if named:
            self._announce(phase, min(named / SLOWEST, LONGEST))
        else:
            self._announce(phase)
        sink.take_time = partial(self._announce, phase)

    def _note(self, key: RunKey, position: Position, sink: Sink[Any]) -> None:
        self._ledger.note(key, position)
        self._ledger.count(_taken_counts(sink))

    # --- settling -----------------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """Ask the sinks how far they got and settle what is stored; tell whether the cursor moved."""
        if not self.outstanding:
            return False
        for key in self._sinks:
            if self._runs[key].position < self._runs[key].rows:
                self._flush_sink(key, "batch")
        return self._ledger.settle_batches()

    def _flush_sink(self, key: RunKey, phase: str) -> None:
        sink = self._sinks[key]
        self._begin(phase, sink, self._named.get(key, 0))
        with self._suspects.blaming():
            position = sink.flush()
        self._note(key, position, sink)
        if position.row >= self._runs[key].rows:
            self._named.pop(key, None)

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
                    self._ledger.change(key)
            if (found := verdict(state.parts)) is not None:
                self._end_run(key, *found)

    def _end_run(self, key: RunKey, status: RunStatus, reason: str) -> None:
        """End a run beside its rows; where that has ended every worker so far, let go of it as it is."""
        if self._runs[key].failed_ends >= FAILURES:
            self._ledger.count(Counter({("altered", "end of a run not stored"): 1}))
            self._ledger.change(key)
            self._runs[key].status = status.value
        else:
            if key not in self._sinks:
                self._open(key)
            blames_rows = self._ledger.owes(key)
            with nullcontext() if blames_rows else self._suspects.step(key, ends=True):
                self._close(key, status, reason)
        self._ledger.settle()

    def _ended(self, writers: set[str], ending: str) -> dict[str, bool]:
        """Return which of the partitions have ended, and whether in order; their forked children's are read too."""
        partitions = self._reader.partitions() if writers else []
        orderly = {key: False for key in writers if self._reader.is_gone(key)}
        unread = {one.header.parent for one in partitions if one.header.parent and not self._is_read(one)}
        for partition in partitions:
            key = partition.header.key
            is_over = key not in unread and partition.ended() and self._is_read(partition)
            if key in writers and (key == ending or is_over):
                orderly[key] = key == ending or partition.closed_in_order()
        return orderly

    def _is_read(self, partition: PartitionReader) -> bool:
        return self.read_to.get(partition.header.key, 0) >= partition.end()

    def leave(self) -> None:
        """Let go of the runs that go on without this worker."""
        for key in list(self._sinks):
            self._close(key, None)
        self.flush()
        self._ledger.settle()

    def give_up(self, seconds: float) -> None:
        """Treat what is written and not stored as what a sink hangs at.

        Raises:
            StuckError: Always.
        """
        with self._suspects.blaming():
            raise StuckError(f"the sink has stored nothing for {seconds:g} s of what it was given")

    def abandon(self) -> bool:
        """Let go of all runs as a crash would; tell whether this process may open them again."""
        return min([sink.abandon() for sink in self._sinks.values()], default=True)  # each is asked


def _bytes_named(row: Row) -> int:
    event = row.envelope.event
    return sum(blob.size for blob in blobs_in(event)) if may_name_blobs(event.event_name) else 0


def _shown(run: TrackerRun) -> TrackerRun:
    """Leave out what may not be shown, whatever a sink says."""
    try:
        return TrackerRun(run.id, redacted(run.url))
    except ValueError:
        return TrackerRun(run.id, "")


def _end_part(part: Part, *, orderly: bool) -> None:
    part.status = (RunStatus.FINISHED if orderly else RunStatus.KILLED).value
    part.reason = "" if orderly else "the writing process vanished"


def _taken_counts(sink: Sink[Any], label: str = "") -> Counts:
    kinds = kinds_of("altered", label)
    counts: Counts = Counter({(kind, cause): count for cause, count in sink.counts.items() for kind in kinds})
    sink.counts.clear()
    return counts
