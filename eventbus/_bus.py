"""The core of the bus: publish into a journal, deliver to handlers, drain.

It stands on any `LocalJournal` and knows no tracker, no vocabulary and no folder; `eventbus.workspace` adds those.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from contextlib import ExitStack
from time import time_ns as now_ns
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

import anyio

from eventbus import _current
from eventbus._drain import DrainPolicy, Shield, drain
from eventbus._event import Envelope, Event, Origin
from eventbus._feed import ConsumerFeed
from eventbus._fork import call_in_child, held_by_forks
from eventbus._home import Home
from eventbus._overflow import HandlerOptions
from eventbus._receipt import Receipt
from eventbus._report import Line, Report
from eventbus._routing import Router
from eventbus._statistics import BusStatistics, Observer
from eventbus._subscription import Subscription
from eventbus._topic import Scope, Selector, Topic
from eventbus.abc import Consumer, LocalJournal, RefusedError, RelayedBatch
from eventbus.blobs import BlobStore, blobs_of
from eventbus.errors import BusStateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import TracebackType

    from anyio.abc import TaskGroup

E = TypeVar("E", bound=Event)

_LOCAL = Scope.LOCAL  # looked up once: publishing is counted in tenths of microseconds

_logger = logging.getLogger("trackbus.bus")


class Bus:
    """Publishes typed events and delivers them to handlers and consumers.

    `async with` is its only lifetime: leaving drains every subscription, within its deadlines.

    Args:
        open_journal: Opens the journal when the bus is entered.
        drain_policy: Deadlines of the drain.
        durable: Whether an awaited receipt waits until its event is on the disk.

    Attributes:
        scope: How far travels what a writer logs here that names no scope.
    """

    def __init__(
        self,
        open_journal: Callable[[], LocalJournal],
        drain_policy: DrainPolicy | None = None,
        *,
        durable: bool = False,
    ) -> None:
        self.scope = Scope.LOCAL
        self.blobs = BlobStore(None)
        self._open_journal = open_journal
        self._drain_policy = drain_policy or DrainPolicy()
        self._durable = durable
        self._journal: LocalJournal | None = None
        self._shield = Shield()
        self._accepting = False
        self._drained = True
        self._lines: dict[str, Line] = {}
        self._begin()
        self.home = Home(self._feeds, durable=durable)
        call_in_child(self._begin)

    def _begin(self) -> None:
        """Begin with nobody subscribed, as a forked child does: handlers, consumers and last words are its parent's.

        The lock keeps journal order and delivery order the same. It is reentrant: a signal handler may log while its
        thread does.
        """
        self._lock = held_by_forks(threading.RLock())
        self._tasks: TaskGroup | None = None
        self._router = Router()
        self._plain_routes = self._router.plain
        self._feeds = self._router.feeds
        self.waits = self._durable  # for the disk, or since a blocking handler may be over its bound
        self._refused: Counter[str] = Counter()
        self._told = 0
        self._observer = Observer(self._router)
        self._at_close: list[Callable[[BaseException | None], None]] = []

    # --- lifetime -----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.open()
        self.home.enter()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._entered_by = anyio.get_current_task().id
        self._context = _current.enter(self)
        return self

    def open(self) -> None:
        """Open the journal and take events, without a loop: for a process that only publishes.

        Raises:
            BusStateError: The bus was entered before.
            JournalError: The journal can't be opened.
        """
        if self._journal is not None:
            raise BusStateError("a bus is entered once; make another EventBus for the same workspace")
        with self._lock:
            self._journal = self.home.journal = self._open_journal()
            self.blobs = self._open_blobs(self._journal)
            self._journal.care_for(self.blobs, durable=self._durable)
            self._append = self._journal.append_nowait
            self._accepting = True
        self._journal.listen(self.tell, lambda: self._lock)

    def _open_blobs(self, journal: LocalJournal) -> BlobStore:
        """Return where the payloads of this bus's events are kept."""
        return BlobStore.temporary() if journal.folder is None else BlobStore(blobs_of(journal.folder))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            _current.leave(self, self._context)
            self.stop(error)
        finally:
            await self._finish()

    async def _finish(self) -> None:
        tasks = self._entered_tasks()
        try:
            with anyio.CancelScope(shield=True):
                self._drained, self._lines = await drain(self._router.subscriptions, self._feeds, self._drain_policy)
        finally:
            self._shield.lift()
            if anyio.get_current_task().id == self._entered_by:  # in another it raises below, and cancels that one
                tasks.cancel_scope.cancel()
            try:
                await tasks.__aexit__(None, None, None)  # the body's own error passes by as it is, in no group
            finally:
                self._tasks = None
                self.home.leave()
                self.close()

    def stop(self, error: BaseException | None = None) -> None:
        """Run what was registered with `at_close`, then take no more events.

        One callback that raises keeps no other from running; its error is raised in the end.
        """
        with ExitStack() as last_words:
            last_words.callback(self._take_no_more)
            for callback in reversed(self._at_close):  # a stack runs them from its top
                last_words.callback(callback, error)

    def _take_no_more(self) -> None:
        with self._lock:
            self._accepting = False

    def close(self) -> None:
        """Let go of the journal. Legal twice."""
        self._take_no_more()
        if self._journal is not None:
            self._journal.close()
        self.blobs.close()

    def at_close(self, callback: Callable[[BaseException | None], None]) -> None:
        """Call `callback` when the bus is left, while it still takes events; it is given what ended the block."""
        self._at_close.append(callback)

    # --- publishing ---------------------------------------------------------------------------------------------

    @property
    def journal(self) -> LocalJournal:
        """The journal that the bus stands on.

        Raises:
            BusStateError: The bus was not entered yet.
        """
        if self._journal is None:
            msg = "the bus is not open; enter it: `async with EventBus(...)` or `with EventBus(...).background()`"
            raise BusStateError(msg)
        return self._journal

    @property
    def workspace(self) -> Path | None:
        """The folder of the bus, or None if it has none."""
        return None

    @property
    def origin(self) -> Origin:
        """Who publishes on this bus."""
        return self.journal.origin

    def publish(
        self,
        event: Event,
        *,
        topic: str | None = None,
        scope: Scope = Scope.LOCAL,
        run: str = "",
        time_ns: int | None = None,
    ) -> Receipt:
        """Append one event to the journal and hand it to the handlers. Legal from any thread, loop or not.

        Args:
            event: The event; its class names the topic unless `topic` does.
            topic: Topic to publish on.
            scope: How far it travels.
            run: Id of the run that it belongs to.
            time_ns: Wall time of the fact, nanoseconds since the epoch; now by default.

        Returns:
            A receipt. A refusal by the environment stands in it and is counted; it never raises.

        Raises:
            BadInputError: `event` is not an event or can't be encoded.
        """
        is_full = False
        try:
            with self._lock:
                route = self._plain_routes.get(type(event)) if topic is None and scope is _LOCAL else None
                name, subscriptions = route or self._router.resolve(event, topic, scope)
                if not self._accepting:
                    return self._refuse("the bus is closed" if self._journal else "the bus is not open")
                envelope = self._append(event, name, scope, run, now_ns() if time_ns is None else time_ns)
                for subscription in subscriptions:
                    is_full |= subscription.offer(envelope)
                for feed in self._feeds:
                    feed.wake()
        except RefusedError as error:
            time_ns = now_ns() if time_ns is None else time_ns
            return self._insist(str(error), event, topic=topic, scope=scope, run=run, time_ns=time_ns)
        if is_full:
            self.waits = True
            self._router.wait_for_room_in_thread(self.home)
        return Receipt(self, envelope.seq)

    def _insist(self, reason: str, event: Event, **options: Any) -> Receipt:
        """Try again once the journal has room, if this thread may wait for that."""
        has_room = not self.home.is_here and self.journal.wait_for_room()
        return self.publish(event, **options) if has_room else self.refuse(reason)

    def refuse(self, reason: str) -> Receipt:
        """Count what the environment does not allow before there is an event: a payload that can't be kept."""
        with self._lock:
            return self._refuse(reason)

    def _refuse(self, reason: str) -> Receipt:
        """Count a refusal; the lock is held."""
        self._refused[reason] += 1
        if self._refused[reason] == 1:
            _logger.warning("an event was refused: %s; more of the same are only counted", reason)
        return Receipt(self, 0, reason)

    def tell(self, event: Event) -> None:
        """Publish a word of the bus's own health, unless the bus takes no more events.

        Handlers are told even if the journal can't take it: that may be what there is to tell.
        """
        if self._accepting and self.publish(event).seq:
            self._told += 1
        elif self._accepting:
            with self._lock:
                self._router.show(Envelope(event, type(event).event_topic, _LOCAL, "", now_ns(), self.origin, 0))

    async def accept(self, batch: RelayedBatch, touch: Callable[[], None] | None = None) -> int:
        """Take a stretch of another bus's journal, once, and hand it to the handlers, as blocking ones have room.

        Args:
            batch: The stretch.
            touch: Called for each record that was handed over, since that may take long.

        Returns:
            The mark that this bus's journal has reached in that partition.
        """
        return await self._router.take(batch, self.journal, self._lock, touch)

    # --- subscribing --------------------------------------------------------------------------------------------

    @overload
    def subscribe(self, what: type[Event] | Topic[Event] | str, handler: Consumer) -> None: ...

    @overload
    def subscribe(
        self,
        what: type[E] | Topic[E],
        handler: Callable[[E], Awaitable[None] | None],
        *,
        envelopes: Literal[False] = False,
        **options: Unpack[HandlerOptions],
    ) -> Subscription: ...

    @overload
    def subscribe(
        self,
        what: type[E] | Topic[E],
        handler: Callable[[Envelope[E]], Awaitable[None] | None],
        *,
        envelopes: Literal[True],
        **options: Unpack[HandlerOptions],
    ) -> Subscription: ...

    @overload
    def subscribe(
        self, what: str, handler: Callable[[Event], Awaitable[None] | None], **options: Unpack[HandlerOptions]
    ) -> Subscription: ...

    def subscribe(
        self,
        what: type[Any] | Topic[Any] | str,
        handler: Consumer | Callable[[Any], Awaitable[None] | None],
        *,
        envelopes: bool = False,
        **options: Unpack[HandlerOptions],
    ) -> Subscription | None:
        """Deliver events to a handler, or let a receiver or relay read them from the journal.

        Args:
            what: An event class (with its subclasses), a topic, or a pattern of topic names such as `train.*`.
            handler: Called with each event, or a consumer that reads at its own pace.
            envelopes: Whether the handler takes the whole envelope rather than the event.
            options: A handler's `name` in the report, the bound `queue_events` of its queue, and what happens when it
                is full: `overflow`; with `Overflow.COALESCE` a `coalesce_key` of the envelope, by default the
                event's kind and what it is about, in its run, at its site.

        Returns:
            The handler's subscription, which its `close` ends; None for a consumer, which reports itself.

        Raises:
            BusStateError: The bus is not entered, or it is being left.
            SubscriptionError: The name is taken, or the consumer can't work on this bus.
        """
        self._entered_tasks()
        if not self._accepting:
            raise BusStateError("the bus is being left; subscribe before")
        selector = Selector.of(what)
        if isinstance(handler, Consumer):
            self._add_consumer(selector, handler)
            return None
        options["name"] = self._router.name_of(handler, options.pop("name", ""))
        return self.home.call(
            lambda: self._add_subscription(Subscription(selector, handler, envelopes=envelopes, **options))
        )

    def _add_subscription(self, subscription: Subscription) -> Subscription:
        with self._lock:
            self._router.add(subscription, self._lock)
        self._entered_tasks().start_soon(self._shield.cover(subscription.run))
        return subscription

    def _add_consumer(self, selector: Selector, consumer: Consumer) -> None:
        if self._router.widen(selector, consumer):
            return
        feed = ConsumerFeed((selector,), consumer, self.journal, self.workspace, self.tell, blobs=self.blobs)
        consumer.check(feed)
        self.home.call(lambda: self._add_feed(feed))

    def _add_feed(self, feed: ConsumerFeed) -> None:
        self.journal.keep_for(feed.position)
        with self._lock:
            self._feeds.append(feed)
        self._entered_tasks().start_soon(self._shield.cover(feed.run))

    def _entered_tasks(self) -> TaskGroup:
        if self._tasks is None:
            raise BusStateError("the bus is not entered; subscribe in `async with EventBus(...)` or `.background()`")
        return self._tasks

    async def wait_for_room(self) -> None:
        """Return when no blocking handler is over its bound."""
        await self._router.wait_for_room()
        self.waits = self._durable or self._router.is_crowded

    # --- looking ------------------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Return what became of the events, per subscription; final once the bus is left."""
        return self._observer.report(self._journal, self._refused, self._lines, drained=self._drained, told=self._told)

    def statistics(self) -> BusStatistics:
        """Return what the bus does at this moment. Legal from any thread, at any time; it waits for nothing."""
        return self._observer.look(self._journal, self._refused, self.blobs)
