"""What the bus costs: publishing to one handler in memory, beside a bare asyncio.Queue that carries the same events.

On both sides the event is built and validated in the loop, at most 32 are in flight, and a coroutine takes each one.
CPU of the whole process counts, not wall time. Then: what one publish from another thread costs its caller.
"""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
from paired import Table, options, p50_p99, ratio, timed

from eventbus import EventBus
from eventbus.tracking import MetricsLogged

IN_FLIGHT = 32
VALUES = {"train/loss": 0.25, "train/accuracy": 0.875, "train/lr": 0.02, "train/grad_norm": 1.5}


class Handled:
    """The handler of all cases; it knows when it has got all of a round."""

    def __init__(self, events: int) -> None:
        self.events = 0
        self.left = events
        self.done = asyncio.Event()

    async def __call__(self, _event: MetricsLogged) -> None:
        self.events += 1
        self.left -= 1
        if not self.left:
            self.done.set()

    def expect(self, events: int) -> None:
        self.left = events
        self.done.clear()


def build(step: int) -> MetricsLogged:
    return MetricsLogged(values=VALUES, step=step)


async def through_queue(events: int) -> None:
    queue: asyncio.Queue[MetricsLogged] = asyncio.Queue(IN_FLIGHT)
    handler = Handled(events)

    async def consume() -> None:
        while True:
            event = await queue.get()
            await handler(event)

    consumer = asyncio.create_task(consume())
    for step in range(events):
        await queue.put(build(step))
    await handler.done.wait()
    consumer.cancel()


class OnBus:
    """One bus with one handler, for all rounds."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self.handler = Handled(0)
        bus.subscribe(MetricsLogged, self.handler, queue_events=IN_FLIGHT)

    async def awaited(self, events: int) -> None:
        """Await every receipt, as `await queue.put(event)` does."""
        self.handler.expect(events)
        for step in range(events):
            await self._bus.publish(build(step))
        await self.handler.done.wait()

    async def ignored(self, events: int) -> None:
        """Ignore the receipts, and give the loop to the handler once per 32 events."""
        self.handler.expect(events)
        for step in range(events):
            self._bus.publish(build(step))
            if step % IN_FLIGHT == IN_FLIGHT - 1:
                await asyncio.sleep(0)
        await self.handler.done.wait()

    async def most_in_flight(self, events: int) -> int:
        """Return how many events the bus held at most when every receipt was awaited."""
        most, before = 0, self.handler.events
        for step in range(events):
            receipt = self._bus.publish(build(step))
            most = max(most, step + 1 - (self.handler.events - before))
            await receipt
        return most


async def cpu_of(case: Callable[[int], Awaitable[None]], events: int) -> float:
    """Return microseconds of CPU per event."""
    gc.collect()
    started = time.process_time()
    await case(events)
    return (time.process_time() - started) / events * 1e6


async def compare(events: int, rounds: int) -> tuple[dict[str, list[float]], int]:
    """Return CPU per event of each case and round, and how many events were in flight at most."""
    async with EventBus() as bus:
        ours = OnBus(bus)
        most = await ours.most_in_flight(2_000)
        cases = {"queue": through_queue, "awaited": ours.awaited, "ignored": ours.ignored}
        results: dict[str, list[float]] = {name: [] for name in cases}
        order = list(cases)
        for _ in range(rounds):
            for name in order:
                results[name].append(await cpu_of(cases[name], events))
            order.reverse()
        return results, most


async def from_thread(events: int) -> tuple[list[float], float]:
    """Publish from a thread that is not the loop's; return each call's time in ns, and CPU per event in us."""
    built = [build(step) for step in range(events)]
    async with EventBus() as bus:
        handler = Handled(events)
        bus.subscribe(MetricsLogged, handler)
        gc.collect()
        started = time.process_time()
        times = await anyio.to_thread.run_sync(timed, bus.publish, built)
        await handler.done.wait()
        return times, (time.process_time() - started) / events * 1e6


def least_and_median(figures: list[float]) -> str:
    return f"{min(figures):.2f} / {statistics.median(figures):.2f}"


def main() -> None:
    args = options(__doc__).parse_args()
    events, rounds = (5_000, 7) if args.quick else (20_000, 21)
    table = Table(f"publish to one handler in memory: {rounds} rounds of {events} events; CPU an event: least / median")
    results, most = anyio.run(compare, events, rounds)
    queue, awaited, ignored = results["queue"], results["awaited"], results["ignored"]
    table.row("asyncio.Queue", least_and_median(queue), unit="us")
    table.row("bus, every receipt awaited", least_and_median(awaited), unit="us")
    table.row("bus, receipts ignored, a yield per 32", least_and_median(ignored), unit="us")
    table.target("bus over queue, every receipt awaited", ratio(awaited, queue), 1.3)
    table.row("bus over queue, receipts ignored", ratio(ignored, queue))
    table.claim(f"at most {IN_FLIGHT} in flight on the bus", "" if most <= IN_FLIGHT else str(most))
    threads = [anyio.run(from_thread, events) for _ in range(3 if args.quick else 7)]
    table.row("publish from a thread, a call, p50 / p99", p50_p99([times for times, _ in threads]), unit="us")
    table.row("from a thread, CPU an event", least_and_median([cpu for _, cpu in threads]), unit="us")
    table.finish()


if __name__ == "__main__":
    main()
