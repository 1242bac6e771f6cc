"""Federated averaging: one model out of many, each weighted by the samples it was trained on.

The algorithm is FedAvg of McMahan et al., "Communication-Efficient Learning of Deep Networks from
Decentralized Data" (https://arxiv.org/abs/1602.05629). Pure: no clock, no network, no files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from eventbus.errors import TrackbusError
from training.errors import UpdateRefusedError
from training.model import State, explain_mismatch

__all__ = ["MAX_WEIGHT", "ModelUpdate", "NoUpdatesError", "UpdateRefusedError", "WeightedAverage"]

MAX_WEIGHT = 1e18
"""More steps than anybody takes; with more, float64 would keep nothing of the other sites."""


class NoUpdatesError(TrackbusError, ValueError):
    """Raised when an average is asked for before any update was added."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelUpdate:
    """What a site hands back after a round.

    Attributes:
        site: The site's name.
        state: Its model after training.
        samples: How many samples it trained on: the weight of this update. A fraction where sites are weighted.
        metrics: What it measured, by name.
        is_diff: Whether `state` is the difference from the global model that the average was started with.
    """

    site: str
    state: State
    samples: float
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    is_diff: bool = False


class WeightedAverage:
    """A running weighted average of one round's updates.

    An update may be forgotten once it is added: held is one float64 sum per tensor, however many sites.
    """

    def __init__(self, like: Mapping[str, torch.Tensor] | None = None, exclude: re.Pattern[str] | None = None) -> None:
        """Start an average.

        Args:
            like: The global model that the round began with: names and shapes that every update must have, and
                types that the average has. Without it the first update sets them, right or wrong.
            exclude: Tensors in whose name this is found are not averaged: whatever the sites send of them, the
                result has those of `like`.
        """
        self._exclude = exclude
        self._like: State | None = None if like is None else self._averaged(like)
        self._kept = {name: tensor for name, tensor in (like or {}).items() if self._is_excluded(name)}
        self._sums: State = {}
        self._metrics: dict[str, tuple[float, float]] = {}
        self._weights: dict[str, float] = {}

    @property
    def weights(self) -> dict[str, float]:
        """The sites added so far, each with its number of samples."""
        return dict(self._weights)

    def add(self, update: ModelUpdate) -> None:
        """Take an update into the average; the order of the sites matters to float64's last bit only.

        Raises:
            UpdateRefusedError: The site was added before, has no samples, or its state has other names or
                shapes than expected, is complex where that is not, or holds, once a difference is added to the global
                model, a NaN, an infinity or a number too large for the expected type; or it is a difference, and there
                is no global model that it could be one from.
        """
        state = self._averaged(update.state)
        if reason := self._reason_to_refuse(update, state):
            raise UpdateRefusedError(update.site, reason)
        base = self._base(update)
        if self._like is None:
            # Only shapes and types are asked of it: on the meta device they take no memory.
            self._like = {name: tensor.to("meta") for name, tensor in state.items()}
        for name, tensor in state.items():
            share = _whole(tensor, base.get(name)).mul_(update.samples)
            self._sums[name] = self._sums[name].add_(share) if name in self._sums else share
        for name, value in update.metrics.items():
            total, weight = self._metrics.get(name, (0.0, 0))
            self._metrics[name] = (total + value * update.samples, weight + update.samples)
        self._weights[update.site] = update.samples

    def result(self) -> State:
        """Return the average, in the types of the global model, whatever the precision of the updates.

        Floating tensors are averaged in float64. So are integer tensors, such as the batch counters of
        BatchNorm, exactly up to 2**53, and then rounded; of booleans the (weighted) majority wins.

        Raises:
            NoUpdatesError: Nothing was added.
        """
        if self._like is None or not self._weights:
            raise NoUpdatesError("there is nothing to average: no update was added")
        samples = sum(self._weights.values())
        like = self._like.items()
        return {name: _narrow(self._sums[name] / samples, tensor.dtype) for name, tensor in like} | self._kept

    def metrics(self) -> dict[str, float]:
        """Return the average of each metric over the sites that gave it; NaN where a site gave NaN."""
        return {name: total / weight for name, (total, weight) in self._metrics.items()}

    def _is_excluded(self, name: str) -> bool:
        return self._exclude is not None and self._exclude.search(name) is not None

    def _averaged(self, state: Mapping[str, torch.Tensor]) -> State:
        return {name: tensor for name, tensor in state.items() if not self._is_excluded(name)}

    def _reason_to_refuse(self, update: ModelUpdate, state: State) -> str:
        if update.site in self._weights:
            return "the site is already in this average"
        if not 0 < update.samples <= MAX_WEIGHT:  # not so of NaN either
            return f"it stands for {update.samples} samples"
        if update.is_diff and self._like is None:
            return "it is a difference, but there is no global model to add it to"
        expected = state if self._like is None else self._like
        return explain_mismatch(expected, state) or _explain_values(expected, state, self._base(update))

    def _base(self, update: ModelUpdate) -> State:
        """What an update is the difference from; nothing where it is whole."""
        return self._like or {} if update.is_diff else {}


def _explain_values(
    expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor]
) -> str:
    for name, tensor in given.items():
        wanted = expected[name].dtype
        if tensor.is_complex() != wanted.is_complex:
            return f"{name} is {tensor.dtype}, not {wanted}"
        # Numpy computes in float64 unasked: what comes is to fit into the model's type, not to be of it.
        if problem := _explain_fit(_whole(tensor, base.get(name)), wanted):
            return f"{name} {problem}"
    return ""


def _explain_fit(whole: torch.Tensor, wanted: torch.dtype) -> str:
    is_decimal = wanted.is_floating_point or wanted.is_complex
    fitted = whole.to(wanted) if is_decimal else whole
    if not bool(torch.isfinite(fitted).all()):
        return "holds a NaN or an infinity"
    if is_decimal or wanted is torch.bool:
        return ""
    limits = torch.iinfo(wanted)
    # One above the most is a power of two, which float64 has exactly; the most of int64 it has not.
    fits = (whole.round() >= float(limits.min)) & (whole.round() < float(limits.max + 1))
    return "" if bool(fits.all()) else f"holds a number that {wanted} has no room for"


def _whole(tensor: torch.Tensor, base: torch.Tensor | None) -> torch.Tensor:
    """Return an update's tensor in float64, added to what it is the difference from; always a copy, to write into."""
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    whole = tensor.detach().to("cpu", wide, copy=True)
    return whole if base is None else whole.add_(base.detach().to("cpu", wide))


def _narrow(mean: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype is torch.bool:
        return mean > 0.5  # noqa: PLR2004 - half
    if not (dtype.is_floating_point or dtype.is_complex):
        mean = mean.round()
    return mean.to(dtype)
