"""The two ways in which a receiver lays out the runs of several sites in its tracker. Pure.

| | `per_site` | `combined` |
| --- | --- | --- |
| runs in the tracker | one per run and site | one per run, for all sites |
| its name | `<site>-<name>` | `<name>` |
| keys of metrics, params, tags, configuration and texts | as logged | `<site>/<key>` |
| the `main_tag` of metrics that share a chart | as logged | `<site>/<main_tag>`, and their keys as logged |
| it ends | with its site | with the last site that wrote to it, with the worst status of them all |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from eventbus.tracking import (
    MAX_KEY_LENGTH,
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    RunStatus,
    TagsSet,
    TextLogged,
)
from receivers._names import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventbus import Event, Origin
    from eventbus.journals.consumer import Part, RunKey

Layout = Literal["per_site", "combined"]
"""How a receiver lays out the sites of a run."""

LAYOUTS: tuple[Layout, ...] = ("per_site", "combined")

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

    changed: dict[str, Any] = {}
    match event:
        case MetricsLogged(main_tag=str(tag)):
            changed["main_tag"] = put(tag)
        case MetricsLogged() | ParamsLogged() | TagsSet() | ConfigUpdated():
            changed["values"] = {put(key): value for key, value in event.values.items()}
        case TextLogged():
            changed["key"] = put(event.key)
        case _:
            return event, 0
    return event.model_copy(update=changed), shortened


def verdict(parts: Mapping[str, Part]) -> tuple[RunStatus, str] | None:
    """Return how a run ended: as the worst of its sites, for their reasons; None while one of them goes on."""
    if not parts or any(part.status is None for part in parts.values()):
        return None
    worst = max((RunStatus(part.status) for part in parts.values()), key=lambda status: _SEVERITY[status])
    reasons = {site: part.reason for site, part in parts.items() if part.status == worst.value and part.reason}
    if len(parts) == 1:
        return worst, "".join(reasons.values())
    return worst, "; ".join(f"{site}: {reason}" for site, reason in reasons.items())
