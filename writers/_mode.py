"""Which bus a writer publishes on, and the switch that turns every writer off."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from eventbus import Origin, current_bus
from eventbus._bus import Bus
from eventbus.errors import ConfigurationError
from eventbus.journals import MemoryJournal

if TYPE_CHECKING:
    from eventbus.abc import LocalJournal

MODE = "TRACKBUS_MODE"
"""Environment variable; `disabled` makes every writer check its input and record nothing."""


def bus_for(bus: Bus | None) -> Bus:
    """Return the bus to publish on: the one given, else the current one; neither where writers are off.

    Raises:
        NoBusError: No bus is given and none is open.
        AmbiguousBusError: No bus is given and several are open.
        ConfigurationError: The environment names a mode that is not known.
    """
    mode = os.environ.get(MODE, "")
    if mode == "disabled":
        return _nowhere()
    if mode not in ("", "enabled"):
        msg = f"{MODE}={mode!r} is not known: use 'disabled', or unset it"
        raise ConfigurationError(msg)
    return current_bus() if bus is None else bus


@cache
def _nowhere() -> Bus:
    """Return a bus that nobody reads and that forgets each event at the next one."""
    bus = Bus(_forgetful_journal)
    bus.open()
    return bus


def _forgetful_journal() -> LocalJournal:
    return MemoryJournal(Origin(site="nowhere", rank=0, incarnation="0", job="disabled"), max_events=1)
