"""Which handlers get a record: resolved once per kind of record, then one look-up."""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from eventbus._codec import decode_frame, read_frame
from eventbus._event import Event
from eventbus._feed import ConsumerFeed
from eventbus._holding import is_within_handler
from eventbus._topic import Scope
from eventbus.errors import BadInputError, DecodeError, SubscriptionError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from eventbus._event import Envelope, Origin
    from eventbus._home import Home
    from eventbus._subscription import Subscription
    from eventbus._topic import Selector
    from eventbus.abc import Consumer, Cursor, LocalJournal, RelayedBatch

Route = tuple[str, tuple["Subscription", ...]]
"""Name of the topic, and the handlers of its records of one type and scope."""

_logger = logging.getLogger("trackbus.bus")


class Router:
    """The subscriptions of a bus, and the routes to them."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self._open: list[Subscription] = []  # those that were not closed
        self.feeds: list[ConsumerFeed] = []
        self.blocking: tuple[Subscription, ...] = ()
        self._marks: Cursor | None = None
        self.relayed: Cursor = {}  # last records of the partitions that were relayed to this bus
        self.plain: dict[type[Event], Route] = {}  # local records on their class's own topic: the hot path
        self._others: dict[tuple[type[Event], str, int], Route] = {}

    def add(self, subscription: Subscription, lock: AbstractContextManager[object]) -> None:
        """Add a handler's subscription; the bus holds `lock`, which is taken again when the subscription is closed."""
        self.subscriptions.append(subscription)
        subscription.leave = partial(self._let_go, subscription, lock)
        self._route_anew()

    def _let_go(self, subscription: Subscription, lock: AbstractContextManager[object]) -> None:
        with lock:
            subscription.is_closed = True
            self._route_anew()

    def _route_anew(self) -> None:
        self._open = [one for one in self.subscriptions if not one.is_closed]
        self.blocking = tuple(one for one in self._open if one.may_block)
        self.plain.clear()
        self._others.clear()

    def resolve(self, event: Event, topic: str | None, scope: Scope) -> Route:
        """Return the topic and the handlers of a record; the bus holds its lock.

        Raises:
            BadInputError: `event` is none, or the topic or the scope isn't one.
        """
        cls = type(event)
        _check(event, topic, scope)
        name = topic or cls.event_topic
        route = self._others.get((cls, name, scope.value))
        if route is None:
            matching = (one for one in self._open if one.selector.matches(name, cls, scope))
            route = self._others[cls, name, scope.value] = (name, tuple(matching))
        if scope is Scope.LOCAL and name == cls.event_topic:
            self.plain[cls] = route
        return route

    async def take(
        self,
        batch: RelayedBatch,
        journal: LocalJournal,
        lock: AbstractContextManager[object],
        touch: Callable[[], None] | None,
    ) -> int:
        """Take a stretch of another bus's journal, once; see `Bus.accept`, whose lock is not held."""
        if self._marks is None:
            marks = await journal.marks()
            self._marks = marks if self._marks is None else self._marks  # two relays may begin at once
        key = batch.header.key
        known = self._marks.get(key, 0)
        self._marks[key] = mark = await journal.append(batch)
        for feed in self.feeds:
            feed.wake()
        if batch.records:
            self.relayed[key] = batch.records[-1][0]
        waiting = deque(record for record in batch.records if record[0] > known and self._open)
        try:
            while waiting:
                await self.wait_for_room()
                self._dispatch_some(batch.header.origin, waiting, lock, touch)
        finally:  # cancelled: nobody brings these again, so what is over a handler's bound is counted there
            with lock:
                for record in waiting:
                    self._dispatch(batch.header.origin, record)
        return mark

    def _dispatch_some(
        self,
        origin: Origin,
        waiting: deque[tuple[int, bytes]],
        lock: AbstractContextManager[object],
        touch: Callable[[], None] | None,
    ) -> None:
        """Hand over what blocking handlers have room for: other relays, on other loops too, do the same."""
        with lock:
            while waiting and (is_within_handler() or not self.is_crowded):
                self._dispatch(origin, waiting.popleft())
                if touch is not None:
                    touch()

    def _dispatch(self, origin: Origin, record: tuple[int, bytes]) -> None:
        (seq, body), topic = record, None
        try:
            frame = read_frame(body)
            topic = frame.topic
            envelope = decode_frame(frame, origin, seq)
        except DecodeError as error:
            _logger.warning("record %s of %s can't be shown to handlers: %s", seq, origin.partition, error)
            for subscription in self._open:
                subscription.miss(topic)
            return
        self.show(envelope)

    def show(self, envelope: Envelope[Event]) -> None:
        """Hand a record to its handlers; the bus holds its lock."""
        _, subscriptions = self.resolve(envelope.event, envelope.topic, envelope.scope)
        for subscription in subscriptions:
            subscription.offer(envelope)

    @property
    def is_crowded(self) -> bool:
        """Whether a blocking handler is over its bound."""
        return any(one.is_full for one in self.blocking)

    async def wait_for_room(self) -> None:
        """Return when no blocking handler that may be waited for is over its bound."""
        for subscription in self.blocking:
            if subscription.is_full:
                await subscription.wait_for_room_async()

    def wait_for_room_in_thread(self, home: Home) -> None:
        """Do the same in any thread; that of the loop does not wait."""
        if home.is_here:
            return
        for subscription in self.blocking:
            subscription.wait_for_room()

    def widen(self, selector: Selector, consumer: Consumer) -> bool:
        """Let a consumer that the bus serves already take one topic more.

        Returns:
            Whether it does: else it is a new one here.

        Raises:
            SubscriptionError: It does what another one does, or its name is taken.
        """
        for feed in self.feeds:
            if consumer.joins(feed.consumer):
                feed.selectors = (*feed.selectors, selector)
                return True
        self._check_free(consumer.name)
        return False

    def name_of(self, handler: Any, name: str) -> str:
        """Return the name of a handler, a numbered one if nobody named it.

        Raises:
            SubscriptionError: A subscription of that name exists.
        """
        if name:
            self._check_free(name)
            return name
        name = str(getattr(handler, "__qualname__", type(handler).__name__))
        taken = self._names()
        numbers = (f"{name}-{i}" for i in range(2, len(taken) + 3))
        return name if name not in taken else next(other for other in numbers if other not in taken)

    def _check_free(self, name: str) -> None:
        if name in self._names():
            msg = f"a subscription named {name!r} exists; give this one another name: name='...'"
            raise SubscriptionError(msg)

    def _names(self) -> set[str]:
        return {one.name for one in self.subscriptions} | {feed.name for feed in self.feeds}


def _check(event: object, topic: object, scope: object) -> None:
    """Refuse what a type checker would refuse: not all callers have one."""
    if not isinstance(event, Event):
        msg = f"publish takes an Event, not {type(event).__name__}; define a class that derives from eventbus.Event"
        raise BadInputError(msg)
    if not (isinstance(scope, Scope) and isinstance(topic, str | None)):
        msg = f"publish takes topic=<text> and scope=Scope.LOCAL or Scope.FEDERATED, not {topic!r} and {scope!r}"
        raise BadInputError(msg)
