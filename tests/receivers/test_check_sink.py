"""The suite itself: a good sink passes (see the backends' tests), a bad one is told what is wrong with it."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from readback import read_jsonl

from eventbus.errors import WorkspaceError
from eventbus.tracking import MetricsLogged
from receivers.abc import Position, Row, RunInfo
from receivers.jsonl import JsonlConfig, JsonlSink
from receivers.testing import (
    SAMPLES,
    CrashingConfig,
    CrashingSink,
    FaultConfig,
    FaultySink,
    HangingConfig,
    HangingSink,
    SlowConfig,
    SlowSink,
    check_sink,
    make_rows,
    make_run,
)

# A sink that failed leaves its file to the garbage collector, as a process that dies does.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

RUN = make_run("run")


class DoublingSink(JsonlSink):
    """Appends what it is given, whatever it has."""

    def open(self, run: RunInfo, committed: Position) -> int:
        size = sum(file.stat().st_size for file in (self.workspace / "jsonl" / run.id).glob("*"))
        return super().open(run, Position(committed.row, str(size)))


class BoastingSink(JsonlSink):
    """Says that rows are stored before they are written."""

    def flush(self) -> Position:
        row, token = super().flush()
        return Position(row + 1, token)


class HoardingSink(JsonlSink):
    """Says that rows are stored that are still in its memory."""

    def flush(self) -> Position:
        return Position(self._row, str(self._file.tell()))


class PunctualSink(JsonlSink):
    """Drops a step that is lower than the one before, as some trackers do."""

    _step = -1

    def write(self, rows: Sequence[Row]) -> None:
        super().write([row for row in rows if self._is_on_time(row)])
        self._row = max(self._row, rows[-1].number) if rows else self._row

    def _is_on_time(self, row: Row) -> bool:
        step = getattr(row.envelope.event, "step", None)
        if step is None or step >= self._step:
            self._step = step if step is not None else self._step
            return True
        return False


class FinickySink(JsonlSink):
    """Leaves out numbers that are not finite, and tells nobody."""

    def write(self, rows: Sequence[Row]) -> None:
        super().write([row for row in rows if "nan" not in str(row.envelope.event)])
        self._row = max(self._row, rows[-1].number)


class SecretiveSink(JsonlSink):
    """Leaves out events that it doesn't know, and tells nobody."""

    def write(self, rows: Sequence[Row]) -> None:
        super().write([row for row in rows if "tracking" in type(row.envelope.event).__module__])
        self._row = max(self._row, rows[-1].number)


class FinalSink(JsonlSink):
    """Takes no rows once a run has ended."""

    def open(self, run: RunInfo, committed: Position) -> int:
        self._over = committed.row == len(SAMPLES)
        return super().open(run, committed)

    def write(self, rows: Sequence[Row]) -> None:
        if not self._over:
            super().write(rows)


class SharingSink(JsonlSink):
    """Stores all runs in one."""

    def open(self, run: RunInfo, committed: Position) -> int:
        (self.workspace / "jsonl" / run.id).mkdir(parents=True, exist_ok=True)
        with (self.workspace / "jsonl" / "check-fresh" / "intruder.jsonl").open("ab") as file:
            file.write(b"{}\n" if run.id != "check-fresh" else b"")
        return super().open(run, committed)


def content(workspace: Path, folder: str = "jsonl") -> Callable[[RunInfo], list[dict[str, Any]]]:
    return lambda run: [{**line.value, "run": ""} for line in read_jsonl(workspace / folder / run.id)]


def numbers(workspace: Path, kind: str) -> list[int]:
    found = read_jsonl(workspace / kind / RUN.id)
    return [line.value["number"] for line in found if line.torn is None]


@pytest.mark.parametrize(
    ("sink_type", "complaint"),
    [
        (DoublingSink, "twice or new"),
        (BoastingSink, "before it was written"),
        (PunctualSink, "arrives late is lost"),
        (FinickySink, "not finite are neither stored nor counted"),
        (SecretiveSink, "unknown type is neither stored nor counted"),
        (FinalSink, "takes no more rows"),
        (SharingSink, "other runs change the first one"),
    ],
)
def test_a_bad_sink_is_told_what_is_wrong(tmp_path: Path, sink_type: type[JsonlSink], complaint: str) -> None:
    (tmp_path / "jsonl" / "check-fresh").mkdir(parents=True)

    with pytest.raises(AssertionError, match=complaint):
        check_sink(lambda: sink_type(JsonlConfig(), tmp_path), content(tmp_path))


