"""Leaving a bus: wait for what was accepted, for as long as it gets on, and no longer than stated."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from eventbus._feed import ConsumerFeed
    from eventbus._report import Line
    from eventbus._subscription import Subscription

DRAIN_IDLE_SECONDS = 10.0
"""A drain ends after so long without progress: a tracker that hangs must not hang the exit."""

DRAIN_SECONDS = 60.0
"""A drain ends after so long in all; what is left stays in the journal."""

CHECK_SECONDS = 0.02
"""How often a drain looks for progress."""


@dataclass(slots=True)
class DrainPolicy:
    """Deadlines of a drain, in seconds: without progress, and in all."""

    idle_timeout: float = DRAIN_IDLE_SECONDS
    timeout: float = DRAIN_SECONDS

    def cut_short(self) -> None:
        """End the drain, one that is under way too: a person has asked for it twice. Legal from any thread."""
        self.timeout = 0.0


class Shield:
    """Lets a bus's tasks outlive a cancellation of its body: what the body has logged is drained like anything else."""

    def __init__(self) -> None:
        self._scopes: list[anyio.CancelScope] = []

    def cover(self, run: Callable[[], Awaitable[None]]) -> Callable[[], Coroutine[Any, Any, None]]:
        """Return what runs the same until the shield is lifted."""

        async def covered() -> None:
            with anyio.CancelScope(shield=True) as scope:
                self._scopes.append(scope)
                await run()

        return covered

    def lift(self) -> None:
        """Cancel what is still running."""
        for scope in self._scopes:
            scope.cancel()


async def drain(
    subscriptions: Sequence[Subscription], feeds: Sequence[ConsumerFeed], policy: DrainPolicy
) -> tuple[bool, dict[str, Line]]:
    """Let every subscription finish.

    Returns:
        Whether all did before a deadline, and what the consumers did, by name: what they left is counted while the
        journal is still open.
    """
    for subscription in subscriptions:
        subscription.end()
    for feed in feeds:
        feed.begin_drain()
        await feed.note_ends()
    in_time = await _wait_for_all(subscriptions, feeds, policy)
    for subscription in subscriptions:
        subscription.abandon()
    return in_time, {feed.name: await feed.final_line() for feed in feeds}


async def _wait_for_all(
    subscriptions: Sequence[Subscription], feeds: Sequence[ConsumerFeed], policy: DrainPolicy
) -> bool:
    started = last_progress = time.monotonic()
    progress = -1
    while any(not one.finished for one in (*subscriptions, *feeds)):
        now = time.monotonic()
        current = sum(one.progress for one in (*subscriptions, *feeds))
        if current != progress:
            progress, last_progress = current, now
        if now - started > policy.timeout or now - last_progress > policy.idle_timeout:
            return False
        await anyio.sleep(CHECK_SECONDS)
    return True
