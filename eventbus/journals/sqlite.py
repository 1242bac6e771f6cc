"""The embedded journal: a folder of SQLite files, one per writing process."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import anyio
import anyio.to_thread
from msgspec.structs import replace

from eventbus._codec import encode
from eventbus._event import Envelope, Event, Origin
from eventbus._fork import call_in_child
from eventbus.abc import Cursor, LocalJournal, PartitionHeader, RefusedError, RelayedBatch, StoredRecord
from eventbus.errors import JournalError
from eventbus.health import JournalTrimmed
from eventbus.journals import _partition as files
from eventbus.journals._caretaker import FileCare, caretaker
from eventbus.journals._infirmary import Infirmary, is_at
from eventbus.journals._quarantine import partition_key
from eventbus.journals._reader import JournalReader
from eventbus.journals._trim import trim
from eventbus.journals.consumer import ConsumerFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from eventbus._topic import Scope

T = TypeVar("T")

BEGIN_SECONDS = 1.0
"""How soon a partition may be given up after the last one: a disk that damages all of them must not be filled so."""

INSERT_ATTEMPTS = 100
"""Only a signal that strikes within the append makes a second one necessary."""


class _Partition:
    """The writing end of one partition. Its owner serialises the appends."""

    first_header: ClassVar[dict[str, int]] = {}

    def __init__(self, folder: Path, header: PartitionHeader) -> None:
        self.header = header
        path = files.roll_path(folder, header.origin, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            self._lock = files.PartitionLock(files.lock_path(path))
            undo.callback(self._lock.release)
            if not path.exists():
                files.create_file(path, header, roll=0, first=1, **self.first_header)
            self.connection = files.open_writer(path)
            undo.callback(self.connection.close)
            self._care = FileCare(path)
            undo.callback(self._care.close)
            self.end = self._stored_end()
            undo.pop_all()
        self._care_lock = threading.Lock()
        self._synced = self.end
        self.closed = False
        self.damage = ""  # why nothing more may be appended: its owner goes on in another partition
        self.path, self._inode = path, path.stat().st_ino
        caretaker.watch(self)

    def _stored_end(self) -> int:
        query = "SELECT ifnull(max(seq), ?) FROM records"
        return self.connection.execute(query, (self.header.first - 1,)).fetchone()[0]

    def insert(self, body: bytes) -> int:
        """Append one record in a transaction of its own and return its number.

        An interrupt, or a signal handler that logs, may strike between the insert and the count: then the number is
        taken, and the file says what comes next.
        """
        if self.damage:
            raise files.DamagedError(self.damage)
        for _ in range(INSERT_ATTEMPTS):
            seq = self.end + 1
            try:
                row = (seq, body, files.checksum(seq, body))
                self.connection.execute("INSERT INTO records VALUES (?, ?, ?)", row)
            except sqlite3.IntegrityError:
                self.end = self._stored_end()
            else:
                self.end = max(self.end, seq)
                return seq
        msg = f"record {self.end + 1} is there already"
        raise sqlite3.IntegrityError(msg)

    def care(self, *, checkpoint: bool) -> None:
        """Sync and checkpoint; called by the caretaker's thread."""
        end = self.end
        with self._care_lock:
            if self.closed or self.damage or end == self._synced:
                return
            if not is_at(self.path, self._inode):
                self.damage = "it was deleted"
                return
            self._care.sync()
            if checkpoint:
                self._care.checkpoint()
                self._synced = end

    def close(self, *, ended: bool = True) -> None:
        """Let go of the partition's files; `ended` says that its writer has said everything."""
        caretaker.forget(self)
        with self._care_lock:
            if self.closed:
                return
            self.closed = True
            self._care.close()
        if ended:
            with contextlib.suppress(sqlite3.Error):  # a full disk: the free lock says nearly the same
                self.connection.execute("INSERT OR REPLACE INTO header VALUES ('closed', 1)")
        self.connection.close()
        self._lock.release()


class _Mirror(_Partition):
    """A partition that is appended in batches; its mark moves together with the records."""

    first_header: ClassVar[dict[str, int]] = {
        "mark": 0,
        "count": 0,
    }  # from the start, readers can tell it from a writer's own

    def __init__(self, folder: Path, header: PartitionHeader) -> None:
        super().__init__(folder, header)
        row = self.connection.execute("SELECT value FROM header WHERE name = 'mark'").fetchone()
        self.mark: int = row[0] if row else 0

    def append(self, batch: RelayedBatch) -> int:
        """Store the records beyond the mark and move it, in one transaction."""
        fresh = [record for record in batch.records if record[0] > self.mark]
        mark = max(self.mark, batch.last)
        self.connection.execute("BEGIN IMMEDIATE")
        with self.connection:
            files.insert(self.connection, fresh)
            self.connection.execute("INSERT OR REPLACE INTO header VALUES ('mark', ?)", (mark,))
            self.connection.execute("UPDATE header SET value = value + ? WHERE name = 'count'", (len(fresh),))
        self.mark = mark
        self.end = fresh[-1][0] if fresh else self.end
        return mark


