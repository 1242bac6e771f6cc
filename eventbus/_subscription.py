"""A handler's subscription: its queue, its policy when the queue is full, its counts."""

from __future__ import annotations

import inspect
import logging
import math
import threading
import time
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import msgspec

from eventbus._holding import be_handler, is_within_handler, may_wait_for
from eventbus._overflow import QUEUE_EVENTS, LatestByKey, Overflow, latest_of
from eventbus._report import Line
from eventbus._topic import Scope
from eventbus._wake_up import WakeUp
from eventbus.errors import SubscriptionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from eventbus._event import Envelope, Event
    from eventbus._topic import Selector

BLOCK_SECONDS = 5.0
"""How long a publishing thread waits for a handler with policy `BLOCK`; one that has not moved then is stalled."""

OVER_BOUND = 2
"""How many times its bound a queue holds of what is published by those that can't wait, as the bus's own loop can't."""

HANDLERS_OVER_BOUND = 16
"""The same for what handlers publish: each of a full queue may publish several; one that feeds itself has no end."""

ROOM_SECONDS = 0.001
"""How often a waiting coroutine looks whether a handler has caught up."""

_OLDEST_GOES = (Overflow.DROP_OLDEST, Overflow.COALESCE)

YIELD_EVERY = 256
"""A handler that never waits gives the loop to others once per so many events."""

THREAD_SECONDS = 1.0
"""How long a synchronous handler waits for its thread where the environment allows no more of them."""

_logger = logging.getLogger("trackbus.bus")


class HandlerStatistics(msgspec.Struct, kw_only=True):
    """Counts of one subscription, in events.

    Attributes:
        accepted: Offered to the handler.
        delivered: The handler returned.
        dropped: Given up because the queue was full, or because the drain ended.
        coalesced: Replaced in the queue by a later event of the same key, as `Overflow.COALESCE` has it.
        failed: The handler raised, or the function that makes its keys.
        queued: Waiting now, or being handled.
    """

    accepted: int = 0
    delivered: int = 0
    dropped: int = 0
    coalesced: int = 0
    failed: int = 0
    queued: int = 0


