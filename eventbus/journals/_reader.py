"""Reads a journal folder: all its partitions, a restarted rank's records after its earlier ones."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from eventbus.abc import Cursor, PartitionEnd, StoredRecord
from eventbus.errors import JournalError
from eventbus.journals import _partition as files
from eventbus.journals._partition_reader import Connections, File, Opener, PartitionReader
from eventbus.journals._quarantine import partition_key, read_damaged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

T = TypeVar("T")

LOOK_AGAIN_SECONDS = 30.0
"""When a file that was left out as damaged is looked at again, if no other has taken its place before."""

MEND_SECONDS = 5.0
"""How long the successor of a damaged partition, and a drain, wait for it to be mended: salvaging takes a second."""

_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
}

_logger = logging.getLogger("trackbus.journal")


class JournalReader:
    """Reads all partitions of a journal folder. One thread at a time.

    Args:
        folder: The journal.
        opener: Opens a file for reading.
        again: Whether it holds dead letters that are delivered again: see `Origin.again`.

    Attributes:
        beside: Where a partition is looked for that is not here.
        unreadable: Why a file is left out, by its path.
        connections: Where files are opened.
    """

    def __init__(self, folder: Path, opener: Opener = files.open_reader, *, again: bool = False) -> None:
        self.folder = folder
        self.beside: JournalReader | None = None
        self._again = again
        self.unreadable: dict[Path, str] = {}
        self.connections = Connections(opener)
        self._partitions: dict[str, PartitionReader] = {}
        self._predecessors: set[str] = set()
        self._seen: dict[Path, int] = {}  # files by inode: a mended one takes the place of a damaged one
        self._damaged: dict[Path, float] = {}  # since when a file is left out

    def partitions(self) -> list[PartitionReader]:
        """Find new files and return all partitions, oldest first."""
        for path in [one for one in self._damaged if self._may_be_mended(one)]:
            del self._damaged[path]
            self._seen.pop(path, None)
        for path in files.partition_files(self.folder):
            if self._seen.get(path) != _inode(path):
                self._add(path)
        return sorted(self._partitions.values(), key=lambda one: (one.header.created_ns, one.header.key))

    def _may_be_mended(self, path: Path) -> bool:
        is_due = time.monotonic() > self._damaged[path] + LOOK_AGAIN_SECONDS
        return is_due or _inode(path) != self._seen.get(path)

    def knows(self, path: Path) -> bool:
        """Tell whether a file was looked at, or is not there."""
        return path in self._seen or not path.exists()

    def _add(self, path: Path) -> None:
        to_be_tried = (*self._damaged, *(one for one in self.unreadable if one not in self._seen))
        if any(partition_key(one) == partition_key(path) for one in to_be_tried if one != path):
            return
        self._seen[path] = _inode(path)
        try:
            with closing(self.connections.opener(path)) as connection:
                header = files.read_header(connection)
            files.check_name(path, header)
            header = replace(header, origin=replace(header.origin, again=self._again))
        except sqlite3.DatabaseError as error:
            if files.is_damage(error):
                self._damaged[path] = time.monotonic()
            self._leave_out(path, error)
            return
        self.unreadable.pop(path, None)
        self.connections.drop(path)  # another file may have taken the place of the one that is open
        known = self._partitions.setdefault(header.key, PartitionReader(header, self))
        known.files = [*(one for one in known.files if one.path != path), File(path)]
        known.files.sort(key=lambda one: files.roll_number(one.path))
        known.final = None
        self._predecessors.update(header.after)
        for one in [known, *(self._partitions[key] for key in header.after if key in self._partitions)]:
            one.succeeded = one.header.key in self._predecessors

    def _leave_out(self, path: Path, error: sqlite3.DatabaseError) -> None:
        """Note why a file is not read, and do without the others of its partition while it may be mended.

        They hold later records: a cursor that has passed these would never come back for the earlier ones.
        """
        if _passes(error):
            self._seen.pop(path, None)
        if path not in self.unreadable:
            _logger.warning("%s is left out: %s", path, error)
        self.unreadable[path] = str(error)
        if path in self._damaged and (partition := self._partitions.pop(partition_key(path), None)):
            for one in partition.files:
                self.connections.drop(one.path)
                self._seen.pop(one.path, None)
            self._seen[path] = _inode(path)
            partition.files = []

    def ask(self, partition: PartitionReader, path: Path, question: Callable[[], T], otherwise: T) -> T:
        """Ask a partition's file; `otherwise` if it is damaged or gone: then the others are read without it.

        Raises:
            sqlite3.DatabaseError: The next try may succeed.
        """
        try:
            return question()
        except sqlite3.DatabaseError as error:
            if not _passes(error):
                self._damaged[path] = time.monotonic()
                self._leave_out(path, error)
            elif path.exists():
                raise
            else:
                self._forget(partition, path)
            return otherwise

    def _forget(self, partition: PartitionReader, path: Path) -> None:
        """Do without a file that is gone: trimmed away, or deleted."""
        self.connections.drop(path)
        self._seen.pop(path, None)
        partition.files = [one for one in partition.files if one.path != path]
        if not partition.files:
            self._partitions.pop(partition.header.key, None)

    def partition(self, key: str) -> PartitionReader:
        """Return one partition.

        Raises:
            KeyError: The folder holds none of that key.
        """
        if key not in self._partitions:
            self.partitions()
        if key not in self._partitions and self.beside is not None:
            return self.beside.partition(key)
        return self._partitions[key]

    def stretch(self, key: str, first: int, last: int) -> list[StoredRecord]:
        """Return the records of a stretch, both ends included; of a damaged file what is left, and which are lost.

        Raises:
            KeyError: The folder holds no partition of that key.
            JournalError: It is being mended at this moment.
        """
        try:
            return self.partition(key).between(first, last)
        except (KeyError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.DatabaseError) and _passes(error):
                raise
        paths = [path for path in files.partition_files(self.folder) if partition_key(path) == key]
        if not paths and files.is_held(self.folder / f"{key}.lock"):
            msg = f"the partition {key} is being mended"
            raise JournalError(msg)
        if not paths:
            raise KeyError(key)
        self.connections.close()  # closing a file that is read past SQLite releases the locks of its connections
        return _left_of(paths, first, last)

    def read(self, after: Mapping[str, int], limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a cursor, in order within each partition."""
        position = dict(after)
        found: list[StoredRecord] = []
        waiting: list[PartitionReader] = list(self.ready(after))
        while waiting and len(found) < limit:
            share = max(1, (limit - len(found)) // len(waiting))  # a busy partition must not keep the others waiting
            waiting = [one for one in waiting if self._take(one, position, min(share, limit - len(found)), found)]
        return found

    def _take(
        self, partition: PartitionReader, position: dict[str, int], share: int, found: list[StoredRecord]
    ) -> bool:
        """Read a share of a partition; tell whether there may be more."""
        key = partition.header.key
        records = partition.after(position.get(key, 0), share)
        if records:
            position[key] = records[-1].seq
        found += records
        return len(records) == share

    def ready(self, after: Mapping[str, int]) -> Iterator[PartitionReader]:
        """Yield the partitions whose predecessors are read to their end, oldest first."""
        partitions = self.partitions()
        by_key = {one.header.key: one for one in partitions}
        mending = self.being_mended()
        for partition in partitions:
            earlier = [by_key[key] for key in partition.header.after if key in by_key]
            if mending.isdisjoint(partition.header.after) and all(_is_read(one, after) for one in earlier):
                yield partition

    def being_mended(self) -> set[str]:
        """Return the keys of the partitions that were left out a moment ago: somebody may put them right."""
        now = time.monotonic()
        return {partition_key(path) for path, since in self._damaged.items() if now < since + MEND_SECONDS}

    def is_left_out(self, key: str) -> bool:
        """Tell whether a partition can't be read, or is gone."""
        return key not in self._partitions

    def is_gone(self, key: str) -> bool:
        """Tell whether a partition that was here was deleted, and the journal's others were not."""
        is_here = key in self._partitions or any(partition_key(path) == key for path in self._damaged)
        return bool(self._partitions) and not is_here

    def ends(self) -> Cursor:
        """Return the last sequence of every partition."""
        return {one.header.key: end for one in self.partitions() if (end := one.end())}

    def ended(self) -> list[PartitionEnd]:
        """Return the ends of the partitions whose writers have ended; mirrors are not among them."""
        ended = [one for one in self.partitions() if one.mark() is None and one.ended()]
        return [PartitionEnd(one.header, one.end(), one.closed_in_order()) for one in ended]

    def closed(self) -> set[str]:
        """Return the keys of the mirrors that say how their partitions ended."""
        return {one.header.key for one in self.partitions() if one.mark() is not None and one.is_closed()}

    def marks(self) -> Cursor:
        """Return the mark of every partition that was appended in batches."""
        found = {one.header.key: one.mark() for one in self.partitions()}
        return {key: mark for key, mark in found.items() if mark is not None}

    def close(self) -> None:
        """Let go of all files."""
        self.connections.close()


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _left_of(paths: list[Path], first: int, last: int) -> list[StoredRecord]:
    """Read a stretch of a partition past SQLite; that all its numbers were there is taken at the caller's word."""
    found: dict[int, StoredRecord] = {}
    for path in paths:
        header, records, _ = read_damaged(path, last if path == paths[-1] else 0)
        fresh = [(seq, body) for seq, body in records if first <= seq <= last and (body or seq not in found)]
        found.update((seq, StoredRecord(header, seq, body)) for seq, body in fresh)
    return [found[seq] for seq in sorted(found)]


def _passes(error: sqlite3.DatabaseError) -> bool:
    """Tell whether the next try may succeed: the file is busy, or the process short of memory or descriptors."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _PASSING


def _is_read(partition: PartitionReader, after: Mapping[str, int]) -> bool:
    return partition.ended() and after.get(partition.header.key, 0) >= partition.end()
