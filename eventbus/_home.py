"""The loop that a bus lives on: how other threads and loops call it, and wait on it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from eventbus._feed import check_reached
from eventbus.errors import BusStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventbus._feed import ConsumerFeed

T = TypeVar("T")


class Home:
    """Made with its bus; the bus enters it with its loop and leaves it when it has drained.

    Args:
        feeds: What is waited for: the bus adds to it.
    """

    def __init__(self, feeds: Sequence[ConsumerFeed]) -> None:
        self._feeds = feeds
        self._thread: int | None = None
        self._entered = self._left = False

    def enter(self) -> None:
        """Make the current loop, and its thread, the bus's own."""
        self._token = anyio.lowlevel.current_token()
        self._thread = threading.get_ident()
        self._entered = True

    def leave(self) -> None:
        """Say that no loop answers any more."""
        self._entered, self._left = False, True

    @property
    def is_here(self) -> bool:
        """Whether the caller is on the thread of the bus's loop."""
        return threading.get_ident() == self._thread

    def call(self, call: Callable[[], T]) -> T:
        """Call on the bus's loop; legal from any thread."""
        return call() if self.is_here else anyio.from_thread.run_sync(call, token=self._token)

    async def wait_delivered(self, partition: str, seq: int, timeout: float | None) -> None:
        """Return when every consumer has stored a partition up to `seq`.

        Raises:
            NotDeliveredError: It took longer than `timeout` seconds; the message names who lags.
        """
        if self._entered and not self.is_here:  # awaited on another loop
            wait = self.wait_delivered_in_thread
            await anyio.to_thread.run_sync(wait, partition, seq, timeout, abandon_on_cancel=True)
            return
        with anyio.move_on_after(timeout):
            for feed in self._feeds:
                await feed.wait_reached(partition, seq)
        check_reached(self._feeds, partition, seq)

    def wait_delivered_in_thread(self, partition: str, seq: int, timeout: float | None) -> None:
        """Do what `wait_delivered` does, from a thread without a loop.

        Raises:
            NotDeliveredError: It took longer than `timeout` seconds; the message names who lags.
            BusStateError: Called on the bus's own loop, or on a bus without one.
        """
        if self._left:
            check_reached(self._feeds, partition, seq)
            return
        if not self._entered or self.is_here:
            msg = "this would wait for itself: on the bus's own loop use `await receipt.delivered()`"
            raise BusStateError(msg)
        anyio.from_thread.run(self.wait_delivered, partition, seq, timeout, token=self._token)
