"""The embedded journal: a folder of SQLite files, one per writing process."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import anyio
import anyio.to_thread

from eventbus._codec import encode
from eventbus._event import Envelope, Event, Origin
from eventbus._fork import call_in_child
from eventbus.abc import Cursor, LocalJournal, PartitionHeader, RefusedError, RelayedBatch, StoredRecord
from eventbus.errors import JournalError
from eventbus.journals import _partition as files
from eventbus.journals._caretaker import FileCare, caretaker
from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import ConsumerFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventbus._topic import Scope

T = TypeVar("T")

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
        caretaker.watch(self)

    def _stored_end(self) -> int:
        return self.connection.execute("SELECT ifnull(max(seq), 0) FROM records").fetchone()[0]

    def insert(self, body: bytes) -> int:
        """Append one record in a transaction of its own and return its number.

        An interrupt, or a signal handler that logs, may strike between the insert and the count: then the number is
        taken, and the file says what comes next.
        """
        for _ in range(INSERT_ATTEMPTS):
            seq = self.end + 1
            try:
                self.connection.execute("INSERT INTO records VALUES (?, ?)", (seq, body))
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
            if self.closed or end == self._synced:
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

    first_header: ClassVar[dict[str, int]] = {"mark": 0}  # from the start, readers can tell it from a writer's own

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
        try:
            self._own = _Partition(folder, files.new_header(folder, origin))
        except (OSError, sqlite3.Error) as error:
            msg = f"the journal in {folder} can't be written: {error}; choose another --workspace or free the disk"
            raise JournalError(msg) from error
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
            raise RefusedError(str(error)) from error
        return Envelope(event, topic, scope, run, time_ns, self.origin, seq)

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
        return await self._in_thread(lambda: self._reader.read(after, limit))

    async def ends(self) -> Cursor:
        """Return the last sequence of every partition."""
        return await self._in_thread(self._reader.ends)

    async def cursor(self, consumer: str) -> Cursor:
        """Return the committed position of a consumer, empty for a new one."""
        with ConsumerFile(self._cursors, consumer) as file:
            return file.cursor()

    async def commit(self, consumer: str, cursor: Mapping[str, int]) -> None:
        """Move a consumer's cursor; positions of partitions that are not named stay."""
        with ConsumerFile(self._cursors, consumer) as file:
            file.move(cursor)

    def close(self) -> None:
        """Mark the own partition as ended and let go of all files. Legal twice; in a forked child, nothing happens."""
        if self._forked:  # SQLite's files must not be touched through connections that were opened before the fork
            return
        with self._serial:
            for mirror in self._mirrors.values():
                mirror.close(ended=False)
            self._mirrors.clear()
            self._reader.close()  # before the writer: whoever closes a file last, and may write it, tidies it up
            self._own.close()

    def forbid(self) -> None:
        """Take no more records: a forked child must never touch its parent's files."""
        self._forked = True
