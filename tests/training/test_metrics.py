"""The metrics of many sites made into one: properties, and what is left out."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training._metrics import flatten_metrics, is_too_deep, merge_metrics

VALUES = st.floats(allow_nan=False, allow_infinity=False)
WEIGHTS = st.floats(1e-6, 1e18)


@given(st.lists(st.tuples(VALUES, WEIGHTS), min_size=1, max_size=8), st.randoms())
def test_a_mean_lies_between_its_numbers_whatever_their_order(parts: list[tuple[float, float]], random: Any) -> None:
    (mean,) = merge_metrics(({"loss": value}, weight) for value, weight in parts).values()
    values = [value for value, _ in parts]
    slack = 1e-12 * max(map(abs, values))
    assert min(values) - slack <= mean <= max(values) + slack
    random.shuffle(parts)
    assert merge_metrics(({"loss": value}, weight) for value, weight in parts)["loss"] == pytest.approx(mean, abs=slack)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1000)), min_size=1, max_size=8))
def test_a_class_is_as_if_all_its_samples_were_measured_at_once(parts: list[tuple[float, int]]) -> None:
    sites = [({"cat": {"recall": recall, "support": support}}, 5.0) for recall, support in parts]
    merged = merge_metrics(sites)["cat"]
    total = sum(support for _, support in parts)
    assert merged["support"] == total
    if total:
        assert merged["recall"] == pytest.approx(sum(recall * support for recall, support in parts) / total)
    else:
        assert "recall" not in merged


@pytest.mark.parametrize(
    ("parts", "merged"),
    [
        ([], {}),
        ([{"a": 1.0}, {"b": 2.0}], {"a": 1.0, "b": 2.0}),
        ([{"a": "good"}, {"a": None}, {"a": True}, {"a": [1.0]}], {}),
        ([{"a": math.inf}, {"a": 1.0}], {"a": 1.0}),
        ([{"a": {"x": 1.0}}, {"a": 7.0}], {"a": {"x": 1.0}}),
        ([{"a": {"x": 1.0}}, {"a": {"x": 3.0, "support": 2}}], {"a": {"x": 3.0, "support": 2}}),
        ([{"a": {"x": 1.0, "support": -1}}], {"a": {"x": 1.0, "support": -1.0}}),
        ([{"a": 1.7e308}, {"a": 1.7e308}], {"a": 1.7e308}),
        ([{"a": 1}, {"a": 2}], {"a": 1.5}),
    ],
)
def test_what_is_no_number_is_left_out(parts: list[dict[str, Any]], merged: dict[str, Any]) -> None:
    assert merge_metrics((part, 3.0) for part in parts) == merged


def test_numbers_that_are_none_stay_so_where_there_are_no_others() -> None:
    assert math.isnan(merge_metrics([({"a": math.nan}, 1.0), ({"a": math.inf}, 1.0)])["a"])


def test_numbers_are_found_by_the_path_that_leads_to_them() -> None:
    metrics = {"loss": 1, "per_class": {"cat": {"f1": 0.5, "note": "few"}, 3: {"f1": 1.0}}}
    assert flatten_metrics(metrics, "global/") == {
        "global/loss": 1,
        "global/per_class/cat/f1": 0.5,
        "global/per_class/3/f1": 1.0,
    }


@pytest.mark.parametrize(("depth", "too_deep"), [(0, False), (8, False), (9, True), (100_000, True)])
@pytest.mark.parametrize("kind", [dict, list])
def test_depth_is_bounded(depth: int, too_deep: bool, kind: type) -> None:
    value: Any = 1.0
    for _ in range(depth):
        value = {"a": value} if kind is dict else [value]
    assert is_too_deep(value) is too_deep
