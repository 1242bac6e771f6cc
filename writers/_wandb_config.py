"""The configuration and the summary of a W&B look-alike: read and written by item or attribute, and published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, cast

from eventbus.tracking import SummaryUpdated, TrackingEvent
from writers._wandb_log import more_than_json, publish_with

if TYPE_CHECKING:
    from argparse import Namespace

    from pydantic import JsonValue

    from eventbus import Receipt
    from writers._writer import TrackingWriter


class Settings:
    """Values by key, whose every change is published.

    What is read back is what was recorded: a tuple is a list, a number of numpy a plain one.

    Args:
        tracking: Publishes them.
        items: Where they are remembered.
    """

    _called: ClassVar[tuple[str, str]]
    _tracking: TrackingWriter
    _items: dict[str, JsonValue]

    def __init__(self, tracking: TrackingWriter, items: dict[str, JsonValue] | None = None) -> None:
        object.__setattr__(self, "_tracking", tracking)
        object.__setattr__(self, "_items", {} if items is None else items)

    def _set(self, values: Any) -> Receipt:
        """Publish values, and remember them as they were recorded."""
        raise NotImplementedError

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or the default."""
        return self._items.get(key, default)

    def keys(self) -> list[str]:
        """Return the keys."""
        return list(self._items)

    def items(self) -> list[tuple[str, Any]]:
        """Return the keys with their values."""
        return list(self._items.items())

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as a dict."""
        return dict(self._items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __setitem__(self, key: str, val: Any) -> None:
        self._set({key: val})

    def __getattr__(self, key: str) -> Any:
        items = self.__dict__.get("_items", {})  # absent while a copy is being made
        if key not in items:
            name, short = self._called
            msg = f"the {name} has no {key!r}; set it first: {short}.{key} = ..."
            raise AttributeError(msg)
        return items[key]

    __setattr__ = __setitem__

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return repr(self._items)


class WandBConfig(Settings):
    """The configuration of a run: set and read by item or by attribute, as W&B's; every change is published.

    A later value replaces an earlier one, `allow_val_change` or not.
    """

    _called = ("configuration", "config")

    def update(self, d: Mapping[str, Any] | Namespace, allow_val_change: bool | None = None) -> Receipt:
        """Set values by key.

        Args:
            d: A mapping, or what `argparse` parsed.
            allow_val_change: Accepted: a value may always change.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        return self._set(mapping(d))

    def setdefaults(self, d: Mapping[str, Any] | Namespace) -> Receipt:
        """Set values by key, but for keys that have one.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        values = mapping(d)
        return self._set({key: value for key, value in values.items() if key not in self._items})

    def _set(self, values: Any) -> Receipt:
        events = self._tracking.intake.config(values)
        for event in events:
            self._items.update(deepcopy(event.values))  # what is read back may be changed by whoever reads it
        return self._tracking.publish(events, values)


class WandBSummary(Settings):
    """Values that stand for the whole run: what was logged last, and what is set here.

    A value that is set is published as it is; a picture or a table as if it were logged. A nested value is set as a
    whole: `summary["best"] = {**summary["best"], "loss": 0.1}`, or by `update`, which merges.
    """

    _called = ("summary", "summary")

    def update(self, d: Mapping[str, Any] | None = None) -> Receipt:
        """Set values by key; nested ones are merged into those that are there.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        given: Any = {} if d is None else mapping(d)
        if not isinstance(given, Mapping):
            return self._set(given)  # the intake refuses it by name
        values = cast("Mapping[str, Any]", given)
        return self._set({key: _merged(self._items.get(key), value) for key, value in values.items()})

    def _set(self, values: Any) -> Receipt:
        intake = self._tracking.intake
        plain, others = more_than_json(values, intake)
        events: list[TrackingEvent] = []
        for event in intake.config(plain):
            self._items.update(deepcopy(event.values))
            events.append(SummaryUpdated(values=event.values))
        if not others:
            return self._tracking.publish(events, values)
        return publish_with(self._tracking, others, None, events)


def mapping(values: Mapping[str, Any] | Namespace) -> Mapping[str, Any]:
    """Return what a mapping holds, or what `argparse` parsed; anything else is left to the intake to refuse by name."""
    return cast("Mapping[str, Any]", vars(values) if _is_namespace(values) else values)


def _is_namespace(values: object) -> bool:
    """Tell what `argparse` parsed, without importing it for those who never use it."""
    return not isinstance(values, Mapping) and hasattr(values, "__dict__")


def _merged(old: Any, new: Any) -> Any:
    """Return `new` over `old`: mappings key by key, everything else as a whole."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    under, over = cast("Mapping[str, Any]", old), cast("Mapping[str, Any]", new)
    return {**under, **{key: _merged(under.get(key), value) for key, value in over.items()}}
