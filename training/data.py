"""Data sets and each site's share of them.

The built-in set is the test set of UCI's "Optical Recognition of Handwritten Digits" (1797 scans of 8 x 8
grey pixels, https://archive.ics.uci.edu/dataset/80), in the copy that scikit-learn ships. The file is read
where it lies: importing scikit-learn would cost seconds.
"""

import gzip
import hashlib
import importlib.util
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torchvision.transforms.v2 import functional  # pyright: ignore[reportMissingTypeStubs] - it ships none

from eventbus.errors import ConfigurationError, MissingExtraError, TrackbusError

DatasetName = Literal["digits"]
"""The data sets that `load_dataset` knows."""

IMAGE_SIDE = 32  # pixels: what TutorialCNN takes
DIGITS_TEST_SAMPLES = 297  # of 1797, which leaves 1500 to train on

_DIGITS_PIXELS = 8 * 8
_DIGITS_BRIGHTEST = 16.0
_DIGITS_CLASSES = 10


class DatasetDamagedError(TrackbusError, RuntimeError):
    """Raised when a data set's file is there but is not what it should be."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Images and their labels, in step. Tensors may be shared between sites: never write into them.

    Attributes:
        images: Normalised float32, (n, 3, 32, 32).
        labels: Class numbers from 0, int64, (n,).
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        """Refuse images and labels that are not in step."""
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.labels)

    def take(self, indices: torch.Tensor) -> "Samples":
        """Copy the samples at the given positions, (k,) of int64, in that order."""
        return Samples(self.images[indices], self.labels[indices])

    def batches(self, size: int, order: torch.Tensor | None = None) -> Iterator["Samples"]:
        """Iterate over all samples, `size` at a time; the last batch may be smaller.

        Args:
            size: Samples per batch, 1 or more.
            order: Positions, (n,) of int64, to go by instead of the samples' own order.
        """
        for start in range(0, len(self), size):
            chosen = slice(start, start + size)
            if order is None:
                yield Samples(self.images[chosen], self.labels[chosen])
            else:
                yield self.take(order[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """What to train on, what to test on, and how many classes there are."""

    train: Samples
    test: Samples
    classes: int


@dataclass(frozen=True, slots=True)
class DataSpec:
    """All that a site needs to be told to load its own share: plain values, fit for a message.

    Attributes:
        site: Which share, from 0.
        sites: How many shares there are.
        name: Which data set.
        seed: Fixes the split into train and test and the partition; the same at every site of a run.
    """

    site: int
    sites: int
    name: DatasetName = "digits"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a share that doesn't exist."""
        if not 0 <= self.site < self.sites:
            raise ConfigurationError(f"there is no share {self.site} of {self.sites}: the first is 0")

    def load(self) -> Dataset:
        """Load a train part of this site's own, and the test part that all sites have in common."""
        whole = load_dataset(self.name, self.seed)
        share = partition_iid(len(whole.train), self.sites, seed=self.seed)[self.site]
        return Dataset(share.of(whole.train), whole.test, whole.classes)


@dataclass(frozen=True, slots=True)
class Partition:
    """One site's share of a train set.

    Attributes:
        site: Which share, from 0.
        indices: Positions in the train set, in the order they were drawn.
    """

    site: int
    indices: tuple[int, ...]

    def of(self, samples: Samples) -> Samples:
        """Copy this share out of the samples that were partitioned."""
        return samples.take(torch.tensor(self.indices, dtype=torch.int64))


def load_dataset(name: DatasetName, seed: int) -> Dataset:
    """Load a data set, split into train and test by the seed.

    Args:
        name: One of `DatasetName`; a string from a configuration file is checked here too.
        seed: The same seed gives the same split, in every process and on every machine.

    Raises:
        ConfigurationError: No data set of that name is known.
        MissingExtraError: The package that brings the data set is not installed.
        DatasetDamagedError: Its file is not what it should be.
    """
    loader = _LOADERS.get(name)
    if loader is None:
        raise ConfigurationError(f"unknown data set {name!r}; known: {', '.join(sorted(_LOADERS))}")
    return loader(seed)


def partition_iid(samples: int, sites: int, *, seed: int) -> tuple[Partition, ...]:
    """Deal samples out to sites at random: every sample to exactly one site, sizes equal to within one.

    Args:
        samples: How many samples there are.
        sites: How many shares to make.
        seed: The same seed gives the same shares; another seed gives others.

    Raises:
        ConfigurationError: There are no sites, or fewer samples than sites: some would have none to train on.
    """
    if sites < 1:
        raise ConfigurationError(f"data is shared between one site or more, not {sites}")
    if samples < sites:
        raise ConfigurationError(f"{samples} samples are too few for {sites} sites: each needs one at least")
    order = _to_list(torch.randperm(samples, generator=seeded_generator(seed, "partition")))
    return tuple(Partition(site, tuple(order[site::sites])) for site in range(sites))


def label_histogram(labels: torch.Tensor, classes: int) -> tuple[int, ...]:
    """Count how often each class 0 .. classes - 1 occurs in labels, (n,) of int64."""
    return tuple(_to_list(torch.bincount(labels, minlength=classes)))


def seeded_generator(seed: int, *scope: int | str) -> torch.Generator:
    """Make a CPU generator whose numbers depend on a seed and on what they are for.

    Generators of different scopes are independent, also for seeds that are neighbours. Nothing here touches
    torch's global generator, which sites that run as threads, or as forked processes, would share.

    Args:
        seed: The run's seed.
        *scope: What the numbers are for, e.g. a site's name and a round's number.
    """
    digest = hashlib.blake2b(repr((seed, *scope)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)  # a signed 64-bit number


@lru_cache(maxsize=1)  # sites that are threads of one process share one copy
def _load_digits(seed: int) -> Dataset:
    samples = _read_digits(_digits_file())
    order = torch.randperm(len(samples), generator=seeded_generator(seed, "split"))
    return Dataset(
        train=samples.take(order[DIGITS_TEST_SAMPLES:]),
        test=samples.take(order[:DIGITS_TEST_SAMPLES]),
        classes=_DIGITS_CLASSES,
    )


_LOADERS: dict[str, Callable[[int], Dataset]] = {"digits": _load_digits}


def _digits_file() -> Path:
    # find_spec of a top-level package finds its folder without running any of its code.
    spec = importlib.util.find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return path
    raise MissingExtraError(
        'the digits data set comes with scikit-learn, which is not installed: pip install "trackbus[train]"'
    )


def _read_digits(path: Path) -> Samples:
    # A line: 64 grey values 0..16, then the class.
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
        table = torch.tensor([[float(cell) for cell in line.split(",")] for line in text.splitlines()])
        pixels, labels = table[:, :_DIGITS_PIXELS], table[:, _DIGITS_PIXELS]
        return Samples(_to_images(pixels), labels.to(torch.int64))
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError, IndexError) as error:
        raise DatasetDamagedError(f"{path} is damaged ({error}): reinstall scikit-learn") from error


def _to_images(pixels: torch.Tensor) -> torch.Tensor:
    # (n, 64) of 0..16 -> (n, 3, 32, 32) of -1..1, as the tutorial normalises its images.
    grey = (pixels / _DIGITS_BRIGHTEST).reshape(-1, 1, 8, 8)
    large = functional.resize(grey, [IMAGE_SIDE, IMAGE_SIDE])
    colour = functional.grayscale_to_rgb(large)
    return functional.normalize(colour, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]).contiguous()


def _to_list(numbers: torch.Tensor) -> list[int]:
    return numbers.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped in torch
