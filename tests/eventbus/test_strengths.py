"""What each strength promises, with real files: what a power cut leaves, who waits for the disk, and who does not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from waiting import wait_until

from eventbus import EventBus, Receipt, Scope
from eventbus.errors import BusStateError, ConfigurationError, NotSyncedError, SubscriptionError
from eventbus.journals._caretaker import SYNC_EVENTS, SYNC_SECONDS
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import JsonlReceiver

EVENT = MetricsLogged(values={"loss": 1.0})

# ------------------------------------------------------------------------------------------------------- power cuts
POWER = """
    import json, os, shutil, sys, threading
    from pathlib import Path
    import anyio
    from eventbus import EventBus
    from eventbus.journals import _caretaker
    from eventbus.tracking import MetricsLogged

    folder, mode = Path(sys.argv[1]), sys.argv[2]
    _caretaker.upkeep._seconds = 3600  # nothing but the log holds the records
    synced, states, real = [], [], os.fdatasync

    def fdatasync(fd):
        size = os.fstat(fd).st_size
        real(fd)
        with open(f"/proc/self/fd/{fd}", "rb") as log:
            (folder / f"{len(synced)}.wal").write_bytes(log.read(size))
        synced.append(size)

    def note(receipt):
        states.append((receipt.seq, len(synced) - 1))

    def publish(step):
        return bus.publish(MetricsLogged(values={"loss": float(step)}, step=step))

    async def awaited():
        for step in range(40):
            note(await publish(step))

    async def together():
        async def one(step):
            note(await publish(step))

        async with anyio.create_task_group() as tasks:
            for step in range(64):
                tasks.start_soon(one, step)

    async def ignored():
        for step in range(40):
            note(publish(step))

    def in_threads():
        def work(first):
            for step in range(first, first + 20):
                note(publish(step).wait(30))

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 100)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]

    def on_other_loop():
        anyio.run(awaited, backend="trio")

    os.fdatasync = fdatasync
    with EventBus(folder / "run", strength="durable").background() as bus:
        (path,) = folder.glob("run/journal/*/*.db")
        shutil.copy(path, folder / "base.db")
        if mode in ("in_threads", "on_other_loop"):
            globals()[mode]()
        else:
            anyio.from_thread.run(globals()[mode], token=bus.home._token)
        syncs = len(synced)
    print(json.dumps([states, syncs, bus.report().lost]))
