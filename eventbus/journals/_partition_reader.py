"""Reads one partition: all its files, in order, while its writer goes on in another one and old ones are removed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus.abc import PartitionHeader, StoredRecord
from eventbus.journals import _partition as files

if TYPE_CHECKING:
    from eventbus.journals._reader import JournalReader

Opener = Callable[[Path], sqlite3.Connection]

OPEN_FILES = 100
"""Files that a reader keeps open: each takes three descriptors, and a workspace gathers partitions over the years."""


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

    def drop(self, path: Path) -> None:
        """Let go of one file."""
        if path in self._open:
            self._open.pop(path).close()

    def close(self) -> None:
        """Let go of all files; a later read opens them again."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


@dataclass(slots=True)
class File:
    """One file of a partition.

    Attributes:
        path: Where it is.
        first: Number of its first record, once there is one.
    """

    path: Path
    first: int | None = None


@dataclass(slots=True)
class PartitionReader:
    """The reading end of one partition. What it meets of damage it tells its journal, and says nothing more.

    Attributes:
        header: What stands once in it.
        journal: The journal that it belongs to.
        files: Its files, oldest first.
        final: Its last sequence once the writer has ended, None before.
        succeeded: Whether a later partition of the same writer is here.
    """

    header: PartitionHeader
    journal: JournalReader
    files: list[File] = field(default_factory=list[File])
    final: int | None = None
    succeeded: bool = False

    def after(self, seq: int, limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a sequence."""
        found: list[StoredRecord] = []
        if self.final is not None and seq >= self.final:
            return found
        for file in self._files_beyond(seq):
            if len(found) == limit:
                break
            found += self._select(file, "seq > ? ORDER BY seq LIMIT ?", seq, limit - len(found))
        return found

    def between(self, first: int, last: int) -> list[StoredRecord]:
        """Return the records of a stretch, both ends included.

        Raises:
            sqlite3.DatabaseError: A file is damaged.
        """
        found: list[StoredRecord] = []
        for file in self._files_beyond(first - 1):
            found += self._rows(file, "seq BETWEEN ? AND ? ORDER BY seq", first, last)
        return found

    def _files_beyond(self, seq: int) -> list[File]:
        """Return the files that may hold records after a sequence: those that no later one begins at or before it.

        A file that has no record yet is left out: its writer may go on in the one before, and what comes to both while
        they are read would be found in the later one alone. It appends to no file that a later one has begun.
        """
        if len(self.files) == 1:
            return self.files
        beyond: list[File] = []
        for file in reversed(self.files):
            first = self._first(file)
            beyond += [file] if first else []
            if first and first <= seq + 1:
                break
        return beyond[::-1]

    def _first(self, file: File) -> int | None:
        if file.first is None:
            file.first = self._one("SELECT min(seq) FROM records", file.path)
        return file.first

    def _select(self, file: File, where: str, *values: int) -> list[StoredRecord]:
        return self.journal.ask(self, file.path, lambda: self._rows(file, where, *values), [])

    def _rows(self, file: File, where: str, *values: int) -> list[StoredRecord]:
        connection = self.journal.connections.get(file.path)
        rows = connection.execute(f"SELECT seq, body, crc FROM records WHERE {where}", values)  # noqa: S608 - both conditions are constants of this class
        return [StoredRecord(self.header, seq, _sound(seq, body, crc)) for seq, body, crc in rows]

    def ask(self, query: str, *values: int | bytes) -> list[Any]:
        """Return the first column of what a query finds in all files, oldest first."""
        found: list[Any] = []
        for file in self.files:
            rows = self._rows_of(file.path, query, *values)
            found += [row[0] for row in rows]
        return found

    @property
    def lock(self) -> Path:
        """The lock that its writer holds."""
        return self.journal.folder / f"{self.header.key}.lock"

    @property
    def is_left_out(self) -> bool:
        """Whether it turned out to be damaged, or is gone: nothing more is read of it."""
        return not self.files

    def end(self) -> int:
        """Return the last sequence."""
        if self.final is not None:
            return self.final
        query = "SELECT max(seq) FROM records"
        return next((end for file in reversed(self.files) if (end := self._one(query, file.path))), 0)

    def mark(self) -> int | None:
        """Return the mark if the partition is appended in batches."""
        query = "SELECT value FROM header WHERE name = 'mark'"
        return max((mark for file in self.files if (mark := self._one(query, file.path)) is not None), default=None)

    def ended(self) -> bool:
        """Tell whether the writer has ended; from then on `final` is known."""
        if self.final is None and self._has_ended() and self._is_complete():
            self.final = self.end()
        return self.final is not None

    def _has_ended(self) -> bool:
        """Ask the lock of a writer's own partition; a mirror's is the relay's, and comes and goes with it."""
        if self.is_left_out:
            return False
        if self.mark() is None:
            return not (self.is_left_out or files.is_held(self.lock))
        return self.succeeded or self.is_closed()

    def _is_complete(self) -> bool:
        """Tell whether all files are known here: one that was begun since the last look has the last records."""
        if self.is_left_out:
            return False
        newest = self.files[-1].path
        return self.journal.knows(newest.with_name(files.name_after(newest)))

    def is_closed(self) -> bool:
        """Tell whether it says how it ended."""
        return self._newest("SELECT 1 FROM header WHERE name = 'closed'") is not None

    def closed_in_order(self) -> bool:
        """Tell whether the writer said that the partition ends; of a mirror it is also said that it did not."""
        return self._newest("SELECT 1 FROM header WHERE name = 'closed' AND value = 1") is not None

    def _newest(self, query: str) -> int | None:
        return self._one(query, self.files[-1].path) if self.files else None

    def _one(self, query: str, path: Path) -> int | None:
        rows = self._rows_of(path, query)
        return rows[0][0] if rows else None

    def _rows_of(self, path: Path, query: str, *values: int | bytes) -> list[Any]:
        connection = self.journal.connections
        return self.journal.ask(self, path, lambda: connection.get(path).execute(query, values).fetchall(), [])


def _sound(seq: int, body: bytes, crc: int) -> bytes:
    """Return a record's body if it is what was written; else the record is lost."""
    return body if files.checksum(seq, body) == crc else files.LOST
