"""Delivery against real files, in one process: whatever crashes wherever, the content is that of one delivery."""

from __future__ import annotations

import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from readback import read_jsonl

from eventbus import Event, Origin, Scope
from eventbus._codec import encode
from eventbus._conformance import foreign_header
from eventbus._topic import Selector
from eventbus.abc import RelayedBatch, StoredRecord
from eventbus.artifacts import ArtifactFile, ArtifactLogged
from eventbus.blobs import Blob, BlobReader
from eventbus.journals import _partition as files
from eventbus.journals._reader import JournalReader
from eventbus.journals._trim import trim
from eventbus.journals._writing import Mirror, Partition
from eventbus.journals.consumer import DROPPED_OF, ConsumerFile, Plan, RunKey, RunState
from eventbus.journals.sqlite import SqliteJournal
from eventbus.tracking import TRACKING, MetricsLogged, ParamsLogged, RunFinished, RunStatus
from receivers import _delivery
from receivers._control import Source
from receivers._dead import put_aside
from receivers._delivery import LONGEST, SLOWEST, Delivery
from receivers._layout import Layout
from receivers._rows import TRIMMED
from receivers._sources import Journals
from receivers._suspects import Suspects
from receivers.abc import Position, RunInfo, Sink, TrackerRun
from receivers.jsonl import JsonlConfig, JsonlSink

NOWHERE = 10**9
NAME = "tested"


class CrashError(BaseException):
    """The process dies here: no error of a sink, nothing that anybody counts."""


