"""Events that a tracker can't store are found, put aside and counted; everything else is stored once, in order."""

from __future__ import annotations

import errno
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from readback import read_jsonl

from eventbus import Event, EventBus, Origin, Scope
from eventbus._codec import decode
from eventbus._topic import Selector
from eventbus.abc import StoredRecord
from eventbus.blobs import BlobReader
from eventbus.health import HEALTH, CircuitOpened, EventDeadLettered, HealthEvent, WorkerLost, WorkerRecovered
from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import ConsumerFile
from eventbus.journals.sqlite import SqliteJournal
from eventbus.tracking import TRACKING, MetricsLogged, ParamsLogged, RunFinished, RunStarted
from receivers import FlushPolicy, Receiver, WorkerPolicy
from receivers._control import Lost, Source
from receivers._dead import put_aside
from receivers._delivery import Delivery
from receivers._processes import marked_processes
from receivers._sources import Journals
from receivers._suspects import FAILURES, IN_A_ROW, AtRisk, Suspects, Suspicion, is_environment
from receivers.abc import Position, RunInfo, Sink, TrackerUnavailableError
from receivers.testing import PoisonConfig, PoisonSink

NAME = "tested"
At = Literal["write", "flush", "close"]


# --- the decisions, without processes -------------------------------------------------------------------------------


def test_what_fails_as_a_whole_is_halved_until_one_event_has_failed_alone() -> None:
    suspicion, rows, poison, steps, first = Suspicion(stretch=("p", 1)), 1000, 777, 0, 0
    while suspicion.condemned is None:
        while suspicion.limit and first + suspicion.limit <= poison:  # the parts before it are stored
            first += suspicion.limit
            suspicion = suspicion.after_success()
        size = min(suspicion.limit, rows - first) if suspicion.limit else rows
        if suspicion.limit:
            suspicion = suspicion.at_risk(AtRisk("w", "p", first, size))
        suspicion = suspicion.after_failure("it raised", rows)
        steps += 1
    assert suspicion.condemned == AtRisk("w", "p", poison, 1)
    assert FAILURES + 9 <= steps <= 40


def test_another_single_event_has_failures_of_its_own() -> None:
    suspicion = Suspicion(stretch=("p", 1), limit=1)
    for seq in (1, 2, 1, 2, 1, 2):
        suspicion = suspicion.at_risk(AtRisk("w", "p", seq, 1)).after_failure("it raised", 2)
        assert suspicion.condemned is None


def test_a_tracker_that_stores_nothing_condemns_few() -> None:
    suspicion, aside = Suspicion(stretch=("p", 1), limit=1), 0
    for seq in range(100):
        suspicion = suspicion.at_risk(AtRisk("w", "p", seq, 1))
        for _ in range(FAILURES):
            suspicion = suspicion.after_failure("it raised", 100)
        if suspicion.condemned:
            suspicion = suspicion.without_part(0)
            aside += 1
    assert aside == IN_A_ROW
    assert suspicion.after_success().aside == 0


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("from the store")
    error.sqlite_errorcode = code
    return error


def caused_by(cause: BaseException) -> Exception:
    error = RuntimeError("the SDK says")
    error.__cause__ = cause
    return error


ENVIRONMENT = [
    TrackerUnavailableError("down"),
    ConnectionRefusedError(),
    TimeoutError(),
    *(OSError(code, "") for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENETUNREACH)),
    sqlite_error(sqlite3.SQLITE_FULL),
    sqlite_error(sqlite3.SQLITE_BUSY),
]


@pytest.mark.parametrize("error", ENVIRONMENT, ids=repr)
def test_the_environments_errors_count_against_no_event(error: Exception) -> None:
    assert is_environment(error)
    assert is_environment(caused_by(error))


@pytest.mark.parametrize(
    "error",
    [ValueError("bad value"), OSError(errno.ENAMETOOLONG, ""), sqlite_error(sqlite3.SQLITE_CONSTRAINT)],
    ids=repr,
)
def test_other_errors_do(error: Exception) -> None:
    assert not is_environment(error)
    assert not is_environment(caused_by(error))


