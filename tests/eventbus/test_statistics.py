"""What a bus says of itself while it works: counts of each subscription, what waits, what the journal weighs."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from waiting import wait_until

from eventbus import Event, EventBus, Relay, Scope
from eventbus.abc import Consumer, ConsumerStatistics, Feed
from eventbus.health import HEALTH, HealthEvent, WorkerLost
from eventbus.journals._caretaker import upkeep
from eventbus.tracking import TRACKING, MetricsLogged

pytestmark = pytest.mark.anyio


class StepDone(Event, name="StatisticsStepDone"):
    number: int


class Idler(Consumer):
    """Stores nothing until it is told how much."""

    name = "idler"

    def __init__(self) -> None:
        self.feed: Feed | None = None

    def check(self, feed: Feed) -> None:
        self.feed = feed

    async def consume(self, feed: Feed) -> None:
        while not feed.draining:
            await feed.wait_for_orders(1)

    def statistics(self) -> ConsumerStatistics:
        return ConsumerStatistics(dropped={"torn": 2}, dropped_by_site={"site-1": 2}, state="idle")


def metric(step: int) -> MetricsLogged:
    return MetricsLogged(values={"loss": 1.0}, step=step)


async def test_a_bus_that_is_not_open_yet_has_published_nothing(tmp_path: Path) -> None:
    statistics = EventBus(tmp_path).statistics()
    assert (statistics.published, statistics.journal_bytes, statistics.consumers) == (0, 0, {})


async def test_a_handlers_counts_and_what_it_has_queued() -> None:
    async with EventBus() as bus:
        go_on = anyio.Event()

        async def handle(event: StepDone) -> None:
            await go_on.wait()
            if event.number == 1:
                raise ValueError

        bus.subscribe(StepDone, handle, name="slow")
        for number in range(3):
            bus.publish(StepDone(number=number))
        waiting = bus.statistics()
        go_on.set()
        await anyio.to_thread.run_sync(wait_until, lambda: bus.statistics().handlers["slow"].queued == 0)
        done = bus.statistics()
    assert (waiting.published, waiting.handlers["slow"].queued) == (3, 3)
    counts = done.handlers["slow"]
    assert (counts.delivered, counts.failed, counts.dropped) == (2, 1, 0)


async def test_an_event_on_which_a_handler_raised_was_not_delivered() -> None:
    def handle(event: StepDone) -> None:
        if event.number == 1:
            raise ValueError

    reports = []
    for numbers in ([0], [0, 1]):  # the first is the control
        async with EventBus() as bus:
            bus.subscribe(StepDone, handle, name="raising")
            for number in numbers:
                bus.publish(StepDone(number=number))
        reports.append(bus.report())
    assert [report.complete for report in reports] == [True, False]
    assert reports[1].line("raising").lost == 1


async def test_a_consumers_lag_shrinks_as_it_stores(tmp_path: Path) -> None:
    async with EventBus(tmp_path, site="site-1") as bus:
        idler = Idler()
        bus.subscribe(TRACKING, idler)
        for step in range(5):
            bus.publish(metric(step))
        before = bus.statistics()
        assert idler.feed is not None
        idler.feed.moved({bus.origin.partition: 3})
        after = bus.statistics()
    assert (before.consumers["idler"].lag, after.consumers["idler"].lag) == (5, 2)
    assert (after.consumers["idler"].state, after.consumers["idler"].dropped) == ("idle", {"torn": 2})
    assert "idler" in str(after)
    assert "2 torn" in str(after)
    assert bus.report().line("idler").dropped_by_site == {"site-1": 2}


async def test_what_was_relayed_to_a_bus_waits_for_its_consumers(tmp_path: Path) -> None:
    async with EventBus(tmp_path / "server", site="server") as server:
        idler = Idler()
        server.subscribe(TRACKING, idler)
        async with EventBus(tmp_path / "site", site="site-1") as site:
            site.subscribe(TRACKING.federated, Relay(server))
            for step in range(4):
                site.publish(metric(step), scope=Scope.FEDERATED)
            site.publish(metric(9))
        lag = server.statistics().consumers["idler"].lag
        assert idler.feed is not None
        idler.feed.moved({site.origin.partition: 4})
        stored = server.statistics().consumers["idler"].lag
    assert (lag, stored) == (4, 0)
    relay = site.statistics().consumers["relay"]
    assert (relay.delivered, relay.withheld, relay.lag) == (4, 1, 0)
    assert "1 stay at the site" in site.report().line("relay").notes


async def test_the_journals_size_is_that_of_its_files(tmp_path: Path) -> None:
    async with EventBus(tmp_path) as bus:
        for step in range(200):
            bus.publish(metric(step))
        size = bus.statistics().journal_bytes
        found = sum(path.stat().st_size for path in (tmp_path / "journal").rglob("*") if path.is_file())
    assert 200 * 50 < size <= found


async def test_any_thread_may_ask_while_others_publish(tmp_path: Path) -> None:
    async with EventBus(tmp_path) as bus:
        bus.subscribe(TRACKING, lambda event: None, name="handler")
        bus.subscribe(TRACKING, Idler())
        seen: list[int] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                seen.append(bus.statistics().published)

        asking = threading.Thread(target=ask)
        asking.start()
        await anyio.to_thread.run_sync(lambda: [bus.publish(metric(step)) for step in range(500)])
        done.set()
        await anyio.to_thread.run_sync(asking.join)
    assert seen == sorted(seen)
    assert bus.statistics().published == 500


async def test_refusals_are_counted_by_cause(tmp_path: Path) -> None:
    async with EventBus(tmp_path) as bus:
        pass
    bus.publish(metric(0))
    assert bus.statistics().refused == {"the bus is closed": 1}


async def test_words_of_health_are_counted_apart(tmp_path: Path) -> None:
    heard: list[HealthEvent] = []
    async with EventBus(tmp_path) as bus:
        bus.subscribe(HEALTH, heard.append)
        bus.publish(metric(0))
        bus.tell(WorkerLost(receiver="mlflow", reason="died", restarts=1))
    bus.tell(WorkerLost(receiver="mlflow", reason="too late", restarts=2))
    report = bus.report()
    assert (report.published, report.health, len(heard)) == (2, 1, 1)


class Ailing:
    """Upkeep that fails on order."""

    def __init__(self) -> None:
        self.fails = True
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        upkeep.ring()
        if self.fails:
            raise OSError(28, "No space left on device")


def test_failing_upkeep_is_logged_once_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="trackbus.journal")
    ailing = Ailing()
    upkeep.watch(ailing)
    try:
        wait_until(lambda: ailing.calls >= 4)
        assert len(caplog.records) == 1
        ailing.fails = False
        worked = ailing.calls + 2
        wait_until(lambda: ailing.calls >= worked)
        ailing.fails = True
        wait_until(lambda: len(caplog.records) == 2)
    finally:
        upkeep.forget(ailing)
    assert "No space left on device" in caplog.records[1].message


async def test_a_report_of_an_open_bus_counts_what_is_not_stored_yet_as_left(tmp_path: Path) -> None:
    async with EventBus(tmp_path) as bus:
        idler = Idler()
        bus.subscribe(TRACKING, idler)
        bus.publish(metric(0))
        bus.publish(metric(1))
        assert idler.feed is not None
        before = bus.report()
        idler.feed.moved({bus.journal.header.key: bus.journal.last_seq})
        after = bus.report()
    assert (before.line("idler").left, before.complete) == (2, False)
    assert after.line("idler").left == 0
