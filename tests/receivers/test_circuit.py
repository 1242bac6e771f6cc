"""A tracker that is unavailable is left alone, and said to be; nothing is lost, nothing comes twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import pytest
from readback import read_jsonl
from waiting import until

from eventbus import EventBus
from eventbus.health import HEALTH, CircuitClosed, CircuitOpened, HealthEvent, WorkerLost, WorkerRecovered
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, Receiver, WorkerPolicy
from receivers._circuit import BACK_OFF_SECONDS, HURRIED_SECONDS, OPEN_AFTER, OPEN_SECONDS, Circuit
from receivers._ledger import OUTSTANDING
from receivers._processes import marked_processes
from receivers.jsonl import JsonlConfig
from receivers.testing import CrashingConfig, DownConfig, PoisonConfig

NAME = "tested"
POLICY = WorkerPolicy(start_timeout=20, process_timeout=5, heartbeat_timeout=5)
SMALL_BATCHES = FlushPolicy(max_items=20, max_delay=0.05)

pytestmark = pytest.mark.anyio


# --- the decisions --------------------------------------------------------------------------------------------------


def test_failures_in_a_row_open_the_circuit_once_and_one_success_closes_it() -> None:
    circuit = Circuit()
    assert [circuit.fail("down") for _ in range(OPEN_AFTER + 2)] == [False] * (OPEN_AFTER - 1) + [True, False, False]
    assert OPEN_SECONDS / 2 <= circuit.pause() <= OPEN_SECONDS
    assert circuit.pause(hurried=True) <= HURRIED_SECONDS
    assert circuit.succeed()
    assert not circuit.succeed()
    assert not circuit.fail("down")


def test_pauses_grow_and_are_jittered() -> None:
    circuit = Circuit()
    for longest in BACK_OFF_SECONDS[: OPEN_AFTER - 1]:
        circuit.fail("down")
        pauses = {circuit.pause() for _ in range(20)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_what_a_person_must_mend_opens_it_at_once() -> None:
    circuit = Circuit()
    assert circuit.fail("not authorised", for_good=True)
    assert circuit.pause() >= OPEN_SECONDS / 2


# --- real processes -------------------------------------------------------------------------------------------------


class Stage:
    """A bus with one receiver, and what is heard of its health."""

    def __init__(self, folder: Path, config: JsonlConfig, flush: FlushPolicy = SMALL_BATCHES, **policy: float) -> None:
        self.folder = folder
        self.bus = EventBus(folder, site="site-1", run="run", drain_idle_timeout=3)
        self.receiver = Receiver(config, name=NAME, flush=flush, worker=POLICY.model_copy(update=policy))
        self.heard: list[HealthEvent] = []
        self.down = folder / "jsonl" / "down"

    def subscribe(self) -> None:
        self.bus.subscribe(HEALTH, self.heard.append)
        self.bus.subscribe(TRACKING, self.receiver)

    def go_down(self) -> None:
        self.down.parent.mkdir(exist_ok=True)
        self.down.touch()

    def publish(self, count: int, first: int = 0) -> None:
        for step in range(first, first + count):
            self.bus.publish(MetricsLogged(values={"loss": float(step)}, step=step), run="run")

    def steps(self) -> list[int]:
        rows = [one.value for one in read_jsonl(self.folder / "jsonl") if "seq" in one.value]
        return [row["event"]["step"] for row in rows]

    def workers(self) -> list[int]:
        return marked_processes(str(self.folder / "cursors" / f"{NAME}.db"))

    def changes(self) -> list[type[HealthEvent]]:
        return [type(one) for one in self.heard]


@pytest.mark.parametrize("at", ["open", "write", "flush", "close"])
async def test_an_unavailable_tracker_costs_no_process_and_loses_nothing(
    tmp_path: Path, at: Literal["open", "write", "flush", "close"]
) -> None:
    stage = Stage(tmp_path, DownConfig(path="jsonl", at=at))
    with anyio.fail_after(60):
        async with stage.bus:
            stage.subscribe()
            await stage.receiver.ready()
            (pid,) = stage.workers()
            stage.go_down()
            stage.publish(100)
            if at == "close":
                await until(lambda: len(stage.steps()) == 100)
            else:
                await until(lambda: len(stage.receiver.statistics().failed) > 0)
                assert "tracker unavailable: TrackerUnavailableError: it is down" in stage.receiver.statistics().failed
                stage.publish(50, first=100)
                stage.down.unlink()
                await until(lambda: stage.receiver.statistics().delivered == 150)
            assert stage.workers() == [pid]
            stage.down.unlink(missing_ok=True)
    assert stage.bus.report().complete, str(stage.bus.report())
    assert stage.receiver.statistics().restarts == 0
    assert stage.steps() == list(range(100 if at == "close" else 150))
    assert WorkerLost not in stage.changes()


async def test_the_circuit_opens_once_and_a_drain_tries_at_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DownConfig(path="jsonl"))
    stage.go_down()
    with anyio.fail_after(60):
        async with stage.bus:
            stage.subscribe()
            stage.publish(30)
            await until(lambda: "circuit open" in stage.receiver.statistics().state)
            await until(lambda: CircuitOpened in stage.changes())
            stage.down.unlink()
            began = time.monotonic()
        assert time.monotonic() - began < OPEN_SECONDS / 2  # it did not sit the pause out
    assert stage.bus.report().complete, str(stage.bus.report())
    assert stage.steps() == list(range(30))
    (opened,) = [one for one in stage.heard if isinstance(one, CircuitOpened)]
    assert opened.reason == "TrackerUnavailableError: it is down"
    assert 0 < opened.seconds <= OPEN_SECONDS
    assert not stage.receiver.statistics().restarts


async def test_a_tracker_that_stays_down_holds_no_exit_up(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DownConfig(path="jsonl"))
    stage.go_down()
    with anyio.fail_after(60):
        async with stage.bus:
            stage.subscribe()
            stage.publish(30)
            await until(lambda: len(stage.receiver.statistics().failed) > 0)
            began = time.monotonic()
        assert time.monotonic() - began < 3 + 6  # without progress, and ending the worker on a busy machine
    assert stage.bus.report().line(NAME).left == 30
    assert not stage.workers()
    assert not (tmp_path / "dead").exists()


async def test_row_45_a_refused_key_is_shown_and_seldom_tried(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DownConfig(path="jsonl", at="open", refuses=True))
    stage.go_down()
    with anyio.fail_after(60):
        async with stage.bus:
            stage.subscribe()
            stage.publish(30)
            await until(lambda: stage.receiver.statistics().state == "circuit open: not authorised: no such key")
            (opened,) = [one for one in stage.heard if isinstance(one, CircuitOpened)]
            assert opened.seconds >= OPEN_SECONDS / 2
            assert sum(stage.receiver.statistics().failed.values()) == 1
            stage.down.unlink()
    assert stage.bus.report().complete
    assert stage.steps() == list(range(30))


async def test_a_process_that_its_sdk_has_spoilt_is_replaced(tmp_path: Path) -> None:
    stage = Stage(tmp_path, DownConfig(path="jsonl", leaves_process=True))
    with anyio.fail_after(60):
        async with stage.bus:
            stage.subscribe()
            await stage.receiver.ready()
            stage.go_down()
            stage.publish(30)
            await until(lambda: stage.receiver.statistics().restarts > 0)
            stage.down.unlink()
            await until(lambda: CircuitClosed in stage.changes() or WorkerRecovered in stage.changes())
    assert stage.bus.report().complete
    assert stage.steps() == list(range(30))


async def test_lost_workers_are_told_once_and_so_is_their_return(tmp_path: Path) -> None:
    stage = Stage(tmp_path, JsonlConfig(path="jsonl"))
    with anyio.fail_after(60):
        async with stage.bus:
            stage.subscribe()
            for round_ in range(2):
                stage.publish(30, first=30 * round_)
                await until(lambda count=30 + 31 * round_: len(stage.steps()) == count)
                (pid,) = stage.workers()
                os.kill(pid, signal.SIGKILL)
                await until(lambda count=round_ + 1: stage.changes().count(WorkerLost) == count)
                stage.publish(1, first=1000 + round_)
                await until(lambda count=round_ + 1: stage.changes().count(WorkerRecovered) == count)
    assert stage.changes() == [WorkerLost, WorkerRecovered] * 2
    lost = [one for one in stage.heard if isinstance(one, WorkerLost)]
    assert [(one.receiver, one.reason, one.restarts) for one in lost] == [
        (NAME, "died: SIGKILL", 1),
        (NAME, "died: SIGKILL", 2),
    ]


async def test_workers_that_only_die_open_the_circuit(tmp_path: Path) -> None:
    stage = Stage(tmp_path, CrashingConfig(path="jsonl", at="open", how="exit"))
    with anyio.fail_after(100):
        async with stage.bus:
            stage.subscribe()
            stage.publish(10)
            await until(lambda: CircuitOpened in stage.changes())
            assert stage.receiver.statistics().state == "circuit open: died: exit code 3"
            assert stage.receiver.statistics().restarts == OPEN_AFTER
    assert stage.changes() == [WorkerLost, CircuitOpened]
    assert not (tmp_path / "dead").exists()  # what fails while a run is opened is no event's fault
    assert stage.bus.report().line(NAME).left == 10


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_sink_that_never_says_what_it_stored_is_given_so_much_and_no_more(tmp_path: Path) -> None:
    """It counts as hanging; written in parts, each of them closed, it stores everything all the same."""
    stage = Stage(tmp_path, PoisonConfig(path="jsonl", at="close"), FlushPolicy(max_items=1), process_timeout=1)
    most = 0
    with anyio.fail_after(100):
        async with stage.bus:
            stage.subscribe()
            stage.publish(OUTSTANDING + 40)
            while stage.receiver.statistics().delivered < OUTSTANDING:
                most = max(most, await anyio.to_thread.run_sync(outstanding, tmp_path))
                await anyio.sleep(0.02)
    assert most == OUTSTANDING
    assert any("has stored nothing for 1 s" in cause for cause in stage.receiver.statistics().failed)
    assert stage.bus.report().complete, str(stage.bus.report())
    assert stage.steps() == list(range(OUTSTANDING + 40))


def outstanding(folder: Path) -> int:
    """Count the plans in the consumer's file."""
    path = folder / "cursors" / f"{NAME}.db"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT count(*) FROM plans").fetchone()[0]
