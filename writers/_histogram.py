"""Counts how values are distributed, at the caller: what travels is a few kilobytes, however many values there are."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypedDict, cast

from eventbus.errors import BadInputError
from eventbus.media import MAX_BINS, default_edges
from writers._arrays import array_of, package, real_array_of
from writers._keys import shown

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Sums(TypedDict):
    min: float
    max: float
    num: float
    sum: float
    sum_squares: float


class Counted(_Sums):
    """Fields of a `HistogramLogged`, without its key and step."""

    limits: list[float]
    counts: list[float]
    low: float | None


def histogram(
    key: object,
    values: object = None,
    bins: Any = "tensorflow",
    max_bins: int | None = None,
    *,
    np_histogram: object = None,
) -> Counted:
    """Count values.

    Values that are not finite are in no bin of `tensorflow`, and make the sums so.

    Args:
        key: What they are logged under, for errors.
        values: An array, a tensor or a nested list of numbers, of any shape.
        bins: `tensorflow`: bins that grow by a tenth, on both sides of zero; empty ones that follow one another count
            as one. Else what `numpy.histogram` takes: how many, their edges, or a rule such as `auto`.
        max_bins: Neighbouring bins are put together until there are at most about so many; None: never.
        np_histogram: In place of values: what `numpy.histogram` returned, (counts, edges). Sums are then estimated,
            from the middle of each bin.

    Raises:
        BadInputError: There is nothing to count, the bins are wrong, or are more than 10 000.
        MissingExtraError: numpy is not installed.
    """
    if np_histogram is not None:
        return _checked(key, _from_counts(key, np_histogram))
    given = real_array_of(key, values).reshape(-1)
    flat, is_default = given.astype(float), isinstance(bins, str) and bins == "tensorflow"
    if is_default and given.dtype == "float32":  # counted as they are: the same bins in half the time
        counts, edges = _counted(key, given, default_edges())
    else:
        counts, edges = _counted(key, flat, default_edges() if is_default else bins)
    if max_bins is not None:
        counts, edges = _coarser(key, counts, edges, max_bins)
    limits, counts = _trimmed(key, counts, edges)
    if is_default and max_bins is None:
        limits, counts = _merged(limits, counts)
    return _checked(key, Counted(limits=limits, counts=counts, low=None, **_sums(flat)))


def _sums(flat: Any) -> _Sums:
    with package("numpy").errstate(all="ignore"):  # NaN and infinities stay, without a warning
        return _Sums(
            min=float(flat.min()),
            max=float(flat.max()),
            num=float(flat.size),
            sum=float(flat.sum()),
            sum_squares=float(flat.dot(flat)),
        )


def _counted(key: object, flat: Any, bins: Any) -> tuple[Any, Any]:
    numpy = package("numpy")
    try:
        return numpy.histogram(flat, bins=bins)
    except (TypeError, ValueError, MemoryError) as error:
        raise BadInputError(f"{shown(key)} can't be counted with these bins: {error}") from error


def _coarser(key: object, counts: Any, edges: Any, most: int) -> tuple[Any, Any]:
    """Put neighbouring bins together, as many each as TensorBoard's SDK does."""
    if type(most) is not int or most < 1:
        raise BadInputError(f"max_bins={shown(most)} of {shown(key)} is no number of bins: pass an int from 1")
    numpy = package("numpy")
    together = len(counts) // most
    if together <= 1:
        return counts, edges
    rest = len(counts) % together
    padded = numpy.pad(counts, (0, together - rest if rest else 0))
    return padded.reshape(-1, together).sum(axis=-1), numpy.append(edges[:-1:together], edges[-1])


def _trimmed(key: object, counts: Any, edges: Any) -> tuple[list[float], list[float]]:
    """Leave out the empty bins at both ends, but for one on the left, whose limit is where the first one begins."""
    (filled,) = counts.nonzero()
    if not len(filled):
        raise BadInputError(f"{shown(key)} has no value in any bin: are they all NaN or infinite?")
    first, last = int(filled[0]), int(filled[-1]) + 1
    kept = counts[first:last].astype(float).tolist()
    return edges[first : last + 1].astype(float).tolist(), [0.0, *kept]


def _merged(limits: list[float], counts: list[float]) -> tuple[list[float], list[float]]:
    """Make one bin of empty bins that follow one another; whoever needs them puts them back: their limits are known."""
    followed = [*counts[1:], 1.0]
    kept = [at for at, count in enumerate(counts) if count or followed[at]]
    return [limits[at] for at in kept], [counts[at] for at in kept]


def _from_counts(key: object, given: object) -> Counted:
    if not (isinstance(given, tuple | list) and len(cast("Sequence[object]", given)) == 2):  # noqa: PLR2004 - a pair
        raise BadInputError(f"np_histogram of {shown(key)} is not (counts, edges): pass what numpy.histogram returns")
    counts, edges = (array_of(key, one).reshape(-1).astype(float) for one in cast("Sequence[object]", given))
    if len(edges) != len(counts) + 1 or not counts.any():
        raise BadInputError(
            f"np_histogram of {shown(key)} has {len(counts)} counts and {len(edges)} edges: pass one edge more than "
            "counts, and at least one count that is not zero"
        )
    middles = (edges[1:] + edges[:-1]) / 2
    (filled,) = counts.nonzero()
    return Counted(
        limits=edges[1:].tolist(),
        counts=counts.tolist(),
        low=float(edges[0]),
        min=float(edges[filled[0]]),
        max=float(edges[filled[-1] + 1]),
        num=float(counts.sum()),
        sum=float(counts.dot(middles)),
        sum_squares=float(counts.dot(middles**2)),
    )


def _checked(key: object, counted: Counted) -> Counted:
    limits, counts = counted["limits"], counted["counts"]
    if len(limits) > MAX_BINS:
        raise BadInputError(f"{shown(key)} has {len(limits)} bins, at most {MAX_BINS} fit: pass fewer, or max_bins=")
    if any(low > high for low, high in pairwise(limits)) or any(count < 0 for count in counts):
        raise BadInputError(f"{shown(key)} has limits that fall, or counts below zero: sort the bins' edges")
    return counted
