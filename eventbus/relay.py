"""Carries a site's federated records to another journal, in order, each once.

The mark of the far journal is the relay's cursor: it moves together with the records, so a crash on either side repeats
a batch at most, and the far side leaves out what it has. A record that is not federated never leaves; the stretch that
held it is passed on as empty, and counted.

The files that records name, their blobs, cross before them. One that can't be brought (it is gone or damaged, or the
far store has refused it for long) keeps no record from crossing: that is counted as `payload missing`, and the file
stays at the site.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

import anyio
from msgspec.structs import replace

from eventbus._blob_carrier import BlobCarrier
from eventbus._blob_intake import BlobIntake
from eventbus._blob_names import blobs_named, may_name_blobs
from eventbus._codec import read_frame
from eventbus._event import registered_event
from eventbus._topic import Scope
from eventbus.abc import Consumer, ConsumerStatistics, RefusedError, RelayedBatch
from eventbus.errors import BusStateError, DecodeError, SubscriptionError, WorkspaceError
from eventbus.workspace import check_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventbus._bus import Bus
    from eventbus.abc import Cursor, Feed, LocalJournal, PartitionHeader, StoredRecord

BATCH_EVENTS = 256
"""Records per batch: one transaction at the far side."""

LINGER_SECONDS = 0.3
"""How long records gather before they are sent: half of what a batch costs is paid per batch."""

RETRY_SECONDS = 1.0
"""How long the relay waits before it offers a refused batch again."""

COMMIT_SECONDS = 1.0
"""How often the relay stores its cursor at its own site at most: a transaction in a file of its own."""

POLL_SECONDS = 0.5
"""How often the relay looks for partitions that other processes write; own records wake it."""

_logger = logging.getLogger("trackbus.relay")


class Relay(Consumer):
    """Relays one bus's federated records to another bus in this process.

    Subscribe it at the site: `site_bus.subscribe(TRACKING.federated, Relay(server_bus))`. For several topics subscribe
    the same object to each, before anything is published: what it has passed by stays at the site, and is counted so.
    Buses may relay to each other; what a bus wrote itself does not come back to it.

    Args:
        target: The bus that takes the records, usually that of the site `server`.
        name: Its name in the site's report.

    Attributes:
        target: The same bus.

    Raises:
        ConfigurationError: The name is not legal.
    """

    def __init__(self, target: Bus, *, name: str = "relay") -> None:
        self.name = check_name("relay name", name)
        self.target = target
        self._counts = ConsumerStatistics(state="waiting")
        self._withheld = 0
        self._cursor: Cursor = {}
        self._closed: set[str] = set()
        self._committed: Cursor = {}
        self._committed_at = 0.0
        self._carrier: BlobCarrier | None = None
        self._feed: Feed | None = None
        self._far: set[str] = set()  # partitions that the far side writes itself

    def joins(self, other: Consumer) -> bool:
        """Take one topic more where this relay is subscribed already.

        Raises:
            SubscriptionError: Another one carries records to the same journal. The mark there is one for both: each
                would move it past the records of the other's topics.
        """
        if isinstance(other, Relay) and other is not self and _is_one(other.target.journal, self.target.journal):
            msg = (
                f"the relay {other.name!r} carries records to this server already, and one carries all; "
                "subscribe the same Relay to each topic: bus.subscribe(topic, relay); bus.subscribe(another, relay)"
            )
            raise SubscriptionError(msg)
        return other is self

    def check(self, feed: Feed) -> None:
        """Refuse to relay a journal to itself, or those of two buses."""
        if self._feed is not None:
            msg = f"the relay {self.name!r} serves another bus, and it serves one; make one for each: Relay(server)"
            raise SubscriptionError(msg)
        if _is_one(feed.journal, self.target.journal):
            msg = "a relay needs two journals; receivers on either bus read this one: give the buses two workspaces"
            raise SubscriptionError(msg)
        self._feed = feed

    def statistics(self) -> ConsumerStatistics:
        """Return the counts so far; what is not federated is not counted as dropped."""
        counts = self._counts
        return replace(
            counts,
            dropped=dict(counts.dropped),
            failed=dict(counts.failed),
            altered=dict(counts.altered),
            by_site=dict(counts.by_site),
            withheld=self._withheld,
        )

    @property
    def withheld(self) -> int:
        """How many records were read and stayed at the site."""
        return self._withheld

    async def consume(self, feed: Feed) -> None:
        """Relay until the bus drains and its journal is read to the end.

        Raises:
            BusStateError: The far bus was left, and there is something to relay.
        """
        begun = done = False
        while not done:
            try:
                if not begun:
                    await self._begin(feed)
                begun, self._counts.state = True, "waiting"
                done = await self._go_on(feed)
            except BusStateError:
                raise
            except Exception as error:  # noqa: BLE001 - border: what passes (no descriptors, no thread) ends no relay
                await self._pause(error)

    async def _begin(self, feed: Feed) -> None:
        """Begin where the far side is."""
        self._cursor = await self.target.journal.marks()
        self._closed = await self.target.journal.closed()
        self._carrier = BlobCarrier(feed.blobs, BlobIntake(self.target.blobs), feed.touch, self._fail)
        feed.moved(self._cursor)
        await self._commit(feed, dict.fromkeys(await feed.journal.cursor(self.name), 0) | self._cursor)
        await self._linger(feed)  # a script names its topics one by one

    async def _go_on(self, feed: Feed) -> bool:
        """Relay what there is, or wait for it; tell whether all is done."""
        draining = feed.draining
        records = await feed.journal.read(self._cursor, BATCH_EVENTS)
        for batch, naming in self._batches(await self._not_round(records, feed), feed):
            await self._send(batch, naming, feed)
        if self._cursor != self._committed and time.monotonic() > self._committed_at + COMMIT_SECONDS:
            await self._commit(feed, self._cursor)
        if not records and draining and await self._end_partitions(feed):
            await self._commit(feed, self._cursor)
            return True
        if not (records or draining):
            await feed.wait_for_news(POLL_SECONDS)
            await self._linger(feed)
        return False

    async def _not_round(self, records: list[StoredRecord], feed: Feed) -> list[StoredRecord]:
        """Pass by what the far side wrote itself: where buses relay to each other it comes round."""
        if any(record.header.key not in self._cursor for record in records):
            ends = await self.target.journal.ends()
            self._far = ends.keys() - await self.target.journal.marks()
        passed = {record.header.key: record.seq for record in records if record.header.key in self._far}
        if not passed:
            return records
        self._cursor.update(passed)
        feed.moved(passed)
        others = [record for record in records if record.header.key not in passed]
        self._withheld += len(records) - len(others)
        return others

    async def _commit(self, feed: Feed, cursor: Cursor) -> None:
        """Store at the own site how far the far side is, for those who look or make room; its mark stays the truth."""
        self._committed, self._committed_at = dict(self._cursor), time.monotonic()
        try:
            await feed.journal.commit(self.name, cursor)
        except WorkspaceError as error:
            self._fail(f"its cursor can't be stored: {error}")

    def _fail(self, cause: str) -> None:
        if cause not in self._counts.failed:
            _logger.warning("%s tries again: %s; more of the same are only counted", self.name, cause)
        self._counts.failed[cause] = self._counts.failed.get(cause, 0) + 1

    async def _linger(self, feed: Feed) -> None:
        """Let records gather on disk, unless somebody waits for them: a batch costs as much for one as for many."""
        own = feed.journal.header.key
        if feed.journal.folder is not None and not feed.draining and feed.wanted <= self._cursor.get(own, 0):
            await feed.wait_for_orders(LINGER_SECONDS)

    async def _send(self, batch: RelayedBatch, naming: list[bytes], feed: Feed) -> None:
        mark = await self._accepted(batch, naming, feed)
        self._cursor[batch.header.key] = mark
        self._closed.discard(batch.header.key)
        site = batch.header.origin.site
        self._counts.delivered += len(batch.records)
        self._counts.by_site[site] = self._counts.by_site.get(site, 0) + len(batch.records)
        self._withheld += batch.withheld
        feed.moved({batch.header.key: mark})

    async def _brought(self, bodies: list[bytes]) -> Counter[str]:
        """Bring the files that records name; return how many records lack some, by cause."""
        named = [(kind, blobs) for kind, blobs in map(blobs_named, bodies) if blobs]
        if not named or self._carrier is None:
            return Counter()
        missing = await self._carrier.bring(list({blob.name: blob for _, blobs in named for blob in blobs}.values()))
        for reason in missing.values():
            _logger.warning("a payload stays at the site: %s", reason)
        lacking = [kind for kind, blobs in named if any(blob.name in missing for blob in blobs)]
        return Counter(f"payload missing: {kind}" for kind in lacking)

    async def _accepted(self, batch: RelayedBatch, naming: list[bytes], feed: Feed) -> int:
        """Hand a batch over; a far side that can't take it (its disk is full, say) is asked again.

        Each time the files go before it: those that came long before their records would be taken for garbage.
        """
        while True:
            if self.target.home.is_left:
                raise BusStateError("the bus that it relays to was left before this one")
            try:
                lacking = await self._brought(naming)
                mark = await self.target.accept(batch, feed.touch)
            except BusStateError:
                raise
            except Exception as error:  # noqa: BLE001 - border: what passes at the far side ends no relay either
                await self._pause(error)
            else:
                self._counts.altered = dict(Counter(self._counts.altered) + lacking)
                self._counts.state = "waiting"
                return mark

    async def _pause(self, error: Exception) -> None:
        """Say what went wrong, and wait before it is tried again."""
        self._counts.state = "trying again"
        self._fail(f"refused: {error}" if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}")
        await anyio.sleep(RETRY_SECONDS)

    async def _end_partitions(self, feed: Feed) -> bool:
        """Say which partitions end here: the site's own, and those of processes that are gone, also without a word.

        Returns:
            Whether all was read: if not, nothing is said yet. A process may have logged and ended since the last look.
        """
        ended = await feed.journal.ended()
        if await feed.journal.read(self._cursor, 1):
            return False
        if self.target.home.is_left:
            return True
        await self._end_partition(feed.journal.header, feed, orderly=True)
        for header, last, orderly in ended:  # one that can't be read to its end now is left to the next relay
            if header.key not in self._closed and last <= self._cursor.get(header.key, 0):
                await self._end_partition(header, feed, orderly=orderly)
        return True

    async def _end_partition(self, header: PartitionHeader, feed: Feed, *, orderly: bool) -> None:
        mark = self._cursor.get(header.key, 0)
        if mark:
            batch = RelayedBatch(header=header, first=mark + 1, last=mark, records=())
            await self._accepted(replace(batch, ended=orderly, vanished=not orderly), [], feed)

    def _batches(self, records: Iterable[StoredRecord], feed: Feed) -> list[tuple[RelayedBatch, list[bytes]]]:
        """Make batches of records, each with those among its records that may name files."""
        stretches: dict[str, list[StoredRecord]] = {}
        for record in records:
            stretches.setdefault(record.header.key, []).append(record)
        return [self._batch(stretch, feed) for stretch in stretches.values()]

    def _batch(self, stretch: list[StoredRecord], feed: Feed) -> tuple[RelayedBatch, list[bytes]]:
        header = stretch[0].header
        known, in_memory = self._cursor.get(header.key), feed.journal.folder is None
        first = stretch[0].seq if known is None and not in_memory else (known or 0) + 1  # a file's begin may be trimmed
        if header.key in feed.journal.line_of(feed.journal.header.key) and stretch[0].seq > first:
            self._drop("overwritten in memory before it was read" if in_memory else "gone", stretch[0].seq - first)
            first = stretch[0].seq
        leaving = [(record, kind) for record in stretch if (kind := self._kind_if_leaving(record, feed)) is not None]
        records = tuple((record.seq, record.body) for record, _ in leaving)
        naming = [record.body for record, kind in leaving if may_name_blobs(kind)]
        return RelayedBatch(header=header, first=first, last=stretch[-1].seq, records=records), naming

    def _kind_if_leaving(self, record: StoredRecord, feed: Feed) -> str | None:
        """Return the type of a record that may leave, None for one that stays."""
        try:
            frame = read_frame(record.body)
            scope = frame.in_scope()
        except DecodeError:
            self._drop("unreadable record", 1)
            return None
        if scope is not Scope.FEDERATED:
            return None
        kind = registered_event(frame.type)  # one that is not known here may be a subclass of what is wanted
        selectors = [one for one in feed.selectors if one.admits(frame.topic, scope)]
        wanted = any(kind is None or one.matches(frame.topic, kind, scope) for one in selectors)
        return frame.type if wanted else None

    def _drop(self, cause: str, count: int) -> None:
        self._counts.dropped[cause] = self._counts.dropped.get(cause, 0) + count


def _is_one(journal: LocalJournal, other: LocalJournal) -> bool:
    return journal is other or (journal.folder is not None and journal.folder == other.folder)
