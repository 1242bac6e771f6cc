"""Tracking events as W&B knows them: rows of the history, and updates of the configuration.

A pure function of a batch: if it comes again after a crash, it gives the same rows with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from eventbus.tracking import (
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    TagsSet,
    TextLogged,
)

if TYPE_CHECKING:
    from collections import Counter

    from receivers.abc import Row

STEP = "global_step"
"""The history's field that holds the user's step: W&B drops rows whose own step goes back."""

OURS = "trackbus"
"""Key of the configuration under which tags and the run's status stand."""

_ARTIFACT_LINK = "wandb-artifact:"


@dataclass(slots=True)
class Change:
    """What one or several adjacent events do to a W&B run; without `line` and `config` they do nothing.

    Attributes:
        number: Number of the last event's row.
        time_ns: Its wall time.
        site: Where it was logged.
        step: The user's step, None where there is none.
        line: Row of the history, by key.
        config: Updates of the configuration, nested.
        is_open: Whether the next event may add its keys to the line.
    """

    number: int
    time_ns: int
    site: str
    step: int | None = None
    line: dict[str, float | str] = field(default_factory=dict[str, "float | str"])
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    is_open: bool = False

    def row(self) -> dict[str, float | str]:
        """Return the line with its step and the time at which it was logged."""
        step = {} if self.step is None else {STEP: self.step}
        return {**self.line, **step, "_timestamp": self.time_ns / 1e9}

    def takes(self, other: Change) -> bool:
        """Tell whether the change that follows belongs to the same row: same site and step, no key twice."""
        same = self.is_open and other.is_open and self.step == other.step and self.step is not None
        return same and self.site == other.site and self.line.keys().isdisjoint(other.line)


def changes(rows: Sequence[Row], counts: Counter[str]) -> list[Change]:
    """Return what a batch does to the run.

    Metrics of one site that follow each other and share a step become one row of the history, under the number of the
    last. A key that is there already starts a new row, so that no value replaces another.

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


def _change(row: Row, counts: Counter[str]) -> Change:
    change = Change(row.number, row.envelope.time_ns, row.envelope.site)
    match row.envelope.event:
        case MetricsLogged() as event:
            change.step, change.is_open = event.step, True
            prefix = f"{event.main_tag}/" if event.main_tag else ""
            for key, value in event.values.items():
                _put(change, f"{prefix}{key}", value, counts)
        case TextLogged() as event:
            change.step = event.step
            _put(change, event.key, event.text, counts)
        case ParamsLogged() | ConfigUpdated() as event:
            change.config = settings(event.values, counts)
        case TagsSet() as event:
            change.config = {OURS: {"tags": dict(event.values)}}
        case RunStarted() | RunFinished():
            pass  # the worker opens and closes the run with what they say
        case event:
            counts[f"unsupported {event.event_name}"] += 1
    return change


def _put(change: Change, key: str, value: float | str, counts: Counter[str]) -> None:
    """Add one value to a line, under a name that W&B doesn't use itself."""
    name = key
    while name.startswith("_") or name in change.line or (name == STEP and change.step not in (None, value)):
        name = f"user{name}" if name.startswith("_") else f"user_{name}"
    if name != key:
        counts["renamed key"] += 1
    change.line[name] = value


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
