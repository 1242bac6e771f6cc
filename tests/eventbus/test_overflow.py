"""A handler that is slower than what it is subscribed to: what it gets, and that all else is counted, by policy."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from functools import partial
from itertools import count

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus import Envelope, Event, EventBus, Origin, Overflow, Scope, Subscription
from eventbus._overflow import HandlerOptions
from eventbus._topic import Selector
from eventbus.errors import SubscriptionError
from eventbus.tracking import TRACKING, MetricsLogged, ParamsLogged, TagsSet, TextLogged, TrackingEvent

pytestmark = pytest.mark.anyio


class Read(Event, topic="overflow.read"):
    """A reading of one of several gauges."""

    gauge: int
    value: int


def envelope(gauge: int, value: int) -> Envelope[Event]:
    origin = Origin(site="site-1", rank=0, incarnation="a1", job="job")
    return Envelope(Read(gauge=gauge, value=value), "overflow.read", Scope.LOCAL, "run", value, origin, value)


def gauge_of(one: Envelope[Read]) -> Hashable:
    return one.event.gauge


@pytest.fixture
def often() -> Iterator[None]:
    """Let threads take turns far more often than they do by themselves: races come out."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


# ---------------------------------------------------------------------------------------------- against a plain model
class Model:
    """What each policy promises, without a thought for threads or speed."""

    def __init__(self, overflow: Overflow, bound: int) -> None:
        self.overflow = overflow
        self.bound = bound
        self.queue: deque[tuple[int, int]] = deque()
        self.latest: OrderedDict[int, int] = OrderedDict()
        self.dropped = self.coalesced = 0

    def offer(self, gauge: int, value: int) -> None:
        if self.overflow is Overflow.COALESCE:
            self.coalesced += gauge in self.latest
            self.latest[gauge] = value
            if len(self.latest) > self.bound:
                self.latest.popitem(last=False)
                self.dropped += 1
        elif len(self.queue) < self.bound:
            self.queue.append((gauge, value))
        else:
            self.dropped += 1
            if self.overflow is Overflow.DROP_OLDEST:
                self.queue.popleft()
                self.queue.append((gauge, value))

    def take(self) -> list[tuple[int, int]]:
        taken = [*self.queue, *self.latest.items()]
        self.queue.clear()
        self.latest.clear()
        return taken


@given(
    overflow=st.sampled_from([Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.COALESCE]),
    bound=st.integers(1, 5),
    steps=st.lists(st.one_of(st.integers(0, 6), st.just("handle")), max_size=60),
    raises_at=st.integers(0, 6),
)
def test_every_policy_keeps_its_promise_and_its_books(
    overflow: Overflow, bound: int, steps: list[int | str], raises_at: int
) -> None:
    model, expected, handled, values = Model(overflow, bound), list[tuple[int, int]](), list[tuple[int, int]](), count()

    def handle(event: Read) -> None:
        handled.append((event.gauge, event.value))
        if event.gauge == raises_at:
            raise RuntimeError

    key = gauge_of if overflow is Overflow.COALESCE else None
    one = Subscription(Selector.of(Read), handle, overflow=overflow, queue_events=bound, coalesce_key=key)
    offered = 0
    for step in steps:
        if isinstance(step, int):
            value, offered = next(values), offered + 1
            model.offer(step, value)
            one.offer(envelope(step, value))
        else:
            expected += model.take()
            one._deliver_in_thread()
        counts = one.statistics()
        assert counts.accepted == offered
        assert offered == counts.delivered + counts.dropped + counts.coalesced + counts.failed + counts.queued
        assert (handled, counts.dropped, counts.coalesced) == (expected, model.dropped, model.coalesced)
    assert one.statistics().failed == sum(gauge == raises_at for gauge, _ in handled)


# ------------------------------------------------------------------------------------------------------- on a bus
async def test_the_newest_are_dropped_and_what_was_accepted_first_is_handled() -> None:
    handled: list[int] = []
    async with EventBus() as bus:

        async def handle(event: Read) -> None:
            handled.append(event.value)

        one = bus.subscribe(Read, handle, overflow=Overflow.DROP_NEWEST, queue_events=10)
        for value in range(100):
            bus.publish(Read(gauge=0, value=value))
    counts = one.statistics()

    assert handled == list(range(10))
    assert (counts.accepted, counts.delivered, counts.dropped, counts.queued) == (100, 10, 90, 0)
    assert bus.report().lines[0].lost == 90
    assert not bus.report().complete


async def test_the_latest_of_each_key_is_handled_in_the_order_in_which_keys_came() -> None:
    handled: list[tuple[int, int]] = []
    async with EventBus() as bus:

        async def handle(event: Read) -> None:
            handled.append((event.gauge, event.value))

        one = bus.subscribe(Read, handle, overflow=Overflow.COALESCE, coalesce_key=gauge_of)
        for value in range(1000):
            bus.publish(Read(gauge=value % 3, value=value))
    counts = one.statistics()

    assert handled == [(0, 999), (1, 997), (2, 998)]
    assert (counts.accepted, counts.delivered, counts.coalesced, counts.dropped) == (1000, 3, 997, 0)
    assert bus.report().lines[0].notes == ("997 coalesced",)
    assert bus.report().complete


