"""A handler's subscription: what a handler may raise, how it is ended, what is refused when it is made."""

from __future__ import annotations

import asyncio
import sys

import anyio
import pytest

from eventbus import Event, EventBus
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
