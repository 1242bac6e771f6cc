"""Partitions in several files: every record once and in order, while they roll, after a kill, and beside readers."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from eventbus import Origin, Scope
from eventbus._conformance import foreign_header, relayed
from eventbus.abc import Cursor, PartitionHeader, StoredRecord
from eventbus.journals import SqliteJournal
from eventbus.journals import _partition as files
from eventbus.journals._caretaker import upkeep
from eventbus.journals._partition_reader import File, PartitionReader
from eventbus.journals._quarantine import rolls_of
from eventbus.journals._reader import JournalReader
from eventbus.journals._writing import Mirror
from eventbus.testing import JOURNAL_CHECKS, check_journal
from eventbus.tracking import MetricsLogged

Spawn = Callable[..., "subprocess.Popen[str]"]

ORIGIN = Origin(site="site-1", rank=0, incarnation="a1", job="job")
EVENT = MetricsLogged(values={"loss": 1.0})
ROLL = 40_000


def make_journal(folder: Path, roll_bytes: int = ROLL) -> SqliteJournal:
    return SqliteJournal(folder, ORIGIN, roll_bytes=roll_bytes)


def append(journal: SqliteJournal, count: int) -> None:
    for _ in range(count):
        journal.append_nowait(EVENT, "t", Scope.LOCAL, "run", 1)


def paths(folder: Path, origin: Origin = ORIGIN) -> list[Path]:
    return rolls_of(files.roll_path(folder, origin, 0))


def roll(journal: SqliteJournal) -> None:
    """Append until the journal goes on in another file."""
    before = journal._own._roll
    deadline = time.monotonic() + 30
    while journal._own._roll is before:
        assert time.monotonic() < deadline, "it does not roll"
        append(journal, 20)
        upkeep.ring()
        threading.Event().wait(0.002)


def numbers(folder: Path, limit: int = 100, key: str = "site-1/0-a1") -> list[int]:
    cursor: Cursor = {}
    found: list[int] = []
    with closing(JournalReader(folder)) as reader:
        while records := reader.read(cursor, limit):
            found += [record.seq for record in records if record.header.key == key]
            cursor.update({record.header.key: record.seq for record in records})
    return found


def in_files(folder: Path, origin: Origin = ORIGIN) -> list[list[int]]:
    """Return what each file holds, read without our readers."""
    found: list[list[int]] = []
    for path in paths(folder, origin):
        with closing(sqlite3.connect(path)) as connection:
            found.append([seq for (seq,) in connection.execute("SELECT seq FROM records ORDER BY seq")])
    return found


# ------------------------------------------------------------------------------------------------------------ order
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_the_numbers_go_on_in_the_next_file(tmp_path: Path, limit: int) -> None:
    with closing(make_journal(tmp_path)) as journal:
        for _ in range(3):
            roll(journal)
        last = journal.last_seq
        assert numbers(tmp_path, limit) == list(range(1, last + 1))
    assert numbers(tmp_path, limit) == list(range(1, last + 1))

    held = in_files(tmp_path)
    assert [number for part in held for number in part] == list(range(1, last + 1))
    assert len([part for part in held if part]) >= 3


def test_a_reader_beside_a_writer_that_rolls_misses_nothing(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, 20_000)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set() and journal.last_seq < 300_000:  # a busy machine rolls late
            append(journal, 10)
            upkeep.ring()

    writer = threading.Thread(target=write)
    writer.start()
    found: list[int] = []
    with closing(JournalReader(tmp_path)) as reader:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (len(paths(tmp_path)) > 25 and len(found) > 2000):
            found += [one.seq for one in reader.read({"site-1/0-a1": found[-1]} if found else {}, 50)]
        stop.set()
        writer.join()
        journal.close()
        while records := reader.read({"site-1/0-a1": found[-1]}, 1000):
            found += [one.seq for one in records]
        ended = reader.partition("site-1/0-a1")
        assert ended.ended()
        assert ended.final == found[-1]

    assert found == list(range(1, journal.last_seq + 1))
    assert len(paths(tmp_path)) > 25


def partition_in_two_files(folder: Path, first: list[int], second: list[int]) -> tuple[Path, Path]:
    header = PartitionHeader(origin=ORIGIN, created_ns=1)
    old, new = (files.roll_path(folder, ORIGIN, number) for number in (0, 1))
    for path, held in ((old, first), (new, second)):
        files.create_file(path, header)
        add(path, held)
    return old, new


def add(path: Path, held: list[int]) -> None:
    with closing(files.open_writer(path)) as writer:
        files.insert(writer, [(number, b"x") for number in held])


class Racing(PartitionReader):
    """A reader to whom something happens after each look into a file."""

    meanwhile: list[Callable[[], None]]

    def _select(self, file: File, where: str, *values: int) -> list[StoredRecord]:
        rows = super()._select(file, where, *values)
        for happen in self.meanwhile:
            happen()
        return rows


def test_what_comes_to_both_files_during_one_read_is_in_order(tmp_path: Path) -> None:
    """A writer appends to the old file, rolls and appends to the new one, between the looks into the two."""
    old, new = partition_in_two_files(tmp_path, [1, 2], [])
    with closing(JournalReader(tmp_path)) as reader:
        (partition,) = reader.partitions()
        racing = Racing(partition.header, reader, partition.files)
        happened: list[int] = []

        def write() -> None:
            if not happened:
                happened.append(1)
                add(old, [3, 4])
                add(new, [5])

        racing.meanwhile = [write]
        first = [one.seq for one in racing.after(0, 100)]
        then = [one.seq for one in racing.after(first[-1], 100)]

    assert happened
    assert first + then == [1, 2, 3, 4, 5]


def test_a_partition_has_not_ended_while_a_file_of_it_is_not_known(tmp_path: Path) -> None:
    old, _ = partition_in_two_files(tmp_path, [1, 2], [3])
    with closing(JournalReader(tmp_path)) as reader:
        (partition,) = reader.partitions()
        early = PartitionReader(partition.header, JournalReader(tmp_path), [File(old)])
        assert not early.ended()
        assert partition.ended()
        assert partition.final == 3


def test_a_file_that_is_busy_holds_back_those_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be opened at this moment is tried again; the records behind it are not read before."""
    old, _ = partition_in_two_files(tmp_path, [1, 2], [3])
    busy = {old}

    def opener(path: Path) -> sqlite3.Connection:
        if path in busy:
            error = sqlite3.OperationalError("unable to open database file")
            monkeypatch.setattr(error, "sqlite_errorcode", sqlite3.SQLITE_CANTOPEN, raising=False)
            raise error
        return files.open_reader(path)

    with closing(JournalReader(tmp_path, opener)) as reader:
        assert reader.read({}, 10) == []
        assert list(reader.unreadable) == [old]
        busy.clear()
        assert [one.seq for one in reader.read({}, 10)] == [1, 2, 3]
        assert reader.unreadable == {}


