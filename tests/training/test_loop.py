"""A site's round on real data, and rounds of several sites."""

import math
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

from training import loop
from training.average import ModelUpdate, WeightedAverage
from training.data import Dataset, DataSpec, Samples
from training.loop import EpochResult, StepResult, evaluate, round_generator, train_epoch, warm_up
from training.model import State, build_model, get_state, load_state


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shares() -> list[Dataset]:
    return [DataSpec(site, sites=2).load() for site in range(2)]


def _train_site(state: State, data: Samples, site: str, round_number: int) -> ModelUpdate:
    model = build_model(seed=0)
    load_state(model, state)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    generator = round_generator(0, site, round_number)
    result = train_epoch(model, data, optimizer, batch_size=16, generator=generator)
    return ModelUpdate(site, get_state(model), result.samples, {"loss": result.loss})


def test_two_sites_learn_the_digits_in_three_rounds(shares: list[Dataset]) -> None:
    model = build_model(seed=0)
    losses: list[float] = []
    for round_number in range(3):
        state = get_state(model)
        average = WeightedAverage(like=state)
        for index, share in enumerate(shares):
            average.add(_train_site(state, share.train, f"site-{index}", round_number))
        load_state(model, average.result())
        losses.append(average.metrics()["loss"])
    assert losses == sorted(losses, reverse=True)
    assert evaluate(model, shares[0].test).accuracy > 0.8


def test_sites_in_threads_train_exactly_as_one_after_another(shares: list[Dataset]) -> None:
    state = get_state(build_model(seed=0))
    work = [(state, share.train.take(torch.arange(160)), f"site-{i}", 0) for i, share in enumerate(shares)]
    alone = [_train_site(*arguments) for arguments in work]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(_train_site, *zip(*work, strict=True)))
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one.state[name], other.state[name]) for name in state)


def test_training_leaves_the_global_generator_alone(shares: list[Dataset]) -> None:
    before = torch.get_rng_state()
    _train_site(get_state(build_model(seed=0)), shares[0].train.take(torch.arange(32)), "a", 0)
    assert torch.equal(torch.get_rng_state(), before)


def _epoch(data: Samples, stop_after: int = -1) -> tuple[EpochResult, list[StepResult]]:
    steps: list[StepResult] = []
    model = build_model(seed=0)
    result = train_epoch(
        model,
        data,
        SGD(model.parameters(), lr=0.01),
        batch_size=32,
        generator=round_generator(0, "a", 0),
        on_step=steps.append,
        should_stop=lambda: len(steps) == stop_after,
    )
    return result, steps


def test_every_step_is_told_and_the_epoch_is_their_mean(shares: list[Dataset]) -> None:
    data = shares[0].train.take(torch.arange(100))
    result, steps = _epoch(data)
    assert [step.step for step in steps] == [0, 1, 2, 3]
    assert [step.samples for step in steps] == [32, 32, 32, 4]
    assert result.loss == pytest.approx(sum(step.loss * step.samples for step in steps) / 100)
    assert result.accuracy == pytest.approx(sum(step.accuracy * step.samples for step in steps) / 100)
    assert (result.samples, result.steps, result.stopped) == (100, 4, False)


def test_an_epoch_stops_between_two_steps(shares: list[Dataset]) -> None:
    result, steps = _epoch(shares[0].train, stop_after=2)
    assert (len(steps), result.steps, result.samples, result.stopped) == (2, 2, 64, True)


def test_an_epoch_stopped_at_once_has_no_mean(shares: list[Dataset]) -> None:
    result, steps = _epoch(shares[0].train, stop_after=0)
    assert (steps, result.samples, result.stopped) == ([], 0, True)
    assert math.isnan(result.loss)
    assert math.isnan(result.accuracy)


def test_what_on_step_raises_ends_the_epoch(shares: list[Dataset]) -> None:
    def fail(step: StepResult) -> None:
        raise RuntimeError(step.step)

    model = build_model(seed=0)
    with pytest.raises(RuntimeError, match="0"):
        train_epoch(
            model,
            shares[0].train,
            SGD(model.parameters(), lr=0.01),
            batch_size=32,
            generator=round_generator(0, "a", 0),
            on_step=fail,
        )


def test_evaluating_is_the_same_in_any_batches_and_changes_nothing(shares: list[Dataset]) -> None:
    model = build_model(seed=0)
    before = get_state(model)
    whole = evaluate(model, shares[0].test, batch_size=297)
    parts = evaluate(model, shares[0].test, batch_size=10)
    assert (whole.accuracy, whole.samples) == (pytest.approx(parts.accuracy), 297)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    assert whole.loss == pytest.approx(math.log(10), abs=0.2)  # an untrained network guesses
    assert all(torch.equal(before[name], tensor) for name, tensor in get_state(model).items())
    assert model.training


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_restores_the_models_mode(training: bool, shares: list[Dataset]) -> None:
    model = build_model(seed=0).train(training)
    evaluate(model, shares[0].test)
    assert model.training is training


@pytest.mark.parametrize(("samples", "size", "words"), [(0, 4, "no samples"), (4, 0, "not 0")])
def test_no_samples_and_no_batch_are_refused(samples: int, size: int, words: str) -> None:
    model = build_model(seed=0)
    data = Samples(torch.zeros(samples, 3, 32, 32), torch.zeros(samples, dtype=torch.int64))
    with pytest.raises(ValueError, match=words):
        evaluate(model, data, batch_size=size)
    with pytest.raises(ValueError, match=words):
        train_epoch(model, data, SGD(model.parameters()), batch_size=size, generator=round_generator(0, "a", 0))


def test_every_site_and_round_shuffles_otherwise() -> None:
    keys = [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0)]
    orders = {tuple(torch.randperm(50, generator=round_generator(*key)).tolist()) for key in keys}
    assert len(orders) == len(keys)
    again = torch.randperm(50, generator=round_generator(0, "a", 0))
    assert tuple(again.tolist()) in orders


def test_warming_up_imports_what_the_first_step_needs() -> None:
    code = """
import sys
import torch
from training.loop import warm_up
warm_up()
loaded = set(sys.modules)
assert "torch._dynamo" in loaded
warm_up()
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).step()
late = set(sys.modules) - loaded
assert not any(name.startswith("torch._dynamo") for name in late), late
"""
    root = Path(loop.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, timeout=100, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_warming_up_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    warm_up()
    assert torch.equal(torch.get_rng_state(), before)
