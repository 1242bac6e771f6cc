"""Puts damaged partition files aside, and what can be read of them into fresh ones.

A damaged file is renamed to `<its name>.damaged-<n>`, which readers ignore; a fresh file of the same partition takes
its place, with the same records under the same numbers. A record that is known to have been there and can't be read
stands in it without a body, so that every consumer counts it as dropped when it comes by. A file is put aside only
under its partition's lock: never while somebody writes it, and never by two at once.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing, suppress
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus._event import Origin
from eventbus.abc import PartitionHeader
from eventbus.health import JournalQuarantined
from eventbus.journals import _partition as files
from eventbus.journals._salvage import Salvaged, logged_end, salvage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventbus.abc import Cursor

MOST_LOST = 1_000_000
"""Lost records that are counted one by one in one file: a damaged cursor may claim any number."""

LAST_FILES = 2
"""Files of a partition that a killed writer may have written to last: the next one is prepared before it is needed."""

LEAST_RECORD_BYTES = 12
"""What a record takes in a file at least."""

UNKNOWN_JOB = "unknown"
"""Job of a partition whose header is lost."""

_KEPT_VALUES = ("roll", "mark", "count", "closed")

_logger = logging.getLogger("trackbus.journal")


def wal_path(path: Path) -> Path:
    """Return the write-ahead log of a file."""
    return path.with_name(f"{path.name}-wal")


def shm_path(path: Path) -> Path:
    """Return the index of a file's write-ahead log."""
    return path.with_name(f"{path.name}-shm")


# --- judging ----------------------------------------------------------------------------------------------------------


def glance(path: Path) -> tuple[str | None, bool]:
    """Look at a file's header only.

    Returns:
        What is wrong with it, None if it is sound, foreign or out of reach for the moment; and whether its writer
        closed it in order.
    """
    try:
        with closing(files.open_reader(path)) as connection:
            files.check_name(path, files.read_header(connection))
            return None, bool(_first(connection, "SELECT count(*) FROM header WHERE name = 'closed'"))
    except sqlite3.DatabaseError as error:
        return (str(error) if files.is_damage(error) else None), False


def examine(path: Path, known: int = 0) -> str | None:
    """Read all of a file whose writer has ended; return what is wrong with it, None as `glance` does.

    Args:
        path: The file.
        known: Last record of the partition that some consumer has stored; 0 where that is no matter of this file.
    """
    try:
        return _fault_inside(path) or _fault_at_end(path, known)
    except (OSError, sqlite3.DatabaseError) as error:
        return str(error) if files.is_damage(error) else None


def is_torn(path: Path) -> bool:
    """Tell whether the structure of a file is damaged; it may be written meanwhile."""
    try:
        return _fault_inside(path) is not None
    except (OSError, sqlite3.DatabaseError) as error:
        return files.is_damage(error)


def _fault_inside(path: Path) -> str | None:
    with closing(files.open_reader(path)) as connection:
        files.check_name(path, files.read_header(connection))
        verdict = _first(connection, "PRAGMA quick_check(1)")
    return None if verdict == "ok" else verdict


def _fault_at_end(path: Path, known: int) -> str | None:
    _, end = _range(path)
    if end < logged_end(_content(wal_path(path))):
        return "its write-ahead log is damaged"
    is_short = known > max(end, *(last for _, last in map(_range, rolls_of(path))))
    return "records that were stored by a consumer are missing" if is_short else None


def _first(connection: sqlite3.Connection, query: str) -> Any:
    return connection.execute(query).fetchone()[0]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def rolls_of(path: Path) -> list[Path]:
    """Return all files of a file's partition, oldest first."""
    rolls = path.parent.glob(f"{path.name.rsplit('-', 1)[0]}-*.db")
    return sorted(rolls, key=lambda one: (len(one.name), one.name))


def _range(path: Path) -> tuple[int, int]:
    """Return the numbers of a file's first and last record, (0, 0) if it has none or can't be read."""
    try:
        with closing(files.open_reader(path)) as connection:
            return connection.execute("SELECT ifnull(min(seq), 0), ifnull(max(seq), 0) FROM records").fetchone()
    except sqlite3.DatabaseError:
        return 0, 0


# --- reading what is left ---------------------------------------------------------------------------------------------