@dataclass
class Fuse:
    """Blows after so many steps, counted over sinks and consumer file."""

    left: int = NOWHERE

    def burn(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise CrashError


class FragileFile(ConsumerFile):
    """The real file; the process may die just before or after a transaction."""

    fuse: Fuse

    def add_plan(self, plan: Plan, runs: Mapping[RunKey, RunState]) -> None:
        self.fuse.burn()
        super().add_plan(plan, runs)
        self.fuse.burn()

    def settle(self, plans: Any, runs: Any, counts: Any) -> None:
        self.fuse.burn()
        super().settle(plans, runs, counts)
        self.fuse.burn()


class LaggingSink(JsonlSink):
    """Acknowledges rows late, as W&B does, and counts what it alters; the process may die in every call.

    What it has written and not acknowledged may be there after a crash, or not: the operating system has it.
    """

    def __init__(self, config: JsonlConfig, workspace: Path, fuse: Fuse, lag: int) -> None:
        super().__init__(config, workspace)
        self._fuse = fuse
        self._lag = lag
        self._passed: list[Position] = []

    def open(self, run: RunInfo, committed: Position) -> int:
        self._fuse.burn()
        row = super().open(run, committed)
        self._passed = [committed]
        return row

    def write(self, rows: Any) -> None:
        for row in rows:
            self._fuse.burn()
            super().write([row])
            if isinstance(row.envelope.event, ParamsLogged):
                self.counts["renamed key"] += 1
            self._passed.append(super().flush())
        self._fuse.burn()

    def flush(self) -> Position:
        self._fuse.burn()
        self._passed[-1] = super().flush()  # the file's end, which may have moved by a status
        return self._passed[max(0, len(self._passed) - 1 - self._lag)]

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        self._fuse.burn()
        self._lag = 0
        position = super().close(status, reason)
        self._fuse.burn()
        return position

    def let_go(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


@dataclass
class Workbench:
    """A workspace with partitions, and a consumer that is killed and started again."""

    folder: Path
    lag: int = 0
    layout: Layout = "per_site"
    selector: Selector = field(default_factory=lambda: Selector.of(TRACKING))
    fuse: Fuse = field(default_factory=Fuse)
    partitions: list[SqliteJournal] = field(default_factory=list[SqliteJournal])
    announced: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    _sinks: list[LaggingSink] = field(default_factory=list[LaggingSink])
    _file: FragileFile | None = None
    _delivery: Delivery | None = None

    def partition(self, rank: int = 0, site: str = "site-1") -> SqliteJournal:
        origin = Origin(site=site, rank=rank, incarnation=f"{len(self.partitions):08x}", job="job")
        self.partitions.append(SqliteJournal(self.folder / "journal", origin))
        return self.partitions[-1]

    def restart(self) -> None:
        """Start as after `kill -9`: nothing is kept but the files."""
        self._let_go()
        self._delivery = None
        self._file = FragileFile(self.folder / "cursors", NAME)
        self._file.fuse = self.fuse
        journal = JournalReader(self.folder / "journal")
        reader = Journals(self._file, journal, [Source(1, str(journal.folder), "")])
        delivery = Delivery(
            reader,
            self._file,
            [self.selector],
            self._sink,
            lambda phase, seconds=0.0: self.announced.append((phase, seconds)),
            layout=self.layout,
            suspects=Suspects(self._file, "worker"),
            bury=self._bury,
        )
        delivery.recover()
        self._reader, self._delivery = reader, delivery

    def _bury(self, record: StoredRecord, reason: str) -> None:
        put_aside(self.folder / "dead", record, NAME, reason, BlobReader())

    def _sink(self) -> Sink[Any]:
        sink = LaggingSink(JsonlConfig(), self.folder, self.fuse, self.lag)
        self._sinks.append(sink)
        return sink

    def _let_go(self) -> None:
        """Close what the kernel closes for a dead process."""
        for sink in self._sinks:
            sink.let_go()
        self._sinks.clear()
        if self._file is not None:
            self._file.close()

    @property
    def delivery(self) -> Delivery:
        if self._delivery is None:
            self.restart()
        assert self._delivery is not None
        return self._delivery

    def deliver(self, limit: int = 1000) -> int:
        records = self._read(limit)
        if records:
            self.delivery.deliver(records)
        return len(records)

    def _read(self, limit: int) -> list[Any]:
        delivery = self.delivery
        return self._reader.read(delivery.read_to, limit)

    def flush(self) -> None:
        self.delivery.flush()

    def leave(self) -> None:
        self.delivery.leave()
        self.restart()

    def finish(self) -> None:
        while self.deliver():
            pass
        self.delivery.end_lost_runs()
        self.delivery.leave()

    def survive(self, step: Callable[[], object]) -> None:
        """Do a step; if the fuse blows, the process is dead and another one starts."""
        try:
            step()
        except CrashError:
            self.fuse.left = NOWHERE
            self._delivery = None

    def counts(self) -> dict[tuple[str, str], int]:
        with ConsumerFile(self.folder / "cursors", NAME) as file:
            return file.counts()

    def lines(self, run: str) -> list[dict[str, Any]]:
        lines = read_jsonl(self.folder / "jsonl" / run)
        assert not [line for line in lines if line.torn]
        return [line.value for line in lines]

    def steps(self, run: str) -> list[int]:
        return [line["event"]["step"] for line in self.lines(run) if line["type"] == "MetricsLogged"]

    def statuses(self, run: str) -> list[str]:
        return [line["status"] for line in self.lines(run) if line["type"] == "RunStatus"]

    def close(self) -> None:
        for partition in self.partitions:
            partition.close()
        self._let_go()


@contextmanager
def workbench(folder: Path, **options: Any) -> Iterator[Workbench]:
    bench = Workbench(folder, **options)
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    with workbench(tmp_path) as made:
        yield made


def log(partition: SqliteJournal, event: Event, run: str = "run", topic: str = TRACKING.name) -> None:
    partition.append_nowait(event, topic, Scope.LOCAL, run, 1)


def log_steps(partition: SqliteJournal, *steps: int, run: str = "run") -> None:
    for step in steps:
        log(partition, MetricsLogged(values={"loss": float(step)}, step=step), run)


def append_junk(bench: Workbench, partition: SqliteJournal) -> None:
    origin = partition.origin
    path = bench.folder / "journal" / origin.site / f"{origin.rank}-{origin.incarnation}-0.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (seq,) = connection.execute("SELECT ifnull(max(seq), 0) + 1 FROM records").fetchone()
        files.insert(connection, [(seq, b"\xc1")])


def abandon(partition: SqliteJournal) -> None:
    """End a partition as a killed writer does: unlocked, and without a word."""
    partition._own.close(ended=False)


# --- single situations ----------------------------------------------------------------------------------------------


def test_a_run_that_ended_in_an_outstanding_plan_does_not_end_twice(tmp_path: Path) -> None:
    with workbench(tmp_path, lag=1) as bench:
        partition = bench.partition()
        log_steps(partition, 0, run="lags")
        log(partition, RunFinished(status="FINISHED"), run="ends")
        bench.deliver()
        log_steps(partition, 1, run="lags")
        bench.deliver()  # settles the first batch and saves where the ended run stands; the second is outstanding
        log(partition, RunFinished(status="FAILED"), run="ends too")
        log_steps(partition, 2, run="lags")
        bench.deliver()
        log_steps(partition, 3, run="lags")
        bench.deliver()
        bench.restart()
        partition.close()
        bench.finish()
        assert bench.steps("lags") == [0, 1, 2, 3]
        assert bench.statuses("ends") == ["FINISHED"]
        assert bench.statuses("ends too") == ["FAILED"]


def test_a_stored_end_is_not_repeated_when_its_batch_is(tmp_path: Path) -> None:
    with workbench(tmp_path, lag=1) as bench:
        partition = bench.partition()
        log_steps(partition, 0, run="lags")
        bench.deliver()
        log(partition, RunFinished(status="FINISHED"), run="ends")
        log_steps(partition, 1, run="lags")
        bench.deliver()  # the first is settled, and with it where `ends` stands; this one is not
        assert bench.delivery.outstanding == 1
        bench.restart()
        partition.close()
        bench.finish()
        assert bench.statuses("ends") == ["FINISHED"]
        assert bench.statuses("lags") == ["FINISHED"]


def test_a_plan_is_settled_although_the_subscription_has_changed(tmp_path: Path) -> None:
    with workbench(tmp_path, lag=2) as bench:
        partition = bench.partition()
        log_steps(partition, 0)
        log(partition, ParamsLogged(values={"lr": 0.1}))
        bench.deliver()
        bench.selector = Selector.of(MetricsLogged)
        bench.restart()
        bench.finish()
        assert bench.delivery.outstanding == 0
        log_steps(partition, 1)
        bench.restart()
        bench.finish()
        assert bench.steps("run") == [0, 1]


def test_what_a_sink_altered_is_counted_although_nothing_is_outstanding_when_it_closes(bench: Workbench) -> None:
    class CountsAtTheEnd(JsonlSink):
        def close(self, status: RunStatus | None, reason: str = "") -> Position:
            self.counts["merged"] += 3
            return super().close(status, reason)

    bench._sink = lambda: CountsAtTheEnd(JsonlConfig(), bench.folder)
    partition = bench.partition()
    log_steps(partition, 0)
    bench.deliver()
    partition.close()
    bench.finish()
    assert bench.counts()["altered", "merged"] == 3


def test_what_the_tracker_calls_a_run_is_kept_without_secrets(bench: Workbench) -> None:
    class OnAPage(JsonlSink):
        def open(self, run: RunInfo, committed: Position) -> int:
            row = super().open(run, committed)
            self.tracker_run = TrackerRun("42", "https://me:secret@host:5000/x?token=secret#/runs/42")
            return row

    bench._sink = lambda: OnAPage(JsonlConfig(), bench.folder)
    log_steps(bench.partition(), 0)
    bench.finish()
    with ConsumerFile(bench.folder / "cursors", NAME) as file:
        (state,) = file.runs().values()
    assert state.tracker == TrackerRun("42", "https://***@host:5000/x?***#/runs/42")


def test_a_record_of_another_topic_is_nobodys_loss(bench: Workbench) -> None:
    partition = bench.partition()
    log_steps(partition, 0)
    append_foreign(bench, partition)
    append_junk(bench, partition)
    bench.finish()
    counts = {kind: value for (kind, _), value in bench.counts().items()}
    assert counts == {"delivered": 1, "values": 1, "dropped": 1, DROPPED_OF: 1}


def append_foreign(bench: Workbench, partition: SqliteJournal) -> None:
    """Append a record whose class only the trainer knows."""
    body = encode(MetricsLogged(values={"own": 1.0}, step=0), "users.own", Scope.LOCAL, "run", 1)
    origin = partition.origin
    path = bench.folder / "journal" / origin.site / f"{origin.rank}-{origin.incarnation}-0.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        foreign = body.replace(b"MetricsLogged", b"UnknownLogged")
        (seq,) = connection.execute("SELECT ifnull(max(seq), 0) + 1 FROM records").fetchone()
        files.insert(connection, [(seq, foreign)])


def test_a_planned_partition_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    with workbench(tmp_path, lag=5) as bench:
        gone, stays = bench.partition(), bench.partition(rank=1)
        log_steps(gone, 0, run="gone")
        log_steps(stays, 1, run="stays")
        bench.deliver()
        gone.close()
        for path in (tmp_path / "journal" / "site-1").glob("0-*"):
            path.unlink()
        bench.restart()
        bench.finish()
        assert bench.steps("stays") == [1]
        assert bench.counts()["dropped", "partition gone"] == 1


def test_what_was_trimmed_before_a_consumer_came_is_counted_for_it_once(bench: Workbench) -> None:
    partition = bench.partition()
    log_steps(partition, 0, 1, 2)
    partition._own._roll_bytes = 1
    partition._own.upkeep()
    log_steps(partition, 3, 4)
    partition.close()
    with ConsumerFile(bench.folder / "cursors", "earlier") as file:
        file.move({partition.header.key: partition.last_seq})
    assert trim(bench.folder / "journal", bench.folder / "cursors", 1).files == 1

    bench.deliver(1)
    bench.restart()
    bench.finish()

    assert bench.steps("run") == [3, 4]
    dropped = {key: value for key, value in bench.counts().items() if key[0].startswith("dropped")}
    assert dropped == {("dropped", TRIMMED): 3, (DROPPED_OF, partition.header.key): 3}


def test_what_a_relay_withheld_was_not_trimmed(bench: Workbench) -> None:
    header = foreign_header()
    body = encode(MetricsLogged(values={"loss": 1.0}, step=1), TRACKING.name, Scope.FEDERATED, "run", 1)
    mirror = Mirror(bench.folder / "journal", header)
    mirror.append(RelayedBatch(header=header, first=1, last=9, records=((5, body), (9, body))))
    mirror.close()
    bench.finish()
    assert bench.counts()["delivered", header.origin.site] == 2
    assert not [key for key in bench.counts() if key[0].startswith("dropped")]


def damage(bench: Workbench, partition: SqliteJournal, step: int) -> None:
    """Destroy the pages around a step's record."""
    origin = partition.origin
    path = files.roll_path(bench.folder / "journal", origin, 0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    page = content.index(encode(step_event(step), TRACKING.name, Scope.LOCAL, "run", 1)) // files.PAGE_BYTES
    with path.open("r+b") as file:
        file.seek((page - 1) * files.PAGE_BYTES)
        file.write(b"\xff" * files.PAGE_BYTES * 2)


def step_event(step: int) -> MetricsLogged:
    return MetricsLogged(values={"loss": float(step)}, step=step)


def test_a_planned_stretch_of_a_damaged_file_is_delivered_as_far_as_it_goes(tmp_path: Path) -> None:
    with workbench(tmp_path, lag=5) as bench:
        partition = bench.partition()
        log_steps(partition, *range(300))
        bench.deliver()
        partition.close()
        damage(bench, partition, 150)
        bench.restart()
        found = bench.steps("run")
        lost = sorted(set(range(300)) - set(found))
        assert found == sorted(set(found))
        assert lost == list(range(lost[0], lost[-1] + 1))
        assert 150 in lost
        bench.delivery.leave()
        assert bench.counts()["dropped", "lost with a damaged file"] == len(lost) < 100
        assert bench.counts()["delivered", "site-1"] == 300 - len(lost)


class RememberingSink(JsonlSink):
    """Keeps what it has, as a tracker does that nothing can be taken away from."""

    def open(self, run: RunInfo, committed: Position) -> int:
        path = self.config.folder(self.workspace) / run.id / f"{run.place}.jsonl"
        content = path.read_bytes() if path.exists() else b""
        return super().open(run, Position(content.count(b"\n"), str(len(content))))

    def flush(self) -> Position:
        super().flush()
        return Position(0)  # it never says so


def test_a_tracker_that_has_part_of_a_damaged_stretch_gets_the_rest_once(tmp_path: Path) -> None:
    """A row keeps its number though rows before it are lost: by its number the tracker knows what it has."""
    with workbench(tmp_path) as bench:
        bench._sink = lambda: RememberingSink(JsonlConfig(), bench.folder)
        partition = bench.partition()
        log_steps(partition, *range(300))
        bench.deliver()
        (path,) = (tmp_path / "jsonl").glob("*/*.jsonl")
        bench.delivery.abandon()
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:250]))  # so much arrived
        partition.close()
        damage(bench, partition, 150)
        bench.restart()
        bench.delivery.abandon()
        assert bench.steps("run") == list(range(300))


