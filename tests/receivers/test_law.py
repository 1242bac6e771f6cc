"""The law of supervision: whatever a worker says, prints or holds, the bus goes on, and nobody is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from readback import read_jsonl
from waiting import until

from eventbus import EventBus
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, Receiver, WorkerPolicy
from receivers._control import Done, Phase, Settled, pack
from receivers._heart import LOG_BYTES, WATCHDOG_SECONDS
from receivers._processes import marked_processes
from receivers.jsonl import JsonlConfig
from receivers.testing import HangingConfig

NAME = "tested"
ROOT = Path(__file__).resolve().parents[2]
POLICY = WorkerPolicy(start_timeout=20, process_timeout=20, heartbeat_timeout=3)
SMALL_BATCHES = FlushPolicy(max_items=20, max_delay=0.05)

pytestmark = pytest.mark.anyio


def publish(bus: EventBus, count: int, first: int = 0) -> None:
    for step in range(first, first + count):
        bus.publish(MetricsLogged(values={"loss": float(step)}, step=step), run="run")


def steps(folder: Path) -> list[int]:
    lines = [line.value for line in read_jsonl(folder / "jsonl") if not line.torn]
    return [line["event"]["step"] for line in lines if "seq" in line]


def workers(folder: Path) -> list[int]:
    return marked_processes(str(folder / "cursors" / f"{NAME}.db"))


# --- what a worker says ---------------------------------------------------------------------------------------------

LIAR = """#!/bin/sh
if mkdir "$0.lied" 2>/dev/null; then
    exec {python} -c "import os, time; os.write($4, bytes.fromhex('{lie}')); time.sleep(600)"
fi
exec {python} "$@"
"""

LIES = {
    "a length of 4 GB": b"\xff\xff\xff\xff" + b"x" * 100,
    "no message": b"\x00\x00\x00\x02hi",
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "half a message, and then nothing": pack(Phase("batch"))[:-2],
    "stored before anything was logged": pack(Settled({"OWN": 10**9}, [])),
    "done before it was told to end": pack(Done()),
}


@pytest.mark.parametrize("lie", LIES)
async def test_row_41_a_worker_that_talks_nonsense_is_replaced(tmp_path: Path, lie: str) -> None:
    python = tmp_path / "python"
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            said = LIES[lie]
            if b"OWN" in said:
                said = pack(Settled({bus.origin.partition: 10**9}, []))
            python.write_text(LIAR.format(python=sys.executable, lie=said.hex()))
            python.chmod(0o755)
            policy = POLICY.model_copy(update={"start_timeout": 3.0, "process_timeout": 3.0})
            tested = Receiver(JsonlConfig(), name=NAME, flush=SMALL_BATCHES, worker=policy, python=str(python))
            bus.subscribe(TRACKING, tested)
            publish(bus, 50)
            await until(lambda: tested.statistics().restarts == 1)
            assert tested.statistics().delivered == 0
    assert (tmp_path / "python.lied").is_dir()  # it did bite
    assert bus.report().complete, str(bus.report())
    assert steps(tmp_path) == list(range(50))
    assert not workers(tmp_path)


# --- what a worker prints -------------------------------------------------------------------------------------------

LOUD = """
import os
from typing import ClassVar
from receivers.jsonl import JsonlConfig, JsonlSink

class LoudConfig(JsonlConfig):
    sink: ClassVar[str] = "loud_backend:LoudSink"

class LoudSink(JsonlSink):
    def write(self, rows):
        for _ in range(256):
            os.write(1, b"\\xff\\x00garbage" * 100_000)
        super().write(rows)
"""


async def test_row_40_what_an_sdk_prints_is_no_message_and_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud_backend.py").write_text(LOUD)
    monkeypatch.syspath_prepend(tmp_path)
    import loud_backend  # type: ignore[import-not-found] - written by this test

    log = tmp_path / "workers" / f"{NAME}.log"
    config: JsonlConfig = loud_backend.LoudConfig()
    with anyio.fail_after(100):
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            tested = Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY)
            bus.subscribe(TRACKING, tested)
            publish(bus, 20)  # 230 MB of it
            await until(lambda: tested.statistics().delivered == 20)
            await until(lambda: log.stat().st_size <= LOG_BYTES)
    assert bus.report().complete, str(bus.report())
    assert not bus.report().line(NAME).failed
    assert steps(tmp_path) == list(range(20))


# --- what a worker holds --------------------------------------------------------------------------------------------


async def test_a_worker_whose_threads_cant_run_is_replaced(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            config = HangingConfig(path="jsonl", after_rows=30, times=1, holds_gil=True)
            bus.subscribe(TRACKING, Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY))
            publish(bus, 100)
            await bus.publish(MetricsLogged(values={"loss": 0.0}, step=100), run="run").delivered(50)
    assert bus.report().complete, str(bus.report())
    (note,) = [note for note in bus.report().line(NAME).notes if "attempts failed" in note]
    assert "gave no sign of life for 3 s" in note
    assert steps(tmp_path) == list(range(101))
    assert not workers(tmp_path)


ORPHAN = """
import sys, time
from eventbus import EventBus
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, Receiver, WorkerPolicy
from receivers.testing import HangingConfig

