"""Events and the envelope they travel in.

An event is a fact in the past tense: a frozen pydantic model that holds nothing but data. What a record says about
itself (where it came from, when, in which order) stands in its envelope.
"""

from __future__ import annotations

import types
from collections.abc import Hashable, Iterator
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, Union, get_args, get_origin
from weakref import WeakSet

import msgspec
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue

from eventbus._topic import Scope
from eventbus.errors import EventDefinitionError

_SCALARS = (str, bytes, bool, int, float, AwareDatetime, types.NoneType)
_CONFIG = ConfigDict(
    frozen=True,
    extra="forbid",
    strict=True,
    hide_input_in_errors=True,
    revalidate_instances="subclass-instances",  # a part with fields that its type does not have would not be decoded
)


class Part(BaseModel):
    """Base of the models that stand inside an event."""

    model_config = _CONFIG


class Event(BaseModel):
    """Base of all events: subclass it, name it in the past tense, give it typed fields.

    Its validators run again wherever a record is read, on what they have made: one that changes a value must leave a
    changed one as it is.

    Class arguments:
        topic: The topic its records go to; inherited, else the event's own name.
        name: How its records name the type; by default the class's qualified name.
        version: Version of its fields; raise it when they change their meaning.

    Raises:
        EventDefinitionError: A field's type can't travel, or the name is taken by another class.
    """

    model_config = _CONFIG

    event_name: ClassVar[str] = "Event"
    event_version: ClassVar[int] = 1
    event_topic: ClassVar[str] = "Event"
    event_urgent: ClassVar[bool] = False
    """Whether a journal that has reached its bound takes it all the same: few, small, and wanted most just then."""

    @property
    def event_subject(self) -> Hashable:
        """What it tells the latest of, among events of its kind: a newer one makes it stale. Empty: any newer one."""
        return ()

    def __init_subclass__(
        cls, *, topic: str | None = None, name: str | None = None, version: int = 1, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, topic: str | None = None, name: str | None = None, version: int = 1, **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.event_name = name or cls.__qualname__
        cls.event_version = version
        inherited = cls.event_topic if cls.event_topic != Event.event_topic else None
        cls.event_topic = topic or inherited or cls.event_name
        _check_fields(cls)
        _register(cls)


_registered: dict[str, type[Event]] = {}
_checked: WeakSet[type[BaseModel]] = WeakSet()


def registered_event(name: str) -> type[Event] | None:
    """Return the event class that records call `name`, if this process knows it."""
    return _registered.get(name)


def _register(cls: type[Event]) -> None:
    known = _registered.get(cls.event_name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        holder, other = (cls, known) if cls.__module__.startswith("eventbus.") else (known, cls)  # ours keep theirs
        msg = (
            f"event name {cls.event_name!r} is taken by {holder.__module__}.{holder.__qualname__}; "
            f"give {other.__module__}.{other.__qualname__} another one: class {other.__name__}(Event, name='...')"
        )
        raise EventDefinitionError(msg)
    _registered[cls.event_name] = cls


def _check_fields(cls: type[BaseModel]) -> None:
    if cls in _checked:
        return
    _checked.add(cls)  # before its fields: a part may hold parts of its own kind
    problem = next(_problems(cls), None)
    if problem is not None:
        _checked.discard(cls)
        raise EventDefinitionError(problem)


def _problems(cls: type[BaseModel]) -> Iterator[str]:
    if cls.model_config.get("extra") == "allow":
        yield f"{cls.__name__}: with extra='allow' what has no field would not travel; give it a dict[str, ...] field"
    for field, info in cls.model_fields.items():
        if not _travels(info.annotation):
            yield (
                f"{cls.__name__}.{field}: {info.annotation!r} can't travel; use str, bytes, bool, int, float, "
                "AwareDatetime, Literal, list[...], dict[str, ...] or a Part"
            )
        for one, other in _look_alikes(info.annotation):
            names = f"{one.__name__} from {other.__name__}"
            yield f"{cls.__name__}.{field}: a record can't tell {names}; give both a field such as kind: Literal['...']"
        if info.validation_alias is not None:
            yield f"{cls.__name__}.{field}: records name the field itself; take its alias away"
    for name, value in vars(cls).items():
        if isinstance(value, cached_property):
            yield f"{cls.__name__}.{name}: a cached property would travel as a field; make it a property"


def _look_alikes(annotation: Any) -> Iterator[tuple[type[Part], type[Part]]]:
    """Yield the parts of unions that a record can't tell apart: it holds the names and values of their fields alone."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        parts = [arg for arg in args if isinstance(arg, type) and issubclass(arg, Part)]
        yield from ((one, other) for one, other in combinations(parts, 2) if _is_read_as(other, one))
    for arg in () if origin is Literal else args:
        yield from _look_alikes(arg)


def _is_read_as(part: type[Part], first: type[Part]) -> bool:
    fields, wanted = part.model_fields, first.model_fields
    required = {name for name, info in wanted.items() if info.is_required()}
    fits = required <= fields.keys() <= wanted.keys()
    return fits and all(wanted[name].annotation == info.annotation for name, info in fields.items())


def _travels(annotation: Any) -> bool:
    """Tell whether strict msgpack decoding gives back what was encoded for this annotation."""
    if annotation is JsonValue or annotation in _SCALARS:
        return True
    if isinstance(annotation, type) and issubclass(annotation, Part):
        _check_fields(annotation)
        return True
    return _arguments_travel(get_origin(annotation), get_args(annotation))


def _arguments_travel(origin: Any, args: tuple[Any, ...]) -> bool:
    if origin is Literal:
        return all(isinstance(value, str | int) for value in args)
    if origin is Annotated:
        return _travels(args[0])
    if origin in (list, Union, types.UnionType):
        return all(_travels(arg) for arg in args)
    return origin is dict and _is_str(args[0]) and _travels(args[1])


def _is_str(annotation: Any) -> bool:
    return annotation is str or (get_origin(annotation) is Annotated and get_args(annotation)[0] is str)


AGAIN = "-again"
"""What the key of a partition ends with whose dead letters are delivered again."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Who writes a partition: what every record in it has in common.

    Attributes:
        site: Name of the site, for example `site-1`.
        rank: Rank of the writing process within its site, 0 where there is one process.
        incarnation: Random per partition, so that a new journal never looks like an old one.
        job: Name of the job that the process works for.
        attempt: How often an elastic launcher has restarted this rank.
        again: Set while dead letters of the partition are delivered again: its key is another one then, since a
            consumer has a position in both.
    """

    site: str
    rank: int
    incarnation: str
    job: str
    attempt: int = 0
    again: bool = False

    @property
    def partition(self) -> str:
        """Key of the partition, `<site>/<rank>-<incarnation>`."""
        return f"{self.site}/{self.rank}-{self.incarnation}{AGAIN if self.again else ''}"

    @property
    def own_run(self) -> str:
        """Id of the run of records that name none."""
        return f"{self.job}-{self.incarnation}"


E = TypeVar("E", bound=Event, covariant=True)  # noqa: PLC0105 - the one type variable readers see everywhere


class Envelope(msgspec.Struct, Generic[E], frozen=True, gc=False):
    """One record: an event and what is known of it.

    Attributes:
        event: The event itself, shared by all handlers and frozen.
        topic: Name of the topic it was published on.
        scope: How far it travels.
        run: Id of the run it belongs to; empty where it belongs to none.
        time_ns: Wall time at the caller, nanoseconds since the epoch.
        origin: Who wrote it.
        seq: Its position within the origin's partition, from 1.
    """

    event: E
    topic: str
    scope: Scope
    run: str
    time_ns: int
    origin: Origin
    seq: int

    @property
    def id(self) -> tuple[str, int]:
        """What identifies the record everywhere: (partition, sequence)."""
        return self.origin.partition, self.seq

    @property
    def site(self) -> str:
        """Name of the site it comes from."""
        return self.origin.site

    @property
    def rank(self) -> int:
        """Rank of the process it comes from."""
        return self.origin.rank
