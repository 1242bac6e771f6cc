"""The bus on both event loops: order, isolation, back-pressure, refusals, and how it is left."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from waiting import until

from eventbus import Envelope, Event, EventBus, Origin, Overflow, Receipt, Relay, Scope, Topic
from eventbus._bus import Bus
from eventbus._drain import DrainPolicy
from eventbus.abc import Consumer, ConsumerStatistics, Feed
from eventbus.errors import BadInputError, BusStateError, NotDeliveredError, SubscriptionError
from eventbus.journals import MemoryJournal
from eventbus.journals._partition import roll_path
from eventbus.testing import FaultyJournal, Recorder, recording

pytestmark = pytest.mark.anyio


class Counted(Event, topic="train.count"):
    number: int


class CountedTwice(Counted):
    pass


class Noted(Event, topic="note"):
    text: str = ""


COUNTS: Topic[Counted] = Topic(Counted.event_topic, Counted)


@pytest.fixture(params=["memory", "disk"])
def make_bus(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., EventBus]:
    workspace = None if request.param == "memory" else tmp_path
    return partial(EventBus, workspace)


@pytest.fixture
async def bus(make_bus: Callable[..., EventBus]) -> AsyncIterator[EventBus]:
    async with make_bus() as entered:
        yield entered


@pytest.fixture
def often() -> Iterator[None]:
    """Let threads take turns far more often than they do by themselves: races come out."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@asynccontextmanager
async def quick_bus(**deadlines: float) -> AsyncIterator[Bus]:
    """A bus that is left at once, whatever hangs."""
    origin = Origin(site="site-1", rank=0, incarnation="a1", job="job")
    policy = DrainPolicy(idle_timeout=deadlines.get("idle", 0.2), timeout=deadlines.get("total", 0.5))
    with anyio.fail_after(10):
        async with Bus(lambda: MemoryJournal(origin), policy) as bus:
            yield bus


def numbers(events: list[Counted]) -> list[int]:
    return [event.number for event in events]


# -------------------------------------------------------------------------------------------------------- delivery
async def test_a_handler_gets_everything_in_order(bus: EventBus) -> None:
    with anyio.fail_after(10), recording(bus, Counted) as recorder:
        for number in range(500):
            await bus.publish(Counted(number=number))
        assert numbers(await recorder.wait_for(500)) == list(range(500))


async def test_an_event_is_shared_and_an_envelope_tells_the_rest(bus: EventBus) -> None:
    found: list[Envelope[Counted]] = []
    event = Counted(number=1)

    async def keep(envelope: Envelope[Counted]) -> None:
        found.append(envelope)
        done.set()

    done = anyio.Event()
    bus.subscribe(Counted, keep, envelopes=True)
    receipt = bus.publish(event, topic="elsewhere", scope=Scope.FEDERATED, run="run", time_ns=5)
    with anyio.fail_after(5):
        await done.wait()

    (envelope,) = found
    assert envelope.event is event
    assert (envelope.topic, envelope.scope, envelope.run, envelope.time_ns) == ("elsewhere", Scope.FEDERATED, "run", 5)
    assert (envelope.seq, envelope.origin) == (receipt.seq, bus.origin)


async def test_a_base_class_gets_its_subclasses_and_no_other(bus: EventBus) -> None:
    with recording(bus, Counted) as base, recording(bus, CountedTwice) as derived, recording(bus, Event) as everything:
        bus.publish(Counted(number=1))
        bus.publish(CountedTwice(number=2))
        bus.publish(Noted())
        with anyio.fail_after(5):
            assert len(await everything.wait_for(3)) == 3
            assert numbers(await base.wait_for(2)) == [1, 2]
            assert numbers(list(await derived.wait_for(1))) == [2]


