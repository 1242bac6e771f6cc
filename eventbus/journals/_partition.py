"""One partition on disk: a SQLite file in WAL mode with one writer and any number of readers.

A site's journal is the folder `<journal>/<site>/` with, per partition, the files `<rank>-<incarnation>-<n>.db` (n
counts rolled files) and one `<rank>-<incarnation>.lock`, which the writing process holds for as long as it lives.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import sqlite3
import time
import zlib
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from eventbus._event import Origin
from eventbus.abc import PartitionHeader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

FORMAT = 2
"""Version of the file's layout; a reader refuses another one."""

PAGE_BYTES = 1024
"""Small pages: one event dirties one page, and a page is what goes to the write-ahead log."""

BUSY_TIMEOUT_MS = 5000
"""How long a statement waits for the moment in which a checkpoint holds the file."""

PROBE_SECONDS = 0.1
"""How long a writer tries to take its lock: a reader that looks whether it is free holds it for microseconds."""

FOLDERS = 3
"""A file's name is on the disk once these are: the site's folder, the journal's, and the one that holds it."""

FILE_NAME = re.compile(r"(?P<rank>\d+)-(?P<incarnation>[0-9a-f]+)-(?P<roll>\d+)\.db")

_SCHEMA = f"""
PRAGMA page_size = {PAGE_BYTES};
BEGIN;
CREATE TABLE header (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE records (seq INTEGER PRIMARY KEY, body BLOB NOT NULL, crc INTEGER NOT NULL);
"""

LOST = b""
"""Body of a record that is known to have been here and can't be read: every consumer counts it as dropped."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_held: set[tuple[int, int]] = (
    set()
)  # locks of this process by inode: closing such a file again would release it (POSIX)
os.register_at_fork(after_in_child=_held.clear)  # a child inherits the descriptors, not the locks


class DamagedError(sqlite3.DatabaseError):
    """Raised when a file is one of ours, and its content is not what was written."""


def is_damage(error: BaseException) -> bool:
    """Tell whether an error says that a file is damaged, and not that it is busy, foreign, or out of reach."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return isinstance(error, DamagedError) or code & 0xFF in _DAMAGE


def checksum(seq: int, body: bytes) -> int:
    """Return what stands beside a record, so that neither its bytes nor its number can change unseen.

    SQLite checks the structure of its files, not their content.
    """
    return zlib.crc32(body, seq & 0xFFFFFFFF)


def new_incarnation() -> str:
    """Return a random partition name: a new journal must never look like an old one."""
    return secrets.token_hex(4)


def roll_path(folder: Path, origin: Origin, roll: int) -> Path:
    """Return the path of one file of a partition."""
    return folder / origin.site / f"{origin.rank}-{origin.incarnation}-{roll}.db"


def roll_number(path: Path) -> int:
    """Return which file of its partition it is, from 0."""
    return _roll_order(path.name)[1]


def name_after(path: Path) -> str:
    """Return the name of the file that a partition goes on in after this one."""
    stem, number = _roll_order(path.name)
    return f"{stem}-{number + 1}.db"


def lock_path(file: Path) -> Path:
    """Return the lock beside a partition's file."""
    return file.with_name(file.name.rsplit("-", 1)[0] + ".lock")


def partition_files(folder: Path) -> Iterator[Path]:
    """Yield the files of all partitions below a journal's folder, rolled files of one partition in order."""
    try:
        sites = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    except FileNotFoundError:
        return
    for site in sites:
        names = [name for name in _names(site) if FILE_NAME.fullmatch(name)]
        yield from (Path(site, name) for name in sorted(names, key=_roll_order))


def _names(folder: Path | str) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _roll_order(name: str) -> tuple[str, int]:
    stem, _, roll = name.removesuffix(".db").rpartition("-")
    return stem, int(roll)


class PartitionLock:
    """Held by a partition's writer: who finds it free knows that the writer has ended.

    Raises:
        BlockingIOError: Somebody holds it, this process or another one.
    """

    def __init__(self, path: Path) -> None:
        self._identity: tuple[int, int] | None = None
        if is_held_here(path):
            raise BlockingIOError(errno.EAGAIN, "this process writes the partition already", str(path))
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._acquire()
        except OSError:
            os.close(self._fd)
            raise
        self._identity = _identity(os.fstat(self._fd))
        _held.add(self._identity)

    def _acquire(self) -> None:
        deadline = time.monotonic() + PROBE_SECONDS
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PROBE_SECONDS / 20)
            else:
                return

    def release(self) -> None:
        """Let go: the partition has ended."""
        if self._identity in _held:
            _held.discard(self._identity)
            os.close(self._fd)


def _identity(found: os.stat_result) -> tuple[int, int]:
    """Return what names a file however its path is spelt."""
    return found.st_dev, found.st_ino


