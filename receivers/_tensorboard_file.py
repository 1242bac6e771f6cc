"""TensorBoard's event files: records framed in memory, appended with each flush, cut back after a crash."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from receivers._files import check_length
from receivers._names import file_name

if TYPE_CHECKING:
    from receivers._tensorboard_formats import Formats

FILE_PREFIX = "events.out.tfevents"
FILE_SUFFIX = ".trackbus"

KEPT = "_files"
"""Folder of the files that are kept: event files in it are somebody's payload, not ours."""

BUFFER_BYTES = 1 << 20
"""A file's records are handed to the operating system at the latest when there are so many bytes of them."""


class EventFile:
    """One event file: its records are framed in memory and appended with each flush, so no file stays open.

    Args:
        root: Folder of the run.
        name: Name of the file, relative to the root.
        formats: What tensorboard brings.
    """

    def __init__(self, root: Path, name: str, formats: Formats) -> None:
        self.name = name
        self._path = root / name
        self._size = 0
        self._buffer = BytesIO()
        self._records = formats.record_writer(self._buffer)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, event: Any) -> None:
        """Add a record."""
        self._records.write(event.SerializeToString())
        if self._buffer.tell() > BUFFER_BYTES:
            self.flush()

    def flush(self) -> int:
        """Append what is new; return the file's length.

        Raises:
            TrackerLostError: Somebody else has changed or removed the file.
        """
        data = self._buffer.getvalue()
        if data:
            check_length(self._path, self._size, most=self._size)
            with self._path.open("ab") as file:
                file.write(data)
            self._size += len(data)
            self._buffer.seek(0)
            self._buffer.truncate()
        return self._size


def cut_back(root: Path, sizes: Mapping[str, int]) -> None:
    """Bring the files of this sink to their acknowledged lengths, and delete those without one.

    Raises:
        TrackerLostError: A file is shorter than what was acknowledged.
    """
    for name, size in sizes.items():
        path = root / name
        check_length(path, size)
        with path.open("r+b") as file:
            file.truncate(size)
    for path in files_below(root):
        if path.relative_to(root).as_posix() not in sizes:
            path.unlink()


def files_below(root: Path) -> list[Path]:
    """Return the event files of a run that a sink like this one wrote."""
    found = root.rglob(f"{FILE_PREFIX}.*{FILE_SUFFIX}")
    return [path for path in found if path.relative_to(root).parts[0] != KEPT and path.is_file()]


def new_name(folder: PurePosixPath, sizes: Mapping[str, int]) -> str:
    """Return a name that sorts behind the folder's other files: TensorBoard reads them in that order."""
    stamps = [int(path.name.split(".")[3]) for path in map(PurePosixPath, sizes) if path.parent == folder]
    stamp = max([int(time.time()), *(used + 1 for used in stamps)])
    host = file_name(socket.gethostname())
    return (folder / f"{FILE_PREFIX}.{stamp:010d}.{host}.{os.getpid()}{FILE_SUFFIX}").as_posix()