class Left(NamedTuple):
    """What is left of a file.

    Attributes:
        header: What stands once in the partition, as far as it is known.
        records: Numbers and bodies, in order; the body of a lost one is empty.
        values: What stands beside them in the file.
    """

    header: PartitionHeader
    records: list[tuple[int, bytes]]
    values: dict[str, int]


def read_damaged(path: Path, known: int = 0, header: PartitionHeader | None = None) -> Left:
    """Read what is left of a file; legal while others use it, if this process does not.

    Args:
        path: The file.
        known: Last record that the file is known to have held, if nothing that comes after it tells.
        header: Its header, if that is known.
    """
    database, log = _content(path), _content(wal_path(path))
    found = salvage(database, log)
    header = header or _header(path, found)
    values = {name: value for name in _KEPT_VALUES if isinstance(value := found.header.get(name), int)}
    room = (len(database) + len(log)) // LEAST_RECORD_BYTES
    first, last = _bounds(path, header, found, room)
    lost = _lost_numbers(found, values, first, max(known, last))
    return Left(header, sorted((found.records | dict.fromkeys(lost, files.LOST)).items()), values)


def _bounds(path: Path, header: PartitionHeader, found: Salvaged, room: int) -> tuple[int, int]:
    """Return the numbers that a file begins and ends with, by what is read in it and in the files around it."""
    lowest, highest = min(found.records, default=0), max(found.records, default=0)
    ranges = {one: _range(one) for one in rolls_of(path) if one != path}
    before = [last for one, (_, last) in ranges.items() if last and files.roll_number(one) < files.roll_number(path)]
    after = [first for one, (first, _) in ranges.items() if first and files.roll_number(one) > files.roll_number(path)]
    first = max(before) + 1 if before else header.first
    if not before and header.origin.job == UNKNOWN_JOB and lowest > room:  # it did not begin with 1
        first = lowest
    return first, min(after) - 1 if after else highest


def _header(path: Path, found: Salvaged) -> PartitionHeader:
    """Return the salvaged header, or one that says what the file's name does."""
    with suppress(sqlite3.DatabaseError):
        header = files.unpack_header(found.header)
        files.check_name(path, header)
        return header
    name = files.FILE_NAME.fullmatch(path.name)
    if name is None:
        msg = f"{path.name} is not the name of a partition's file"
        raise sqlite3.DatabaseError(msg)
    origin = Origin(site=path.parent.name, rank=int(name["rank"]), incarnation=name["incarnation"], job=UNKNOWN_JOB)
    return PartitionHeader(origin=origin, created_ns=_oldest_time(path))


def _oldest_time(path: Path) -> int:
    """Return when the partition was begun, as far as its files tell."""
    times: list[int] = []
    for one in (path, files.lock_path(path)):
        with suppress(OSError):
            times.append(one.stat().st_mtime_ns)
    return min(times, default=0)


def _lost_numbers(found: Salvaged, values: Mapping[str, int], first: int, last: int) -> Iterator[int]:
    """Yield the numbers that are missing.

    A writer's own partition has no gaps. In one that was relayed, what was withheld leaves gaps too: its file says how
    many records it holds, and the first free numbers stand for the missing ones.
    """
    gaps = (number for number in range(first, max(last, values.get("mark", 0)) + 1) if number not in found.records)
    missing = max(0, values.get("count", 0) - len(found.records)) if "mark" in values else MOST_LOST
    return islice(gaps, missing)


# --- putting aside ----------------------------------------------------------------------------------------------------


def put_aside(path: Path, left: Left, reason: str) -> JournalQuarantined:
    """Put a file aside and what is left of it in its place; the caller holds its lock, and no connection to it.

    A process that dies in between leaves the damaged file as it was, or a finished one that `finish_all` shows.

    Raises:
        OSError: The folder can't be written.
        sqlite3.Error: The same.
    """
    finished = _write(path, left)
    aside = _rename(path)
    show(finished, path)
    lost = sum(body == files.LOST for _, body in left.records)
    event = JournalQuarantined(path=str(aside), reason=reason, salvaged=len(left.records) - lost, lost=lost)
    _logger.warning("%s is damaged (%s): %d records were salvaged, %d are lost", aside, reason, event.salvaged, lost)
    return event


def replace_file(path: Path, left: Left) -> None:
    """Put other content in a file's place; the caller holds its lock.

    Raises:
        OSError: The folder can't be written.
        sqlite3.Error: The same.
    """
    show(_write(path, left), path)