with EventBus(sys.argv[1], site="site-1", run="run").background() as bus:
    policy = WorkerPolicy(heartbeat_timeout=600, process_timeout=600, orphan_timeout=2)
    config = HangingConfig(path="jsonl", after_rows=3, times=1, holds_gil=True)
    bus.subscribe(TRACKING, Receiver(config, name="tested", flush=FlushPolicy(max_delay=0.05), worker=policy))
    for step in range(10):
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=step), run="run")
    time.sleep(600)
"""


def orphan_a_stuck_worker(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", ORPHAN, str(folder)], env=environment) as trainer:
        deadline = time.monotonic() + 40
        while not (folder / "jsonl" / "faults").exists():
            assert time.monotonic() < deadline, "it does not hang"
            time.sleep(0.02)
        assert workers(folder)
        trainer.kill()


@pytest.mark.slow
async def test_row_42_an_orphan_whose_threads_cant_run_ends_all_the_same(tmp_path: Path) -> None:
    """The watchdog needs none of them."""
    await anyio.to_thread.run_sync(orphan_a_stuck_worker, tmp_path)
    began = time.monotonic()
    await until(lambda: not workers(tmp_path), WATCHDOG_SECONDS + 20)
    assert time.monotonic() - began < WATCHDOG_SECONDS + 10
    async with EventBus(tmp_path, site="site-1", run="next") as bus:
        config = HangingConfig(path="jsonl", after_rows=3, times=1, holds_gil=True)
        bus.subscribe(TRACKING, Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY))
    assert steps(tmp_path) == list(range(10))
    assert [one.value["status"] for one in read_jsonl(tmp_path / "jsonl") if "status" in one.value] == ["KILLED"]


# --- the end --------------------------------------------------------------------------------------------------------


async def test_row_54_cancelled_in_the_middle_of_a_flush_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    config = HangingConfig(path="jsonl", at="flush", after_rows=30, times=1)
    bus = EventBus(tmp_path, site="site-1", run="run", drain_idle_timeout=1)
    with anyio.fail_after(60):
        with anyio.CancelScope() as scope:
            async with bus:
                bus.subscribe(TRACKING, Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY))
                publish(bus, 100)
                await until((tmp_path / "jsonl" / "faults").exists)  # it is amid the flush
                scope.cancel()
                await anyio.sleep_forever()
        assert bus.report().line(NAME).left > 0
        assert not workers(tmp_path)
        async with EventBus(tmp_path, site="site-1", run="next") as again:
            again.subscribe(TRACKING, Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY))
    assert again.report().complete
    assert steps(tmp_path) == list(range(100))
    assert not (tmp_path / "dead").exists()


async def test_what_others_publish_during_a_drain_is_not_what_this_bus_has_left(tmp_path: Path) -> None:
    config = HangingConfig(path="jsonl", at="write", deaf=True)
    other = EventBus(tmp_path, site="site-2", run="other")
    other.open()
    stop = threading.Event()

    def keep_publishing() -> None:
        while not stop.wait(0.01):
            publish(other, 20)

    publishing = threading.Thread(target=keep_publishing)
    try:
        with anyio.fail_after(60):
            async with EventBus(tmp_path, site="site-1", run="run", drain_timeout=3) as bus:
                bus.subscribe(TRACKING, Receiver(config, name=NAME, flush=SMALL_BATCHES, worker=POLICY))
                publish(other, 7)
                publish(bus, 30)
                bus.at_close(lambda _: publishing.start())
    finally:
        stop.set()
        publishing.join()
        other.close()
    assert 37 <= bus.report().line(NAME).left < 37 + 200  # those of the moment between
    assert other.report().published > 37 + 400
