"""Which bus a writer publishes on, and what becomes of a writer where recording is turned off.

With `TRACKBUS_MODE=disabled` a script runs as it stands and leaves no trace. A writer checks its input as always, so
that a mistake shows, and publishes nothing: it needs no bus, and touches none. An `EventBus` keeps its journal in
memory, makes no folder, and starts no receiver and no relay: no file, no process, no connection, and no complaint about
a missing key or SDK. Its handlers go on to get what is published on the bus itself.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from eventbus import Origin, current_bus
from eventbus._bus import Bus
from eventbus._mode import is_disabled
from eventbus.blobs import BlobStore
from eventbus.journals import MemoryJournal
from eventbus.workspace import bus_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventbus.abc import LocalJournal

T = TypeVar("T")


def bus_for(bus: Bus | None) -> Bus:
    """Return the bus to publish on: the one given, else the current one; neither where writers are off.

    Raises:
        NoBusError: No bus is given and none is open.
        AmbiguousBusError: No bus is given and several are open.
        ConfigurationError: The environment names a mode that is not known.
    """
    if is_disabled():
        return nowhere()
    return current_bus() if bus is None else bus


def made_again(kind: Callable[..., T], address: str, options: Mapping[str, Any]) -> T:
    """Make a writer that came from another process, on the bus that it had there.

    Args:
        kind: Its class.
        address: The bus's; empty for one in memory: it is the current one here.
        options: What the class takes beside the bus.

    Raises:
        NoBusError: The bus was in memory, and none is open here.
        AmbiguousBusError: It was in memory, and several are open here.
    """
    return kind(bus=bus_at(address) if address and not is_disabled() else None, **options)


@cache
def nowhere() -> Bus:
    """Return a bus that nobody reads and that forgets each event at the next one."""
    bus = Bus(_forgetful_journal)
    bus.open()
    bus.blobs = BlobStore(None)
    bus.home.leave()  # nobody reads it: there is nothing to wait for
    return bus


def is_nowhere(bus: Bus) -> bool:
    """Tell whether a bus is that of `nowhere`, without opening it."""
    return nowhere.cache_info().currsize > 0 and bus is nowhere()


def _forgetful_journal() -> LocalJournal:
    return MemoryJournal(Origin(site="nowhere", rank=0, incarnation="0", job="disabled"), max_events=1)
