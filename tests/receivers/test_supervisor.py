"""Workers hang, crash, are stopped or killed: the trainer does not notice, nothing is lost, nothing comes twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import anyio
import pytest
from readback import read_jsonl
from waiting import until

from eventbus import EventBus, Report
from eventbus.errors import SubscriptionError
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, Receiver, WorkerPolicy
from receivers._processes import marked_processes
from receivers.jsonl import JsonlConfig
from receivers.testing import CrashingConfig, HangingConfig, SlowConfig

POLICY = WorkerPolicy(start_timeout=5, process_timeout=1, heartbeat_timeout=3)
SMALL_BATCHES = FlushPolicy(max_items=50, max_delay=0.05)
EVENTS = 300

Point = Literal["open", "write", "flush", "close"]

pytestmark = pytest.mark.anyio


def receiver(config: JsonlConfig, name: str = "tested") -> Receiver:
    return Receiver(config, name=name, flush=SMALL_BATCHES, worker=POLICY)


def publish(bus: EventBus, count: int = EVENTS) -> float:
    """Publish, and return the longest call in seconds."""
    longest = 0.0
    for step in range(count):
        began = time.perf_counter()
        bus.publish(MetricsLogged(values={"loss": float(step)}, step=step), run=bus.run)
        longest = max(longest, time.perf_counter() - began)
    return longest


def stored_steps(workspace: Path) -> list[int]:
    """Return the steps below a folder in the order of the files; no line may be torn."""
    lines = read_jsonl(workspace)
    assert not [line for line in lines if line.torn]
    return [line.value["event"]["step"] for line in lines if line.value["type"] == "MetricsLogged"]


def workers(workspace: Path, name: str = "tested") -> list[int]:
    return marked_processes(str(workspace / "cursors" / f"{name}.db"))


async def run_with(workspace: Path, config: JsonlConfig, during: Callable[[], None] | None = None) -> Report:
    """Publish to one receiver, do something to its worker, and leave the bus."""
    with anyio.fail_after(60):
        async with EventBus(workspace, site="site-1") as bus:
            tested = receiver(config)
            bus.subscribe(TRACKING, tested)
            await tested.ready()
            publish(bus)
            if during is not None:
                during()
                publish(bus, 1)
    return bus.report()


@pytest.mark.parametrize("point", ["open", "write", "flush", "close"])
@pytest.mark.parametrize("how", ["raise", "exit", "kill"])
async def test_a_worker_that_crashes_once_is_started_again(
    tmp_path: Path, point: Point, how: Literal["raise", "exit", "kill"]
) -> None:
    after = 0 if point == "open" else EVENTS if point == "close" else 120
    report = await run_with(tmp_path, CrashingConfig(at=point, after_rows=after, times=1, how=how))
    assert report.complete, str(report)
    assert stored_steps(tmp_path) == list(range(EVENTS))
    assert report.line("tested").failed == 1  # the fault did bite
    assert not workers(tmp_path)


@pytest.mark.parametrize("point", ["open", "write", "flush", "close"])
async def test_a_worker_that_hangs_and_ignores_sigterm_is_killed_at_its_deadline(tmp_path: Path, point: Point) -> None:
    after = 0 if point == "open" else EVENTS if point == "close" else 120
    report = await run_with(tmp_path, HangingConfig(at=point, after_rows=after, times=1, deaf=True))
    assert report.complete, str(report)
    assert stored_steps(tmp_path) == list(range(EVENTS))
    (note,) = [note for note in report.line("tested").notes if "more than" in note]
    assert ("opening for more than 5 s" if point == "open" else "for more than 1 s") in note
    assert not workers(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV], ids=lambda one: one.name)
async def test_a_worker_that_is_killed_or_stopped_from_outside_is_replaced(
    tmp_path: Path, number: signal.Signals
) -> None:
    def strike() -> None:
        (pid,) = workers(tmp_path)
        os.kill(pid, number)

    report = await run_with(tmp_path, JsonlConfig(), strike)
    assert report.complete, str(report)
    assert stored_steps(tmp_path) == [*range(EVENTS), 0]
    assert report.line("tested").failed == 1
    assert not workers(tmp_path)


async def test_a_worker_is_started_again_once_its_journal_is_found_again(tmp_path: Path) -> None:
    """Where it is stands in the workspace, and can't be read for a while: as without descriptors."""
    workspace, local = tmp_path / "ws", tmp_path / "local"
    async with EventBus(workspace, site="site-1", journal_dir=local) as bus:
        tested = receiver(JsonlConfig())
        bus.subscribe(TRACKING, tested)
        await tested.ready()
        pointer = workspace / "journal_dir.json"
        told = pointer.read_text()
        pointer.write_text("")
        (pid,) = workers(next(local.iterdir()))
        os.kill(pid, signal.SIGKILL)
        await until(lambda: any("can't be started" in cause for cause in tested.statistics().failed))
        publish(bus)
        pointer.write_text(told)
    assert bus.report().complete, str(bus.report())
    assert stored_steps(workspace) == list(range(EVENTS))


