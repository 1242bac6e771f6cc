"""Reads a journal folder: all its partitions, a restarted rank's records after its earlier ones."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from eventbus.abc import Cursor, PartitionHeader, StoredRecord
from eventbus.journals import _partition as files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

T = TypeVar("T")

Opener = Callable[[Path], sqlite3.Connection]

OPEN_FILES = 100
"""Files that a reader keeps open: each takes three descriptors, and a workspace gathers partitions over the years."""

_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
}

_logger = logging.getLogger("trackbus.journal")


class Connections:
    """Open files, the most recently read ones."""

    def __init__(self, opener: Opener) -> None:
        self.opener = opener
        self._open: dict[Path, sqlite3.Connection] = {}

    def get(self, path: Path) -> sqlite3.Connection:
        """Return the connection to a file, opening it if needed."""
        connection = self._open.pop(path, None) or self.opener(path)
        self._open[path] = connection
        if len(self._open) > OPEN_FILES:
            self._open.pop(next(iter(self._open))).close()
        return connection

    def close(self) -> None:
        """Let go of all files; a later read opens them again."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


@dataclass(slots=True)
class PartitionReader:
    """The reading end of one partition.

    Attributes:
        header: What stands once in it.
        connections: Where its files are opened.
        paths: Its files, oldest first.
        final: Its last sequence once the writer has ended, None before.
        succeeded: Whether a later partition of the same writer is here.
    """

    header: PartitionHeader
    connections: Connections
    paths: list[Path]
    final: int | None = None
    succeeded: bool = False

    def after(self, seq: int, limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a sequence."""
        if self.final is not None and seq >= self.final:
            return []
        return self._select("seq > ? ORDER BY seq LIMIT ?", seq, limit)

    def between(self, first: int, last: int) -> list[StoredRecord]:
        """Return the records of a stretch, both ends included."""
        return self._select("seq BETWEEN ? AND ? ORDER BY seq", first, last)

    def _select(self, where: str, *values: int) -> list[StoredRecord]:
        found: list[StoredRecord] = []
        for path in self.paths:
            rows = self.connections.get(path).execute(f"SELECT seq, body FROM records WHERE {where}", values)  # noqa: S608 - both conditions are constants of this class
            found += [StoredRecord(self.header, seq, body) for seq, body in rows]
        return found

    def end(self) -> int:
        """Return the last sequence."""
        if self.final is not None:
            return self.final
        return self._one("SELECT ifnull(max(seq), 0) FROM records") or 0

    def mark(self) -> int | None:
        """Return the mark if the partition is appended in batches."""
        return self._one("SELECT value FROM header WHERE name = 'mark'")

    def ended(self) -> bool:
        """Tell whether the writer has ended; from then on `final` is known."""
        if self.final is None and self._has_ended():
            self.final = self.end()
        return self.final is not None

    def _has_ended(self) -> bool:
        """Ask the lock of a writer's own partition; a mirror's is the relay's, and comes and goes with it."""
        if self.mark() is None:
            return not files.is_held(files.lock_path(self.paths[-1]))
        return self.succeeded or self.closed_in_order()

    def closed_in_order(self) -> bool:
        """Tell whether the writer said that the partition ends."""
        return self._one("SELECT 1 FROM header WHERE name = 'closed'") is not None

    def _one(self, query: str) -> int | None:
        row = self.connections.get(self.paths[-1]).execute(query).fetchone()
        return row[0] if row else None


class JournalReader:
    """Reads all partitions of a journal folder. One thread at a time.

    Args:
        folder: The journal.
        opener: Opens a file for reading.
        again: Whether it holds dead letters that are delivered again: see `Origin.again`.

    Attributes:
        beside: Where a partition is looked for that is not here.
        unreadable: Why a file is left out, by its path.
    """

    def __init__(self, folder: Path, opener: Opener = files.open_reader, *, again: bool = False) -> None:
        self.folder = folder
        self.beside: JournalReader | None = None
        self._again = again
        self.unreadable: dict[Path, str] = {}
        self._partitions: dict[str, PartitionReader] = {}
        self._connections = Connections(opener)
        self._predecessors: set[str] = set()
        self._seen: set[Path] = set()

    def partitions(self) -> list[PartitionReader]:
        """Find new files and return all partitions, oldest first."""
        for path in files.partition_files(self.folder):
            if path not in self._seen:
                self._add(path)
        return sorted(self._partitions.values(), key=lambda one: (one.header.created_ns, one.header.key))

    def _add(self, path: Path) -> None:
        try:
            with closing(self._connections.opener(path)) as connection:
                header = files.read_header(connection)
            files.check_name(path, header)
            header = replace(header, origin=replace(header.origin, again=self._again))
        except sqlite3.DatabaseError as error:
            self._leave_out(path, error)
            return
        self._seen.add(path)
        self.unreadable.pop(path, None)
        known = self._partitions.setdefault(header.key, PartitionReader(header, self._connections, []))
        known.paths.append(path)
        known.final = None
        self._predecessors.update(header.after)
        for one in [known, *(self._partitions[key] for key in header.after if key in self._partitions)]:
            one.succeeded = one.header.key in self._predecessors

    def _leave_out(self, path: Path, error: sqlite3.DatabaseError) -> None:
        """Note why a file is not read; one that is damaged is never looked at again."""
        if not _passes(error):
            self._seen.add(path)
        if path not in self.unreadable:
            _logger.warning("%s is left out: %s", path, error)
        self.unreadable[path] = str(error)

    def _ask(self, partition: PartitionReader, question: Callable[[PartitionReader], T]) -> T | None:
        """Ask a partition; None if it turns out to be damaged: then the others are read without it."""
        try:
            return question(partition)
        except sqlite3.DatabaseError as error:
            if _passes(error):
                raise
            self._leave_out(partition.paths[-1], error)
            self._partitions.pop(partition.header.key, None)
            return None

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
        records = self._ask(partition, lambda one: one.after(position.get(key, 0), share)) or []
        if records:
            position[key] = records[-1].seq
        found += records
        return len(records) == share

    def ready(self, after: Mapping[str, int]) -> Iterator[PartitionReader]:
        """Yield the partitions whose predecessors are read to their end, oldest first."""
        partitions = self.partitions()
        by_key = {one.header.key: one for one in partitions}
        for partition in partitions:
            earlier = [by_key[key] for key in partition.header.after if key in by_key]
            if all(self._ask(one, lambda one: _is_read(one, after)) is not False for one in earlier):
                yield partition

    def ends(self) -> Cursor:
        """Return the last sequence of every partition."""
        return {one.header.key: end for one in self.partitions() if (end := self._ask(one, PartitionReader.end))}

    def marks(self) -> Cursor:
        """Return the mark of every partition that was appended in batches."""
        found = {one.header.key: self._ask(one, PartitionReader.mark) for one in self.partitions()}
        return {key: mark for key, mark in found.items() if mark is not None}

    def close(self) -> None:
        """Let go of all files."""
        self._connections.close()


def _passes(error: sqlite3.DatabaseError) -> bool:
    """Tell whether the next try may succeed: the file is busy, or the process short of memory or descriptors."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _PASSING


def _is_read(partition: PartitionReader, after: Mapping[str, int]) -> bool:
    return partition.ended() and after.get(partition.header.key, 0) >= partition.end()
