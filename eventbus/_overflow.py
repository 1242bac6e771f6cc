"""What happens when a handler's queue is full, and the queue that keeps the latest event of each kind."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING, Any, TypedDict

from eventbus._fork import call_in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from eventbus._event import Envelope, Event

QUEUE_EVENTS = 1024
"""Bound of a handler's queue."""

_logger = logging.getLogger("trackbus.bus")


class Overflow(Enum):
    """What happens when a handler is slower than what it is subscribed to; whatever it does not get is counted."""

    BLOCK = "block"
    """The publisher waits: its thread, or the coroutine that awaits the receipt.

    A handler that publishes waits for a slower one, and never for itself nor for one that waits for a handler too: what
    it publishes is queued over the bound then.
    """

    DROP_OLDEST = "drop_oldest"
    """The oldest queued event makes room."""

    DROP_NEWEST = "drop_newest"
    """The new event is not queued: what was accepted first is handled, without a gap up to where the queue was full."""

    COALESCE = "coalesce"
    """Only the latest event of each `coalesce_key` is kept, full or not; with too many keys the oldest makes room.

    It takes the place of the one that it replaces: no key waits longer because it is published more often. So order is
    kept within a key, and not from one key to another.
    """


class HandlerOptions(TypedDict, total=False):
    """What may be said of a handler's subscription: see `EventBus.subscribe`."""

    name: str
    overflow: Overflow
    queue_events: int
    coalesce_key: Callable[[Envelope[Any]], Hashable]


def latest_of(envelope: Envelope[Event]) -> Hashable:
    """Return what an event tells the latest of: the default `coalesce_key`.

    Its kind and what it is about (for metrics: which ones), in its run, at its site and rank.
    """
    event, origin = envelope.event, envelope.origin
    return type(event), event.event_subject, envelope.run, origin.site, origin.rank


class LatestByKey:
    """A queue with one place per key: what comes anew takes the place of what it replaces.

    It has the methods of a deque that a subscription uses, and they are legal from any thread.

    Attributes:
        failed: How many were left out because their key could not be made.
    """

    def __init__(self, key: Callable[[Envelope[Any]], Hashable]) -> None:
        self._key = key
        self._places: OrderedDict[Hashable, Envelope[Event]] = OrderedDict()
        self._put = self._taken = self.failed = 0
        self._make_lock()
        call_in_child(self._make_lock)

    def _make_lock(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler may publish while its thread does

    def __len__(self) -> int:
        return len(self._places)

    def append(self, envelope: Envelope[Event]) -> None:
        """Put an event into the place of its key, or at the end if the key has none."""
        try:
            key = self._key(envelope)
            hash(key)
        except Exception as error:  # noqa: BLE001 - border: a user's key is counted, and not raised where one publishes
            self._count_failure(error)
            return
        with self._lock:
            self._put += 1
            self._places[key] = envelope

    @property
    def coalesced(self) -> int:
        """How many events were replaced: what was put in, and is neither there nor was taken."""
        with self._lock:
            return self._put - self._taken - len(self._places)

    def _count_failure(self, error: Exception) -> None:
        self.failed += 1
        if self.failed == 1:
            _logger.warning("a coalesce_key raised; later errors are only counted", exc_info=error)

    def popleft(self) -> Envelope[Event]:
        """Take out the event whose key has waited longest.

        Raises:
            IndexError: There is none.
        """
        with self._lock:
            if not self._places:
                raise IndexError
            self._taken += 1
            return self._places.popitem(last=False)[1]

    pop = popleft
    """Nothing is dropped at the end: what is new replaces what is old."""

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._taken += len(self._places)
            self._places.clear()
