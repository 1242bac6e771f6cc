"""Making room: whole files go, oldest first, and never what anybody still needs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import wait_until

from eventbus import EventBus, Origin, Relay, Scope
from eventbus._conformance import foreign_header, relayed
from eventbus.abc import PartitionHeader
from eventbus.health import HealthEvent, JournalTrimmed
from eventbus.journals import SqliteJournal
from eventbus.journals import _partition as files
from eventbus.journals._quarantine import examine_all
from eventbus.journals._reader import JournalReader
from eventbus.journals._trim import RollFile, Trimmed, select, trim
from eventbus.journals.consumer import ConsumerFile, Part, Plan, RunState, Segment, Standing, known_ends
from eventbus.tracking import MetricsLogged

ALL = 10**12
KEY = "site-1/0-a1"


def write_rolls(workspace: Path, *ends: int, closed: bool = True, incarnation: str = "a1") -> list[Path]:
    """Write a partition of several files that end with these numbers; a file may be empty."""
    origin = Origin(site="site-1", rank=0, incarnation=incarnation, job="job")
    header = PartitionHeader(origin=origin, created_ns=int(incarnation, 16))
    paths = [files.roll_path(workspace / "journal", origin, number) for number in range(len(ends))]
    first = 1
    for number, (path, end) in enumerate(zip(paths, ends, strict=True)):
        files.create_file(path, header, roll=number)
        with closing(files.open_writer(path)) as writer:
            files.insert(writer, [(seq, b"x" * 200) for seq in range(first, end + 1)])
            if closed and path == paths[-1]:
                writer.execute("INSERT INTO header VALUES ('closed', 1)")
        first = end + 1
    files.lock_path(paths[0]).touch()
    return paths


def store(workspace: Path, cursor: dict[str, int], name: str = "tracker") -> None:
    with ConsumerFile(workspace / "cursors", name) as file:
        file.move(cursor)


def run_trim(workspace: Path, wanted: int = ALL) -> Trimmed:
    return trim(workspace / "journal", workspace / "cursors", wanted)


def numbers(workspace: Path, cursor: dict[str, int] | None = None) -> list[int]:
    with closing(JournalReader(workspace / "journal")) as reader:
        position, found = dict(cursor or {}), list[int]()
        while records := reader.read(position, 7):
            found += [one.seq for one in records]
            position.update({one.header.key: one.seq for one in records})
        assert not reader.unreadable
        return found


# ----------------------------------------------------------------------------------------------- rolled files are read
@pytest.mark.parametrize("ends", [(10,), (10, 20, 30), (10, 20, 20), (10, 10, 30), (1, 2, 3)])
def test_rolled_files_are_read_as_one(tmp_path: Path, ends: tuple[int, ...]) -> None:
    write_rolls(tmp_path, *ends)

    assert numbers(tmp_path) == list(range(1, ends[-1] + 1))
    for start in (1, 9, 10, 11, 20):
        assert numbers(tmp_path, {KEY: start}) == list(range(start + 1, ends[-1] + 1))
    with closing(JournalReader(tmp_path / "journal")) as reader:
        assert reader.ends() == {KEY: ends[-1]}
        assert [one.seq for one in reader.stretch(KEY, 1, 12)] == list(range(1, min(12, ends[-1]) + 1))


# -------------------------------------------------------------------------------------------------- what is removed
def test_delivered_files_go_oldest_first_until_there_is_room(tmp_path: Path) -> None:
    old = write_rolls(tmp_path, 500, 1000, incarnation="a1")
    new = write_rolls(tmp_path, 500, 1000, incarnation="a2")
    store(tmp_path, {KEY: 1000, "site-1/0-a2": 500})

    trimmed = run_trim(tmp_path, 1)

    assert trimmed.files == 1
    assert trimmed.bytes > 100_000
    assert not old[0].exists()
    assert run_trim(tmp_path).files == 2
    assert [path.exists() for path in (*old, *new)] == [False, False, False, True]
    assert not files.lock_path(old[0]).exists()
    assert files.lock_path(new[0]).exists()


def test_what_one_consumer_still_needs_stays(tmp_path: Path) -> None:
    paths = write_rolls(tmp_path, 100, 200)
    store(tmp_path, {KEY: 200}, "fast")
    store(tmp_path, {KEY: 99}, "slow")
    assert run_trim(tmp_path) == Trimmed(0, 0)

    store(tmp_path, {KEY: 100}, "slow")
    assert run_trim(tmp_path).files == 1
    assert [path.exists() for path in paths] == [False, True]


def test_a_journal_without_consumers_is_kept(tmp_path: Path) -> None:
    """A tracker that is added next month wants all of it."""
    write_rolls(tmp_path, 100, 200)
    assert run_trim(tmp_path) == Trimmed(0, 0)


def test_a_consumer_that_has_read_nothing_yet_needs_everything(tmp_path: Path) -> None:
    write_rolls(tmp_path, 100, 200)
    store(tmp_path, {KEY: 200})
    store(tmp_path, {}, "new")
    assert run_trim(tmp_path) == Trimmed(0, 0)


def test_a_living_consumer_without_a_file_counts(tmp_path: Path) -> None:
    write_rolls(tmp_path, 100, 200)
    store(tmp_path, {KEY: 200})
    place = (tmp_path / "journal", tmp_path / "cursors", ALL)

    assert trim(*place, [{}]) == Trimmed(0, 0)
    assert trim(*place, [{KEY: 200}]).files == 2


def test_a_cursor_that_cannot_be_read_keeps_everything(tmp_path: Path) -> None:
    write_rolls(tmp_path, 100, 200)
    store(tmp_path, {KEY: 200})
    (tmp_path / "cursors" / "broken.db").write_bytes(b"no database" * 100)
    assert run_trim(tmp_path) == Trimmed(0, 0)


def test_a_batch_that_is_not_known_to_be_stored_keeps_its_records(tmp_path: Path) -> None:
    paths = write_rolls(tmp_path, 100, 200, 300)
    plan = Plan(batch=1, segments=[Segment(KEY, 150, 160)], starts=[], ends=[])
    with ConsumerFile(tmp_path / "cursors", "tracker") as file:
        file.move({KEY: 300})
        file.add_plan(plan, {})
    assert run_trim(tmp_path).files == 1
    assert [path.exists() for path in paths] == [False, True, True]


def test_a_run_whose_end_is_not_known_keeps_its_writers_last_file(tmp_path: Path) -> None:
    """Else nobody could tell any more that it was killed."""
    paths = write_rolls(tmp_path, 100, 200, closed=False)
    run = RunState(name="run", parts={"site-1": Part(writers=[KEY])})
    with ConsumerFile(tmp_path / "cursors", "tracker") as file:
        file.move({KEY: 200})
        file.settle([], {("site-1", "run"): run}, {})
    assert run_trim(tmp_path).files == 1
    assert [path.exists() for path in paths] == [False, True]


def test_a_file_that_is_being_written_stays(tmp_path: Path) -> None:
    """The next one may be prepared already."""
    paths = write_rolls(tmp_path, 100, 200, 200)
    store(tmp_path, {KEY: 200})
    lock = files.PartitionLock(files.lock_path(paths[0]))

    assert run_trim(tmp_path).files == 1
    lock.release()
    assert [path.exists() for path in paths] == [False, True, True]


# ---------------------------------------------------------------------------------------------- how it looks afterwards
def test_a_trimmed_journal_is_read_from_what_is_there(tmp_path: Path) -> None:
    write_rolls(tmp_path, 100, 200, 300)
    store(tmp_path, {KEY: 250})
    run_trim(tmp_path)

    assert numbers(tmp_path) == list(range(201, 301))
    assert numbers(tmp_path, {KEY: 250}) == list(range(251, 301))
    assert examine_all(tmp_path / "journal", known_ends(tmp_path / "cursors")) == []


def test_a_reader_whose_files_are_trimmed_away_goes_on(tmp_path: Path) -> None:
    write_rolls(tmp_path, 100, 200, 300)
    store(tmp_path, {KEY: 300})
    with closing(JournalReader(tmp_path / "journal")) as reader:
        reader.partitions()
        run_trim(tmp_path)

        assert reader.read({}, 1000) == []
        assert reader.ends() == {}
        assert reader.partitions() == []


def test_an_empty_successor_of_a_trimmed_partition_is_read(tmp_path: Path) -> None:
    write_rolls(tmp_path, 100)
    store(tmp_path, {KEY: 100})
    run_trim(tmp_path)
    origin = Origin(site="site-1", rank=0, incarnation="a2", job="job")
    path = files.roll_path(tmp_path / "journal", origin, 0)
    files.create_file(path, PartitionHeader(origin=origin, created_ns=2, after=(KEY,)))
    with closing(files.open_writer(path)) as writer:
        files.insert(writer, [(1, b"one")])

    assert numbers(tmp_path) == [1]


# -------------------------------------------------------------------------------------------------- relayed partitions
def relay_to(
    workspace: Path, batch_ends: list[int], *, ended: bool = False, incarnation: str = "c1"
) -> PartitionHeader:
    header = foreign_header()
    origin = Origin(site="server", rank=0, incarnation=incarnation, job="job")
    with closing(SqliteJournal(workspace / "journal", origin)) as journal:
        first = 1
        for last in batch_ends:
            anyio.run(journal.append, relayed(header, range(first, last + 1), first=first, last=last))
            first = last + 1
        if ended:
            anyio.run(journal.append, relayed(header, [], first=first, last=first - 1, ended=True))
    return header


def test_a_relayed_partition_that_has_ended_is_emptied_and_keeps_its_mark(tmp_path: Path) -> None:
    header = relay_to(tmp_path, [500, 1000], ended=True)
    store(tmp_path, {header.key: 1000, "server/0-c1": 0})

    assert run_trim(tmp_path).files == 2  # the server's own has no records
    assert run_trim(tmp_path) == Trimmed(0, 0)

    with closing(JournalReader(tmp_path / "journal")) as reader:
        assert reader.marks() == {header.key: 1000}
        assert reader.ends() == {}
        assert reader.partition(header.key).closed_in_order()
    assert examine_all(tmp_path / "journal", known_ends(tmp_path / "cursors")) == []


def test_a_relayed_partition_that_may_go_on_is_kept(tmp_path: Path) -> None:
    header = relay_to(tmp_path, [500, 1000])
    store(tmp_path, {header.key: 1000, "server/0-c1": 0})
    path = files.roll_path(tmp_path / "journal", header.origin, 0)
    before = path.stat().st_size

    run_trim(tmp_path)

    assert path.stat().st_size == before
    relay_to(tmp_path, [1000, 1200], incarnation="c2")
    with closing(JournalReader(tmp_path / "journal")) as reader:
        assert reader.marks() == {header.key: 1200}


def test_a_relay_sends_nothing_again_after_both_ends_were_trimmed(tmp_path: Path) -> None:
    async def relay(published: int) -> Relay:
        async with EventBus(tmp_path / "server", site="server") as server, EventBus(tmp_path / "a", site="a") as site:
            relay = Relay(server)
            site.subscribe("*", relay)
            for number in range(published):
                site.publish(MetricsLogged(values={"loss": float(number)}), scope=Scope.FEDERATED)
        assert site.report().complete, str(site.report())
        return relay

    anyio.run(relay, 300)
    with closing(JournalReader(tmp_path / "server" / "journal")) as reader:
        store(tmp_path / "server", reader.ends())
    assert run_trim(tmp_path / "server").files
    assert run_trim(tmp_path / "a").files  # by the cursor that the relay has left at its site

    again = anyio.run(relay, 5)

    assert again.statistics().delivered == 5
    assert again.statistics().dropped == {}
    with closing(JournalReader(tmp_path / "server" / "journal")) as reader:
        assert len(reader.read(known_ends(tmp_path / "server" / "cursors"), 1000)) == 5


# -------------------------------------------------------------------------------------------------- on a bus
def test_a_bus_tells_what_was_trimmed(tmp_path: Path) -> None:
    write_rolls(tmp_path, 100, 200, 300)
    store(tmp_path, {KEY: 300})
    told: list[HealthEvent] = []
    with EventBus(tmp_path).background() as bus:
        bus.subscribe(HealthEvent, told.append)
        assert isinstance(bus.journal, SqliteJournal)
        bus.journal.make_room(ALL)
        wait_until(lambda: told)
        bus.journal.make_room(ALL)
    (event,) = told
    assert isinstance(event, JournalTrimmed)
    assert event.files == 3
    assert event.bytes > 60_000


# -------------------------------------------------------------------------------------------------- the decision
LASTS = st.lists(st.integers(0, 30), min_size=1, max_size=4)


@st.composite
def journals(draw: st.DrawFn) -> list[RollFile]:
    found: list[RollFile] = []
    for number, name in enumerate(draw(st.lists(st.sampled_from("abcd"), unique=True))):
        header = PartitionHeader(origin=Origin(site="s", rank=0, incarnation=name, job="j"), created_ns=number)
        lasts = sorted(draw(LASTS))
        mark, is_over = draw(st.sampled_from([None, 50])), draw(st.booleans())
        for roll, last in enumerate(lasts):
            newest = roll == len(lasts) - 1
            path = Path(f"{name}-{roll}")
            found.append(RollFile(path, header, last, 10, newest, is_over or not newest, mark))
    return found


CURSORS = st.dictionaries(st.sampled_from([f"s/0-{name}" for name in "abcd"]), st.integers(0, 30))
NEEDS = st.lists(st.builds(Standing, CURSORS, st.just([]), st.just(set[str]())), max_size=3)


@given(journals(), NEEDS, st.integers(0, 100))
def test_nothing_is_selected_that_anybody_needs_and_no_more_than_wanted(
    found: list[RollFile], needs: list[Standing], wanted: int
) -> None:
    chosen = list(select(found, needs, wanted))

    for file in chosen:
        assert needs
        assert file.is_ended
        assert all(need.cursor.get(file.header.key, 0) >= file.last for need in needs)
        older = [one for one in found if one.header == file.header and one.last < file.last]
        assert all(one in chosen for one in older)  # a partition is never left with a hole
    assert sum(file.bytes for file in chosen) <= max(0, wanted + 9)