# ------------------------------------------------------------------------------------------------------------- ends
@pytest.mark.parametrize("prepared", [False, True])
def test_a_file_prepared_for_nothing_changes_no_end(tmp_path: Path, prepared: bool) -> None:
    journal = make_journal(tmp_path)
    roll(journal)
    last = journal.last_seq
    if prepared:  # and not gone over to
        journal._own._roll_bytes = 1
        journal._own.upkeep()
        assert in_files(tmp_path)[-1] == []
    with closing(JournalReader(tmp_path)) as reader:
        assert reader.ends() == {"site-1/0-a1": last}
        assert not reader.partition("site-1/0-a1").ended()
        journal.close()
        reader.partitions()
        partition = reader.partition("site-1/0-a1")
        assert partition.ended()
        assert partition.closed_in_order()
        assert partition.final == last
        assert reader.read({"site-1/0-a1": last}, 10) == []


def test_what_is_full_is_closed_and_its_log_is_gone(tmp_path: Path) -> None:
    with closing(make_journal(tmp_path)) as journal:
        roll(journal)
        first = paths(tmp_path)[0]
        deadline = time.monotonic() + 20
        while (Path(f"{first}-wal").exists() or len(journal._own._rolls) > 1) and time.monotonic() < deadline:
            upkeep.ring()
            threading.Event().wait(0.01)
        assert len(journal._own._rolls) == 1
        assert not Path(f"{first}-wal").exists()
        assert not Path(f"{first}-shm").exists()
        assert files.is_held(files.lock_path(first))  # the partition goes on


