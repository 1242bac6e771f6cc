"""Bytes: whatever an event may hold comes back; whatever comes from elsewhere is a record or a `DecodeError`."""

from __future__ import annotations

import datetime as dt
import math
import os
import pickle
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, Field, JsonValue, field_validator

from eventbus import Envelope, Event, Origin, Part, Scope
from eventbus._codec import MAX_RECORD_BYTES, decode, encode, read_frame
from eventbus.errors import BadInputError, DecodeError
from eventbus.tracking import MetricsLogged

ORIGIN = Origin(site="site-1", rank=0, incarnation="a1", job="job")


class Leaf(Part):
    name: str
    numbers: list[float] = Field(default_factory=list)


class Branch(Part):
    leaf: Leaf | None = None
    branches: list[Branch] = Field(default_factory=list)


Branch.model_rebuild()


class Everything(Event, name="tests.Everything", topic="everything", version=2):
    text: str
    data: bytes
    flag: bool
    integer: int
    number: float
    moment: AwareDatetime
    kind: Literal["a", "b"]
    numbers: dict[str, float]
    lists: list[list[int]]
    mixed: str | bool | int | float | None
    nested: JsonValue
    tree: Branch


texts = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=True, allow_infinity=True)
values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
leaves = st.builds(Leaf, name=texts, numbers=st.lists(floats, max_size=4))
branches = st.recursive(
    st.builds(Branch, leaf=st.none() | leaves),
    lambda inner: st.builds(Branch, leaf=st.none() | leaves, branches=st.lists(inner, max_size=3)),
    max_leaves=6,
)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
moments = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29), timezones=zones)  # noqa: DTZ001 - zones follow
events = st.builds(
    Everything,
    text=texts,
    data=st.binary(),
    flag=st.booleans(),
    integer=integers,
    number=floats,
    moment=moments,
    kind=st.sampled_from(["a", "b"]),
    numbers=st.dictionaries(texts, floats),
    lists=st.lists(st.lists(integers, max_size=3), max_size=3),
    mixed=texts | st.booleans() | integers | floats | st.none(),
    nested=values,
    tree=branches,
)


def exactly(value: object) -> object:
    """Make a value comparable to the bit: NaN equals NaN, -0.0 is not 0.0, True is not 1, 1.0 is not 1."""
    if isinstance(value, float):
        return "float", "nan" if math.isnan(value) else (value, math.copysign(1, value))
    if isinstance(value, dict):
        return {key: exactly(one) for key, one in value.items()}
    if isinstance(value, list):
        return [exactly(one) for one in value]
    return type(value).__name__, value


@given(
    event=events,
    topic=texts,
    scope=st.sampled_from(Scope),
    run=texts,
    time_ns=st.integers(0, 2**63 - 1),
    seq=st.integers(1, 2**63 - 1),
)
@settings(max_examples=150, deadline=None)
def test_what_is_encoded_is_decoded(
    event: Everything, topic: str, scope: Scope, run: str, *, time_ns: int, seq: int
) -> None:
    found = decode(encode(event, topic, scope, run, time_ns), ORIGIN, seq)

    assert isinstance(found.event, Everything)
    assert exactly(found.event.model_dump()) == exactly(event.model_dump())
    rest = (found.topic, found.scope, found.run, found.time_ns, found.origin, found.seq)
    assert rest == (topic, scope, run, time_ns, ORIGIN, seq)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308])
def test_every_float_comes_back(number: float) -> None:
    found = decode(encode(MetricsLogged(values={"x": number}), "t", Scope.LOCAL, "", 1), ORIGIN, 1).event

    assert isinstance(found, MetricsLogged)
    assert exactly(found.values) == exactly({"x": number})


def test_a_moment_keeps_its_microseconds_and_names_them_in_utc() -> None:
    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))

    class Timed(Event):
        at: AwareDatetime

    event = Timed(at=dt.datetime(2024, 2, 29, 23, 59, 59, 999_999, zone))

    found = decode(encode(event, "t", Scope.LOCAL, "", 1), ORIGIN, 1).event

    assert isinstance(found, Timed)
    assert found.at == event.at
    assert found.at.tzinfo == dt.UTC


# ------------------------------------------------------------------------------------------------------- bad input
class Anything(Event, name="tests.Anything"):
    value: JsonValue


@pytest.mark.parametrize("value", [2**64, 2**70, -(2**63) - 1, {"deep": [2**70]}])
def test_an_integer_over_64_bits_is_refused(value: JsonValue) -> None:
    with pytest.raises(BadInputError, match=r"^tests\.Anything can't be recorded"):
        encode(Anything(value=value), "t", Scope.LOCAL, "", 1)


def test_a_record_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    overhead = len(encode(Anything(value="x" * 100_000), "t", Scope.LOCAL, "", 1)) - 100_000
    fits = encode(Anything(value="x" * (MAX_RECORD_BYTES - overhead)), "t", Scope.LOCAL, "", 1)

    assert len(fits) == MAX_RECORD_BYTES
    assert decode(fits, ORIGIN, 1).event == Anything(value="x" * (MAX_RECORD_BYTES - overhead))
    with pytest.raises(BadInputError, match="log it in parts"):
        encode(Anything(value="x" * (MAX_RECORD_BYTES - overhead + 1)), "t", Scope.LOCAL, "", 1)


