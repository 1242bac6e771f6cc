"""Files are deleted, cut and damaged under a receiver: its cursor, and those of its tracker."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from _pytest.mark.structures import ParameterSet
from readback import read_jsonl, read_mlflow, read_tensorboard, read_wandb
from waiting import until

from eventbus import EventBus, Report
from eventbus.tracking import TRACKING
from receivers import FlushPolicy, JsonlReceiver, MLflowReceiver, Receiver, TensorBoardReceiver, WandBReceiver
from writers import TrackingWriter

pytestmark = pytest.mark.anyio

COUNT = 100
FLUSH = FlushPolicy(max_items=20, max_delay=0.05)
WAY_OUT = "put it back as it was, or remove it together with jsonl.lock"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def log(bus: EventBus, first: int, count: int = COUNT) -> None:
    writer = TrackingWriter(bus=bus)
    for step in range(first, first + count):
        writer.log({"loss": float(step)}, step=step)


async def session(
    workspace: Path, *receivers: Receiver, first: int = 0, count: int = COUNT, run: str = "run"
) -> Report:
    """Open the workspace, log and leave."""
    async with EventBus(workspace, site="site-1", job="files", run=run, drain_idle_timeout=15) as bus:
        for receiver in receivers:
            bus.subscribe(TRACKING, receiver)
        log(bus, first, count)
    return bus.report()


def jsonl_steps(workspace: Path) -> list[int]:
    lines = read_jsonl(workspace / "jsonl")
    assert not [line for line in lines if line.torn]
    return [line.value["event"]["step"] for line in lines if line.value["type"] == "MetricsLogged"]


def jsonl() -> JsonlReceiver:
    return JsonlReceiver(flush=FLUSH)


def long(harm: Callable[[Path], None]) -> ParameterSet:
    """Leave it to `make outages`: what shows the same is in the normal suite."""
    return pytest.param(harm, marks=pytest.mark.faults)


# --- the cursor -----------------------------------------------------------------------------------------------------


def delete(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    os.truncate(file, 0)


def halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    file.write_bytes(b"no database " * 1000)


def flip_page(file: Path) -> None:
    """Damage the page that holds the cursor's table."""
    body = bytearray(file.read_bytes())
    for offset in range(4096, len(body), 4096):
        body[offset : offset + 8] = bytes(0xFF ^ byte for byte in body[offset : offset + 8])
    file.write_bytes(body)


