"""Handlers that publish: they hold nobody who waits for them, themselves first of all."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest
from waiting import until

from eventbus import Event, EventBus
from eventbus.testing import Recorder

pytestmark = pytest.mark.anyio

PROMPT = 4.0
"""Seconds within which nobody can have waited for himself: that takes five."""


class Counted(Event, name="tests.holding.Counted", topic="tests.holding.count"):
    number: int


class Returned(Event, name="tests.holding.Returned", topic="tests.holding.return"):
    number: int


def publish_all(bus: EventBus, count: int, number: int = 0) -> None:
    for _ in range(count):
        bus.publish(Counted(number=number))


@pytest.mark.parametrize("kind", ["a thread", "the loop", "the loop, by a function"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_handler_that_publishes_what_it_reads_holds_nobody(anyio_backend: str, kind: str, times: int) -> None:
    """A moving average, say: only the handler itself could make the room that it would wait for."""
    async with EventBus() as bus:

        def average(event: Counted) -> None:
            for _ in range(times if event.number == 0 else 0):
                bus.publish(Counted(number=1))

        async def average_on_the_loop(event: Counted) -> None:
            for _ in range(times if event.number == 0 else 0):
                await bus.publish(Counted(number=1))

        handlers = {"a thread": average, "the loop": average_on_the_loop}
        handler = handlers.get(kind, lambda event: average_on_the_loop(event=event))
        averages = bus.subscribe(Counted, handler, queue_events=16)
        with anyio.fail_after(PROMPT):
            await anyio.to_thread.run_sync(publish_all, bus, 300)
            await until(
                lambda: averages.statistics().delivered + averages.statistics().dropped >= 300 * (1 + times), PROMPT
            )
    assert (averages.statistics().delivered, averages.statistics().dropped) == (300 * (1 + times), 0)


async def test_handlers_that_publish_to_each_other_hold_nobody(anyio_backend: str) -> None:
    async with EventBus() as bus:

        def there(event: Counted) -> None:
            bus.publish(Returned(number=event.number))

        def back(event: Returned) -> None:
            if event.number:
                bus.publish(Counted(number=event.number - 1))

        going = bus.subscribe(Counted, there, queue_events=4)
        coming = bus.subscribe(Returned, back, queue_events=4)
        with anyio.fail_after(PROMPT):
            await anyio.to_thread.run_sync(publish_all, bus, 100, 4)
            await until(
                lambda: sum(one.statistics().delivered + one.statistics().dropped for one in (going, coming)) >= 1000,
                PROMPT,
            )
    assert [(one.statistics().delivered, one.statistics().dropped) for one in (going, coming)] == [(500, 0)] * 2


async def test_a_handler_that_publishes_waits_for_a_slower_one(anyio_backend: str) -> None:
    """In a chain each holds the one before it, up to who began: nothing is lost for speed."""
    async with EventBus() as bus:
        slow: Recorder[Returned] = Recorder()
        ahead = threading.Event()

        def there(event: Counted) -> None:
            bus.publish(Returned(number=event.number))

        async def slowly(event: Returned) -> None:
            await anyio.to_thread.run_sync(ahead.wait, 0.002)
            await slow(event)

        bus.subscribe(Counted, there, queue_events=4)
        bus.subscribe(Returned, slowly, name="slow", queue_events=4)
        with anyio.fail_after(20):
            await anyio.to_thread.run_sync(publish_all, bus, 200)
            await slow.wait_for(200, 15)
    assert (bus.report().line("slow").dropped, bus.report().complete) == (0, True)


async def test_a_handler_that_gets_on_is_waited_for_again(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own events may take its queue's room for longer than one call may be held."""
    monkeypatch.setattr("eventbus._subscription.BLOCK_SECONDS", 0.05)
    pause = threading.Event()
    async with EventBus() as bus:

        def average(event: Counted) -> None:
            pause.wait(0.004)
            if event.number == 0:
                bus.publish(Counted(number=1))

        averages = bus.subscribe(Counted, average, queue_events=50)
        with anyio.fail_after(20):
            await anyio.to_thread.run_sync(publish_all, bus, 120)
            pause.set()
            await until(lambda: averages.statistics().delivered + averages.statistics().dropped >= 240, 20)
    assert (averages.statistics().delivered, averages.statistics().dropped) == (240, 0)


async def test_threads_that_publish_side_by_side_lose_nothing(anyio_backend: str) -> None:
    """Each may be one over the bound before it waits, however many they are."""
    async with EventBus() as bus:
        numbers: Recorder[Counted] = Recorder()
        counted = bus.subscribe(Counted, numbers, queue_events=1)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as threads:
                for _ in range(8):
                    threads.start_soon(anyio.to_thread.run_sync, publish_all, bus, 50)
            await numbers.wait_for(400, 15)
    assert counted.statistics().dropped == 0