def test_a_sink_that_keeps_stored_rows_in_memory_fails_the_kill(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="holds 0 bytes, but"):
        check_sink(lambda: HoardingSink(JsonlConfig(), tmp_path), content(tmp_path))


def test_a_sink_whose_content_is_not_read_back_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="empty when it is read back"):
        check_sink(lambda: JsonlSink(JsonlConfig(), tmp_path), lambda run: [])


def test_after_kill_is_told_each_process(tmp_path: Path) -> None:
    killed: list[int] = []

    check_sink(lambda: JsonlSink(JsonlConfig(), tmp_path), content(tmp_path), after_kill=killed.append)

    assert len(set(killed)) == 3


# ---------------------------------------------------------------------------------------------- faulty sinks
def deliver(sink_type: type[FaultySink], config: FaultConfig, workspace: Path, ready: Any = None) -> None:
    sink = sink_type(config, workspace)
    sink.open(RUN, Position(0))
    sink.write(make_rows(SAMPLES)[:3])
    sink.flush()
    if ready is not None:
        ready.set()
    sink.write(make_rows(SAMPLES)[3:])
    sink.close(None)


def in_a_process(sink_type: type[FaultySink], config: FaultConfig, workspace: Path) -> Any:
    ready = multiprocessing.get_context("spawn").Event()
    child = multiprocessing.get_context("spawn").Process(target=deliver, args=(sink_type, config, workspace, ready))
    child.start()
    assert ready.wait(30)
    return child


def ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal, as the kernel tells it."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize(("how", "code"), [("kill", -signal.SIGKILL), ("exit", 3)])
def test_a_crash_ends_the_process_after_the_rows_before_it(
    tmp_path: Path, how: Literal["kill", "exit"], code: int
) -> None:
    child = in_a_process(CrashingSink, CrashingConfig(after_rows=5, how=how), tmp_path)
    child.join(30)

    assert child.exitcode == code
    assert numbers(tmp_path, "crashing") == [1, 2, 3, 4, 5]
    assert [line.torn is not None for line in read_jsonl(tmp_path)] == [False] * 5 + [True]


def test_a_hanging_sink_hangs_until_it_is_killed(tmp_path: Path) -> None:
    child = in_a_process(HangingSink, HangingConfig(after_rows=7, deaf=True), tmp_path)
    while child.is_alive() and not ignores(child.pid, signal.SIGTERM):
        child.join(0.01)
    child.terminate()
    child.kill()
    child.join(30)

    assert child.exitcode == -signal.SIGKILL
    assert numbers(tmp_path, "hanging") == [1, 2, 3]


@pytest.mark.parametrize("at", ["open", "write", "flush", "close"])
def test_a_fault_strikes_where_it_is_told_to(tmp_path: Path, at: Literal["open", "write", "flush", "close"]) -> None:
    config = CrashingConfig(at=at, how="raise")

    with pytest.raises(RuntimeError, match="crashes on order"):
        deliver(CrashingSink, config, tmp_path)


def test_a_fault_strikes_as_often_as_it_is_told_to(tmp_path: Path) -> None:
    config = CrashingConfig(how="raise", after_rows=4, times=2)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            deliver(CrashingSink, config, tmp_path)

    deliver(CrashingSink, config, tmp_path)

    assert numbers(tmp_path, "crashing") == [row.number for row in make_rows(SAMPLES)]


def test_a_fault_of_one_row_spares_the_others(tmp_path: Path) -> None:
    rows = make_rows(SAMPLES)
    sink = CrashingSink(CrashingConfig(how="raise", after_rows=4), tmp_path)
    sink.open(RUN, Position(0))

    sink.write([row for row in rows if row.number != 5])
    sink.close(None)

    assert len(numbers(tmp_path, "crashing")) == len(rows) - 1


def test_a_slow_sink_loses_nothing(tmp_path: Path) -> None:
    check_sink(lambda: SlowSink(SlowConfig(seconds=0.001), tmp_path), content(tmp_path, "slow"))


def test_the_configs_name_their_sinks() -> None:
    for config in (HangingConfig, CrashingConfig, SlowConfig):
        module, _, name = config.sink.partition(":")
        assert (module, name) == ("receivers.testing", config.__name__.replace("Config", "Sink"))
        assert config.model_validate_json(config(after_rows=3).model_dump_json()) == config(after_rows=3)


def test_rows_are_numbered_from_where_they_are_told_to() -> None:
    rows = make_rows([MetricsLogged(values={"a": 1.0})] * 2, first=7)

    assert [(row.number, row.envelope.seq) for row in rows] == [(7, 7), (8, 8)]
