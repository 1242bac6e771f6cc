"""What a batch of records is in MLflow's terms: pure, so that it can be read and tested without MLflow.

MLflow refuses a whole request for one bad entry, so nothing leaves here that it would refuse.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from eventbus import Envelope, Event
from eventbus.artifacts import ModelLogged
from eventbus.tracking import (
    TRACKING_EVENTS,
    AlertRaised,
    ConfigUpdated,
    HParamsLogged,
    LinkedMetricsLogged,
    MetricDefined,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    SummaryUpdated,
    TagsDeleted,
    TagsSet,
    TextLogged,
)
from receivers._names import MAX_FILE_NAME, escape, flattened, is_plain_path, relative_path, shorten
from receivers._rows import Row

MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_DATASET_NAME, MAX_DIGEST = 500, 36
MAX_REQUEST_BYTES = 900_000  # MLflow refuses 1 000 000
FIELD_BYTES = 150  # names and layout of an entry's fields in a request

T = TypeVar("T")

OWN_TAGS = "trackbus."
"""What the tags that the sink itself sets start with; a user's tag of such a name is renamed."""

_REFUSED = r"[^/\w.\- :]"
_REFUSED_IN_FILES = r"[#%?\\:\"<>|*;\x00-\x1f\x7f]"


class Point(NamedTuple):
    """One value of a metric: MLflow's identity of it, in the order of MLflow's own arguments."""

    key: str
    value: float
    time_ms: int
    step: int
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class Upload(NamedTuple):
    """What is no request of its own kind's batch: stored one by one, in order.

    Attributes:
        row: What is stored.
        path: Where a text goes; empty for other kinds.
        points: Values of metrics that speak of a model, which may come just before them.
        params: The run's params so far, for a model: they are its own too.
    """

    row: Row
    path: str = ""
    points: Sequence[Point] = ()
    params: Mapping[str, str] = {}


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
        tags: Tags to set; None for one to take away.
        uploads: What is stored after these.
        started: What was last said of the run's name and parent.
    """

    def __init__(self, counts: Counter[str], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        self.metrics: list[Point] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str | None] = {}
        self.uploads: list[Upload] = []
        self.started: list[RunStarted] = []
        self._counts = counts
        self._known_params = dict(params)
        self._changed = {name for name in tags if name.startswith(f"{OWN_TAGS}param.")}
        self._keys: dict[str, str] = {}
        self._seen: set[tuple[str, float | None, int, int, str | None]] = set()
        self._adders: dict[type[Event], Callable[[Any, Row], None]] = {
            MetricsLogged: lambda event, row: self.metrics.extend(self._points(event, row.envelope)),
            LinkedMetricsLogged: self._add_linked,
            HParamsLogged: self._add_hparams,
            ParamsLogged: lambda event, _: self._add_params(event.values),
            ConfigUpdated: lambda event, _: self._add_params(dict(flattened(event.values))),
            SummaryUpdated: lambda event, _: self._add_own("summary", dict(flattened(event.values))),
            MetricDefined: lambda event, _: self._add_own("metric", {event.name: _told(event)}),
            AlertRaised: self._add_alert,
            TagsSet: lambda event, _: self._add_tags(event.values),
            TagsDeleted: lambda event, _: self.tags.update({self._key(key, tag=True): None for key in event.keys}),
            TextLogged: self._add_text,
            ModelLogged: lambda _, row: self.uploads.append(Upload(row, params=dict(self._known_params))),
            RunStarted: lambda event, _: self._add_start(event),
            RunFinished: lambda _event, _row: None,  # `close` knows the status of the whole run
        }

    def add(self, row: Row) -> None:
        """Add one record."""
        event = row.envelope.event
        add = next((self._adders[cls] for cls in type(event).__mro__ if cls in self._adders), None)
        if add is not None:
            add(event, row)
        elif isinstance(event, TRACKING_EVENTS):
            self.uploads.append(Upload(row))
        else:
            self._counts[f"unsupported {event.event_name}"] += 1

    def clear(self) -> None:
        """Forget what was sent, except the points that another one of the same millisecond may still meet."""
        last_ms = self.metrics[-1].time_ms if self.metrics else 0
        self._seen = {point for point in self._seen if point[2] >= last_ms}
        self.metrics, self.params, self.tags, self.uploads, self.started = [], {}, {}, [], []

    def _points(self, event: MetricsLogged, envelope: Envelope[Event]) -> Iterator[Point]:
        time_ms, step = in_ms(envelope.time_ns), event.step or 0
        model = event.model if isinstance(event, LinkedMetricsLogged) else None  # MLflow keeps a point for each of them
        for name, value in event.values.items():
            full_name = name if event.main_tag is None else f"{event.main_tag}/{name}"
            point = Point(self._key(full_name), self._finite(value), time_ms, step)
            identity = (point.key, None if math.isnan(value) else point.value, time_ms, step, model)
            if identity in self._seen:
                self._counts["merged"] += 1
            else:
                self._seen.add(identity)
                yield point

    def _add_linked(self, event: LinkedMetricsLogged, row: Row) -> None:
        name, digest = dataset_id(event.dataset_name or "", event.dataset_digest or "")
        link = {"dataset_name": name or None, "dataset_digest": digest or None}
        points = [point._replace(**link) for point in self._points(event, row.envelope)]
        if event.model is None:
            self.metrics += points
        else:
            self.uploads.append(Upload(row, points=points))

    def _add_hparams(self, event: HParamsLogged, row: Row) -> None:
        """Add the session as params and metrics, below its name where it has one."""
        top = f"{event.run_name}/" if event.run_name else ""
        self._add_params({f"{top}{name}": value for name, value in event.params.items()})
        if event.metrics:
            values = {f"{top}{name}": value for name, value in event.metrics.items()}
            self.metrics.extend(
                self._points(MetricsLogged.model_construct(values=values, step=event.step), row.envelope)
            )

    def _finite(self, value: float) -> float:
        if not math.isinf(value):
            return value
        self._counts["infinite metric clamped"] += 1
        return math.copysign(sys.float_info.max, value)

    def _add_params(self, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            key = self._key(name)
            text = self._cut(as_text(value), MAX_PARAM_LENGTH, "cut param")
            tag = own_tag("param", key)
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

    def _add_own(self, kind: str, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            self.tags[own_tag(kind, mlflow_key(name))] = self._cut(as_text(value), MAX_TAG_LENGTH, "cut tag")

    def _add_alert(self, event: AlertRaised, row: Row) -> None:
        self._add_own("alert", {event.title: f"{event.level}: {event.text}"})
        self.uploads.append(Upload(row))

    def _add_text(self, event: TextLogged, row: Row) -> None:
        path = mlflow_path(event.key)
        self._note(event.key, path)
        if not event.is_file:
            identity = f"{row.envelope.origin.incarnation}-{row.envelope.seq}"
            path = f"text/{path}/{event.step or 0}-{identity}.txt"
        self.uploads.append(Upload(row, path))

    def _add_start(self, event: RunStarted) -> None:
        self.started.append(event)
        for name, value in (("name", event.name), ("group", event.group)):
            self.tags[f"{OWN_TAGS}{name}"] = self._cut(value, MAX_TAG_LENGTH, "cut tag")
        if event.parent:
            self.tags[f"{OWN_TAGS}parent"] = event.parent

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
            self.tags[own_tag("key", stored)] = name[:MAX_TAG_LENGTH]

    def _cut(self, text: str, length: int, cause: str) -> str:
        if len(text) > length:
            self._counts[cause] += 1
        return text[:length]


def as_text(value: object) -> str:
    """Return a value as MLflow shows it; lists and dicts are JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def dataset_id(name: str, digest: str) -> tuple[str, str]:
    """Return a dataset's name and digest as MLflow takes them, the same ones wherever it is named."""
    return shorten(name, MAX_DATASET_NAME), shorten(digest, MAX_DIGEST)


def mlflow_path(name: str) -> str:
    """Return a path for an artifact that stays below the run's."""
    return relative_path(mlflow_key(name))


def artifact_path(path: str) -> str:
    """Return a file's path as MLflow and its server take it; most stay as they are."""
    if not is_plain_path(path):
        return artifact_path(relative_path(path))
    safe = escape(path, _REFUSED_IN_FILES) if re.search(_REFUSED_IN_FILES, path) else path
    return "/".join(shorten(part, MAX_FILE_NAME) for part in safe.split("/"))


def _told(event: MetricDefined) -> dict[str, object]:
    return event.model_dump(exclude={"name"}, exclude_defaults=True)


def own_tag(kind: str, key: str) -> str:
    """Return the name of a tag that the sink itself sets."""
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
