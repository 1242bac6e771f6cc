"""How a train set is shared out between sites: each function is pure, and gives every sample to exactly one site.

Names of parameters are those of flwr-datasets. Shares depend on labels, sites, seed and parameters alone, and every
site has one sample at least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from eventbus.errors import ConfigurationError
from training._data_choice import parse_scheme
from training.data._samples import Samples, scoped_seed, seeded_generator, to_list

MIN_PARTITION_SIZE = 10
"""Samples that a site has at least where classes are skewed: flwr-datasets' own default."""


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
        return samples.take(self.tensor())

    def tensor(self) -> torch.Tensor:
        """Return the positions as int64, (n,)."""
        return torch.tensor(self.indices, dtype=torch.int64)


def partition(labels: ArrayLike, sites: int, scheme: str, *, seed: int) -> tuple[Partition, ...]:
    """Share samples out as a text says: `iid`, `dirichlet:0.5`, `shards:2`, `quantity`.

    Args:
        labels: Class number of each sample, (n,).
        sites: How many shares to make.
        scheme: How; see `training._data_choice.SCHEMES`.
        seed: The same seed gives the same shares; another seed gives others.

    Raises:
        ConfigurationError: There is no such scheme, or these samples can't be shared out so.
    """
    chosen = parse_scheme(scheme)
    return _SCHEMES[chosen.kind](np.asarray(labels), sites, seed, chosen.options)


def partition_iid(samples: int, sites: int, *, seed: int) -> tuple[Partition, ...]:
    """Deal samples out to sites at random: every sample to exactly one site, sizes equal to within one.

    Args:
        samples: How many samples there are.
        sites: How many shares to make.
        seed: The same seed gives the same shares; another seed gives others.

    Raises:
        ConfigurationError: There are no sites, or fewer samples than sites: some would have none to train on.
    """
    _check(samples, sites)
    drawn = to_list(torch.randperm(samples, generator=seeded_generator(seed, "partition")))
    return tuple(Partition(site, tuple(drawn[site::sites])) for site in range(sites))


