"""Reads the `.wandb` files that the W&B SDK writes: protobuf records in the framing of a LevelDB log.

The SDK acknowledges nothing, so what stands in its file is the only proof that a row is stored. wandb-core
appends to the file from a process of its own, in blocks of 32 KiB and at its flush interval; if it is killed,
the tail is torn. The SDK's record class is handed in: this file loads no SDK.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from receivers._wandb_rows import STEP
from receivers._wandb_share import SHARE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FILE_HEADER = 7
_BLOCK = 32768
_CHUNK = struct.Struct("<IHB")
_STARTS, _ENDS = (1, 2), (1, 4)
"""Chunk types at which a record starts and ends: whole 1, first 2, middle 3, last 4."""


_KINDS = ("history", "config", "run", "exit", "summary", "metric", "alert", "artifact", "files")
_CONTENT = ("history", "config", "alert", "artifact", "files", "summary", "metric")
STAGED = "staged-"
"""What a folder is called in which files stand for a moment, beside a run's own file."""

_EVERYWHERE = (STEP, "*")
"""Metrics that each file of a run defines."""

_TABLE = "run_table"
"""Type of the artifact that the SDK makes of each table in a row: it comes again with its row."""


class Stored(NamedTuple):
    """One record of a file, as far as a sink cares.

    Attributes:
        kind: `run` is written at the start and when tags change, `exit` once at the end; `other` is the SDK's business.
        step: Number of a history row; 0 for other records.
        items: The row, or the updated part of the configuration or the summary: value as JSON by the keys that lead
            to it.
        names: What an alert, an artifact, a metric or files are called.
        body: The record itself; None for `other`.
    """

    kind: str
    step: int = 0
    items: Mapping[tuple[str, ...], str] = MappingProxyType({})
    names: tuple[str, ...] = ()
    body: Any = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What it is about: the first keys of its items, or its names."""
        return self.names or tuple(path[0] for path in self.items)

    @property
    def is_content(self) -> bool:
        """Whether something was logged, rather than the SDK or the sink has said something of its own."""
        return self.kind in _CONTENT and any(key not in _EVERYWHERE and not key.startswith("_") for key in self.keys)


class WandBLog:
    """Follows one file while it is written; keeps its place between reads."""

    def __init__(self, path: Path, record: Callable[[], Any]) -> None:
        self._path = path
        self._record = record
        self._offset = self._whole = _FILE_HEADER
        self._parts: list[bytes] = []

    def read(self) -> Iterator[Stored]:
        """Yield the records that were completed since the last call.

        A torn or damaged tail ends the reading and is tried again at the next call.
        """
        for body in self._bodies():
            record = self._record()
            record.ParseFromString(body)
            yield _stored(record)

    def mend(self) -> bool:
        """Cut off the piece of a record behind the last whole one, which a killed process left.

        Only for a file that nobody writes any more, after it was read.

        Returns:
            Whether the file is whole now; damage in its middle stays as it is.
        """
        size = self._path.stat().st_size
        if size - self._offset > _CHUNK.size + _BLOCK:
            return False
        os.truncate(self._path, min(self._whole, size))
        return True

    def _bodies(self) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        base = self._offset
        while (chunk := _next_chunk(data, base, self._offset)) is not None:
            self._offset, kind, body = chunk
            if kind in _STARTS:
                self._parts.clear()
            self._parts.append(body)
            if kind in _ENDS:
                self._whole = self._offset
                yield b"".join(self._parts)
                self._parts.clear()


def _next_chunk(data: bytes, base: int, offset: int) -> tuple[int, int, bytes] | None:
    """Return (offset after it, type, body) of the chunk at `offset`; None where no whole chunk stands.

    Args:
        data: Bytes of the file from `base` on.
        base: Offset of `data` in the file.
        offset: Where to look, in the file; padding is passed over.
    """
    while True:
        left = _BLOCK - offset % _BLOCK
        if left < _CHUNK.size:
            offset += left
            continue
        start = offset - base
        if start + _CHUNK.size > len(data):
            return None
        crc, length, kind = _CHUNK.unpack_from(data, start)
        if kind or length:
            break
        offset += left  # zeros up to the block's end
    body = data[start + _CHUNK.size : start + _CHUNK.size + length]
    if len(body) < length or zlib.crc32(body, zlib.crc32(bytes((kind,)))) != crc:
        return None
    return offset + _CHUNK.size + length, kind, body


def _stored(record: Any) -> Stored:
    kind = record.WhichOneof("record_type")
    if kind not in _KINDS:
        return Stored("other")
    body = getattr(record, kind)
    step = body.step.num if kind == "history" else 0
    return Stored(kind, step, _items(_ITEMS.get(kind, _none)(body)), _NAMES.get(kind, _none)(body), body)


def _none(_: Any) -> tuple[str, ...]:
    return ()


_ITEMS: Mapping[str, Callable[[Any], Any]] = {
    "history": lambda body: body.item,
    "config": lambda body: body.update,
    "summary": lambda body: body.update,
    "run": lambda body: body.config.update,
}

_NAMES: Mapping[str, Callable[[Any], tuple[str, ...]]] = {
    "alert": lambda body: (body.title,),
    "artifact": lambda body: (body.name, body.client_id),
    "metric": lambda body: (body.name or body.glob_name,),
    "files": lambda body: tuple(file.path for file in body.files),
}


def _labels(record: Stored) -> dict[str, Any]:
    """Return the names of classes that stand in W&B's own part of the configuration."""
    ours: dict[str, Any] = json.loads(record.items.get(("_wandb",), "{}"))
    return {kind: groups for kind, groups in ours.items() if kind.endswith("/class_labels")}


