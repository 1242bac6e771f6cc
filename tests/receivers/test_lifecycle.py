"""Buses, workers and trainers begin, meet, die and end: nothing is lost, nothing comes twice, nobody is left behind."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread
import pytest
from readback import read_jsonl
from waiting import until, wait_until

from eventbus import Event, EventBus
from eventbus.errors import SubscriptionError
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, JsonlReceiver, Receiver, WorkerPolicy
from receivers._heart import LOG_BYTES
from receivers._processes import marked_processes
from receivers.jsonl import JsonlConfig
from receivers.testing import CrashingConfig, SlowConfig

NAME = "tested"
POLICY = WorkerPolicy(start_timeout=10, process_timeout=5, heartbeat_timeout=5, orphan_timeout=10)
SMALL_BATCHES = FlushPolicy(max_items=20, max_delay=0.05)
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.anyio

TRAINER = """
import sys
from eventbus import EventBus
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, JsonlReceiver

workspace, run, site, with_receiver = sys.argv[1:]
with EventBus(workspace, site=site, run=run).background() as bus:
    if with_receiver == "yes":
        bus.subscribe(TRACKING, JsonlReceiver(name="tested", flush=FlushPolicy(max_items=20, max_delay=0.05)))
    step = 0
    for line in sys.stdin:
        for _ in range(int(line)):
            bus.publish(MetricsLogged(values={"loss": float(step)}, step=step), run=run)
            step += 1
        print(step, flush=True)