def test_a_run_whose_writers_partition_was_deleted_ends_as_killed(bench: Workbench) -> None:
    gone, stays = bench.partition(), bench.partition(rank=1)
    log_steps(gone, 0, run="gone")
    log_steps(stays, 1, run="stays")
    bench.deliver()
    gone.close()
    for path in (bench.folder / "journal" / "site-1").glob("0-*"):
        path.unlink()
    bench.restart()
    bench.delivery.end_lost_runs()
    assert bench.statuses("gone") == ["KILLED"]
    assert bench.statuses("stays") == []


def test_a_run_ends_when_the_last_of_its_writers_has(bench: Workbench) -> None:
    ranks = [bench.partition(rank=rank) for rank in range(2)]
    log_steps(ranks[1], 0)
    log_steps(ranks[0], 1)
    bench.deliver()
    ranks[0].close()
    bench.delivery.end_lost_runs()
    assert bench.statuses("run") == []
    abandon(ranks[1])
    bench.finish()
    assert bench.statuses("run") == ["KILLED"]
    assert sorted(bench.steps("run")) == [0, 1]


# --- forked children ------------------------------------------------------------------------------------------------


class Child:
    """A forked child's partition, written in this process."""

    def __init__(self, bench: Workbench, parent: SqliteJournal, *, forked: bool = True) -> None:
        header = files.helper_header(parent.header)
        self._partition = Partition(bench.folder / "journal", header if forked else replace(header, parent=""))

    def log_steps(self, *steps: int) -> None:
        for step in steps:
            event = MetricsLogged(values={"loss": float(step)}, step=step)
            self._partition.insert(encode(event, TRACKING.name, Scope.LOCAL, "run", 1))

    def exit(self) -> None:
        """End as multiprocessing's children do: without a word."""
        self._partition.close(ended=False)


