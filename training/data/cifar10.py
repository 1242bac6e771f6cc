"""CIFAR-10: 60 000 colour photographs of 32 x 32 pixels in ten classes, read by torchvision's own loader.

https://www.cs.toronto.edu/~kriz/cifar.html. The loader compares every file with its known checksum before it is read.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.datasets import CIFAR10  # pyright: ignore[reportMissingTypeStubs] - it ships none

from training.data._fetch import fetch
from training.data._samples import Pixels, Source

_BRIGHTEST = 255.0
_CLASSES = 10

_ADVICE = (
    f"put the folder {CIFAR10.base_folder} there, which is in {CIFAR10.url}, "
    "or name the folder that holds it (root=, --data-root)"
)


def read_cifar10(root: Path) -> Source:
    """Read CIFAR-10 from a folder, and download it where it is not there.

    Args:
        root: Holds `cifar-10-batches-py`.

    Raises:
        DatasetMissingError: It is not there, or damaged, and can't be downloaded.
    """
    train, test = _read(root, is_train=True), _read(root, is_train=False)
    return Source(train, test.samples(), _CLASSES)


def _read(root: Path, *, is_train: bool) -> Pixels:
    try:
        found = CIFAR10(root, train=is_train)
    except RuntimeError:  # a file is missing, or its checksum is another
        fetch(lambda: CIFAR10(root, train=is_train, download=True), root, "CIFAR-10, whole and undamaged,", _ADVICE)
        found = CIFAR10(root, train=is_train)
    values = torch.from_numpy(found.data).permute(0, 3, 1, 2)  # pyright: ignore[reportUnknownMemberType] - untyped
    labels = torch.tensor(found.targets, dtype=torch.int64)  # pyright: ignore[reportUnknownMemberType] - untyped
    return Pixels(values, labels, _BRIGHTEST)
