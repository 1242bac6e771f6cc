"""The conformance suite for sinks: the contract of `receivers.abc`, checked on the real thing.

Processes that write are killed with SIGKILL, and what the tracker then holds is compared with what one
undisturbed delivery left there.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from eventbus import Envelope, Event, Origin, Scope
from eventbus.tracking import (
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    RunStatus,
    TagsSet,
    TextLogged,
)
from receivers.abc import Position, Row, RunInfo, Sink, SinkConfig

MakeSink = Callable[[], Sink[Any]]
ReadBack = Callable[[RunInfo], Sequence[object]]

START_NS = 1_700_000_000_000_000_000
CHILD_SECONDS = 60.0
"""A child that has not written by then never will: importing an SDK takes up to 6 s, a new database 20 s."""

SAMPLES: tuple[Event, ...] = (
    RunStarted(name="exp", group="job"),
    ParamsLogged(values={"lr": 0.1, "layers": 3, "name": "net", "flag": True}),
    ConfigUpdated(values={"model": {"depth": 2, "sizes": [1, 2]}, "seed": 7}),
    TagsSet(values={"team": "red", "stage": "first"}),
    *(MetricsLogged(values={"loss": 1.0 / (step + 1), "acc": step / 10}, step=step) for step in range(5)),
    TextLogged(key="notes", text="first half", step=4),
    # The second half; a killed process has written some of it.
    MetricsLogged(values={"train": 0.5, "val": 0.75}, step=5, main_tag="loss_of"),
    MetricsLogged(values={"loss": float("nan"), "acc": float("inf")}, step=6),
    MetricsLogged(values={"loss": 0.125}, step=2),
    MetricsLogged(values={"no_step": -1.5}),
    TagsSet(values={"stage": "second"}),
    TextLogged(key="notes", text="second half", step=4),
    TextLogged(key="report/summary.txt", text="all of it", is_file=True),
    *(MetricsLogged(values={"loss": step / 7}, step=step) for step in range(7, 12)),
    RunFinished(status="FINISHED"),
)
"""Every event that a sink must know, and the values that are hard on it."""

HALF = 10
"""Rows of the first batch; the samples' other rows are the second."""


def make_rows(events: Sequence[Event], *, first: int = 1, site: str = "site-1", run: str = "exp") -> list[Row]:
    """Number events as rows, as if one process had logged them 7 ms apart.

    Args:
        events: What was logged.
        first: Number of the first row.
        site: Site that logged it.
        run: Run that it belongs to.
    """
    origin = Origin(site=site, rank=0, incarnation="c0ffee", job="job")
    numbered = enumerate(events, first)
    return [
        Row(
            number,
            Envelope(
                event=event,
                topic=event.event_topic,
                scope=Scope.LOCAL,
                run=run,
                time_ns=START_NS + number * 7_000_000,
                origin=origin,
                seq=number,
            ),
        )
        for number, event in numbered
    ]


def make_run(name: str, site: str = "site-1") -> RunInfo:
    """Return a run of its own for one check."""
    return RunInfo(id=f"check-{name}", site=site, name=name, group="check", started_ns=START_NS)


def check_sink(make_sink: MakeSink, read_back: ReadBack, *, after_kill: Callable[[int], None] | None = None) -> None:
    """Hold a sink to its contract.

    Args:
        make_sink: Makes a new sink; its config and workspace are the same each time.
        read_back: Returns all that the tracker holds of a run, without the run's own id and name. It should
            read the tracker's files itself and not trust the SDK that wrote them.
        after_kill: Called with the id of a process that was killed, to wait for helpers that outlive it.

    Raises:
        AssertionError: The sink breaks its contract; the message says which part.
    """
    checks = _Checks(make_sink, read_back, after_kill or (lambda _pid: None))
    checks.fresh_run()
    checks.positions()
    checks.redelivery()
    for when in Moment:
        checks.kill(when)
    checks.late_steps()
    checks.hard_values()
    checks.unknown_event()
    checks.open_again()
    checks.apart()


class Moment(Enum):
    """What a process did last before it is killed."""

    ACKNOWLEDGED = "its first batch was flushed"
    WRITTEN = "its second batch was written"
    FLUSHED = "its second batch was flushed, which nobody heard"


class _UnheardOf(Event):
    """An event that no backend knows."""

    size: int


