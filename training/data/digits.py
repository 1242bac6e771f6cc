"""The digits: the test set of UCI's "Optical Recognition of Handwritten Digits".

1797 scans of 8 x 8 grey pixels (https://archive.ics.uci.edu/dataset/80), in the copy that scikit-learn ships. The file
is read where it lies: importing scikit-learn would cost seconds.
"""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path

import torch

from eventbus.errors import MissingExtraError
from training.data._samples import DatasetDamagedError, Pixels, Source, seeded_generator

DIGITS_TEST_SAMPLES = 297  # of 1797, which leaves 1500 to train on

_SIDE = 8
_BRIGHTEST = 16.0
_CLASSES = 10


def read_digits(seed: int) -> Source:
    """Read the digits, split into train and test by the seed: the file has no split of its own.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        DatasetDamagedError: Its file is not what it should be.
    """
    values, labels = _read(_file())
    order = torch.randperm(len(labels), generator=seeded_generator(seed, "split"))
    train, test = order[DIGITS_TEST_SAMPLES:], order[:DIGITS_TEST_SAMPLES]
    return Source(
        train=Pixels(values[train], labels[train], _BRIGHTEST),
        test=Pixels(values[test], labels[test], _BRIGHTEST).samples(),
        classes=_CLASSES,
    )


def _file() -> Path:
    # find_spec of a top-level package finds its folder without running any of its code.
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return path
    raise MissingExtraError(
        'the digits data set comes with scikit-learn, which is not installed: pip install "trackbus[train]"'
    )


def _read(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    # A line: 64 grey values 0..16, then the class.
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        table = torch.tensor([[float(cell) for cell in line.split(",")] for line in text.splitlines()])
        pixels, labels = table[:, : _SIDE * _SIDE], table[:, _SIDE * _SIDE]
        return pixels.reshape(-1, 1, _SIDE, _SIDE), labels.to(torch.int64)
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError, IndexError) as error:
        raise DatasetDamagedError(f"{path} is damaged ({error}): reinstall scikit-learn") from error
