import math
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eventbus.errors import BadInputError
from writers._values import (
    MAX_DEPTH,
    MAX_VALUE_BYTES,
    NS_PER_SECOND,
    json_value,
    label,
    moment_ns,
    number,
    parameter,
    step_number,
    text,
)


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    BIG = "big"


class Shown(str):  # noqa: SLOT000 - as a user writes it
    def __str__(self) -> str:
        return f"<{self!r}>"


# ------------------------------------------------------------------------------------------------- numbers
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (True, 1.0),
        (False, 0.0),
        (-0.0, -0.0),
        (2**70, float(2**70)),
        (-(2**70), float(-(2**70))),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (float("1e999"), math.inf),
        (Decimal("0.25"), 0.25),
        (Fraction(1, 4), 0.25),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.int64(7), 7.0),
        (np.uint8(7), 7.0),
        (np.bool_(1), 1.0),
        (np.array(0.5), 0.5),
        (torch.tensor(0.5), 0.5),
        (torch.tensor(7), 7.0),
        (torch.tensor(True), 1.0),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (torch.nn.Parameter(torch.tensor(0.5)), 0.5),
    ],
    ids=repr,
)
def test_a_number_becomes_a_float(value: object, expected: float) -> None:
    result = number("loss", value)

    assert type(result) is float
    assert (result, math.copysign(1, result)) == (expected, math.copysign(1, expected))


@pytest.mark.parametrize("value", [math.nan, np.float32("nan"), torch.tensor(math.nan), Decimal("NaN")], ids=repr)
def test_nan_stays_nan(value: object) -> None:
    assert math.isnan(number("loss", value))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_number_on_a_device_becomes_a_float() -> None:
    assert number("loss", torch.tensor(0.5, device="cuda", requires_grad=True)) == 0.5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.5", "'loss' is of type str, not a number: texts have a call of their own"),
        (np.str_("0.5"), "'loss' is of type str, not a number"),
        (None, r"'loss' is of type NoneType, not a number: leave it out, or log float\('nan'\)"),
        (1 + 2j, "'loss' is of type complex, not a number: log its real and its imaginary part"),
        (np.complex64(1), "'loss' is of type complex, not a number"),
        (torch.tensor(1 + 2j), "'loss' is of type complex, not a number"),
        ([0.5], "'loss' is of type list, not a number: log its items under keys of their own"),
        ((0.5,), "'loss' is of type tuple, not a number"),
        ({"a": 0.5}, "'loss' is of type dict, not a number"),
        (b"0.5", "'loss' is of type bytes, not a number: pass a float or an int"),
        (datetime.now(UTC), "'loss' is of type datetime, not a number"),
        (np.datetime64("2024-01-01"), "'loss' is of type date, not a number"),
        (object(), "'loss' is of type object, not a number"),
        (float, "'loss' is of type type, not a number"),
        (np.zeros((2, 3)), r"'loss' is a ndarray of shape \(2, 3\): log one number"),
        (np.zeros(0), r"'loss' is a ndarray of shape \(0,\)"),
        (torch.zeros(4), r"'loss' is a Tensor of shape \(4,\): log one number, for example value.mean\(\).item\(\)"),
        (torch.tensor(0.5, device="meta"), "'loss' is a Tensor that gives no value: "),
        (10**400, "'loss' is too large for a float: log its logarithm"),
        (10**1_000_000, "'loss' is too large for a float"),
        (Fraction(10**400), "'loss' is too large for a float"),
        (Decimal("sNaN"), "'loss' is a Decimal that gives no float"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_number_is_refused_by_name(value: object, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        number("loss", value)


def test_no_message_shows_a_value() -> None:
    with pytest.raises(BadInputError) as refused:
        number("loss", "hunter2")

    assert "hunter2" not in str(refused.value)


# --------------------------------------------------------------------------------------------------- steps
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (None, None),
        (0, 0),
        (2**63 - 1, 2**63 - 1),
        (np.int64(7), 7),
        (np.uint8(7), 7),
        (np.array(7), 7),
        (torch.tensor(7), 7),
        (np.array([[7]]), 7),
    ],
    ids=repr,
)
def test_a_step_is_an_int_from_0(step: object, expected: int | None) -> None:
    result = step_number(step)

    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (-1, "'step' is -1: count from 0"),
        (2**63, "'step' is 9223372036854775808: count from 0 to"),
        (1.5, "'step' is 1.5, a float: pass an int, for example int"),
        (2.0, "'step' is 2.0, a float"),
        (True, "'step' is True, a bool"),
        (np.bool_(1), "'step' is True, a bool"),
        (torch.tensor(True), "'step' is True, a bool"),
        (torch.tensor(2.0), "'step' is 2.0, a float"),
        ("7", "'step' is '7', a str"),
        (np.array([7, 8]), r"'step' is a ndarray of shape \(2,\)"),
        (math.nan, "'step' is nan, a float"),
    ],
    ids=repr,
)
def test_what_is_no_step_is_refused_by_name(step: object, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        step_number(step)


# --------------------------------------------------------------------------------------------- time stamps
@pytest.mark.parametrize(
    ("moment", "unit", "expected"),
    [
        (None, 1, None),
        (0, 1, 0),
        (1_700_000_000_123, 1_000_000, 1_700_000_000_123_000_000),
        (1.5, NS_PER_SECOND, 1_500_000_000),
        (np.float64(1.5), NS_PER_SECOND, 1_500_000_000),
        (1_700_000_000.25, NS_PER_SECOND, 1_700_000_000_250_000_000),  # the product as a float is 128 ns off
    ],
)
def test_a_moment_is_given_in_the_callers_unit(moment: object, unit: int, expected: int | None) -> None:
    assert moment_ns("walltime", moment, unit) == expected


@pytest.mark.parametrize("moment", [-1, -0.5, math.nan, math.inf, 2**63, 1e300, "now", 1 << 62])
def test_what_is_no_moment_is_refused(moment: object) -> None:
    with pytest.raises(BadInputError, match="'walltime'"):
        moment_ns("walltime", moment, NS_PER_SECOND)


# -------------------------------------------------------------------------------- parameters, tags, texts
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("adam", "adam"),
        (True, True),
        (3, 3),
        (2**70, str(2**70)),
        (0.1, 0.1),
        (None, "None"),
        ([1, 2], "[1, 2]"),
        (Size.BIG, "big"),
        (np.str_("adam"), "adam"),
        (np.int64(3), 3),
        (np.bool_(1), True),
        (torch.tensor(3), 3),
    ],
    ids=repr,
)
def test_a_parameter_is_a_scalar_or_a_text(value: object, expected: object) -> None:
    result = parameter("lr", value)

    assert (result, type(result)) == (expected, type(expected))


