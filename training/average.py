"""Federated averaging: one model out of many, each weighted by the samples it was trained on.

The algorithm is FedAvg of McMahan et al., "Communication-Efficient Learning of Deep Networks from
Decentralized Data" (https://arxiv.org/abs/1602.05629). Pure: no clock, no network, no files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from eventbus.errors import TrackbusError
from training.model import State, explain_mismatch


class UpdateRefusedError(TrackbusError, ValueError):
    """Raised when a site's update can't be averaged; the average stays as it was.

    Attributes:
        site: Whose update it was.
        reason: What is wrong with it.
    """

    def __init__(self, site: str, reason: str) -> None:
        """Keep the site and the reason apart, for whoever reports them."""
        super().__init__(f"the update of site {site!r} is refused: {reason}")
        self.site = site
        self.reason = reason


class NoUpdatesError(TrackbusError, ValueError):
    """Raised when an average is asked for before any update was added."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelUpdate:
    """What a site hands back after a round.

    Attributes:
        site: The site's name.
        state: Its model after training.
        samples: How many samples it trained on: the weight of this update.
        metrics: What it measured, by name.
    """

    site: str
    state: State
    samples: int
    metrics: dict[str, float] = field(default_factory=dict[str, float])


class WeightedAverage:
    """A running weighted average of one round's updates.

    An update may be forgotten once it is added: held is one float64 sum per tensor, however many sites.
    """

    def __init__(self, like: Mapping[str, torch.Tensor] | None = None) -> None:
        """Start an average.

        Args:
            like: The global model that the round began with: names, shapes and types that every update must
                have. Without it the first update sets them, right or wrong.
        """
        self._like: State | None = None if like is None else dict(like)
        self._sums: State = {}
        self._metrics: dict[str, tuple[float, int]] = {}
        self._weights: dict[str, int] = {}

    @property
    def weights(self) -> dict[str, int]:
        """The sites added so far, each with its number of samples."""
        return dict(self._weights)

    def add(self, update: ModelUpdate) -> None:
        """Take an update into the average; the order of the sites matters to float64's last bit only.

        Raises:
            UpdateRefusedError: The site was added before, has no samples, or its state has other names,
                shapes or types than expected, or holds a NaN or an infinity.
        """
        if reason := self._reason_to_refuse(update):
            raise UpdateRefusedError(update.site, reason)
        if self._like is None:
            # Only shapes and types are asked of it: on the meta device they take no memory.
            self._like = {name: tensor.to("meta") for name, tensor in update.state.items()}
        for name, tensor in update.state.items():
            share = _widen(tensor).mul_(update.samples)
            self._sums[name] = self._sums[name].add_(share) if name in self._sums else share
        for name, value in update.metrics.items():
            total, weight = self._metrics.get(name, (0.0, 0))
            self._metrics[name] = (total + value * update.samples, weight + update.samples)
        self._weights[update.site] = update.samples

    def result(self) -> State:
        """Return the average, in the types of the updates.

        Floating tensors are averaged in float64. So are integer tensors, such as the batch counters of
        BatchNorm, exactly up to 2**53, and then rounded; of booleans the (weighted) majority wins.

        Raises:
            NoUpdatesError: Nothing was added.
        """
        if self._like is None or not self._weights:
            raise NoUpdatesError("there is nothing to average: no update was added")
        samples = sum(self._weights.values())
        like = self._like.items()
        return {name: _narrow(self._sums[name] / samples, tensor.dtype) for name, tensor in like}

    def metrics(self) -> dict[str, float]:
        """Return the average of each metric over the sites that gave it; NaN where a site gave NaN."""
        return {name: total / weight for name, (total, weight) in self._metrics.items()}

    def _reason_to_refuse(self, update: ModelUpdate) -> str:
        if update.site in self._weights:
            return "the site is already in this average"
        if update.samples < 1:
            return f"it stands for {update.samples} samples"
        expected = update.state if self._like is None else self._like
        return explain_mismatch(expected, update.state) or _explain_values(expected, update.state)


def _explain_values(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> str:
    for name, tensor in given.items():
        if tensor.dtype != expected[name].dtype:
            return f"{name} is {tensor.dtype}, not {expected[name].dtype}"
        if not bool(torch.isfinite(_widen(tensor)).all()):
            return f"{name} holds a NaN or an infinity"
    return ""


def _widen(tensor: torch.Tensor) -> torch.Tensor:
    # Always a copy, so that it may be written into.
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().to("cpu", wide, copy=True)


def _narrow(mean: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype is torch.bool:
        return mean > 0.5  # noqa: PLR2004 - half
    if not (dtype.is_floating_point or dtype.is_complex):
        mean = mean.round()
    return mean.to(dtype)
