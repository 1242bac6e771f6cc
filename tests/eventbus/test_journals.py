"""What only a journal on disk can get wrong: killed writers, strangers in its folder, locks, descriptors."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import anyio
import pytest

from eventbus import EventBus, Origin, Scope
from eventbus._codec import decode
from eventbus._conformance import foreign_header, relayed
from eventbus.abc import Cursor, PartitionHeader, RelayedBatch, StoredRecord
from eventbus.errors import WorkspaceError
from eventbus.health import JournalFilled
from eventbus.journals import SqliteJournal
from eventbus.journals import _partition as files
from eventbus.journals._partition_reader import OPEN_FILES
from eventbus.journals._reader import JournalReader
from eventbus.tracking import MetricsLogged

Spawn = Callable[..., "subprocess.Popen[str]"]

WRITER = """
    import os, sys
    from eventbus import EventBus
    from eventbus.tracking import MetricsLogged

    bus = EventBus(sys.argv[1], site="site-1")
    bus.open()
    os.write(1, b"open\\n")
    sys.stdin.readline()
    for number in range(1, int(sys.argv[2]) + 1):
        receipt = bus.publish(MetricsLogged(values={"loss": float(number)}))
        os.write(1, b"%d\\n" % receipt.seq)
    sys.stdin.readline()
    bus.close()