def test_a_reader_that_stays_in_a_file_bounds_its_log(tmp_path: Path) -> None:
    """It keeps the log from starting over; the partition goes on in another file."""
    journal = make_journal(tmp_path, 200_000)
    append(journal, 10)
    first = paths(tmp_path)[0]
    with closing(journal), closing(files.open_reader(first)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchone()
        roll(journal)
        roll(journal)
        log = Path(f"{first}-wal").stat().st_size
        roll(journal)
        assert Path(f"{first}-wal").stat().st_size == log
        assert reader.execute("SELECT count(*) FROM records").fetchone() == (10,)
    assert numbers(tmp_path) == list(range(1, journal.last_seq + 1))


# ------------------------------------------------------------------------------------------------------- interrupts
def test_an_interrupt_between_insert_and_count_costs_no_number_when_it_rolls(tmp_path: Path) -> None:
    with closing(make_journal(tmp_path)) as journal:
        append(journal, 5)
        own = journal._own
        files.insert(own.connection, [(6, b"x")])  # and no more: Ctrl-C
        own._roll_bytes = 1
        own.upkeep()
        append(journal, 1)
    assert in_files(tmp_path)[:2] == [[1, 2, 3, 4, 5, 6], [7]]


def test_a_signal_handler_that_logs_while_it_rolls_doubles_no_number(
    tmp_path: Path, run_program: Callable[..., str]
) -> None:
    program = """
        import signal, sys
        from pathlib import Path
        from eventbus import Origin
        from eventbus._bus import Bus
        from eventbus.journals import SqliteJournal
        from eventbus.journals._caretaker import upkeep
        from eventbus.tracking import MetricsLogged

        origin = Origin(site="site-1", rank=0, incarnation="a1", job="job")
        event = MetricsLogged(values={"loss": 1.0})
        bus = Bus(lambda: SqliteJournal(Path(sys.argv[1]), origin, roll_bytes=10_000))
        bus.open()
        signals = 0

        def log(*_):
            global signals
            signals += 1
            upkeep.ring()
            assert not bus.publish(event).refused

        signal.signal(signal.SIGALRM, log)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while signals < 300:
            assert not bus.publish(event).refused
        signal.setitimer(signal.ITIMER_REAL, 0)
        bus.close()
        print(bus.journal.last_seq)
    """
    last = int(run_program(program, tmp_path))
    held = in_files(tmp_path)

    assert len(held) > 5
    assert [number for part in held for number in part] == list(range(1, last + 1))


# ---------------------------------------------------------------------------------------------------------- kill -9
ROLLING = """
    import os, sys, threading
    from pathlib import Path
    from eventbus import Origin, Scope
    from eventbus.journals import SqliteJournal
    from eventbus.journals._caretaker import upkeep
    from eventbus.tracking import MetricsLogged

    origin = Origin(site="site-1", rank=0, incarnation="a1", job="job")
    journal = SqliteJournal(Path(sys.argv[1]), origin, roll_bytes=15_000)
    event = MetricsLogged(values={"loss": 1.0})

    def ring():
        while True:
            upkeep.ring()
            threading.Event().wait(0.001)

    threading.Thread(target=ring, daemon=True).start()
    while True:
        os.write(1, b"%d\\n" % journal.append_nowait(event, "t", Scope.LOCAL, "run", 1).seq)
"""


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_moment_of_rolling_loses_and_doubles_nothing(tmp_path: Path, spawn: Spawn, seed: int) -> None:
    writer = spawn(ROLLING, tmp_path)
    assert writer.stdout is not None
    left, last = random.Random(seed).randrange(40), 0
    for line in writer.stdout:
        last = int(line)
        left -= len(paths(tmp_path)) > 1 + seed % 3  # from then on, count down
        if left < 0:
            writer.send_signal(signal.SIGKILL)
    assert writer.wait(timeout=10) == -signal.SIGKILL

    found = numbers(tmp_path, 97)

    assert found == list(range(1, len(found) + 1))
    assert len(found) in (last, last + 1)
    assert len(paths(tmp_path)) > 1
    with closing(JournalReader(tmp_path)) as reader:
        reader.partitions()
        assert reader.partition("site-1/0-a1").ended()


# ---------------------------------------------------------------------------------------------------------- mirrors
def mirrored(folder: Path, first: int, last: int, header: PartitionHeader, roll_bytes: int = ROLL) -> list[int]:
    """Append batches to a mirror, rolling whenever it can, and leave it as a crash does; return the marks."""
    mirror = Mirror(folder, header, roll_bytes)
    marks = [mirror.mark]
    for number in range(first, last + 1, 10):
        batch = relayed(header, range(number, number + 10), first=number, last=number + 9)
        marks.append(mirror.append(batch))
        mirror.upkeep()
    mirror.close(ended=False)
    return marks


def test_a_mirror_rolls_and_its_mark_goes_with_it(tmp_path: Path) -> None:
    header = foreign_header()
    marks = mirrored(tmp_path, 1, 400, header, 20_000)
    assert marks == list(range(0, 401, 10))
    again = mirrored(tmp_path, 381, 800, header, 20_000)  # another process goes on, and some of it comes twice
    assert again[0] == 400
    assert again[-1] == 800
    assert all(one <= other for one, other in pairwise(again))

    held = in_files(tmp_path, header.origin)
    assert len(held) > 3
    assert [number for part in held for number in part] == list(range(1, 801))
    assert numbers(tmp_path, 33, header.key) == list(range(1, 801))
    with closing(JournalReader(tmp_path)) as reader:
        assert reader.marks() == {header.key: 800}
        assert reader.ends() == {header.key: 800}
        assert not reader.partition(header.key).ended()


def test_a_mirror_s_mark_counts_where_its_newest_file_knows_an_older_one(tmp_path: Path) -> None:
    header = foreign_header()
    mirror = Mirror(tmp_path, header, 1)
    mirror.append(relayed(header, [1, 2], first=1, last=2))
    mirror.upkeep()  # prepares a file whose header says mark 2
    mirror._latest = mirror._roll  # it is not gone over to
    mirror.append(relayed(header, [5], first=3, last=7))
    mirror._latest = mirror._rolls[-1]
    mirror.close(ended=False)
    with closing(JournalReader(tmp_path)) as reader:
        assert reader.marks() == {header.key: 7}
    reopened = Mirror(tmp_path, header)
    assert reopened.mark == 7
    assert reopened.end == 5
    reopened.append(relayed(header, [6, 7, 8], first=6, last=8))
    reopened.close()
    assert numbers(tmp_path, 10, header.key) == [1, 2, 5, 8]


# ------------------------------------------------------------------------------------------------------ conformance
@pytest.mark.anyio
async def test_a_journal_that_rolls_all_the_time_keeps_its_promises(tmp_path: Path) -> None:
    made: list[SqliteJournal] = []

    def make() -> SqliteJournal:
        origin = Origin(site="site-1", rank=0, incarnation=f"a{len(made)}", job="job")
        made.append(SqliteJournal(tmp_path / str(len(made)), origin, roll_bytes=1))
        return made[-1]

    stop = threading.Event()

    def ring() -> None:
        while not stop.wait(0.0005):
            upkeep.ring()

    ringing = threading.Thread(target=ring)
    ringing.start()
    try:
        with anyio.fail_after(60):
            await check_journal(make)
    finally:
        stop.set()
        ringing.join()
    assert len(made) == len(JOURNAL_CHECKS)
    rolled = [len(list((tmp_path / str(number)).glob("*/*-1.db"))) for number in range(len(made))]
    assert sum(rolled) > len(made) / 3
