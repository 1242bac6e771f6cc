"""The embedded journal: a folder of SQLite files, one per writing process."""

from __future__ import annotations

import sqlite3
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from msgspec.structs import replace

from eventbus._codec import encode
from eventbus._event import Envelope, Event, Origin
from eventbus._fork import call_in_child, held_by_forks, keep_for_ever
from eventbus.abc import Cursor, LocalJournal, PartitionEnd, PartitionHeader, RefusedError, RelayedBatch, StoredRecord
from eventbus.errors import JournalError
from eventbus.health import JournalFilled, JournalTrimmed
from eventbus.journals import _partition as files
from eventbus.journals._blob_care import BlobCare
from eventbus.journals._bound import FULL_TIMEOUT, MAX_BYTES, Bound, nothing
from eventbus.journals._caretaker import SYNC_EVENTS, syncing, upkeep
from eventbus.journals._infirmary import Infirmary
from eventbus.journals._quarantine import partition_key
from eventbus.journals._reader import JournalReader
from eventbus.journals._trim import trim
from eventbus.journals._writing import CLOSED, ROLL_BYTES, Mirror, Partition, nothing_failed
from eventbus.journals.consumer import ConsumerFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from eventbus._topic import Scope
    from eventbus.blobs import BlobStore

T = TypeVar("T")

BEGIN_SECONDS = 1.0
"""How soon a partition may be given up after the last one: a disk that damages all of them must not be filled so."""

FORKED = "a forked child has no partition of its own yet"

FOREIGN = "the event was logged by another process than this one"


