"""A journal at its bound, and on a disk that is full: who waits, who is refused, what is said, and how it passes."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import anyio
import pytest
from waiting import wait_until

from eventbus import EventBus, Scope
from eventbus._bus import Bus
from eventbus.abc import RefusedError, StoredRecord
from eventbus.health import HEALTH, HealthEvent, JournalFilled
from eventbus.journals import SqliteJournal
from eventbus.journals._bound import FULL_SHARE, MIN_FREE_BYTES, ROOM_SHARE, TRIM_SHARE, folder_bytes, judge
from eventbus.journals._caretaker import upkeep
from eventbus.tracking import MetricsLogged, RunFinished

EVENT = MetricsLogged(values={f"loss-{number}": 0.5 for number in range(40)})
SMALL = 300_000
FREE = 1 << 40
BOUND_REACHED = f"the journal has reached its bound of {SMALL} bytes"


@pytest.mark.parametrize(
    ("used", "free", "refused", "refuses"),
    [
        (0, FREE, False, False),
        (FULL_SHARE * SMALL - 1, FREE, False, False),
        (FULL_SHARE * SMALL + 1, FREE, False, True),
        (FULL_SHARE * SMALL - 1, FREE, True, True),
        (ROOM_SHARE * SMALL - 1, FREE, True, False),
        (0, MIN_FREE_BYTES - 1, False, True),
        (0, MIN_FREE_BYTES + 1, False, False),
        (0, MIN_FREE_BYTES + 1, True, True),
        (0, 2 * MIN_FREE_BYTES + 1, True, False),
    ],
)
def test_a_journal_that_is_full_stays_so_until_there_is_clearly_room(
    used: float, free: int, refused: bool, refuses: bool
) -> None:
    assert (judge(int(used), free, SMALL, "full" if refused else None) is not None) is refuses


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def wait_for_bound(met: Callable[[], object]) -> None:
    """Let the caretaker look again and again until it is so."""
    wait_until(lambda: upkeep.ring() or met())


def small_bus(folder: Path, *, full_timeout: float = 0.2) -> EventBus:
    return EventBus(folder, max_bytes=SMALL, full_timeout=full_timeout)


def journal_of(bus: Bus) -> SqliteJournal:
    assert isinstance(bus.journal, SqliteJournal)
    return bus.journal


def look(bus: EventBus) -> None:
    """Let the caretaker measure once more."""
    bound = journal_of(bus)._bound
    bound.used = -1
    wait_for_bound(lambda: bound.used >= 0)


def fill(bus: EventBus) -> int:
    """Publish until it is refused, looking after every few events; return how many were taken."""
    for taken in range(100_000):
        if taken % 10 == 0:
            look(bus)
        if bus.publish(EVENT).refused:
            return taken
    raise AssertionError("it is never full")


def events_of(records: list[StoredRecord]) -> list[int]:
    return [record.seq for record in records]


# ------------------------------------------------------------------------------------------------------- the bound
def test_what_is_over_the_bound_is_refused_and_counted(tmp_path: Path) -> None:
    with small_bus(tmp_path).background() as bus:
        taken = fill(bus)
        refused = [bus.publish(EVENT) for _ in range(100)]
        size = folder_bytes(tmp_path / "journal")
        records = anyio.run(bus.journal.read, {}, 100_000)
    report = bus.report()

    assert {one.refused for one in refused} == {BOUND_REACHED}
    assert report.refused == {BOUND_REACHED: 101}
    assert events_of(records) == list(range(1, taken + 2))  # the last is a word of health
    assert FULL_SHARE * SMALL < size < 1.3 * SMALL  # what comes between two looks is over it
    assert "refused (the journal has reached its bound" in str(report)


def test_other_partitions_count_too(tmp_path: Path) -> None:
    with small_bus(tmp_path).background() as bus:
        (tmp_path / "journal" / "other").mkdir()
        foreign = tmp_path / "journal" / "other" / "0-aa-0.db"
        foreign.write_bytes(b"\0" * SMALL)
        wait_for_bound(lambda: bus.publish(EVENT).refused == BOUND_REACHED)
        foreign.unlink()
        wait_for_bound(lambda: bus.publish(EVENT).refused is None)


def test_it_is_said_once_until_there_is_room(tmp_path: Path) -> None:
    said: list[HealthEvent] = []
    with small_bus(tmp_path).background() as bus:
        bus.subscribe(HEALTH, said.append)
        for episode in (1, 2):
            ballast = tmp_path / "journal" / "local" / f"ballast-{episode}"
            ballast.write_bytes(b"\0" * SMALL)
            wait_for_bound(lambda: bus.publish(EVENT).refused is not None)
            for _ in range(5):
                look(bus)
            wait_for_bound(lambda episode=episode: len(said) == episode)
            ballast.unlink()
            wait_for_bound(lambda: bus.publish(EVENT).refused is None)
    assert said == [JournalFilled(reason=BOUND_REACHED)] * 2


def test_a_run_can_still_end(tmp_path: Path) -> None:
    """The last words of a run and of health are taken from the head-room."""
    with small_bus(tmp_path).background() as bus:
        fill(bus)
        assert bus.publish(EVENT).refused
        assert bus.publish(RunFinished(status="FAILED", reason="disk")).refused is None
        assert bus.publish(JournalFilled(reason="test")).refused is None


def test_a_caller_waits_for_room_once(tmp_path: Path) -> None:
    def took() -> float:
        since = time.monotonic()
        assert bus.publish(EVENT).refused
        return time.monotonic() - since

    with small_bus(tmp_path, full_timeout=0.5).background() as bus:
        (tmp_path / "journal" / "local" / "ballast").write_bytes(b"\0" * SMALL)
        wait_for_bound(lambda: journal_of(bus)._bound.refusal is not None)
        assert took() >= 0.5
        assert min(took() for _ in range(20)) < 0.1


def test_a_caller_that_waits_goes_on_when_there_is_room(tmp_path: Path) -> None:
    excess: list[int] = []
    ballast = tmp_path / "journal" / "local" / "ballast"

    def make_room(too_many: int) -> None:
        excess.append(too_many)
        if asked.is_set():
            ballast.unlink(missing_ok=True)

    asked = Flag()
    with small_bus(tmp_path, full_timeout=30).background() as bus:
        journal_of(bus)._bound.make_room = make_room
        ballast.write_bytes(b"\0" * SMALL)
        wait_for_bound(lambda: journal_of(bus)._bound.refusal is not None)
        asked.set()
        assert bus.publish(EVENT).refused is None
    assert bus.report().refused == {}
    assert excess
    assert min(excess) > SMALL * (1 - TRIM_SHARE)


@pytest.mark.anyio
async def test_the_bus_s_own_loop_never_waits(tmp_path: Path) -> None:
    async with small_bus(tmp_path, full_timeout=30) as bus:
        (tmp_path / "journal" / "local" / "ballast").write_bytes(b"\0" * SMALL)
        await anyio.to_thread.run_sync(lambda: wait_for_bound(lambda: journal_of(bus)._bound.refusal is not None))
        since = time.monotonic()
        assert bus.publish(EVENT).refused == BOUND_REACHED
        assert time.monotonic() - since < 15


def test_a_full_journal_takes_no_relayed_batch(tmp_path: Path) -> None:
    from eventbus._conformance import foreign_header, relayed

    with small_bus(tmp_path).background() as bus:
        ballast = tmp_path / "journal" / "local" / "ballast"
        ballast.write_bytes(b"\0" * SMALL)
        wait_for_bound(lambda: journal_of(bus)._bound.refusal is not None)
        batch = relayed(foreign_header(), [1], first=1, last=1)
        with pytest.raises(RefusedError, match="bound"):
            anyio.run(bus.journal.append, batch)
        ballast.unlink()
        wait_for_bound(lambda: journal_of(bus)._bound.refusal is None)
        assert anyio.run(bus.journal.append, batch) == 1


# -------------------------------------------------------------------------------------------------------- the disk
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False).returncode
    ):
        pytest.skip("a small file system can't be mounted here: that takes root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def use_up(place: Path) -> Path:
    """Fill a disk to its last byte with a file of somebody else's."""
    path = place / "other"
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            pass
    return path


