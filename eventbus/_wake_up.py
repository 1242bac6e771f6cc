"""How a task that waits is woken from any thread."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Callable


class WakeUp:
    """Wakes one waiting task, from any thread; costs nothing while the task is busy.

    Attributes:
        idle: Whether the task waits: only then it must be woken.
    """

    __slots__ = ("_called", "_event", "_soon", "_thread", "idle")

    def __init__(self) -> None:
        self._soon: Callable[..., object] | None = None
        self._thread = 0
        self._event = anyio.Event()
        self._called = False
        self.idle = False

    def __call__(self) -> None:
        """Wake the task if it waits, else let its next wait return at once."""
        self._called = True
        if not self.idle:
            return
        try:
            self.idle = False
            if threading.get_ident() == self._thread:
                self._event.set()
            elif self._soon is not None:
                with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                    self._soon(self._event.set)
        except BaseException:  # border: an interrupt may strike before the task is woken: the next call wakes it
            self.idle = True
            raise

    def arm(self) -> None:
        """Say that the task is about to wait: look at the queue once more after this, then `wait`."""
        if self._soon is None:
            self._bind()
        self._event = anyio.Event()
        self.idle = True

    def _bind(self) -> None:
        token: Any = anyio.lowlevel.current_token().native_token
        # The loop's own way in, asyncio's or trio's: the one thing of either that anyio has no non-waiting form of.
        self._soon = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon
        self._thread = threading.get_ident()

    async def wait(self) -> None:
        """Wait until somebody calls, or return at once if somebody has called since the last wait."""
        try:
            if self._called:
                await anyio.lowlevel.checkpoint()
            else:
                await self._event.wait()
        finally:
            self.idle = self._called = False
