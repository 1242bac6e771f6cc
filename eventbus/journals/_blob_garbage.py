"""Removes the blobs that no partition file names any more, an hour after they came.

Which blobs a file names is found in its records, once: only those are looked at that came since the last time. What was
found is kept in `<blobs>/.names`. So a blob costs nothing when its event is published, and a file that can't be read
(somebody mends it, say) keeps all blobs.
"""

from __future__ import annotations

import logging
import re
import secrets
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from eventbus import _blob_files as blob_files
from eventbus.blobs import BlobUsage
from eventbus.journals import _partition as files

KEEP_SECONDS = 3600.0
"""How long a blob is kept that nobody names: its event comes within moments, or, across sites, after a big batch."""

NAMES = ".names"

_NAME = re.compile(rb"\xa4name\xd9(?:\x40([0-9a-f]{64})|\x25(late-[0-9a-f]{32}))")
_RECORDS = """
SELECT body FROM records
WHERE seq > ? AND (instr(body, x'A46E616D65D940') OR instr(body, x'A46E616D65D9256C6174652D'))
"""

_logger = logging.getLogger("trackbus.journal")


class _Old(NamedTuple):
    path: str
    bytes: int
    mtime_ns: int
    ctime_ns: int


class _Named(msgspec.Struct):
    """What a partition file's records name, up to a sequence."""

    last: int = 0
    names: set[str] = set()


def collect(folder: Path, journal: Path) -> BlobUsage:
    """Remove blobs that are old and that no record names.

    Args:
        folder: The blob store.
        journal: The journal beside it.

    Returns:
        What was removed; nothing where a file of the journal can't be read.
    """
    kept = blob_files.kept(folder)
    old = [
        _Old(str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        for path, found in kept
        if blob_files.age(found.st_ctime) > KEEP_SECONDS
    ]
    try:
        needed = _needed(folder / NAMES, journal) if old else set[str]()
    except (OSError, sqlite3.Error) as error:
        _logger.warning("no blob is removed now: %s", error)
        return BlobUsage()
    removed = [one.bytes for one in old if Path(one.path).name not in needed and _remove(one)]
    return BlobUsage(len(removed), sum(removed))


def _needed(notes: Path, journal: Path) -> set[str]:
    """Return the names in all records of a journal.

    Raises:
        OSError: A file is being mended, or the notes can't be written.
        sqlite3.Error: A file can't be read.
    """
    names, seen = set[str](), set[Path]()
    _check_whole(journal)
    while fresh := set(files.partition_files(journal)) - seen:  # new files, and those that were put in another's place
        for path in fresh:
            with suppress(FileNotFoundError):
                names |= _names_in(path, notes)
            seen.add(path)
    _check_whole(journal)
    _forget_gone(notes, {_note_of(notes, path) for path in seen})
    return names


def _check_whole(journal: Path) -> None:
    if mending := next(journal.glob("*/*.salvaged"), None):
        raise OSError(f"{mending} is not in its place yet")


def _note_of(notes: Path, path: Path) -> Path:
    return notes / f"{path.parent.name} {path.stem}.json"


def _names_in(path: Path, notes: Path) -> set[str]:
    """Return the names in one file's records, and note them.

    Raises:
        FileNotFoundError: It was removed meanwhile.
    """
    note = _note_of(notes, path)
    known = _read(note)
    try:
        with closing(files.open_reader(path)) as connection:
            (last,) = connection.execute("SELECT ifnull(max(seq), 0) FROM records").fetchone()
            bodies = connection.execute(_RECORDS, (known.last,)) if last > known.last else ()
            fresh = {name for (body,) in bodies for name in _found(body)}
    except sqlite3.Error:
        path.stat()
        raise
    if not last:  # emptied: only its mark is wanted
        return set()
    if last > known.last:
        known = _Named(last, known.names | fresh)
        _write(note, known)
    return known.names


def _found(body: bytes) -> set[str]:
    return {(short or late).decode() for short, late in _NAME.findall(body)}


def _read(note: Path) -> _Named:
    try:
        return msgspec.json.decode(note.read_bytes(), type=_Named)
    except (OSError, msgspec.MsgspecError):
        return _Named()


def _write(note: Path, named: _Named) -> None:
    note.parent.mkdir(exist_ok=True)
    half = note.with_name(f"{note.name}.{secrets.token_hex(4)}")
    half.write_bytes(msgspec.json.encode(named))
    half.replace(note)


def _forget_gone(notes: Path, wanted: set[Path]) -> None:
    with suppress(OSError):
        for path in set(notes.iterdir()) - wanted:
            path.unlink(missing_ok=True)


def _remove(old: _Old) -> bool:
    """Remove a blob, unless somebody has kept the same bytes since: that makes it new.

    It is taken away first and looked at then, so that whoever comes next writes it anew.
    """
    path = Path(old.path)
    aside = blob_files.aside_of(path)
    try:
        if path.stat().st_ctime_ns != old.ctime_ns:
            return False
        path.rename(aside)
        if aside.stat().st_mtime_ns != old.mtime_ns:  # the other time is changed by the renaming itself
            aside.rename(path)
            return False
        aside.unlink()
    except OSError:  # another process has removed it
        return False
    with suppress(OSError):
        blob_files.note_path(path).unlink()
    return True
