"""What a bus keeps for each consumer: its orders, its position, its part of the report."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from eventbus._codec import read_frame
from eventbus._holding import be_handler
from eventbus._report import Line
from eventbus._wake_up import WakeUp
from eventbus.blobs import BlobReader, blobs_of
from eventbus.errors import DecodeError, NotDeliveredError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from eventbus._event import Event
    from eventbus._topic import Selector
    from eventbus.abc import Consumer, ConsumerStatistics, Cursor, LocalJournal, StoredRecord

COUNT_RECORDS = 2000
"""Records read at once while what is left is counted."""

COUNT_SECONDS = 5.0
"""How long the report may take to count what is left."""

_logger = logging.getLogger("trackbus.bus")


class ConsumerFeed:
    """A consumer's subscription; implements `eventbus.abc.Feed`."""

    def __init__(
        self,
        selectors: tuple[Selector, ...],
        consumer: Consumer,
        journal: LocalJournal,
        workspace: Path | None,
        tell: Callable[[Event], None],
        *,
        blobs: BlobReader | None = None,
    ) -> None:
        self.name = consumer.name
        self.selectors = selectors
        self.journal = journal
        self.workspace = workspace
        self.blobs = blobs or BlobReader([blobs_of(journal.folder)] if journal.folder else [])
        self._tell = tell
        self.draining = False
        self.finished = False
        self.wanted = 0
        self.progress = 0
        self.consumer = consumer
        self._cursor: Cursor = {}
        self._ends: Cursor | None = None
        self._news = WakeUp()
        self._orders = WakeUp()
        self._moved = anyio.Event()
        self._error = ""
        self._left_out: dict[str, str] = {}

    async def run(self) -> None:
        """Run the consumer to its end; its errors touch no other."""
        be_handler(None)  # a handler may have subscribed it
        try:
            await self.consumer.consume(self)
        except Exception as error:  # border: a consumer that fails is reported, and touches no other
            self._error = f"{type(error).__name__}: {error}"
            _logger.exception("consumer %s failed: its events stay in the journal", self.name)
        finally:
            self.finished = True
            self._moved.set()

    # --- for the consumer ---------------------------------------------------------------------------------------

    async def wait_for_news(self, timeout: float) -> None:
        """Return when something was published, when orders came, or after the timeout."""
        await _wait(self._news, timeout)

    async def wait_for_orders(self, timeout: float) -> None:
        """Return when the drain begins, when somebody waits for delivery, or after the timeout."""
        await _wait(self._orders, timeout)

    def moved(self, cursor: Mapping[str, int]) -> None:
        """Tell that everything up to `cursor` is stored."""
        self._cursor.update(cursor)
        self.touch()
        self._moved.set()
        self._moved = anyio.Event()

    def touch(self) -> None:
        """Tell that the consumer is alive and getting on, though its cursor does not move yet."""
        self.progress += 1

    def tell(self, event: Event) -> None:
        """Publish what the consumer has to say of its own health."""
        self._tell(event)

    def leave_out(self, unreadable: Mapping[str, str]) -> None:
        """Tell which files of the journal can't be read at present, and why, by path."""
        self._left_out = dict(unreadable)
        if unreadable:
            self.journal.suspect(unreadable)

    # --- for the bus --------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Tell that something was published. Legal from any thread."""
        self._news()

    def begin_drain(self) -> None:
        """Order the consumer to store what the journal holds, and to end."""
        self.draining = True
        self._give_orders()

    async def note_ends(self) -> None:
        """Note what there is to store: what other processes publish from now on is theirs."""
        own = {self.journal.header.key: self.journal.last_seq}  # known, also where its file can't be read
        try:
            self._ends = {**own, **await self.journal.ends()}
        except Exception:  # border: leaving a bus raises nothing that the environment did; then all is counted
            _logger.exception("the ends of the journal can't be read")

    def _give_orders(self) -> None:
        self.wake()
        self._orders()

    def position(self) -> Cursor:
        """Return how far the consumer got. Legal from any thread."""
        return dict(self._cursor)

    def has_reached(self, partition: str, seq: int) -> bool:
        """Tell whether the consumer has stored a partition up to a sequence."""
        return any(self._cursor.get(key, 0) >= seq for key in self.journal.line_of(partition))

    async def wait_reached(self, partition: str, seq: int) -> None:
        """Return when it has, or when the consumer has ended and never will."""
        if self.has_reached(partition, seq):
            return
        self.wanted = max(self.wanted, seq)
        self._give_orders()
        while not (self.finished or self.has_reached(partition, seq)):
            await self._moved.wait()

    def lag(self, ends: Mapping[str, int]) -> int:
        """Count by their numbers the records that are not stored yet, given the partitions' ends."""
        return sum(max(0, end - self._cursor.get(partition, 0)) for partition, end in ends.items())

    def statistics(self) -> ConsumerStatistics:
        """Return the consumer's counts. Legal from any thread."""
        return self.consumer.statistics_of(self)

    def line(self, *, left: int) -> Line:
        """Return this consumer's part of the report."""
        counts = self.consumer.statistics_of(self)
        notes = [f"{count} {cause}" for cause, count in {**counts.dropped, **counts.altered}.items()]
        notes += [f"{count} attempts failed: {cause}" for cause, count in counts.failed.items()]
        notes += [f"{counts.restarts} restarts"] if counts.restarts else []
        notes += [f"{counts.withheld} stay at the site"] if counts.withheld else []
        notes += [f"{path} is left out: {why}" for path, why in self._left_out.items()]
        notes += [self._error] if self._error else []
        dropped = sum(counts.dropped.values())
        return Line(
            self.name,
            delivered=counts.delivered,
            dropped=dropped,
            lost=dropped,
            failed=sum(counts.failed.values()),
            left=left,
            notes=tuple(notes),
            look=self.consumer.look(self),
            by_site=dict(counts.by_site),
            dropped_by_site=dict(counts.dropped_by_site),
            values=counts.values,
            runs=dict(counts.runs),
        )

    async def final_line(self) -> Line:
        """Return this consumer's part of the final report: the journal is still open."""
        try:
            return self.line(left=await self.count_left())
        except Exception as error:  # border: leaving a bus raises nothing that the environment did; the line says it
            _logger.exception("what %s has left can't be counted", self.name)
            line = self.line(left=0)
            return replace(line, notes=(*line.notes, f"what is left can't be counted: {error}"))

    async def count_left(self) -> int:
        """Count the wanted records that the journal held when the drain began and that are not stored.

        What can't be read of the bus's own is counted by its numbers.
        """
        cursor, left, deadline = dict(self._cursor), 0, time.monotonic() + COUNT_SECONDS
        while time.monotonic() < deadline and self._is_behind(cursor):
            records = await self.journal.read(cursor, COUNT_RECORDS)
            if not records:
                break
            left += sum(self._wants(record) for record in records if self._is_mine(record))
            cursor.update({record.header.key: record.seq for record in records})
        return left + self._count_unread(cursor)

    def _count_unread(self, cursor: Cursor) -> int:
        own, ends = self.journal.header, self._ends or {}
        return max(0, ends.get(own.key, 0) - max(cursor.get(own.key, 0), own.first - 1))

    def _is_behind(self, cursor: Cursor) -> bool:
        return self._ends is None or any(cursor.get(partition, 0) < end for partition, end in self._ends.items())

    def _is_mine(self, record: StoredRecord) -> bool:
        return self._ends is None or record.seq <= self._ends.get(record.header.key, 0)

    def _wants(self, record: StoredRecord) -> bool:
        try:
            frame, origin = read_frame(record.body), record.header.origin
            scope, run = frame.in_scope(), frame.run or origin.own_run
            return any(one.admits(frame.topic, scope) and one.admits_run(origin.site, run) for one in self.selectors)
        except DecodeError:
            return False


def check_reached(feeds: Iterable[ConsumerFeed], partition: str, seq: int) -> None:
    """Refuse to call a record delivered while a consumer has not stored it.

    Raises:
        NotDeliveredError: Some have not; the message names them.
    """
    lagging = [feed.name for feed in feeds if not feed.has_reached(partition, seq)]
    if lagging:
        msg = f"not stored by {', '.join(lagging)}; the events stay in the journal"
        raise NotDeliveredError(msg)


async def _wait(wake_up: WakeUp, timeout: float) -> None:
    wake_up.arm()
    with anyio.move_on_after(timeout):
        await wake_up.wait()
