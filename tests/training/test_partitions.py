"""How samples are shared out: disjoint, complete, the same for the same seed; and as skewed as was asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventbus.errors import ConfigurationError
from training._data_choice import parse_scheme
from training.data import (
    Partition,
    label_table,
    partition,
    partition_dirichlet,
    partition_iid,
    partition_quantity,
    partition_shards,
)

LABELS = np.repeat(np.arange(10), 60)

sites_of = st.integers(1, 12)
seeds = st.integers(-(2**40), 2**70)


@st.composite
def schemes(draw: st.DrawFn) -> str:
    alpha = draw(st.floats(0.01, 1000))
    return draw(st.sampled_from(["iid", "quantity", f"dirichlet:{alpha}"]))


def demand_whole(shares: tuple[Partition, ...], sites: int, samples: int) -> None:
    assert [share.site for share in shares] == list(range(sites))
    assert sorted(index for share in shares for index in share.indices) == list(range(samples))
    assert all(share.indices for share in shares)


@given(st.lists(st.integers(0, 9), min_size=120, max_size=300), sites_of, schemes(), seeds)
@settings(max_examples=60, deadline=None)
def test_every_sample_goes_to_exactly_one_site(labels: list[int], sites: int, scheme: str, seed: int) -> None:
    shares = partition(labels, sites, scheme, seed=seed)
    demand_whole(shares, sites, len(labels))
    assert partition(labels, sites, scheme, seed=seed) == shares


@given(st.data(), seeds)
@settings(max_examples=60, deadline=None)
def test_shards_have_as_many_classes_as_asked_for(data: st.DataObject, seed: int) -> None:
    classes = data.draw(st.integers(1, 10))
    each = data.draw(st.integers(1, classes))
    sites = data.draw(st.integers(-(-classes // each), 12))
    labels = np.repeat(np.arange(classes) * 3, 12)  # classes need not be numbered without gaps
    shares = partition_shards(labels, sites, seed=seed, num_classes_per_partition=each)
    demand_whole(shares, sites, len(labels))
    assert {len({int(labels[index]) for index in share.indices}) for share in shares} == {each}
    assert partition_shards(labels, sites, seed=seed, num_classes_per_partition=each) == shares


@given(st.integers(1, 400), st.integers(1, 40), seeds)
@settings(max_examples=60, deadline=None)
def test_sizes_are_what_the_scheme_says(samples: int, sites: int, seed: int) -> None:
    if samples < sites:
        with pytest.raises(ConfigurationError, match="too few"):
            partition_quantity(samples, sites, seed=seed)
        return
    even = [len(share.indices) for share in partition_iid(samples, sites, seed=seed)]
    assert max(even) - min(even) <= 1
    shares = partition_quantity(samples, sites, seed=seed)
    demand_whole(shares, sites, samples)
    sizes = [len(share.indices) for share in shares]
    assert sizes[0] == min(sizes)
    assert sizes[-1] == max(sizes)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:0.5", "shards:2", "quantity"])
def test_another_seed_gives_other_shares(scheme: str) -> None:
    assert partition(LABELS, 5, scheme, seed=1) != partition(LABELS, 5, scheme, seed=2)


def test_quantity_grows_with_the_number_of_the_site() -> None:
    assert [len(share.indices) for share in partition_quantity(6000, 3, seed=0)] == [1000, 2000, 3000]


def skew(shares: tuple[Partition, ...]) -> float:
    """Return the mean share that a site's most frequent class has of it: 0.1 where all are alike."""
    counts = [Counter(LABELS[list(share.indices)].tolist()) for share in shares]
    return float(np.mean([max(one.values()) / one.total() for one in counts]))


def test_a_small_alpha_skews_the_classes_and_a_large_one_does_not() -> None:
    low, middle, high = (
        np.mean([skew(partition_dirichlet(LABELS, 5, seed=seed, alpha=alpha)) for seed in range(5)])
        for alpha in (0.05, 0.5, 1000)
    )
    assert high < 0.15 < middle < low
    assert low > 0.4


def test_a_site_that_drew_too_few_samples_gets_some_of_the_largest_share() -> None:
    shares = partition_dirichlet(LABELS, 20, seed=3, alpha=0.01, min_partition_size=25)
    demand_whole(shares, 20, len(LABELS))
    assert min(len(share.indices) for share in shares) == 25


def test_a_small_alpha_alone_leaves_sites_nearly_empty() -> None:
    shares = partition_dirichlet(LABELS, 20, seed=3, alpha=0.01, min_partition_size=0)
    assert min(len(share.indices) for share in shares) == 1


@pytest.mark.parametrize(
    ("sites", "scheme", "words"),
    [
        (0, "iid", "one site or more, not 0"),
        (601, "iid", "600 samples are too few for 601 sites: each needs one at least"),
        (61, "dirichlet:0.5", "600 samples are too few for 61 sites: each needs 10 at least"),
        (4, "shards:2", "4 sites with 2 classes each would leave some of the 10 classes out: take 3 classes per site"),
        (4, "shards:11", "there are 10 classes, take 1 to that"),
        (601, "quantity", "too few for 601 sites"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(sites: int, scheme: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        partition(LABELS, sites, scheme, seed=0)


def test_a_class_with_too_few_samples_for_its_sites_is_named() -> None:
    with pytest.raises(ConfigurationError, match="class 1 has 2 samples for 3 sites"):
        partition_shards([0, 0, 0, 1, 1], 3, seed=0, num_classes_per_partition=2)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_none_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigurationError, match=r"alpha=.* must be a positive number"):
        partition_dirichlet(LABELS, 2, seed=0, alpha=alpha)


@pytest.mark.parametrize("text", ["", "dirichlet", "dirichlet:0", "dirichlet:x", "shards", "shards:0.5", "iid:", "odd"])
def test_a_scheme_that_is_not_known_is_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(ConfigurationError, match="use one of iid, dirichlet:ALPHA"):
        parse_scheme(text)


def test_a_scheme_is_read_whatever_its_case() -> None:
    assert parse_scheme(" Dirichlet:0.5 ").options == {"alpha": 0.5}


def test_the_table_shows_who_has_what() -> None:
    assert label_table({"site-1": (8, 0, 1), "site-10": (4, 2, 7)}).splitlines() == [
        "class     0   1   2  samples",
        "site-1    8   0   1        9  █·▁",
        "site-10   4   2   7       13  ▄▂▇",
    ]
    assert label_table({}) == ""