def _items(items: Any) -> dict[tuple[str, ...], str]:
    return {tuple(item.nested_key) or (item.key,): item.value_json for item in items}


def run_files(folder: Path, run_id: str, modes: Sequence[str]) -> list[Path]:
    """Return the files of a run, oldest first: one for each time that it was opened.

    Args:
        folder: The SDK's own folder, which holds one folder per opening.
        run_id: Id of the W&B run.
        modes: `online`, `offline` or both; their folders differ in name.
    """
    prefixes = ("offline-run" if mode == "offline" else "run" for mode in modes)
    files = (file for prefix in prefixes for file in folder.glob(f"{prefix}-*/run-{run_id}.wandb"))
    return sorted(
        (file for file in files if not file.parent.is_symlink()),
        key=lambda file: file.parent.name.removeprefix("offline-"),
    )


@dataclass
class Found:
    """What the files of a run hold.

    Attributes:
        row: Largest row number.
        config: The configuration as it was last.
        summary: The summary as it was last.
        share: Whose the last rows are, as the summary says; empty where it doesn't.
        metrics: What was said of metrics, in order; each once, however many files repeat it.
        labels: What the classes of masks and boxes are called, by W&B's name for their kind and by picture.
        alerts: How many there are.
        artifacts: Those with a name, by what tells them apart: one that is sent again stands in two files.
        damaged: Number of files that can't be read to their end.
    """

    row: int = 0
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    summary: dict[str, Any] = field(default_factory=dict[str, Any])
    share: str = ""
    metrics: dict[bytes, Any] = field(default_factory=dict[bytes, Any])
    labels: dict[str, Any] = field(default_factory=dict[str, Any])
    alerts: int = 0
    artifacts: set[str] = field(default_factory=set[str])
    damaged: int = 0

    @property
    def singles(self) -> int:
        """How much there is that may not come twice: other things change nothing when they come again."""
        return self.alerts + len(self.artifacts)

    def add(self, record: Stored) -> None:
        """Take in one more record."""
        match record.kind:
            case "history":
                self.row = max(self.row, record.step)
            case "summary":
                _forget(self.summary, record.body.remove)
                _fill(self.summary, record)
                if (SHARE,) in record.items:
                    self.share = str(json.loads(record.items[SHARE,]))
            case "config" | "run":
                _fill(self.config, record)
                self.labels.update(_labels(record))
            case "alert":
                self.alerts += 1
            case "artifact" if record.body.type != _TABLE:
                self.artifacts.add(record.body.client_id)
            case "metric":
                self.metrics.setdefault(record.body.SerializeToString(deterministic=True), record.body)
            case _:
                pass


def recover(files: Sequence[Path], record: Callable[[], Any]) -> Found:
    """Read all files of a run, and make them fit for `wandb sync`.

    Rows reach a file in order, and a later file goes on where the whole part of the earlier ones ended: so all rows
    up to the largest number are stored. `wandb sync` goes no further than a torn file, and does nothing at all if
    one holds no run: so torn tails are cut off. The folder of an opening that stored nothing is removed: a server that
    is down for hours makes many of them.
    """
    found = Found()
    for file in files:
        for left in file.parent.glob(f"{STAGED}*"):
            shutil.rmtree(left, ignore_errors=True)
        log, has_run, has_content = WandBLog(file, record), False, False
        for stored in log.read():
            has_run = has_run or stored.kind == "run"
            has_content = has_content or stored.is_content
            found.add(stored)
        if not log.mend():
            found.damaged += 1
        elif not (has_run and has_content):
            shutil.rmtree(file.parent)
    return found


def rows_after(files: Sequence[Path], record: Callable[[], Any], step: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, row) of every row that a run's files hold after `step`, each once and in order.

    Whatever the files' own order is: their names hold the time, and a clock may have gone back.
    """
    rows: dict[int, Stored] = {}
    for file in files:
        read = WandBLog(file, record).read()
        rows.update((stored.step, stored) for stored in read if stored.kind == "history" and stored.step > step)
    for number, stored in sorted(rows.items()):
        yield number, {**_values(stored), "_timestamp": json.loads(stored.items["_timestamp",])}


def _values(record: Stored) -> dict[str, Any]:
    """Decode a record's values, leaving out what W&B added."""
    values: dict[str, Any] = {}
    _fill(values, record)
    return values


def _fill(values: dict[str, Any], record: Stored) -> None:
    """Put a record's values where they belong, leaving out what W&B added: it tells nested ones by their paths."""
    for path, value in record.items.items():
        if not path[0].startswith("_"):
            _inner(values, path)[path[-1]] = json.loads(value)


def _forget(values: dict[str, Any], items: Any) -> None:
    for item in items:
        path = tuple(item.nested_key) or (item.key,)
        _inner(values, path).pop(path[-1], None)


def _inner(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Return the mapping that a path's last key stands in; what is no mapping gives way to one."""
    for key in path[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = cast("dict[str, Any]", inner)
    return values
