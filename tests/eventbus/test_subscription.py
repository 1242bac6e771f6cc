"""A handler's subscription: what a handler may raise, how it is ended, what is refused when it is made."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from waiting import until, wait_until

from eventbus import Event, EventBus, Overflow, Scope, Topic
from eventbus._subscription import BLOCK_SECONDS, WakeUp
from eventbus.errors import SubscriptionError
from eventbus.testing import recording

pytestmark = pytest.mark.anyio


class Counted(Event, name="tests.subscription.Counted", topic="tests.subscription.count"):
    number: int


def numbers(events: list[Counted]) -> list[int]:
    return [event.number for event in events]


# ------------------------------------------------------------------------------------------- what a handler may raise
async def await_what_was_cancelled(event: Counted) -> None:
    if event.number == 1:
        call = asyncio.ensure_future(asyncio.sleep(60))
        call.cancel()
        await call


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_handler_that_awaits_something_cancelled_touches_no_other(anyio_backend: str) -> None:
    """Another's cancellation is an error like any other: it ends neither the handler nor the body of the bus."""
    with anyio.fail_after(10):
        async with EventBus() as bus:
            bus.subscribe(Counted, await_what_was_cancelled, name="broken")
            with recording(bus, Counted) as recorder:
                for number in range(5):
                    bus.publish(Counted(number=number))
                    await recorder.wait_for(number + 1)
    assert (bus.report().line("broken").delivered, bus.report().line("broken").failed) == (4, 1)


def test_a_bus_in_the_background_goes_on_after_a_handler_awaited_something_cancelled() -> None:
    with EventBus().background() as bus:
        bus.subscribe(Counted, await_what_was_cancelled, name="broken")
        receipts = [bus.publish(Counted(number=number)) for number in range(5)]
    assert [receipt.refused for receipt in receipts] == [None] * 5
    assert (bus.report().line("broken").delivered, bus.report().line("broken").failed) == (4, 1)


async def test_a_handler_is_cancelled_when_the_drain_gives_it_up(anyio_backend: str) -> None:
    """Its own cancellation it must not take for an error."""
    ended: list[BaseException] = []

    async def hang(event: Counted) -> None:
        try:
            await anyio.sleep(60)
        except BaseException as error:
            ended.append(error)
            raise

    with anyio.fail_after(10):
        async with EventBus(drain_idle_timeout=0.1) as bus:
            bus.subscribe(Counted, hang, name="hanging")
            bus.publish(Counted(number=1))
            bus.publish(Counted(number=2))
    assert len(ended) == 1
    assert (bus.report().line("hanging").dropped, bus.report().line("hanging").failed) == (2, 0)


@pytest.mark.parametrize("kind", ["asynchronous", "synchronous"])
async def test_a_handler_that_exits_is_counted_and_ends_nothing(anyio_backend: str, kind: str) -> None:
    def leave(event: Counted) -> None:
        if event.number == 1:
            sys.exit(3)

    async def leave_on_the_loop(event: Counted) -> None:
        leave(event)

    with anyio.fail_after(10):
        async with EventBus() as bus:
            bus.subscribe(Counted, leave if kind == "synchronous" else leave_on_the_loop, name="leaving")
            for number in range(5):
                bus.publish(Counted(number=number))
    assert (bus.report().line("leaving").delivered, bus.report().line("leaving").failed) == (4, 1)
    assert not bus.report().complete


# ------------------------------------------------------------------------------------------ ending one before the bus
@pytest.mark.parametrize("what", [Counted, "tests.subscription.*"], ids=str)
async def test_a_subscription_that_is_closed_gets_what_it_had_and_no_more(anyio_backend: str, what: Any) -> None:
    got: list[int] = []

    async def keep(event: Counted) -> None:
        await anyio.lowlevel.checkpoint()
        got.append(event.number)

    with anyio.fail_after(10):
        async with EventBus() as bus:
            subscription = bus.subscribe(what, keep, name="short", queue_events=8)
            with recording(bus, Counted) as recorder:
                for number in range(5):
                    bus.publish(Counted(number=number))
                subscription.close()
                subscription.close()
                for number in range(5, 60):
                    await bus.publish(Counted(number=number), scope=Scope(number % 2))
                assert numbers(await recorder.wait_for(60)) == list(range(60))
    assert got == list(range(5))
    line = bus.report().line("short")
    assert (line.delivered, line.dropped, line.left) == (5, 0, 0)
    assert bus.report().complete


def test_a_handler_that_closes_its_subscription_holds_no_publisher() -> None:
    """It has had what it waited for: nobody waits for room in its queue from then on."""
    got: list[int] = []

    def keep(event: Counted) -> None:
        got.append(event.number)
        if event.number == 2:
            subscription.close()

    with EventBus().background() as bus:
        subscription = bus.subscribe(Counted, keep, name="short", queue_events=8)
        bus.publish(Counted(number=2))
        wait_until(lambda: got)
        wait_until(lambda: subscription.finished)
        for number in range(100):
            bus.publish(Counted(number=number))
        assert bus.statistics().handlers["short"].accepted == 1
        assert not subscription.is_full
    assert got == [2]
    assert bus.report().complete