class _Checks:
    """What `check_sink` checks, one method each, on a run of its own."""

    def __init__(self, make_sink: MakeSink, read_back: ReadBack, after_kill: Callable[[int], None]) -> None:
        self._make_sink = make_sink
        self._read_back = read_back
        self._after_kill = after_kill
        self._expected: list[str] = []

    def fresh_run(self) -> None:
        """Deliver everything once: the measure of all that follows."""
        run = make_run("fresh")
        self._deliver(run, SAMPLES)
        self._expected = self._content(run)
        _demand(len(self._expected) > 0, "a delivered run is empty when it is read back")

    def positions(self) -> None:
        """Flush after every row: the position never goes back, and closing stores the last row."""
        rows, sink = make_rows(SAMPLES), self._make_sink()
        start = sink.open(make_run("positions"), Position(0))
        _demand(start == 0, f"open() of a new run returns {start}, not 0")
        found = [start]
        for row in rows:
            sink.write([row])
            found.append(sink.flush().row)
            _demand(found[-1] <= row.number, f"flush() returns row {found[-1]} before it was written")
        found.append(sink.close(RunStatus.FINISHED).row)
        _demand(found == sorted(found), f"flush() goes back: {found}")
        _demand(found[-1] == len(rows), f"close() returns row {found[-1]}, not the last one, {len(rows)}")

    def redelivery(self) -> None:
        """Deliver the second batch again from the old position, after an orderly end."""
        run, rows, sink = make_run("redelivery"), make_rows(SAMPLES), self._make_sink()
        sink.open(run, Position(0))
        sink.write(rows[:HALF])
        committed = sink.close(None)
        self._write_rest(run, rows, committed)
        self._write_rest(run, rows, committed)
        self._demand_same(run, "a batch that is delivered again after close()")

    def kill(self, when: Moment) -> None:
        """Kill a process that writes, and deliver again what it had not acknowledged."""
        run, rows, sink = make_run(f"killed-{when.name.lower()}"), make_rows(SAMPLES), self._make_sink()
        committed = self._write_and_die(sink, run, rows, when)
        self._write_rest(run, rows, committed)
        self._demand_same(run, f"a process killed after {when.value}")

    def late_steps(self) -> None:
        """Log a lower step after a higher one: it stays."""
        on_time, late = (
            MetricsLogged(values={"loss": 1.0}, step=100),
            MetricsLogged(values={"loss": 2.0}, step=3),
        )
        self._deliver(make_run("on-time"), [on_time])
        self._deliver(make_run("late"), [on_time, late])
        grown = len(self._content(make_run("late"))) - len(self._content(make_run("on-time")))
        _demand(grown > 0, "a step that arrives late is lost")

    def hard_values(self) -> None:
        """Log NaN and infinities beside a good value: each is stored or counted, and the good ones stay."""
        hard = {"nan": float("nan"), "plus": float("inf"), "minus": float("-inf")}
        good = MetricsLogged(values={"good": 1.0}, step=0)
        after = MetricsLogged(values={"good": 2.0}, step=2)
        self._deliver(make_run("good"), [good, after])
        counts = self._deliver(make_run("hard"), [good, MetricsLogged(values=hard, step=1), after])
        grown = len(self._content(make_run("hard"))) - len(self._content(make_run("good")))
        _demand(grown + counts.total() > 0, "values that are not finite are neither stored nor counted")
        _demand(grown >= 0, "a value that is not finite takes others with it")

    def unknown_event(self) -> None:
        """Log an event that the backend can't know: it is stored or counted."""
        known = MetricsLogged(values={"good": 1.0}, step=0)
        self._deliver(make_run("known"), [known])
        counts = self._deliver(make_run("unknown"), [known, _UnheardOf(size=1)])
        grown = len(self._content(make_run("unknown"))) - len(self._content(make_run("known")))
        _demand(grown > 0 or counts.total() > 0, "an event of an unknown type is neither stored nor counted")

    def open_again(self) -> None:
        """Open an ended run again: nothing changes until a new row comes, and the new row is stored."""
        run = make_run("again")
        rows, sink = make_rows(SAMPLES), self._make_sink()
        sink.open(run, Position(0))
        sink.write(rows)
        position = sink.close(RunStatus.FAILED, "on purpose")
        before = self._content(run)
        sink = self._make_sink()
        found = sink.open(run, position)
        _demand(found == position.row, f"open() returns row {found} of a run that ended with {position.row}")
        position = sink.close(None)
        _demand(self._content(run) == before, "opening a run that ended changes its content")
        sink = self._make_sink()
        sink.open(run, position)
        sink.write(make_rows([MetricsLogged(values={"loss": 0.5}, step=99)], first=len(rows) + 1))
        sink.close(None)
        new = Counter(self._content(run)) - Counter(before)
        _demand(bool(new), "a run that ended takes no more rows")

    def apart(self) -> None:
        """Look at the first run again: the others left it alone."""
        _demand(self._content(make_run("fresh")) == self._expected, "other runs change the first one")

    def _deliver(self, run: RunInfo, events: Sequence[Event]) -> Counter[str]:
        sink, rows = self._make_sink(), make_rows(events)
        sink.open(run, Position(0))
        for part in (rows[:HALF], rows[HALF:]):
            if part:
                sink.write(part)
                sink.flush()
        sink.close(RunStatus.FINISHED)
        return sink.counts

    def _write_rest(self, run: RunInfo, rows: Sequence[Row], committed: Position) -> None:
        """Deliver what comes after a committed position, all of it, as a worker does."""
        sink = self._make_sink()
        start = sink.open(run, committed)
        _demand(start >= committed.row, f"open() returns row {start}, less than the committed {committed.row}")
        sink.write(rows[committed.row :])
        sink.close(RunStatus.FINISHED)

    def _write_and_die(self, sink: Sink[Any], run: RunInfo, rows: Sequence[Row], when: Moment) -> Position:
        """Write in a process of its own and kill it; return what it had acknowledged."""
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        order = _Order(type(sink), sink.config, sink.workspace, run, rows, when)
        child = spawn.Process(target=_write_and_wait, args=(order, theirs))
        child.start()
        theirs.close()
        try:
            committed: Position = _receive(ours)
            _receive(ours)
        finally:
            child.kill()
            child.join()
            ours.close()
        self._after_kill(child.pid or 0)
        return committed

    def _demand_same(self, run: RunInfo, what: str) -> None:
        found = self._content(run)
        lost = Counter(self._expected) - Counter(found)
        extra = Counter(found) - Counter(self._expected)
        _demand(not lost and not extra, f"{what}: lost {dict(lost)}, twice or new {dict(extra)}")
        _demand(found == self._expected, f"{what}: all is there, but in another order")

    def _content(self, run: RunInfo) -> list[str]:
        return [repr(entry) for entry in self._read_back(run)]


