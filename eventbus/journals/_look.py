"""Looks at a journal and its consumers' files without creating or changing one, whoever works on them meanwhile."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus.errors import WorkspaceError
from eventbus.journals import _partition as files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventbus.abc import Cursor, StoredRecord
    from eventbus.journals._partition_reader import PartitionReader

READ_RECORDS = 2000
"""Records read at once: their bytes are held in memory."""

_COUNT = "SELECT count(*) FROM records WHERE seq > ?"
_NUMBERS = """
SELECT ifnull(max(0, (SELECT max(seq) FROM records) - max(?, (SELECT min(seq) FROM records) - 1)), 0)
"""

_FLOCK = struct.Struct("hhqqi4x")
"""Linux's `struct flock` where a long has 64 bits: type, whence, start, length, pid."""


def open_unchanged(path: Path) -> sqlite3.Connection:
    """Open a SQLite file for reading, without leaving anything beside it.

    Without a write-ahead log nobody works on the file, and it is opened as it lies there: SQLite would otherwise make
    such a log, and leave it. A connection that was opened so does not see what is written later.

    Raises:
        sqlite3.DatabaseError: There is no such file, or it can't be opened.
    """
    wal = Path(f"{path}-wal")
    if wal.exists() and wal.stat().st_size:
        return files.open_reader(path)
    uri = f"{files.read_only(path)}&immutable=1"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def records_after(partition: PartitionReader, seq: int) -> Iterator[StoredRecord]:
    """Yield all records of a partition after a sequence."""
    while records := partition.after(seq, READ_RECORDS):
        yield from records
        seq = records[-1].seq


def count_after(partition: PartitionReader, seq: int) -> int:
    """Count the records of a partition after a sequence; only a mirror's are looked at, which may have gaps."""
    has_gaps = partition.mark() is not None
    query = _COUNT if has_gaps else _NUMBERS
    return sum(partition.ask(query, seq))


@dataclass(frozen=True, slots=True)
class ConsumerFacts:
    """What stands in a consumer's file.

    Attributes:
        name: The consumer's name.
        destination: Where its data go; empty for one that fills no tracker.
        cursor: Position up to which everything is stored.
        counts: Totals by (kind, name).
        unfinished: Batches that were begun, but are not known to be stored.
    """

    name: str
    destination: str = ""
    cursor: Cursor = field(default_factory=dict[str, int])
    counts: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    unfinished: int = 0

    def of_kind(self, kind: str) -> dict[str, int]:
        """Return the counts of one kind, by name."""
        return {name: value for (one, name), value in self.counts.items() if one == kind and value}


def look_at_consumer(path: Path) -> ConsumerFacts:
    """Read a consumer's file.

    Raises:
        WorkspaceError: It can't be read.
    """
    try:
        with closing(open_unchanged(path)) as connection:
            meta = dict(connection.execute("SELECT name, value FROM meta"))
            return ConsumerFacts(
                path.stem,
                meta.get("destination", ""),
                dict(connection.execute("SELECT partition, seq FROM cursor")),
                {(kind, name): value for kind, name, value in connection.execute("SELECT * FROM counts")},
                connection.execute("SELECT count(*) FROM plans").fetchone()[0],
            )
    except (OSError, sqlite3.Error) as error:
        msg = f"the cursor file {path} can't be read: {error}"
        raise WorkspaceError(msg) from error


def holder(lock: Path) -> int | None:
    """Return the pid of the process that holds a lock, 0 where the system does not name it, None if it is free."""
    if files.is_held_here(lock):  # and must not be opened: closing it would release the lock
        return os.getpid()
    if sys.platform != "linux":
        return 0 if files.is_held(lock) else None
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _pid_of_writer(fd)
    finally:
        os.close(fd)


def _pid_of_writer(fd: int) -> int | None:
    """Ask the kernel who would keep us from a shared lock; it takes none."""
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    kind, *_, pid = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else pid
