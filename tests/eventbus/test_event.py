"""What an event may hold, what it is called, and what is refused where it is written down."""

from __future__ import annotations

import datetime as dt
import enum
from functools import cached_property
from typing import Annotated, Any, Literal, Optional, Union, get_args

import pytest
from pydantic import AwareDatetime, ConfigDict, Field, JsonValue, ValidationError, create_model

from eventbus import Envelope, Event, Origin, Part, Scope
from eventbus._codec import decode, encode
from eventbus._event import registered_event
from eventbus.errors import EventDefinitionError, TrackbusError
from eventbus.tracking import TRACKING, MetricsLogged, TrackingEvent


class Colour(enum.Enum):
    RED = "red"


class Point(Part):
    x: float
    y: float = 0.0


class Tree(Part):
    label: str
    branches: list[Tree] = Field(default_factory=list)


Tree.model_rebuild()


def define(annotation: Any) -> type[Event]:
    return create_model("Defined", __base__=Event, field=(annotation, ...))


@pytest.mark.parametrize(
    "annotation",
    [
        str,
        bytes,
        bool,
        int,
        float,
        AwareDatetime,
        None,
        JsonValue,
        Point,
        Tree,
        list[int],
        list[list[Point]],
        dict[str, float],
        dict[str, list[bytes]],
        dict[Annotated[str, Field(max_length=3)], int],
        float | None,
        Optional[Point],  # noqa: UP045 - both spellings are allowed
        Union[str, int],  # noqa: UP007 - the same
        Literal["a", "b"],
        Literal[1, "b"],
        Annotated[int, Field(ge=0)],
    ],
    ids=str,
)
def test_what_msgpack_gives_back_may_be_a_field(annotation: Any) -> None:
    assert "field" in define(annotation).model_fields


@pytest.mark.parametrize(
    "annotation",
    [
        Any,
        object,
        complex,
        dt.datetime,  # a naive one names no moment, and would not be decoded
        dt.date,
        dt.timedelta,
        Colour,
        tuple[int, int],
        set[int],
        list,
        dict,
        dict[int, str],
        dict[str, Colour],
        list[Colour],
        float | Colour,
        Literal[b"a"],
        type,
        Event,
    ],
    ids=str,
)
def test_what_it_would_not_is_refused_with_what_is_allowed(annotation: Any) -> None:
    with pytest.raises(EventDefinitionError, match=r"Defined\.field: .* can't travel; use str, bytes"):
        define(annotation)


def test_a_part_is_looked_into_each_time() -> None:
    class Coloured(Part):
        colour: Colour

    for _ in range(2):
        with pytest.raises(EventDefinitionError, match=r"Coloured\.colour"):
            define(list[Coloured])


def test_an_alias_is_refused() -> None:
    with pytest.raises(EventDefinitionError, match="alias"):

        class Aliased(Event):
            field: int = Field(alias="other")


class Metres(Part):
    value: float


class Feet(Part):
    value: float


class Rounded(Part):
    value: float
    digits: int = 2


class Named(Part):
    value: str


class Steps(Part):
    kind: Literal["steps"] = "steps"
    value: float


class Miles(Part):
    kind: Literal["miles"] = "miles"
    value: float


@pytest.mark.parametrize("annotation", [Metres | Feet, list[Metres | Feet | None], dict[str, Rounded | Feet]], ids=str)
def test_parts_that_a_record_cannot_tell_apart_are_refused(annotation: Any) -> None:
    with pytest.raises(EventDefinitionError, match=r"Defined\.field: a record can't tell .* from .*; give .* a field"):
        define(annotation)


@pytest.mark.parametrize("annotation", [Metres | Rounded, Metres | Named, Steps | Miles], ids=str)
def test_parts_that_it_can_tell_apart_come_back(annotation: Any) -> None:
    cls = define(annotation)
    for part in get_args(annotation):
        event = cls(field=part(value="1" if part is Named else 1.0))  # pyright: ignore[reportCallIssue] - made at run time
        body = encode(event, "topic", Scope.LOCAL, "", 1)
        origin = Origin(site="site", rank=0, incarnation="a1", job="job")
        found = decode(body, origin, 1).event
        assert found == event
        assert type(found.field) is part  # pyright: ignore[reportAttributeAccessIssue] - the same


def test_fields_that_nobody_declared_are_refused() -> None:
    class Open(Part):
        model_config = ConfigDict(extra="allow")

    with pytest.raises(EventDefinitionError, match="Open: with extra='allow'"):
        define(Open)
    with pytest.raises(EventDefinitionError, match="OpenEvent: with extra='allow'"):

        class OpenEvent(Event):
            model_config = ConfigDict(extra="allow")


def test_a_cached_property_is_refused() -> None:
    with pytest.raises(EventDefinitionError, match=r"Cached\.twice"):

        class Cached(Event):
            field: int

            @cached_property
            def twice(self) -> int:
                return 2 * self.field


