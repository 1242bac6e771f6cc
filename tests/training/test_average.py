"""The average, against sums done by hand."""

import math
import re
import tracemalloc
from itertools import permutations

import pytest
import torch
from torch import nn

from training.average import ModelUpdate, NoUpdatesError, UpdateRefusedError, WeightedAverage
from training.model import State, build_model, get_state


def _update(site: str, samples: float, *values: float, dtype: torch.dtype = torch.float32) -> ModelUpdate:
    return ModelUpdate(site, {"w": torch.tensor(values, dtype=dtype)}, samples)


def _average(*updates: ModelUpdate) -> torch.Tensor:
    average = WeightedAverage()
    for update in updates:
        average.add(update)
    return average.result()["w"]


def test_it_weighs_each_update_by_its_samples() -> None:
    mean = _average(_update("a", 1, 1.0, -2.0), _update("b", 3, 5.0, 2.0))
    assert mean.tolist() == [(1 * 1 + 3 * 5) / 4, (1 * -2 + 3 * 2) / 4]
    assert mean.dtype is torch.float32


def test_a_whole_model_equals_the_same_sum_in_torch() -> None:
    states = [get_state(build_model(seed)) for seed in range(3)]
    samples = [100, 250, 7]
    average = WeightedAverage(like=states[0])
    for index, state in enumerate(states):
        average.add(ModelUpdate(f"site-{index}", state, samples[index]))
    for name, mean in average.result().items():
        stack = torch.stack([state[name].double() for state in states])
        weights = torch.tensor(samples, dtype=torch.float64) / sum(samples)
        torch.testing.assert_close(mean, torch.einsum("s,s...->...", weights, stack).float())


def test_one_site_gets_its_own_model_back() -> None:
    state = get_state(build_model(seed=1))
    average = WeightedAverage()
    average.add(ModelUpdate("a", state, 313))
    assert all(torch.equal(average.result()[name], tensor) for name, tensor in state.items())


def test_the_order_of_the_sites_does_not_matter() -> None:
    updates = [_update("a", 3, 0.1), _update("b", 5, 1e8), _update("c", 7, -1e8)]
    results = {_average(*order).item() for order in permutations(updates)}
    assert len(results) == 1


def test_small_weights_are_not_lost_beside_large_ones() -> None:
    # In float32 the 1.0 would vanish: 1e8 + 1 == 1e8.
    assert _average(_update("a", 1, 1e8), _update("b", 1, 1.0), _update("c", 1, -1e8)).item() == pytest.approx(1 / 3)


def test_half_precision_does_not_overflow_on_the_way() -> None:
    mean = _average(*(_update(site, 50_000, 60_000.0, dtype=torch.float16) for site in "abc"))
    assert (mean.item(), mean.dtype) == (60_000.0, torch.float16)


def test_batch_norms_counters_are_averaged_and_rounded() -> None:
    def state(batches: int) -> State:
        layer = nn.BatchNorm1d(2)
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked.fill_(batches)
        return get_state(layer)

    average = WeightedAverage()
    average.add(ModelUpdate("a", state(10), 1))
    average.add(ModelUpdate("b", state(20), 2))
    counter = average.result()["num_batches_tracked"]
    assert (counter.item(), counter.dtype, counter.shape) == (17, torch.int64, ())


def test_booleans_are_decided_by_the_majority_of_samples() -> None:
    mean = _average(_update("a", 3, True, False, dtype=torch.bool), _update("b", 2, False, True, dtype=torch.bool))
    assert mean.tolist() == [True, False]


def test_complex_weights_keep_their_imaginary_part() -> None:
    a = ModelUpdate("a", {"w": torch.tensor([1 + 2j])}, 1)
    b = ModelUpdate("b", {"w": torch.tensor([3 - 4j])}, 1)
    assert _average(a, b).tolist() == [2 - 1j]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused_by_name(bad: float) -> None:
    with pytest.raises(UpdateRefusedError, match="site 'b' is refused: w holds a NaN or an infinity"):
        _average(_update("a", 1, 1.0), _update("b", 1, bad))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_an_update_of_another_precision_counts_and_the_model_keeps_its_own(dtype: torch.dtype) -> None:
    mean = _average(_update("a", 1, 1.0, 2.0), _update("b", 3, 5.0, 6.0, dtype=dtype))
    assert (mean.tolist(), mean.dtype) == ([4.0, 5.0], torch.float32)