@pytest.mark.parametrize("harm", [delete, flip_page, *(long(harm) for harm in (empty, halve, overwrite))])
async def test_a_lost_cursor_is_said_and_nothing_comes_twice(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    await session(tmp_path, jsonl(), TensorBoardReceiver())
    cursor, kept = tmp_path / "cursors" / "jsonl.db", tmp_path / "kept.db"
    shutil.copy(cursor, kept)
    before = (tmp_path / "jsonl" / "run" / "site-1.jsonl").read_bytes()

    harm(cursor)
    tracker = jsonl()
    with anyio.fail_after(60):
        report = await session(tmp_path, tracker, TensorBoardReceiver(), first=COUNT)
        await tracker.ready()  # who waits for it is not kept waiting
    assert any(WAY_OUT in note for note in report.line("jsonl").notes), str(report)
    assert report.line("jsonl").left >= COUNT
    assert not report.complete
    assert (report.line("tensorboard").left, report.line("tensorboard").failed) == (0, 0)
    assert (tmp_path / "jsonl" / "run" / "site-1.jsonl").read_bytes() == before

    for leftover in cursor.parent.glob("jsonl.db*"):
        leftover.unlink()
    shutil.copy(kept, cursor)
    again = await session(tmp_path, jsonl(), count=0)
    assert again.complete, str(again)
    assert jsonl_steps(tmp_path) == list(range(2 * COUNT))


async def test_a_cursor_that_is_deleted_at_work_is_missed_at_the_next_start(tmp_path: Path) -> None:
    async with EventBus(tmp_path, site="site-1", run="run") as bus:
        bus.subscribe(TRACKING, jsonl())
        log(bus, 0)
        await until(lambda: (tmp_path / "jsonl").exists() and len(jsonl_steps(tmp_path)) == COUNT)
        (tmp_path / "cursors" / "jsonl.db").unlink()
        log(bus, COUNT)
    assert bus.report().complete
    assert jsonl_steps(tmp_path) == list(range(2 * COUNT))
    report = await session(tmp_path, jsonl(), first=2 * COUNT)
    assert any(WAY_OUT in note for note in report.line("jsonl").notes)
    assert jsonl_steps(tmp_path) == list(range(2 * COUNT))


def contents(workspace: Path) -> dict[str, list[object]]:
    """What the trackers hold, without what names processes and times of ours."""
    rows = {
        "tensorboard": read_tensorboard(workspace / "tensorboard"),
        "wandb": read_wandb(workspace / "wandb") if (workspace / "wandb").exists() else [],
        "mlflow": read_mlflow(workspace / "mlflow.db") if (workspace / "mlflow.db").exists() else [],
    }
    found: dict[str, list[object]] = {
        name: [
            (row.run, row.kind, row.key, row.step, row.value)
            for row in sorted(read, key=lambda row: row.order)
            if row.kind == "metric"
        ]
        for name, read in rows.items()
    }
    return {**found, "jsonl": [line.value for line in read_jsonl(workspace / "jsonl" / "run")]}


async def start_over(workspace: Path, *kinds: Callable[[], Receiver]) -> None:
    """Deliver, remove all cursors and their locks, and deliver once more."""
    first = await session(workspace, *(kind() for kind in kinds))
    assert first.complete, str(first)
    before = contents(workspace)
    shutil.rmtree(workspace / "cursors")
    second = await session(workspace, *(kind() for kind in kinds), run="other", count=0)
    assert second.complete, str(second)
    assert second.line("jsonl").delivered >= COUNT  # all of it came again
    after = contents(workspace)
    assert after == before
    assert all(len(found) >= COUNT for name, found in after.items() if found)


async def test_who_removes_the_cursors_on_purpose_starts_over_and_nothing_comes_twice(tmp_path: Path) -> None:
    await start_over(tmp_path, JsonlReceiver, TensorBoardReceiver, WandBReceiver)


@pytest.mark.faults
async def test_starting_over_changes_nothing_in_mlflow(tmp_path: Path) -> None:
    await start_over(tmp_path, JsonlReceiver, MLflowReceiver)


# --- the tracker's files --------------------------------------------------------------------------------------------


async def lose(workspace: Path, receiver: Receiver, remove: Callable[[], None], *, stored: Callable[[], int]) -> Report:
    """Log, lose the tracker's files, log more until that is said; JSON lines beside it must not notice."""
    async with EventBus(workspace, site="site-1", run="run", drain_idle_timeout=2, drain_timeout=30) as bus:
        bus.subscribe(TRACKING, receiver)
        bus.subscribe(TRACKING, JsonlReceiver(path="beside", name="beside", flush=FLUSH))
        log(bus, 0)
        await until(lambda: stored() == COUNT)
        remove()
        log(bus, COUNT)
        await until(lambda: any("were stored: restore" in cause for cause in receiver.statistics().failed), 120)
    beside = [line.value for line in read_jsonl(workspace / "beside") if line.value["type"] == "MetricsLogged"]
    assert [one["event"]["step"] for one in beside] == list(range(2 * COUNT))
    assert bus.report().line("beside").failed == 0
    return bus.report()


@pytest.mark.parametrize("harm", [delete, long(empty), long(halve)])
async def test_a_file_of_json_lines_that_shrinks_is_said(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    file = tmp_path / "jsonl" / "run" / "site-1.jsonl"
    kept = tmp_path / "kept"

    def remove() -> None:
        shutil.copy(file, kept)
        harm(file)

    report = await lose(tmp_path, jsonl(), remove, stored=lambda: len(jsonl_steps(tmp_path)) if file.exists() else 0)
    assert report.line("jsonl").left >= COUNT
    shutil.copy(kept, file)
    again = await session(tmp_path, jsonl(), count=0, run="other")
    assert again.complete, str(again)
    assert jsonl_steps(tmp_path) == list(range(2 * COUNT))


@pytest.mark.faults
async def test_a_folder_of_tensorboard_that_goes_is_said(tmp_path: Path) -> None:
    folder, kept = tmp_path / "tensorboard", tmp_path / "kept"

    def stored() -> int:
        return sum(row.kind == "metric" for row in read_tensorboard(folder)) if folder.exists() else 0

    report = await lose(tmp_path, TensorBoardReceiver(flush=FLUSH), lambda: folder.rename(kept) and None, stored=stored)
    assert report.line("tensorboard").left >= COUNT
    shutil.rmtree(folder, ignore_errors=True)
    kept.rename(folder)
    again = await session(tmp_path, TensorBoardReceiver(), count=0, run="other")
    assert again.complete, str(again)
    steps = [row.step for row in read_tensorboard(folder) if row.kind == "metric"]
    assert steps == list(range(2 * COUNT))


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_a_store_of_mlflow_that_goes_is_said(tmp_path: Path) -> None:
    store, kept = tmp_path / "mlflow.db", tmp_path / "kept"

    def stored() -> int:
        return sum(row.kind == "metric" for row in read_mlflow(store)) if store.exists() else 0

    report = await lose(tmp_path, MLflowReceiver(flush=FLUSH), lambda: store.rename(kept) and None, stored=stored)
    assert report.line("mlflow").left >= COUNT
    assert not report.complete
    store.unlink(missing_ok=True)
    kept.rename(store)
    again = await session(tmp_path, MLflowReceiver(), count=0, run="other")
    assert again.complete, str(again)
    steps = [row.step for row in read_mlflow(store) if row.kind == "metric"]
    assert steps == list(range(2 * COUNT))