"""


def make_journal(folder: Path, incarnation: str = "a1", *, site: str = "site-1", rank: int = 0) -> SqliteJournal:
    return SqliteJournal(folder, Origin(site=site, rank=rank, incarnation=incarnation, job="job"))


def append(journal: SqliteJournal, count: int) -> None:
    for number in range(count):
        journal.append_nowait(MetricsLogged(values={"loss": float(number)}), "t", Scope.LOCAL, "run", 1)


def write_partition(folder: Path, incarnation: str, count: int) -> Path:
    """Write a partition of a writer that has ended; return its file."""
    with closing(make_journal(folder, incarnation)) as journal:
        append(journal, count)
        return files.roll_path(folder, journal.origin, 0)


def read_all(reader: JournalReader, limit: int = 100) -> list[StoredRecord]:
    cursor: Cursor = {}
    found: list[StoredRecord] = []
    while records := reader.read(cursor, limit):
        found += records
        cursor.update({record.header.key: record.seq for record in records})
    return found


def by_partition(records: list[StoredRecord]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for record in records:
        found[record.header.key].append(record.seq)
    return dict(found)


def begin(writer: subprocess.Popen[str]) -> None:
    """Wait until a writer has opened its bus, then let it write."""
    assert writer.stdout is not None
    assert writer.stdin is not None
    assert writer.stdout.readline() == "open\n"
    writer.stdin.write("go\n")
    writer.stdin.flush()


def kill_after(writer: subprocess.Popen[str], count: int) -> int:
    """Kill a writer at full speed; return the number of its last append that had returned."""
    assert writer.stdout is not None
    last = 0
    for line in writer.stdout:
        last = int(line)
        if last == count:
            writer.send_signal(signal.SIGKILL)
    assert writer.wait(timeout=10) == -signal.SIGKILL
    return last


# --------------------------------------------------------------------------------------------------------- kill -9
@pytest.mark.parametrize("count", [1, 700, 3000])
def test_what_was_appended_survives_kill_9(tmp_path: Path, spawn: Spawn, count: int) -> None:
    writer = spawn(WRITER, tmp_path, 1_000_000)
    begin(writer)
    last = kill_after(writer, count)

    with closing(JournalReader(tmp_path / "journal")) as reader:
        records = read_all(reader)

    numbers = [record.seq for record in records]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) in (last, last + 1)  # the one that was on its way may be there too
    events = [decode(one.body, one.header.origin, one.seq).event for one in records]
    assert [one.values["loss"] for one in events if isinstance(one, MetricsLogged)] == numbers


def test_a_restarted_writer_is_read_after_what_it_wrote_before(tmp_path: Path, spawn: Spawn) -> None:
    for _ in range(3):
        writer = spawn(WRITER, tmp_path, 1_000_000)
        begin(writer)
        kill_after(writer, 300)

    with closing(JournalReader(tmp_path / "journal")) as reader:
        partitions = reader.partitions()
        for limit in (7, 1000):
            order = [record.header.key for record in read_all(reader, limit)]
            assert order == [one.header.key for one in partitions for _ in range(order.count(one.header.key))]

    keys = [one.header.key for one in partitions]
    assert [set(one.header.after) for one in partitions] == [set(), {keys[0]}, {keys[0], keys[1]}]


def test_two_processes_of_one_site_and_rank_both_work(tmp_path: Path, spawn: Spawn) -> None:
    writers = [spawn(WRITER, tmp_path, 400) for _ in range(2)]
    for writer in writers:
        begin(writer)
    for writer in writers:
        out, err = writer.communicate("end\n", timeout=30)
        assert (out.split()[-1], err) == ("400", "")

    with closing(JournalReader(tmp_path / "journal")) as reader:
        assert list(by_partition(read_all(reader)).values()) == [list(range(1, 401))] * 2
        assert [one.header.after for one in reader.partitions()] == [(), ()]


# ------------------------------------------------------------------------------------------------------ interrupts
def test_an_interrupt_costs_no_later_event(tmp_path: Path, run_program: Callable[..., str]) -> None:
    """Ctrl-C in a notebook strikes within the append more often than not."""
    program = """
        import signal, sys, time
        from eventbus import EventBus
        from eventbus.tracking import MetricsLogged

        def interrupt(*_):
            global armed
            if armed:
                armed = False
                raise KeyboardInterrupt

        bus = EventBus(sys.argv[1])
        bus.open()
        event = MetricsLogged(values={"loss": 1.0})
        interrupts = returned = 0
        armed = False
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        while interrupts < 200:
            try:
                armed = True
                while True:
                    returned += not bus.publish(event).refused
            except KeyboardInterrupt:
                interrupts += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        last = bus.publish(event)
        assert not last.refused, last
        print(returned + 1, last.seq, dict(bus.report().refused))
        bus.close()
    """
    returned, last, refused = run_program(program, tmp_path).split(maxsplit=2)

    with closing(JournalReader(tmp_path / "journal")) as reader:
        (numbers,) = by_partition(read_all(reader)).values()

    assert refused == "{}\n"
    assert numbers == list(range(1, int(last) + 1))
    assert int(returned) <= int(last) <= int(returned) + 200


def test_a_signal_handler_may_log(tmp_path: Path, run_program: Callable[..., str]) -> None:
    """A preempted job logs in its SIGTERM handler, while the same thread is within a log call."""
    program = """
        import signal, sys
        from eventbus import EventBus
        from eventbus.tracking import MetricsLogged

        event = MetricsLogged(values={"loss": 1.0})
        bus = EventBus(sys.argv[1])
        bus.open()
        taken = refused = signals = 0

        def publish():
            global taken, refused
            receipt = bus.publish(event)
            taken, refused = taken + (not receipt.refused), refused + bool(receipt.refused)

        def log(*_):
            global signals
            signals += 1
            publish()

        signal.signal(signal.SIGALRM, log)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        while signals < 200:
            publish()
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(refused, bus.publish(event).seq >= taken)
        bus.close()
    """
    assert run_program(program, tmp_path) == "0 True\n"


# ------------------------------------------------------------------------------------------------- the environment
def test_a_full_disk_is_counted_and_passes(tmp_path: Path, run_program: Callable[..., str]) -> None:
    """A file size limit is a disk that fills up, and is freed again."""
    program = """
        import json, logging, resource, signal, sys
        from eventbus import EventBus
        from eventbus.tracking import MetricsLogged

        logging.disable()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        event = MetricsLogged(values={f"loss-{number}": 1.0 for number in range(100)})
        bus = EventBus(sys.argv[1])
        bus.open()
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        receipts = [bus.publish(event) for _ in range(2000)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        receipts += [bus.publish(event) for _ in range(10)]
        bus.close()
        report = bus.report()
        taken = [one.seq for one in receipts if not one.refused]
        print(json.dumps([taken, sum(report.refused.values()), bool(receipts[1999].refused), report.published]))
    """
    import json

    taken, refused, was_full, published = json.loads(run_program(program, tmp_path))

    with closing(JournalReader(tmp_path / "journal")) as reader:
        records = read_all(reader)
    events = {one.seq: decode(one.body, one.header.origin, one.seq).event for one in records}

    assert was_full
    assert list(events) == list(range(1, published + 1))
    assert taken == [seq for seq, event in events.items() if isinstance(event, MetricsLogged)]
    assert {type(event) for seq, event in events.items() if seq not in taken} <= {JournalFilled}
    assert refused >= 2010 - len(taken)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_workspace_that_cannot_be_written_is_said_at_the_entry(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(WorkspaceError, match="can't be written"):
        EventBus(tmp_path / place).open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders too")
def test_a_read_only_workspace_is_said_at_the_entry(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(WorkspaceError, match="can't be written"):
        EventBus(tmp_path).open()


def test_a_folder_that_vanishes_raises_nothing(tmp_path: Path) -> None:
    bus = EventBus(tmp_path / "gone")
    bus.open()
    bus.publish(MetricsLogged(values={"loss": 1.0}))
    shutil.rmtree(tmp_path / "gone")

    bus.publish(MetricsLogged(values={"loss": 2.0}))
    bus.close()

    assert bus.report().published + sum(bus.report().refused.values()) == 2


@pytest.mark.parametrize("name", ["exp#3", "exp?3", "lr%3d1", "100%", "a b", "läuft/実験"])
def test_a_folder_may_be_called_anything(tmp_path: Path, name: str) -> None:
    write_partition(tmp_path / name, "a1", 3)

    with closing(JournalReader(tmp_path / name)) as reader:
        assert by_partition(read_all(reader)) == {"site-1/0-a1": [1, 2, 3]}
        assert reader.unreadable == {}
    assert [one.name for one in tmp_path.iterdir()] == [Path(name).parts[0]]


# -------------------------------------------------------------------------------------------- strangers, and damage
def test_a_reader_finds_partitions_that_come_later(tmp_path: Path) -> None:
    with closing(JournalReader(tmp_path)) as reader:
        assert reader.read({}, 10) == []
        write_partition(tmp_path, "a1", 2)
        assert by_partition(read_all(reader)) == {"site-1/0-a1": [1, 2]}
        write_partition(tmp_path, "a2", 3)
        assert by_partition(read_all(reader)) == {"site-1/0-a1": [1, 2], "site-1/0-a2": [1, 2, 3]}


def _database(path: Path, *values: tuple[str, object]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE header (name TEXT PRIMARY KEY, value)")
        connection.execute("CREATE TABLE records (seq INTEGER PRIMARY KEY, body BLOB)")
        connection.executemany("INSERT INTO header VALUES (?, ?)", values)
        connection.commit()


STRANGERS: dict[str, Callable[[Path], object]] = {
    "empty file": lambda path: path.touch(),
    "random bytes": lambda path: path.write_bytes(os.urandom(5000)),
    "torn database": lambda path: path.write_bytes(b"SQLite format 3\0" + b"\0" * 100),
    "folder": lambda path: path.mkdir(),
    "other database": lambda path: sqlite3.connect(path).execute("CREATE TABLE other (x)").connection.close(),
    "no header": _database,
    "later format": lambda path: _database(path, ("format", 99)),
    "no partition": lambda path: _database(path, ("format", files.FORMAT)),
    "header of another type": lambda path: _database(path, ("format", files.FORMAT), ("header", 7)),
    "damaged header": lambda path: _database(path, ("format", files.FORMAT), ("header", b"\xff\x00nonsense")),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_is_left_out_with_a_reason(tmp_path: Path, stranger: str) -> None:
    write_partition(tmp_path, "a1", 3)
    path = tmp_path / "site-1" / "0-00-0.db"
    STRANGERS[stranger](path)

    with closing(JournalReader(tmp_path)) as reader:
        assert by_partition(read_all(reader)) == {"site-1/0-a1": [1, 2, 3]}
        assert reader.ends() == {"site-1/0-a1": 3}
        assert reader.marks() == {}
        assert list(reader.unreadable) == [path]
        assert reader.unreadable[path]


def test_a_copy_is_not_read_twice(tmp_path: Path) -> None:
    path = write_partition(tmp_path, "a1", 3)
    copy = path.with_name("0-c0ffee-0.db")
    shutil.copy(path, copy)

    with closing(JournalReader(tmp_path)) as reader:
        assert by_partition(read_all(reader)) == {"site-1/0-a1": [1, 2, 3]}
        assert "copy" in reader.unreadable[copy]


def test_damage_within_a_partition_stops_no_other(tmp_path: Path) -> None:
    broken = write_partition(tmp_path, "a1", 3000)
    write_partition(tmp_path, "a2", 50)
    with broken.open("r+b") as file:
        file.seek(broken.stat().st_size // 3)
        file.write(os.urandom(broken.stat().st_size // 3))

    with closing(JournalReader(tmp_path)) as reader:
        found = by_partition(read_all(reader))
        assert found["site-1/0-a2"] == list(range(1, 51))
        read = found.get("site-1/0-a1", [])
        assert read == list(range(1, len(read) + 1))
        assert len(read) < 3000
        assert list(reader.unreadable) == [broken]
        assert reader.ends() == {"site-1/0-a2": 50}


def test_a_half_made_partition_is_ignored(tmp_path: Path) -> None:
    write_partition(tmp_path, "a1", 1)
    (tmp_path / "site-1" / "0-00-0.new").write_bytes(b"half")
    (tmp_path / "site-1" / "notes.txt").write_text("mine")
    (tmp_path / "stray").write_text("mine")

    with closing(JournalReader(tmp_path)) as reader:
        assert by_partition(read_all(reader)) == {"site-1/0-a1": [1]}
        assert reader.unreadable == {}


def test_a_mirror_has_not_ended_because_its_relay_pauses(tmp_path: Path) -> None:
    """A server that comes back reads what its sites send later, however long they take to come back too."""
    header = foreign_header()
    path = files.lock_path(files.roll_path(tmp_path, header.origin, 0))

    def relay(incarnation: str, batch: RelayedBatch) -> None:
        with closing(make_journal(tmp_path, incarnation)) as journal:
            anyio.run(journal.append, batch)

    relay("c1", relayed(header, [1, 2], first=1, last=2))
    assert not files.is_held(path)
    with closing(JournalReader(tmp_path)) as reader:
        assert by_partition(read_all(reader)) == {header.key: [1, 2]}
        assert not reader.partition(header.key).ended()
        relay("c2", relayed(header, [3], first=3, last=3))
        assert by_partition(read_all(reader)) == {header.key: [1, 2, 3]}

        relay("c3", relayed(header, [], first=4, last=3, ended=True))
        assert reader.partition(header.key).ended()
        assert reader.partition(header.key).closed_in_order()


def test_a_mirror_has_ended_when_its_successor_is_here(tmp_path: Path) -> None:
    old = foreign_header("f0")
    new = foreign_header("f1", after=(old.key,))
    with closing(make_journal(tmp_path)) as journal, closing(JournalReader(tmp_path)) as reader:
        anyio.run(journal.append, relayed(old, [1], first=1, last=1))
        reader.partitions()
        assert not reader.partition(old.key).ended()
        anyio.run(journal.append, relayed(new, [1], first=1, last=1))
        assert len(reader.partitions()) == 3
        assert reader.partition(old.key).ended()
        assert not reader.partition(old.key).closed_in_order()
        assert not reader.partition(new.key).ended()


def test_a_busy_partition_gets_what_idle_ones_leave(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for rank in range(1, 20):
            stack.enter_context(closing(make_journal(tmp_path, f"b{rank}", rank=rank)))
        busy = stack.enter_context(closing(make_journal(tmp_path)))
        append(busy, 300)
        reader = stack.enter_context(closing(JournalReader(tmp_path)))

        assert len(reader.read({}, 256)) == 256


# ------------------------------------------------------------------------------------------------------------ locks
PROBE = """
    import sys
    from pathlib import Path
    from eventbus.journals._partition import is_held
    print(is_held(Path(sys.argv[1])))
"""


def test_a_partition_is_held_until_its_writer_closes(tmp_path: Path, run_program: Callable[..., str]) -> None:
    journal = make_journal(tmp_path)
    path = files.lock_path(files.roll_path(tmp_path, journal.origin, 0))
    (tmp_path / "link").symlink_to(tmp_path)

    assert files.is_held(path)
    assert files.is_held(tmp_path / "link" / "site-1" / path.name)  # another spelling must not let go of it
    assert files.is_held(tmp_path / "." / "site-1" / ".." / "site-1" / path.name)
    assert run_program(PROBE, path) == "True\n"

    journal.close()

    assert not files.is_held(path)
    assert run_program(PROBE, path) == "False\n"


def test_a_killed_writer_holds_nothing(tmp_path: Path, spawn: Spawn) -> None:
    writer = spawn(WRITER, tmp_path, 10)
    begin(writer)
    (lock,) = (tmp_path / "journal" / "site-1").glob("*.lock")
    assert files.is_held(lock)

    writer.kill()
    writer.wait(timeout=10)

    assert not files.is_held(lock)


def test_a_partition_has_one_writer(tmp_path: Path, spawn: Spawn) -> None:
    lock = files.PartitionLock(tmp_path / "0-a1.lock")
    with pytest.raises(BlockingIOError):
        files.PartitionLock(tmp_path / "0-a1.lock")
    lock.release()
    lock.release()

    files.PartitionLock(tmp_path / "0-a1.lock").release()


def test_a_child_sees_that_its_parent_writes(tmp_path: Path, run_program: Callable[..., str]) -> None:
    program = """
        import os, sys
        from pathlib import Path
        from eventbus import EventBus
        from eventbus.journals._partition import is_held

        bus = EventBus(sys.argv[1])
        bus.open()
        (lock,) = Path(sys.argv[1]).glob("journal/*/*.lock")
        ours, theirs = os.pipe()
        if not (child := os.fork()):
            os.read(ours, 1)
            held = is_held(lock)
            bus.close()
            os._exit(held)
        bus.close()
        os.write(theirs, b"x")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert run_program(program, tmp_path) == "0\n"


def test_two_that_look_at_once_take_nobody_for_the_writer(tmp_path: Path, spawn: Spawn) -> None:
    path = tmp_path / "0-a1.lock"
    path.touch()
    program = """
        import sys
        from pathlib import Path
        from eventbus.journals._partition import is_held
        print("ready", flush=True)
        print(sum(is_held(Path(sys.argv[1])) for _ in range(30_000)))
    """
    other = spawn(program, path)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"

    assert sum(files.is_held(path) for _ in range(30_000)) == 0
    assert other.stdout.readline() == "0\n"


# ------------------------------------------------------------------------------------------------------ descriptors
def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_closed_bus_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = open_descriptors()
    for number in range(50):
        bus = EventBus(tmp_path / str(number % 5))
        bus.open()
        bus.publish(MetricsLogged(values={"loss": 1.0}))
        bus.close()

    assert open_descriptors() <= before


def test_a_journal_that_cannot_be_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    blocked = files.roll_path(tmp_path, Origin(site="site-1", rank=0, incarnation="a1", job="job"), 0)
    blocked.mkdir(parents=True)
    before = open_descriptors()

    for _ in range(3):
        with pytest.raises(Exception, match="can't be written"):
            make_journal(tmp_path)

    assert open_descriptors() == before
    assert not files.is_held(files.lock_path(blocked))


def test_a_reader_of_many_partitions_keeps_few_files_open(tmp_path: Path) -> None:
    count = OPEN_FILES + 30
    for number in range(count):
        origin = Origin(site="site-1", rank=number, incarnation="a1", job="job")
        path = files.roll_path(tmp_path, origin, 0)
        files.create_file(path, PartitionHeader(origin=origin, created_ns=number))
        with closing(files.open_writer(path)) as writer:
            files.insert(writer, [(1, b"one"), (2, b"two")])
    before = open_descriptors()

    with closing(JournalReader(tmp_path)) as reader:
        assert len(reader.ends()) == count
        assert len(read_all(reader)) == 2 * count
        assert open_descriptors() - before <= 3 * OPEN_FILES

    assert open_descriptors() == before


# ------------------------------------------------------------------------------------------------------------ forks
FORKED = """
    import logging, os, sys
    from eventbus import EventBus
    from eventbus.tracking import MetricsLogged

    logging.disable()
    event = MetricsLogged(values={"loss": 1.0})
    bus = EventBus(sys.argv[1])
    bus.open()
    bus.publish(event)
    if not (child := os.fork()):
        receipt = bus.publish(event)
        bus.close()
        os._exit(1 if receipt.refused else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    last = bus.publish(event)
    print(status, last.seq, flush=True)
    os._exit(0)  # the partition is not closed
"""


def test_a_forked_child_never_touches_its_parents_partition(tmp_path: Path, run_program: Callable[..., str]) -> None:
    assert run_program(FORKED, tmp_path).split()[1] == "2"

    with closing(JournalReader(tmp_path / "journal")) as reader:
        partition = reader.partitions()[0]
        assert [one.seq for one in partition.after(0, 10)] == [1, 2]
        assert not partition.closed_in_order()


def test_a_forked_child_writes_a_partition_of_its_own(tmp_path: Path, run_program: Callable[..., str]) -> None:
    assert run_program(FORKED, tmp_path).split()[0] == "0"


def test_a_fork_while_another_thread_logs_hangs_no_child(tmp_path: Path, run_program: Callable[..., str]) -> None:
    """The other thread may hold the bus's lock at the moment of the fork, and is not there to let go of it."""
    program = """
        import logging, os, sys, threading
        from eventbus import EventBus
        from eventbus.tracking import MetricsLogged

        logging.disable()
        event = MetricsLogged(values={"loss": 1.0})
        bus = EventBus(sys.argv[1])
        bus.open()
        stop = threading.Event()

        def log():
            while not stop.is_set():
                bus.publish(event)

        threads = [threading.Thread(target=log) for _ in range(2)]
        for thread in threads:
            thread.start()
        stuck = 0
        while not stuck and bus.report().published < 5000:
            if not (child := os.fork()):
                threading.Timer(5, os._exit, [1]).start()
                bus.publish(event)
                os._exit(0)
            stuck += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stop.set()
        for thread in threads:
            thread.join()
        bus.close()
        print(stuck)
    """
    assert run_program(program, tmp_path) == "0\n"