def test_a_difference_of_a_counter_may_be_wider_than_the_counter() -> None:
    average = WeightedAverage({"n": torch.tensor(250, dtype=torch.uint8)})
    average.add(ModelUpdate("a", {"n": torch.tensor(-50)}, 1, is_diff=True))
    assert (average.result()["n"].item(), average.result()["n"].dtype) == (200, torch.uint8)


@pytest.mark.parametrize(
    ("like", "change", "reason"),
    [
        (torch.tensor([60_000.0], dtype=torch.float16), torch.tensor([60_000.0]), "w holds a NaN or an infinity"),
        (torch.tensor([3e38]), torch.tensor([3e38]), "w holds a NaN or an infinity"),
        (torch.tensor([3e38 + 0j]), torch.tensor([3e38 + 0j]), "w holds a NaN or an infinity"),
        (
            torch.tensor([250], dtype=torch.uint8),
            torch.tensor([6]),
            "w holds a number that torch.uint8 has no room for",
        ),
        (torch.tensor([1], dtype=torch.uint8), torch.tensor([-2]), "w holds a number that torch.uint8 has no room for"),
    ],
)
def test_a_difference_must_fit_once_it_is_added(like: torch.Tensor, change: torch.Tensor, reason: str) -> None:
    average = WeightedAverage({"w": like})
    with pytest.raises(UpdateRefusedError) as refused:
        average.add(ModelUpdate("a", {"w": change}, 1, is_diff=True))
    assert refused.value.reason == reason
    average.add(ModelUpdate("b", {"w": torch.zeros_like(like)}, 1, is_diff=True))
    assert torch.equal(average.result()["w"], like)


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        (torch.uint8, 255.4, True),
        (torch.uint8, 255.5, False),
        (torch.uint8, 300.0, False),
        (torch.int8, -128.0, True),
        (torch.int8, -129.0, False),
        (torch.int64, -(2.0**63), True),
        (torch.int64, 2.0**63 - 2**10, True),
        (torch.int64, 2.0**63, False),
        (torch.int32, math.inf, False),
    ],
)
def test_a_number_must_fit_into_the_integers_of_the_model(dtype: torch.dtype, value: float, fits: bool) -> None:
    average = WeightedAverage({"w": torch.zeros(1, dtype=dtype)})
    update = _update("a", 1, value, dtype=torch.float64)
    if fits:
        average.add(update)
        assert average.result()["w"].item() == round(value)
    else:
        with pytest.raises(UpdateRefusedError, match="w holds a"):
            average.add(update)


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (_update("b", 0, 1.0), "it stands for 0 samples"),
        (_update("b", -5, 1.0), "it stands for -5 samples"),
        (_update("b", 1, 1.0, 2.0), "w is (2,), not (1,)"),
        (_update("b", 1, 1.0, dtype=torch.complex64), "w is torch.complex64, not torch.float32"),
        (_update("b", 1, 1e39, dtype=torch.float64), "w holds a NaN or an infinity"),
        (ModelUpdate("b", {}, 1), "missing: w"),
        (ModelUpdate("b", {"w": torch.ones(1), "v": torch.ones(1)}, 1), "unknown: v"),
        (_update("a", 1, 1.0), "the site is already in this average"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_with_its_site(update: ModelUpdate, reason: str) -> None:
    average = WeightedAverage()
    average.add(_update("a", 2, 8.0))
    with pytest.raises(UpdateRefusedError) as refused:
        average.add(update)
    assert (refused.value.site, refused.value.reason) == (update.site, reason)
    assert f"{update.site!r}" in str(refused.value)


def test_a_refused_update_leaves_no_trace() -> None:
    average = WeightedAverage()
    average.add(ModelUpdate("a", {"v": torch.ones(1), "w": torch.ones(1)}, 2, {"loss": 1.0}))
    poisoned = ModelUpdate("b", {"v": torch.full((1,), 9.0), "w": torch.tensor([math.nan])}, 2, {"loss": 9.0})
    with pytest.raises(UpdateRefusedError):
        average.add(poisoned)
    assert (average.result()["v"].item(), average.metrics(), average.weights) == (
        1.0,
        {"loss": 1.0},
        {"a": 2},
    )


def test_the_global_model_decides_which_site_is_the_odd_one_out() -> None:
    average = WeightedAverage(like={"w": torch.zeros(1)})
    with pytest.raises(UpdateRefusedError, match="site 'odd'"):
        average.add(_update("odd", 1, 1.0, 2.0))
    average.add(_update("even", 1, 4.0))
    assert average.result()["w"].tolist() == [4.0]


def test_an_average_of_nothing_is_refused() -> None:
    with pytest.raises(NoUpdatesError, match="no update was added"):
        WeightedAverage(like={"w": torch.zeros(1)}).result()


def test_adding_changes_no_update_and_asking_changes_no_average() -> None:
    update = _update("a", 3, 1.5)
    average = WeightedAverage()
    average.add(update)
    average.result()["w"].zero_()
    assert (update.state["w"].item(), average.result()["w"].item()) == (1.5, 1.5)


def test_metrics_are_averaged_over_the_sites_that_gave_them() -> None:
    average = WeightedAverage()
    average.add(ModelUpdate("a", {}, 1, {"loss": 1.0, "auc": 0.5}))
    average.add(ModelUpdate("b", {}, 3, {"loss": 3.0}))
    assert average.metrics() == {"loss": (1 * 1.0 + 3 * 3.0) / 4, "auc": 0.5}


def test_what_is_held_does_not_grow_with_the_sites() -> None:
    average = WeightedAverage()
    average.add(_update("first", 1, *range(1000)))
    sums = average._sums
    before = {name: tensor.data_ptr() for name, tensor in sums.items()}
    tracemalloc.start()
    for index in range(200):
        average.add(_update(f"site-{index}", 1, *range(1000)))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert {name: tensor.data_ptr() for name, tensor in sums.items()} == before
    assert held < 100_000


def test_a_difference_is_added_to_the_global_model_before_it_is_averaged() -> None:
    average = WeightedAverage(like={"w": torch.tensor([10.0])})
    average.add(_update("whole", 1, 12.0))
    average.add(ModelUpdate("difference", {"w": torch.tensor([-2.0])}, 3, is_diff=True))
    assert average.result()["w"].item() == (12.0 + 3 * (10.0 - 2.0)) / 4


def test_a_difference_needs_a_global_model() -> None:
    with pytest.raises(UpdateRefusedError, match="there is no global model to add it to"):
        WeightedAverage().add(ModelUpdate("a", {"w": torch.ones(1)}, 1, is_diff=True))


def test_what_is_excluded_stays_as_it_was_and_may_be_anything() -> None:
    like = {"bn.mean": torch.tensor([5.0]), "w": torch.tensor([0.0])}
    average = WeightedAverage(like=like, exclude=re.compile(r"\bbn\."))
    average.add(ModelUpdate("a", {"w": torch.tensor([2.0]), "bn.mean": torch.tensor([math.nan, 1.0])}, 1))
    average.add(ModelUpdate("b", {"w": torch.tensor([4.0])}, 1))
    assert {name: tensor.tolist() for name, tensor in average.result().items()} == {"bn.mean": [5.0], "w": [3.0]}


@pytest.mark.parametrize("samples", [1e-9, 0.5, 1e18])
def test_weights_may_be_fractions(samples: float) -> None:
    assert _average(_update("a", samples, 7.0), _update("b", samples, 9.0)).item() == pytest.approx(8.0)


@pytest.mark.parametrize("samples", [1.1e18, math.inf, math.nan, -0.5])
def test_a_weight_that_would_spoil_the_average_is_refused(samples: float) -> None:
    with pytest.raises(UpdateRefusedError, match="it stands for"):
        _average(_update("a", samples, 7.0))