class _Order(NamedTuple):
    """What a process is to write before it is killed."""

    sink_type: type[Sink[Any]]
    config: SinkConfig
    workspace: Path
    run: RunInfo
    rows: Sequence[Row]
    when: Moment


def _demand(holds: bool, message: str) -> None:  # noqa: FBT001 - reads as what it demands
    if not holds:
        raise AssertionError(message)


def _receive(pipe: Connection) -> Any:
    _demand(pipe.poll(CHILD_SECONDS), f"a process that writes to the sink hangs for {CHILD_SECONDS:.0f} s")
    try:
        return pipe.recv()
    except EOFError:
        raise AssertionError("a process that writes to the sink ended: see its error output") from None


def _write_and_wait(order: _Order, pipe: Connection) -> None:
    """Write the first half, acknowledge it, go on with the second, and wait for the end."""
    os.environ.update(order.config.environment())
    sink = order.sink_type(order.config, order.workspace)
    sink.open(order.run, Position(0))
    sink.write(order.rows[:HALF])
    pipe.send(_flush_all(sink, HALF))
    if order.when is not Moment.ACKNOWLEDGED:
        sink.write(order.rows[HALF:])
    if order.when is Moment.FLUSHED:
        sink.flush()
    pipe.send(None)
    with suppress(EOFError):
        pipe.recv()


def _flush_all(sink: Sink[Any], row: int) -> Position:
    """Flush until a row is stored, or for as long as a sink may lag."""
    deadline = time.monotonic() + CHILD_SECONDS / 2
    position = sink.flush()
    while position.row < row and time.monotonic() < deadline:
        time.sleep(0.02)
        position = sink.flush()
    return position
