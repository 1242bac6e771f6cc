"""Tracking events as W&B knows them: rows of the history, updates of the configuration, and what is done at once.

A pure function of a batch: if it comes again after a crash, it gives the same rows with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from eventbus.artifacts import ArtifactLogged, DatasetLogged, ModelLogged
from eventbus.media import (
    EmbeddingLogged,
    GraphLogged,
    HistogramLogged,
    MediaLogged,
    MeshLogged,
    PrCurveLogged,
    TableLogged,
    TensorLogged,
)
from eventbus.tracking import (
    AlertRaised,
    ChartsArranged,
    ConfigUpdated,
    HParamsLogged,
    KeyedEvent,
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

if TYPE_CHECKING:
    from collections import Counter

    from eventbus import Envelope, Event
    from receivers.abc import Row

STEP = "global_step"
"""The history's field that holds the user's step: W&B drops rows whose own step goes back."""

OURS = "trackbus"
"""Key of the configuration under which stands what W&B has no place for: tags, the run's status, charts, datasets."""

_ARTIFACT_LINK = "wandb-artifact:"

_IN_ROWS = (
    MediaLogged,
    TableLogged,
    HistogramLogged,
    PrCurveLogged,
    EmbeddingLogged,
    MeshLogged,
)
"""Events that are values of a row."""

_AT_ONCE = (
    MetricDefined,
    SummaryUpdated,
    AlertRaised,
    ArtifactLogged,
    TensorLogged,
    GraphLogged,
)
"""Events that are a call of their own to the SDK."""


@dataclass(slots=True)
class Change:
    """What one or several adjacent events do to a W&B run; without `line`, `config` and `call` they do nothing.

    Attributes:
        number: Number of the last event's row.
        time_ns: Its wall time.
        site: Where it was logged.
        step: The user's step, None where there is none.
        line: Row of the history, by key; what is more than a number or a text stands there as its
            record.
        config: Updates of the configuration, nested.
        call: A record that becomes a call of its own.
        is_open: Whether the next event may add its keys to the line.
    """

    number: int
    time_ns: int
    site: str
    step: int | None = None
    line: dict[str, float | str | Envelope[Event]] = field(default_factory=dict[str, Any])
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    call: Envelope[Event] | None = None
    is_open: bool = False

    @property
    def is_single(self) -> bool:
        """Whether doing it twice would leave two: an alert, an artifact with a name."""
        return self.call is not None and is_single(self.call.event)

    def rest(self) -> dict[str, float]:
        """Return what stands in the row beside the line: its step and the time at which it was logged."""
        step = {} if self.step is None else {STEP: self.step}
        return {**step, "_timestamp": self.time_ns / 1e9}

    def takes(self, other: Change) -> bool:
        """Tell whether the change that follows belongs to the same row: same site and step, no key twice."""
        same = self.is_open and other.is_open and self.step == other.step and self.step is not None
        return same and self.site == other.site and self.line.keys().isdisjoint(other.line)


def changes(rows: Sequence[Row], counts: Counter[str]) -> list[Change]:
    """Return what a batch does to the run.

    Metrics, pictures, tables and the like of one site that follow each other and share a step become one row of the
    history, under the number of the last. A key that is there already starts a new row, so that no value replaces
    another.

    Args:
        rows: One batch of one run.
        counts: Takes what was stored otherwise than logged.
    """
    found: list[Change] = []
    for row in rows:
        change = _change(row, counts)
        if found and found[-1].takes(change):
            last = found[-1]
            last.number, last.time_ns = change.number, change.time_ns
            last.line |= change.line
        else:
            found.append(change)
    return found


def is_named(event: ArtifactLogged) -> bool:
    """Tell whether an artifact is one for W&B too, rather than plain files of the run: whether it has a kind."""
    return bool(event.kind) or isinstance(event, ModelLogged)


def is_single(event: Event) -> bool:
    """Tell whether an event is an alert or an artifact with a name."""
    return isinstance(event, AlertRaised) or (isinstance(event, ArtifactLogged) and is_named(event))