def is_held_here(path: Path) -> bool:
    """Tell whether this process holds a partition's lock."""
    try:
        return _identity(path.stat()) in _held
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Tell whether a living process holds a partition's lock.

    The probe is a shared lock: two that look at once don't take each other for the writer.
    """
    if is_held_here(path):
        return True
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def create_file(path: Path, header: PartitionHeader, **more: int) -> None:
    """Create a partition's file under a name that readers ignore, then show it whole; `more` stands in its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    packed = msgspec.msgpack.encode(header)
    values = {"format": FORMAT, "header": packed, "check": checksum(0, packed), **more}
    with closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
        connection.executescript(_SCHEMA)
        connection.executemany("INSERT INTO header VALUES (?, ?)", values.items())
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    unfinished.rename(path)
    for folder in path.parents[:FOLDERS]:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_writer(path: Path) -> sqlite3.Connection:
    """Open a partition's file for appending; checkpoints are left to the caretaker."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def read_only(path: Path) -> str:
    """Return the URI by which SQLite opens a file without changing it; any character may stand in its path."""
    return f"{path.absolute().as_uri()}?mode=ro"


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a partition's file for reading; the same connection may serve threads one after another.

    Raises:
        DamagedError: It is empty. SQLite would take it for a new database, and remove the log that may hold everything.
        sqlite3.DatabaseError: It can't be opened.
    """
    with suppress(OSError):
        if not path.stat().st_size:
            raise DamagedError("it is empty")
    connection = sqlite3.connect(read_only(path), uri=True, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection


def read_header(connection: sqlite3.Connection) -> PartitionHeader:
    """Read what stands once per partition.

    Raises:
        DamagedError: The header is not what was written.
        sqlite3.DatabaseError: The file is damaged otherwise, or of another format.
    """
    values = dict(connection.execute("SELECT name, value FROM header WHERE name IN ('format', 'header', 'check')"))
    if values.get("format") != FORMAT:
        msg = f"format {values.get('format')}, this version reads {FORMAT}"
        raise sqlite3.DatabaseError(msg)
    return unpack_header(values)


def unpack_header(values: Mapping[str, object]) -> PartitionHeader:
    """Make the header out of a file's values.

    Raises:
        DamagedError: They are not what was written.
    """
    packed = values.get("header")
    if not isinstance(packed, bytes) or checksum(0, packed) != values.get("check"):
        raise DamagedError("its header is damaged")
    try:
        return msgspec.msgpack.decode(packed, type=PartitionHeader)
    except msgspec.MsgspecError as error:
        msg = f"its header is damaged: {error}"
        raise DamagedError(msg) from error


def check_name(path: Path, header: PartitionHeader) -> None:
    """Refuse a file under another name than its own: a copy would be read as a second set of records.

    Raises:
        sqlite3.DatabaseError: The name is that of another partition.
    """
    match = FILE_NAME.fullmatch(path.name)
    if match is None or header.key != f"{path.parent.name}/{match['rank']}-{match['incarnation']}":
        msg = f"it holds the partition {header.key}: a copy?"
        raise sqlite3.DatabaseError(msg)


def ended_before(folder: Path, origin: Origin) -> tuple[str, ...]:
    """Return the keys of the partitions of this site and rank whose writers have ended."""
    site = folder / origin.site
    names = _names(site) if site.is_dir() else []
    matches = [match for name in names if (match := FILE_NAME.fullmatch(name))]
    ended = {
        f"{origin.site}/{match['rank']}-{match['incarnation']}"
        for match in matches
        if int(match["rank"]) == origin.rank and not is_held(lock_path(site / match.string))
    }
    return tuple(sorted(ended))


def new_header(folder: Path, origin: Origin) -> PartitionHeader:
    """Make the header of a partition that begins now."""
    return PartitionHeader(origin=origin, created_ns=time.time_ns(), after=ended_before(folder, origin))


def helper_header(of: PartitionHeader) -> PartitionHeader:
    """Make the header of the partition that a forked child of a writer begins now."""
    origin = msgspec.structs.replace(of.origin, incarnation=new_incarnation())
    return msgspec.structs.replace(of, origin=origin, created_ns=time.time_ns(), first=1, parent=of.parent or of.key)


def last_seq(paths: Sequence[Path]) -> int:
    """Return the last sequence that is stored in some files of a partition, oldest first; 0 if there is none."""
    for path in reversed(paths):
        with closing(open_reader(path)) as connection:
            (seq,) = connection.execute("SELECT max(seq) FROM records").fetchone()
        if seq is not None:
            return seq
    return 0


def last_mark(paths: Iterable[Path]) -> int:
    """Return the mark of a partition that is appended in batches: the highest in its files."""
    mark = 0
    for path in paths:
        with closing(open_reader(path)) as connection:
            row = connection.execute("SELECT value FROM header WHERE name = 'mark'").fetchone()
        mark = max(mark, row[0] if row else 0)
    return mark


def insert(connection: sqlite3.Connection, records: Iterable[tuple[int, bytes]]) -> None:
    """Insert records in the open transaction."""
    rows = ((seq, body, checksum(seq, body)) for seq, body in records)
    connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", rows)