@pytest.mark.parametrize("strength", ["process", "durable"])
def test_a_disk_that_fills_up_is_survived(small_disk: Path, strength: str) -> None:
    said: list[HealthEvent] = []
    bus = EventBus(small_disk / "run", strength=strength, full_timeout=0.2)  # type: ignore[arg-type]
    with bus.background():
        bus.subscribe(HEALTH, said.append)
        taken = [bus.publish(EVENT).wait(20).seq for _ in range(20)]
        other = use_up(small_disk)
        refused = [bus.publish(EVENT) for _ in range(3000)]
        wait_for_bound(lambda: len(said) == 1)
        other.unlink()
        wait_for_bound(lambda: bus.publish(EVENT).refused is None)
        taken += [bus.publish(EVENT).wait(20).seq for _ in range(20)]
        records = anyio.run(bus.journal.read, {}, 100_000)
    report = bus.report()

    assert refused[-1].refused
    assert sum(report.refused.values()) >= sum(one.refused is not None for one in refused) > 2000
    assert report.published == len(records)
    assert events_of(records) == list(range(1, len(records) + 1))
    assert set(taken) | {one.seq for one in refused if not one.refused} <= set(events_of(records))
    assert isinstance(said[0], JournalFilled)
    assert report.lost == {}


def test_what_a_full_disk_cannot_take_is_told_to_handlers_all_the_same(small_disk: Path) -> None:
    said: list[HealthEvent] = []
    with EventBus(small_disk / "run", full_timeout=0).background() as bus:
        bus.subscribe(HEALTH, said.append)
        other = use_up(small_disk)
        for _ in range(2000):
            bus.publish(EVENT)
        wait_for_bound(lambda: bool(said))
        assert bus.publish(RunFinished(status="FINISHED")).refused  # not even this one
        other.unlink()


