"""From records to rows: decoded, sorted by run, numbered. A pure function of a plan and of where the runs stood."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from eventbus._codec import decode_frame, read_frame
from eventbus.errors import DecodeError
from eventbus.journals.consumer import DROPPED_OF, Part, Plan, RunKey, RunState, Segment
from eventbus.tracking import MetricsLogged, RunFinished, RunStarted
from receivers._layout import Layout, prefixed, run_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from eventbus._event import Envelope, Event
    from eventbus._topic import Selector
    from eventbus.abc import PartitionHeader, StoredRecord

_logger = logging.getLogger("trackbus.worker")

Counts = Counter[tuple[str, str]]

TRIMMED = "trimmed before it came"
"""Why a consumer that is added later lacks records, of whatever topic they were."""


def kinds_of(kind: str, label: str) -> tuple[str, ...]:
    """Return the kinds under which something is counted: its own, and if it has a label, its journal's part of it."""
    return (kind, f"{kind}@{label}") if label else (kind,)


def part_of(counts: Mapping[tuple[str, str], int], label: str) -> Counts:
    """Return a journal's part of the counts, under the plain kinds; without a label what no other journal has."""
    part: Counts = Counter()
    for (kind, name), count in counts.items():
        plain, _, whose = kind.partition("@")
        if whose == label:
            part[plain, name] += count
        elif not label:
            part[plain, name] -= count
    return part


class Row(NamedTuple):
    """One record to store, and its number within the run, from 1."""

    number: int
    envelope: Envelope[Event]


class Rows:
    """A batch's rows by run, and what settling it adds to the counts.

    Args:
        label_of: Under which name a partition's part of the counts stands, where several journals are read.
        plan: The batch as it was planned, when its rows are built again.

    Attributes:
        rows: Rows to write, by run.
        counts: What settling the batch adds.
    """

    def __init__(self, label_of: Callable[[str], str], plan: Plan | None = None) -> None:
        self._label_of = label_of
        self.rows: dict[RunKey, list[Row]] = {}
        self.counts: Counts = Counter({(kind, name): count for kind, name, count in plan.passed_over} if plan else {})
        self._last: dict[RunKey, int] = {(site, run): first - 1 for site, run, first in plan.starts} if plan else {}
        self._segments: list[Segment] = []
        self._passed_over: Counts = Counter()
        self._is_broken = True
        self._before_gap: dict[RunKey, int] | None = None

    def number(self, key: RunKey, rows_before: int) -> int:
        """Number the next record of a run, which had so many rows before the batch."""
        self._last[key] = number = self._last.get(key, rows_before) + 1
        return number

    def add(self, key: RunKey, row: Row) -> None:
        """Add a row and count it."""
        envelope = row.envelope
        partition = envelope.origin.partition
        self.rows.setdefault(key, []).append(row)
        self.count(partition, "delivered", envelope.site)
        if isinstance(envelope.event, MetricsLogged):
            self.count(partition, "values", envelope.site, len(envelope.event.values))

    def count(self, partition: str, kind: str, name: str, count: int = 1) -> None:
        """Count what becomes of a partition's records."""
        for each in kinds_of(kind, self._label_of(partition)):
            self.counts[each, name] += count

    def cover(self, record: StoredRecord) -> None:
        """Plan a record as a row: what follows it without a break stands in one segment."""
        key = record.header.key
        if not self._is_broken and self._segments[-1].partition == key:
            self._segments[-1] = Segment(key, self._segments[-1].first, record.seq)
        else:
            self._segments.append(Segment(key, record.seq, record.seq))
        self._is_broken = False

    def pass_over(self) -> None:
        """Plan a record as no row: nobody asked for it."""
        self._is_broken = True

    def drop(self, cause: str, partition: str, count: int = 1) -> None:
        """Count what is given up, by cause and by where it was."""
        label = self._label_of(partition)
        given_up: Counts = Counter({(kind, cause): count for kind in kinds_of("dropped", label)})
        given_up.update({(kind, partition): count for kind in kinds_of(DROPPED_OF, label)})
        self.counts.update(given_up)
        self._passed_over.update(given_up)
        self._is_broken = True

    def miss(self, cause: str, partition: str, count: int = 1) -> None:
        """Count planned rows that are lost: nobody knows any more whose they were."""
        self.drop(cause, partition, count)
        if self._before_gap is None:
            self._before_gap = {key: len(rows) for key, rows in self.rows.items()}

    def close_gap(self, plan: Plan) -> None:
        """Give the rows behind the first lost one the numbers that they had: a run's last row has kept its own."""
        ends = {(site, run): last for site, run, last in plan.ends}
        for key, rows in self.rows.items() if self._before_gap is not None else ():
            missing = max(0, ends.get(key, 0) - rows[-1].number)
            first = (self._before_gap or {}).get(key, 0)
            rows[first:] = [row._replace(number=row.number + missing) for row in rows[first:]]

    def plan(self, batch: int, records: Iterable[StoredRecord]) -> Plan:
        """Return the plan by which the same rows are built again.

        Args:
            batch: Number of the batch.
            records: Everything that was read for it, in order.
        """
        return Plan(
            batch=batch,
            segments=self._segments,
            starts=[(*key, rows[0].number) for key, rows in self.rows.items()],
            ends=self.ends(),
            reached={record.header.key: record.seq for record in records},
            passed_over=[(kind, name, count) for (kind, name), count in self._passed_over.items()],
        )

    def ends(self) -> list[tuple[str, str, int]]:
        """Return per run the number of its last row."""
        return [(*key, rows[-1].number) for key, rows in self.rows.items()]


