"""The files of one run of MLflow: stored under the name that they are to have, in little memory."""

from __future__ import annotations

import os
import posixpath
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from eventbus._blob_files import age
from receivers._mlflow_draft import artifact_path
from receivers._names import file_name

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Generator

SLOWEST = 4_000_000
"""Bytes per second at which a file is stored at the slowest; whatever takes longer hangs."""

SPARE = "taken"
"""Folder for files whose path runs through another file."""

LEFT_BEHIND = ".mlflow-"
"""What the names of the folders begin with in which files are laid out."""

YOUNG_SECONDS = 60
"""A folder this young may be one that another process has made, and not locked yet."""

TAKEN = (FileExistsError, NotADirectoryError, IsADirectoryError)


class RunFiles:
    """Stores files of a run; one that comes again replaces itself.

    MLflow calls a file by the name that it finds it under, so each is laid out in a folder of its own first: linked
    where the file system can do that, else copied in pieces.

    Args:
        client: MLflow's client.
        run_id: MLflow's id of the run.
        workspace: Where the folders are laid out, beside the blobs.
        counts: The sink's counters.
        take_time: Told before each file what it may take beyond a batch's deadline, seconds.
    """

    def __init__(
        self, client: Any, run_id: str, workspace: Path, counts: Counter[str], take_time: Callable[[float], None]
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._workspace = workspace
        self.counts = counts
        self._take_time = take_time

    def put(self, path: str, source: Path | bytes, spare: str = SPARE) -> str:
        """Store a file; where its path runs through another file, it goes to a folder for such.

        Args:
            path: Where, below the run's artifacts.
            source: The file, or its bytes.
            spare: That folder.

        Returns:
            Where it is.
        """
        if (safe := artifact_path(path)) != path:
            self.counts["renamed file"] += 1
        try:
            self._put(safe, source)
        except TAKEN:
            self.counts["artifact path taken"] += 1
            safe = f"{spare}/{file_name(path)}"
            self._put(safe, source)
        return safe

    def _put(self, path: str, source: Path | bytes) -> None:
        folder, name = posixpath.split(path)
        self.expect(len(source) if isinstance(source, bytes) else source.stat().st_size)
        with self.folder() as top:
            self._client.log_artifact(self._run_id, str(lay(top / name, source)), folder or None)

    def expect(self, size: int) -> None:
        """Say that so many bytes are stored now: a slow tracker must not be taken for one that hangs."""
        self._take_time(size / SLOWEST)

    def has(self, path: str) -> bool:
        """Tell whether the run has such a file."""
        found = self._client.list_artifacts(self._run_id, posixpath.dirname(path) or None)
        return path in [file.path for file in found if not file.is_dir]

    def find(self, path: str) -> str | None:
        """Return where a file is that was put under a path: there, or in the folder for such; None for nowhere."""
        return next((one for one in (path, f"{SPARE}/{file_name(path)}") if self.has(one)), None)

    def read(self, path: str, read: Callable[[Path], Any]) -> Any:
        """Return what is in one of the run's files.

        Args:
            path: Where it is.
            read: Reads a copy of it.
        """
        with self.folder() as top:
            return read(Path(self._client.download_artifacts(self._run_id, path, str(top))))

    @contextmanager
    def folder(self) -> Generator[Path]:
        """Lend an empty folder on the file system of the blobs; what is in it goes with it."""
        self._workspace.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=LEFT_BEHIND, dir=self._workspace) as top, _held(Path(top)):
            yield Path(top)

    def remove_left_behind(self) -> None:
        """Remove the folders of processes that were killed: nobody holds their lock."""
        for folder in self._workspace.glob(f"{LEFT_BEHIND}*"):
            with suppress(OSError), _held(folder, alone=True):  # else another process holds it, or was faster
                if age(folder.stat().st_mtime) > YOUNG_SECONDS:
                    shutil.rmtree(folder)


@contextmanager
def _held(folder: Path, *, alone: bool = False) -> Generator[None]:
    """Hold a folder, which the system lets go of when the process ends, however it does.

    Raises:
        BlockingIOError: Another one holds it, and it is to be held alone.
    """
    import fcntl  # noqa: PLC0415 - not on Windows, where nothing but the import of this module is promised

    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)


def lay(place: Path, source: Path | bytes) -> Path:
    """Lay a file out under a name of its own, and return it. It may be another name of the source: never change it.

    Raises:
        FileExistsError: There is one already, which may be another name of a payload.
        NotADirectoryError: Its path runs through one.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        with place.open("xb") as file:
            file.write(source)
        return place
    try:
        os.link(source, place)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without links
        with source.open("rb") as whole, place.open("xb") as copy:
            shutil.copyfileobj(whole, copy)
    return place