async def test_patterns_topics_and_scopes_choose(bus: EventBus) -> None:
    found: dict[str, list[str]] = {}

    def keeping(what: Any) -> None:
        async def keep(envelope: Envelope[Event]) -> None:
            found.setdefault(str(what), []).append(f"{envelope.topic}/{envelope.scope.name}")

        bus.subscribe(what, keep, envelopes=True, name=str(what))

    for what in ("train.*", "*", COUNTS, COUNTS.federated):
        keeping(what)
    with anyio.fail_after(5), recording(bus, Event) as last:
        bus.publish(Counted(number=1))
        bus.publish(Counted(number=2), scope=Scope.FEDERATED)
        bus.publish(Noted(), topic="train.note")
        bus.publish(Noted())
        await last.wait_for(4)

    assert found == {
        "train.*": ["train.count/LOCAL", "train.count/FEDERATED", "train.note/LOCAL"],
        "*": ["train.count/LOCAL", "train.count/FEDERATED", "train.note/LOCAL", "note/LOCAL"],
        "train.count": ["train.count/LOCAL", "train.count/FEDERATED"],
        "fed.train.count": ["train.count/FEDERATED"],
    }


async def test_a_subscription_gets_what_comes_after_it(bus: EventBus) -> None:
    bus.publish(Counted(number=1))
    with anyio.fail_after(5), recording(bus, Counted) as recorder:
        bus.publish(Counted(number=2))
        assert numbers(await recorder.wait_for(1)) == [2]


async def test_a_failing_and_a_slow_handler_touch_no_other(bus: EventBus) -> None:
    release = anyio.Event()

    async def failing(event: Counted) -> None:
        raise RuntimeError(event.number)

    async def slow(event: Counted) -> None:
        await release.wait()

    bus.subscribe(Counted, failing, name="failing")
    bus.subscribe(Counted, slow, name="slow")
    with anyio.fail_after(10), recording(bus, Counted) as recorder:
        for number in range(300):
            bus.publish(Counted(number=number))
        assert numbers(await recorder.wait_for(300)) == list(range(300))
    assert bus.report().line("slow").delivered == 0
    release.set()
    with anyio.fail_after(10):
        await until(lambda: bus.report().line("failing").failed >= 300)
    assert bus.report().line("failing").delivered == 0


async def test_a_synchronous_handler_runs_off_the_loop(bus: EventBus) -> None:
    threads: set[int] = set()
    gate = threading.Event()

    def handler(event: Counted) -> None:
        assert gate.wait(5)
        threads.add(threading.get_ident())

    subscription = bus.subscribe(Counted, handler)
    for number in range(3):
        bus.publish(Counted(number=number))
    with anyio.fail_after(5):
        await anyio.lowlevel.checkpoint()  # the loop goes on although the handler waits
        gate.set()
        await until(lambda: subscription.statistics().delivered >= 3)

    assert threading.get_ident() not in threads


async def test_what_counts_as_asynchronous(bus: EventBus) -> None:
    """A partial, an object whose call is a coroutine function, and a lambda round one."""
    done: list[str] = []

    async def note(what: str, event: Event) -> None:
        await anyio.lowlevel.checkpoint()
        done.append(what)

    class Noting:
        async def __call__(self, event: Event) -> None:
            await note("object", event)

    bus.subscribe(Noted, partial(note, "partial"), name="partial")
    bus.subscribe(Noted, Noting(), name="object")
    bus.subscribe(Noted, lambda event: note("lambda", event), name="lambda")
    bus.publish(Noted())
    with anyio.fail_after(5):
        await until(lambda: len(done) >= 3)

    assert sorted(done) == ["lambda", "object", "partial"]


async def test_a_handler_may_publish(bus: EventBus) -> None:
    async def echo(event: Counted) -> None:
        bus.publish(Noted(text=str(event.number)))

    bus.subscribe(Counted, echo)
    with anyio.fail_after(5), recording(bus, Noted) as recorder:
        bus.publish(Counted(number=7))
        assert (await recorder.wait_for(1))[0].text == "7"