class Numbering:
    """Knows the runs, and numbers what is written to them.

    Args:
        selectors: What the consumer is subscribed to.
        runs: What is known of each run; it is brought up to date.
        layout: Whether each site has runs of its own.
        label_of: Under which name a partition's part of the counts stands, where several journals are read.
    """

    def __init__(
        self,
        selectors: Iterable[Selector],
        runs: dict[RunKey, RunState],
        layout: Layout,
        label_of: Callable[[str], str],
    ) -> None:
        self._selectors = tuple(selectors)
        self._label_of = label_of
        self._runs = runs
        self._layout: Layout = layout

    def number(self, records: Iterable[StoredRecord]) -> Rows:
        """Decode a new batch and number its rows per run, after what the run has."""
        numbered = Rows(self._label_of)
        for record in records:
            envelope = self._decode(record, numbered)
            if envelope is None:
                continue
            key = run_key(self._layout, envelope.origin, envelope.run)
            number = numbered.number(key, self._state_of(key, envelope).rows)
            numbered.cover(record)
            self._add(key, number, envelope, record.header, numbered)
        return numbered

    def miss_before(self, record: StoredRecord, numbered: Rows) -> None:
        """Count what stood before the first record that there is of a partition; nobody knows any more what it was."""
        origin = record.header.origin
        if any(one.admits_run(origin.site, origin.own_run) for one in self._selectors):
            numbered.drop(TRIMMED, record.header.key, record.seq - record.header.first)

    def number_again(self, record: StoredRecord, dead: Mapping[tuple[str, int], str], numbered: Rows) -> None:
        """Build one row of a planned batch again, under the number that it had, whatever the subscription is now.

        Args:
            record: A record that the plan covers.
            dead: Why records were put aside since, by (partition, sequence): their numbers stay unused.
            numbered: Takes the row.
        """
        if not record.body:
            numbered.miss("lost with a damaged file", record.header.key)
            return
        try:
            frame, origin = read_frame(record.body), record.header.origin
            key = run_key(self._layout, origin, frame.run)
            number = numbered.number(key, self._runs[key].rows)
            envelope = decode_frame(frame, origin, record.seq)
        except DecodeError as error:  # its class may be one that only the earlier subscription knew
            _leave_out(record, error, numbered)
            return
        reason = dead.get(envelope.id)
        if reason is None:
            self._add(key, number, envelope, record.header, numbered)
            return
        numbered.drop(f"dead letter: {reason}", record.header.key)
        if number > self._runs[key].position:  # its run goes on or ends all the same: opening it clears what it left
            self._learn(key, envelope, record.header)

    def _add(
        self, key: RunKey, number: int, envelope: Envelope[Event], header: PartitionHeader, numbered: Rows
    ) -> None:
        state = self._runs[key]
        if number > state.position:  # what is stored has said its part before the crash
            self._learn(key, envelope, header)
        state.rows = max(state.rows, number)
        numbered.add(key, Row(number, self._laid_out(envelope, numbered)))

    def _laid_out(self, envelope: Envelope[Event], numbered: Rows) -> Envelope[Event]:
        if self._layout == "per_site":
            return envelope
        event, shortened = prefixed(envelope.event, envelope.site)
        if shortened:
            numbered.count(envelope.origin.partition, "altered", "shortened key", shortened)
        return replace(envelope, event=event)

    def _decode(self, record: StoredRecord, numbered: Rows) -> Envelope[Event] | None:
        try:
            frame, origin = read_frame(record.body), record.header.origin
            selectors = [one for one in self._selectors if one.admits_run(origin.site, frame.run or origin.own_run)]
            if not any(one.admits(frame.topic, frame.in_scope()) for one in selectors):
                numbered.pass_over()  # its type may be one that only its own subscribers know
                return None
            envelope = decode_frame(frame, origin, record.seq)
        except DecodeError as error:
            _leave_out(record, error, numbered)
            return None
        if any(one.matches(envelope.topic, type(envelope.event), envelope.scope) for one in selectors):
            return envelope
        numbered.pass_over()
        return None

    def _state_of(self, key: RunKey, envelope: Envelope[Event]) -> RunState:
        state = self._runs.get(key)
        if state is None:
            state = RunState(name=key[1], group=envelope.origin.job, started_ns=envelope.time_ns)
            self._runs[key] = state
        return state

    def _learn(self, key: RunKey, envelope: Envelope[Event], header: PartitionHeader) -> None:
        """Note what a record says of its run: its name, who writes it, and whether its site's part goes on."""
        state, event = self._runs[key], envelope.event
        state.status = None
        if header.origin.again:  # its sites have gone on without it: the run ends again as it ended
            return
        part = state.parts.setdefault(envelope.site, Part())
        if header.parent and part.status is not None:  # a forked child's last words: it ends again as it ended
            return
        if isinstance(event, RunFinished):
            part.writers, part.status, part.reason = [], event.status, event.reason
            return
        if isinstance(event, RunStarted):
            state.name, state.group = event.name, event.group or envelope.origin.job
        part.status, part.reason = None, ""
        writer = header.parent or header.key  # a child's end is none of the run's: its parent's is
        if writer not in part.writers:
            part.writers = sorted({*part.writers, writer}.difference(header.after))


def _leave_out(record: StoredRecord, error: DecodeError, numbered: Rows) -> None:
    numbered.drop("unreadable record", record.header.key)
    _logger.warning("record %s of %s is left out: %s", record.seq, record.header.key, error)


def split_after_end(rows: list[Row]) -> Iterator[list[Row]]:
    """Split a run's rows after each row that ends the run."""
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if isinstance(row.envelope.event, RunFinished):
            yield part
            part = []
    if part:
        yield part