def partition_dirichlet(
    labels: ArrayLike, sites: int, *, seed: int, alpha: float, min_partition_size: int = MIN_PARTITION_SIZE
) -> tuple[Partition, ...]:
    """Skew the classes: each class is dealt out in proportions drawn from a Dirichlet distribution.

    A site that is left with too few samples gets some of the largest share's, drawn at random.

    Args:
        labels: Class number of each sample, (n,).
        sites: How many shares to make.
        seed: The same seed gives the same shares; another seed gives others.
        alpha: The smaller, the more skewed: at 0.1 a site has mostly one or two classes, at 100 it is nearly even.
        min_partition_size: Samples that each site has at least.

    Raises:
        ConfigurationError: `alpha` is not a positive number, or there are too few samples for the sites.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise ConfigurationError(f"alpha={alpha} must be a positive number, such as 0.5")
    known = np.asarray(labels)
    _check(len(known), sites, max(1, min_partition_size))
    random = _random(seed, "dirichlet")
    shares: list[list[int]] = [[] for _ in range(sites)]
    for one in np.unique(known):
        members = random.permutation(np.flatnonzero(known == one))
        proportions = random.dirichlet(np.full(sites, alpha))
        cuts = np.rint(np.cumsum(proportions)[:-1] * len(members)).astype(int)
        _deal(members, cuts, shares)
    _top_up(shares, max(1, min_partition_size), random)
    return _shuffled(shares, random)


def partition_shards(
    labels: ArrayLike, sites: int, *, seed: int, num_classes_per_partition: int
) -> tuple[Partition, ...]:
    """Give each site samples of few classes only, the same number of classes to each.

    A class that several sites have is dealt out evenly between them.

    Args:
        labels: Class number of each sample, (n,).
        sites: How many shares to make.
        seed: The same seed gives the same shares; another seed gives others.
        num_classes_per_partition: Classes at each site.

    Raises:
        ConfigurationError: There are not so many classes, some would be at no site, or one has too few samples.
    """
    known = np.asarray(labels)
    _check(len(known), sites)
    classes: list[int] = np.unique(known).tolist()
    _check_classes(len(classes), sites, num_classes_per_partition)
    random = _random(seed, "shards")
    order: list[int] = random.permutation(classes).tolist()
    shares: list[list[int]] = [[] for _ in range(sites)]
    for place, one in enumerate(order):
        # Classes are dealt like cards, round after round: the n-th card is the class in place n modulo their number.
        cards = range(place, sites * num_classes_per_partition, len(order))
        holders = [shares[card // num_classes_per_partition] for card in cards]
        members = random.permutation(np.flatnonzero(known == one))
        if len(members) < len(holders):
            raise ConfigurationError(
                f"class {one} has {len(members)} samples for {len(holders)} sites: take fewer classes per site"
            )
        _deal(members, np.arange(1, len(holders)) * len(members) // len(holders), holders)
    return _shuffled(shares, random)


def partition_quantity(samples: int, sites: int, *, seed: int) -> tuple[Partition, ...]:
    """Skew the sizes: the n-th site has n times as many samples as the first, drawn at random.

    Args:
        samples: How many samples there are.
        sites: How many shares to make.
        seed: The same seed gives the same shares; another seed gives others.

    Raises:
        ConfigurationError: There are no sites, or fewer samples than sites.
    """
    _check(samples, sites)
    order = _random(seed, "quantity").permutation(samples)
    weights = np.cumsum(np.arange(1, sites + 1))
    # One for each, and the rest by weight: so none is empty however few there are.
    cuts = np.arange(1, sites) + weights[:-1] * (samples - sites) // weights[-1]
    return tuple(Partition(site, tuple(part.tolist())) for site, part in enumerate(np.split(order, cuts)))


_SCHEMES: Mapping[str, Callable[[NDArray[np.integer], int, int, Mapping[str, float]], tuple[Partition, ...]]] = {
    "iid": lambda labels, sites, seed, _: partition_iid(len(labels), sites, seed=seed),
    "dirichlet": lambda labels, sites, seed, options: partition_dirichlet(
        labels, sites, seed=seed, alpha=options["alpha"]
    ),
    "shards": lambda labels, sites, seed, options: partition_shards(
        labels, sites, seed=seed, num_classes_per_partition=int(options["num_classes_per_partition"])
    ),
    "quantity": lambda labels, sites, seed, _: partition_quantity(len(labels), sites, seed=seed),
}


def _random(seed: int, kind: str) -> np.random.Generator:
    return np.random.default_rng(scoped_seed(seed, "partition", kind))


def _deal(members: NDArray[np.integer], cuts: NDArray[np.integer], shares: Sequence[list[int]]) -> None:
    """Give a piece of `members` to each share, cut at the given positions."""
    for share, part in zip(shares, np.split(members, cuts), strict=True):
        share.extend(part.tolist())


def _top_up(shares: Sequence[list[int]], least: int, random: np.random.Generator) -> None:
    """Fill up shares that are too small: with enough samples in all, the largest always has one to spare."""
    for share in shares:
        while len(share) < least:
            largest = max(shares, key=len)
            share.append(largest.pop(int(random.integers(len(largest)))))


def _shuffled(shares: Sequence[Sequence[int]], random: np.random.Generator) -> tuple[Partition, ...]:
    return tuple(Partition(site, tuple(random.permutation(share).tolist())) for site, share in enumerate(shares))


def _check(samples: int, sites: int, least: int = 1) -> None:
    if sites < 1:
        raise ConfigurationError(f"data is shared between one site or more, not {sites}")
    if samples < sites * least:
        needed = "one" if least == 1 else str(least)
        raise ConfigurationError(f"{samples} samples are too few for {sites} sites: each needs {needed} at least")


def _check_classes(classes: int, sites: int, per_site: int) -> None:
    if not 1 <= per_site <= classes:
        raise ConfigurationError(f"num_classes_per_partition={per_site}: there are {classes} classes, take 1 to that")
    if sites * per_site < classes:
        raise ConfigurationError(
            f"{sites} sites with {per_site} classes each would leave some of the {classes} classes out: "
            f"take {math.ceil(classes / sites)} classes per site or more, or more sites"
        )