@pytest.mark.parametrize("forked", [True, False])
def test_the_end_of_a_forked_child_ends_no_run(bench: Workbench, forked: bool) -> None:
    """But that of another process of ours does: it is the last that is known to write to the run."""
    parent = bench.partition()
    child = Child(bench, parent, forked=forked)
    child.log_steps(0, 1)
    child.exit()
    bench.deliver()
    bench.delivery.end_lost_runs()
    assert bench.statuses("run") == ([] if forked else ["KILLED"])
    bench.leave()
    bench.delivery.end_lost_runs()  # by another worker, which knows what was committed alone
    assert bench.statuses("run") == ([] if forked else ["KILLED"])
    if forked:
        log_steps(parent, 2)
        parent.close()
        bench.finish()
        assert bench.statuses("run") == ["FINISHED"]
        assert bench.steps("run") == [0, 1, 2]


def test_a_run_is_killed_with_the_parent_and_not_before_its_children_are_read(bench: Workbench) -> None:
    parent = bench.partition()
    child = Child(bench, parent)
    log_steps(parent, 0)
    bench.deliver()
    child.log_steps(1, 2)
    abandon(parent)
    bench.delivery.end_lost_runs()
    assert bench.statuses("run") == []
    bench.deliver()
    bench.delivery.end_lost_runs()  # the child lives, and has said all that is there
    assert bench.statuses("run") == ["KILLED"]
    child.exit()
    bench.finish()
    assert bench.statuses("run") == ["KILLED"]
    assert bench.steps("run") == [0, 1, 2]


