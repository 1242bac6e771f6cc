"""What users log, made into what travels: plain numbers, texts and JSON.

Values of numpy and torch are known by how they behave (`.shape`, `.item()`), so neither is ever imported. No
message shows a value: it may be a secret.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, NoReturn, cast

import msgspec
from pydantic import JsonValue

from eventbus.errors import BadInputError
from eventbus.tracking import Scalar
from writers._keys import shown

LIMIT = 2**63
"""Integers from here on don't fit into a record; steps and times end before it."""

MAX_VALUE_BYTES = 900_000
"""Of one text or one configuration value: with its key and address it still fits into a record."""

MAX_DEPTH = 20
"""Levels of a nested configuration; one that contains itself ends here too."""

NS_PER_SECOND = 1_000_000_000

_CONVERSION_ERRORS = (TypeError, ValueError, OverflowError, RuntimeError)  # the last is what torch raises
_NUMBER_ADVICE: Mapping[type, str] = {
    str: "texts have a call of their own; for a number, pass float(...)",
    type(None): "leave it out, or log float('nan')",
    complex: "log its real and its imaginary part",
    list: "log its items under keys of their own",
    tuple: "log its items under keys of their own",
    dict: "log its items under keys of their own",
}

_encode = msgspec.msgpack.Encoder().encode


def _refuse(key: object, fault: str, cause: Exception | None = None) -> NoReturn:
    msg = f"{shown(key)} {fault}"
    raise BadInputError(msg) from cause


def squeezed(value: Any) -> Any:
    """Return an array or tensor that holds one number as one of no dimensions; anything else as it is."""
    shape = getattr(value, "shape", None)
    return value.reshape(()) if shape and all(side == 1 for side in shape) else value


def numbers_in(values: Any) -> Any:
    """Return a mapping with what MLflow makes a number of put as one: arrays that hold one, and texts that say one."""
    if not isinstance(values, Mapping):
        return values  # refused by name where it is logged, as is a text that says no number
    given = cast("Mapping[Any, Any]", values)
    return {key: value if type(value) is float else _number_in(value) for key, value in given.items()}


def _number_in(value: Any) -> Any:
    if not isinstance(value, str):
        return squeezed(value)
    try:
        return float(value)
    except ValueError:
        return value


