"""A data set by its name, and a site's share of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from eventbus.errors import ConfigurationError
from training._data_choice import DatasetName
from training.data._samples import Dataset, Source, label_histogram
from training.data.digits import read_digits
from training.data.partitions import Partition, partition

SEED_VARIABLE = "TRACKBUS_SEED"
"""Names the run's seed to the scripts of a job."""


@dataclass(frozen=True, slots=True)
class DataSpec:
    """All that a site needs to be told to load its own share: plain values, fit for a message.

    Attributes:
        site: Which share, from 0.
        sites: How many shares there are.
        name: Which data set.
        seed: Fixes the partition, and the split into train and test where the data set has none; the same at every
            site of a run.
        partition: How the train part is shared out: `iid`, `dirichlet:0.5`, `shards:2`, `quantity`.
        root: Folder of downloaded data sets; by default `default_root()`.
    """

    site: int
    sites: int
    name: DatasetName = "digits"
    seed: int = 0
    partition: str = "iid"
    root: str | None = None

    def __post_init__(self) -> None:
        """Refuse a share that doesn't exist."""
        if not 0 <= self.site < self.sites:
            raise ConfigurationError(f"there is no share {self.site} of {self.sites}: the first is 0")

    def load(self) -> Dataset:
        """Load a train part of this site's own, and the test part that all sites have in common.

        Raises:
            ConfigurationError: There is no such data set or partition, it can't be shared out so, or it is not there.
            MissingExtraError: The package that brings the data set is not installed.
            DatasetDamagedError: Its file is not what it should be.
        """
        whole = self._whole()
        share = self._deal(whole)[self.site]
        return Dataset(whole.train.samples(share.tensor()), whole.test, whole.classes)

    def histograms(self) -> tuple[tuple[int, ...], ...]:
        """Count for every site, in order, how often each class occurs in its share; raises what `load` does."""
        whole = self._whole()
        return tuple(label_histogram(whole.train.labels[one.tensor()], whole.classes) for one in self._deal(whole))

    def _whole(self) -> Source:
        return _read(self.name, self.seed, self.root)

    def _deal(self, whole: Source) -> tuple[Partition, ...]:
        return partition(whole.train.labels.numpy(), self.sites, self.partition, seed=self.seed)


def load_dataset(name: DatasetName, seed: int, root: str | Path | None = None) -> Dataset:
    """Load a whole data set.

    Args:
        name: One of `DatasetName`; a string from a configuration file is checked here too.
        seed: Splits a data set that comes without a test set, the same way in every process and on every machine.
        root: Folder of downloaded data sets; by default `default_root()`.

    Raises:
        ConfigurationError: No data set of that name is known, or it is not there and can't be downloaded.
        MissingExtraError: The package that brings the data set is not installed.
        DatasetDamagedError: Its file is not what it should be.
    """
    whole = _read(name, seed, None if root is None else str(root))
    return Dataset(whole.train.samples(), whole.test, whole.classes)


def load_share(
    name: DatasetName,
    site: int | str,
    sites: int | Sequence[str],
    *,
    partition: str = "iid",
    seed: int | None = None,
    root: str | Path | None = None,
) -> Dataset:
    """Load what one site trains on, and what all sites test on: the one line that a training script needs.

        data = load_share("digits", flare.get_site_name(), sites=2)

    Args:
        name: Which data set.
        site: Which site: its name, or its number from 0.
        sites: The names of all sites, or how many there are: then they are called `site-1`, `site-2` ...
        partition: How the train part is shared out: `iid`, `dirichlet:0.5`, `shards:2`, `quantity`.
        seed: The same at every site; by default the run's (`TRACKBUS_SEED`), else 0.
        root: Folder of downloaded data sets; by default `default_root()`.

    Raises:
        ConfigurationError: There is no such site, data set or partition, or the data set is not there.
        MissingExtraError: The package that brings the data set is not installed.
        DatasetDamagedError: Its file is not what it should be.
    """
    names = [f"site-{number}" for number in range(1, sites + 1)] if isinstance(sites, int) else list(sites)
    index = site if isinstance(site, int) else _index(site, names)
    chosen = _seed() if seed is None else seed
    return DataSpec(index, len(names), name, chosen, partition, None if root is None else str(root)).load()


def default_root() -> Path:
    """Return where downloaded data sets are kept: `TRACKBUS_DATA_ROOT`, else `trackbus/data` in the user's cache."""
    if named := os.environ.get("TRACKBUS_DATA_ROOT"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trackbus" / "data"


def _index(site: str, names: Sequence[str]) -> int:
    if site in names:
        return names.index(site)
    raise ConfigurationError(f"there is no site {site!r} among {', '.join(names)}: sites= counts or names them all")


def _seed() -> int:
    text = os.environ.get(SEED_VARIABLE) or "0"
    try:
        return int(text)
    except ValueError as error:
        raise ConfigurationError(f"{SEED_VARIABLE}={text!r} is not a whole number") from error


@lru_cache(maxsize=1)  # sites that are threads of one process share one copy
def _read(name: str, seed: int, root: str | None) -> Source:
    reader = _READERS.get(name)
    if reader is None:
        raise ConfigurationError(f"unknown data set {name!r}; known: {', '.join(_READERS)}")
    return reader(seed, Path(root).expanduser() if root else default_root())


def _read_cifar10(_seed: int, root: Path) -> Source:
    from training.data.cifar10 import read_cifar10

    return read_cifar10(root)


def _read_fashion_mnist(_seed: int, root: Path) -> Source:
    from training.data.fashion_mnist import read_fashion_mnist

    return read_fashion_mnist(root)


_READERS: Mapping[str, Callable[[int, Path], Source]] = {
    "digits": lambda seed, _: read_digits(seed),
    "cifar10": _read_cifar10,
    "fashion-mnist": _read_fashion_mnist,
}
