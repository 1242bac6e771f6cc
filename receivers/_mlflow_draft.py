"""What a batch of records is in MLflow's terms: pure, so that it can be read and tested without MLflow.

MLflow refuses a whole request for one bad entry, so nothing leaves here that it would refuse.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from eventbus import Envelope, Event
from eventbus.tracking import (
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    TagsSet,
    TextLogged,
)
from receivers._names import escape, flattened, is_plain_path, relative_path, shorten

MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_REQUEST_BYTES = 900_000  # MLflow refuses 1 000 000
FIELD_BYTES = 150  # names and layout of an entry's fields in a request

T = TypeVar("T")

OWN_TAGS = "trackbus."
"""What the tags that the sink itself sets start with; a user's tag of such a name is renamed."""

_REFUSED = r"[^/\w.\- :]"


class Point(NamedTuple):
    """One value of a metric: MLflow's identity of it, in the order of MLflow's own arguments."""

    key: str
    value: float
    time_ms: int
    step: int


def mlflow_key(name: str, also_refused: str = r"(?!)") -> str:
    """Return a name that MLflow takes as the key of a metric, param or tag; most stay as they are."""
    unsafe = _REFUSED if is_plain_path(name) else r"[^\w\- :]"
    key = escape(name, f"{unsafe}|{also_refused}")
    return key if len(key) <= MAX_KEY_LENGTH else shorten(key, MAX_KEY_LENGTH)


def in_ms(time_ns: int) -> int:
    """Return a time as MLflow keeps it: it refuses what lies before 1970."""
    return max(time_ns // 1_000_000, 0)


class Draft:
    """Collects what the next requests hold, and knows what of the run decides how it is stored.

    Args:
        counts: The sink's counters.
        params: Params that the run has.
        tags: Tags that the run has.

    Attributes:
        metrics: Points to send.
        params: New params.
        tags: Tags to set.
        texts: Path and content of the artifacts to store.
    """

    def __init__(self, counts: Counter[str], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        self.metrics: list[Point] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.texts: list[tuple[str, str]] = []
        self._counts = counts
        self._known_params = dict(params)
        self._changed = {name for name in tags if name.startswith(f"{OWN_TAGS}param.")}
        self._keys: dict[str, str] = {}
        self._seen: set[tuple[str, float | None, int, int]] = set()
        self._adders: dict[type[Event], Callable[[Any, Envelope[Event]], None]] = {
            MetricsLogged: self._add_metrics,
            ParamsLogged: lambda event, _: self._add_params(event.values),
            ConfigUpdated: lambda event, _: self._add_params(dict(flattened(event.values))),
            TagsSet: lambda event, _: self._add_tags(event.values),
            TextLogged: self._add_text,
            RunStarted: lambda event, _: self._add_start(event),
            RunFinished: lambda _event, _envelope: None,  # `close` knows the status of the whole run
        }

    def add(self, envelope: Envelope[Event]) -> None:
        """Add one record."""
        event = envelope.event
        add = next((self._adders[cls] for cls in type(event).__mro__ if cls in self._adders), None)
        if add is None:
            self._counts[f"unsupported {event.event_name}"] += 1
        else:
            add(event, envelope)

    def clear(self) -> None:
        """Forget what was sent, except the points that another one of the same millisecond may still meet."""
        last_ms = self.metrics[-1].time_ms if self.metrics else 0
        self._seen = {point for point in self._seen if point[2] >= last_ms}
        self.metrics, self.params, self.tags, self.texts = [], {}, {}, []

    def _add_metrics(self, event: MetricsLogged, envelope: Envelope[Event]) -> None:
        time_ms, step = in_ms(envelope.time_ns), event.step or 0
        for name, value in event.values.items():
            full_name = name if event.main_tag is None else f"{event.main_tag}/{name}"
            point = Point(self._key(full_name), self._finite(value), time_ms, step)
            identity = (point.key, None if math.isnan(value) else point.value, time_ms, step)
            if identity in self._seen:
                self._counts["merged"] += 1
            else:
                self._seen.add(identity)
                self.metrics.append(point)

    def _finite(self, value: float) -> float:
        if not math.isinf(value):
            return value
        self._counts["infinite metric clamped"] += 1
        return math.copysign(sys.float_info.max, value)

    def _add_params(self, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            key = self._key(name)
            text = self._cut(as_text(value), MAX_PARAM_LENGTH, "cut param")
            tag = _own_tag("param", key)
            if key not in self._known_params:
                self._known_params[key] = self.params[key] = text
            elif self._known_params[key] != text:
                self._counts["param changed"] += 1
                self._changed.add(tag)
            if tag in self._changed:
                self.tags[tag] = text

    def _add_tags(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self.tags[self._key(name, tag=True)] = self._cut(value, MAX_TAG_LENGTH, "cut tag")

    def _add_text(self, event: TextLogged, envelope: Envelope[Event]) -> None:
        path = mlflow_path(event.key)
        self._note(event.key, path)
        if not event.is_file:
            identity = f"{envelope.origin.incarnation}-{envelope.seq}"
            path = f"text/{path}/{event.step or 0}-{identity}.txt"
        self.texts.append((path, event.text))

    def _add_start(self, event: RunStarted) -> None:
        for name, value in (("name", event.name), ("group", event.group)):
            self.tags[f"{OWN_TAGS}{name}"] = self._cut(value, MAX_TAG_LENGTH, "cut tag")

    def _key(self, name: str, *, tag: bool = False) -> str:
        if tag and name.startswith(OWN_TAGS):
            key = mlflow_key(name, r"(?<=^trackbus)\.")
        elif (key := self._keys.get(name)) is None:
            key = self._keys[name] = mlflow_key(name)
        self._note(name, key)
        return key

    def _note(self, name: str, stored: str) -> None:
        """Count a name that could not stay, and keep it in a tag."""
        if stored != name:
            self._counts["renamed key"] += 1
            self.tags[_own_tag("key", stored)] = name[:MAX_TAG_LENGTH]

    def _cut(self, text: str, length: int, cause: str) -> str:
        if len(text) > length:
            self._counts[cause] += 1
        return text[:length]


def as_text(value: object) -> str:
    """Return a value as MLflow shows it; lists and dicts are JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def mlflow_path(name: str) -> str:
    """Return a path for an artifact that stays below the run's."""
    return relative_path(mlflow_key(name))


def _own_tag(kind: str, key: str) -> str:
    tag = f"{OWN_TAGS}{kind}.{key}"
    return tag if len(tag) <= MAX_KEY_LENGTH else shorten(tag, MAX_KEY_LENGTH)


def as_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags as MLflow takes them."""
    return {mlflow_key(key): value[:MAX_TAG_LENGTH] for key, value in tags.items()}


def chunks(entries: Iterable[T], most: int) -> Iterator[list[T]]:
    """Split entries so that each request holds at most `most` of them and is not too large."""
    chunk: list[T] = []
    size = 0
    for entry in entries:
        bytes_of_entry = len(json.dumps(entry)) + FIELD_BYTES
        if chunk and (len(chunk) == most or size + bytes_of_entry > MAX_REQUEST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += bytes_of_entry
    if chunk:
        yield chunk
