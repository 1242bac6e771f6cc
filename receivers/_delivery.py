"""From journal to sinks: plan, write, flush, settle. Knows nothing of processes.

A batch is planned before it is written: which stretches of which partitions it holds and where each run's row numbers
begin are committed to the consumer's file. Rows are a pure function of the plan, so after a crash the same rows are
built again and each sink leaves out what its tracker has.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eventbus._codec import decode
from eventbus.errors import DecodeError
from eventbus.journals.consumer import Plan, RunKey, RunState, Segment
from eventbus.tracking import MetricsLogged, RunFinished, RunStarted, RunStatus
from receivers.abc import Position, Row, RunInfo, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from eventbus._event import Envelope, Event
    from eventbus._topic import Selector
    from eventbus.abc import Cursor, StoredRecord
    from eventbus.journals._reader import JournalReader, PartitionReader
    from eventbus.journals.consumer import ConsumerFile

_logger = logging.getLogger("trackbus.worker")

Counts = Counter[tuple[str, str]]


@dataclass(slots=True)
class _Written:
    """A plan whose rows are written, until its sinks have stored them."""

    plan: Plan
    counts: Counts = field(default_factory=Counter[tuple[str, str]])


@dataclass(slots=True)
class _Open:
    """A sink that fills a run now."""

    sink: Sink[Any]
    flushed: Position


class Delivery:
    """Delivers one consumer's records.

    Args:
        reader: Reads the journal.
        file: The consumer's own file.
        selectors: What it is subscribed to.
        make_sink: Makes the sink of one run.
        announce: Told before a step that has a deadline: `opening`, `batch`, `closing`.
    """

    def __init__(
        self,
        reader: JournalReader,
        file: ConsumerFile,
        selectors: Iterable[Selector],
        make_sink: Callable[[], Sink[Any]],
        announce: Callable[[str], None],
    ) -> None:
        self._reader = reader
        self._file = file
        self._selectors = tuple(selectors)
        self._make_sink = make_sink
        self._announce = announce
        self._runs = file.runs()
        self._changed: set[RunKey] = set()
        self._sinks: dict[RunKey, _Open] = {}
        self._written: list[_Written] = []
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
        """Write again what was planned before a crash; sinks leave out what their trackers have."""
        for plan in self._file.plans():
            records: list[StoredRecord] = []
            for segment in plan.segments:
                records += self._reader.partition(segment.partition).between(segment.first, segment.last)
            self._write(plan, self._number(records, {(site, run): first for site, run, first in plan.starts}))
            self.read_to.update(plan.cursor())
        self.flush()

    def deliver(self, records: list[StoredRecord]) -> None:
        """Plan one batch and write it."""
        rows = self._number(records, {})
        batch = self._written[-1].plan.batch + 1 if self._written else 1
        plan = Plan(
            batch=batch,
            segments=_segments(records),
            starts=[(*key, numbered[0].number) for key, numbered in rows.rows.items()],
            ends=[(*key, numbered[-1].number) for key, numbered in rows.rows.items()],
        )
        self.read_to.update(plan.cursor())
        self._file.add_plan(plan, {key: self._runs[key] for key in rows.rows})
        self._write(plan, rows)
        self.flush()

    # --- rows ---------------------------------------------------------------------------------------------------

    def _number(self, records: Iterable[StoredRecord], starts: dict[RunKey, int]) -> _Rows:
        """Decode a batch and number its rows per run, from `starts` or after what the run has."""
        numbered = _Rows()
        for record in records:
            envelope = self._decode(record, numbered)
            if envelope is None:
                continue
            key = (envelope.site, envelope.run or f"{envelope.origin.job}-{envelope.origin.incarnation}")
            state = self._run_state(key, envelope)
            rows = numbered.rows.setdefault(key, [])
            number = rows[-1].number + 1 if rows else starts.get(key, state.rows + 1)
            state.rows = max(state.rows, number)
            rows.append(Row(number, envelope))
            numbered.count(envelope)
        return numbered

    def _decode(self, record: StoredRecord, numbered: _Rows) -> Envelope[Event] | None:
        try:
            envelope = decode(record.body, record.header.origin, record.seq)
        except DecodeError as error:
            numbered.counts["dropped", "unreadable record"] += 1
            _logger.warning("record %s of %s is left out: %s", record.seq, record.header.key, error)
            return None
        wanted = any(one.matches(envelope.topic, type(envelope.event), envelope.scope) for one in self._selectors)
        return envelope if wanted else None

    def _run_state(self, key: RunKey, envelope: Envelope[Event]) -> RunState:
        state = self._runs.get(key)
        if state is None:
            state = RunState(name=key[1], group=envelope.origin.job, started_ns=envelope.time_ns)
            self._runs[key] = state
        if isinstance(envelope.event, RunStarted):
            state.name, state.group = envelope.event.name, envelope.event.group or envelope.origin.job
        if not isinstance(envelope.event, RunFinished):
            state.status = None
        state.partition = envelope.origin.partition
        return state

    # --- writing ------------------------------------------------------------------------------------------------

    def _write(self, plan: Plan, numbered: _Rows) -> None:
        self._written.append(_Written(plan, numbered.counts))
        for key, rows in numbered.rows.items():
            for part in _split_after_end(rows):
                self._write_part(key, part)

    def _write_part(self, key: RunKey, rows: list[Row]) -> None:
        opened = self._sinks.get(key) or self._open(key)
        self._announce("batch")
        opened.sink.write(rows)
        last = rows[-1].envelope.event
        if isinstance(last, RunFinished):
            self._close(key, RunStatus(last.status), last.reason)

    def _open(self, key: RunKey) -> _Open:
        self._announce("opening")
        state = self._runs[key]
        committed = Position(state.position, state.token)
        sink = self._make_sink()
        info = RunInfo(id=key[1], site=key[0], name=state.name, group=state.group, started_ns=state.started_ns)
        row = sink.open(info, committed)
        opened = self._sinks[key] = _Open(sink, Position(max(row, committed.row), committed.token))
        return opened

    def _close(self, key: RunKey, status: RunStatus | None, reason: str = "") -> None:
        opened = self._sinks.get(key)
        if opened is None and status is None:
            return
        opened = opened or self._open(key)
        self._announce("closing")
        position = opened.sink.close(status, reason)
        del self._sinks[key]
        self._note(key, position, opened.sink)
        if status is not None:
            self._runs[key].status = status.value

    def _note(self, key: RunKey, position: Position, sink: Sink[Any]) -> None:
        state = self._runs[key]
        state.position, state.token = position.row, position.token
        self._changed.add(key)
        if sink.counts and self._written:
            self._written[-1].counts.update({("altered", cause): count for cause, count in sink.counts.items()})
            sink.counts.clear()

    # --- settling -----------------------------------------------------------------------------------------------

    def flush(self) -> bool:
        """Ask the sinks how far they got and settle what is stored; tell whether the cursor moved."""
        if not self._written:
            return False
        self._announce("batch")
        for key, opened in self._sinks.items():
            if self._runs[key].position < self._runs[key].rows:
                opened.flushed = opened.sink.flush()
                self._note(key, opened.flushed, opened.sink)
        stored = 0
        while stored < len(self._written) and self._is_stored(self._written[stored].plan):
            stored += 1
        return self._settle(self._written[:stored])

    def _is_stored(self, plan: Plan) -> bool:
        return all(self._runs[site, run].position >= last for site, run, last in plan.ends)

    def _settle(self, written: list[_Written]) -> bool:
        if not written:
            return False
        counts: Counts = Counter()
        for one in written:
            counts.update(one.counts)
            self._cursor.update(one.plan.cursor())
        self._file.settle([one.plan for one in written], {key: self._runs[key] for key in self._changed}, counts)
        self._counts.update(counts)
        self._changed.clear()
        del self._written[: len(written)]
        return True

    # --- the ends of runs ---------------------------------------------------------------------------------------

    def end_lost_runs(self, ending: str = "") -> None:
        """Close the runs whose writer has ended without saying how.

        A partition that was closed in order, and the one named `ending`, end as FINISHED; one whose writer vanished
        ends as KILLED.
        """
        unfinished = {state.partition for state in self._runs.values() if state.status is None}
        for partition in self._reader.partitions() if unfinished else ():
            key = partition.header.key
            if key in unfinished and (key == ending or self._is_over(partition)):
                self._end_runs_of(key, orderly=key == ending or partition.closed_in_order())

    def _is_over(self, partition: PartitionReader) -> bool:
        return partition.ended() and self._cursor.get(partition.header.key, 0) >= partition.end()

    def _end_runs_of(self, partition: str, *, orderly: bool) -> None:
        status = RunStatus.FINISHED if orderly else RunStatus.KILLED
        reason = "" if orderly else "the writing process vanished"
        keys = [key for key, state in self._runs.items() if state.partition == partition and state.status is None]
        for key in keys:
            self._close(key, status, reason)
        self._file.settle([], {key: self._runs[key] for key in keys}, {})

    def leave(self) -> None:
        """Let go of the runs that go on without this worker."""
        for key in list(self._sinks):
            self._close(key, None)
        self.flush()


class _Rows:
    """A batch's rows by run, and what settling it adds to the counts."""

    def __init__(self) -> None:
        self.rows: dict[RunKey, list[Row]] = {}
        self.counts: Counts = Counter()

    def count(self, envelope: Envelope[Event]) -> None:
        self.counts["delivered", envelope.site] += 1
        if isinstance(envelope.event, MetricsLogged):
            self.counts["values", envelope.site] += len(envelope.event.values)


def _segments(records: Iterable[StoredRecord]) -> list[Segment]:
    segments: list[Segment] = []
    for record in records:
        last = segments[-1] if segments else None
        if last is not None and last.partition == record.header.key:
            segments[-1] = Segment(last.partition, last.first, record.seq)
        else:
            segments.append(Segment(record.header.key, record.seq, record.seq))
    return segments


def _split_after_end(rows: list[Row]) -> Iterator[list[Row]]:
    """Split a run's rows after each row that ends the run."""
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if isinstance(row.envelope.event, RunFinished):
            yield part
            part = []
    if part:
        yield part