class SqliteJournal(LocalJournal):
    """A journal in a folder.

    Args:
        folder: Holds the partitions, `<folder>/<site>/<rank>-<incarnation>-<n>.db`.
        origin: Who writes the own partition; its incarnation must be new.
        cursors: Holds the consumers' files; by default `cursors` beside the folder.
        max_bytes: What all files of the folder may take together; measured once a second.
        full_timeout: Seconds that one caller waits for room.
        roll_bytes: Size from which on a partition goes on in another file.

    Raises:
        JournalError: The folder can't be written, or the partition is already being written.
    """

    def __init__(
        self,
        folder: Path,
        origin: Origin,
        *,
        cursors: Path | None = None,
        max_bytes: int = MAX_BYTES,
        full_timeout: float = FULL_TIMEOUT,
        roll_bytes: int = ROLL_BYTES,
    ) -> None:
        self.folder = self._folder = folder
        self._cursors = cursors or folder.parent / "cursors"
        self._roll_bytes = roll_bytes
        self.max_bytes = max_bytes
        self._infirmary = Infirmary(folder, self._cursors)
        self._bound = Bound(folder, max_bytes, full_timeout, self._tell_filled, self.make_room)
        self._blobs: BlobCare | None = None
        self._sync_first: Callable[[], str] = nothing_failed
        self._begin_reading()
        try:
            self._infirmary.look_around()
            self._begin(files.new_header(folder, origin))
        except (OSError, sqlite3.Error) as error:
            msg = f"the journal in {folder} can't be written: {error}; choose another --workspace or free the disk"
            raise JournalError(msg) from error
        call_in_child(self._lose)

    def _begin_reading(self) -> None:
        self._mirrors: dict[str, Mirror] = {}
        self._reader = JournalReader(self._folder)
        self._serial = held_by_forks(threading.Lock())  # they serve one thread at a time, of any loop
        self._trimming = threading.Lock()
        self._positions: list[Callable[[], Mapping[str, int]]] = []

    def _begin(self, header: PartitionHeader) -> None:
        self._own = Partition(self._folder, header, self._roll_bytes, sync_first=self._sync_first)
        self.origin = header.origin
        self._line = (header.key,)
        self._began = -BEGIN_SECONDS
        upkeep.watch(self._measure)

    def _lose(self) -> None:
        """In a forked child, let go of the parent's files without touching them; the first append begins a partition.

        SQLite's files must not be used through connections that were opened before the fork, nor closed.
        """
        keep_for_ever(self._own, self._mirrors, self._reader)
        self._own.refusal = self._own.refusal or FORKED
        self._own.end = 0  # of this process
        self._bound.make_room = nothing
        self._begin_reading()

    @property
    def header(self) -> PartitionHeader:
        """What stands once in the own partition."""
        return self._own.header

    @property
    def last_seq(self) -> int:
        """Number of the own partition's last record."""
        return self._own.end

    def append_nowait(self, event: Event, topic: str, scope: Scope, run: str, time_ns: int) -> Envelope[Event]:
        """Append one record in a transaction of its own: it survives `kill -9` once this returns."""
        body = encode(event, topic, scope, run, time_ns)
        own = self._own
        if own.refusal is not None or self._bound.refusal is not None:
            own = self._admit(event)
        try:
            seq = own.insert(body)
        except sqlite3.Error as error:
            seq = self._insert_anew(body, error)
        if not seq % SYNC_EVENTS:
            syncing.ring()
        return Envelope(event, topic, scope, run, time_ns, self.origin, seq)

    def _admit(self, event: Event) -> Partition:
        """Return where to append an event after all, or refuse it."""
        own = self._own
        try:
            if own.refusal is FORKED:
                self._begin(files.helper_header(own.header))
            elif own.damage:
                self._go_on(own, own.damage)
        except (OSError, sqlite3.Error) as error:
            raise RefusedError(f"{own.refusal}; and no other partition can be begun: {error}") from error
        refusal = self._own.refusal or (None if event.event_urgent else self._bound.refusal)
        if refusal is not None:
            raise RefusedError(refusal)
        return self._own

    def _insert_anew(self, body: bytes, fault: sqlite3.Error) -> int:
        """Append to another partition if the own one is damaged."""
        if not files.is_damage(fault):
            self._bound.fail(str(fault), self._own.end)
            raise RefusedError(str(fault)) from fault
        try:
            self._go_on(self._own, str(fault))
            return self._own.insert(body)
        except (OSError, sqlite3.Error) as error:
            raise RefusedError(f"{fault}; and no other partition can be begun: {error}") from error

    def _go_on(self, damaged: Partition, damage: str) -> None:
        """Give the own partition up and begin another one, which goes on with its numbers. Nothing is appended now.

        Raises:
            OSError: The folder can't be written, or the last one was begun a moment ago.
            sqlite3.Error: The same.
        """
        if self._own is not damaged or damaged.refusal == CLOSED:
            return
        if time.monotonic() < self._began + BEGIN_SECONDS:
            raise OSError("one was begun a moment ago")
        self._began = time.monotonic()
        damaged.give_up(damage)
        origin = replace(self.origin, incarnation=files.new_incarnation())
        header = files.new_header(self._folder, origin)
        after, parent = (*header.after, damaged.header.key), damaged.header.parent
        header = replace(header, after=after, first=damaged.end + 1, parent=parent)
        successor = Partition(self._folder, header, self._roll_bytes, damaged.synced, sync_first=self._sync_first)
        self._own, self.origin = successor, origin
        self._line = (*self._line, header.key)
        self._infirmary.take_in(damaged, damage)

    def line_of(self, key: str) -> tuple[str, ...]:
        """Return the partitions under whose keys a record of an own partition may be stored."""
        return self._line if key in self._line else (key,)

    def listen(self, tell: Callable[[Event], None], appending: Callable[[], AbstractContextManager[object]]) -> None:
        """Tell from now on what happens to the journal's files, and at once what happened at the opening."""
        self._infirmary.listen(tell, appending)

    def keep_for(self, position: Callable[[], Mapping[str, int]]) -> None:
        """Remove nothing that a consumer has not stored, who tells by `position` how far it got."""
        self._positions.append(position)

    def make_room(self, wanted: int) -> None:
        """Remove the oldest files that every consumer has stored, until so many bytes are free or none is left."""
        with self._trimming:
            trimmed = trim(self._folder, self._cursors, wanted, [position() for position in self._positions])
        if trimmed.files:
            self._infirmary.tell(JournalTrimmed(files=trimmed.files, bytes=trimmed.bytes))
            if self._blobs is not None:
                self._blobs.note_trimmed()

    def _measure(self) -> None:
        self._bound.measure(self._own.end)

    def _tell_filled(self, reason: str) -> None:
        self._infirmary.tell(JournalFilled(reason=reason))

    def wait_for_room(self) -> bool:
        """After a refusal, wait in the calling thread until there is room again, once for as long as there is none."""
        return self._bound.is_reached and self._bound.wait()

    # --- syncing ------------------------------------------------------------------------------------------------

    @property
    def lost(self) -> dict[str, int]:
        """How many own records may not survive a power cut since a sync failed, by cause."""
        return {f"may be lost in a power cut: {cause}": n for cause, n in self._own.synced.failed.items()}

    async def synced(self, seq: int) -> str | None:
        """Return when the own partition is on the disk up to `seq`, or why it will never be. Legal on any loop."""
        return FOREIGN if seq > self._own.end else await self._own.synced.wait(seq)

    def wait_synced(self, seq: int, timeout: float | None = None) -> str | None:
        """Do what `synced` does, from a thread.

        Raises:
            NotSyncedError: It took longer than `timeout` seconds.
        """
        return FOREIGN if seq > self._own.end else self._own.synced.wait_in_thread(seq, timeout)

    # --- damage -------------------------------------------------------------------------------------------------

    @property
    def notes(self) -> Sequence[str]:
        """What happened to the journal's files since it was opened, for people."""
        return self._infirmary.notes

    def care_for(self, blobs: BlobStore, *, durable: bool) -> None:
        """Look after the store of the blobs that the journal's events name: sync it, and remove what nobody needs."""
        self._blobs = BlobCare(blobs, self._folder, self.make_room)
        if durable:
            self._sync_first = blobs.sync
            self._own.sync_first = blobs.sync

    def suspect(self, unreadable: Mapping[str, str]) -> None:
        """Take note that a consumer can't read some files: what is damaged is put aside, in a thread of its own."""
        own = self._own
        for path, why in unreadable.items():
            if partition_key(Path(path)) == own.header.key:
                self._infirmary.visit_own(Path(path), partial(self._go_on, own, why))
            else:
                self._infirmary.visit(Path(path), self._let_go)

    def _let_go(self, path: Path) -> None:
        """Close a mirror that is damaged; the next batch opens it again."""
        with self._serial:
            mirror = self._mirrors.pop(partition_key(path), None)
            if mirror is not None:
                mirror.close(ended=False)

    # --- other journals' partitions, and reading ----------------------------------------------------------------

    async def append(self, batch: RelayedBatch) -> int:
        """Append a stretch of another journal's partition, once."""
        return await self._in_thread(lambda: self._append(batch))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(self._one_at_a_time, call)

    def _one_at_a_time(self, call: Callable[[], T]) -> T:
        with self._serial:
            return call()

    def _append(self, batch: RelayedBatch) -> int:
        refusal = (self._own.refusal if self._own.refusal == CLOSED else None) or self._bound.refusal
        if refusal is not None:
            raise RefusedError(refusal)
        try:
            mark = self._mirror(batch.header).append(batch)
        except (OSError, sqlite3.Error) as error:
            raise RefusedError(str(error)) from error
        if batch.ended or batch.vanished:
            self._mirrors.pop(batch.header.key).close(ended=batch.ended)
        return mark

    def _mirror(self, header: PartitionHeader) -> Mirror:
        mirror = self._mirrors.get(header.key)
        if mirror is None:
            mirror = self._mirrors[header.key] = Mirror(self._folder, header, self._roll_bytes)
            for ended in [self._mirrors.pop(key) for key in header.after if key in self._mirrors]:
                ended.close(ended=False)  # a successor comes when all of it is here
        return mirror

    async def marks(self) -> Cursor:
        """Return the mark of every partition that was appended in batches."""
        return await self._in_thread(self._reader.marks)

    async def read(self, after: Mapping[str, int], limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a cursor, in order within each partition."""
        return await self._in_thread(lambda: self._read(after, limit))

    def _read(self, after: Mapping[str, int], limit: int) -> list[StoredRecord]:
        records = self._reader.read(after, limit)
        if self._reader.unreadable:
            self.suspect({str(path): why for path, why in self._reader.unreadable.items()})
        return records

    async def ends(self) -> Cursor:
        """Return the last sequence of every partition."""
        return await self._in_thread(self._reader.ends)

    async def ended(self) -> list[PartitionEnd]:
        """Return the ends of the partitions of other processes here whose writers have ended."""
        return await self._in_thread(self._reader.ended)

    async def closed(self) -> set[str]:
        """Return the keys of the relayed partitions of which is stored how they ended."""
        return await self._in_thread(self._reader.closed)

    async def cursor(self, consumer: str) -> Cursor:
        """Return the committed position of a consumer, empty for a new one."""
        return await self._in_thread(lambda: self._cursor_of(consumer))

    def _cursor_of(self, consumer: str) -> Cursor:
        with ConsumerFile(self._cursors, consumer) as file:
            return file.cursor()

    async def commit(self, consumer: str, cursor: Mapping[str, int]) -> None:
        """Move a consumer's cursor; positions of partitions that are not named stay."""
        await self._in_thread(lambda: self._commit(consumer, dict(cursor)))

    def _commit(self, consumer: str, cursor: Cursor) -> None:
        with ConsumerFile(self._cursors, consumer) as file:
            file.move(cursor)

    def close(self) -> None:
        """Mark the own partition as ended and let go of all files. Legal twice; what is a parent's is not touched."""
        if self._own.refusal is FORKED:
            self._own.refusal = CLOSED
            return
        upkeep.forget(self._measure)
        if self._blobs is not None:
            self._blobs.close()
        self._infirmary.close()
        with self._serial:
            for mirror in self._mirrors.values():
                mirror.close(ended=False)
            self._mirrors.clear()
            self._reader.close()  # before the writer: whoever closes a file last, and may write it, tidies it up
            self._own.close()