def test_a_dead_letter_is_put_aside_once(tmp_path: Path) -> None:
    with journal(tmp_path) as partition:
        partition.append_nowait(metric(0), TRACKING.name, Scope.LOCAL, "run", 1)
        partition.append_nowait(metric(1), TRACKING.name, Scope.LOCAL, "run", 1)
        first, second = JournalReader(tmp_path / "journal").read({}, 10)
    dead = tmp_path / "dead"
    put_aside(dead, second, NAME, "second", BlobReader())
    with (dead / "reasons.jsonl").open("ab") as file:
        file.write(b'{"torn": ')
    for _ in range(3):
        put_aside(dead, first, NAME, "first", BlobReader())
    reader = JournalReader(dead)
    assert [(one.seq, one.body) for one in reader.read({}, 10)] == [(1, first.body), (2, second.body)]
    lines = read_jsonl(dead)
    assert [line.value["reason"] for line in lines if not line.torn] == ["second", "first"]


# --- delivery in one process ----------------------------------------------------------------------------------------


class DiedError(BaseException):
    """The process dies here."""


class DyingSink(PoisonSink):
    """Dies in a way that a test survives."""

    def _fail(self) -> None:
        if self._poison.how == "raise":
            raise RuntimeError("this event is poison")
        raise DiedError


def metric(step: int, *, poison: bool = False) -> MetricsLogged:
    return MetricsLogged(values={"poison" if poison else "loss": float(step)}, step=step)


@contextmanager
def journal(folder: Path, rank: int = 0) -> Iterator[SqliteJournal]:
    origin = Origin(site="site-1", rank=rank, incarnation=f"{rank:08x}", job="job")
    partition = SqliteJournal(folder / "journal", origin)
    try:
        yield partition
    finally:
        partition.close()


@dataclass
class Consumer:
    """A consumer that is started again whenever it fails, as a supervisor starts workers."""

    folder: Path
    config: PoisonConfig
    selector: Selector = field(default_factory=lambda: Selector.of(TRACKING))
    starts: int = 0
    dies_after_burial: bool = False
    lost: Lost | None = None
    make_sink: Callable[[], Sink[Any]] | None = None
    sinks: list[Any] = field(default_factory=list)

    def run(self, *, batch: int = 1000, most: int = 200) -> None:
        """Deliver everything, however many starts it takes."""
        while not self.start(batch):
            assert self.starts < most, "it is never done"

    def start(self, batch: int = 1000) -> bool:
        """Be one worker; tell whether it came to its end."""
        self.starts += 1
        worker, lost, self.lost = f"worker {self.starts}", self.lost, None
        with ConsumerFile(self.folder / "cursors", NAME) as file:
            if lost is not None:
                Suspects(file, worker).blame_lost(lost)
            try:
                self._deliver(file, worker, batch)
            except RuntimeError:
                return False
            except DiedError:
                self.lost = Lost(worker, "died")
                return False
            finally:
                while self.sinks:
                    self.sinks.pop().abandon()
        return True

    def _deliver(self, file: ConsumerFile, worker: str, batch: int) -> None:
        journal = JournalReader(self.folder / "journal")
        reader = Journals(file, journal, [Source(1, str(journal.folder), "")])
        delivery = Delivery(
            reader,
            file,
            [self.selector],
            self._sink,
            lambda _, _more=0: None,
            suspects=Suspects(file, worker),
            bury=self._bury,
        )
        delivery.recover()
        if self.dies_after_burial and self.dead():
            self.dies_after_burial = False
            raise DiedError
        while records := reader.read(delivery.read_to, batch):
            delivery.deliver(records)
        delivery.end_lost_runs()
        delivery.leave()
        delivery.end_lost_runs()

    def _sink(self) -> Sink[Any]:
        self.sinks.append(self.make_sink() if self.make_sink else DyingSink(self.config, self.folder))
        return self.sinks[-1]

    def _bury(self, record: StoredRecord, reason: str) -> None:
        put_aside(self.folder / "dead" / NAME, record, NAME, reason, BlobReader())

    # --- what is there --------------------------------------------------------------------------------------------

    def stored(self, run: str = "run") -> list[tuple[str, int]]:
        """Return (partition, sequence) of a run's rows, in order; no line is torn, no row stands twice."""
        lines = [line for line in read_jsonl(self.folder / "jsonl" / run) if "seq" in line.value]
        assert not [line for line in read_jsonl(self.folder / "jsonl") if line.torn]
        numbers = [line.value["number"] for line in lines]
        assert numbers == sorted(set(numbers))
        return [(line.value["partition"], line.value["seq"]) for line in lines]

    def statuses(self, run: str = "run") -> list[str]:
        return [one.value["status"] for one in read_jsonl(self.folder / "jsonl" / run) if "status" in one.value]

    def dead(self) -> list[Event]:
        records = JournalReader(self.folder / "dead" / NAME).read({}, 1000)
        return [decode(one.body, one.header.origin, one.seq).event for one in records]

    def counts(self) -> dict[str, int]:
        with ConsumerFile(self.folder / "cursors", NAME) as file:
            found: dict[str, int] = {}
            for (kind, _), value in file.counts().items():
                found[kind] = found.get(kind, 0) + value
            assert found.get("dropped") == found.pop("dropped of", None)  # by cause, and by partition
            return found