def _unwrapped(key: object, value: Any) -> Any:
    """Return the Python value in a numpy scalar, a 0-d array or a 0-d tensor; anything else as it is."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return value
    if shape != ():
        kind = f"a {type(value).__name__} of shape {tuple(shape)}"
        _refuse(key, f"is {kind}: log one number, for example value.mean().item()")
    try:
        return value.item() if hasattr(value, "item") else value
    except _CONVERSION_ERRORS as error:
        _refuse(key, f"is a {type(value).__name__} that gives no value: {error}", error)


def number(key: object, value: object) -> float:
    """Return a metric's value as a float; a bool counts as 0 or 1, NaN and infinities stay.

    Raises:
        BadInputError: It is not one number; the message says what it is and what to do.
    """
    if type(value) is float:
        return value
    plain = value if isinstance(value, int) else _unwrapped(key, value)
    kind: type[object] = plain.__class__
    if not hasattr(kind, "__float__"):
        advice = _NUMBER_ADVICE.get(kind, "pass a float or an int")
        _refuse(key, f"is of type {kind.__name__}, not a number: {advice}")
    try:
        return float(plain)
    except OverflowError as error:
        _refuse(key, "is too large for a float: log its logarithm, or float('inf')", error)
    except _CONVERSION_ERRORS as error:
        _refuse(key, f"is a {kind.__name__} that gives no float: {error}", error)


def step_number(step: object) -> int | None:
    """Return a step as an int from 0, or None for none.

    Raises:
        BadInputError: It is no such number. A float is refused even if it is whole: the next one may not be.
    """
    if step is None:
        return None
    plain = step if type(step) is int else _unwrapped("step", squeezed(step))
    if isinstance(plain, bool) or not isinstance(plain, int):
        _refuse("step", f"is {shown(plain)}, a {type(plain).__name__}: pass an int, for example int(step)")
    if not 0 <= plain < LIMIT:
        _refuse("step", f"is {shown(plain)}: count from 0 to 2**63 - 1")
    return int(plain)


def moment_ns(name: str, moment: object, unit_ns: int) -> int | None:
    """Return a caller's own time stamp in nanoseconds since the epoch, or None for none.

    Args:
        name: What the caller knows it as.
        moment: The stamp.
        unit_ns: Nanoseconds in its unit.

    Raises:
        BadInputError: It is not a time since the epoch.
    """
    if moment is None:
        return None
    if type(moment) is int:
        exact = moment * unit_ns
    else:
        units = number(name, moment)
        whole = int(units) if 0 <= units < LIMIT else -1  # NaN fails the comparison
        exact = whole * unit_ns + round((units - whole) * unit_ns) if whole >= 0 else -1
    if not 0 <= exact < LIMIT:
        _refuse(name, "is out of range: pass the time since 1970, as time.time() gives it")
    return exact


def parameter(key: object, value: object) -> Scalar:
    """Return a parameter's value: a str, bool, int or float; whatever else as its text, as MLflow has it.

    Raises:
        BadInputError: It is too large, or not to be encoded.
    """
    plain = _scalar(_unwrapped_if_single(key, value))
    scalar = str(value) if plain is None else plain
    packed_size(key, scalar)
    return scalar


def label(key: object, value: object) -> str:
    """Return a tag's value as text.

    Raises:
        BadInputError: It is too large, or not to be encoded.
    """
    return text(key, value if isinstance(value, str) else str(parameter(key, value)))


def text(key: object, value: object) -> str:
    """Return a text.

    Raises:
        BadInputError: It is not a str, too large, or not to be encoded.
    """
    if not isinstance(value, str):
        _refuse(key, f"is of type {type(value).__name__}, not a text: pass a str, for example str(value)")
    plain = str.__str__(value)  # of a kind of str that a record can't hold, too
    packed_size(key, plain)
    return plain


def json_value(key: object, value: object, depth: int = 0) -> JsonValue:
    """Return a configuration value as JSON has it: what JSON does not know becomes its text, as W&B has it.

    Raises:
        BadInputError: It is nested too deep, or a key in it is not a name.
    """
    if depth > MAX_DEPTH:
        _refuse(key, f"is nested deeper than {MAX_DEPTH} levels, or contains itself: flatten it")
    if value is None:
        return None
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return {_inner_name(key, inner): json_value(key, item, depth + 1) for inner, item in items.items()}
    if isinstance(value, list | tuple | set | frozenset):
        members = cast("Collection[object]", value)
        members = sorted(members, key=repr) if isinstance(value, set | frozenset) else members
        return [json_value(key, item, depth + 1) for item in members]
    if isinstance(value, Enum):
        return json_value(key, value.value, depth + 1)
    plain = _scalar(_unwrapped_if_single(key, value))
    return str(value) if plain is None else plain


def inner_key(key: object) -> str | None:
    """Return a key of a nested mapping as JSON has it, where numbers are names too; None for what is none there."""
    if isinstance(key, str):
        return str.__str__(key)
    plain = _unwrapped_if_single("key", key)
    return str(plain) if isinstance(plain, int | float) else None


def packed_size(key: object, value: object) -> int:
    """Return how many bytes a value takes in a record.

    Raises:
        BadInputError: It can't be encoded, or takes more than a record has room for.
    """
    try:
        size = len(_encode(value))
    except UnicodeEncodeError as error:
        _refuse(key, "holds a lone surrogate: pass text.encode('utf-8', 'replace').decode()", error)
    if size > MAX_VALUE_BYTES:
        _refuse(key, f"takes {size} bytes, at most {MAX_VALUE_BYTES} fit: shorten it, or log it in parts")
    return size


def _unwrapped_if_single(key: object, value: object) -> object:
    return _unwrapped(key, value) if getattr(value, "shape", None) == () else value


def _scalar(value: object) -> Scalar | None:
    """Return a str, bool, int or float as exactly that type; None for any other."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -LIMIT <= value < LIMIT else None
    return float(value) if isinstance(value, float) else None


def _inner_name(key: object, inner: object) -> str:
    name = inner_key(inner)
    if name is None:
        _refuse(key, f"holds a key of type {type(inner).__name__}: use a str")
    return name