class Subscription:
    """Delivers records to one handler, in order, one at a time.

    Made by `EventBus.subscribe`. An asynchronous handler runs on the bus's loop, a synchronous one in a thread. What a
    handler raises is counted and ends nothing: neither does `sys.exit()`, nor something it awaits that was cancelled.

    Attributes:
        name: What the report calls it.
        selector: What it wants.
        is_closed: Whether it takes no more events.
        leave: Has the bus offer it no more events.
    """

    leave: Callable[[], None]

    def __init__(
        self,
        selector: Selector,
        handler: Callable[[Any], Awaitable[None] | None],
        *,
        name: str = "handler",
        envelopes: bool = False,
        overflow: Overflow = Overflow.BLOCK,
        queue_events: int = QUEUE_EVENTS,
        coalesce_key: Callable[[Envelope[Any]], Hashable] | None = None,
    ) -> None:
        _check(handler, overflow, queue_events, coalesce_key)
        self.name = name
        self.selector = selector
        self._handler = handler
        self._is_async = inspect.iscoroutinefunction(inspect.unwrap(handler)) or inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004 - an object whose __call__ is async counts too
        )
        self._overflow = overflow
        self._bound = queue_events
        self._envelopes = envelopes
        self._latest = LatestByKey(coalesce_key or latest_of) if overflow is Overflow.COALESCE else None
        self._queue: deque[Envelope[Event]] | LatestByKey = deque() if self._latest is None else self._latest
        self._delivered = self._dropped = self._failed = 0
        self._in_hand = 0  # 1 while the handler works on an event
        self._room = threading.Event()
        self._tight = False  # whether a publisher may be waiting for room
        self._stalled = False
        self._closing = False
        self.is_closed = False
        self._abandoned = False
        self.finished = False
        self._home_thread = threading.get_ident()  # it is made on the bus's loop
        self._wake = WakeUp()

    @property
    def may_block(self) -> bool:
        """Whether a publisher ever waits for this handler."""
        return self._overflow is Overflow.BLOCK

    @property
    def is_full(self) -> bool:
        """Whether a publisher should wait before it publishes more."""
        return self._overflow is Overflow.BLOCK and not self._stalled and len(self._queue) > self._bound

    @property
    def progress(self) -> int:
        """A number that grows as long as the subscription gets on."""
        return self._delivered + self._failed

    def offer(self, envelope: Envelope[Event]) -> bool:
        """Queue one record, in the order of the journal; tell whether the publisher should wait for room."""
        queue = self._queue
        queue.append(envelope)
        if self._wake.idle:
            self._wake()
        if len(queue) <= self._bound:
            return False
        self._handle_overflow()
        return self.is_full

    def _handle_overflow(self) -> None:
        nobody_waits = self._stalled or len(self._queue) > self._times_bound() * self._bound
        try:
            if self._overflow in _OLDEST_GOES:
                self._queue.popleft()
            elif self._overflow is Overflow.DROP_NEWEST or nobody_waits:
                self._queue.pop()
            else:
                self._room.clear()
                self._tight = True
                return
        except IndexError:  # the handler's thread was faster
            return
        self._dropped += 1

    def _times_bound(self) -> float:
        """Tell how far over the bound who publishes now may go; a thread waits after each, so it goes one over."""
        if is_within_handler():
            return HANDLERS_OVER_BOUND
        return OVER_BOUND if threading.get_ident() == self._home_thread else math.inf

    def wait_for_room(self) -> None:
        """Hold a publishing thread until the handler has caught up; one that stands still is waited for once."""
        if self.is_full:
            with may_wait_for(self) as may_wait:
                before = self.progress
                if may_wait and not self._room.wait(BLOCK_SECONDS):
                    self._judge(before)

    async def wait_for_room_async(self) -> None:
        """Hold a publishing coroutine until the handler has caught up."""
        with may_wait_for(self) as may_wait:
            before, deadline = self.progress, time.monotonic() + BLOCK_SECONDS
            while may_wait and self.is_full:
                if time.monotonic() > deadline:
                    self._judge(before)
                    before, deadline = self.progress, time.monotonic() + BLOCK_SECONDS
                await anyio.sleep(ROOM_SECONDS)

    def _judge(self, before: int) -> None:
        """Wait no more for a handler that has handled nothing."""
        if self.progress == before and self.is_full:
            self._stalled = True
            _logger.warning("%s has not caught up for %.0f s: further events are dropped", self.name, BLOCK_SECONDS)

    async def run(self) -> None:
        """Deliver until the subscription is closed and its queue is empty."""
        self._token = anyio.lowlevel.current_token()
        be_handler(self)
        while True:
            while self._queue:
                await self._deliver_queued()
            if self._closing:
                self.finished = True
                return
            self._wake.arm()
            if not self._queue and not self._closing:
                await self._wake.wait()

    async def _deliver_queued(self) -> None:
        if not self._is_async:
            await self._have_thread_deliver()
            return
        queue, handler, whole = self._queue, self._handler, self._envelopes
        for _ in range(YIELD_EVERY):
            if not queue:
                break
            self._in_hand = 1  # before it leaves the queue: an event is never in neither
            envelope = queue.popleft()
            try:
                await handler(envelope if whole else envelope.event)  # type: ignore[misc] - async, as checked
                self._delivered += 1
            except (Exception, SystemExit, anyio.get_cancelled_exc_class()) as error:  # border: it touches no other
                if _is_own_end(error):
                    raise
                self._count_failure(error)
            self._in_hand = 0
            if self._tight:
                self._make_room()
        else:
            await anyio.lowlevel.checkpoint()

    async def _have_thread_deliver(self) -> None:
        try:
            await _run_in_thread(self._deliver_in_thread, self.name)
        except RuntimeError as error:  # Python's word for no memory and no more threads
            _logger.warning("handler %s waits: %s", self.name, error)
            await anyio.sleep(THREAD_SECONDS)

    def _deliver_in_thread(self) -> None:
        queue = self._queue
        for _ in range(YIELD_EVERY):
            self._in_hand = 1
            try:
                envelope = queue.popleft()
            except IndexError:
                self._in_hand = 0
                return
            try:
                answer = self._handler(envelope if self._envelopes else envelope.event)
                if inspect.isawaitable(answer):  # a lambda round a coroutine function
                    anyio.from_thread.run(_wait_for, answer, token=self._token)
                self._delivered += 1
            except BaseException as error:  # noqa: BLE001 - border: its thread ends in silence, the event uncounted
                self._count_failure(error)
            self._in_hand = 0
            if self._tight:
                self._make_room()

    def _make_room(self) -> None:
        if len(self._queue) <= self._bound:
            self._stalled = self._tight = False
            self._room.set()

    def _count_failure(self, error: BaseException) -> None:
        self._failed += 1
        if self._failed == 1:
            _logger.warning("handler %s raised; later errors are only counted", self.name, exc_info=error)

    def miss(self, topic: str | None) -> None:
        """Count a relayed record that can't be decoded; its topic is known, or not even that."""
        if topic is None or self.selector.admits(topic, self.selector.only or Scope.LOCAL):
            self._dropped += 1

    def close(self) -> None:
        """Take no more events, deliver what is queued, and end; its counts stay in the report. Legal twice."""
        self.leave()
        self.end()

    def end(self) -> None:
        """Deliver what is queued, then end."""
        self._closing = True
        self._wake()

    def abandon(self) -> None:
        """Count what the drain had no time for."""
        self._abandoned = not self.finished
        self._dropped += len(self._queue)
        self._queue.clear()
        self._room.set()

    def line(self) -> Line:
        """Return this handler's part of the report."""
        counts = self.statistics()
        lost = counts.dropped + counts.failed
        notes = (f"{counts.coalesced} coalesced",) if counts.coalesced else ()
        return Line(self.name, counts.delivered, counts.dropped, counts.failed, lost, counts.queued, notes)

    def statistics(self) -> HandlerStatistics:
        """Return the counts so far."""
        queued, dropped, failed, coalesced = len(self._queue), self._dropped, self._failed, 0
        if self._latest is not None:
            coalesced, failed = self._latest.coalesced, failed + self._latest.failed
        if self._abandoned:
            dropped += self._in_hand
        else:
            queued += self._in_hand
        return HandlerStatistics(
            accepted=self._delivered + failed + dropped + coalesced + queued,
            delivered=self._delivered,
            dropped=dropped,
            coalesced=coalesced,
            failed=failed,
            queued=queued,
        )