"""


class Trainer:
    """A training process that logs when it is told to."""

    def __init__(self, workspace: Path, run: str, *, site: str = "site-1", receiver: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(workspace), run, site, "yes" if receiver else "no"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def log(self, count: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def leave(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait(60)


@pytest.fixture
def trainers() -> Iterator[list[Trainer]]:
    started: list[Trainer] = []
    yield started
    for one in started:
        one.close()


def jsonl(*, flush: FlushPolicy = SMALL_BATCHES) -> JsonlReceiver:
    return JsonlReceiver(name=NAME, flush=flush, worker=POLICY)


def publish(bus: EventBus, count: int, first: int = 0) -> None:
    for step in range(first, first + count):
        bus.publish(MetricsLogged(values={"loss": float(step)}, step=step), run=bus.run)


def steps(workspace: Path, run: str) -> list[int]:
    lines = [line for line in read_jsonl(workspace / "jsonl" / run) if not line.torn]
    return [line.value["event"]["step"] for line in lines if line.value["type"] == "MetricsLogged"]


def statuses(workspace: Path, run: str) -> list[str]:
    lines = read_jsonl(workspace / "jsonl" / run)
    return [line.value["status"] for line in lines if line.value.get("type") == "RunStatus"]


def workers(workspace: Path) -> list[int]:
    return marked_processes(str(workspace / "cursors" / f"{NAME}.db"))


# --- several processes ----------------------------------------------------------------------------------------------


async def test_a_second_trainer_stands_by_and_leaves_in_time(tmp_path: Path, trainers: list[Trainer]) -> None:
    trainers.append(first := Trainer(tmp_path, "first"))
    first.log(30)
    await until(lambda: len(steps(tmp_path, "first")) == 30)
    (working,) = workers(tmp_path)
    with anyio.fail_after(40):
        async with EventBus(tmp_path, site="site-1", run="second") as bus:
            bus.subscribe(TRACKING, jsonl())
            publish(bus, 30)
            await until(lambda: len(steps(tmp_path, "second")) == 30)
            began = time.monotonic()
        assert time.monotonic() - began < 5
    assert bus.report().complete, str(bus.report())
    assert workers(tmp_path) == [working]  # nobody laid hands on it
    first.log(10)
    assert await anyio.to_thread.run_sync(first.leave) == 0
    assert steps(tmp_path, "first") == list(range(40))
    assert statuses(tmp_path, "first") == ["FINISHED"]
    assert statuses(tmp_path, "second") == ["FINISHED"]
    assert not workers(tmp_path)


@pytest.mark.parametrize("victim", ["worker", "trainer", "both"])
async def test_who_stands_by_takes_over(
    tmp_path: Path, trainers: list[Trainer], victim: Literal["worker", "trainer", "both"]
) -> None:
    trainers.append(first := Trainer(tmp_path, "first"))
    first.log(100)
    await until(lambda: len(steps(tmp_path, "first")) >= 20)
    (working,) = workers(tmp_path)
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", run="second") as bus:
            second = jsonl()
            bus.subscribe(TRACKING, second)
            await until(lambda: second.statistics().state == "standing by")
            (ours,) = set(workers(tmp_path)) - {working}
            if victim != "worker":
                os.kill(first.process.pid, signal.SIGKILL)
            if victim != "trainer":
                os.kill(working, signal.SIGKILL)
            publish(bus, 100)
            await until(lambda: second.statistics().state == "idle")
            if victim == "worker":  # its trainer has started another one, which now stands by
                await until(lambda: len(set(workers(tmp_path)) - {working, ours}) == 1)
                first.log(20)
                await until(lambda: len(steps(tmp_path, "first")) == 120)
        assert ours not in workers(tmp_path)
    assert bus.report().complete, str(bus.report())
    assert bus.report().line(NAME).failed == 0
    if victim == "worker":
        assert await anyio.to_thread.run_sync(first.leave) == 0
    assert steps(tmp_path, "first") == list(range(120 if victim == "worker" else 100))
    assert steps(tmp_path, "second") == list(range(100))
    assert statuses(tmp_path, "first") == ["FINISHED" if victim == "worker" else "KILLED"]
    assert statuses(tmp_path, "second") == ["FINISHED"]
    assert not workers(tmp_path)


async def test_a_worker_that_was_stopped_and_orphaned_is_no_obstacle(tmp_path: Path, trainers: list[Trainer]) -> None:
    trainers.append(first := Trainer(tmp_path, "first"))
    first.log(30)
    await until(lambda: len(steps(tmp_path, "first")) == 30)
    (stopped,) = workers(tmp_path)
    os.kill(stopped, signal.SIGSTOP)
    first.log(70)
    first.kill()
    assert workers(tmp_path) == [stopped]
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", run="second") as bus:
            bus.subscribe(TRACKING, jsonl())
            publish(bus, 100)
    assert bus.report().complete, str(bus.report())
    assert steps(tmp_path, "first") == list(range(100))
    assert steps(tmp_path, "second") == list(range(100))
    assert statuses(tmp_path, "first") == ["KILLED"]
    assert not workers(tmp_path)


async def test_a_stopped_orphan_that_only_stood_by_is_let_run_on(tmp_path: Path, trainers: list[Trainer]) -> None:
    trainers.append(first := Trainer(tmp_path, "first"))
    first.log(30)
    await until(lambda: len(steps(tmp_path, "first")) == 30)
    (working,) = workers(tmp_path)
    trainers.append(second := Trainer(tmp_path, "second"))
    second.log(30)
    await until(lambda: len(steps(tmp_path, "second")) == 30)
    (standing_by,) = set(workers(tmp_path)) - {working}
    os.kill(standing_by, signal.SIGSTOP)
    second.kill()
    first.kill()
    await until(lambda: working not in workers(tmp_path))
    assert workers(tmp_path) == [standing_by]
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", run="third") as bus:
            bus.subscribe(TRACKING, jsonl())
            publish(bus, 10)
        assert bus.report().complete, str(bus.report())
        await until(lambda: not workers(tmp_path))
    assert steps(tmp_path, "third") == list(range(10))


async def test_a_drain_ends_although_another_process_keeps_writing(tmp_path: Path, trainers: list[Trainer]) -> None:
    trainers.append(rank := Trainer(tmp_path, "rank", site="site-2", receiver=False))
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.wait(0.02):
            rank.log(10)

    writing = threading.Thread(target=keep_writing)
    writing.start()
    try:
        with anyio.fail_after(30):
            async with EventBus(tmp_path, site="site-1", run="own") as bus:
                bus.subscribe(TRACKING, jsonl())
                publish(bus, 100)
                await until(lambda: len(steps(tmp_path, "rank")) > 0)
                began = time.monotonic()
            assert time.monotonic() - began < 10
    finally:
        stop.set()
        writing.join()
    assert bus.report().drained
    assert steps(tmp_path, "own") == list(range(100))
    assert statuses(tmp_path, "own") == ["FINISHED"]
    assert statuses(tmp_path, "rank") == []  # it goes on
    count = len(steps(tmp_path, "rank"))
    assert steps(tmp_path, "rank") == list(range(count))


# --- the loop and its worker ----------------------------------------------------------------------------------------


async def test_a_busy_loop_does_not_hold_the_worker_up(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            tested = jsonl(flush=FlushPolicy(max_items=1))
            bus.subscribe(TRACKING, tested)
            await tested.ready()
            publish(bus, 1000)
            wait_until(lambda: len(steps(tmp_path, "run")) == 1000)  # without a look at the loop
    assert bus.report().complete
    assert bus.report().line(NAME).failed == 0


def trio_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("Trio")]


async def log_while_threads_end(workspace: Path) -> EventBus:
    async with EventBus(workspace, site="site-1", run="run") as bus:
        tested = jsonl()
        bus.subscribe(TRACKING, tested)
        await tested.ready()
        publish(bus, 50)
        (pid,) = workers(workspace)
        while trio_threads():  # noqa: ASYNC110 - a thread that ends wakes nobody
            await anyio.sleep(0.05)
        await bus.publish(MetricsLogged(values={"loss": 0.0}, step=50), run="run").delivered(10)
        assert workers(workspace) == [pid]
    return bus


def test_a_worker_outlives_the_spare_threads_of_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.import_module("trio._core._thread_cache"), "IDLE_TIMEOUT", 2.0
    )  # the worker is ready before
    bus = anyio.run(log_while_threads_end, tmp_path, backend="trio")
    assert bus.report().complete
    assert bus.report().line(NAME).failed == 0
    assert steps(tmp_path, "run") == list(range(51))


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_crash_is_survived_on_either_loop(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            config = CrashingConfig(path="jsonl", at="write", after_rows=120, times=1)
            bus.subscribe(TRACKING, Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY))
            publish(bus, 300)
    assert bus.report().complete, str(bus.report())
    assert bus.report().line(NAME).failed == 1
    assert bus.report().line(NAME).delivered == 300
    assert steps(tmp_path, "run") == list(range(300))


@pytest.mark.parametrize("events", [0, 500])
async def test_a_bus_that_is_left_at_once_is_drained(tmp_path: Path, events: int) -> None:
    began = time.monotonic()
    async with EventBus(tmp_path, site="site-1", run="run") as bus:
        bus.subscribe(TRACKING, jsonl())
        publish(bus, events)
    assert time.monotonic() - began < 10
    assert bus.report().complete
    assert steps(tmp_path, "run") == list(range(events))
    assert not workers(tmp_path)


async def test_a_cancelled_body_is_drained_and_leaves_nobody_behind(tmp_path: Path) -> None:
    with anyio.fail_after(30), anyio.CancelScope() as scope:
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            bus.subscribe(TRACKING, jsonl())
            publish(bus, 100)
            scope.cancel()
            await anyio.sleep_forever()
    assert steps(tmp_path, "run") == list(range(100))
    assert not workers(tmp_path)


def command_line(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


async def test_a_worker_that_is_told_to_end_from_outside_is_replaced(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            tested = jsonl()
            bus.subscribe(TRACKING, tested)
            await tested.ready()
            publish(bus, 50)
            (pid,) = workers(tmp_path)
            assert command_line(pid)[1:4] == [b"-P", b"-m", b"receivers._worker"]
            assert len(command_line(pid)) == 6  # and the number of the descriptor: no settings
            os.kill(pid, signal.SIGTERM)
            publish(bus, 50, first=50)
    assert bus.report().complete
    assert steps(tmp_path, "run") == list(range(100))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[str]:
    """Return the pids of all children, zombies included."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


