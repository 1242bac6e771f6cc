"""What data a training may be told to use, by the names that people write. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from eventbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DatasetName = Literal["digits", "cifar10", "fashion-mnist"]
"""The data sets that `training.data.load_dataset` knows."""

SCHEMES = "iid, dirichlet:ALPHA (dirichlet:0.5), shards:CLASSES (shards:2), quantity"
"""How a data set may be shared out, as people write it."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a data set is shared out.

    Attributes:
        kind: Which of the functions of `training.data.partitions` does it.
        options: What that takes beside labels, sites and seed.
    """

    kind: Literal["iid", "dirichlet", "shards", "quantity"]
    options: Mapping[str, float]


def parse_scheme(text: str) -> Scheme:
    """Read how a data set is to be shared out.

    Args:
        text: `iid`, `dirichlet:ALPHA`, `shards:CLASSES` or `quantity`.

    Raises:
        ConfigurationError: It is none of them, or its number is not legal.
    """
    kind, colon, number = text.strip().lower().partition(":")
    try:
        if kind in ("iid", "quantity") and not colon:
            return Scheme(kind, {})
        name, convert = _PARAMETERS[kind]
        return Scheme(kind, {name: convert(number)})  # pyright: ignore[reportArgumentType] - a key of the table
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"partition={text!r} is not known: use one of {SCHEMES}") from error


def _positive(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(text)
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


_PARAMETERS: Mapping[str, tuple[str, Callable[[str], float]]] = {
    "dirichlet": ("alpha", _positive),
    "shards": ("num_classes_per_partition", _count),
}
