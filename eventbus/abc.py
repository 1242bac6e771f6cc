"""What an extension of the bus implements: a journal, or a consumer of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from eventbus._event import Envelope, Event, Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from eventbus._topic import Scope, Selector
    from eventbus.blobs import BlobReader, BlobStore

Cursor = dict[str, int]
"""A consumer's position in a journal: the last sequence it is done with, by partition key."""


class PartitionHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What stands once per partition.

    Attributes:
        origin: Who wrote it.
        created_ns: When, nanoseconds since the epoch.
        after: Keys of partitions of the same site and rank that had ended before: they are read first.
        first: Number of its first record: more than 1 where it goes on for a partition that had to be given up.
        parent: Key of the partition that this one belongs to, if a forked child of its writer writes it: the child's
            end is none of the run's.
    """

    origin: Origin
    created_ns: int
    after: tuple[str, ...] = ()
    first: int = 1
    parent: str = ""

    @property
    def key(self) -> str:
        """Key of the partition."""
        return self.origin.partition


class StoredRecord(NamedTuple):
    """One record as a journal holds it: who wrote it, its number, its bytes."""

    header: PartitionHeader
    seq: int
    body: bytes


class PartitionEnd(NamedTuple):
    """How a partition has ended.

    Attributes:
        header: The partition.
        last: Number of its last record.
        orderly: Whether its writer said so; else it is gone without a word.
    """

    header: PartitionHeader
    last: int
    orderly: bool


class RelayedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of one partition on its way to another journal.

    Attributes:
        header: The partition it comes from.
        first: First sequence that the stretch covers.
        last: Last sequence that it covers: the mark that the receiving journal moves to.
        records: The records that may leave, (sequence, bytes) in order; what is missing was withheld.
        ended: Whether the partition ends with this stretch.
        vanished: Whether it ends since its writer is gone, without having said so: what runs it left open are lost.
    """

    header: PartitionHeader
    first: int
    last: int
    records: tuple[tuple[int, bytes], ...]
    ended: bool = False
    vanished: bool = False

    @property
    def withheld(self) -> int:
        """How many records of the stretch stay where they are."""
        return self.last - self.first + 1 - len(self.records)


class RefusedError(Exception):
    """Raised by a journal that can't take a record: the bus counts it and shows the reason in the receipt."""