def test_a_handler_gets_on_after_an_interrupt_struck_within_its_wake_up() -> None:
    """A script that catches Ctrl-C and goes on logs to handlers that are awake."""

    def strike(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is not WakeUp.__call__.__code__ or event not in {"call", "line"}:
            return None
        if frame.f_locals["self"].idle or event == "call":
            return strike
        raise KeyboardInterrupt

    got: list[int] = []

    async def keep(event: Counted) -> None:
        got.append(event.number)

    with EventBus().background() as bus:
        subscription = bus.subscribe(Counted, keep)
        wait_until(lambda: subscription._wake.idle)
        usual = sys.gettrace()
        sys.settrace(strike)
        try:
            with pytest.raises(KeyboardInterrupt):
                bus.publish(Counted(number=1))
        finally:
            sys.settrace(usual)
        assert bus.publish(Counted(number=2)).refused is None
        wait_until(lambda: got == [1, 2], 20)


# ---------------------------------------------------------------------------------------- a handler that publishes
class Derived(Counted, name="tests.subscription.Derived"):
    pass


def test_a_synchronous_handler_may_publish_what_it_is_subscribed_to() -> None:
    """It can't wait for room in a queue that nobody but itself empties: nor must those who publish."""
    counts = [0, 0]

    def derive(event: Counted) -> None:
        counts[isinstance(event, Derived)] += 1
        if not isinstance(event, Derived):
            bus.publish(Derived(number=event.number))

    with EventBus().background() as bus:
        subscription = bus.subscribe(Counted, derive, queue_events=20)
        longest = 0.0
        for number in range(300):
            begun = time.monotonic()
            bus.publish(Counted(number=number))
            longest = max(longest, time.monotonic() - begun)
        wait_until(lambda: sum(counts) + subscription.statistics().dropped >= 600)
    assert counts == [300, 300]
    assert longest < BLOCK_SECONDS


async def test_an_asynchronous_handler_may_await_what_it_is_subscribed_to(anyio_backend: str) -> None:
    counts = [0, 0]

    async def derive(event: Counted) -> None:
        counts[isinstance(event, Derived)] += 1
        if not isinstance(event, Derived):
            await bus.publish(Derived(number=event.number))

    with anyio.fail_after(BLOCK_SECONDS):
        async with EventBus() as bus:
            subscription = bus.subscribe(Counted, derive, queue_events=20)
            for number in range(300):
                await bus.publish(Counted(number=number))
            await until(lambda: sum(counts) + subscription.statistics().dropped >= 600)
    assert counts == [300, 300]


async def test_a_handler_waits_until_there_may_be_a_thread_again(anyio_backend: str) -> None:
    got: list[int] = []
    with anyio.fail_after(20):
        async with EventBus() as bus:
            subscription = bus.subscribe(Counted, lambda event: got.append(event.number), name="short")
            usual = threading.stack_size(1 << 46)
            try:
                bus.publish(Counted(number=1))
                with anyio.move_on_after(0.1):
                    await bus.publish(Counted(number=2))
                    await anyio.sleep_forever()
            finally:
                threading.stack_size(usual)
            assert subscription.statistics().queued == 2
            await until(lambda: len(got) == 2)
    assert got == [1, 2]
    assert bus.report().complete


# --------------------------------------------------------------------------------------------------- what is refused
async def keep_nothing(event: Event) -> None:
    pass


@pytest.mark.parametrize(
    "what",
    [Counted(number=1), [Counted], (Counted,), dict, object, 5, None, Topic("x", dict)],  # type: ignore[type-var]
    ids=lambda what: repr(what)[:20],
)
async def test_what_no_event_can_be_is_refused_when_it_is_subscribed(anyio_backend: str, what: Any) -> None:
    """Taken, it would make every log call raise."""
    async with EventBus() as bus:
        with pytest.raises(SubscriptionError, match="an event class, a topic or a pattern"):
            bus.subscribe(what, keep_nothing)
        assert bus.publish(Counted(number=1)).refused is None


@pytest.mark.parametrize("options", [{"overflow": "drop_oldest"}, {"overflow": None}, {"overflow": True}], ids=str)
async def test_an_overflow_that_is_none_is_refused(anyio_backend: str, options: dict[str, Any]) -> None:
    async with EventBus() as bus:
        with pytest.raises(SubscriptionError, match=r"overflow=Overflow\.DROP_OLDEST"):
            bus.subscribe(Counted, keep_nothing, **options)
        bus.subscribe(Counted, keep_nothing, overflow=Overflow.DROP_OLDEST)


@pytest.mark.parametrize("handler", [None, 5, "handler"], ids=str)
async def test_a_handler_that_cannot_be_called_is_refused(anyio_backend: str, handler: Any) -> None:
    async with EventBus() as bus:
        with pytest.raises(SubscriptionError, match="can't be called"):
            bus.subscribe(Counted, handler)


async def test_a_refused_receipt_of_a_durable_bus_waits_for_nothing(anyio_backend: str, tmp_path: Path) -> None:
    bus = EventBus(tmp_path, strength="durable")
    early = bus.publish(Counted(number=1))
    assert (await early, early.wait(1)) == (early, early)
    assert early.refused == "the bus is not open"
    with anyio.fail_after(20):
        async with bus:
            await bus.publish(Counted(number=2))
    late = bus.publish(Counted(number=3))
    assert (await late, late.wait(1)) == (late, late)
