"""From records to rows: decoded, sorted by run, numbered. A pure function of a plan and of where the runs stood."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from msgspec.structs import replace

from eventbus._codec import decode_frame, read_frame
from eventbus.errors import DecodeError
from eventbus.journals.consumer import DROPPED_OF, Part, RunKey, RunState, Segment
from eventbus.tracking import MetricsLogged, RunFinished, RunStarted
from receivers._layout import Layout, prefixed, run_key
from receivers.abc import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventbus._event import Envelope, Event
    from eventbus._topic import Selector
    from eventbus.abc import PartitionHeader, StoredRecord

_logger = logging.getLogger("trackbus.worker")

Counts = Counter[tuple[str, str]]


class Rows:
    """A batch's rows by run, and what settling it adds to the counts."""

    def __init__(self) -> None:
        self.rows: dict[RunKey, list[Row]] = {}
        self.counts: Counts = Counter()

    def ends(self) -> list[tuple[str, str, int]]:
        """Return per run the number of its last row."""
        return [(*key, rows[-1].number) for key, rows in self.rows.items()]

    def drop(self, cause: str, partition: str, count: int = 1) -> None:
        """Count what is given up, by cause and by where it was."""
        self.counts["dropped", cause] += count
        self.counts[DROPPED_OF, partition] += count

    def count(self, envelope: Envelope[Event]) -> None:
        """Count a record that becomes a row."""
        self.counts["delivered", envelope.site] += 1
        if isinstance(envelope.event, MetricsLogged):
            self.counts["values", envelope.site] += len(envelope.event.values)


class Numbering:
    """Knows the runs, and numbers what is written to them.

    Args:
        selectors: What the consumer is subscribed to.
        runs: What is known of each run; it is brought up to date.
        layout: Whether each site has runs of its own.
    """

    def __init__(
        self, selectors: Iterable[Selector], runs: dict[RunKey, RunState], layout: Layout = "per_site"
    ) -> None:
        self._selectors = tuple(selectors)
        self._runs = runs
        self._layout: Layout = layout

    def number(self, records: Iterable[StoredRecord], starts: dict[RunKey, int], numbered: Rows) -> None:
        """Decode a batch and number its rows per run, from `starts` or after what the run has."""
        for record in records:
            envelope = self._decode(record, numbered)
            if envelope is None:
                continue
            key = run_key(self._layout, envelope)
            state = self._state_of(key, envelope)
            rows = numbered.rows.setdefault(key, [])
            number = rows[-1].number + 1 if rows else starts.get(key, state.rows + 1)
            if number > state.position:  # what is stored has said its part before the crash
                self._learn(key, envelope, record.header)
            state.rows = max(state.rows, number)
            rows.append(Row(number, self._laid_out(envelope, numbered)))
            numbered.count(envelope)

    def _laid_out(self, envelope: Envelope[Event], numbered: Rows) -> Envelope[Event]:
        if self._layout == "per_site":
            return envelope
        return replace(envelope, event=prefixed(envelope.event, envelope.site, numbered.counts))

    def _decode(self, record: StoredRecord, numbered: Rows) -> Envelope[Event] | None:
        try:
            frame, origin = read_frame(record.body), record.header.origin
            selectors = [one for one in self._selectors if one.admits_run(origin.site, frame.run or origin.own_run)]
            if not any(one.admits(frame.topic, frame.in_scope()) for one in selectors):
                return None  # its type may be one that only its own subscribers know
            envelope = decode_frame(frame, origin, record.seq)
        except DecodeError as error:
            numbered.drop("unreadable record", record.header.key)
            _logger.warning("record %s of %s is left out: %s", record.seq, record.header.key, error)
            return None
        wanted = any(one.matches(envelope.topic, type(envelope.event), envelope.scope) for one in selectors)
        return envelope if wanted else None

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
        if isinstance(event, RunFinished):
            part.writers, part.status, part.reason = [], event.status, event.reason
            return
        if isinstance(event, RunStarted):
            state.name, state.group = event.name, event.group or envelope.origin.job
        part.status, part.reason = None, ""
        if header.key not in part.writers:
            part.writers = sorted({*part.writers, header.key}.difference(header.after))


def segments_of(records: Iterable[StoredRecord]) -> list[Segment]:
    """Return the stretches that a batch is made of, in its order."""
    segments: list[Segment] = []
    for record in records:
        last = segments[-1] if segments else None
        if last is not None and last.partition == record.header.key:
            segments[-1] = Segment(last.partition, last.first, record.seq)
        else:
            segments.append(Segment(record.header.key, record.seq, record.seq))
    return segments


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
