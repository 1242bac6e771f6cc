import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.tensorboard.summary import make_histogram

from eventbus import Scope
from eventbus._codec import encode
from eventbus.errors import BadInputError
from eventbus.media import HistogramLogged, default_edges
from writers._histogram import Counted, histogram

RANDOM = np.random.default_rng(7)


def unmerged(counted: Counted) -> dict[float, float]:
    """Bins by limit, with those that were left out since they and their neighbours are empty."""
    edges = [edge for edge in default_edges() if counted["limits"][0] <= edge <= counted["limits"][-1]]
    return dict.fromkeys(edges, 0.0) | dict(zip(counted["limits"], counted["counts"], strict=True))


@pytest.mark.parametrize(
    "values",
    [
        RANDOM.normal(size=5000),
        RANDOM.normal(size=5000).astype(np.float32),
        np.array(default_edges(), np.float32),
        np.arange(-5, 100),
        np.zeros(3),
        np.array([1e-30]),
        np.array([1.0, math.nan]),
        np.array([1.0, math.inf]),
    ],
    ids=["normal", "single", "edges", "int", "zero", "tiny", "nan", "infinite"],
)
def test_default_bins_are_those_of_the_sdk(values: Any) -> None:
    theirs = make_histogram(values.astype(float), np.array(default_edges()))

    ours = histogram("h", values)

    assert unmerged(ours) == dict(zip(theirs.bucket_limit, theirs.bucket, strict=True))
    statistics = [ours["min"], ours["max"], ours["num"], ours["sum"], ours["sum_squares"]]
    assert str(statistics) == str([theirs.min, theirs.max, theirs.num, theirs.sum, theirs.sum_squares])


@pytest.mark.parametrize("bins", [10, "auto", "fd", [-1, 0, 0.5, 2]])
@pytest.mark.parametrize("max_bins", [None, 1, 3, 7, 1000])
def test_other_bins_are_those_of_the_sdk(bins: Any, max_bins: int | None) -> None:
    values = RANDOM.normal(size=500)
    theirs = make_histogram(values, bins, max_bins)

    ours = histogram("h", torch.as_tensor(values), bins, max_bins)

    assert (ours["limits"], ours["counts"]) == (list(theirs.bucket_limit), list(theirs.bucket))


def test_infinities_and_overflows_warn_nobody() -> None:
    counted = histogram("h", [1.0, math.inf, -math.inf, 1e300])

    assert (sum(counted["counts"]), math.isnan(counted["sum"]), counted["sum_squares"]) == (1, True, math.inf)


def test_a_million_values_travel_as_eight_kilobytes() -> None:
    counted = histogram("weights", RANDOM.normal(size=1_000_000).astype(np.float32))
    event = HistogramLogged(key="weights", step=1, **counted)

    assert len(encode(event, "analytix_log_stats", Scope.LOCAL, "", 1)) <= 8192
    assert sum(event.counts) == event.num == 1_000_000


def test_counts_of_numpy_are_taken() -> None:
    counted = histogram("h", np_histogram=([0, 2, 1, 0], [0.0, 1.0, 2.0, 3.0, 4.0]))

    assert counted == {
        "limits": [1.0, 2.0, 3.0, 4.0],
        "counts": [0.0, 2.0, 1.0, 0.0],
        "low": 0.0,
        "min": 1.0,
        "max": 3.0,
        "num": 3.0,
        "sum": 5.5,
        "sum_squares": 10.75,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "is empty"),
        ({"values": "text"}, "not of numbers"),
        ({"values": [1j]}, "complex"),
        ({"values": [math.nan, math.inf]}, "no value in any bin"),
        ({"values": [math.nan], "bins": 10}, "can't be counted"),
        ({"values": [1.0], "bins": "such"}, "can't be counted"),
        ({"values": [1.0], "bins": 0}, "can't be counted"),
        ({"values": [0.0, 1.0], "bins": 20_000}, "20001 bins, at most 10000"),
        ({"values": [1.0], "max_bins": 0}, "max_bins=0"),
        ({"np_histogram": ([1], [1])}, "1 counts and 1 edges"),
        ({"np_histogram": ([0], [1, 2])}, "at least one count"),
        ({"np_histogram": 3}, "not \\(counts, edges\\)"),
        ({"np_histogram": ([1, 1], [3, 2, 1])}, "limits that fall"),
    ],
)
def test_what_can_not_be_counted_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        histogram("h", **arguments)