@pytest.mark.parametrize(
    "address", [("\ud800", "", 1), ("t", "\ud800", 1), ("t", None, 1), ("t", "", 1.5), ("t", "", 2**70)]
)
def test_an_address_that_would_not_be_decoded_is_refused(address: tuple[Any, Any, Any]) -> None:
    topic, run, time_ns = address
    with pytest.raises(BadInputError):
        encode(Anything(value=1), topic, Scope.LOCAL, run, time_ns)


# ---------------------------------------------------------------------------------------------------- hostile bytes
def frame(fields: object, *, version: object = 1, name: object = "tests.Anything", scope: object = 0) -> bytes:
    return msgspec.msgpack.encode([version, name, "t", scope, "", 1, fields])


def decode_or_refuse(body: bytes) -> Envelope[Event] | None:
    try:
        return decode(body, ORIGIN, 1)
    except DecodeError:
        return None


@given(st.binary(max_size=300))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_a_record_or_a_decode_error(body: bytes) -> None:
    decode_or_refuse(body)


@given(values, st.integers(-3, 3), st.sampled_from(["tests.Anything", "tests.Everything", "MetricsLogged", "x"]))
@settings(max_examples=200, deadline=None)
def test_any_fields_are_a_record_or_a_decode_error(fields: object, version: int, name: str) -> None:
    decode_or_refuse(frame(fields, version=version, name=name))


@given(events, st.data())
@settings(max_examples=200, deadline=None)
def test_any_damage_is_a_record_or_a_decode_error(event: Everything, data: st.DataObject) -> None:
    body = bytearray(encode(event, "t", Scope.LOCAL, "run", 1))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(body))
    decode_or_refuse(bytes(body[: data.draw(st.integers(0, len(body)))]))


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    bodies = [trap, frame(msgspec.msgpack.Ext(1, trap)), frame({"value": msgspec.msgpack.Ext(1, trap)}), frame(trap)]
    for body in bodies:
        with pytest.raises(DecodeError):
            decode(body, ORIGIN, 1)
    assert decode_or_refuse(frame({"value": trap})) is None  # bytes are no JSON value
    assert not (tmp_path / "sprung").exists()


HOSTILE = {
    "nothing": b"",
    "no array": msgspec.msgpack.encode({"a": 1}),
    "too few": msgspec.msgpack.encode([1, "tests.Anything", "t", 0, "", 1]),
    "too many": msgspec.msgpack.encode([1, "tests.Anything", "t", 0, "", 1, {"value": 1}, 2]),
    "trailing bytes": frame({"value": 1}) + b"\x00",
    "unknown type": frame({"value": 1}, name="os.system"),
    "base class": frame({}, name="Event"),
    "unknown version": frame({"value": 1}, version=2),
    "version of another type": frame({"value": 1}, version="1"),
    "unknown scope": frame({"value": 1}, scope=7),
    "no fields": frame(None),
    "fields in a list": frame([1]),
    "missing field": frame({}),
    "extra field": frame({"value": 1, "more": 2}),
    "numbers for names": frame({1: 2}),
    "half a million levels": b"\x97\x01\xaetests.Anything\xa1t\x00\xa0\x01\x81\xa5value" + b"\x91" * 500_000 + b"\x01",
    "a huge list announced": b"\x97\x01\xaetests.Anything\xa1t\x00\xa0\x01\x81\xa5value\xdd\xff\xff\xff\xff",
    "a huge map announced": b"\x97\x01\xaetests.Anything\xa1t\x00\xa0\x01\xdf\xff\xff\xff\xff",
    "a huge string announced": b"\x97\x01\xaetests.Anything\xa1t\x00\xa0\x01\x81\xa5value\xdb\xff\xff\xff\xff",
    "no text": b"\x97\x01\xaetests.Anything\xa2\xff\xfe\x00\xa0\x01\x81\xa5value\x01",
    "no text inside": b"\x97\x01\xaetests.Anything\xa1t\x00\xa0\x01\x81\xa5value\xa2\xff\xfe",
    "no moment": frame({"value": msgspec.msgpack.Ext(-1, b"\xff" * 12)}),
    "over the limit": frame({"value": "x" * MAX_RECORD_BYTES}),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(body, ORIGIN, 1)


def test_the_hostile_frames_would_be_sound_otherwise() -> None:
    assert decode(frame({"value": 1}), ORIGIN, 1).event == Anything(value=1)


class Split(Event, name="tests.codec.Split", topic="tests.split"):
    """Its author's validator makes a list of text; decoding hands it the list."""

    tags: list[str]

    @field_validator("tags", mode="before")
    @classmethod
    def split(cls, tags: str) -> list[str]:
        return tags.split(",")


def test_what_a_validator_raises_at_decoding_is_a_decode_error() -> None:
    event = Split.model_validate({"tags": "a,b"})
    body = encode(event, "tests.split", Scope.LOCAL, "", 1)
    with pytest.raises(DecodeError, match=r"tests\.codec\.Split does not validate: .*no attribute 'split'"):
        decode(body, ORIGIN, 1)


def test_an_address_is_read_without_the_fields() -> None:
    found = read_frame(frame({"no": "such field"}, name="from.the.future", version=9, scope=1))

    assert (found.type, found.version, found.in_scope()) == ("from.the.future", 9, Scope.FEDERATED)


def test_too_many_bytes_are_refused_before_they_are_parsed() -> None:
    with pytest.raises(DecodeError, match=r"at most 1048576 are allowed"):
        read_frame(b"\xc1" * (MAX_RECORD_BYTES + 1))
