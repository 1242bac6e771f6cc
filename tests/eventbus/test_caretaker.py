"""What happens off the caller's path: the write-ahead log stays small, and the thread ends with the last bus."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from waiting import wait_until

from eventbus import EventBus
from eventbus.journals import _partition as files
from eventbus.journals._caretaker import CHECKPOINT_SECONDS, SYNC_SECONDS, Rounds
from eventbus.tracking import MetricsLogged

NAME = "trackbus-caretaker"


def caretakers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def open_bus(workspace: Path) -> EventBus:
    bus = EventBus(workspace)
    bus.open()
    return bus


def test_there_is_one_for_all_buses_and_it_ends_with_the_last(tmp_path: Path) -> None:
    wait_until(lambda: not caretakers())
    for _ in range(3):  # it comes back
        buses = [open_bus(tmp_path / str(number)) for number in range(3)]
        assert len(caretakers()) == 1
        for bus in buses[1:]:
            bus.close()
        assert len(caretakers()) == 1
        buses[0].close()
        wait_until(lambda: not caretakers())


def test_a_thread_that_is_about_to_end_misses_no_newcomer(tmp_path: Path) -> None:
    for number in range(20):
        bus = open_bus(tmp_path / str(number % 2))
        bus.publish(MetricsLogged(values={"loss": 1.0}))
        assert len([one for one in caretakers() if one.is_alive()]) == 1
        bus.close()
    wait_until(lambda: not caretakers())


def test_one_call_that_fails_keeps_no_other_from_being_cared_for() -> None:
    rounds, called = Rounds("tested rounds", 0.001), list[str]()

    def fail() -> None:
        called.append("fails")
        raise TypeError("no error of a disk")

    def work() -> None:
        called.append("works")

    rounds.watch(fail)
    rounds.watch(work)
    wait_until(lambda: called.count("works") > 2)
    for call in (fail, work):
        rounds.forget(call)
    assert called.count("fails") > 1


def test_the_log_is_moved_into_the_file(tmp_path: Path) -> None:
    bus = open_bus(tmp_path)
    (path,) = tmp_path.glob("journal/*/*.db")
    before = path.stat().st_size
    for number in range(200):
        bus.publish(MetricsLogged(values={"loss": float(number)}))
    try:
        wait_until(lambda: path.stat().st_size > before + 5000, CHECKPOINT_SECONDS + SYNC_SECONDS + 5)
    finally:
        bus.close()
    assert not path.with_name(f"{path.name}-wal").exists()


def test_the_log_begins_anew_while_events_pour_in(tmp_path: Path) -> None:
    """Else it would grow for as long as they do; here, until the suite's limit on a test ends it."""
    bus = open_bus(tmp_path)
    event = MetricsLogged(values={"loss": 1.0, "accuracy": 0.5})
    events, begun = 0, set[int]()
    while len(begun) < 4:
        for _ in range(500):
            assert not bus.publish(event).refused
        events += 500
        begun |= {checkpoints(path) for path in tmp_path.glob("journal/*/*-wal")}
    bus.close()

    assert bus.report().published == events


def checkpoints(log: Path) -> int:
    """Return how often SQLite has begun the log anew, from its header: https://www.sqlite.org/fileformat2.html#walformat."""
    with log.open("rb") as file:
        return int.from_bytes(file.read(16)[12:])


@pytest.mark.parametrize("reading", [False, True])
def test_a_busy_reader_only_puts_it_off(tmp_path: Path, reading: bool) -> None:
    """A long read transaction keeps the log from starting over; an append never waits for it."""
    bus = open_bus(tmp_path)
    (path,) = tmp_path.glob("journal/*/*.db")
    event = MetricsLogged(values={"loss": 1.0})
    with closing(files.open_reader(path)) as reader:
        if reading:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM records").fetchone()
        deadline = time.monotonic() + 2.5 * CHECKPOINT_SECONDS
        slowest = 0.0
        while time.monotonic() < deadline:
            since = time.monotonic()
            assert not bus.publish(event).refused
            slowest = max(slowest, time.monotonic() - since)
    bus.close()
    assert slowest < 1.0