def test_a_disk_that_is_full_at_the_end_holds_up_nothing(small_disk: Path) -> None:
    with EventBus(small_disk / "run", full_timeout=0).background() as bus:
        bus.publish(EVENT)
        use_up(small_disk)
        for _ in range(2000):
            bus.publish(EVENT)
    assert bus.report().refused


# ---------------------------------------------------------------------------------------------------- what vanishes
def test_a_folder_that_was_deleted_raises_nothing_and_is_made_again(tmp_path: Path) -> None:
    with EventBus(tmp_path / "run").background() as bus:
        receipts = [bus.publish(EVENT)]
        shutil.rmtree(tmp_path / "run")

        def is_back() -> bool:
            receipts.append(bus.publish(EVENT))
            return bool(list(tmp_path.glob("run/journal/*/*.db")))

        wait_for_bound(is_back)
        receipts.append(bus.publish(EVENT))
    taken = [one.seq for one in receipts if not one.refused]
    assert taken == sorted(set(taken))
    assert len(taken) + sum(bus.report().refused.values()) == len(receipts)


def test_a_durable_event_in_a_deleted_folder_is_said_to_be_lost(tmp_path: Path) -> None:
    with EventBus(tmp_path / "run", strength="durable").background() as bus:
        assert bus.publish(EVENT).wait(20).refused is None
        shutil.rmtree(tmp_path / "run")
        lost = bus.publish(EVENT)
        assert lost.wait(20).refused
        wait_for_bound(lambda: bus.publish(EVENT).wait(20).refused is None)  # in another partition
        assert lost.wait(20).refused
    assert sum(bus.report().lost.values()) >= 1


def test_threads_that_publish_beside_the_one_that_waits_are_not_held(tmp_path: Path) -> None:
    """The wait is outside of every lock: reading and the loop go on."""
    with small_bus(tmp_path, full_timeout=2).background() as bus:
        (tmp_path / "journal" / "local" / "ballast").write_bytes(b"\0" * SMALL)
        wait_for_bound(lambda: journal_of(bus)._bound.refusal is not None)
        waiting = Thread(target=bus.publish, args=(EVENT,))
        waiting.start()
        assert bus.publish(RunFinished(status="FINISHED"), scope=Scope.LOCAL).refused is None
        assert waiting.is_alive()
        waiting.join()
