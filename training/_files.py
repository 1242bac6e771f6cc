"""Files that are complete or absent: written beside their place, synced, and moved there in one step."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file in place of the one before; blocks until it is synced.

    Raises:
        OSError: It can't be written; the one before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A fixed name: what a crash leaves behind is overwritten by the next write instead of piling up.
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the cause is worth telling, not what the tidying met
            beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def set_aside(path: Path) -> None:
    """Rename the file of an earlier run, if there is one, to `<name>.earlier`; what was set aside before it is gone.

    Raises:
        OSError: It can't be renamed.
    """
    if path.exists():
        path.replace(path.with_name(f"{path.name}.earlier"))


def _sync_folder(folder: Path) -> None:
    # The move itself is only safe from a power cut once the folder is synced; Windows can't open a folder.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
