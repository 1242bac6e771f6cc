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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_FILE_HEADER = 7
_BLOCK = 32768
_CHUNK = struct.Struct("<IHB")
_STARTS, _ENDS = (1, 2), (1, 4)
"""Chunk types at which a record starts and ends: whole 1, first 2, middle 3, last 4."""


class Stored(NamedTuple):
    """One record of a file, as far as a sink cares.

    Attributes:
        kind: `run` is written at the start and when tags change, `exit` once at the end.
        step: Number of a history row; 0 for other records.
        items: The row, or the updated part of the configuration: value as JSON by key.
    """

    kind: Literal["history", "config", "run", "exit", "other"]
    step: int
    items: dict[str, str]


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
    match record.WhichOneof("record_type"):
        case "history":
            return Stored("history", record.history.step.num, _items(record.history.item))
        case "config":
            return Stored("config", 0, _items(record.config.update))
        case "run":
            return Stored("run", 0, _items(record.run.config.update))
        case "exit":
            return Stored("exit", 0, {})
        case _:
            return Stored("other", 0, {})


def _items(items: Any) -> dict[str, str]:
    return {item.key or ".".join(item.nested_key): item.value_json for item in items}


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
        summary: Last value of every key in the history.
        damaged: Number of files that can't be read to their end.
    """

    row: int = 0
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    summary: dict[str, Any] = field(default_factory=dict[str, Any])
    damaged: int = 0

    def add(self, record: Stored) -> None:
        """Take in one more record."""
        if record.kind == "history":
            self.row = max(self.row, record.step)
            self.summary.update(_values(record))
        elif record.kind in ("config", "run"):
            self.config.update(_values(record))


def recover(files: Sequence[Path], record: Callable[[], Any]) -> Found:
    """Read all files of a run, and make them fit for `wandb sync`.

    Rows reach a file in order, and a later file goes on where the whole part of the earlier ones ended: so all rows
    up to the largest number are stored. `wandb sync` goes no further than a torn file, and does nothing at all if
    one holds no run: so torn tails are cut off. The folder of an opening that stored nothing is removed: a server that
    is down for hours makes many of them.
    """
    found = Found()
    for file in files:
        log, kinds = WandBLog(file, record), set[str]()
        for stored in log.read():
            kinds.add(stored.kind)
            found.add(stored)
        if not log.mend():
            found.damaged += 1
        elif "run" not in kinds or kinds.isdisjoint(("history", "config")):
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
        yield number, {**_values(stored), "_timestamp": json.loads(stored.items["_timestamp"])}


def _values(record: Stored) -> dict[str, Any]:
    """Decode a record's values, leaving out what W&B added."""
    return {key: json.loads(value) for key, value in record.items.items() if not key.startswith("_")}
