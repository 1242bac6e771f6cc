"""Which global model is the best so far."""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING

from training._metrics import flatten_metrics, is_number, weighted_mean
from training.abc import BestModelFound, Component, RoundAggregated
from training.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from training.abc import Contribution, Server, ServerEvent

_logger = logging.getLogger("trackbus.training")

_LESS_IS_BETTER = re.compile(
    r"loss|error|(?:^|[^a-z0-9])(?:err|ce|bce|nll|mae|mse|rmse|wer|cer|ppl|perplexity)(?:$|[^a-z0-9])"
)
_NEGATED = re.compile(r"(?:^|[^a-z0-9])neg(?:$|[^a-z0-9])")


class IntimeModelSelector(Component):
    """Finds the best global model by what the sites measured on it; arguments are NVFLARE's.

    Sites measure the model that they are sent before they train it. So what a round's metrics tell is how good the
    model was that the round began with, and that model is the one that is kept as the best: the first round judges the
    model that the job began with. Of equals the earlier one stays. NaN and infinities count for nothing.

    Args:
        weigh_by_local_iter: Whether a site's metric is weighed by the steps that it trained, too.
        aggregation_weights: What a site's metric weighs; 1 for those that are not named.
        validation_metric_name: Taken since exported jobs have it: sites' metrics come in one place.
        key_metric: The metric that decides; `per_class/cat/f1` is that of a class.
        negate_key_metric: Whether less of it is better, as of a loss.

    Raises:
        JobError: A weight is no number above 0.
    """

    def __init__(
        self,
        weigh_by_local_iter: bool = False,  # noqa: FBT001, FBT002 - NVFLARE's own arguments, in its order
        aggregation_weights: Mapping[str, float] | None = None,
        validation_metric_name: str = "initial_metrics",
        key_metric: str = "val_accuracy",
        negate_key_metric: bool = False,  # noqa: FBT001, FBT002 - the same
    ) -> None:
        self.weigh_by_local_iter = weigh_by_local_iter
        self.aggregation_weights = aggregation_weights
        self.validation_metric_name = validation_metric_name
        self.key_metric = key_metric
        self.negate_key_metric = negate_key_metric
        self._best: float | None = None
        self._has_warned = False
        check_weights(aggregation_weights)
        if not negate_key_metric and looks_like_loss(key_metric):
            _logger.warning(
                "key_metric=%r looks like one of which less is better, but the model with the most of it will be kept: "
                "set negate_key_metric=True (in a recipe: key_metric_mode='min')",
                key_metric,
            )

    def handle(self, event: ServerEvent, server: Server) -> ServerEvent | None:  # noqa: ARG002 - all are given it
        """Judge the model that a round began with, and tell if it is the best so far."""
        if not isinstance(event, RoundAggregated):
            return None
        value = self._measure(event.contributions)
        if not math.isfinite(value) or not self._is_better(value):
            return None
        self._best = value
        mode = "min" if self.negate_key_metric else "max"
        return BestModelFound(event.round, event.sent, self.key_metric, value, mode)

    def _measure(self, contributions: tuple[Contribution, ...]) -> float:
        """Return the weighted mean of the metric over those who gave it as a finite number; NaN if nobody did."""
        given = [(one, flatten_metrics(one.metrics)) for one in contributions]
        values = [(metrics[self.key_metric], self._weight(one)) for one, metrics in given if self.key_metric in metrics]
        if not values:
            self._warn_once({key for _, metrics in given for key in metrics})
        return weighted_mean(values)

    def _weight(self, one: Contribution) -> float:
        return (self.aggregation_weights or {}).get(one.site, 1.0) * (one.steps if self.weigh_by_local_iter else 1.0)

    def _is_better(self, value: float) -> bool:
        if self._best is None:
            return True
        return value < self._best if self.negate_key_metric else value > self._best

    def _warn_once(self, given: set[str]) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        known = ", ".join(sorted(given)) or "none at all"
        _logger.warning("no site gave the metric %r, so there is no best model; given: %s", self.key_metric, known)


def looks_like_loss(metric: str) -> bool:
    """Whether less of a metric is likely to be better, judged by its name; `neg_loss` is turned round already."""
    name = metric.lower()
    return (
        _LESS_IS_BETTER.search(name.replace("_", " ")) is not None and _NEGATED.search(name.replace("_", " ")) is None
    )


def check_weights(weights: Mapping[str, float] | None) -> None:
    """Check what sites weigh.

    Raises:
        JobError: A weight is no number above 0; the message names the site.
    """
    for site, weight in (weights or {}).items():
        if not (is_number(weight) and 0 < weight < math.inf):
            raise JobError(f"aggregation_weights of {site!r} is {weight!r}: a weight is a number above 0")
