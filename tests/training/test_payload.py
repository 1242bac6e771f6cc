"""A model survives the wire: params of every kind, metrics, meta, and clear words for what can't travel."""

import json
import subprocess
import sys
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch

from eventbus.errors import BadInputError, DecodeError
from training._payload import model_from, payload_of
from training._wire import ModelHead, Result, pack, unpack
from training.fl_model import FLModel, ParamsType

TASK_PREFIX_BYTES = 12


def crossed(model: FLModel, params_format: Any = "pytorch") -> FLModel:
    """Send a model through the bytes of a frame."""
    head, payload = payload_of(model)
    frame = pack(Result(task=1, model=head), len(payload))
    message = unpack(frame[TASK_PREFIX_BYTES:])
    assert isinstance(message, Result)
    return model_from(message.model, payload, params_format)


def test_an_empty_model_has_no_payload() -> None:
    head, payload = payload_of(FLModel())

    assert (head.has_params, payload) == (False, b"")
    assert crossed(FLModel()).params is None


def test_all_fields_cross() -> None:
    model = FLModel(
        params_type=ParamsType.DIFF,
        params={"w": torch.ones(2, 3)},
        optimizer_params={"w": torch.zeros(2)},
        metrics={"accuracy": 0.5},
        start_round=1,
        current_round=2,
        total_rounds=7,
        meta={"NUM_STEPS_CURRENT_ROUND": 12},
    )

    found = crossed(model)

    assert found.params_type is ParamsType.DIFF
    assert (found.start_round, found.current_round, found.total_rounds) == (1, 2, 7)
    assert (found.metrics, found.meta) == ({"accuracy": 0.5}, {"NUM_STEPS_CURRENT_ROUND": 12})
    assert found.params is not None
    assert found.optimizer_params is not None
    assert torch.equal(found.params["w"], torch.ones(2, 3))
    assert torch.equal(found.optimizer_params["w"], torch.zeros(2))


def test_params_set_on_a_model_made_empty_are_whole_weights() -> None:
    model = FLModel()
    model.params = {"w": torch.ones(1)}

    assert crossed(model).params_type is ParamsType.FULL


def test_no_entries_are_not_the_same_as_no_params() -> None:
    assert crossed(FLModel(params={})).params == {}


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.uint8,
        torch.bool,
        torch.complex64,
    ],
)
def test_tensors_of_any_dtype_cross(dtype: torch.dtype) -> None:
    sent = torch.arange(6).reshape(2, 3).to(dtype)

    found = crossed(FLModel(params={"w": sent})).params

    assert found is not None
    assert found["w"].dtype is dtype
    assert torch.equal(found["w"], sent)


def test_tied_strided_scalar_empty_and_trained_tensors_cross() -> None:
    tied = torch.arange(12.0).reshape(3, 4)
    sent = {
        "tied": tied,
        "tied too": tied,
        "row": tied[1],
        "turned": tied.t(),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "trained": torch.nn.Parameter(torch.ones(2)),
    }

    found = crossed(FLModel(params=dict(sent))).params

    assert found is not None
    assert all(torch.equal(found[name], value) for name, value in sent.items())
    assert found["trained"].requires_grad is False


def test_the_order_of_entries_is_kept() -> None:
    names = ["z", "a", "m.weight", "m.bias"]
    params = {name: torch.ones(1, dtype=torch.int64 if name == "a" else torch.float32) for name in names}

    assert list(crossed(FLModel(params=params)).params or ()) == names


def test_what_comes_can_be_written_into() -> None:
    sent = FLModel(params={"w": np.zeros(3, np.float32)})
    arrays, tensors = crossed(sent, "numpy").params, crossed(sent).params

    assert arrays is not None
    assert tensors is not None
    arrays["w"] += 1
    tensors["w"].add_(1)
    assert arrays["w"].tolist() == tensors["w"].tolist() == [1, 1, 1]


def test_numpy_and_plain_numbers_cross_as_arrays() -> None:
    turned = np.arange(6, dtype=np.int32).reshape(2, 3).T
    sent = {
        "turned": turned,
        "big": np.array([1.5], ">f4"),
        "scalar": np.float32(0.5),
        "bias": 0.25,
        "on": True,
        "n": 3,
    }

    found = crossed(FLModel(params=dict(sent)), "numpy").params

    assert found is not None
    assert found["turned"].dtype == np.int32
    assert np.array_equal(found["turned"], turned)
    assert found["big"].tolist() == [1.5]
    assert {name: found[name].shape for name in ("scalar", "bias", "on", "n")} == dict.fromkeys(
        ("scalar", "bias", "on", "n"), ()
    )
    assert (found["bias"].dtype, float(found["bias"]), bool(found["on"]), int(found["n"])) == (
        np.float64,
        0.25,
        True,
        3,
    )