async def test_a_key_that_is_published_all_the_time_is_not_put_off() -> None:
    """In the place of what it replaces, not at the end: there a handler might never come to it."""
    handled: list[int] = []
    async with EventBus() as bus:

        async def handle(event: Read) -> None:
            handled.append(event.gauge)
            if len(handled) < 30:
                for gauge in (0, 1, 2):
                    bus.publish(Read(gauge=gauge, value=len(handled)))

        bus.subscribe(Read, handle, overflow=Overflow.COALESCE, coalesce_key=gauge_of)
        for gauge in (0, 1, 2):
            bus.publish(Read(gauge=gauge, value=-1))
        with anyio.fail_after(5):
            while len(handled) < 30:  # noqa: ASYNC110 - the handler tells nobody
                await anyio.sleep(0.001)

    assert {gauge: handled[:30].count(gauge) for gauge in (0, 1, 2)} == {0: 10, 1: 10, 2: 10}


async def test_by_default_metrics_of_one_name_replace_each_other_and_nothing_else_does() -> None:
    handled: list[TrackingEvent] = []
    async with EventBus() as bus:

        async def handle(event: TrackingEvent) -> None:
            handled.append(event)

        one = bus.subscribe(TRACKING, handle, overflow=Overflow.COALESCE)
        for step in range(50):
            bus.publish(MetricsLogged(values={"loss": step}, step=step), run="a")
            bus.publish(MetricsLogged(values={"loss": step}, step=step), run="b")
            bus.publish(MetricsLogged(values={"accuracy": step}, step=step), run="a")
            bus.publish(MetricsLogged(values={"loss": step}, step=step, main_tag="m"), run="a")
            bus.publish(ParamsLogged(values={"loss": step}), run="a")
            bus.publish(TagsSet(values={"loss": "x"}), run="a")
            bus.publish(TextLogged(key="loss", text="x"), run="a")

    assert len(handled) == 7
    assert [event.step for event in handled if isinstance(event, MetricsLogged)] == [49] * 4
    assert one.statistics().coalesced == 7 * 49


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.COALESCE])
@pytest.mark.parametrize("bound", [1, 3])
async def test_threads_that_race_lose_nothing_uncounted(often: None, overflow: Overflow, bound: int) -> None:
    last: dict[int, int] = {}
    async with EventBus() as bus:
        options: HandlerOptions = {"overflow": overflow, "queue_events": bound}
        if overflow is Overflow.COALESCE:
            options["coalesce_key"] = gauge_of
        one = bus.subscribe(Read, lambda event: last.update({event.gauge: event.value}), **options)

        def publish(gauge: int) -> None:
            for value in range(3000):
                bus.publish(Read(gauge=gauge, value=value))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as publishers:
                for gauge in range(3):
                    publishers.start_soon(anyio.to_thread.run_sync, partial(publish, gauge))
    counts = one.statistics()

    assert counts.accepted == 9000
    assert counts.delivered + counts.dropped + counts.coalesced == 9000
    if overflow is Overflow.COALESCE and bound == 3:
        assert (last, counts.dropped) == ({0: 2999, 1: 2999, 2: 2999}, 0)


async def test_a_key_that_cannot_be_made_is_counted_and_reaches_no_publisher(caplog: pytest.LogCaptureFixture) -> None:
    handled: list[int] = []
    async with EventBus() as bus:

        async def handle(event: Read) -> None:
            handled.append(event.value)

        def key(one: Envelope[Read]) -> Hashable:
            return [] if one.event.value == 1 else 1 // one.event.value  # pyright: ignore[reportReturnType]

        one = bus.subscribe(Read, handle, overflow=Overflow.COALESCE, coalesce_key=key)
        receipts = [bus.publish(Read(gauge=0, value=value)) for value in range(3)]

    assert [receipt.seq for receipt in receipts] == [1, 2, 3]
    assert (handled, one.statistics().failed) == ([2], 2)
    assert sum("coalesce_key raised" in record.message for record in caplog.records) == 1
    assert not bus.report().complete


async def test_who_publishes_while_its_thread_is_in_the_queue_does_not_wait_for_itself() -> None:
    """As the handler of a signal does that comes just then; here, keys that are compared publish."""

    class Key:
        nested = 0

        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            if Key.nested < 3:
                Key.nested += 1
                bus.publish(Read(gauge=0, value=0))
            return True

    async with EventBus() as bus:
        one = bus.subscribe(Read, lambda _: None, overflow=Overflow.COALESCE, coalesce_key=lambda _: Key())
        for value in range(10):
            bus.publish(Read(gauge=0, value=value))
    counts = one.statistics()
    assert (Key.nested, counts.accepted, counts.dropped) == (3, 13, 0)


async def test_a_key_without_its_policy_is_refused() -> None:
    async with EventBus() as bus:
        with pytest.raises(SubscriptionError, match="coalesce_key is for"):
            bus.subscribe(Read, lambda _: None, coalesce_key=gauge_of)