def consumer(folder: Path, *, at: At = "write", how: Literal["raise", "kill"] = "raise") -> Consumer:
    return Consumer(folder, PoisonConfig(path="jsonl", at=at, how=how))


def log_all(folder: Path, events: Sequence[Event], run: str = "run") -> None:
    with journal(folder) as partition:
        for event in events:
            partition.append_nowait(event, TRACKING.name, Scope.LOCAL, run, 1)


@pytest.mark.parametrize("at", ["write", "flush", "close"])
@pytest.mark.parametrize("how", ["raise", "kill"])
@pytest.mark.parametrize("places", [(0,), (63,), (0, 1, 30, 62, 63), (31, 32)], ids=str)
def test_row_43_poison_is_isolated_and_all_else_is_stored(
    tmp_path: Path, at: At, how: Literal["raise", "kill"], places: tuple[int, ...]
) -> None:
    events = [metric(step, poison=step in places) for step in range(64)]
    log_all(tmp_path, events)
    tested = consumer(tmp_path, at=at, how=how)
    tested.run()
    assert tested.starts > 2 * FAILURES  # it did bite
    assert tested.dead() == [events[place] for place in places]
    assert [seq for _, seq in tested.stored()] == [step + 1 for step in range(64) if step not in places]
    assert tested.statuses() == ["FINISHED"]
    assert tested.counts() == {"delivered": 64 - len(places), "values": 64 - len(places), "dropped": len(places)}


@pytest.mark.parametrize("at", ["write", "flush", "close"])
@pytest.mark.parametrize("how", ["raise", "kill"])
@pytest.mark.parametrize(
    "poison",
    [RunStarted(name="poison"), ParamsLogged(values={"poison": 1}), RunFinished(status="FAILED", reason="poison")],
    ids=lambda one: type(one).__name__,
)
def test_any_kind_of_event_may_be_poison(tmp_path: Path, at: At, how: Literal["raise", "kill"], poison: Event) -> None:
    metrics: list[Event] = [metric(0), metric(1)]
    log_all(tmp_path, [*metrics, poison] if isinstance(poison, RunFinished) else [poison, *metrics])
    tested = consumer(tmp_path, at=at, how=how)
    tested.run()
    assert tested.dead() == [poison]
    assert len(tested.stored()) == 2
    assert tested.statuses() == ["FAILED" if isinstance(poison, RunFinished) else "FINISHED"]


def test_a_single_poison_event_is_all_there_is(tmp_path: Path) -> None:
    log_all(tmp_path, [metric(0, poison=True)])
    tested = consumer(tmp_path)
    tested.run()
    assert tested.starts == 2 * FAILURES + 1
    assert tested.dead() == [metric(0, poison=True)]
    assert tested.counts() == {"dropped": 1}


@pytest.mark.parametrize("dies", [False, True])
def test_what_a_poison_event_left_behind_the_end_of_its_run_is_cleared(tmp_path: Path, dies: bool) -> None:
    """The sink had written it, and only opening the run again takes it away."""
    log_all(tmp_path, [metric(0), RunFinished(status="FINISHED"), metric(1, poison=True)])
    tested = consumer(tmp_path, at="flush")
    tested.dies_after_burial = dies
    tested.run()
    assert not tested.dies_after_burial
    assert tested.dead() == [metric(1, poison=True)]
    assert [seq for _, seq in tested.stored()] == [1, 2]