def test_the_last_words_of_a_child_do_not_change_how_a_run_ended(bench: Workbench) -> None:
    parent = bench.partition()
    child = Child(bench, parent)
    log_steps(parent, 0)
    log(parent, RunFinished(status="FAILED", reason="an error"))
    bench.deliver()
    assert bench.statuses("run") == ["FAILED"]
    child.log_steps(1)
    child.exit()
    bench.deliver()
    parent.close()
    bench.finish()
    assert set(bench.statuses("run")) == {"FAILED"}
    assert bench.steps("run") == [0, 1]


def test_a_killed_run_that_is_resumed_ends_as_its_last_writer_says(bench: Workbench) -> None:
    first = bench.partition()
    log_steps(first, 0)
    bench.deliver()
    abandon(first)
    second = bench.partition()  # nobody looked in between
    log_steps(second, 1)
    bench.deliver()
    second.close()
    bench.finish()
    assert bench.steps("run") == [0, 1]
    assert bench.statuses("run") == ["FINISHED"]


def test_lost_runs_end_although_another_batch_is_outstanding(tmp_path: Path) -> None:
    with workbench(tmp_path, lag=100) as bench:
        lost, lives = bench.partition(), bench.partition(rank=1)
        log_steps(lost, 0, run="lost")
        log_steps(lives, 0, run="lives")
        bench.deliver()
        abandon(lost)
        bench.delivery.end_lost_runs()
        assert bench.delivery.outstanding == 1
        assert bench.statuses("lost") == ["KILLED"]
        bench.restart()
        bench.finish()
        assert bench.statuses("lost") == ["KILLED"]
        assert bench.steps("lost") == [0]
        assert bench.steps("lives") == [0]


