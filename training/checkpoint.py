"""The best global model so far and the last, on disk, as safetensors: a format that can't run code when it is read.

A file is complete or absent: it is written beside its place, synced, and moved there in one step.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch

from eventbus.errors import ConfigurationError, TrackbusError
from training._files import write_atomically
from training._resume import FILE_NAME, LastRound
from training.model import State, copy_state

Mode = Literal["max", "min"]

NAMES = "trackbus_names"
"""Key in a file's metadata: the names of its tensors in their order, as JSON. Safetensors itself keeps none."""


ALIGNMENT = 8
"""Bytes: where the tensors of a safetensors file begin is a multiple of it."""


class CheckpointError(TrackbusError, RuntimeError):
    """Raised when a model file can't be read, or holds the best by another measure than the one asked for."""


@dataclass(frozen=True, slots=True)
class BestRecord:
    """Which model a file holds.

    Attributes:
        round: The round after which it was the global model.
        metric: What it was best by.
        mode: Whether more or less of it is better.
        value: How good it was.
    """

    round: int
    metric: str
    mode: Mode
    value: float


class BestModel:
    """Keeps the best global model of a run in a folder; a resumed run goes on from the one it finds.

    One process writes a folder at a time.
    """

    FILE_NAME = "best.safetensors"

    def __init__(self, folder: str | Path, metric: str = "accuracy", mode: Mode = "max") -> None:
        """Open a folder, which is made at the first write.

        Args:
            folder: Where the file is kept.
            metric: The metric that decides.
            mode: Whether more ("max") or less ("min") of it is better.

        Raises:
            CheckpointError: The folder's model can't be read, or is the best by another metric or mode.
        """
        self.path = Path(folder) / self.FILE_NAME
        self._metric = metric
        self._mode: Mode = mode
        self._best = read_record(self.path) if self.path.exists() else None
        if self._best is not None and (self._best.metric, self._best.mode) != (metric, mode):
            held = f"{self._best.metric} ({self._best.mode})"
            raise CheckpointError(f"{self.path} is the best by {held}, not by {metric} ({mode})")

    @property
    def best(self) -> BestRecord | None:
        """What the file holds; None before the first model was kept."""
        return self._best

    def offer(self, state: Mapping[str, torch.Tensor], *, round_number: int, metrics: Mapping[str, float]) -> bool:
        """Keep a model if it beats the best so far; of equals the earlier stays. NaN and infinity beat none.

        It blocks until the file is synced: call it off the event loop.

        Args:
            state: The global model.
            round_number: The round after which it was that.
            metrics: What was measured on it, the deciding metric among them.

        Returns:
            Whether it was kept.

        Raises:
            ConfigurationError: The deciding metric is not among those given.
            OSError: The file can't be written; the best so far is still there.
        """
        if self._metric not in metrics:
            given = ", ".join(sorted(metrics)) or "none"
            raise ConfigurationError(f"no metric {self._metric!r} to judge the model by; given: {given}")
        value = float(metrics[self._metric])
        if not self._is_better(value):
            return False
        record = BestRecord(round_number, self._metric, self._mode, value)
        save_state_file(self.path, state, _to_metadata(record))
        self._best = record
        return True

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self._best is None:
            return True
        return value > self._best.value if self._mode == "max" else value < self._best.value


def save_last_round(folder: Path, state: Mapping[str, torch.Tensor], last: LastRound) -> None:
    """Keep a global model in place of the one of the round before; blocks until it is synced.

    Raises:
        OSError: The file can't be written; the one before is still there.
    """
    save_state_file(folder / FILE_NAME, state, last.metadata())


def save_state_file(path: Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a model file in place of the one before; blocks until it is synced.

    Raises:
        OSError: The file can't be written; the one before is still there.
    """
    write_atomically(path, encode_state(state, metadata))


def encode_state(state: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Turn a state into the bytes of a safetensors file, for a file or for a message."""
    # A copy, because safetensors refuses tensors that share memory, as tied layers do.
    data = safetensors_torch.save(copy_state(state))
    header, end = _header(data)
    # By hand, because safetensors puts metadata down in an order by chance: equal models are equal files.
    told = {"__metadata__": {NAMES: json.dumps(list(state)), **(metadata or {})}, **header}
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[end:]])


def decode_state(data: bytes) -> State:
    """Turn the bytes of a safetensors file back into a state, in the order that it had.

    A file of somebody else's has the order in which its tensors lie in it.

    Raises:
        CheckpointError: They are not the bytes of a whole safetensors file.
    """
    try:
        found = safetensors_torch.load(data)
        return {name: found.pop(name) for name in _names(data)} | found
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"these {len(data)} bytes are not a whole safetensors file: {error}") from error


def _names(data: bytes) -> list[str]:
    """Return the names of a file's tensors in their order."""
    header, _ = _header(data)
    metadata = header.pop("__metadata__", {})
    if NAMES in metadata:
        return json.loads(metadata[NAMES])
    return sorted(header, key=lambda name: (header[name]["data_offsets"], name))


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return a file's header and where it ends: it is JSON, behind its length in 8 bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), end


def load_state_file(path: str | Path) -> State:
    """Read a model file.

    Raises:
        CheckpointError: It is missing, cut short, or not a safetensors file.
    """
    try:
        return decode_state(Path(path).read_bytes())
    except (OSError, CheckpointError) as error:
        raise CheckpointError(f"cannot read the model {path}: {error}") from error


def read_record(path: str | Path) -> BestRecord:
    """Read which model a file of `BestModel` holds, without reading the model.

    Raises:
        CheckpointError: It is missing, damaged, or was not written by `BestModel`.
    """
    try:
        opened: Any = safe_open(str(path), framework="pt")  # its stub names no types
        with opened as file:
            return _from_metadata(file.metadata() or {})
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot read which model {path} holds: {error}") from error


def _to_metadata(record: BestRecord) -> dict[str, str]:
    # repr of a float reads back as the same float.
    return {
        "round": str(record.round),
        "metric": record.metric,
        "mode": record.mode,
        "value": repr(record.value),
    }


def _from_metadata(metadata: Mapping[str, str]) -> BestRecord:
    mode = metadata["mode"]
    if mode not in ("max", "min"):
        raise ValueError(f"mode is {mode!r}")
    return BestRecord(int(metadata["round"]), metadata["metric"], mode, float(metadata["value"]))
