"""What the files of a run hold and its server may lack: an earlier worker was killed, or the server was away.

A file all of which the server has, as far as the SDK says, is marked as `wandb sync` marks one: it passes it over then.
Loads no SDK.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from receivers._kept import KeptFile
from receivers._wandb_calls import keep
from receivers._wandb_file import Stored, WandBLog
from receivers._wandb_rows import OURS

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable

    from receivers._wandb_run import Run

ARTIFACTS = "artifacts"
"""Folder beside a file in which the artifacts' own files wait for their upload."""


def unsent(files: Iterable[Path]) -> list[Path]:
    """Return those of a run's files that the server may not have."""
    return [file for file in files if not _marker(file).exists()]


def mark_sent(files: Iterable[Path]) -> None:
    """Note that the server has all of these files, and let go of what waited for its upload."""
    for file in filter(Path.exists, files):  # a file without content is gone
        _marker(file).touch()
        shutil.rmtree(file.parent / ARTIFACTS, ignore_errors=True)


def _marker(file: Path) -> Path:
    return file.with_name(f"{file.name}.synced")


def resend(run: Run, files: Iterable[Path], record: Callable[[], Any], row: int, counts: Counter[str]) -> None:
    """Send what stands in the files beside rows, settings and metrics: what the server has already stays as it is.

    Args:
        run: The run, opened again.
        files: The files, oldest first.
        record: The SDK's record class.
        row: Number of the last row that the server has.
        counts: Takes alerts of which nobody knows whether people were told: a late one could be one too many.
    """
    summary: dict[str, Any] = {}
    for file in files:
        last = 0
        for stored in WandBLog(file, record).read():
            last = max(last, stored.step)
            if stored.kind == "alert" and last >= row:
                counts["alerts that may not have been sent"] += 1
            elif stored.kind == "summary":
                summary |= _said(stored)
            else:
                _resend(run, file, stored, counts)
    if summary:
        run.summary.update(summary)


class Registration(NamedTuple):
    """A model that is to be registered.

    Attributes:
        artifact: Its client's id, by which the server knows it.
        model: Name of the registered model.
        aliases: Names of this version.
    """

    artifact: str
    model: str
    aliases: list[str]


def registration(stored: Stored) -> Registration | None:
    """Return how a record's model is to be registered, None where nothing is: the SDK has no record for that."""
    metadata: dict[str, Any] = json.loads(stored.body.metadata or "{}") if stored.kind == "artifact" else {}
    ours = metadata.get(OURS)
    model = cast("dict[str, Any]", ours).get("registered_name") if isinstance(ours, dict) else None
    return Registration(stored.body.client_id, model, list(stored.body.aliases)) if model else None


def _resend(run: Run, file: Path, stored: Stored, counts: Counter[str]) -> None:
    if stored.kind == "files":
        known = [KeptFile(path, file.parent / "files" / path) for path in stored.names]
        keep(run, [one for one in known if cast("Path", one.source).is_file()], counts)
    elif stored.kind == "artifact":
        needed = [entry.local_path for entry in stored.body.manifest.contents if entry.local_path]
        if all(Path(path).is_file() for path in needed):  # the SDK removes what it has uploaded
            cast("Any", run)._interface._publish_artifact(stored.body)  # noqa: SLF001


def _said(stored: Stored) -> dict[str, Any]:
    """Return what a record adds to the summary by a call: what follows from rows names its step."""
    if ("_step",) in stored.items:
        return {}
    return {path[0]: json.loads(value) for path, value in stored.items.items() if not path[0].startswith("_")}