def test_three_hundred_runs_keep_few_sinks_open(bench: Workbench) -> None:
    partition = bench.partition()
    for step in range(2):
        for run in range(300):
            log_steps(partition, step, run=f"run-{run}")
        while bench.deliver(100):
            assert len(bench.delivery._sinks) <= _delivery.OPEN_RUNS
    partition.close()
    bench.finish()
    assert all(bench.steps(f"run-{run}") == [0, 1] for run in range(300))
    assert all(bench.statuses(f"run-{run}") == ["FINISHED"] for run in range(300))


def test_records_without_a_run_have_one_per_partition(bench: Workbench) -> None:
    first, second = bench.partition(), bench.partition(rank=1)
    log_steps(first, 0, run="")
    log_steps(second, 1, run="")
    bench.finish()
    assert bench.steps("job-00000000") == [0]
    assert bench.steps("job-00000001") == [1]


# --- anything, in any order -----------------------------------------------------------------------------------------


@dataclass
class Model:
    """What one undisturbed delivery would store."""

    RUNS: ClassVar = ("a", "b", "c")
    stored: dict[tuple[str, str], list[int]] = field(default_factory=dict[tuple[str, str], list[int]])
    counts: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    ends: Counter[str] = field(default_factory=Counter[str])

    def log(self, partition: SqliteJournal, event: Event, run: str) -> None:
        log(partition, event, run)
        self.stored.setdefault((run, partition.origin.partition), []).append(partition.last_seq)
        self.counts["delivered", partition.origin.site] += 1
        self.counts["values", partition.origin.site] += len(event.values) if isinstance(event, MetricsLogged) else 0
        self.counts["altered", "renamed key"] += isinstance(event, ParamsLogged)
        self.ends[run] += isinstance(event, RunFinished)