async def test_a_tracker_that_hangs_for_ever_touches_neither_training_nor_the_other_receiver(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", drain_idle_timeout=2, drain_timeout=6) as bus:
            hanging = HangingConfig(at="write", after_rows=100, deaf=True, path=str(tmp_path / "hung"))
            bus.subscribe(TRACKING, receiver(hanging, "hung"))
            healthy = receiver(JsonlConfig(), "healthy")
            bus.subscribe(TRACKING, healthy)
            await healthy.ready()
            longest = publish(bus, 2000)
            began = time.monotonic()
        assert time.monotonic() - began < 6 + 5  # the drain's own limit, and ending a deaf worker
    report = bus.report()
    assert longest < 0.5
    assert report.line("healthy").delivered == 2000
    assert stored_steps(tmp_path / "jsonl") == list(range(2000))
    assert not report.drained
    assert report.line("hung").left == 2000 - report.line("hung").delivered > 0
    assert not workers(tmp_path, "hung")


async def test_what_was_left_is_stored_when_the_workspace_is_opened_again(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        config = HangingConfig(at="flush", after_rows=100, times=1, deaf=True)
        async with EventBus(tmp_path, site="site-1", drain_idle_timeout=0.3, drain_timeout=0.5) as bus:
            bus.subscribe(TRACKING, receiver(config))
            publish(bus)
        assert bus.report().line("tested").left > 0
        async with EventBus(tmp_path, site="site-1") as again:
            again.subscribe(TRACKING, receiver(config))
    assert again.report().line("tested").left == 0
    assert stored_steps(tmp_path) == list(range(EVENTS))


async def test_a_slow_tracker_makes_nobody_wait_but_the_drain(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1") as bus:
            slow = receiver(SlowConfig(at="write", seconds=0.3))
            bus.subscribe(TRACKING, slow)
            await slow.ready()
            longest = publish(bus)
            lagging = slow.statistics().delivered
    assert longest < 0.2
    assert lagging < EVENTS
    assert bus.report().complete
    assert stored_steps(tmp_path) == list(range(EVENTS))


async def test_delivered_waits_for_the_tracker_and_not_for_the_batch_delay(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        async with EventBus(tmp_path, site="site-1") as bus:
            patient = Receiver(JsonlConfig(), flush=FlushPolicy(max_delay=3600))
            bus.subscribe(TRACKING, patient)
            await patient.ready()
            receipt = bus.publish(MetricsLogged(values={"loss": 1.0}, step=5), run=bus.run)
            await receipt.delivered(10)
            assert stored_steps(tmp_path) == [5]


async def test_a_bus_without_a_workspace_can_have_no_receiver() -> None:
    async with EventBus() as bus:
        with pytest.raises(SubscriptionError, match=r"give the bus a workspace, and .*: EventBus\('runs/exp1'\)"):
            bus.subscribe(TRACKING, receiver(JsonlConfig()))


async def test_an_old_cursor_is_not_used_for_another_destination(tmp_path: Path) -> None:
    async with EventBus(tmp_path, site="site-1") as bus:
        bus.subscribe(TRACKING, receiver(JsonlConfig()))
    async with EventBus(tmp_path, site="site-1") as again:
        with pytest.raises(SubscriptionError, match="give the receiver another name="):
            again.subscribe(TRACKING, receiver(JsonlConfig(path=str(tmp_path / "elsewhere"))))


async def test_two_receivers_of_one_name_are_refused(tmp_path: Path) -> None:
    async with EventBus(tmp_path, site="site-1") as bus:
        bus.subscribe(TRACKING, receiver(JsonlConfig()))
        with pytest.raises(SubscriptionError, match="named 'tested' exists"):
            bus.subscribe(TRACKING, receiver(JsonlConfig()))


async def test_two_receivers_never_fill_one_destination(tmp_path: Path) -> None:
    async with EventBus(tmp_path, site="site-1") as bus:
        bus.subscribe(TRACKING, receiver(JsonlConfig()))
        with pytest.raises(SubscriptionError, match="is filled by the receiver 'tested'"):
            bus.subscribe(TRACKING, receiver(JsonlConfig(), "twin"))
