"""Damaged journals, as a bus meets them: what can be read is still delivered, the rest is counted, training goes on."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import anyio
import pytest
from waiting import wait_until

from eventbus import EventBus, Origin, Scope
from eventbus._codec import decode
from eventbus._conformance import foreign_header, relayed
from eventbus.abc import PartitionHeader, StoredRecord
from eventbus.health import HealthEvent, JournalQuarantined
from eventbus.journals import SqliteJournal
from eventbus.journals import _partition as files
from eventbus.journals import _quarantine as quarantine
from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import ConsumerFile
from eventbus.tracking import MetricsLogged

Spawn = Callable[..., "subprocess.Popen[str]"]

EVENTS = 1500

WRITER = """
    import os, sys, time
    from eventbus import EventBus
    from eventbus.tracking import MetricsLogged

    bus = EventBus(sys.argv[1], site="site-1", job="job")
    bus.open()
    for number in range(1, int(sys.argv[2]) + 1):
        bus.publish(MetricsLogged(values={"loss": float(number)}))
        if number == int(sys.argv[2]) // 2:
            time.sleep(2.5)  # until the first half is in the file, the other one in its log
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a writer that was killed: half in the file, half in its log."""
    import sys
    import textwrap

    folder = tmp_path_factory.mktemp("killed")
    (folder / "writer.py").write_text(textwrap.dedent(WRITER))
    root = str(Path(__file__).resolve().parents[2])
    child = subprocess.run(
        [sys.executable, "-P", folder / "writer.py", folder / "w", str(EVENTS)],
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert child.returncode == -9
    return folder / "w"


@pytest.fixture
def workspace(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "w"))


def partition_file(workspace: Path) -> Path:
    (path,) = workspace.glob("journal/site-1/*.db")
    return path


def overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def read(workspace: Path, site: str = "site-1") -> list[StoredRecord]:
    with closing(JournalReader(workspace / "journal")) as reader:
        return [one for part in reader.partitions() if part.header.origin.site == site for one in part.after(0, 10**6)]


def losses(records: list[StoredRecord]) -> dict[int, float]:
    """Number -> loss of the records that are there."""
    found: dict[int, float] = {}
    for record in records:
        if record.body:
            event = decode(record.body, record.header.origin, record.seq).event
            assert isinstance(event, MetricsLogged)
            found[record.seq] = event.values["loss"]
    return found


def open_bus(workspace: Path) -> list[JournalQuarantined]:
    """Open a bus as the next run does; return what it says of the journal's health."""
    bus = EventBus(workspace, site="site-2", job="job")
    bus.open()
    bus.close()
    return quarantined(workspace)