class Journal(ABC):
    """An append-only log of encoded records in partitions, with named cursors.

    Order is kept within a partition. `eventbus.testing.check_journal` holds every kind to the same behaviour.
    """

    @abstractmethod
    async def append(self, batch: RelayedBatch) -> int:
        """Append a stretch of another journal's partition, once.

        Records up to the partition's mark are left out, so a repeated batch changes nothing. Records and mark are
        stored together.

        Returns:
            The mark: the last sequence of that partition which this journal is done with.
        """

    @abstractmethod
    async def marks(self) -> Cursor:
        """Return the mark of every partition that was appended in batches."""

    @abstractmethod
    async def read(self, after: Mapping[str, int], limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a cursor, in order within each partition."""

    @abstractmethod
    async def ends(self) -> Cursor:
        """Return the last sequence of every partition."""

    @abstractmethod
    async def cursor(self, consumer: str) -> Cursor:
        """Return the committed position of a consumer, empty for a new one."""

    @abstractmethod
    async def commit(self, consumer: str, cursor: Mapping[str, int]) -> None:
        """Move a consumer's cursor; positions of partitions that are not named stay."""


class LocalJournal(Journal):
    """A journal that a bus stands on: it takes single records from any thread, without waiting.

    Attributes:
        origin: Who writes this journal's own partition.
        folder: Where its partitions are, or None if it lives in memory.
        again: Whether it holds a receiver's dead letters, to be delivered again.
        max_bytes: What its files may take; 0 where it is not bounded so.
    """

    origin: Origin
    folder: Path | None = None
    again: bool = False
    max_bytes: int = 0

    @property
    @abstractmethod
    def header(self) -> PartitionHeader:
        """What stands once in the own partition."""

    @property
    @abstractmethod
    def last_seq(self) -> int:
        """Number of the own partition's last record, 0 while there is none."""

    @abstractmethod
    def append_nowait(self, event: Event, topic: str, scope: Scope, run: str, time_ns: int) -> Envelope[Event]:
        """Append one record and return it in its envelope. Legal from any thread; the bus serialises the calls.

        Raises:
            RefusedError: The environment does not allow it: disk full, folder gone, bound reached.
            BadInputError: The event can't be encoded.
        """

    def line_of(self, key: str) -> tuple[str, ...]:
        """Return the partitions under whose keys a record of an own partition may be stored.

        One that had to be given up is followed by another that goes on with its numbers.
        """
        return (key,)

    def listen(self, tell: Callable[[Event], None], appending: Callable[[], AbstractContextManager[object]]) -> None:
        """Tell from now on what happens to the journal's files, and at once what happened at the opening.

        Args:
            tell: Publishes it.
            appending: Gives the lock under which the bus appends.
        """
        del tell, appending

    @property
    def notes(self) -> Sequence[str]:
        """What happened to the journal's files since it was opened, for people."""
        return ()

    def keep_for(self, position: Callable[[], Mapping[str, int]]) -> None:
        """Remove nothing that a consumer has not stored, who tells by `position` how far it got."""
        del position

    def care_for(self, blobs: BlobStore, *, durable: bool) -> None:
        """Look after the store of the blobs that the journal's events name: sync it, and remove what nobody needs.

        Args:
            blobs: The store.
            durable: Whether a record that counts as synced has its blobs on the disk too.
        """
        del blobs, durable

    def suspect(self, unreadable: Mapping[str, str]) -> None:
        """Take note that a consumer can't read some files, and why, by path: what is damaged is put aside."""
        del unreadable

    @property
    def lost(self) -> dict[str, int]:
        """How many own records were taken and may be gone, by cause: forgotten in memory, or not synced."""
        return {}

    async def synced(self, seq: int) -> str | None:
        """Return when the own partition is on the disk up to `seq`, or why it will never be. Legal on any loop."""
        del seq
        return None

    def wait_synced(self, seq: int, timeout: float | None = None) -> str | None:
        """Do what `synced` does, from a thread.

        Raises:
            NotSyncedError: It took longer than `timeout` seconds.
        """
        del seq, timeout
        return None

    async def ended(self) -> list[PartitionEnd]:
        """Return the ends of the partitions of other processes here whose writers have ended."""
        return []

    async def closed(self) -> set[str]:
        """Return the keys of the relayed partitions of which is stored how they ended: a relay says it of the others.

        A journal that stores no such thing is told at the end of every relay.
        """
        return set()

    def wait_for_room(self) -> bool:
        """After a refusal, wait in the calling thread until there is room again, once for as long as there is none.

        Returns:
            Whether it makes sense to try again.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Mark the own partition as ended and let go of it. Legal twice."""


class Feed(Protocol):
    """What a bus gives to a consumer."""

    @property
    def selectors(self) -> Sequence[Selector]:
        """What the consumer is subscribed to; of one that joins itself there may come more."""
        ...

    @property
    def journal(self) -> LocalJournal:
        """The journal that it reads."""
        ...

    @property
    def workspace(self) -> Path | None:
        """The folder of the bus, or None if it has none."""
        ...

    @property
    def blobs(self) -> BlobReader:
        """Finds the files that the journal's events name."""
        ...

    async def wait_for_news(self, timeout: float) -> None:
        """Return when something was published, when orders came, or after the timeout."""
        ...

    async def wait_for_orders(self, timeout: float) -> None:
        """Return when the drain begins, when somebody waits for delivery, or after the timeout."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the bus is closing: the consumer stores what the journal holds, then returns."""
        ...

    @property
    def wanted(self) -> int:
        """Sequence of the own partition up to which somebody waits for delivery; 0 when nobody does."""
        ...

    def moved(self, cursor: Mapping[str, int]) -> None:
        """Tell that everything up to `cursor` is stored."""
        ...

    def touch(self) -> None:
        """Tell that the consumer is alive and getting on, though its cursor does not move yet."""
        ...

    def tell(self, event: Event) -> None:
        """Publish what the consumer has to say of its own health; once the bus closes, nobody listens."""
        ...

    def leave_out(self, unreadable: Mapping[str, str]) -> None:
        """Tell which files of the journal can't be read at present, and why, by path."""
        ...


class TrackerRun(msgspec.Struct, frozen=True):
    """What a tracker calls a run.

    Attributes:
        id: Its id there.
        url: Where to find it: a page, or the file, folder or store that it is in. No secrets.
    """

    id: str
    url: str


class ConsumerStatistics(msgspec.Struct, kw_only=True):
    """What a consumer did with the records it was given; all are counts of events but `values`.

    Attributes:
        delivered: Stored at the far end.
        values: Numbers in them.
        dropped: Given up, by cause.
        failed: Calls or batches that raised and were or will be tried again, by cause.
        altered: Stored otherwise than logged (a key renamed, two equal points merged), by cause.
        by_site: Events stored, by site.
        dropped_by_site: Events given up, by site.
        withheld: Read and left where they are, as a relay does with what is not federated.
        lag: Not stored yet, counted by number: exact for the bus's own partition, and at most so many of relayed ones,
            where what a site withheld leaves gaps. Filled in by the bus.
        runs: What the tracker calls the runs that were opened, by `<site>/<run>`, or by `<run>` if it holds all sites.
        restarts: How often a worker process was started again.
        state: What it does now, for people.
    """

    delivered: int = 0
    values: int = 0
    dropped: dict[str, int] = {}
    failed: dict[str, int] = {}
    altered: dict[str, int] = {}
    by_site: dict[str, int] = {}
    dropped_by_site: dict[str, int] = {}
    withheld: int = 0
    lag: int = 0
    runs: dict[str, TrackerRun] = {}
    restarts: int = 0
    state: str = "new"


class Consumer(ABC):
    """Reads a bus's journal at its own pace: a receiver, a relay.

    Attributes:
        name: Its name on the bus and the name of its cursor.
    """

    name: str

    @abstractmethod
    def check(self, feed: Feed) -> None:
        """Raise, at the subscription, what makes it impossible: a missing extra, a journal in memory."""

    def joins(self, other: Consumer) -> bool:
        """Tell whether subscribing it where `other` is served only adds a topic to those that `other` takes.

        Raises:
            SubscriptionError: The two would be in each other's way.
        """
        del other
        return False

    @abstractmethod
    async def consume(self, feed: Feed) -> None:
        """Run until the bus drains and everything in the journal is stored."""

    @abstractmethod
    def statistics(self) -> ConsumerStatistics:
        """Return the counts so far."""

    def statistics_of(self, feed: Feed) -> ConsumerStatistics:
        """Return one bus's part of the counts so far: a consumer that serves several says more than `statistics`."""
        del feed
        return self.statistics()

    def look(self, feed: Feed) -> str:
        """Return the command with which a person looks at the result, or an empty string."""
        del feed
        return ""
