"""The two ways in which a receiver lays out the runs of several sites in its tracker. Pure.

| | `per_site` | `combined` |
| --- | --- | --- |
| runs in the tracker | one per run and site | one per run, for all sites |
| its name | `<site>-<name>` | `<name>` |
| keys of metrics, params, tags, configuration and texts | as logged | `<site>/<key>` |
| tags that speak to a tracker, `mlflow.<...>` and `wandb.<...>` | as logged | as logged too: the last site's counts |
| the `main_tag` of metrics that share a chart | as logged | `<site>/<main_tag>`, and their keys as logged |
| it ends | with its site | with the last site that wrote to it, with the worst status of them all |
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

from eventbus import Event
from eventbus.tracking import (
    MAX_KEY_LENGTH,
    AlertRaised,
    Chart,
    ChartsArranged,
    ConfigUpdated,
    HParamsLogged,
    KeyedEvent,
    LinkedMetricsLogged,
    MetricDefined,
    MetricsLogged,
    ParamsLogged,
    RunStatus,
    SummaryUpdated,
    TagsDeleted,
    TagsSet,
)
from receivers._names import shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventbus import Origin
    from eventbus.journals.consumer import Part, RunKey

Layout = Literal["per_site", "combined"]
"""How a receiver lays out the sites of a run."""

LAYOUTS: tuple[Layout, ...] = ("per_site", "combined")

_FIELDS: Mapping[type[Event], tuple[str, ...]] = {
    MetricsLogged: ("values",),
    LinkedMetricsLogged: ("values", "model"),
    ParamsLogged: ("values",),
    ConfigUpdated: ("values",),
    SummaryUpdated: ("values",),
    TagsSet: ("values",),
    TagsDeleted: ("keys",),
    MetricDefined: ("name", "step_metric"),
    HParamsLogged: ("params", "metrics", "domain", "run_name"),
    ChartsArranged: ("charts",),
    AlertRaised: ("title",),
    KeyedEvent: ("key",),
}

OF_TRACKERS = ("mlflow.", "wandb.")
"""What tags begin with that say something of the tracker's run: under another name nobody would understand them."""

_SEVERITY = {RunStatus.FINISHED: 0, RunStatus.KILLED: 1, RunStatus.FAILED: 2}


def run_key(layout: Layout, origin: Origin, run: str) -> RunKey:
    """Return which of the tracker's runs a record goes to; records without a run have one per partition."""
    return "" if layout == "combined" else origin.site, run or origin.own_run


def prefixed(event: Event, site: str) -> tuple[Event, int]:
    """Put its site before an event's keys, so that those of several sites stand apart in one run.

    A key that gets longer than a key may be is cut and ends with its digest: so it stays its own.

    Args:
        event: What was logged; kinds without keys stay as they are.
        site: Where.

    Returns:
        The event to store, and how many of its keys were cut.
    """
    shortened = 0

    def put(key: str) -> str:
        nonlocal shortened
        full = f"{site}/{key}"
        if len(full) <= MAX_KEY_LENGTH:
            return full
        shortened += 1
        return shorten(full, MAX_KEY_LENGTH)

    fields = _fields_with_keys(event)
    if not fields:
        return event, 0
    changed = {field: _renamed(getattr(event, field), put) for field in fields}
    if isinstance(event, TagsSet):
        changed["values"] |= {key: value for key, value in event.values.items() if key.startswith(OF_TRACKERS)}
    elif isinstance(event, TagsDeleted):
        changed["keys"] += [key for key in event.keys if key.startswith(OF_TRACKERS)]
    return event.model_copy(update=changed), shortened


def _fields_with_keys(event: Event) -> tuple[str, ...]:
    if isinstance(event, MetricsLogged) and event.main_tag is not None:
        return ("main_tag", *_fields_of(type(event))[1:])
    return _fields_of(type(event))


@cache
def _fields_of(kind: type[Event]) -> tuple[str, ...]:
    """Return which fields of an event name something in the run, or hold values by such names."""
    return next((_FIELDS[cls] for cls in kind.__mro__ if cls in _FIELDS), ())


def _renamed(value: Any, put: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return put(value) if value else value
    if isinstance(value, dict):
        return {put(key): inner for key, inner in cast("dict[str, Any]", value).items()}
    return [_of_site(one, put) for one in value] if value else value


def _of_site(one: str | Chart, put: Callable[[str], str]) -> str | Chart:
    if isinstance(one, str):
        return put(one)
    return one.model_copy(update={"category": put(one.category), "tags": [put(tag) for tag in one.tags]})


def verdict(parts: Mapping[str, Part]) -> tuple[RunStatus, str] | None:
    """Return how a run ended: as the worst of its sites, for their reasons; None while one of them goes on."""
    if not parts or any(part.status is None for part in parts.values()):
        return None
    worst = max((RunStatus(part.status) for part in parts.values()), key=lambda status: _SEVERITY[status])
    reasons = {site: part.reason for site, part in parts.items() if part.status == worst.value and part.reason}
    if len(parts) == 1:
        return worst, "".join(reasons.values())
    return worst, "; ".join(f"{site}: {reason}" for site, reason in reasons.items())
