"""One receiver on several buses: one worker, each bus with its own end and its own report."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import pytest
from readback import read_jsonl
from waiting import until

from eventbus import EventBus, Relay, Scope
from eventbus.errors import SubscriptionError
from eventbus.journals.consumer import ConsumerFile
from eventbus.tracking import TRACKING, MetricsLogged, RunFinished
from receivers import FlushPolicy, JsonlReceiver, Receiver, WorkerPolicy
from receivers._control import Attach, Detach, Drain, Flush, Source
from receivers._joint import Member, Told, new_orders
from receivers._processes import marked_processes
from receivers.jsonl import JsonlConfig
from receivers.testing import HangingConfig, SlowConfig

NAME = "tested"
POLICY = WorkerPolicy(start_timeout=20, process_timeout=5, heartbeat_timeout=10, orphan_timeout=10)
SMALL_BATCHES = FlushPolicy(max_items=20, max_delay=0.05)

pytestmark = pytest.mark.anyio


def receiver(config: JsonlConfig | None = None, **options: object) -> Receiver:
    return Receiver(config or JsonlConfig(), name=NAME, flush=SMALL_BATCHES, worker=POLICY, **options)  # type: ignore[arg-type] - few options


def publish(bus: EventBus, count: int, first: int = 0) -> None:
    for step in range(first, first + count):
        bus.publish(MetricsLogged(values={"loss": float(step)}, step=step), run=bus.run)


def steps(home: Path, run: str, site: str) -> list[int]:
    lines = [line.value for line in read_jsonl(home / "jsonl" / run) if not line.torn]
    return [line["event"]["step"] for line in lines if line["type"] == "MetricsLogged" and line["site"] == site]


def statuses(home: Path, run: str) -> list[str]:
    return [line.value["status"] for line in read_jsonl(home / "jsonl" / run) if line.value.get("type") == "RunStatus"]


def workers(home: Path) -> list[int]:
    return marked_processes(str(home / "cursors" / f"{NAME}.db"))


# --- orders ---------------------------------------------------------------------------------------------------------


async def test_a_worker_is_told_once_of_every_bus_that_comes_wants_and_goes() -> None:
    async with EventBus(site="a") as one, EventBus(site="b") as other:
        first = Member(Source(1, "/a", one.origin.partition), one.journal)
        second = Member(Source(2, "/b", other.origin.partition), other.journal)
    told = Told({1})
    assert new_orders([first, second], told) == [Attach(second.source)]
    second.wanted = 7
    assert new_orders([first, second], told) == [Flush()]
    first.draining = True
    assert new_orders([first, second], told) == [Drain(1, one.origin.partition)]
    assert new_orders([first, second], told) == []
    assert new_orders([second], told) == [Detach(1)]
    assert new_orders([second], told) == []
    assert new_orders([second], Told({2})) == [Flush()]  # another worker is told anew


# --- one worker -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_eight_sites_have_one_worker_and_a_report_each(tmp_path: Path) -> None:
    shared, buses = receiver(), list[EventBus]()
    with anyio.fail_after(60):
        async with AsyncExitStack() as stack:
            for number in range(8):
                bus = EventBus(tmp_path / f"{number}", site=f"site-{number}", run="run")
                buses.append(await stack.enter_async_context(bus))
                bus.subscribe(TRACKING, shared)
                publish(bus, 10 * (number + 1))
            await shared.ready()
            assert len(workers(tmp_path / "0")) == 1
    for number, bus in enumerate(buses):
        line = bus.report().line(NAME)
        assert bus.report().complete, str(bus.report())
        assert (line.delivered, line.values) == (10 * (number + 1), 10 * (number + 1))
        assert line.by_site == {f"site-{number}": 10 * (number + 1)}
        assert steps(tmp_path / "0", "run", f"site-{number}") == list(range(10 * (number + 1)))
    assert shared.statistics().delivered == sum(10 * (number + 1) for number in range(8))
    assert statuses(tmp_path / "0", "run") == ["FINISHED"] * 8
    assert not workers(tmp_path / "0")
    assert not [one for one in threading.enumerate() if "trackbus receiver" in one.name]


async def test_a_bus_is_left_with_all_it_had_while_the_other_goes_on_and_may_come_back(tmp_path: Path) -> None:
    """The first bus, whose workspace is the home, is left first; each bus has a task of its own."""
    shared, buses = receiver(), dict[str, EventBus]()
    first_is_left, all_is_done = anyio.Event(), anyio.Event()

    async def use_second(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with EventBus(tmp_path / "b", site="site-b", run="run") as second:
            buses["second"] = second
            second.subscribe(TRACKING, shared)
            publish(second, 30)
            task_status.started()
            await first_is_left.wait()
            publish(second, 30, first=30)
            await all_is_done.wait()
            publish(second, 30, first=60)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            async with EventBus(tmp_path / "a", site="site-a", run="run") as first:
                first.subscribe(TRACKING, shared)
                await tasks.start(use_second)
                publish(first, 50)
                await shared.ready()
                (worker,) = workers(tmp_path / "a")
            assert first.report().complete, str(first.report())
            assert steps(tmp_path / "a", "run", "site-a") == list(range(50))
            assert statuses(tmp_path / "a", "run") == ["FINISHED"]  # that of the site whose bus was left
            first_is_left.set()
            async with EventBus(tmp_path / "a", site="site-a", run="run") as again:
                again.subscribe(TRACKING, shared)
                publish(again, 5, first=50)
            assert workers(tmp_path / "a") == [worker]
            assert (again.report().line(NAME).delivered, again.report().line(NAME).left) == (5, 0)
            all_is_done.set()
    assert buses["second"].report().line(NAME).delivered == 90
    assert steps(tmp_path / "a", "run", "site-a") == list(range(55))
    assert steps(tmp_path / "a", "run", "site-b") == list(range(90))
    assert not workers(tmp_path / "a")


async def test_counts_stay_apart_where_sites_share_a_name_and_a_worker_is_lost(tmp_path: Path) -> None:
    shared = receiver()
    with anyio.fail_after(60):
        async with (
            EventBus(tmp_path / "a", site="twin", run="one") as first,
            EventBus(tmp_path / "b", site="twin", run="two") as second,
        ):
            for bus in (first, second):
                bus.subscribe(TRACKING, shared)
            await shared.ready()
            publish(first, 100)
            publish(second, 40)
            await until(lambda: len(steps(tmp_path / "a", "one", "twin")) > 20)
            os.kill(workers(tmp_path / "a")[0], signal.SIGKILL)
            publish(second, 30, first=40)
    lines = [bus.report().line(NAME) for bus in (first, second)]
    assert [line.delivered for line in lines] == [100, 70]
    assert [line.by_site for line in lines] == [{"twin": 100}, {"twin": 70}]
    assert [line.failed for line in lines] == [1, 1]  # the fault did bite, and both are told
    assert steps(tmp_path / "a", "one", "twin") == list(range(100))
    assert steps(tmp_path / "a", "two", "twin") == list(range(70))


async def test_a_bus_that_comes_while_the_worker_ends_has_another_one(tmp_path: Path) -> None:
    shared = receiver(SlowConfig(path="jsonl", at="close", seconds=1.0))
    first = EventBus(tmp_path / "a", site="site-a", run="a")

    async def use_first() -> None:
        async with first:
            first.subscribe(TRACKING, shared)
            publish(first, 30)
            await shared.ready()

    with anyio.fail_after(60):
        async with EventBus(tmp_path / "b", site="site-b", run="b") as second, anyio.create_task_group() as tasks:
            tasks.start_soon(use_first)
            await until(lambda: shared.statistics().state == "closing")
            second.subscribe(TRACKING, shared)
            publish(second, 30)
            await second.publish(MetricsLogged(values={"loss": 0.0}, step=30), run="b").delivered(30)
    for bus in (first, second):
        assert bus.report().complete, str(bus.report())
        assert bus.report().line(NAME).failed == 0
    assert steps(tmp_path / "a", "b", "site-b") == list(range(31))


async def test_buses_of_other_threads_share_the_worker(tmp_path: Path) -> None:
    shared = receiver()

    def log_in_thread() -> EventBus:
        with EventBus(tmp_path / "b", site="site-b", run="run").background() as bus:
            bus.subscribe(TRACKING, shared)
            publish(bus, 200)
            bus.publish(MetricsLogged(values={"loss": 0.0}, step=200), run="run").wait_delivered(20)
            assert len(workers(tmp_path / "a")) == 1
        return bus

    with anyio.fail_after(60):
        async with EventBus(tmp_path / "a", site="site-a", run="run") as first:
            first.subscribe(TRACKING, shared)
            publish(first, 100)
            second = await anyio.to_thread.run_sync(log_in_thread)
            assert second.report().complete, str(second.report())
            assert second.report().line(NAME).delivered == 201
    assert first.report().line(NAME).delivered == 100
    assert steps(tmp_path / "a", "run", "site-b") == list(range(201))


async def test_two_buses_on_one_workspace_end_apart(tmp_path: Path) -> None:
    shared = receiver()
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-b", run="b") as second:
            async with EventBus(tmp_path, site="site-a", run="a") as first:
                first.subscribe(TRACKING, shared)
                second.subscribe(TRACKING, shared)
                publish(first, 30)
                publish(second, 30)
            assert statuses(tmp_path, "a") == ["FINISHED"]
            assert statuses(tmp_path, "b") == []
            publish(second, 10, first=30)
    assert first.report().complete
    assert second.report().complete
    assert steps(tmp_path, "b", "site-b") == list(range(40))
    assert statuses(tmp_path, "b") == ["FINISHED"]


async def test_a_shared_run_ends_with_its_last_bus_as_badly_as_the_worst(tmp_path: Path) -> None:
    shared = receiver(layout="combined")
    with anyio.fail_after(60):
        async with EventBus(tmp_path / "b", site="site-b", run="run") as second:
            async with EventBus(tmp_path / "a", site="site-a", run="run") as first:
                first.subscribe(TRACKING, shared)
                second.subscribe(TRACKING, shared)
                publish(first, 10)
                publish(second, 10)
                await second.publish(MetricsLogged(values={"loss": 10.0}, step=10), run="run").delivered(20)
                first.publish(RunFinished(status="FAILED", reason="broke"), run="run")
            assert statuses(tmp_path / "a", "run") == []
            publish(second, 10, first=10)
    assert statuses(tmp_path / "a", "run") == ["FAILED"]
    lines = [line.value for line in read_jsonl(tmp_path / "a" / "jsonl" / "run")]
    assert lines[-1]["reason"] == "site-a: broke"
    assert [line["number"] for line in lines[:-1]] == list(range(1, 33))


# --- the home -------------------------------------------------------------------------------------------------------


async def test_the_first_bus_is_the_home_and_stays_it(tmp_path: Path) -> None:
    async with (
        EventBus(tmp_path / "a", site="site-a", run="run") as first,
        EventBus(tmp_path / "b", site="site-b", run="run") as second,
    ):
        shared = receiver()
        first.subscribe(TRACKING, shared)
        second.subscribe(TRACKING, shared)
        publish(second, 30)
    assert not (tmp_path / "b" / "jsonl").exists()
    with ConsumerFile(tmp_path / "b" / "cursors", NAME) as word:  # for whoever trims that journal
        assert word.cursor() == {second.origin.partition: 30}
    async with EventBus(tmp_path / "b", site="site-b") as again:
        with pytest.raises(SubscriptionError, match=f"with its cursor in {tmp_path / 'a'}"):
            again.subscribe(TRACKING, receiver())


async def test_another_subscription_on_the_second_bus_is_refused(tmp_path: Path) -> None:
    async with EventBus(tmp_path / "a", site="site-a") as first, EventBus(tmp_path / "b", site="site-b") as second:
        shared = receiver()
        first.subscribe(TRACKING, shared)
        with pytest.raises(SubscriptionError, match="subscribe it to the same"):  # also before a worker is started
            second.subscribe(TRACKING.federated, shared)


# --- trouble --------------------------------------------------------------------------------------------------------


async def test_a_bus_whose_time_is_up_holds_no_other_up_and_loses_nothing(tmp_path: Path) -> None:
    """A worker hangs with records of both buses planned; the one that replaces it serves only the other bus."""
    config = HangingConfig(path="jsonl", at="write", after_rows=50, times=1)
    shared = receiver(config)
    with anyio.fail_after(90):
        async with EventBus(tmp_path / "a", site="site-a", run="a") as first:
            first.subscribe(TRACKING, shared)
            await shared.ready()
            async with EventBus(tmp_path / "b", site="site-b", run="b", drain_timeout=0.5) as second:
                second.subscribe(TRACKING, shared)
                await shared.ready()
                publish(second, 100)
                await until(lambda: len(steps(tmp_path / "a", "b", "site-b")) >= 40)
            left = second.report().line(NAME).left
            assert left > 0
            assert not second.report().drained
            publish(first, 20)
        assert first.report().complete, str(first.report())
        assert first.report().line(NAME).failed == 1
        assert steps(tmp_path / "a", "a", "site-a") == list(range(20))
        async with (
            EventBus(tmp_path / "a", site="site-a", run="more") as home,
            EventBus(tmp_path / "b", site="site-b", run="more") as again,
        ):
            for bus in (home, again):
                bus.subscribe(TRACKING, shared)
    assert again.report().complete, str(again.report())
    assert again.report().line(NAME).dropped == 0
    assert steps(tmp_path / "a", "b", "site-b") == list(range(100))


async def test_the_last_bus_takes_a_hanging_worker_with_it(tmp_path: Path) -> None:
    shared = receiver(HangingConfig(at="write", after_rows=0, deaf=True))
    with anyio.fail_after(60):
        async with (
            EventBus(tmp_path / "a", site="site-a", run="a", drain_timeout=0.5) as first,
            EventBus(tmp_path / "b", site="site-b", run="b", drain_timeout=0.5) as second,
        ):
            for bus in (first, second):
                bus.subscribe(TRACKING, shared)
                publish(bus, 10)
            await until(lambda: shared.statistics().state == "batch")
            began = time.monotonic()
        assert time.monotonic() - began < 15
    assert [bus.report().line(NAME).left for bus in (first, second)] == [10, 10]
    assert not workers(tmp_path / "a")


async def test_what_a_relay_brings_to_a_second_bus_is_stored_once(tmp_path: Path) -> None:
    shared = receiver()
    with anyio.fail_after(60):
        async with (
            EventBus(tmp_path / "server", site="server", run="run") as server,
            EventBus(tmp_path / "site", site="site-1", run="run") as site,
        ):
            server.subscribe(TRACKING, shared)
            site.subscribe(TRACKING, shared)
            site.subscribe(TRACKING.federated, Relay(server))
            for step in range(100):
                event = MetricsLogged(values={"loss": float(step)}, step=step)
                site.publish(event, run="run", scope=Scope.FEDERATED if step % 2 else Scope.LOCAL)
    assert site.report().complete, str(site.report())
    assert server.report().complete, str(server.report())
    assert steps(tmp_path / "server", "run", "site-1") == list(range(100))
    assert site.report().line(NAME).delivered == 100


async def test_separate_receivers_of_one_process_are_still_separate(tmp_path: Path) -> None:
    async with EventBus(tmp_path / "a", site="site-a") as first, EventBus(tmp_path / "b", site="site-b") as second:
        for bus in (first, second):
            bus.subscribe(TRACKING, JsonlReceiver())
            publish(bus, 3)
    assert [bus.report().line("jsonl").delivered for bus in (first, second)] == [3, 3]