def _change(row: Row, counts: Counter[str]) -> Change:
    change = Change(row.number, row.envelope.time_ns, row.envelope.site)
    match row.envelope.event:
        case MetricsLogged() as event:
            change.step, change.is_open = event.step, True
            if isinstance(event, LinkedMetricsLogged) and (event.model or event.dataset_name or event.dataset_digest):
                counts["link of metrics left out"] += 1
            prefix = f"{event.main_tag}/" if event.main_tag else ""
            for key, value in event.values.items():
                _put(change, f"{prefix}{key}", value, counts)
        case TextLogged() as event:
            change.step = event.step
            _put(change, event.key, event.text, counts)
        case KeyedEvent() as event if isinstance(event, _IN_ROWS):
            change.step, change.is_open = event.step, True
            _put(change, event.key, row.envelope, counts)
        case event if isinstance(event, _AT_ONCE):
            change.call = row.envelope
        case RunFinished():
            pass  # the worker closes the run with what it says
        case event:
            _configure(change, event, counts)
    return change


def _configure(change: Change, event: Event, counts: Counter[str]) -> None:
    """Note what an event adds to the configuration."""
    if isinstance(event, ParamsLogged | ConfigUpdated):
        change.config = settings(event.values, counts)
    elif isinstance(event, HParamsLogged):
        change.step = event.step
        change.config = settings(event.params, counts)
        for key, value in event.metrics.items():
            _put(change, key, value, counts)
        if event.domain:
            change.config[OURS] = {"hparam_domain": event.domain}
    elif ours := _ours(event, counts):
        change.config = {OURS: ours}


def _ours(event: Event, counts: Counter[str]) -> dict[str, Any]:
    """Return what an event adds to our own part of the configuration."""
    match event:
        case TagsSet():
            return {"tags": dict(event.values)}
        case TagsDeleted():
            return {"tags": dict.fromkeys(event.keys)}
        case ChartsArranged():
            return {"charts": [chart.model_dump() for chart in event.charts]}
        case DatasetLogged():
            said = event.model_dump(exclude={"key", "digest"}, exclude_defaults=True)
            return {"datasets": {event.key: {event.digest: storable(said, counts)}}}
        case RunStarted():
            return {"parent": event.parent} if event.parent else {}
        case _:
            counts[f"unsupported {event.event_name}"] += 1
            return {}


def _put(change: Change, key: str, value: float | str | Envelope[Event], counts: Counter[str]) -> None:
    """Add one value to a line, under a name that W&B doesn't use itself."""
    name = public(key)
    while name in change.line or (name == STEP and change.step not in (None, value)):
        name = f"user_{name}"
    if name != key:
        counts["renamed key"] += 1
    change.line[name] = value


def public(key: str) -> str:
    """Return a name for a field of the history that is none of W&B's own."""
    return f"user{key}" if key.startswith("_") else key


def settings(values: Mapping[str, Any], counts: Counter[str]) -> dict[str, Any]:
    """Return settings under names that W&B takes, and with values that it stores."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.strip("-")  # W&B does the same, and gives the empty name to a key of dashes
        while not name or name.startswith("_") or name == OURS or (name != key and name in values):
            name = f"user{name}" if name.startswith("_") else f"user_{name}"
        if name != key:
            counts["renamed key"] += 1
        found[name] = storable(value, counts)
    return found


def storable(value: Any, counts: Counter[str]) -> Any:
    """Return a value of the configuration as W&B stores it.

    NaN and infinities become the words that W&B has for them: its configuration would turn NaN to null. What
    has the form of a link to an artifact would be looked up at the server: such a text loses its `wandb-`.
    """
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {_storable_name(key, inner, counts): storable(inner, counts) for key, inner in items}
    if isinstance(value, list | tuple):
        return [storable(inner, counts) for inner in cast("Sequence[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        counts["number stored as text"] += 1
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, str) and value.startswith(_ARTIFACT_LINK):
        counts["changed link"] += 1
        return value.removeprefix("wandb-")
    return value


def _storable_name(key: str, value: object, counts: Counter[str]) -> str:
    if key != "_type" or value != "artifactVersion":
        return key
    counts["renamed key"] += 1
    return "user_type"


def merge(old: Any, new: Any) -> Any:
    """Return `new` over `old`: mappings key by key, everything else as a whole."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    under, over = cast("Mapping[str, Any]", old), cast("Mapping[str, Any]", new)
    return {**under, **{key: merge(under.get(key), value) for key, value in over.items()}}
