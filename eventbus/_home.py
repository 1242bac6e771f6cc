"""The loop that a bus lives on: how other threads and loops call it, and wait on it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from eventbus._feed import check_reached
from eventbus._fork import call_in_child
from eventbus.errors import BusStateError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventbus._feed import ConsumerFeed
    from eventbus.abc import LocalJournal

T = TypeVar("T")


class Home:
    """Made with its bus; the bus enters it with its loop and leaves it when it has drained.

    Args:
        feeds: Whose delivery is waited for: the bus adds to it.
        durable: Whether a receipt waits until its event is on the disk.

    Attributes:
        journal: The bus's own, once it is open.
    """

    journal: LocalJournal

    def __init__(self, feeds: Sequence[ConsumerFeed], *, durable: bool = False) -> None:
        self._feeds = feeds
        self._durable = durable
        self._thread: int | None = None
        self._entered = self._left = self._lost = False
        call_in_child(self._lose)

    def _lose(self) -> None:
        """In a forked child there is no loop, and what is delivered is seen by the parent alone."""
        self._thread = None
        self._entered, self._lost = False, True

    def enter(self) -> None:
        """Make the current loop, and its thread, the bus's own."""
        self._token = anyio.lowlevel.current_token()
        self._thread = threading.get_ident()
        self._entered = True

    def leave(self) -> None:
        """Say that no loop answers any more."""
        self._entered, self._left = False, True

    @property
    def is_left(self) -> bool:
        """Whether the bus was left."""
        return self._left

    @property
    def is_here(self) -> bool:
        """Whether the caller is on the thread of the bus's loop."""
        return threading.get_ident() == self._thread

    def call(self, call: Callable[[], T]) -> T:
        """Call on the bus's loop; legal from any thread."""
        return call() if self.is_here else anyio.from_thread.run_sync(call, token=self._token)

    async def wait_synced(self, seq: int) -> str | None:
        """Return when a durable bus has its own partition on the disk up to `seq`, or why it never will."""
        return await self.journal.synced(seq) if self._durable and seq else None

    def wait_synced_in_thread(self, seq: int, timeout: float | None) -> str | None:
        """Do what `wait_synced` does, from a thread without a loop.

        Raises:
            NotSyncedError: It took longer than `timeout` seconds.
            BusStateError: Called on the loop of a durable bus.
        """
        if not (self._durable and seq):  # what was refused has no number
            return None
        self._check_elsewhere("`await receipt`")
        return self.journal.wait_synced(seq, timeout)

    async def wait_delivered(self, seq: int, timeout: float | None) -> None:
        """Return when every consumer has stored the bus's own partition up to `seq`.

        Raises:
            NotDeliveredError: It took longer than `timeout` seconds; the message names who lags.
            BusStateError: This is a forked child.
        """
        if self._entered and not self.is_here:  # awaited on another loop
            await anyio.to_thread.run_sync(self.wait_delivered_in_thread, seq, timeout, abandon_on_cancel=True)
            return
        self._check_not_lost()
        partition = self.journal.origin.partition
        with anyio.move_on_after(timeout):
            for feed in self._feeds:
                await feed.wait_reached(partition, seq)
        check_reached(self._feeds, partition, seq)

    def wait_delivered_in_thread(self, seq: int, timeout: float | None) -> None:
        """Do what `wait_delivered` does, from a thread without a loop.

        Raises:
            NotDeliveredError: It took longer than `timeout` seconds; the message names who lags.
            BusStateError: Called on the bus's own loop, on a bus without one, or in a forked child.
        """
        self._check_not_lost()
        if self._left:
            check_reached(self._feeds, self.journal.origin.partition, seq)
            return
        self._check_elsewhere("`await receipt.delivered()`")
        if not self._entered:
            msg = "the bus has no loop, so nothing is delivered from it; enter it with `async with` or `.background()`"
            raise BusStateError(msg)
        anyio.from_thread.run(self.wait_delivered, seq, timeout, token=self._token)

    def _check_elsewhere(self, instead: str) -> None:
        if self.is_here:
            msg = f"this would wait for itself: on the bus's own loop use {instead}"
            raise BusStateError(msg)

    def _check_not_lost(self) -> None:
        if self._lost:
            msg = "a forked child can't wait for delivery: its parent's receivers deliver what it logs"
            raise BusStateError(msg)