async def test_twenty_buses_leave_no_descriptor_thread_or_child(tmp_path: Path) -> None:
    async def use() -> None:
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            bus.subscribe(TRACKING, jsonl())
            publish(bus, 3)

    await use()
    gc.collect()
    files, threads, before = open_files(), threading.active_count(), children()
    for _ in range(19):
        await use()
    await until(lambda: threading.active_count() <= threads + 1)  # this wait has a thread itself
    gc.collect()
    assert open_files() <= files + 1
    assert children() <= before
    assert steps(tmp_path, "run") == [0, 1, 2] * 20


# --- trouble --------------------------------------------------------------------------------------------------------


async def test_a_worker_that_can_only_crash_does_not_hold_the_exit_up(tmp_path: Path) -> None:
    with anyio.fail_after(40):
        async with EventBus(tmp_path, site="site-1", run="run", drain_idle_timeout=3) as bus:
            config = CrashingConfig(path="jsonl", at="open", how="raise")
            tested = Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY)
            bus.subscribe(TRACKING, tested)
            publish(bus, 10)
            await until(lambda: tested.statistics().restarts >= 3)
            began = time.monotonic()
        assert time.monotonic() - began < 12
    assert bus.report().line(NAME).left == 10
    assert not workers(tmp_path)


async def test_many_runs_that_close_slowly_are_progress(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", drain_idle_timeout=1.5) as bus:
            config = SlowConfig(path="jsonl", at="close", seconds=0.5)
            tested = Receiver(config, name=NAME, worker=POLICY)
            bus.subscribe(TRACKING, tested)
            await tested.ready()
            for run in range(8):
                bus.publish(MetricsLogged(values={"loss": 1.0}, step=run), run=f"run-{run}")
    assert bus.report().complete, str(bus.report())
    assert all(statuses(tmp_path, f"run-{run}") == ["FINISHED"] for run in range(8))


async def test_what_a_later_bus_recovers_is_in_its_report(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        config = CrashingConfig(path="jsonl", at="flush", after_rows=15, times=1)
        async with EventBus(tmp_path, site="site-1", run="run", drain_timeout=0.0) as bus:
            first = Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY)
            bus.subscribe(TRACKING, first)
            publish(bus, 20)
            await until(lambda: first.statistics().restarts == 1)
        stored = bus.report().line(NAME).delivered
        async with EventBus(tmp_path, site="site-1", run="other") as again:
            again.subscribe(TRACKING, Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY))
    assert again.report().line(NAME).delivered == 20 - stored
    assert steps(tmp_path, "run") == list(range(20))