def quarantined(workspace: Path, site: str = "site-2") -> list[JournalQuarantined]:
    events = [decode(one.body, one.header.origin, one.seq).event for one in read(workspace, site) if one.body]
    return [event for event in events if isinstance(event, JournalQuarantined)]


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "header garbage": lambda file, log: (overwrite(file, 0, os.urandom(100)), log.unlink()),
    "first pages garbage": lambda file, log: (overwrite(file, 0, os.urandom(4096)), log.unlink()),
    "truncated": lambda file, log: os.truncate(file, file.stat().st_size // 2),
    "truncated within a page": lambda file, log: os.truncate(file, file.stat().st_size // 2 + 300),
    "pages zeroed": lambda file, log: overwrite(file, file.stat().st_size // 3, bytes(20 * 1024)),
    "log flipped": lambda file, log: overwrite(log, log.stat().st_size // 2, b"\x55\xaa\x55"),
    "log's header flipped": lambda file, log: overwrite(log, 16, os.urandom(8)),
    "all empty": lambda file, log: (os.truncate(file, 0), os.truncate(log, 0)),
    "file empty": lambda file, log: os.truncate(file, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_put_aside_and_what_is_left_of_it_is_read(workspace: Path, damage: str) -> None:
    path = partition_file(workspace)
    with ConsumerFile(workspace / "cursors", "some") as file:
        file.move({quarantine.partition_key(path): EVENTS})  # it knows how many there were
    DAMAGES[damage](path, quarantine.wal_path(path))

    (event,) = open_bus(workspace)

    records = read(workspace)
    found = losses(records)
    assert [one.seq for one in records] == list(range(1, EVENTS + 1))
    assert found == {seq: float(seq) for seq in found}
    assert (event.salvaged, event.lost) == (len(found), EVENTS - len(found))
    assert Path(event.path).is_file()
    assert event.reason
    assert event.salvaged > 300 or damage == "all empty"
    assert open_bus(workspace) == [event]  # the fresh one is sound
    assert {one.header.key for one in records} == {quarantine.partition_key(path)}


def test_a_log_that_is_gone_is_noticed_by_what_consumers_have_stored(workspace: Path) -> None:
    path = partition_file(workspace)
    with ConsumerFile(workspace / "cursors", "some") as file:
        file.move({quarantine.partition_key(path): EVENTS - 1})
    quarantine.wal_path(path).unlink()

    (event,) = open_bus(workspace)

    assert event.salvaged + event.lost == EVENTS - 1
    assert event.lost > 300


def test_what_is_sound_is_left_alone(workspace: Path) -> None:
    """A killed writer's file, one closed in order, strangers, and files that can't be read for the moment."""
    assert open_bus(workspace) == []
    folder = workspace / "journal" / "site-1"
    (folder / "0-00-0.db").mkdir()
    with closing(sqlite3.connect(folder / "0-01-0.db")) as stranger:
        stranger.execute("CREATE TABLE other (x)")
    shutil.copy(partition_file_of(workspace, "site-2"), folder / "0-02-0.db")
    before = sorted(path.name for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal")))
    known = {quarantine.partition_key(path): 0 for path in folder.glob("*.db")}

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 2, hard))
    try:
        assert quarantine.examine_all(workspace / "journal", known) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert quarantine.examine_all(workspace / "journal", known) == []

    after = sorted(path.name for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal")))
    assert before == after


def partition_file_of(workspace: Path, site: str) -> Path:
    return next(iter(sorted(workspace.glob(f"journal/{site}/*.db"))))


def test_a_file_that_is_being_written_is_left_alone(workspace: Path) -> None:
    path = partition_file(workspace)
    overwrite(path, 0, os.urandom(4096))
    lock = files.PartitionLock(files.lock_path(path))

    assert open_bus(workspace) == []

    lock.release()
    assert len(open_bus(workspace)) == 1


def test_two_that_open_at_once_put_it_aside_once(workspace: Path, spawn: Spawn) -> None:
    overwrite(partition_file(workspace), 0, os.urandom(4096))
    program = """
        import sys
        from eventbus import EventBus

        print("ready", flush=True)
        sys.stdin.readline()
        bus = EventBus(sys.argv[1], site="site-2")
        bus.open()
        bus.close()
    """
    both = [spawn(program, workspace) for _ in range(2)]
    for one in both:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in both:
        one.wait(timeout=60)

    assert len(quarantined(workspace)) == 1
    assert len(list(workspace.glob("journal/site-1/*.damaged-?"))) == 1


def test_who_dies_while_putting_it_aside_loses_nothing(workspace: Path) -> None:
    path = partition_file(workspace)
    overwrite(path, path.stat().st_size // 3, bytes(2048))
    left = quarantine.read_damaged(path)
    quarantine._write(path, left)
    quarantine._rename(path)  # and here it dies

    assert open_bus(workspace) == []
    assert losses(read(workspace)).keys() == {seq for seq, body in left.records if body}


def test_a_flip_within_a_record_is_a_loss_that_is_counted(workspace: Path) -> None:
    """The file's structure is sound: nothing is put aside, and no wrong number is delivered."""
    path = partition_file(workspace)
    content = path.read_bytes()
    place = content.index(b"loss", len(content) // 2) + 6
    overwrite(path, place, bytes([content[place] ^ 4]))

    assert open_bus(workspace) == []
    records = read(workspace)

    assert len(records) == EVENTS
    assert sum(not one.body for one in records) == 1
    assert losses(records) == {one.seq: float(one.seq) for one in records if one.body}


# ------------------------------------------------------------------------------------------------- relayed partitions
def write_mirror(folder: Path, header: PartitionHeader, numbers: list[int]) -> Path:
    journal = SqliteJournal(folder / "journal", Origin(site="server", rank=0, incarnation="c1", job="job"))
    with closing(journal):
        for first in range(0, len(numbers), 100):
            part = numbers[first : first + 100]
            anyio.run(journal.append, relayed(header, part, first=part[0], last=part[-1]))
    return files.roll_path(folder / "journal", header.origin, 0)


def test_of_a_relayed_partition_the_mark_survives_and_what_was_withheld_is_no_loss(tmp_path: Path) -> None:
    header = foreign_header()
    numbers = list(range(1, 2000, 3))
    path = write_mirror(tmp_path, header, numbers)
    overwrite(path, path.stat().st_size // 2, bytes(10 * 1024))

    (event,) = quarantine.examine_all(tmp_path / "journal", {})

    with closing(JournalReader(tmp_path / "journal")) as reader:
        records = reader.partition(header.key).after(0, 10**6)
        assert reader.marks() == {header.key: numbers[-1]}
    assert event.salvaged + event.lost == len(numbers) == len(records)
    assert 0 < event.lost < 200
    assert {one.seq for one in records if one.body} <= set(numbers)


def test_a_relayed_partition_without_its_header_is_sent_again(tmp_path: Path) -> None:
    header = foreign_header()
    numbers = list(range(1, 1000))
    path = write_mirror(tmp_path, header, numbers)
    overwrite(path, 0, os.urandom(2048))
    with suppress(FileNotFoundError):
        quarantine.wal_path(path).unlink()
    assert len(quarantine.examine_all(tmp_path / "journal", {})) == 1
    with closing(JournalReader(tmp_path / "journal")) as reader:
        assert reader.marks() == {}

    write_mirror(tmp_path, header, numbers)

    with closing(JournalReader(tmp_path / "journal")) as reader:
        records = reader.partition(header.key).after(0, 10**6)
        assert [one.seq for one in records if one.body] == numbers
        assert reader.marks() == {header.key: numbers[-1]}


# ----------------------------------------------------------------------------------------------- under a running bus
def publish(bus: EventBus, *numbers: int) -> list[int]:
    return [bus.publish(MetricsLogged(values={"loss": float(number)})).seq for number in numbers]


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[EventBus]:
    with EventBus(tmp_path / "w", site="site-1", job="job").background() as opened:
        yield opened


def own_file(bus: EventBus) -> Path:
    assert bus.journal.folder is not None
    return files.roll_path(bus.journal.folder, bus.journal.origin, 0)


def forget_pages(bus: EventBus) -> None:
    """Make SQLite read from the disk again: it has the last pages in its memory."""
    assert isinstance(bus.journal, SqliteJournal)
    bus.journal._own.connection.execute("PRAGMA shrink_memory").fetchall()


def damage_own(bus: EventBus) -> Path:
    path = own_file(bus)
    wait_until(lambda: path.stat().st_size > 20_000)  # checkpointed
    overwrite(path, 8 * 1024, os.urandom(path.stat().st_size - 8 * 1024))
    log = quarantine.wal_path(path)
    overwrite(log, 40, os.urandom(log.stat().st_size - 40))
    return path


def test_an_append_that_meets_damage_goes_on_in_another_partition(bus: EventBus) -> None:
    told: list[HealthEvent] = []
    bus.subscribe(HealthEvent, told.append)
    publish(bus, *range(1, 1001))
    path = damage_own(bus)
    forget_pages(bus)
    old = bus.origin

    assert publish(bus, 1001, 1002) == [1001, 1002]

    assert bus.origin.incarnation != old.incarnation
    wait_until(lambda: told)
    (event,) = told
    assert isinstance(event, JournalQuarantined)
    assert event.salvaged + event.lost == 1000
    assert bus.workspace is not None
    assert str(event.path) in str(bus.report())
    records = read(bus.workspace)
    assert [one.seq for one in records[:1002]] == list(range(1, 1003))
    assert records[1001].header.after == (old.partition,)
    assert {one.header.key for one in records if one.seq <= 1000} == {quarantine.partition_key(path)}
    assert bus.report().refused == {}


def test_a_consumer_that_meets_damage_has_the_partition_given_up(bus: EventBus) -> None:
    """The writer itself may never look at the damaged pages again."""
    publish(bus, *range(1, 1001))
    path = damage_own(bus)

    bus.journal.suspect({str(path): "damaged"})

    wait_until(lambda: path.with_name(f"{path.name}.damaged-1").exists() and path.exists())
    assert publish(bus, 7) == [1002]  # the word of the journal's health came before
    assert bus.workspace is not None
    assert [one.seq for one in read(bus.workspace)] == list(range(1, 1003))


def test_a_partition_that_is_deleted_while_it_is_written_is_saved(bus: EventBus) -> None:
    publish(bus, *range(1, 301))
    path = own_file(bus)
    shutil.rmtree(path.parent)
    assert isinstance(bus.journal, SqliteJournal)
    own = bus.journal._own
    publish(bus, 301)
    wait_until(lambda: own.damage)

    publish(bus, 302)

    wait_until(path.exists)
    assert bus.workspace is not None
    found = [one for one in read(bus.workspace) if one.header.origin.incarnation in path.name]
    assert losses(found) == {seq: float(seq) for seq in range(1, 302)}
    wait_until(lambda: quarantined(bus.workspace or path, "site-1"))
    assert quarantined(bus.workspace, "site-1")[0].lost == 0


def test_a_disk_that_damages_everything_is_not_filled_with_partitions(bus: EventBus) -> None:
    assert isinstance(bus.journal, SqliteJournal)
    publish(bus, 1)
    bus.journal._own.give_up("damaged")
    publish(bus, 2)
    bus.journal._own.give_up("damaged again")

    refused = bus.publish(MetricsLogged(values={"loss": 3.0})).refused

    assert refused is not None
    assert "a moment ago" in refused
    wait_until(lambda: not bus.publish(MetricsLogged(values={"loss": 4.0})).refused)


def test_a_receipt_of_a_given_up_partition_is_kept_by_its_successor(bus: EventBus) -> None:
    """Its record is delivered when the old partition is, or when the new one, which is read after it, is beyond it."""
    publish(bus, *range(1, 11))
    old = bus.origin.partition
    assert isinstance(bus.journal, SqliteJournal)
    bus.journal._own.give_up("damaged")
    publish(bus, 11)
    new = bus.origin.partition

    assert bus.journal.line_of(old) == bus.journal.line_of(new) == (old, new)
    assert bus.journal.line_of("site-9/0-00") == ("site-9/0-00",)


def test_a_deleted_journal_is_begun_anew_and_old_cursors_swallow_nothing(tmp_path: Path) -> None:
    for round_number in range(3):
        with EventBus(tmp_path, site="site-1").background() as bus:
            publish(bus, *range(1, 6))
            partition = bus.origin.partition
        with ConsumerFile(tmp_path / "cursors", "some") as file:
            cursor = file.cursor()
            with closing(JournalReader(tmp_path / "journal")) as reader:
                found = reader.read(cursor, 100)
                assert [one.seq for one in found if one.header.key == partition] == [1, 2, 3, 4, 5]
                file.move(dict.fromkeys([one.header.key for one in found], 5))
        if round_number:
            shutil.rmtree(tmp_path / "journal")


def test_a_reader_takes_the_mended_file_up_where_it_stood(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal", Origin(site="site-1", rank=0, incarnation="a1", job="job"))
    with closing(journal):
        for number in range(1, 2001):
            journal.append_nowait(MetricsLogged(values={"loss": float(number)}), "t", Scope.LOCAL, "run", 1)
    path = files.roll_path(tmp_path / "journal", journal.origin, 0)
    with closing(JournalReader(tmp_path / "journal")) as reader:
        found = reader.read({}, 300)
        overwrite(path, path.stat().st_size // 2, os.urandom(4096))
        while more := reader.read({"site-1/0-a1": found[-1].seq}, 300):
            found += more
        assert reader.unreadable
        assert len(found) < 2000

        assert quarantine.mend(path) is not None

        while more := reader.read({"site-1/0-a1": found[-1].seq}, 300):
            found += more
        assert [one.seq for one in found] == list(range(1, 2001))
        assert not reader.unreadable