class SqliteJournal(LocalJournal):
    """A journal in a folder.

    Args:
        folder: Holds the partitions, `<folder>/<site>/<rank>-<incarnation>-<n>.db`.
        origin: Who writes the own partition; its incarnation must be new.
        cursors: Holds the consumers' files; by default `cursors` beside the folder.

    Raises:
        JournalError: The folder can't be written, or the partition is already being written.
    """

    def __init__(self, folder: Path, origin: Origin, *, cursors: Path | None = None) -> None:
        self.folder = self._folder = folder
        self.origin = origin
        self._cursors = cursors or folder.parent / "cursors"
        self._forked = False
        self._mirrors: dict[str, _Mirror] = {}
        self._reader = JournalReader(folder)
        self._serial = threading.Lock()  # the reader and the mirrors serve one thread at a time, of any loop
        self._infirmary = Infirmary(folder, self._cursors)
        self._positions: list[Callable[[], Mapping[str, int]]] = []
        try:
            self._infirmary.look_around()
            self._own = _Partition(folder, files.new_header(folder, origin))
        except (OSError, sqlite3.Error) as error:
            msg = f"the journal in {folder} can't be written: {error}; choose another --workspace or free the disk"
            raise JournalError(msg) from error
        self._line = (origin.partition,)
        self._began = -BEGIN_SECONDS
        call_in_child(self.forbid)

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
        if own.closed or self._forked:
            raise RefusedError("the journal is closed" if own.closed else "a forked child may not write it")
        try:
            seq = own.insert(body)
        except sqlite3.Error as error:
            if not files.is_damage(error):
                raise RefusedError(str(error)) from error
            seq = self._insert_anew(body, str(error))
        return Envelope(event, topic, scope, run, time_ns, self.origin, seq)

    def _insert_anew(self, body: bytes, damage: str) -> int:
        try:
            self._go_on(self._own, damage)
            return self._own.insert(body)
        except (OSError, sqlite3.Error) as error:
            raise RefusedError(f"{damage}; and no other partition can be begun: {error}") from error

    def _go_on(self, damaged: _Partition, damage: str) -> None:
        """Give the own partition up and begin another one, which goes on with its numbers. Nothing is appended now.

        Raises:
            OSError: The folder can't be written, or the last one was begun a moment ago.
            sqlite3.Error: The same.
        """
        if self._own is not damaged or damaged.closed:
            return
        if time.monotonic() < self._began + BEGIN_SECONDS:
            raise OSError("one was begun a moment ago")
        self._began = time.monotonic()
        origin = replace(self.origin, incarnation=files.new_incarnation())
        header = files.new_header(self._folder, origin)
        header = replace(header, after=(*header.after, damaged.header.key), first=damaged.end + 1)
        self._own, self.origin = _Partition(self._folder, header), origin
        self._line = (*self._line, header.key)
        damaged.damage = damage
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
        trimmed = trim(self._folder, self._cursors, wanted, [position() for position in self._positions])
        if trimmed.files:
            self._infirmary.tell(JournalTrimmed(files=trimmed.files, bytes=trimmed.bytes))

    @property
    def notes(self) -> Sequence[str]:
        """What happened to the journal's files since it was opened, for people."""
        return self._infirmary.notes

    def suspect(self, unreadable: Mapping[str, str]) -> None:
        """Take note that a consumer can't read some files: what is damaged is put aside, in a thread of its own."""
        own = self._own
        for path, why in unreadable.items():
            if path == str(own.path):
                self._infirmary.visit_own(own.path, partial(self._go_on, own, why))
            else:
                self._infirmary.visit(Path(path), self._let_go)

    def _let_go(self, path: Path) -> None:
        """Close a mirror that is damaged; the next batch opens it again."""
        with self._serial:
            mirror = self._mirrors.pop(partition_key(path), None)
            if mirror is not None:
                mirror.close(ended=False)

    async def append(self, batch: RelayedBatch) -> int:
        """Append a stretch of another journal's partition, once."""
        return await self._in_thread(lambda: self._append(batch))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(self._one_at_a_time, call)

    def _one_at_a_time(self, call: Callable[[], T]) -> T:
        with self._serial:
            return call()

    def _append(self, batch: RelayedBatch) -> int:
        if self._own.closed:
            raise RefusedError("the journal is closed")
        try:
            mark = self._mirror(batch.header).append(batch)
        except (OSError, sqlite3.Error) as error:
            raise RefusedError(str(error)) from error
        if batch.ended:
            self._mirrors.pop(batch.header.key).close()
        return mark

    def _mirror(self, header: PartitionHeader) -> _Mirror:
        mirror = self._mirrors.get(header.key)
        if mirror is None:
            mirror = self._mirrors[header.key] = _Mirror(self._folder, header)
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

    async def cursor(self, consumer: str) -> Cursor:
        """Return the committed position of a consumer, empty for a new one."""
        return await anyio.to_thread.run_sync(self._cursor_of, consumer)

    def _cursor_of(self, consumer: str) -> Cursor:
        with ConsumerFile(self._cursors, consumer) as file:
            return file.cursor()

    async def commit(self, consumer: str, cursor: Mapping[str, int]) -> None:
        """Move a consumer's cursor; positions of partitions that are not named stay."""
        await anyio.to_thread.run_sync(self._commit, consumer, dict(cursor))

    def _commit(self, consumer: str, cursor: Cursor) -> None:
        with ConsumerFile(self._cursors, consumer) as file:
            file.move(cursor)

    def close(self) -> None:
        """Mark the own partition as ended and let go of all files. Legal twice; in a forked child, nothing happens."""
        if self._forked:  # SQLite's files must not be touched through connections that were opened before the fork
            return
        self._infirmary.close()
        with self._serial:
            for mirror in self._mirrors.values():
                mirror.close(ended=False)
            self._mirrors.clear()
            self._reader.close()  # before the writer: whoever closes a file last, and may write it, tidies it up
            self._own.close()

    def forbid(self) -> None:
        """Take no more records: a forked child must never touch its parent's files."""
        self._forked = True