def _is_own_end(error: BaseException) -> bool:
    """Tell the cancellation of the handler's own task from that of something it awaits: asyncio raises the same."""
    return isinstance(error, anyio.get_cancelled_exc_class()) and anyio.current_effective_deadline() == -math.inf


def _check(handler: object, overflow: object, queue_events: int, coalesce_key: object) -> None:
    """Refuse what a type checker would refuse, too: not all callers have one."""
    if not callable(handler):
        raise SubscriptionError(f"the handler {handler!r} can't be called; subscribe a function or a receiver")
    if not isinstance(overflow, Overflow):
        raise SubscriptionError(f"overflow={overflow!r} is none; write overflow=Overflow.DROP_OLDEST, for example")
    if queue_events < 1:
        raise SubscriptionError(f"queue_events={queue_events}: a queue holds at least one event")
    if coalesce_key is not None and overflow is not Overflow.COALESCE:
        raise SubscriptionError(f"coalesce_key is for overflow=Overflow.COALESCE, not for {overflow}")


async def _wait_for(answer: Awaitable[None]) -> None:
    await answer


async def _run_in_thread(call: Callable[[], None], name: str) -> None:
    """Run `call` in a thread of its own, and wait for it.

    The thread is a daemon: a handler that hangs must not keep the process from ending, as a pool's thread would.
    """
    done, context = WakeUp(), copy_context()
    done.arm()

    def run() -> None:
        try:
            context.run(call)
        finally:
            done()

    threading.Thread(target=run, name=f"trackbus handler {name}", daemon=True).start()
    await done.wait()
