"""A look-alike of a W&B run: the same methods, and no SDK behind them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

from eventbus import Receipt, Scope
from eventbus._fork import held_by_forks
from eventbus.errors import BadInputError
from eventbus.tracking import RunStatus, TrackingEvent
from writers._look_alike import LookAlike, also_named
from writers._runs import outcome
from writers._values import MAX_DEPTH

if TYPE_CHECKING:
    from argparse import Namespace
    from types import TracebackType

    from eventbus._bus import Bus
    from writers._intake import Intake, OnBadInput
    from writers._writer import TrackingWriter


_NUMBERS = frozenset({float, int})


class WandBWriter(LookAlike):
    """Logs with the methods of a W&B run: `log`, `config`, `finish`.

    Args:
        bus: Where to publish; by default the current bus.
        run: Id of the run; by default the bus's own.
        scope: Whether what is logged stays at its site or may cross to the server; by default what the bus says.
        on_bad_input: Whether what can't be recorded raises, or is left out and counted.

    Attributes:
        config: The run's configuration.
    """

    def __init__(
        self,
        *,
        bus: Bus | None = None,
        run: str | None = None,
        scope: Scope | None = None,
        on_bad_input: OnBadInput = "raise",
    ) -> None:
        super().__init__(bus=bus, run=run, scope=scope, on_bad_input=on_bad_input)
        self.config = WandBConfig(self.tracking)
        self._next_step = 0
        self._lock = held_by_forks(threading.Lock())

    @also_named(metrics="data")
    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> Receipt:
        """Log numbers and texts.

        Without a step the writer counts for itself, as W&B does: every call is a step of its own, unless
        `commit=False` lets the next call add to the same one. A step lower than an earlier one is kept, where
        W&B would drop its values.

        Args:
            data: Numbers and texts by key; a nested dict is flattened, its keys joined by '.'.
            step: Where on your own axis: an integer from 0; the writer's own count goes on from it.
            commit: Whether the step is complete; by default it is where none is given.

        Raises:
            BadInputError: A key, a value or the step can't be recorded, and bad input raises.
        """
        intake = self.tracking.intake
        numbers, texts = _parted(data, intake)
        with self._lock:
            given = None if step is None else intake.step(step)
            position = self._next_step if given is None else given
            events: list[TrackingEvent] = [*intake.metrics(numbers, position)]
            for key, text in texts.items():
                events += intake.text(key, text, position)
            is_complete = commit or (commit is None and step is None)
            self._next_step = max(self._next_step, position) + bool(is_complete)
        return self.tracking.publish(events, data)

    def finish(self, exit_code: int | None = None, quiet: bool | None = None) -> Receipt:
        """Say how the run ended; it ends when the bus is left. Waits for nothing.

        Args:
            exit_code: 0 for success, another number for a failure. None leaves it to how the bus is left.
            quiet: Accepted.
        """
        if exit_code is None:
            return self.tracking.finish()
        if exit_code == 0:
            return self.tracking.finish(RunStatus.FINISHED)
        return self.tracking.finish(RunStatus.FAILED, f"exit code {exit_code}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say that the run failed if an error ends the block, as W&B does."""
        if error is not None:
            self.tracking.finish(*outcome(error))


class WandBConfig:
    """The configuration of a run: set and read by item or by attribute, as W&B's; every change is published.

    What is read back is what was recorded: a tuple is a list, a number of numpy a plain one. A later value
    replaces an earlier one, `allow_val_change` or not.
    """

    _tracking: TrackingWriter
    _items: dict[str, JsonValue]

    def __init__(self, tracking: TrackingWriter) -> None:
        object.__setattr__(self, "_tracking", tracking)
        object.__setattr__(self, "_items", {})

    def update(self, d: Mapping[str, Any] | Namespace, allow_val_change: bool | None = None) -> Receipt:
        """Set values by key.

        Args:
            d: A mapping, or what `argparse` parsed.
            allow_val_change: Accepted: a value may always change.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        values = _mapping(d)
        events = self._tracking.intake.config(values)
        for event in events:
            self._items.update(event.values)
        return self._tracking.publish(events, values)

    def setdefaults(self, d: Mapping[str, Any] | Namespace) -> Receipt:
        """Set values by key, but for keys that have one.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        values = _mapping(d)
        return self.update({key: value for key, value in values.items() if key not in self._items})

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
        self.update({key: val})

    def __getattr__(self, key: str) -> Any:
        items = self.__dict__.get("_items", {})  # absent while a copy is being made
        if key not in items:
            msg = f"the configuration has no {key!r}; set it first: config.{key} = ..."
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


def _mapping(values: Mapping[str, Any] | Namespace) -> Mapping[str, Any]:
    # Anything else is left to the intake to refuse by name.
    return cast("Mapping[str, Any]", vars(values) if _is_namespace(values) else values)


def _is_namespace(values: object) -> bool:
    """Tell what `argparse` parsed, without importing it for those who never use it."""
    return not isinstance(values, Mapping) and hasattr(values, "__dict__")


def _parted(data: Any, intake: Intake) -> tuple[Any, dict[Any, str]]:
    """Part one call's data into numbers (and whatever else the intake is to refuse) and texts, both flat."""
    if not isinstance(data, dict):
        return data, {}
    given = cast("dict[Any, Any]", data)
    if _NUMBERS.issuperset(map(type, given.values())):  # the usual case, and four times as fast
        return given, {}
    try:
        flat = dict(_flat(given))
    except BadInputError as error:
        intake.bad.note("data", error)
        return {}, {}
    numbers = {key: value for key, value in flat.items() if not isinstance(value, str)}
    return numbers, {key: value for key, value in flat.items() if isinstance(value, str)}


def _flat(data: dict[Any, Any], above: str = "", depth: int = 0) -> Iterator[tuple[Any, Any]]:
    if depth > MAX_DEPTH:
        msg = f"data is nested deeper than {MAX_DEPTH} levels, or contains itself: flatten it"
        raise BadInputError(msg)
    for key, value in data.items():
        name = f"{above}{key}" if isinstance(key, str) else key
        if isinstance(value, dict):
            yield from _flat(cast("dict[Any, Any]", value), f"{name}.", depth + 1)
        else:
            yield name, value
