"""Makes room: removes the journal's oldest files, whole, once every consumer has stored all that is in them.

What somebody still needs is never removed, so a journal may stay larger than wished. A partition's newest file goes
when its writer has ended; of a relayed one it is emptied instead: it holds the mark by which the relay knows what it
need not send again.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from eventbus.journals import _partition as files
from eventbus.journals._quarantine import Left, partition_key, replace_file, rolls_of, shm_path, wal_path
from eventbus.journals.consumer import Standing, standings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from eventbus.abc import PartitionHeader


_logger = logging.getLogger("trackbus.journal")


class Trimmed(NamedTuple):
    """What was removed: how many files, and how much room that made."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RollFile:
    """One file of a partition, as trimming sees it.

    Attributes:
        path: Where it is.
        header: What stands once in its partition.
        last: Its last record, 0 if it has none.
        bytes: What it takes on the disk, with its log.
        is_newest: Whether it is the partition's last one.
        is_ended: Whether nothing more is written to it.
        mark: The mark, if the partition was relayed.
    """

    path: Path
    header: PartitionHeader
    last: int
    bytes: int
    is_newest: bool
    is_ended: bool
    mark: int | None = None


def trim(folder: Path, cursors: Path, wanted: int, feeds: Iterable[Mapping[str, int]] = ()) -> Trimmed:
    """Remove files that nobody needs, oldest first, until so much room is made or none is left.

    Args:
        folder: The journal.
        cursors: Folder of the consumers' files.
        wanted: Bytes to make room for.
        feeds: Positions of the bus's own consumers, which may have no file.

    Returns:
        What was removed. A consumer's file that can't be read may need everything: then nothing is.
    """
    try:
        needs = [*standings(cursors), *(Standing(dict(cursor), [], set()) for cursor in feeds)]
    except sqlite3.Error:
        return Trimmed(0, 0)
    trimmed = [one.bytes for one in select(list(look(folder)), needs, wanted) if _remove(one)]
    return Trimmed(len(trimmed), sum(trimmed))


# --- the decision: pure ---------------------------------------------------------------------------------------------


def select(found: Sequence[RollFile], needs: Sequence[Standing], wanted: int) -> Iterator[RollFile]:
    """Yield the files to remove, oldest first. A journal that nobody has read yet is kept: somebody will."""
    room = 0
    for file in sorted(found, key=lambda one: (one.header.created_ns, one.header.key, one.last)):
        if room >= wanted or not needs:
            return
        is_empty_already = file.is_newest and file.mark is not None and not file.last
        if file.is_ended and not is_empty_already and all(_is_done(file, need) for need in needs):
            room += file.bytes
            yield file


def _is_done(file: RollFile, need: Standing) -> bool:
    """Tell whether a consumer needs nothing of a file: no record, no plan's stretch, no word on how a run ended."""
    key = file.header.key
    if need.cursor.get(key, 0) < file.last or (file.is_newest and key in need.unfinished):
        return False
    return not any(part.partition == key and part.first <= file.last for part in need.planned)


# --- the files ------------------------------------------------------------------------------------------------------


def look(folder: Path) -> Iterator[RollFile]:
    """Yield a journal's files; a partition of which one can't be read is left out, and so kept."""
    partitions = {partition_key(path): rolls_of(path) for path in files.partition_files(folder)}
    for rolls in partitions.values():
        with suppress(OSError, sqlite3.DatabaseError):
            yield from _look_at(rolls)


def _look_at(rolls: list[Path]) -> list[RollFile]:
    facts = [_facts(path) for path in rolls]
    mark = max((mark for *_, mark, _ in facts if mark is not None), default=None)
    is_closed = any(is_closed for *_, is_closed in facts)
    is_over = not files.is_held(files.lock_path(rolls[0])) and (mark is None or is_closed)
    newest = max((number for number, (_, last, *_) in enumerate(facts) if last), default=0)
    return [
        RollFile(
            path,
            header,
            last,
            sum(_size(one) for one in (path, wal_path(path), shm_path(path))),
            is_newest=path == rolls[-1],
            is_ended=is_over or (number < newest and not _size(wal_path(path))),  # the writer is done with it
            mark=mark,
        )
        for number, (path, (header, last, *_)) in enumerate(zip(rolls, facts, strict=True))
    ]


def _facts(path: Path) -> tuple[PartitionHeader, int, int | None, bool]:
    """Return a file's header, its last record, its mark, and whether its writer has closed it."""
    with closing(files.open_reader(path)) as connection:
        header = files.read_header(connection)
        (last,) = connection.execute("SELECT ifnull(max(seq), 0) FROM records").fetchone()
        values = dict(connection.execute("SELECT name, value FROM header WHERE name IN ('mark', 'closed')"))
    files.check_name(path, header)
    return header, last, values.get("mark"), "closed" in values


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove(file: RollFile) -> bool:
    """Remove a file, or empty it; tell whether that was done."""
    try:
        if not file.is_newest:
            _unlink(file.path)
            return True
        lock = files.PartitionLock(files.lock_path(file.path))  # nobody comes back to it meanwhile
        try:
            _remove_last(file)
        finally:
            lock.release()
    except (OSError, sqlite3.Error) as error:
        _logger.warning("%s can't be trimmed: %s", file.path, error)
        return False
    return True


def _remove_last(file: RollFile) -> None:
    if file.mark is None:
        _unlink(file.path)
        files.lock_path(file.path).unlink(missing_ok=True)
    else:
        values = {"roll": files.roll_number(file.path), "mark": file.mark, "count": 0, "closed": 1}
        replace_file(file.path, Left(file.header, [], values))


def _unlink(path: Path) -> None:
    for one in (path, wal_path(path), shm_path(path)):
        one.unlink(missing_ok=True)