def test_raw_is_what_was_sent() -> None:
    arrays, tensors = FLModel(params={"w": np.ones(2)}), FLModel(params={"w": torch.ones(2), "b": 1.0})

    assert isinstance((crossed(arrays, "raw").params or {})["w"], np.ndarray)
    assert isinstance((crossed(tensors, "raw").params or {})["b"], torch.Tensor)


def test_numpy_gets_bfloat16_as_float32() -> None:
    sent = torch.tensor([1.5, -2.0, 0.1], dtype=torch.bfloat16)

    found = (crossed(FLModel(params={"w": sent}), "numpy").params or {})["w"]

    assert found.dtype == np.float32
    assert found.tolist() == sent.float().tolist()


def test_numpy_has_no_float8_and_says_so() -> None:
    head, payload = payload_of(FLModel(params={"w": torch.ones(2).to(torch.float8_e4m3fn)}))

    with pytest.raises(DecodeError, match="numpy has no F8"):
        model_from(head, payload, "numpy")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "NoneType"),
        (b"a booster's bytes", "bytes"),
        ([1.0, 2.0], "list"),
        ({"nested": 1}, "dict"),
        (np.array(["text"]), "str"),
        (np.array([object()]), "object"),
        (2**70, "int"),
        (torch.ones(3, 3).to_sparse(), "to_dense"),
        (torch.empty(3, device="meta"), "meta tensor"),
        (torch.ones(2, dtype=torch.complex128), "complex128"),
    ],
)
@pytest.mark.parametrize("other", [{}, {"fine": torch.ones(1)}])
def test_what_cannot_travel_is_named(value: object, reason: str, other: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match=reason) as caught:
        payload_of(FLModel(params={**other, "conv1": value}))

    assert "params['conv1']" in str(caught.value)
    assert "numpy arrays" in str(caught.value)


def test_optimizer_params_are_named_as_such() -> None:
    with pytest.raises(BadInputError, match=r"optimizer_params\['state'\]"):
        payload_of(FLModel(optimizer_params={"state": {}}))


def test_names_are_text() -> None:
    with pytest.raises(BadInputError, match="params has the key 0"):
        payload_of(FLModel(params={0: np.ones(1)}))  # type: ignore[dict-item] - the mistake under test


class Kind(str, Enum):  # noqa: UP042 - the kind of enum that older scripts have
    BEST = "best"


def test_metrics_and_meta_become_plain() -> None:
    metrics = {
        "accuracy": np.float32(0.5),
        "loss": torch.tensor(0.25, requires_grad=True),
        "f64": np.float64(0.125),
        "per_class": {0: {"recall": np.array(1.0), "support": np.int64(3)}, np.int64(1): {"recall": 0.5, "support": 4}},
        "confusion": np.arange(4).reshape(2, 2),
        "done": np.bool_(True),
    }
    found = crossed(FLModel(metrics=metrics, meta={"kind": Kind.BEST, "shape": (1, 2), "none": None}))

    assert found.metrics == {
        "accuracy": 0.5,
        "loss": 0.25,
        "f64": 0.125,
        "per_class": {"0": {"recall": 1.0, "support": 3}, "1": {"recall": 0.5, "support": 4}},
        "confusion": [[0, 1], [2, 3]],
        "done": True,
    }
    assert found.meta == {"kind": "best", "shape": [1, 2], "none": None}
    assert json.loads(json.dumps(found.metrics)) == found.metrics


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"auc": object()}, r"metrics\['auc'\] is a object"),
        ({"auc": {"a": [1, {2}]}}, r"metrics\['auc'\]\['a'\]\[1\] is a set"),
        ({"n": 2**80}, r"metrics\['n'\] is 1208925819614629174706176"),
        ({1.5: 1}, r"metrics has the key 1.5, a float"),
    ],
)
def test_metrics_that_cannot_travel_are_named(metrics: dict[Any, Any], named: str) -> None:
    with pytest.raises(BadInputError, match=named):
        payload_of(FLModel(metrics=metrics))


