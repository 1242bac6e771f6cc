"""The files of one run of MLflow: stored under the name that they are to have, in little memory."""

from __future__ import annotations

import os
import posixpath
import shutil
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from receivers._mlflow_draft import artifact_path
from receivers._names import file_name

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Generator

SLOWEST = 4_000_000
"""Bytes per second at which a file is stored at the slowest; whatever takes longer hangs."""

_TAKEN = (FileExistsError, NotADirectoryError, IsADirectoryError)


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

    def put(self, path: str, source: Path | bytes, spare: str = "taken") -> str:
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
        except _TAKEN:
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
        return path in [file.path for file in found]

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
        with TemporaryDirectory(prefix=".mlflow-", dir=self._workspace) as top:
            yield Path(top)


def lay(place: Path, source: Path | bytes) -> Path:
    """Lay a file out under a name of its own, and return it. It may be another name of the source: never change it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        place.write_bytes(source)
        return place
    try:
        os.link(source, place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, place)
    return place
