"""How blobs lie in a folder: `<two digits>/<name>`, what is half made, and what is noted beside a large one.

| file | what it is |
| --- | --- |
| `ab/abcd...` | a blob, called by the SHA-256 of its bytes |
| `12/late-12...` | a large one, whose digest is computed later and noted in `late-12....sha256` |
| `12/.draft-...` | one that is being copied; its writer holds a lock on it |
| `12/.part-<name>` | one that is on its way from another store |
| `ab/.gone-<name>` | one that is removed in this moment |
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

FOLDER = "blobs"

HASH_BYTES = 1 << 20
"""What is read at once while a digest is computed."""

DRAFT_SECONDS = 60.0
"""A draft is younger than that when its writer has not locked it yet."""

PART_SECONDS = 7 * 86400.0
"""A part of a blob that nobody has gone on with for so long is given up: its relay is gone."""

RENEW_SECONDS = 600.0
"""A blob that came longer ago counts as new again once it is asked for: that is well before it may be removed."""

NAME = re.compile(r"[0-9a-f]{64}|late-[0-9a-f]{32}")

_DRAFT, _PART, _GONE, _NOTE = ".draft-", ".part-", ".gone-", ".sha256"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def blobs_of(journal: Path) -> Path:
    """Return the folder of the blobs that a journal's events name: it lies beside the journal."""
    return journal.parent / FOLDER


def place(folder: Path, name: str) -> Path:
    """Return where a blob lies."""
    return folder / name.removeprefix("late-")[:2] / name


def part_of(folder: Path, name: str) -> Path:
    """Return where a blob is put together that is on its way."""
    path = place(folder, name)
    return path.with_name(_PART + name)


def aside_of(path: Path) -> Path:
    """Return what a blob is called while it is removed."""
    return path.with_name(_GONE + path.name)


def new_name() -> str:
    """Return a name for a blob whose digest is not known yet."""
    return f"late-{secrets.token_hex(16)}"


def hashed(path: Path, check: Callable[[], object] | None = None) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits.

    Args:
        path: The file.
        check: Called after each chunk; it may raise, to give up.

    Raises:
        OSError: It can't be read.
    """
    with path.open("rb", buffering=0) as file:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(HASH_BYTES))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            if check is not None:
                check()
    return digest.hexdigest()


def note_path(path: Path) -> Path:
    """Return where a large blob's digest is noted."""
    return path.with_name(path.name + _NOTE)


def noted_digest(path: Path) -> str | None:
    """Return what is known of a blob's digest without computing it, None if nothing."""
    if not path.name.startswith("late-"):
        return path.name
    try:
        text = note_path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return text if _DIGEST.fullmatch(text) else None


def note_digest(path: Path, digest: str) -> None:
    """Note a blob's digest beside it.

    Raises:
        OSError: It can't be written.
    """
    note = note_path(path)
    with draft(note) as fd:
        os.write(fd, digest.encode())


@contextmanager
def draft(path: Path) -> Generator[int]:
    """Open a file beside a blob's place to be filled: then it takes that place, or it is removed if that fails.

    Raises:
        OSError: It can't be made: the folder that holds the store is gone, say.
    """
    half = path.with_name(f"{_DRAFT}{os.getpid()}-{secrets.token_hex(8)}")
    fd, is_whole = create(half), False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
        os.replace(half, path)  # noqa: PTH105 - as quick as can be: it is done ten times a second beside a training
        is_whole = True
    finally:
        if not is_whole:
            with suppress(OSError):
                half.unlink()
        os.close(fd)


def create(path: Path, flags: int = os.O_EXCL) -> int:
    """Create a file of the store with its folders."""
    flags |= os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        make_folders(path)
        return os.open(path, flags, 0o644)


def make_folders(path: Path) -> None:
    """Make the folders of a blob, but not the one that holds the store: if that is gone, it would come back.

    A store among other people's temporary files is nobody else's business.
    """
    folder = path.parent.parent
    if not folder.exists():
        folder.mkdir(0o777 if folder.name == FOLDER else 0o700, exist_ok=True)
    path.parent.mkdir(exist_ok=True)


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of some bytes to their place in a file."""
    view = memoryview(data).cast("B")
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


def linked(path: Path, target: Path, wanted: os.stat_result | None = None) -> bool:
    """Link a file into the store; tell whether that could be done, and has linked the one that was wanted."""
    try:
        make_folders(target)
        target.hardlink_to(path)
    except OSError:  # another file system, one without links, a file of another user: it is copied, or that is refused
        return False
    if wanted is not None and not os.path.samestat(target.stat(), wanted):
        target.unlink()
        return False
    return True


def age(stamp: float) -> float:
    """Return how old a file's time stamp is, seconds.

    Files know the wall clock alone. When it jumps they look older or younger: nothing may be lost by that.
    """
    return time.time() - stamp


def renew(path: Path, found: os.stat_result) -> None:
    """Let a blob count as new, if it has come long ago, without changing a time that its owner sees.

    Raises:
        OSError: It is gone.
    """
    if age(found.st_ctime) < RENEW_SECONDS:
        return
    again = path.with_name(f"{_DRAFT}{os.getpid()}-{secrets.token_hex(8)}")
    again.hardlink_to(path)
    again.unlink()


def kept(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the blobs of a store; what vanishes meanwhile is left out."""
    for entry in _entries(folder):
        if NAME.fullmatch(entry.name):
            with suppress(OSError):
                yield Path(entry.path), entry.stat(follow_symlinks=False)


def sizes(folder: Path) -> Iterator[int]:
    """Yield the sizes of the blobs of a store, as cheaply as can be: there may be a million."""
    for entry in _entries(folder):
        if NAME.fullmatch(entry.name):
            with suppress(OSError):
                yield entry.stat(follow_symlinks=False).st_size


def clean(folder: Path) -> None:
    """Remove what killed processes have left half made, and notes on blobs that are gone."""
    for entry in _entries(folder):
        with suppress(OSError):
            seconds = age(entry.stat(follow_symlinks=False).st_ctime)
            path, is_old_part = Path(entry.path), entry.name.startswith(_PART) and seconds > PART_SECONDS
            if entry.name.startswith(_DRAFT):
                _remove_if_unlocked(path, seconds)
            elif (
                entry.name.startswith(_GONE) and seconds > DRAFT_SECONDS
            ):  # its remover was killed: the next one decides
                path.rename(path.with_name(entry.name.removeprefix(_GONE)))
            elif is_old_part or (entry.name.endswith(_NOTE) and not Path(entry.path.removesuffix(_NOTE)).exists()):
                path.unlink()


def _remove_if_unlocked(path: Path, age: float) -> None:
    if age < DRAFT_SECONDS:
        return
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(fd)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as prefixes:
        for prefix in prefixes:
            with suppress(OSError), os.scandir(prefix.path) as entries:
                yield from entries


def sync(paths: list[Path], known: set[Path]) -> None:
    """Bring blobs to the disk, with their names; those that are gone are left out.

    Args:
        paths: The blobs.
        known: Folders of blobs that are on the disk themselves; those of these blobs are added.

    Raises:
        OSError: The disk failed.
    """
    for path in paths:
        with suppress(FileNotFoundError):
            _sync(path)
    folders = {path.parent for path in paths}
    above = {one for folder in folders - known for one in (folder.parent, folder.parent.parent)}
    for folder in folders | above:
        with suppress(FileNotFoundError):
            _sync(folder)
    known |= folders


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