def test_a_tracker_that_fails_at_everything_puts_few_events_aside(tmp_path: Path) -> None:
    log_all(tmp_path, [metric(step, poison=True) for step in range(40)])
    tested = consumer(tmp_path)
    for _ in range(100):
        assert not tested.start()
    assert len(tested.dead()) == IN_A_ROW
    tested.config = PoisonConfig(path="jsonl", key="nothing")
    tested.run()
    assert [seq for _, seq in tested.stored()] == list(range(IN_A_ROW + 1, 41))


def test_failures_while_a_run_is_opened_put_nothing_aside(tmp_path: Path) -> None:
    class CantOpenSink(DyingSink):
        def open(self, run: RunInfo, committed: Position) -> int:
            self._fail()
            return super().open(run, committed)

    for how in ("raise", "kill"):
        tested = consumer(tmp_path, how=how)
        log_all(tmp_path, [metric(step) for step in range(3)])
        tested.make_sink = lambda tested=tested: CantOpenSink(tested.config, tmp_path)
        for _ in range(5 * FAILURES):
            assert not tested.start()
        tested.make_sink = None
        tested.run()
        assert tested.starts == 5 * FAILURES + 1
    assert tested.counts()["delivered"] == 6
    assert not (tmp_path / "dead").exists()


@pytest.mark.parametrize("error", ENVIRONMENT, ids=repr)
def test_a_tracker_that_is_down_puts_nothing_aside(tmp_path: Path, error: Exception) -> None:
    class DownSink(DyingSink):
        def _fail(self) -> None:
            raise copy(error)  # the parameter lives on, and would keep every frame of its tracebacks alive

    tested = consumer(tmp_path)
    log_all(tmp_path, [metric(0, poison=True)])
    tested.make_sink = lambda: DownSink(tested.config, tmp_path)
    for _ in range(3 * FAILURES):
        with pytest.raises(type(error)):
            tested.start()
    tested.make_sink = lambda: PoisonSink(PoisonConfig(path="jsonl", key="nothing"), tmp_path)
    tested.run()
    assert tested.starts == 3 * FAILURES + 1
    assert tested.counts() == {"delivered": 1, "values": 1}


