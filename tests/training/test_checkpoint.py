"""The best model on disk: which one is kept, and what a damaged file says."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from eventbus.errors import ConfigurationError
from training.checkpoint import (
    NAMES,
    BestModel,
    BestRecord,
    CheckpointError,
    decode_state,
    encode_state,
    load_state_file,
    read_record,
)
from training.model import State, build_model, get_state, load_state


def _state(value: float) -> State:
    return {"w": torch.full((3,), value)}


def _offer(best: BestModel, *values: float) -> list[bool]:
    """Offer a model per value, in rounds 1, 2, ...; each model holds its own value."""
    return [
        best.offer(_state(value), round_number=number, metrics={"accuracy": value})
        for number, value in enumerate(values, start=1)
    ]


def test_the_best_is_kept_not_the_last(tmp_path: Path) -> None:
    best = BestModel(tmp_path / "models")
    assert best.best is None
    assert _offer(best, 0.5, 0.9, 0.7) == [True, True, False]
    assert best.best == BestRecord(round=2, metric="accuracy", mode="max", value=0.9)
    assert load_state_file(best.path)["w"].tolist() == pytest.approx([0.9, 0.9, 0.9])
    assert read_record(best.path) == best.best


def test_less_can_be_better(tmp_path: Path) -> None:
    best = BestModel(tmp_path, metric="loss", mode="min")
    kept = [best.offer(_state(v), round_number=i, metrics={"loss": v}) for i, v in enumerate([2.0, 0.5, 1.0])]
    assert kept == [True, True, False]
    assert read_record(best.path) == BestRecord(1, "loss", "min", 0.5)


def test_of_equals_the_earlier_stays(tmp_path: Path) -> None:
    best = BestModel(tmp_path)
    assert _offer(best, 0.5, 0.5) == [True, False]
    assert best.best is not None
    assert best.best.round == 1


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_diverged_model_is_never_the_best(tmp_path: Path, mode: str, value: float) -> None:
    best = BestModel(tmp_path, mode="max" if mode == "max" else "min")
    assert _offer(best, value, 0.5, value) == [False, True, False]


def test_a_resumed_run_goes_on_from_the_best_it_finds(tmp_path: Path) -> None:
    _offer(BestModel(tmp_path), 0.1, 1 / 3)
    resumed = BestModel(tmp_path)
    assert resumed.best == BestRecord(2, "accuracy", "max", 1 / 3)
    assert _offer(resumed, 0.2, 0.4) == [False, True]


@pytest.mark.parametrize(("metric", "mode"), [("f1", "max"), ("accuracy", "min")])
def test_another_measures_best_is_not_overwritten(tmp_path: Path, metric: str, mode: str) -> None:
    _offer(BestModel(tmp_path), 0.5)
    with pytest.raises(CheckpointError, match=r"is the best by accuracy \(max\), not by"):
        BestModel(tmp_path, metric=metric, mode="max" if mode == "max" else "min")


def test_a_missing_metric_lists_those_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no metric 'accuracy' .* given: auc, loss"):
        BestModel(tmp_path).offer(_state(1), round_number=1, metrics={"loss": 1.0, "auc": 0.5})


def test_a_whole_model_comes_back_bit_by_bit(tmp_path: Path) -> None:
    state = get_state(build_model(seed=1))
    best = BestModel(tmp_path)
    best.offer(state, round_number=1, metrics={"accuracy": 0.5})
    read = load_state_file(best.path)
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    load_state(build_model(seed=2), read)
    read["fc3.bias"].add_(1.0)  # it may be written into, and the file doesn't follow
    assert torch.equal(load_state_file(best.path)["fc3.bias"], state["fc3.bias"])


def test_the_order_of_the_tensors_is_kept() -> None:
    state = {f"layer{number}": torch.zeros(number % 3) for number in (3, 1, 12, 0, 2, 7, 5, 4)}
    assert list(decode_state(encode_state(state))) == list(state)


def test_a_file_of_somebody_elses_has_the_order_in_which_it_lies_there() -> None:
    data = save({f"layer{number}": torch.zeros(2) for number in range(8)}, {"names": "not ours"})
    assert list(decode_state(data)) == [f"layer{number}" for number in range(8)]


@pytest.mark.parametrize("names", ["null", "5", '[["a"]]', '["a","a"]', '["other"]', "[" * 100_000, "{"])
def test_names_that_are_not_those_of_the_tensors_are_refused(names: str) -> None:
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        decode_state(encode_state({"a": torch.zeros(2)}, {NAMES: names}))


def test_tied_and_strided_tensors_are_written_as_plain_ones() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    read = decode_state(encode_state({"a": weight, "tied": weight, "turned": weight.T, "scalar": torch.tensor(7)}))
    assert torch.equal(read["tied"], weight)
    assert torch.equal(read["turned"], weight.T)
    assert (read["scalar"].item(), read["scalar"].shape) == (7, ())


def test_nothing_but_the_model_is_left_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".best.safetensors.tmp").write_bytes(b"half a model, from a crash")
    _offer(BestModel(tmp_path), 0.1, 0.2, 0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_a_failed_write_leaves_the_best_so_far(tmp_path: Path) -> None:
    best = BestModel(tmp_path)
    _offer(best, 0.5)
    (tmp_path / ".best.safetensors.tmp").mkdir()  # the place to write to can't be opened
    with pytest.raises(OSError, match=r"best\.safetensors\.tmp"):
        best.offer(_state(0.9), round_number=2, metrics={"accuracy": 0.9})
    assert best.best == read_record(best.path) == BestRecord(1, "accuracy", "max", 0.5)
    assert load_state_file(best.path)["w"].tolist() == [0.5, 0.5, 0.5]


def _cut_the_end(data: bytes) -> bytes:
    return data[:-4]


def _cut_the_header(data: bytes) -> bytes:
    return data[:20]


def _empty(_: bytes) -> bytes:
    return b""


def _pickle(_: bytes) -> bytes:
    return b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin\x94."


def _huge_header(data: bytes) -> bytes:
    return struct.pack("<Q", 2**62) + data[8:]


def _unknown_type(data: bytes) -> bytes:
    return data.replace(b'"F32"', b'"X32"')


@pytest.mark.parametrize("damage", [_cut_the_end, _cut_the_header, _empty, _pickle, _huge_header, _unknown_type])
def test_a_damaged_file_is_a_clear_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    best = BestModel(tmp_path)
    _offer(best, 0.5)
    best.path.write_bytes(damage(best.path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"cannot read the model .*best\.safetensors: .* not a whole"):
        load_state_file(best.path)
    with pytest.raises(CheckpointError, match=r"cannot read which model .*best\.safetensors holds"):
        BestModel(tmp_path)


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the model .*nowhere"):
        load_state_file(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"round": "one", "metric": "a", "mode": "max", "value": "1"},
        {"round": "1", "metric": "a", "mode": "avg"},
    ],
)
def test_a_foreign_safetensors_file_is_a_clear_error(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / BestModel.FILE_NAME
    path.write_bytes(encode_state(_state(1), metadata))
    with pytest.raises(CheckpointError, match="cannot read which model"):
        BestModel(tmp_path)


def test_the_record_is_readable_by_others(tmp_path: Path) -> None:
    best = BestModel(tmp_path)
    _offer(best, 0.25)
    data = best.path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata.pop("trackbus_names")) == ["w"]
    assert metadata == {"round": "1", "metric": "accuracy", "mode": "max", "value": "0.25"}
