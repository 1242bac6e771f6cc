"""What a log call returns: whether the event is in the journal, and later, whether it is in the trackers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import anyio.lowlevel
import msgspec

from eventbus.errors import NotDeliveredError

if TYPE_CHECKING:
    from collections.abc import Generator

    from eventbus._home import Home

YIELD_EVERY = 32
"""An awaited receipt lets the loop run once per so many events: a tight loop of awaits must not starve the others."""


class Publisher(Protocol):
    """What a receipt needs of its bus.

    Attributes:
        waits: Whether an awaited receipt has anything to wait for.
        home: Where it waits.
    """

    waits: bool
    home: Home

    async def wait_for_room(self) -> None:
        """Return when no blocking handler is over its bound."""
        ...


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """The answer to a log call. Ignore it, await it, or ask it.

    Attributes:
        publisher: The bus that took the event.
        seq: Number of the event in its bus's own partition; 0 if it was refused.
        refused: Why the environment did not let the journal take it, or None. It is counted, and never raised.
    """

    publisher: Publisher
    seq: int
    refused: str | None = None

    def __await__(self) -> Generator[None, None, Receipt]:
        """Return when the event is stored as the bus's strength promises, and blocking handlers have room.

        At strength `durable` that is when it is on the disk; if the disk failed, the receipt that is returned says so
        in `refused`.
        """
        if self.publisher.waits or self.seq % YIELD_EVERY == 0:
            return (yield from self._stored().__await__())
        return self

    async def _stored(self) -> Receipt:
        await anyio.lowlevel.checkpoint()
        await self.publisher.wait_for_room()
        return self._answer(await self.publisher.home.wait_synced(self.seq))

    def wait(self, timeout: float | None = None) -> Receipt:
        """Do what awaiting does, from a thread; at strength `process` the event is stored already.

        Args:
            timeout: Seconds to wait, or None for no limit.

        Raises:
            NotSyncedError: It took longer.
            BusStateError: The bus is durable, and this is its own loop, which would stand still.
        """
        return self._answer(self.publisher.home.wait_synced_in_thread(self.seq, timeout))

    def _answer(self, refused: str | None) -> Receipt:
        return Receipt(self.publisher, self.seq, refused) if refused and not self.refused else self

    async def delivered(self, timeout: float | None = None) -> Receipt:
        """Return when every receiver and relay of this bus has stored the event.

        Args:
            timeout: Seconds to wait, or None for no limit.

        Raises:
            NotDeliveredError: It took longer, and the message names who lags; or the event was refused.
        """
        self._check_taken()
        await self.publisher.home.wait_delivered(self.seq, timeout)
        return self

    def wait_delivered(self, timeout: float | None = None) -> Receipt:
        """Do what `delivered` does, from a thread without a loop.

        Raises:
            NotDeliveredError: It took longer, and the message names who lags; or the event was refused.
            BusStateError: Called on the bus's own loop, which would wait for itself.
        """
        self._check_taken()
        self.publisher.home.wait_delivered_in_thread(self.seq, timeout)
        return self

    def _check_taken(self) -> None:
        if self.refused:
            msg = f"the event was refused and is not in the journal: {self.refused}"
            raise NotDeliveredError(msg)

    def __repr__(self) -> str:
        return f"Receipt(refused={self.refused!r})" if self.refused else f"Receipt(seq={self.seq})"
