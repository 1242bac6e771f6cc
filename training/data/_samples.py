"""Images with their labels: as they lie on disk, and as the network takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torchvision.transforms.v2 import functional  # pyright: ignore[reportMissingTypeStubs] - it ships none

from eventbus.errors import ConfigurationError, TrackbusError

IMAGE_SIDE = 32  # pixels: what TutorialCNN takes


class DatasetDamagedError(TrackbusError, RuntimeError):
    """Raised when a data set's file is there but is not what it should be."""


class DatasetMissingError(ConfigurationError):
    """Raised when a data set is not there and can't be downloaded; the message says where to put it."""


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

    def take(self, indices: torch.Tensor) -> Samples:
        """Copy the samples at the given positions, (k,) of int64, in that order."""
        return Samples(self.images[indices], self.labels[indices])

    def batches(self, size: int, order: torch.Tensor | None = None) -> Iterator[Samples]:
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


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Images as they lie on disk: a site makes floats of its own share alone, which are up to 16 times as large.

    Attributes:
        values: Grey or colour, 0 .. brightest, uint8 or float32, (n, 1 or 3, height, width).
        labels: Class numbers from 0, int64, (n,).
        brightest: The largest value there may be.
    """

    values: torch.Tensor
    labels: torch.Tensor
    brightest: float

    def samples(self, indices: torch.Tensor | None = None) -> Samples:
        """Make -1..1 of the images, as PyTorch's tutorial does, of the network's size and in colour.

        Args:
            indices: Positions, (k,) of int64; all by default.
        """
        values, labels = self.values, self.labels
        if indices is not None:
            values, labels = values[indices], labels[indices]
        return Samples(_as_images(values.to(torch.float32) / self.brightest), labels)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A data set as it was read: what is to be shared out, and what all sites test on."""

    train: Pixels
    test: Samples
    classes: int


def seeded_generator(seed: int, *scope: int | str) -> torch.Generator:
    """Make a CPU generator whose numbers depend on a seed and on what they are for.

    Generators of different scopes are independent, also for seeds that are neighbours. Nothing here touches
    torch's global generator, which sites that run as threads, or as forked processes, would share.

    Args:
        seed: The run's seed.
        *scope: What the numbers are for, e.g. a site's name and a round's number.
    """
    return torch.Generator().manual_seed(scoped_seed(seed, *scope))


def scoped_seed(seed: int, *scope: int | str) -> int:
    """Return the seed of what is for one purpose: 0 .. 2**63 - 1."""
    digest = hashlib.blake2b(repr((seed, *scope)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes a signed 64-bit number


def label_histogram(labels: torch.Tensor, classes: int) -> tuple[int, ...]:
    """Count how often each class 0 .. classes - 1 occurs in labels, (n,) of int64."""
    return tuple(to_list(torch.bincount(labels, minlength=classes)))


def to_list(numbers: torch.Tensor) -> list[int]:
    """Return whole numbers, (n,), as Python's own."""
    return numbers.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped in torch


def _as_images(values: torch.Tensor) -> torch.Tensor:
    # (n, 1 or 3, h, w) of 0..1 -> (n, 3, 32, 32) of -1..1.
    channels = values.shape[1]
    large = functional.resize(values, [IMAGE_SIDE, IMAGE_SIDE])
    middle = [0.5] * channels
    return functional.normalize(large, mean=middle, std=middle).expand(-1, 3, -1, -1).contiguous()