EVENTS: tuple[Event, ...] = (
    MetricsLogged(values={"loss": 1.0, "acc": 0.5}, step=1),
    ParamsLogged(values={"lr": 0.1}),
    RunFinished(status="FINISHED"),
)
OPERATIONS = st.one_of(
    st.tuples(st.just("log"), st.integers(0, 2), st.sampled_from(Model.RUNS), st.sampled_from((0, 0, 0, 1, 2))),
    st.tuples(st.just("junk"), st.integers(0, 2)),
    st.tuples(st.just("foreign"), st.integers(0, 2)),
    st.tuples(st.just("deliver"), st.integers(1, 6)),
    st.tuples(st.just("flush")),
    st.tuples(st.just("leave")),
    st.tuples(st.just("crash"), st.integers(0, 25)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lag=st.integers(0, 4), operations=st.lists(OPERATIONS, min_size=4, max_size=40))
def test_whatever_crashes_wherever_the_content_is_that_of_one_delivery(
    lag: int, operations: list[tuple[Any, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder, workbench(Path(folder), lag=lag) as bench:
        model = Model()
        for rank in range(3):
            bench.partition(rank)
        for operation in operations:
            perform(bench, model, *operation)
        bench.survive(bench.finish)
        bench.fuse.left = NOWHERE
        bench.restart()
        bench.finish()
        check(bench, model)


def perform(bench: Workbench, model: Model, name: str, *arguments: Any) -> None:
    if name == "log":
        rank, run, kind = arguments
        model.log(bench.partitions[rank], EVENTS[kind], run)
    elif name == "junk":
        partition = bench.partitions[arguments[0]]
        append_junk(bench, partition)
        model.counts["dropped", "unreadable record"] += 1
        model.counts[DROPPED_OF, partition.header.key] += 1
    elif name == "foreign":
        append_foreign(bench, bench.partitions[arguments[0]])
    elif name == "crash":
        bench.fuse.left = arguments[0]
    else:
        steps = {"deliver": bench.deliver, "flush": bench.flush, "leave": bench.leave}
        bench.survive(lambda: steps[name](*arguments))


def check(bench: Workbench, model: Model) -> None:
    for run in Model.RUNS:
        lines = bench.lines(run)
        rows = [line for line in lines if "seq" in line]
        assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
        for partition in bench.partitions:
            key = partition.origin.partition
            assert [row["seq"] for row in rows if row["partition"] == key] == model.stored.get((run, key), [])
        for line, following in pairwise([*lines, {"type": ""}]):
            assert (line["type"] == "RunFinished") == (following["type"] == "RunStatus")
    counts = bench.counts()
    altered, expected = counts.pop(("altered", "renamed key"), 0), model.counts.pop(("altered", "renamed key"), 0)
    assert altered == expected
    assert +Counter(counts) == +model.counts
    assert bench.delivery.outstanding == 0


# --- one run for all sites ------------------------------------------------------------------------------------------


@pytest.fixture
def combined(tmp_path: Path) -> Iterator[Workbench]:
    with workbench(tmp_path, layout="combined") as made:
        yield made


def keys(bench: Workbench, run: str = "run") -> list[str]:
    lines = [line for line in bench.lines(run) if line["type"] == "MetricsLogged"]
    return [key for line in lines for key in line["event"]["values"]]


def reasons(bench: Workbench, run: str = "run") -> list[tuple[str, str]]:
    return [(line["status"], line["reason"]) for line in bench.lines(run) if line["type"] == "RunStatus"]


def test_sites_share_a_run_and_keep_their_keys_apart(combined: Workbench) -> None:
    sites = [combined.partition(site=site) for site in ("site-1", "site-2")]
    for site in sites:
        log_steps(site, 0, 1)
    combined.finish()
    assert sorted(keys(combined)) == ["site-1/loss", "site-1/loss", "site-2/loss", "site-2/loss"]
    assert [line["number"] for line in combined.lines("run")] == [1, 2, 3, 4]
    assert [path.name for path in (combined.folder / "jsonl" / "run").glob("*.jsonl")] == ["_combined.jsonl"]
    assert combined.counts()["delivered", "site-2"] == 2


def test_the_end_of_one_site_is_not_the_end_of_the_others(combined: Workbench) -> None:
    first, second = (combined.partition(site=site) for site in ("site-1", "site-2"))
    log_steps(second, 0)
    log_steps(first, 0)
    log(first, RunFinished(status="FAILED", reason="ValueError: bad"))
    combined.deliver()
    combined.delivery.end_lost_runs()
    assert combined.statuses("run") == []
    combined.restart()
    log_steps(second, 1)
    log(second, RunFinished(status="FINISHED"))
    combined.finish()
    assert reasons(combined) == [("FAILED", "site-1: ValueError: bad")]
    assert keys(combined).count("site-2/loss") == 2


def test_a_site_whose_writer_vanished_makes_the_run_killed(combined: Workbench) -> None:
    first, second = (combined.partition(site=site) for site in ("site-1", "site-2"))
    log_steps(first, 0)
    log_steps(second, 0)
    combined.deliver()
    abandon(first)
    combined.delivery.end_lost_runs()
    combined.delivery.leave()
    for path in (combined.folder / "journal" / "site-1").iterdir():
        path.unlink()  # how it ended is known all the same
    combined.restart()
    assert combined.statuses("run") == []
    log(second, RunFinished(status="FINISHED"))
    combined.finish()
    assert reasons(combined) == [("KILLED", "site-1: the writing process vanished")]


def test_a_site_that_comes_back_opens_the_run_again(combined: Workbench) -> None:
    first, second = (combined.partition(site=site) for site in ("site-1", "site-2"))
    for site in (first, second):
        log(site, RunFinished(status="FINISHED"))
    combined.deliver()
    combined.delivery.end_lost_runs()
    assert combined.statuses("run") == ["FINISHED"]
    abandon(first)
    resumed = combined.partition(site="site-1")
    log_steps(resumed, 5)
    combined.deliver()
    combined.delivery.end_lost_runs()
    assert combined.statuses("run") == ["FINISHED"]  # it goes on
    log(resumed, RunFinished(status="FAILED", reason="late"))
    combined.finish()
    assert reasons(combined)[1:] == [("FAILED", "site-1: late")]
    assert combined.lines("run")[-1]["type"] == "RunStatus"


def test_a_failed_site_that_is_resumed_counts_as_it_ended_in_the_end(combined: Workbench) -> None:
    first, second = (combined.partition(site=site) for site in ("site-1", "site-2"))
    log_steps(second, 0)
    log(first, RunFinished(status="FAILED", reason="first try"))
    combined.deliver()
    abandon(first)
    again = combined.partition(site="site-1")
    log(again, RunFinished(status="FINISHED"))
    log(second, RunFinished(status="FINISHED"))
    combined.finish()
    assert reasons(combined) == [("FINISHED", "")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lag=st.integers(0, 4), operations=st.lists(OPERATIONS, min_size=4, max_size=40))
def test_whatever_crashes_wherever_a_shared_run_has_all_of_every_site_once(
    lag: int, operations: list[tuple[Any, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder, workbench(Path(folder), lag=lag, layout="combined") as bench:
        model = Model()
        for rank in range(3):
            bench.partition(rank, site=f"site-{rank}")
        for operation in operations:
            perform(bench, model, *operation)
        bench.survive(bench.finish)
        bench.fuse.left = NOWHERE
        bench.restart()
        bench.finish()
        check_shared(bench, model)


def check_shared(bench: Workbench, model: Model) -> None:
    for run in Model.RUNS:
        lines = bench.lines(run)
        rows = [line for line in lines if "seq" in line]
        assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
        last: dict[str, str] = {}
        for row in rows:
            last[row["site"]] = row["type"]
            assert all(key.startswith(f"{row['site']}/") for key in row["event"].get("values", ()))
        for partition in bench.partitions:
            key = partition.origin.partition
            assert [row["seq"] for row in rows if row["partition"] == key] == model.stored.get((run, key), [])
        is_over = bool(last) and set(last.values()) == {"RunFinished"}
        assert not lines or (lines[-1]["type"] == "RunStatus") == is_over
    assert bench.counts().get(("altered", "renamed key"), 0) == model.counts["altered", "renamed key"]
    assert bench.delivery.outstanding == 0


def test_the_more_bytes_records_name_the_longer_they_may_take(bench: Workbench) -> None:
    large = ArtifactLogged(key="a", files=[ArtifactFile(path="p", blob=Blob(name="a" * 64, size=10 * SLOWEST))])
    partition = bench.partition()
    log_steps(partition, 0)
    bench.deliver()
    assert all(not seconds for _, seconds in bench.announced)
    partition.append_nowait(large, TRACKING.name, Scope.LOCAL, "run", 1)
    bench.deliver()
    assert ("batch", 10.0) in bench.announced
    endless = large.model_copy(update={"files": [ArtifactFile(path="p", blob=Blob(name="a" * 64, size=1 << 60))]})
    partition.append_nowait(endless, TRACKING.name, Scope.LOCAL, "run", 1)
    bench.deliver()
    assert ("batch", LONGEST) in bench.announced
    bench.announced.clear()
    log_steps(partition, 1)
    bench.deliver()
    assert all(not seconds for _, seconds in bench.announced)  # it is stored
