"""Precision and recall over thresholds, computed at the caller."""

from __future__ import annotations

from typing import Any

from eventbus.errors import BadInputError
from writers._arrays import package, real_array_of
from writers._keys import shown

MAX_THRESHOLDS = 127
"""As many as TensorBoard's SDK ever uses."""

LEAST = 1e-7
"""What a count is divided by at least."""


def pr_curve(
    key: object, labels: object, predictions: object, num_thresholds: int = MAX_THRESHOLDS, weights: object = None
) -> list[list[float]]:
    """Return true and false positives, true and false negatives, precision and recall per threshold.

    Args:
        key: What they are logged under, for errors.
        labels: What is true of each: 0 or 1.
        predictions: How probable that was said to be, from 0 to 1.
        num_thresholds: Thresholds from 0 to 1, at most 127.
        weights: What each counts for: 1 by default.

    Raises:
        BadInputError: They do not go together, or are out of range.
        MissingExtraError: numpy is not installed.
    """
    numpy = package("numpy")
    if type(num_thresholds) is not int or num_thresholds < 2:  # noqa: PLR2004 - from 0 to 1
        raise BadInputError(f"num_thresholds={shown(num_thresholds)} of {shown(key)}: pass an int from 2 to 127")
    truth, said = real_array_of(key, labels).astype(float), real_array_of(key, predictions)
    weight = numpy.float64(1) if weights is None else real_array_of("weights", weights)
    if truth.shape != said.shape or (weight.ndim and weight.shape != truth.shape):
        raise BadInputError(
            f"{shown(key)} has labels of shape {truth.shape}, predictions of {said.shape} and weights of "
            f"{weight.shape}: they are of one shape"
        )
    last = min(num_thresholds, MAX_THRESHOLDS) - 1
    with numpy.errstate(all="ignore"):
        buckets = numpy.floor(said * last)
    if not ((buckets >= 0) & (buckets <= last)).all():
        raise BadInputError(f"{shown(key)} has predictions outside 0 to 1, or NaN: pass probabilities, as of a sigmoid")
    return _rates(numpy, buckets, (truth * weight, (1 - truth) * weight), last + 1)


def _rates(numpy: Any, buckets: Any, hits_and_misses: tuple[Any, Any], thresholds: int) -> list[list[float]]:
    tp, fp = (_at_least(numpy, buckets, weights, thresholds) for weights in hits_and_misses)
    tn, fn = fp[0] - fp, tp[0] - tp
    precision, recall = tp / numpy.maximum(LEAST, tp + fp), tp / numpy.maximum(LEAST, tp + fn)
    return [one.tolist() for one in (tp, fp, tn, fn, precision, recall)]


def _at_least(numpy: Any, buckets: Any, weights: Any, thresholds: int) -> Any:
    """Return per threshold the weight of what lies in its bucket or a higher one."""
    inside, _ = numpy.histogram(buckets, bins=thresholds, range=(0, thresholds - 1), weights=weights)
    return numpy.cumsum(inside[::-1])[::-1]


def raw_curve(key: object, parts: tuple[object, ...]) -> list[list[float]]:
    """Return six lists of equal length as they are.

    Raises:
        BadInputError: They are not.
        MissingExtraError: numpy is not installed.
    """
    curve = [real_array_of(key, part).astype(float).reshape(-1).tolist() for part in parts]
    if len({len(part) for part in curve}) != 1:
        raise BadInputError(
            f"{shown(key)} has lists of {[len(part) for part in curve]} numbers: they are of one length"
        )
    return curve