# ------------------------------------------------------------------------------------------- names, topics, versions
def test_an_event_is_named_after_its_class() -> None:
    class Named(Event):
        pass

    assert Named.event_name == Named.__qualname__
    assert Named.event_topic == Named.event_name
    assert Named.event_version == 1
    assert registered_event(Named.event_name) is Named


def test_class_arguments_name_topic_type_and_version() -> None:
    class Told(Event, topic="told", name="tests.Told", version=3):
        pass

    assert (Told.event_topic, Told.event_name, Told.event_version) == ("told", "tests.Told", 3)
    assert registered_event("tests.Told") is Told


def test_a_topic_is_inherited_a_name_and_a_version_are_not() -> None:
    class Base(Event, topic="base", name="tests.Base", version=2):
        pass

    class Child(Base):
        pass

    class Grandchild(Child, topic="own"):
        pass

    assert (Child.event_topic, Child.event_version) == ("base", 1)
    assert Child.event_name == Child.__qualname__
    assert Grandchild.event_topic == "own"


def test_a_mixin_does_not_hide_the_topic() -> None:
    class Mixin:
        pass

    class Mixed(Mixin, Event):
        pass

    class MixedChild(Mixin, MetricsLogged):
        pass

    assert Mixed.event_topic == Mixed.event_name
    assert MixedChild.event_topic == TRACKING.name


def test_a_name_belongs_to_one_class() -> None:
    class First(Event, name="tests.taken"):
        pass

    with pytest.raises(EventDefinitionError, match=r"'tests.taken' is taken by .*First; give .*Second another one"):

        class Second(Event, name="tests.taken"):
            pass

    assert registered_event("tests.taken") is First


def test_an_event_that_took_the_name_of_one_of_ours_is_told_to_change_its_own() -> None:
    class Mine(Event, name="tests.ours"):
        pass

    with pytest.raises(EventDefinitionError, match=r"taken by eventbus\.tracking\..*Ours; give .*Mine another one"):

        class Ours(Event, name="tests.ours"):
            __module__ = "eventbus.tracking"


def test_a_module_may_be_imported_anew() -> None:
    def make() -> type[Event]:
        class Again(Event):
            pass

        return Again

    first, second = make(), make()

    assert first is not second
    assert registered_event(second.event_name) is second


def test_a_definition_error_is_ours_and_a_type_error() -> None:
    with pytest.raises(TrackbusError) as caught:
        define(complex)
    assert isinstance(caught.value, TypeError)


def test_an_unknown_name_is_nobodys() -> None:
    assert registered_event("no.such.event") is None


# -------------------------------------------------------------------------------------------------- frozen and strict
def test_an_event_is_frozen() -> None:
    event = MetricsLogged(values={"loss": 1.0})
    with pytest.raises(ValidationError, match="frozen"):
        event.step = 3


@pytest.mark.parametrize(
    "fields",
    [
        {"values": {"loss": "0.5"}},
        {"values": {"loss": True}},
        {"values": {"loss": None}},
        {"values": {"": 1.0}},
        {"values": {"a" * 251: 1.0}},
        {"values": {"new\nline": 1.0}},
        {"values": {"\ud800": 1.0}},
        {"values": {}},
        {"values": {str(i): 1.0 for i in range(1001)}},
        {"values": {"loss": 1.0}, "step": -1},
        {"values": {"loss": 1.0}, "step": 1.0},
        {"values": {"loss": 1.0}, "step": 2**63},
        {"values": {"loss": 1.0}, "steps": 1},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_a_wrong_value_is_refused_where_it_is_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MetricsLogged(**fields)


def test_an_integer_is_a_float_too() -> None:
    event = MetricsLogged(values={"loss": 1, "large": 2**70})
    assert [type(value) for value in event.values.values()] == [float, float]


def test_what_the_caller_does_to_its_own_values_later_changes_no_event() -> None:
    class Nested(Event):
        value: JsonValue
        lists: list[list[int]]

    value: dict[str, Any] = {"a": [1]}
    lists = [[1]]
    event = Nested(value=value, lists=lists)

    value["a"].append(2)
    lists[0].append(2)

    assert event == Nested(value={"a": [1]}, lists=[[1]])


def test_a_part_with_more_fields_than_its_type_is_refused() -> None:
    class Precise(Point):
        error: float

    class Measured(Event):
        point: Point

    with pytest.raises(ValidationError):
        Measured(point=Precise(x=1.0, error=0.1))


def test_an_error_shows_no_value() -> None:
    with pytest.raises(ValidationError) as caught:
        MetricsLogged(values={"loss": "secret"})  # type: ignore[dict-item] - that is the point
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- envelope
def test_an_envelope_says_who_and_where() -> None:
    origin = Origin(site="site-1", rank=2, incarnation="a1", job="job")
    event = MetricsLogged(values={"loss": 1.0})

    envelope: Envelope[TrackingEvent] = Envelope(event, "topic", Scope.LOCAL, "run", 5, origin, 7)

    assert envelope.id == ("site-1/2-a1", 7)
    assert (envelope.site, envelope.rank) == ("site-1", 2)
    with pytest.raises(AttributeError):
        envelope.seq = 8  # type: ignore[misc] - pyright knows