@pytest.mark.parametrize("how", ["raise", "kill"])
def test_an_end_that_no_tracker_takes_is_given_up(tmp_path: Path, how: Literal["raise", "kill"]) -> None:
    class EndlessSink(DyingSink):
        def close(self, status: Any, reason: str = "") -> Position:
            if status is not None:
                self._fail()
            return super().close(status, reason)

    tested = consumer(tmp_path, how=how)
    log_all(tmp_path, [metric(0)])
    tested.make_sink = lambda: EndlessSink(tested.config, tmp_path)
    tested.run()
    assert tested.starts == FAILURES + 1
    assert tested.counts() == {"delivered": 1, "values": 1, "altered": 1}
    assert tested.statuses() == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    events=st.lists(st.tuples(st.integers(0, 1), st.sampled_from("ab"), st.booleans(), st.integers(0, 9)), max_size=40),
    at=st.sampled_from(("write", "flush", "close")),
    how=st.sampled_from(("raise", "kill")),
    batch=st.integers(1, 40),
)
@example(events=[(0, "a", True, 1), (0, "a", False, 0)], at="flush", how="raise", batch=2)  # after the end of its run
def test_whatever_is_poison_wherever(
    events: list[tuple[int, str, bool, int]], at: At, how: Literal["raise", "kill"], batch: int
) -> None:
    """Two writers, two runs, a tenth of the events poison, batches of any size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
        dead = 0
        with journal(folder, 0) as zero, journal(folder, 1) as one:
            for step, (rank, run, ends, luck) in enumerate(events):
                partition = (zero, one)[rank]
                event = RunFinished(status="FINISHED") if ends and luck == 1 else metric(step, poison=luck == 0)
                partition.append_nowait(event, TRACKING.name, Scope.LOCAL, run, 1)
                if luck:
                    expected[run].append((partition.origin.partition, partition.last_seq))
                dead += luck == 0
        if dead > IN_A_ROW:
            return
        tested = consumer(folder, at=at, how=how)
        tested.run(batch=batch, most=600)
        assert len(tested.dead()) == dead
        for run, wanted in expected.items():
            stored = tested.stored(run)
            assert sorted(stored) == sorted(wanted)
            for partition in {one for one, _ in stored}:
                seqs = [seq for key, seq in stored if key == partition]
                assert seqs == sorted(seqs)


# --- rows are a function of the plan --------------------------------------------------------------------------------


def test_a_plans_rows_outlive_a_changed_subscription(tmp_path: Path) -> None:
    """What was planned under the old subscription keeps its numbers and is stored; the new one rules from then on."""
    log_all(tmp_path, [metric(0), ParamsLogged(values={"lr": 0.1}), metric(1, poison=True), metric(2)])
    tested = consumer(tmp_path)
    assert not tested.start()
    tested.selector = Selector.of(MetricsLogged)
    tested.config = PoisonConfig(path="jsonl", key="nothing")
    tested.run()
    assert [seq for _, seq in tested.stored()] == [1, 2, 3, 4]
    assert tested.counts() == {"delivered": 4, "values": 3}


# --- real processes -------------------------------------------------------------------------------------------------

POLICY = WorkerPolicy(start_timeout=20, process_timeout=1, heartbeat_timeout=5)
pytestmark = pytest.mark.anyio


async def run_with(folder: Path, config: PoisonConfig, events: Sequence[Event]) -> tuple[EventBus, list[HealthEvent]]:
    heard: list[HealthEvent] = []
    with anyio.fail_after(100):
        async with EventBus(folder, site="site-1", run="run") as bus:
            bus.subscribe(HEALTH, heard.append)
            flush = FlushPolicy(max_items=8, max_delay=0.05)
            bus.subscribe(TRACKING, Receiver(config, name=NAME, flush=flush, worker=POLICY))
            for event in events:
                bus.publish(event, run="run")
            await bus.publish(metric(99), run="run").delivered(90)
    return bus, heard


@pytest.mark.parametrize(
    ("at", "how", "told_as"),
    [
        ("write", "raise", "failed: RuntimeError: this event is poison"),
        ("flush", "segfault", "died: SIGSEGV"),
        ("close", "exit", "died: exit code 3"),
        ("write", "hang", "was isolating for more than 1 s"),
    ],
)
@pytest.mark.slow
async def test_row_43_a_poison_event_ends_its_workers_and_no_more(
    tmp_path: Path, at: At, how: Literal["raise", "segfault", "exit", "hang"], told_as: str
) -> None:
    poison = metric(2, poison=True)
    events = [poison if step == 2 else metric(step) for step in range(5)]
    bus, heard = await run_with(tmp_path, PoisonConfig(path="jsonl", at=at, how=how), events)
    line = bus.report().line(NAME)
    assert (line.delivered, line.dropped, line.left) == (5, 1, 0), str(bus.report())
    assert line.failed >= 2 * FAILURES  # it did bite
    rows = [one.value for one in read_jsonl(tmp_path / "jsonl") if "seq" in one.value]
    assert [row["event"]["step"] for row in rows] == [0, 1, 3, 4, 99]
    records = JournalReader(tmp_path / "dead" / NAME).read({}, 10)
    assert [decode(one.body, one.header.origin, one.seq).event for one in records] == [poison]
    (reason,) = [json.loads(text) for text in (tmp_path / "dead" / NAME / "reasons.jsonl").read_text().splitlines()]
    (told,) = [one for one in heard if isinstance(one, EventDeadLettered)]
    assert (told.receiver, told.partition, told.seq) == (NAME, reason["partition"], reason["seq"])
    assert told.reason == reason["reason"] == told_as.removeprefix("failed: ")
    changes = [type(one) for one in heard if not isinstance(one, EventDeadLettered)]
    assert changes == [WorkerLost, WorkerRecovered] * (len(changes) // 2)  # and the circuit stayed closed
    assert CircuitOpened not in changes
    assert not marked_processes(str(tmp_path / "cursors" / f"{NAME}.db"))
