"""Which bus a writer uses when none is named: the innermost one entered here, else the only one in this process."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

from eventbus.errors import AmbiguousBusError, NoBusError

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventbus._bus import Bus

_innermost: ContextVar[Bus | None] = ContextVar("trackbus_current_bus", default=None)
_open: list[Bus] = []
_from_environment: list[Callable[[], Bus | None]] = []


def enter(bus: Bus) -> Token[Bus | None]:
    """Make `bus` the innermost one of this context."""
    if bus not in _open:  # in the background it is entered by the loop's thread and by the caller's
        _open.append(bus)
    return _innermost.set(bus)


def leave(bus: Bus, token: Token[Bus | None]) -> None:
    """Undo `enter`."""
    if bus in _open:
        _open.remove(bus)
    if _innermost.get() is bus:
        # Set, not reset: a token is refused in a copy of its context, as each task has one.
        _innermost.set(None if token.old_value is Token.MISSING else token.old_value)


def open_buses() -> tuple[Bus, ...]:
    """Return the buses that are entered in this process."""
    return tuple(_open)


def set_environment_opener(opener: Callable[[], Bus | None]) -> None:
    """Register what opens the bus that the environment names."""
    _from_environment[:] = [opener]


def current_bus() -> Bus:
    """Return the bus that a writer uses when none is named.

    Raises:
        NoBusError: No bus is open, and the environment names none.
        AmbiguousBusError: Several buses are open, and none of them was entered in this context.
    """
    bus = _innermost.get()
    if bus is not None and bus in _open:  # a task that outlives its bus still has it in its context
        return bus
    if len(_open) == 1:
        return _open[0]
    if _open:
        msg = f"{len(_open)} buses are open; say which one: bus=..."
        raise AmbiguousBusError(msg)
    for opener in _from_environment:
        if (named := opener()) is not None:
            return named
    msg = "no bus is open; use `async with EventBus(...)` or `with EventBus(...).background()`, or pass bus="
    raise NoBusError(msg)