"""


def after_power_cut(folder: Path, sync: int) -> list[int]:
    """Return the records that are there if the power fails right after a sync: its log beside the file as it was."""
    if sync < 0:
        return []
    state = folder / f"state-{sync}.db"
    shutil.copy(folder / "base.db", state)
    shutil.copy(folder / f"{sync}.wal", f"{state}-wal")
    with closing(sqlite3.connect(state)) as connection:
        return [seq for (seq,) in connection.execute("SELECT seq FROM records ORDER BY seq")]


def survivors(folder: Path, states: list[tuple[int, int]]) -> list[bool]:
    found = {sync: after_power_cut(folder, sync) for sync in {sync for _, sync in states}}
    for numbers in found.values():
        assert numbers == list(range(1, len(numbers) + 1))
    return [seq in found[sync] for seq, sync in states]


@pytest.mark.parametrize("mode", ["awaited", "together", "in_threads", "on_other_loop"])
def test_what_was_awaited_survives_a_power_cut(tmp_path: Path, run_program: Callable[..., str], mode: str) -> None:
    states, syncs, lost = json.loads(run_program(POWER, tmp_path, mode))

    assert len(states) in (40, 64)
    assert all(survivors(tmp_path, states))
    assert lost == {}
    if mode == "together":
        assert syncs < len(states) / 2  # one sync serves many
    if mode == "awaited":
        assert syncs >= len(states)


def test_what_nobody_awaited_may_not(tmp_path: Path, run_program: Callable[..., str]) -> None:
    """The control: the same look at the disk finds that records are missing while nobody waits for them."""
    states, syncs, _ = json.loads(run_program(POWER, tmp_path, "ignored"))

    assert not all(survivors(tmp_path, states))
    assert syncs < len(states)


# ------------------------------------------------------------------------------------------------- the disk's answers
@dataclass
class Disk:
    """Stands before the system's fdatasync: counts, holds and fails calls on order."""

    calls: int = 0
    failures: int = 0
    error: int | None = None
    free: threading.Event = field(default_factory=threading.Event)
    _real: Callable[[int], None] = os.fdatasync

    def __call__(self, fd: int) -> None:
        self.free.wait(30)
        self.calls += 1
        if self.error is not None:
            self.failures += 1
            raise OSError(self.error, os.strerror(self.error))
        self._real(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    stand_in = Disk()
    stand_in.free.set()
    monkeypatch.setattr(os, "fdatasync", stand_in)
    yield stand_in
    stand_in.free.set()


def durable(folder: Path) -> EventBus:
    return EventBus(folder, strength="durable")


@pytest.mark.anyio
async def test_the_loop_runs_while_the_disk_is_awaited(tmp_path: Path, disk: Disk) -> None:
    with anyio.fail_after(20):
        async with durable(tmp_path) as bus:
            disk.free.clear()
            receipt = bus.publish(EVENT)
            synced: list[Receipt] = []

            async def wait() -> None:
                synced.append(await receipt)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                for _ in range(50):
                    await anyio.lowlevel.checkpoint()
                assert not synced
                disk.free.set()
            assert synced == [receipt]


def test_a_wait_that_takes_too_long_says_so(tmp_path: Path, disk: Disk) -> None:
    with durable(tmp_path).background() as bus:
        disk.free.clear()
        receipt = bus.publish(EVENT)
        with pytest.raises(NotSyncedError, match="not on the disk"):
            receipt.wait(0.05)
        disk.free.set()
        assert receipt.wait(20) is receipt


@pytest.mark.anyio
async def test_the_bus_s_own_loop_is_never_held(tmp_path: Path) -> None:
    async with durable(tmp_path) as bus:
        receipt = bus.publish(EVENT)
        with pytest.raises(BusStateError, match="await receipt"):
            receipt.wait(1)
        assert await anyio.to_thread.run_sync(receipt.wait, 20) is receipt


def test_a_call_that_nobody_awaits_waits_for_no_disk(tmp_path: Path, disk: Disk) -> None:
    with durable(tmp_path).background() as bus:
        disk.free.clear()
        assert [bus.publish(EVENT).seq for _ in range(2 * SYNC_EVENTS)] == list(range(1, 2 * SYNC_EVENTS + 1))
        disk.free.set()


@pytest.mark.parametrize("strength", ["process", "live"])
def test_other_strengths_wait_for_nothing(tmp_path: Path, disk: Disk, strength: str) -> None:
    with EventBus(tmp_path, strength=strength).background() as bus:  # type: ignore[arg-type]
        disk.free.clear()
        receipt = bus.publish(EVENT)
        assert receipt.wait(0.01) is receipt
        disk.free.set()


def test_a_sync_comes_by_itself_after_a_while_or_many_events(tmp_path: Path, disk: Disk) -> None:
    with EventBus(tmp_path).background() as bus:
        journal = bus.journal
        bus.publish(EVENT)
        wait_until(lambda: disk.calls == 1)
        assert disk.calls * SYNC_SECONDS < 20
        disk.free.clear()
        for _ in range(SYNC_EVENTS):
            bus.publish(EVENT)
        disk.free.set()
        assert journal.wait_synced(SYNC_EVENTS, 20) is None


def test_what_a_failed_sync_covered_counts_as_lost_for_ever(tmp_path: Path, disk: Disk) -> None:
    """The kernel forgets what it could not write: a later sync that succeeds proves nothing."""
    with durable(tmp_path).background() as bus:
        before = [bus.publish(EVENT) for _ in range(3)]
        assert before[-1].wait(20).refused is None
        disk.error = errno.EIO
        failed = [bus.publish(EVENT) for _ in range(4)]
        answers = [one.wait(20) for one in failed]
        disk.error = None
        assert {one.refused for one in answers} == {"the disk failed a sync: Input/output error"}
        assert [one.seq for one in answers] == [one.seq for one in failed]

        wait_until(lambda: bus.publish(EVENT).wait(20).refused is None)  # in another file
        assert [one.wait(20).refused for one in failed] == [one.refused for one in answers]
        assert {one.wait(20).refused for one in before} == {None}
        last = bus.publish(EVENT).wait(20)
    lost = bus.report().lost
    numbers = [int(path.stem.rsplit("-", 1)[1]) for path in sorted(tmp_path.glob("journal/*/*.db"))]

    assert numbers == [0, 1]
    assert list(lost) == ["may be lost in a power cut: the disk failed a sync: Input/output error"]
    assert len(failed) <= sum(lost.values()) < last.seq - len(before)
    assert "may be lost in a power cut" in str(bus.report())
    assert anyio.run(every_number, tmp_path) == list(range(1, last.seq + 1))  # the machine went on: nothing is gone


async def every_number(workspace: Path) -> list[int]:
    async with EventBus(workspace, site="reader") as bus:
        return [record.seq for record in await bus.journal.read({}, 10_000)]


@pytest.mark.anyio
async def test_an_awaited_receipt_says_that_the_disk_failed(tmp_path: Path, disk: Disk) -> None:
    async with durable(tmp_path) as bus:
        disk.error = errno.EIO
        receipt = await bus.publish(EVENT)
        disk.error = None
    assert receipt.refused is not None
    assert disk.failures >= 1


def test_a_refused_receipt_waits_for_nothing(tmp_path: Path, disk: Disk) -> None:
    bus = durable(tmp_path)
    bus.open()
    bus.close()
    disk.free.clear()
    assert bus.publish(EVENT).wait(0.01).refused == "the bus is closed"


# ------------------------------------------------------------------------------------------------------------- live
@pytest.mark.anyio
async def test_a_live_bus_leaves_the_workspace_alone(tmp_path: Path) -> None:
    async with EventBus(tmp_path / "run", strength="live") as bus:
        with pytest.raises(SubscriptionError, match="strength than 'live'"):
            bus.subscribe(TRACKING, JsonlReceiver())
        for _ in range(2500):
            bus.publish(EVENT, scope=Scope.FEDERATED)
        kept = await bus.journal.read({}, 10_000)
    report = bus.report()

    assert not (tmp_path / "run").exists()
    assert bus.workspace is None
    assert bus.job == "run"
    assert [record.seq for record in kept] == list(range(1501, 2501))
    assert report.lost == {"no longer in memory": 1500}
    assert "1500 no longer in memory" in str(report)


@pytest.mark.parametrize(("strength", "place"), [("durable", None), ("eternal", "run"), ("", None)])
def test_a_strength_that_cannot_be_is_said_at_once(tmp_path: Path, strength: str, place: str | None) -> None:
    with pytest.raises(ConfigurationError, match="strength="):
        EventBus(place and tmp_path / place, strength=strength)  # type: ignore[arg-type]