NOISY = """
import os
from typing import ClassVar
from eventbus import Event
from receivers.jsonl import JsonlConfig, JsonlSink

class OwnLogged(Event):
    text: str

class NoisyConfig(JsonlConfig):
    sink: ClassVar[str] = "noisy_backend:NoisySink"

class NoisySink(JsonlSink):
    def write(self, rows):
        for row in rows:
            os.write(2, b"x" * 100_000)
        super().write(rows)
"""


async def test_a_users_own_module_and_a_log_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noisy_backend.py").write_text(NOISY)
    monkeypatch.syspath_prepend(tmp_path)
    import noisy_backend  # type: ignore[import-not-found] - written by this test

    log = tmp_path / "workers" / f"{NAME}.log"
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            config: JsonlConfig = noisy_backend.NoisyConfig(path="jsonl")
            bus.subscribe(noisy_backend.OwnLogged, Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY))
            bus.publish(MetricsLogged(values={"loss": 1.0}, step=0), run="run")  # not subscribed to
            for _ in range(50):
                bus.publish(noisy_backend.OwnLogged(text="own"), run="run")
            await until(lambda: len(read_jsonl(tmp_path / "jsonl")) == 50)
            await until(lambda: log.stat().st_size < LOG_BYTES)
    assert bus.report().complete, str(bus.report())
    assert {line.value["type"] for line in read_jsonl(tmp_path / "jsonl")} == {"OwnLogged", "RunStatus"}


async def test_an_event_class_that_no_worker_can_import_is_refused(tmp_path: Path) -> None:
    class InnerLogged(Event):
        pass

    async with EventBus(tmp_path, site="site-1") as bus:
        with pytest.raises(SubscriptionError, match="move the class to the top level of a module"):
            bus.subscribe(InnerLogged, jsonl())
