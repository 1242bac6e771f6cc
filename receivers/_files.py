"""What sinks that write files of their own share.

Whether a file still holds what was stored in it, and how a payload becomes a file of the run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus._blob_copy import clone, copy
from receivers._names import file_name
from receivers.abc import TrackerLostError

if TYPE_CHECKING:
    from collections import Counter

    from receivers._kept import KeptFile


TAKEN = "_taken"
"""Folder of the files whose own place is taken."""


def folder_below(workspace: Path, folder: str) -> Path:
    """Return the folder that a setting names, spelt in one way: receivers that fill the same one are found by it."""
    return Path(os.path.normpath((workspace / Path(folder).expanduser()).absolute()))


def length_of(path: Path) -> int:
    """Return a file's length in bytes, 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def check_length(path: Path, stored: int, *, most: int | None = None) -> None:
    """Refuse a file that somebody else has shortened, replaced or removed.

    Args:
        path: The file.
        stored: Bytes that were stored in it.
        most: Bytes that it may hold at most; None where a killed worker may have left more.

    Raises:
        TrackerLostError: It holds fewer bytes than were stored, or more than can be.
    """
    found = length_of(path)
    if found < stored or (most is not None and found > most):
        raise TrackerLostError(
            f"{path} holds {found} bytes, but {stored} were stored: restore the file, or replay the run with a "
            "receiver of another name and folder"
        )


def put_file(folder: Path, file: KeptFile, counts: Counter[str]) -> Path:
    """Put a copy of a file into a folder: one that shares its blocks, where the file system can do that.

    It is no link: whoever writes into the folder later must not change what the blob store keeps. It appears there
    whole, and replaces what stood there under its path: so a record that is stored again leaves one.

    Args:
        folder: The folder.
        file: What to put there.
        counts: Where its path is taken by a folder, or leads through a file, it is put beside, and counted here as
            `artifact path taken`.

    Returns:
        Where it lies.
    """
    try:
        return _put(folder / file.path, file.source)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        counts["artifact path taken"] += 1
        return _put(folder / TAKEN / file_name(file.path), file.source)


def _put(path: Path, source: Path | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    try:
        if isinstance(source, bytes):
            draft.write_bytes(source)
        else:
            _copy(source, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as given, target.open("xb") as made:
        if not clone(given.fileno(), made.fileno()):
            copy(given.fileno(), made.fileno(), os.fstat(given.fileno()).st_size)
