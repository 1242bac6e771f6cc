"""The metrics of many sites made into one: pure, and without torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard, cast

SUPPORT = "support"
"""Beside the numbers of a class: how many samples they were measured on."""

MAX_DEPTH = 8
"""Metrics by class are 2 dicts deep; whatever is deeper than this is a mistake, and no reason to exhaust the stack."""

Metrics = Mapping[str, Any]


def is_number(value: object) -> TypeGuard[float]:
    """Whether a metric is a number; NaN and infinities are numbers, booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_too_deep(value: object, depth: int = MAX_DEPTH) -> bool:
    """Whether more than `depth` dicts or lists lie within each other."""
    if not isinstance(value, Mapping | list):
        return False
    parts = cast("Iterable[object]", value.values() if isinstance(value, Mapping) else value)
    return depth == 0 or any(is_too_deep(part, depth - 1) for part in parts)


def merge_metrics(parts: Iterable[tuple[Metrics, float]]) -> dict[str, Any]:
    """Return the weighted mean of each number over those who gave it.

    A number that is NaN or infinite is left out of its mean, unless there are no others. Dicts are merged the same way
    at every level; where they hold a `support`, it is summed, and weighs the numbers beside it in place of the weight.
    What is no number has no mean, and is left out.

    Args:
        parts: Metrics, and what they weigh: more than 0.
    """
    given = [part for part in parts if part[1] > 0]
    keys = dict.fromkeys(key for metrics, _ in given for key in metrics)
    merged = {key: _merge([(metrics[key], weight) for metrics, weight in given if key in metrics]) for key in keys}
    return {key: value for key, value in merged.items() if value is not None}


def _merge(values: list[tuple[object, float]]) -> float | dict[str, Any] | None:
    dicts = [(cast("Metrics", value), weight) for value, weight in values if isinstance(value, Mapping)]
    if dicts:
        return _merge_supported(dicts) or merge_metrics(dicts)
    numbers = [(value, weight) for value, weight in values if is_number(value)]
    return weighted_mean(numbers) if numbers else None


def _merge_supported(dicts: list[tuple[Metrics, float]]) -> dict[str, Any]:
    supports = [(metrics, metrics[SUPPORT]) for metrics, _ in dicts if _has_support(metrics)]
    if not supports:
        return {}
    others = [({key: metrics[key] for key in metrics if key != SUPPORT}, support) for metrics, support in supports]
    return {**merge_metrics(others), SUPPORT: sum(support for _, support in supports)}


def _has_support(metrics: Metrics) -> bool:
    support = metrics.get(SUPPORT)
    return is_number(support) and 0 <= support < math.inf


def weighted_mean(numbers: Iterable[tuple[float, float]]) -> float:
    """Return the mean of numbers, each beside its weight; of the finite ones, and NaN where there are none."""
    finite = [(value, weight) for value, weight in numbers if math.isfinite(value)]
    total = math.fsum(weight for _, weight in finite)
    # Shares of the whole, so that not even the largest numbers there are can overflow.
    return math.fsum(value * (weight / total) for value, weight in finite) if finite else math.nan


def flatten_metrics(metrics: Metrics, prefix: str = "") -> dict[str, float]:
    """Return all numbers by the path that leads to them, such as `per_class/cat/f1`."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= flatten_metrics(cast("Metrics", value), f"{prefix}{key}/")
        elif is_number(value):
            flat[f"{prefix}{key}"] = value
    return flat