def _write(path: Path, left: Left) -> Path:
    """Write a fresh file under a name that readers ignore."""
    unfinished = path.with_suffix(".salvaging")
    wal_path(unfinished).unlink(missing_ok=True)  # of a process that died here
    files.create_file(unfinished, left.header, **left.values)
    with closing(files.open_writer(unfinished)) as connection:
        connection.execute("BEGIN")
        files.insert(connection, left.records)
        connection.execute("COMMIT")
    return unfinished.rename(path.with_suffix(".salvaged"))


def _rename(path: Path) -> Path:
    """Rename a file and its log; whoever has them open goes on reading them."""
    aside = next(one for number in count(1) if not (one := path.with_name(f"{path.name}.damaged-{number}")).exists())
    with suppress(FileNotFoundError):
        path.rename(aside)
    with suppress(FileNotFoundError):
        wal_path(path).rename(wal_path(aside))
    return aside


def show(finished: Path, path: Path) -> None:
    """Give a finished file its name; a log of the damaged one must not be taken for its own."""
    wal_path(path).unlink(missing_ok=True)
    shm_path(path).unlink(missing_ok=True)
    finished.rename(path)


# --- at the opening ---------------------------------------------------------------------------------------------------


def examine_all(folder: Path, known: Cursor) -> list[JournalQuarantined]:
    """Look at all files of a journal that nobody writes, and put the damaged ones aside. Raises nothing.

    Only what was not closed in order is read whole, once: then its lock is newer than the file.

    Args:
        folder: The journal.
        known: Per partition, the last record that some consumer has stored.
    """
    found: list[JournalQuarantined] = []
    try:
        finish_all(folder)
        partitions = {partition_key(path): rolls_of(path) for path in files.partition_files(folder)}
    except OSError as error:
        _logger.warning("%s can't be looked at: %s", folder, error)
        return found
    for key, rolls in partitions.items():
        try:
            found += _examine_partition(rolls, known.get(key, 0))
        except (OSError, sqlite3.Error) as error:
            _logger.warning("%s can't be put aside: %s", key, error)
    return found


def _examine_partition(rolls: list[Path], known: int) -> list[JournalQuarantined]:
    lock = files.lock_path(rolls[-1])
    if files.is_held(lock):
        return []
    glances = [glance(path) for path in rolls]
    suspects = [path for path, (fault, _) in zip(rolls, glances, strict=True) if fault]
    if not suspects and not any(is_closed for _, is_closed in glances) and not _was_examined(rolls[-1]):
        suspects = rolls[-LAST_FILES:]
    found = [event for path in suspects if (event := mend(path, known if path == rolls[-1] else 0))]
    with suppress(OSError):
        os.utime(lock)
    return found


def _was_examined(path: Path) -> bool:
    try:
        examined = files.lock_path(path).stat().st_mtime_ns
    except FileNotFoundError:
        return False
    return all(one.stat().st_mtime_ns < examined for one in (path, wal_path(path)) if one.exists())


def partition_key(path: Path) -> str:
    """Return the key of the partition that a file belongs to, by its name."""
    return f"{path.parent.name}/{path.name.rsplit('-', 1)[0]}"


def mend(path: Path, known: int = 0) -> JournalQuarantined | None:
    """Put a file aside if it is damaged and nobody writes it.

    Args:
        path: The file.
        known: Last record of the partition that some consumer has stored; 0 where that is no matter of this file.

    Raises:
        BlockingIOError: Somebody writes the partition, or is at it already.
        OSError: The folder can't be written.
        sqlite3.Error: The same.
    """
    if examine(path, known) is None:
        return None
    lock = files.PartitionLock(files.lock_path(path))
    try:
        fault = examine(path, known)  # another process may have been at it meanwhile
        return put_aside(path, read_damaged(path, known), fault) if fault else None
    finally:
        lock.release()


def finish_all(folder: Path) -> None:
    """Show the files that were finished by a process which died before it could show them."""
    for finished in folder.glob("*/*.salvaged"):
        with suppress(OSError):
            _finish(finished)


def _finish(finished: Path) -> None:
    path = finished.with_suffix(".db")
    lock = files.PartitionLock(files.lock_path(path))
    try:
        if not path.exists():
            show(finished, path)
    finally:
        lock.release()