def nested(levels: int, key: str | None = "a") -> dict[str, Any]:
    """So many dicts within each other, or lists within a dict."""
    value: Any = 1
    for _ in range(levels - 1):
        value = [value] if key is None else {key: value}
    return {"outer": value}


@pytest.mark.parametrize("key", ["a", None])
@pytest.mark.parametrize("part", ["metrics", "meta"])
def test_deep_metrics_and_meta_are_refused_at_both_ends(part: str, key: str | None) -> None:
    deepest, too_deep, far_too_deep = (nested(levels, key) for levels in (32, 33, 300))
    itself: dict[str, Any] = {}
    itself["outer"] = itself

    def model(values: dict[str, Any]) -> FLModel:
        return FLModel(metrics=values) if part == "metrics" else FLModel(meta=values)

    assert getattr(crossed(model(deepest)), part) == deepest
    for values in (too_deep, far_too_deep, itself):
        with pytest.raises(BadInputError, match=rf"^{part}\['outer'\] is nested deeper than 32 levels"):
            payload_of(model(values))
    with pytest.raises(DecodeError, match="nested deeper than 32 levels"):
        model_from(ModelHead(metrics=model(far_too_deep).metrics, meta=model(far_too_deep).meta), b"", "numpy")


def test_what_is_no_metric_for_the_sender_is_none_for_the_reader() -> None:
    with pytest.raises(DecodeError, match=r"metrics\['auc'\] is a bytes"):
        model_from(ModelHead(metrics={"auc": b"x"}), b"", "numpy")


@pytest.mark.parametrize(
    ("value", "reason"), [("x" * 5_000_000, "bytes; 4194304 may travel"), ("\ud800", "surrogates")]
)
def test_a_header_that_cannot_travel_is_refused(value: str, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        crossed(FLModel(metrics={"notes": value}))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\x82\xa4type\xa5leave\xa5error\xa2\xff\xfe", id="no UTF-8"),
        pytest.param(b"\x82\xa4type\xa5leave\xa5other" + b"\x91" * 100_000, id="deep"),
        pytest.param(b"\x81\xa4type\xa5other", id="no message"),
    ],
)
def test_a_header_that_is_none_is_refused(header: bytes) -> None:
    with pytest.raises(DecodeError, match="not a message"):
        unpack(header)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", id="deep"),
        pytest.param(json.dumps({"__metadata__": {"format": "np", "names": "[" * 100_000}}).encode(), id="deep names"),
        pytest.param(b'{"\xff":1}', id="no UTF-8"),
    ],
)
@pytest.mark.parametrize("params_format", ["pytorch", "numpy", "raw"])
def test_a_head_of_tensors_that_is_none_is_refused(head: bytes, params_format: Any) -> None:
    with pytest.raises(DecodeError):
        model_from(ModelHead(has_params=True), len(head).to_bytes(8, "little") + head, params_format)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"xx", lambda data: b"\xff" * 30])
@pytest.mark.parametrize("params_format", ["pytorch", "numpy", "raw"])
def test_a_damaged_payload_is_refused(damage: Any, params_format: Any) -> None:
    head, payload = payload_of(FLModel(params={"w": np.ones(3)}))

    with pytest.raises(DecodeError):
        model_from(head, damage(payload), params_format)


def test_a_head_that_is_none_is_refused() -> None:
    with pytest.raises(DecodeError, match="not a model"):
        model_from(ModelHead(current_round=-1), b"", "numpy")


def test_a_file_of_another_writer_is_read() -> None:
    from safetensors.numpy import save

    found = model_from(ModelHead(has_params=True), save({"p:w": np.ones(2)}), "raw")

    assert isinstance((found.params or {})["w"], torch.Tensor)


def test_numpy_needs_no_torch() -> None:
    program = """
import sys, numpy
from training._payload import model_from, payload_of
from training.fl_model import FLModel
head, payload = payload_of(FLModel(params={"w": numpy.ones(3)}, metrics={"a": numpy.float32(1)}))
print(model_from(head, payload, "numpy").params, model_from(head, payload, "raw").params, "torch" in sys.modules)
"""
    child = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert child.stdout.strip() == "{'w': array([1., 1., 1.])} {'w': array([1., 1., 1.])} False"
