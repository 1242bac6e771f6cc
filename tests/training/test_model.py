"""The network: its shape, its seed, and copies that are copies."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from training.model import TutorialCNN, build_model, copy_state, explain_mismatch, get_state, load_state


def _equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_it_is_the_tutorials_network() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in TutorialCNN().named_parameters()}
    assert shapes == {
        "conv1.weight": (6, 3, 5, 5),
        "conv1.bias": (6,),
        "conv2.weight": (16, 6, 5, 5),
        "conv2.bias": (16,),
        "fc1.weight": (120, 400),
        "fc1.bias": (120,),
        "fc2.weight": (84, 120),
        "fc2.bias": (84,),
        "fc3.weight": (10, 84),
        "fc3.bias": (10,),
    }
    assert sum(tensor.numel() for tensor in TutorialCNN().parameters()) == 62_006


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_it_gives_a_logit_per_class(classes: int) -> None:
    assert TutorialCNN(classes)(torch.zeros(4, 3, 32, 32)).shape == (4, classes)


def test_first_weights_depend_on_the_seed_alone() -> None:
    first = get_state(build_model(seed=1))
    torch.rand(7)  # what others draw from the global generator changes nothing
    assert _equal(first, get_state(build_model(seed=1)))
    assert not _equal(first, get_state(build_model(seed=2)))


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    assert _equal(get_state(build_model(seed)), get_state(build_model(seed)))


def test_first_weights_are_spread_as_torch_spreads_them() -> None:
    ours, torchs = get_state(build_model(seed=1)), get_state(TutorialCNN())
    for name, tensor in ours.items():
        assert torch.isfinite(tensor).all()
        if tensor.numel() > 1000:
            assert tensor.std().item() == pytest.approx(torchs[name].std().item(), rel=0.1)
            assert tensor.abs().max().item() == pytest.approx(torchs[name].abs().max().item(), rel=0.05)


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_model(seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_building_in_many_threads_gives_what_building_in_one_gives() -> None:
    with ThreadPoolExecutor(8) as pool:
        states = [get_state(model) for model in pool.map(build_model, [1, 2] * 16)]
    for index, state in enumerate(states):
        assert _equal(state, get_state(build_model(seed=[1, 2][index % 2])))


def test_a_state_is_a_copy_and_loads_as_a_copy() -> None:
    model, other = build_model(seed=1), build_model(seed=2)
    state = get_state(model)
    load_state(other, state)
    with torch.no_grad():
        model.fc3.bias.add_(1.0)
        other.fc3.bias.sub_(1.0)
    assert _equal(state, get_state(build_model(seed=1)))
    assert not any(tensor.requires_grad for tensor in state.values())


def test_a_state_that_does_not_fit_is_refused_whole() -> None:
    model = build_model(seed=1, classes=10)
    with pytest.raises(ValueError, match=r"fc3\.weight is \(3, 84\), not \(10, 84\), fc3\.bias is"):
        load_state(model, get_state(build_model(seed=2, classes=3)))
    assert _equal(get_state(model), get_state(build_model(seed=1)))


def test_missing_and_unknown_names_are_named() -> None:
    state = get_state(build_model(seed=1))
    without = {name: tensor for name, tensor in state.items() if not name.startswith("fc3")}
    assert explain_mismatch(state, without) == "missing: fc3.bias, fc3.weight"
    assert explain_mismatch(without, state) == "unknown: fc3.bias, fc3.weight"
    assert explain_mismatch(state, copy_state(state)) == ""
