"""Which plain files of a W&B look-alike's run were saved, and which are to be saved when it ends."""

from __future__ import annotations

import glob as globs
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from eventbus.errors import BadInputError
from writers._artifacts import artifact_path, path_of
from writers._keys import shown

POLICIES = ("live", "now", "end")

Stamp = tuple[int, int]
"""What changes when a file does."""


class Saved:
    """The files that were saved and may change until the run ends, and those in the run's own folder.

    Args:
        folder: The run's own folder, made when it is asked for; None where there is no place for one.
    """

    def __init__(self, folder: Path | None) -> None:
        self._place = folder
        self._folder: Path | None = None
        self._known: dict[Path, tuple[str, Stamp | None]] = {}
        self._taken: dict[Path, Stamp | None] = {}

    def folder(self) -> str:
        """Return the run's own folder, empty where there is no place for one."""
        if self._folder is None and self._place is not None:
            self._folder = self._place
            with suppress(OSError):  # a full disk, say: whoever writes there is told
                self._folder.mkdir(parents=True, exist_ok=True)
        return str(self._folder or "")

    def find(self, pattern: Any, base: Any, policy: str, *, is_pattern: bool) -> list[tuple[Path, str]]:
        """Return the files that a pattern stands for, each with its path in the run.

        Raises:
            BadInputError: There is no such file, it lies outside of `base`, or the policy is not known.
        """
        if policy not in POLICIES:
            raise BadInputError(f"policy={shown(policy)} is not known: use one of {', '.join(POLICIES)}")
        whole = path_of(pattern)
        given = os.fsdecode(cast("str", pattern))
        above = self._above(whole, given) if base is None else path_of(base)
        if not whole.is_relative_to(above):
            raise BadInputError(
                f"{shown(given)} lies outside of {shown(str(above))}: pass base_path=, a folder above it"
            )
        paths = [Path(one) for one in sorted(globs.glob(str(whole)))] if is_pattern else [whole]  # noqa: PTH207 - the pattern is absolute
        files = [path for path in paths if path.is_file()]
        if not files and not is_pattern:
            raise BadInputError(f"{shown(given)} is no file")
        found = [(path, artifact_path(path.relative_to(above).as_posix())) for path in files]
        if policy != "now":
            self._known.update({path: (name, _stamp(path)) for path, name in found})
        return found

    def take_changed(self) -> list[tuple[Path, str]]:
        """Return those that changed since they were saved, and what is new in the run's folder.

        The others are forgotten: who overwrites them later speaks of another run.
        """
        if self._folder is not None:
            self._known = {**self._own(self._folder), **self._known}
        changed = {path: name for path, (name, stamp) in self._known.items() if _stamp(path) not in (stamp, None)}
        self._taken.update({path: _stamp(path) for path in self._known})
        self._known.clear()
        return list(changed.items())

    def _own(self, folder: Path) -> dict[Path, tuple[str, Stamp | None]]:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path: (path.relative_to(folder).as_posix(), self._taken.get(path)) for path in files}

    def _above(self, whole: Path, given: str) -> Path:
        if self._folder is not None and whole.is_relative_to(self._folder):
            return self._folder
        return whole.parent.parent if os.path.isabs(given) else Path.cwd()  # noqa: PTH117 - of the pattern, no path


def _stamp(path: Path) -> Stamp | None:
    """Return a file's stamp; None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
