"""What a worker meets in a damaged journal, and on a full disk: it goes on, and whatever is lost is counted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from readback import read_jsonl
from waiting import until

from eventbus import EventBus, Report
from eventbus._place import place_of
from eventbus.journals import _partition as files
from eventbus.journals._quarantine import wal_path
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, JsonlReceiver
from receivers._processes import marked_processes

SMALL_BATCHES = FlushPolicy(max_items=100, max_delay=0.05)

EVENTS = 3000

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def publish(bus: EventBus, first: int, last: int) -> list[int]:
    event = [MetricsLogged(values={"loss": float(step)}, step=step) for step in range(first, last + 1)]
    return [bus.publish(one, run="run").seq for one in event]


def steps(workspace: Path) -> list[int]:
    lines = read_jsonl(workspace / "jsonl")
    assert not [line for line in lines if line.torn]
    return [line.value["event"]["step"] for line in lines if line.value["type"] == "MetricsLogged"]


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


async def run_with_receiver(workspace: Path, journal_dir: Path | None = None) -> Report:
    with anyio.fail_after(60):
        async with EventBus(workspace, site="site-2", journal_dir=journal_dir) as bus:
            bus.subscribe(TRACKING, JsonlReceiver(flush=SMALL_BATCHES))
    return bus.report()


async def test_a_worker_that_meets_damage_delivers_what_is_salvaged_and_counts_the_rest(tmp_path: Path) -> None:
    """The file was closed in order, and nobody has looked into it since: the worker is the first to notice."""
    with EventBus(tmp_path, site="site-1").background() as bus:
        publish(bus, 1, EVENTS)
        path = files.roll_path(tmp_path / "journal", bus.origin, 0)
    overwrite(path, path.stat().st_size // 2, os.urandom(20 * 1024))

    report = await run_with_receiver(tmp_path)

    line = report.line("jsonl")
    found = steps(tmp_path)
    assert found == sorted(set(found))
    assert len(found) + line.dropped == EVENTS
    assert 0 < line.dropped < 300
    assert (line.left, line.failed) == (0, 0), str(report)
    assert "unreadable record" in str(report)
    assert "damaged-1" in str(report)
    assert len(list(path.parent.glob("*.damaged-?"))) == 1


async def test_the_own_partition_is_mended_while_it_is_written(tmp_path: Path) -> None:
    """Its worker meets the damage, its writer goes on in another partition; old receipts and new ones are kept."""
    with anyio.fail_after(60):
        async with EventBus(tmp_path, site="site-1") as bus:
            receiver = JsonlReceiver(flush=SMALL_BATCHES)
            bus.subscribe(TRACKING, receiver)
            await receiver.ready()
            (worker,) = marked_processes(str(place_of(tmp_path).cursors / "jsonl.db"))
            os.kill(worker, signal.SIGSTOP)
            old = bus.publish(MetricsLogged(values={"loss": 0.0}, step=0), run="run")
            publish(bus, 1, EVENTS)
            path = files.roll_path(tmp_path / "journal", bus.origin, 0)
            await until(lambda: path.stat().st_size > 200_000)
            overwrite(path, 150_000, os.urandom(10 * 1024))
            os.truncate(wal_path(path), 0)
            os.kill(worker, signal.SIGCONT)
            await until(lambda: len(list(path.parent.glob("*.damaged-?"))) == 1)
            publish(bus, EVENTS + 1, EVENTS + 100)
            await bus.publish(MetricsLogged(values={"loss": 0.0}, step=EVENTS + 101), run="run").delivered(30)
            await old.delivered(1)
            assert bus.journal.line_of(bus.origin.partition)[0] != bus.origin.partition
    line = bus.report().line("jsonl")
    found = steps(tmp_path)
    assert found == sorted(set(found))
    assert len(found) + line.dropped == EVENTS + 102
    assert found[-101:] == list(range(EVENTS + 1, EVENTS + 102))
    assert line.left == 0
    assert line.failed == 0, str(bus.report())
    statuses = [one.value["status"] for one in read_jsonl(tmp_path / "jsonl") if one.value["type"] == "RunStatus"]
    assert statuses == ["FINISHED"]


async def test_a_journal_elsewhere_is_delivered_from(tmp_path: Path) -> None:
    with EventBus(tmp_path / "w", site="site-1", journal_dir=tmp_path / "local").background() as bus:
        publish(bus, 1, 50)

    report = await run_with_receiver(tmp_path / "w")

    assert report.complete
    assert steps(tmp_path / "w") == list(range(1, 51))
    assert place_of(tmp_path / "w").cursors == place_of(tmp_path / "w").journal.with_name("cursors")
    assert not (tmp_path / "w" / "cursors").exists()
    assert (place_of(tmp_path / "w").cursors / "jsonl.db").is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for the cursors, with little room."""
    point = tmp_path / "w" / "cursors"
    point.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", "-l", str(point)], check=True)


async def test_a_worker_whose_cursor_finds_no_room_fails_and_recovers(small_disk: Path) -> None:
    workspace = small_disk.parent
    with anyio.fail_after(60):
        async with EventBus(workspace, site="site-1") as bus:
            receiver = JsonlReceiver(flush=SMALL_BATCHES)
            bus.subscribe(TRACKING, receiver)
            await receiver.ready()
            await bus.publish(MetricsLogged(values={"loss": 0.0}, step=0), run="run").delivered(20)
            filling = small_disk / "filling"
            filling.write_bytes(b"x" * (shutil.disk_usage(small_disk).free))
            began = time.perf_counter()
            publish(bus, 1, 500)
            assert time.perf_counter() - began < 5
            await until(lambda: receiver.statistics().failed)
            filling.unlink()
            await bus.publish(MetricsLogged(values={"loss": 0.0}, step=501), run="run").delivered(30)
    (cause,) = receiver.statistics().failed
    assert "cursor file" in cause
    assert "free the disk" in cause
    assert steps(workspace) == list(range(502))
    assert bus.report().complete
