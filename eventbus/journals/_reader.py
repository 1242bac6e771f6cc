"""Reads a journal folder: all its partitions, in an order that keeps a restarted rank's records after its earlier ones."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus.abc import Cursor, PartitionHeader, StoredRecord
from eventbus.journals import _partition as files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_logger = logging.getLogger("trackbus.journal")


@dataclass(slots=True)
class PartitionReader:
    """The reading end of one partition.

    Attributes:
        header: What stands once in it.
        paths: Its files, oldest first.
        final: Its last sequence once the writer has ended, None before.
    """

    header: PartitionHeader
    paths: list[Path]
    final: int | None = None
    _open: dict[Path, sqlite3.Connection] = field(default_factory=dict[Path, sqlite3.Connection])

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
            rows = self._connection(path).execute(f"SELECT seq, body FROM records WHERE {where}", values)  # noqa: S608 - both conditions are constants of this class
            found += [StoredRecord(self.header, seq, body) for seq, body in rows]
        return found

    def end(self) -> int:
        """Return the last sequence."""
        if self.final is not None:
            return self.final
        return self._connection(self.paths[-1]).execute("SELECT ifnull(max(seq), 0) FROM records").fetchone()[0]

    def mark(self) -> int | None:
        """Return the mark if the partition is appended in batches."""
        row = self._connection(self.paths[-1]).execute("SELECT value FROM header WHERE name = 'mark'").fetchone()
        return row[0] if row else None

    def ended(self) -> bool:
        """Tell whether the writer has ended; from then on `final` is known and files are closed between reads."""
        if self.final is None and not files.is_held(files.lock_path(self.paths[-1])):
            self.final = self.end()
        return self.final is not None

    def closed_in_order(self) -> bool:
        """Tell whether the writer said that the partition ends."""
        row = self._connection(self.paths[-1]).execute("SELECT 1 FROM header WHERE name = 'closed'").fetchone()
        return row is not None

    def _connection(self, path: Path) -> sqlite3.Connection:
        connection = self._open.get(path)
        if connection is None:
            connection = self._open[path] = files.open_reader(path)
        return connection

    def close(self) -> None:
        """Let go of the files; a later read opens them again."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


class JournalReader:
    """Reads all partitions of a journal folder. One thread at a time.

    Attributes:
        unreadable: Why a file is left out, by its path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unreadable: dict[Path, str] = {}
        self._partitions: dict[str, PartitionReader] = {}
        self._seen: set[Path] = set()

    def partitions(self) -> list[PartitionReader]:
        """Find new files and return all partitions, oldest first."""
        for path in files.partition_files(self.folder):
            if path not in self._seen and path not in self.unreadable:
                self._add(path)
        return sorted(self._partitions.values(), key=lambda one: (one.header.created_ns, one.header.key))

    def _add(self, path: Path) -> None:
        try:
            connection = files.open_reader(path)
            header = files.read_header(connection)
            connection.close()
        except sqlite3.DatabaseError as error:
            self.unreadable[path] = str(error)
            _logger.warning("%s is left out: %s", path, error)
            return
        self._seen.add(path)
        known = self._partitions.setdefault(header.key, PartitionReader(header, []))
        known.paths.append(path)
        known.final = None

    def partition(self, key: str) -> PartitionReader:
        """Return one partition.

        Raises:
            KeyError: The folder holds none of that key.
        """
        if key not in self._partitions:
            self.partitions()
        return self._partitions[key]

    def read(self, after: Mapping[str, int], limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a cursor, in order within each partition."""
        unread = [one for one in self.ready(after) if one.final is None or after.get(one.header.key, 0) < one.final]
        share = max(1, limit // max(1, len(unread)))  # a busy partition must not keep the others waiting
        found: list[StoredRecord] = []
        for partition in unread:
            found += partition.after(after.get(partition.header.key, 0), min(share, limit - len(found)))
        return found

    def ready(self, after: Mapping[str, int]) -> Iterator[PartitionReader]:
        """Yield the partitions whose predecessors are read to their end, oldest first."""
        partitions = self.partitions()
        by_key = {one.header.key: one for one in partitions}
        for partition in partitions:
            earlier = [by_key[key] for key in partition.header.after if key in by_key]
            if all(_is_read(one, after) for one in earlier):
                yield partition

    def ends(self) -> Cursor:
        """Return the last sequence of every partition."""
        return {one.header.key: end for one in self.partitions() if (end := one.end())}

    def marks(self) -> Cursor:
        """Return the mark of every partition that was appended in batches."""
        found = {one.header.key: one.mark() for one in self.partitions()}
        return {key: mark for key, mark in found.items() if mark is not None}

    def close(self) -> None:
        """Let go of all files."""
        for partition in self._partitions.values():
            partition.close()


def _is_read(partition: PartitionReader, after: Mapping[str, int]) -> bool:
    return partition.ended() and after.get(partition.header.key, 0) >= partition.end()