@pytest.mark.parametrize(("value", "expected"), [("a", "a"), (3, "3"), (None, "None"), (True, "True")])
def test_a_tag_is_a_text(value: object, expected: str) -> None:
    assert label("tag", value) == expected


@pytest.mark.parametrize("take", [parameter, label, text])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x" * (MAX_VALUE_BYTES + 1), r"'key' takes \d+ bytes, at most 900000 fit: shorten it, or log it in parts"),
        ("\ud800", "'key' holds a lone surrogate"),
    ],
    ids=["large", "surrogate"],
)
def test_a_text_that_fits_no_record_is_refused(take: object, value: str, message: str) -> None:
    assert callable(take)
    with pytest.raises(BadInputError, match=message):
        take("key", value)


@pytest.mark.parametrize("value", [np.str_("big"), Size.BIG, Shown("big")], ids=["numpy", "enum", "own"])
def test_a_kind_of_text_is_a_plain_one(value: object) -> None:
    assert [type(made) for made in (text("key", value), label("key", value))] == [str, str]
    assert {text("key", value), label("key", value)} == {"big"}


@pytest.mark.parametrize("value", [None, 1, b"bytes", ["a"]])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(BadInputError, match=r"'key' is of type \w+, not a text: pass a str"):
        text("key", value)


# ------------------------------------------------------------------------------------------- configuration
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ((1, 2.5, "a"), [1, 2.5, "a"]),
        pytest.param({"b", "a"}, ["a", "b"], id="a set"),
        ({"a": {1: (True,)}}, {"a": {"1": [True]}}),
        (Colour.RED, "red"),
        (np.float64(0.5), 0.5),
        ({"layers": [np.int64(3)]}, {"layers": [3]}),
        (2**70, str(2**70)),
        (SimpleNamespace(a=1), "namespace(a=1)"),
    ],
    ids=repr,
)
def test_a_configuration_value_is_json(value: object, expected: object) -> None:
    assert json_value("config", value) == expected


def test_a_configuration_that_contains_itself_is_refused() -> None:
    endless: dict[str, object] = {}
    endless["again"] = endless

    with pytest.raises(BadInputError, match=rf"'config' is nested deeper than {MAX_DEPTH} levels"):
        json_value("config", endless)


def test_a_configuration_whose_keys_are_no_names_is_refused() -> None:
    with pytest.raises(BadInputError, match="'config' holds a key of type tuple: use a str"):
        json_value("config", {(1, 2): "a"})
