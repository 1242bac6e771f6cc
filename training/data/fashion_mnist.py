"""Fashion-MNIST: 70 000 grey pictures of clothes, 28 x 28 pixels, in ten classes.

https://github.com/zalandoresearch/fashion-mnist. Its four files are read as torchvision leaves them, or as Debian's
package `dataset-fashion-mnist` installs them; packed with gzip or not.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import torch
from torchvision.datasets import FashionMNIST  # pyright: ignore[reportMissingTypeStubs] - it ships none

from training.data._fetch import fetch
from training.data._samples import DatasetDamagedError, Pixels, Source

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_BRIGHTEST = 255.0
_CLASSES = 10
_PARTS = ("train", "t10k")
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_UNSIGNED_BYTES = 8
"""The format's number for values of one byte each."""

_ADVICE = (
    "put its four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
    "t10k-labels-idx1-ubyte.gz there, or install Debian's package dataset-fashion-mnist, "
    "or name the folder that holds them (root=, --data-root)"
)


def read_fashion_mnist(root: Path) -> Source:
    """Read Fashion-MNIST from a folder, else from Debian's, and download it where it is in neither.

    Args:
        root: Holds the four files, or torchvision's `FashionMNIST/raw` with them.

    Raises:
        DatasetMissingError: It is not there and can't be downloaded.
        DatasetDamagedError: A file is there, but is not what it should be.
    """
    own = root / "FashionMNIST" / "raw"
    folder = next((one for one in (own, root, DEBIAN_FOLDER) if _is_complete(one)), None)
    if folder is None:
        fetch(lambda: FashionMNIST(root, download=True), root, "Fashion-MNIST", _ADVICE)
        folder = own
    train, test = (_read(folder, part) for part in _PARTS)
    return Source(train, test.samples(), _CLASSES)


def _is_complete(folder: Path) -> bool:
    return all(_file(folder, f"{part}-{what}").is_file() for part in _PARTS for what in (_IMAGES, _LABELS))


def _file(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


def _read(folder: Path, part: str) -> Pixels:
    images = _read_idx(_file(folder, f"{part}-{_IMAGES}"), dimensions=3)
    path = _file(folder, f"{part}-{_LABELS}")
    labels = _read_idx(path, dimensions=1)
    if len(images) != len(labels) or (len(labels) and int(labels.max()) >= _CLASSES):
        raise DatasetDamagedError(f"{path} is damaged: its labels are not those of {len(images)} images: replace it")
    return Pixels(images.unsqueeze(1), labels.to(torch.int64), _BRIGHTEST)


def _read_idx(path: Path, *, dimensions: int) -> torch.Tensor:
    try:
        data = path.read_bytes()
        return _parse_idx(gzip.decompress(data) if path.suffix == ".gz" else data, dimensions)
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError, struct.error) as error:
        raise DatasetDamagedError(f"{path} is damaged ({error}): replace it") from error


def _parse_idx(data: bytes, dimensions: int) -> torch.Tensor:
    # Two zero bytes, the kind of values, how many dimensions; each dimension as 4 bytes, largest first; the values.
    if struct.unpack_from(">HBB", data) != (0, _UNSIGNED_BYTES, dimensions):
        raise ValueError(f"no idx file of bytes with {dimensions} dimensions")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=4 + 4 * dimensions).reshape(shape)
