"""Makes small files in Fashion-MNIST's own format: dark above, bright below, and the classes in turn."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def make_fashion(folder: Path, suffix: str, bright: int = 255, samples: int = 40) -> None:
    for part, count in (("train", samples), ("t10k", 10)):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        images[:, 14:] = bright
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count) % 10)


def write_idx(path: Path, values: np.ndarray) -> None:
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    data = head + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
