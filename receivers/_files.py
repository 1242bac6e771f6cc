"""What sinks that write files of their own share: whether a file still holds what was stored in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from receivers.abc import TrackerLostError

if TYPE_CHECKING:
    from pathlib import Path


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