# --------------------------------------------------------------------------------------------------------- threads
async def test_eight_threads_publish_in_one_order(bus: EventBus) -> None:
    """Every handler sees the order of the journal, and each thread's events in that thread's order."""
    seen: list[tuple[int, int]] = []

    async def keep(envelope: Envelope[Counted]) -> None:
        seen.append((envelope.seq, envelope.event.number))

    bus.subscribe(Counted, keep, envelopes=True)
    start = threading.Barrier(8)

    def publish(thread: int) -> list[int]:
        start.wait(5)
        return [bus.publish(Counted(number=1000 * thread + i)).seq for i in range(200)]

    results: list[list[int]] = []

    async def run(thread: int) -> None:
        results.append(await anyio.to_thread.run_sync(publish, thread))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for thread in range(8):
                tasks.start_soon(run, thread)
        await until(lambda: len(seen) >= 1600)

    assert [seq for seq, _ in seen] == list(range(1, 1601))
    assert sorted(seq for result in results for seq in result) == list(range(1, 1601))
    assert all(result == sorted(result) for result in results)
    for thread in range(8):
        of_thread = [number for _, number in seen if number // 1000 == thread]
        assert of_thread == [1000 * thread + i for i in range(200)]


async def test_no_wake_up_is_lost_between_threads(bus: EventBus) -> None:
    """One event at a time: were a wake-up lost, the hand-over would stand still."""
    turns = 2000
    got = threading.Semaphore(0)

    async def keep(event: Counted) -> None:
        got.release()

    bus.subscribe(Counted, keep)

    def play() -> int:
        return sum(bus.publish(Counted(number=i)).seq > 0 and got.acquire(timeout=5) for i in range(turns))

    with anyio.fail_after(60):
        assert await anyio.to_thread.run_sync(play) == turns


async def test_subscribing_while_threads_publish_loses_nothing(bus: EventBus, often: None) -> None:
    """A route that was resolved before a subscription must not outlive it."""
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            bus.publish(Noted())

    def subscribe_and_publish(turn: int) -> None:
        with recording(bus, Noted) as recorder:
            bus.publish(Noted(text=str(turn)))
            anyio.from_thread.run(recorder.wait_for, 1)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(anyio.to_thread.run_sync, publish)
            for _ in range(15):
                async with anyio.create_task_group() as subscribers:
                    for turn in range(4):
                        subscribers.start_soon(anyio.to_thread.run_sync, subscribe_and_publish, turn)
            stop.set()


async def test_a_thread_may_subscribe(bus: EventBus) -> None:
    recorder: Recorder[Counted] = Recorder()
    with anyio.fail_after(5):
        await anyio.to_thread.run_sync(partial(bus.subscribe, Counted, recorder))
        bus.publish(Counted(number=1))
        assert numbers(await recorder.wait_for(1)) == [1]


# ---------------------------------------------------------------------------------------------------- back-pressure
@pytest.mark.parametrize("bound", [1, 4, 1024])
async def test_a_blocking_handler_holds_a_publishing_thread(bus: EventBus, bound: int) -> None:
    most = 0

    async def handler(event: Counted) -> None:
        nonlocal most
        most = max(most, subscription.statistics().queued)
        await anyio.lowlevel.checkpoint()

    subscription = bus.subscribe(Counted, handler, queue_events=bound)

    def publish() -> None:
        for number in range(3000):
            bus.publish(Counted(number=number))

    with anyio.fail_after(30):
        await anyio.to_thread.run_sync(publish)
        await until(lambda: subscription.statistics().delivered >= 3000)

    assert subscription.statistics().dropped == 0
    assert most <= bound + 2


async def test_a_slow_handler_that_gets_on_does_not_count_as_stalled(bus: EventBus) -> None:
    """Each event makes room: the publisher waits for one, not for the whole queue."""
    held = threading.Event()

    def handler(event: Counted) -> None:
        held.wait(0.05)

    subscription = bus.subscribe(Counted, handler, queue_events=120)

    def publish() -> int:
        return sum(bus.publish(Counted(number=number)).seq > 0 for number in range(140))

    with anyio.fail_after(30):
        assert await anyio.to_thread.run_sync(publish) == 140
        held.set()
        await until(lambda: subscription.statistics().delivered >= 140)
    assert subscription.statistics().dropped == 0


async def test_a_blocking_handler_holds_a_coroutine_that_awaits(bus: EventBus) -> None:
    with anyio.fail_after(30):
        recorder: Recorder[Counted] = Recorder()
        subscription = bus.subscribe(Counted, recorder, queue_events=4)
        for number in range(500):
            await bus.publish(Counted(number=number))
            assert subscription.statistics().queued <= 5
        await recorder.wait_for(500)
    assert subscription.statistics().dropped == 0


async def test_a_coroutine_that_does_not_await_loses_what_is_counted(bus: EventBus) -> None:
    with anyio.fail_after(5):
        recorder: Recorder[Counted] = Recorder()
        subscription = bus.subscribe(Counted, recorder, queue_events=10)
        for number in range(100):
            bus.publish(Counted(number=number))
        assert numbers(await recorder.wait_for(20)) == list(range(20))
    assert subscription.statistics().dropped == 80


async def test_dropping_the_oldest_keeps_the_newest_and_counts(bus: EventBus) -> None:
    with anyio.fail_after(5):
        recorder: Recorder[Counted] = Recorder()
        subscription = bus.subscribe(Counted, recorder, overflow=Overflow.DROP_OLDEST, queue_events=10)
        for number in range(100):
            bus.publish(Counted(number=number))
        assert numbers(await recorder.wait_for(10)) == list(range(90, 100))
    counts = subscription.statistics()
    assert (counts.accepted, counts.delivered, counts.dropped, counts.queued) == (100, 10, 90, 0)


async def test_dropping_never_raises_into_a_publishing_thread(bus: EventBus, often: None) -> None:
    """With room for one, the handler's thread and the publisher race for the same event."""
    subscription = bus.subscribe(Counted, lambda event: None, overflow=Overflow.DROP_OLDEST, queue_events=1)

    def publish() -> None:
        for number in range(20_000):
            bus.publish(Counted(number=number))

    with anyio.fail_after(30):
        await anyio.to_thread.run_sync(publish)
        await until(lambda: not subscription.statistics().queued)
    counts = subscription.statistics()
    assert counts.delivered + counts.dropped == 20_000


@pytest.mark.parametrize("bound", [0, -1])
async def test_a_queue_holds_something(bus: EventBus, bound: int) -> None:
    with pytest.raises(SubscriptionError, match="at least one"):
        bus.subscribe(Counted, lambda event: None, queue_events=bound)


# --------------------------------------------------------------------------------------------------- what is refused
async def test_before_and_after_nothing_is_taken_and_all_is_counted(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus()
    assert bus.publish(Counted(number=1)).refused == "the bus is not open"
    async with bus:
        assert bus.publish(Counted(number=2)).refused is None
    late = bus.publish(Counted(number=3))

    assert (late.refused, late.seq) == ("the bus is closed", 0)
    assert bus.report().refused == {"the bus is not open": 1, "the bus is closed": 1}
    assert bus.report().published == 1
    assert not bus.report().complete


async def test_a_refusal_is_counted_and_passes(anyio_backend: str) -> None:
    journal = FaultyJournal(MemoryJournal(Origin(site="s", rank=0, incarnation="a1", job="j")))
    async with Bus(lambda: journal) as bus:
        with recording(bus, Counted) as recorder:
            await bus.publish(Counted(number=1))
            with journal.refusing("disk full"):
                receipt = await bus.publish(Counted(number=2))
            await bus.publish(Counted(number=3))
            with anyio.fail_after(5):
                assert numbers(await recorder.wait_for(2)) == [1, 3]
    assert receipt.refused == "disk full"
    assert "disk full" in repr(receipt)
    assert bus.report().refused == {"disk full": 1}


@pytest.mark.parametrize(
    "arguments",
    [{"event": {"number": 1}}, {"event": Counted}, {"topic": 7}, {"scope": "federated"}, {"scope": None}],
    ids=str,
)
async def test_a_programming_error_is_raised_where_it_is_made(bus: EventBus, arguments: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match="publish takes"):
        bus.publish(**{"event": Counted(number=1), **arguments})
    assert bus.report().published == 0


async def test_a_bus_is_entered_once(make_bus: Callable[..., EventBus]) -> None:
    async with make_bus() as bus:
        with pytest.raises(BusStateError, match="entered once"):
            await bus.__aenter__()
    with pytest.raises(BusStateError, match="entered once"):
        bus.open()


async def test_a_subscription_needs_an_entered_bus(make_bus: Callable[..., EventBus]) -> None:
    bus = make_bus()
    with pytest.raises(BusStateError, match="not entered"):
        bus.subscribe(Counted, Recorder[Counted]())
    async with bus:
        pass
    with pytest.raises(BusStateError):
        bus.subscribe(Counted, Recorder[Counted]())


async def test_a_bus_that_is_being_left_takes_no_subscription(make_bus: Callable[..., EventBus]) -> None:
    errors: list[BaseException] = []

    async def late(event: Counted) -> None:
        await leaving.wait()
        try:
            bus.subscribe(Counted, Recorder[Counted]())
        except BusStateError as error:
            errors.append(error)

    leaving = anyio.Event()
    with anyio.fail_after(10):
        async with make_bus() as bus:
            bus.at_close(lambda _: leaving.set())
            bus.subscribe(Counted, late)
            bus.publish(Counted(number=1))
    assert len(errors) == 1


async def test_a_name_is_taken_once_and_handlers_are_numbered(bus: EventBus) -> None:
    bus.subscribe(Counted, Recorder[Counted](), name="mine")
    with pytest.raises(SubscriptionError, match="'mine' exists"):
        bus.subscribe(Counted, Recorder[Counted](), name="mine")
    for _ in range(3):
        bus.subscribe(Counted, Recorder[Counted]())

    assert [line.name for line in bus.report().lines] == ["mine", "Recorder", "Recorder-2", "Recorder-3"]


# ---------------------------------------------------------------------------------------------------------- leaving
async def test_leaving_delivers_what_was_accepted(make_bus: Callable[..., EventBus]) -> None:
    got: list[int] = []

    async def slow(event: Counted) -> None:
        await anyio.lowlevel.checkpoint()
        got.append(event.number)

    with anyio.fail_after(20):
        async with make_bus() as bus:
            bus.subscribe(Counted, slow)
            for number in range(1000):
                bus.publish(Counted(number=number))
    assert got == list(range(1000))
    assert bus.report().complete
    assert bus.report().drained


@pytest.mark.parametrize("kind", ["asynchronous", "synchronous"])
async def test_leaving_waits_for_the_call_that_is_running(make_bus: Callable[..., EventBus], kind: str) -> None:
    running, leaving, done = threading.Event(), threading.Event(), threading.Event()
    left = anyio.Event()

    async def slow(event: Counted) -> None:
        running.set()
        await left.wait()
        with anyio.move_on_after(0.1):
            await anyio.sleep_forever()
        done.set()

    def slow_in_thread(event: Counted) -> None:
        running.set()
        leaving.wait(10)
        threading.Event().wait(0.1)
        done.set()

    def leave(error: BaseException | None) -> None:
        left.set()
        leaving.set()

    with anyio.fail_after(10):
        async with make_bus() as bus:
            bus.subscribe(Counted, slow if kind == "asynchronous" else slow_in_thread, name="slow")
            bus.at_close(leave)
            bus.publish(Counted(number=1))
            await until(running.is_set)
            assert bus.report().line("slow").left == 1
    assert done.is_set()
    assert bus.report().line("slow").delivered == 1


@pytest.mark.parametrize("kind", ["asynchronous", "synchronous"])
async def test_a_handler_that_hangs_does_not_hold_the_exit(anyio_backend: str, kind: str) -> None:
    release = threading.Event()

    async def hang(event: Counted) -> None:
        await anyio.sleep_forever()

    def hang_in_thread(event: Counted) -> None:
        release.wait(30)

    try:
        async with quick_bus() as bus:
            bus.subscribe(Counted, hang if kind == "asynchronous" else hang_in_thread, name="hanging")
            with recording(bus, Counted) as recorder:
                for number in range(10):
                    bus.publish(Counted(number=number))
                await recorder.wait_for(10)
        report = bus.report()
    finally:
        release.set()
    line = report.line("hanging")
    assert (line.delivered, line.dropped, line.left) == (0, 10, 0)
    assert report.line("Recorder").delivered == 10
    assert not report.drained
    assert not report.complete
    assert "deadline" in str(report)


async def test_a_drain_that_gets_on_is_bounded_in_all(anyio_backend: str) -> None:
    async def slow(event: Counted) -> None:
        with anyio.move_on_after(0.05):
            await anyio.sleep_forever()

    async with quick_bus(idle=5, total=0.3) as bus:
        bus.subscribe(Counted, slow, name="slow")
        for number in range(500):
            bus.publish(Counted(number=number))
    line = bus.report().line("slow")
    assert 0 < line.delivered < 500
    assert line.delivered + line.dropped == 500


async def test_an_error_of_the_body_passes_as_it_is(make_bus: Callable[..., EventBus]) -> None:
    bus, recorder, error = make_bus(), Recorder[Counted](), KeyError("mine")

    async def fail() -> None:
        async with bus:
            bus.subscribe(Counted, recorder)
            bus.publish(Counted(number=1))
            raise error

    with anyio.fail_after(10), pytest.raises(KeyError) as caught:
        await fail()
    assert caught.value is error
    assert error.__context__ is None
    assert bus.report().complete
    assert numbers(recorder.events) == [1]


async def test_a_cancelled_body_drains_and_passes_its_cancellation_on(make_bus: Callable[..., EventBus]) -> None:
    bus, recorder, after = make_bus(), Recorder[Counted](), False
    with anyio.fail_after(10):
        with anyio.CancelScope() as scope:
            async with bus:
                bus.subscribe(Counted, recorder)
                for number in range(100):
                    bus.publish(Counted(number=number))
                scope.cancel()
                await anyio.sleep_forever()
            after = True
    assert scope.cancelled_caught
    assert not after
    assert numbers(recorder.events) == list(range(100))
    assert bus.report().complete


async def test_what_is_registered_for_the_end_may_publish_and_sees_the_error(make_bus: Callable[..., EventBus]) -> None:
    bus, recorder = make_bus(), Recorder[Noted]()
    seen: list[BaseException | None] = []

    def finish(error: BaseException | None) -> None:
        seen.append(error)
        bus.publish(Noted(text="end"))

    async def fail() -> None:
        async with bus:
            bus.subscribe(Noted, recorder)
            bus.at_close(finish)
            raise ValueError("mine")

    with anyio.fail_after(10), pytest.raises(ValueError, match="mine"):
        await fail()
    assert [type(error) for error in seen] == [ValueError]
    assert [event.text for event in recorder.events] == ["end"]


async def test_a_last_word_that_fails_keeps_nobody_else_from_the_end(make_bus: Callable[..., EventBus]) -> None:
    bus, recorder = make_bus(), Recorder[Counted]()
    said: list[str] = []

    def fail(error: BaseException | None) -> None:
        said.append("first")
        raise LookupError("mine")

    async def leave() -> None:
        async with bus:
            bus.subscribe(Counted, recorder)
            bus.at_close(fail)
            bus.at_close(lambda _: said.append("second"))
            bus.publish(Counted(number=1))

    with anyio.fail_after(10), pytest.raises(LookupError, match="mine"):
        await leave()
    assert said == ["first", "second"]
    assert numbers(recorder.events) == [1]
    assert bus.publish(Counted(number=2)).refused == "the bus is closed"


async def test_the_report_is_a_table(anyio_backend: str) -> None:
    def broken(event: Counted) -> None:
        raise RuntimeError

    with anyio.fail_after(10):
        async with EventBus() as bus:
            bus.subscribe(Counted, Recorder[Counted](), name="sound")
            bus.subscribe(Counted, broken, name="broken handler")
            for number in range(12):
                await bus.publish(Counted(number=number))
        bus.publish(Counted(number=12))
    assert str(bus.report()).splitlines() == [
        "12 events published, 1 refused (the bus is closed)",
        "receiver        delivered  dropped  failed  left",
        "sound                  12        0       0     0",
        "broken handler          0        0      12     0",
    ]
    with pytest.raises(KeyError):
        bus.report().line("nobody")


async def test_buses_that_come_and_go_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    def open_now() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    async def come_and_go(number: int) -> None:
        async with EventBus(tmp_path / str(number % 3)) as bus, EventBus(site="server") as server:
            bus.subscribe(Counted, Recorder[Counted](), name="recorder")
            bus.subscribe(Counted, lambda event: None, name="synchronous")
            bus.subscribe(Counted, Relay(server))
            await bus.publish(Counted(number=number), scope=Scope.FEDERATED).delivered(10)

    with anyio.fail_after(60):
        await come_and_go(0)  # what the loop and its threads open for themselves stays open
        before = open_now()
        for number in range(15):
            await come_and_go(number)
        await until(lambda: open_now() <= before)


# --------------------------------------------------------------------------------------------------------- receipts
class Reader(Consumer):
    """A consumer that moves its cursor when it is told to."""

    def __init__(self, name: str = "reader", *, fails: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.go = anyio.Event()
        self.count = 0

    def check(self, feed: Feed) -> None:
        pass

    def statistics(self) -> ConsumerStatistics:
        return ConsumerStatistics(delivered=self.count)

    async def consume(self, feed: Feed) -> None:
        cursor: dict[str, int] = {}
        if self.fails:
            raise RuntimeError("no tracker")
        while True:
            draining = feed.draining
            records = await feed.journal.read(cursor, 100)
            if records:
                await self.go.wait()
                self.count += len(records)
                cursor[records[-1].header.key] = records[-1].seq
                feed.moved(cursor)
            elif draining:
                return
            else:
                await feed.wait_for_news(30)


async def test_a_receipt_is_there_at_once(bus: EventBus) -> None:
    receipt = bus.publish(Counted(number=1))

    assert receipt.wait(1) is receipt
    assert await receipt is receipt
    assert repr(receipt) == "Receipt(seq=1)"
    assert await receipt.delivered(1) is receipt  # no consumer: nothing to wait for


async def test_delivered_waits_for_every_consumer_and_names_who_lags(bus: EventBus) -> None:
    quick, slow = Reader("quick"), Reader("slow")
    bus.subscribe(Counted, quick)
    bus.subscribe(Counted, slow)
    quick.go.set()
    receipt = bus.publish(Counted(number=1))
    with anyio.fail_after(10):
        with pytest.raises(NotDeliveredError, match="not stored by slow; the events stay") as caught:
            await receipt.delivered(0.2)
        assert isinstance(caught.value, TimeoutError)
        slow.go.set()
        await receipt.delivered(5)
        await receipt.delivered()


async def test_a_consumer_that_has_failed_is_not_waited_for(bus: EventBus) -> None:
    bus.subscribe(Counted, Reader("broken", fails=True))
    with anyio.fail_after(5), pytest.raises(NotDeliveredError, match="broken"):
        await bus.publish(Counted(number=1)).delivered()
    assert "RuntimeError: no tracker" in bus.report().line("broken").notes


async def test_what_a_consumer_leaves_is_counted(make_bus: Callable[..., EventBus]) -> None:
    with anyio.fail_after(10):
        async with make_bus() as bus:
            bus.subscribe(Counted, Reader("broken", fails=True))
            for number in range(7):
                bus.publish(Counted(number=number))
    assert bus.report().line("broken").left == 7


async def test_what_cant_be_read_back_is_left_too(tmp_path: Path) -> None:
    """Its file says that a later version wrote it, which is no damage that could be mended."""
    with anyio.fail_after(10):
        async with EventBus(tmp_path, site="site-1") as bus:
            with closing(sqlite3.connect(roll_path(tmp_path / "journal", bus.origin, 0))) as file, file:
                file.execute("UPDATE header SET value = 99 WHERE name = 'format'")
            bus.subscribe(Counted, Reader())
            for number in range(7):
                bus.publish(Counted(number=number))
    assert (bus.report().line("reader").delivered, bus.report().line("reader").left) == (0, 7)
    assert not bus.report().complete


async def test_a_refused_event_is_never_delivered(bus: EventBus) -> None:
    receipt = Receipt(bus, 0, "disk full")
    with pytest.raises(NotDeliveredError, match=r"refused.*disk full"):
        await receipt.delivered(1)


async def test_waiting_in_a_thread(bus: EventBus) -> None:
    reader = Reader()
    bus.subscribe(Counted, reader)
    receipt = bus.publish(Counted(number=1))
    with anyio.fail_after(10):
        with pytest.raises(NotDeliveredError, match="reader"):
            await anyio.to_thread.run_sync(receipt.wait_delivered, 0.1)
        reader.go.set()
        assert await anyio.to_thread.run_sync(receipt.wait_delivered, 5) is receipt


async def test_waiting_in_the_loops_own_thread_is_refused(bus: EventBus) -> None:
    receipt = bus.publish(Counted(number=1))
    with pytest.raises(BusStateError, match="wait for itself"):
        receipt.wait_delivered(1)


async def test_a_receipt_outlives_its_bus(make_bus: Callable[..., EventBus]) -> None:
    reader = Reader()
    with anyio.fail_after(10):
        async with make_bus() as bus:
            bus.subscribe(Counted, reader)
            receipt = bus.publish(Counted(number=1))
            reader.go.set()
        assert await receipt.delivered(1) is receipt
        assert receipt.wait_delivered(1) is receipt


async def test_a_receipt_may_be_awaited_on_another_loop(bus: EventBus) -> None:
    reader = Reader()
    bus.subscribe(Counted, reader)
    reader.go.set()

    async def elsewhere() -> int:
        receipt = await bus.publish(Counted(number=1))
        await receipt.delivered(5)
        return receipt.seq

    with anyio.fail_after(10):
        assert await anyio.to_thread.run_sync(anyio.run, elsewhere) == 1


async def test_news_that_come_while_a_consumer_reads_are_not_lost(bus: EventBus) -> None:
    """Were a wake-up lost, one of these would take the consumer's whole patience of 30 s."""
    reader = Reader()
    reader.go.set()
    bus.subscribe(Counted, reader)
    with anyio.fail_after(20):
        for number in range(300):
            receipt = bus.publish(Counted(number=number))
            await receipt.delivered()


async def test_a_loop_of_awaited_receipts_lets_others_run(bus: EventBus) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for number in range(200):
                await bus.publish(Counted(number=number))
            tasks.cancel_scope.cancel()
    assert turns > 1
