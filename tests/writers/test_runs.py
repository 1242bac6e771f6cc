import gc
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import anyio
import pytest

import writers
from eventbus import Envelope, Event, EventBus, Scope
from eventbus.errors import BadInputError
from eventbus.tracking import RunFinished, RunStarted, RunStatus
from writers import TrackingWriter, WandBWriter
from writers._runs import MAX_REASON, outcome

Stored = Callable[[type[Event]], list[Envelope[Any]]]
StoredOn = Callable[..., list[Envelope[Any]]]


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError


@contextmanager
def left(how: BaseException | None) -> Iterator[EventBus]:
    """A bus that the block leaves with an exception."""
    bus = EventBus(job="hello", run="run-1")
    expected = nullcontext() if how is None else pytest.raises(type(how))
    with expected, bus.background():
        yield bus
        if how is not None:
            raise how


# ---------------------------------------------------------------------------------------------------- the start
def test_the_first_writer_of_a_run_and_scope_starts_it(bus: EventBus, stored: Stored) -> None:
    for scope in (Scope.LOCAL, Scope.LOCAL, Scope.FEDERATED, Scope.FEDERATED):
        TrackingWriter(scope=scope)
    TrackingWriter(run="run-2")

    assert [(one.run, one.scope, one.event) for one in stored(RunStarted)] == [
        ("run-1", Scope.LOCAL, RunStarted(name="run-1", group="hello")),
        ("run-1", Scope.FEDERATED, RunStarted(name="run-1", group="hello")),
        ("run-2", Scope.LOCAL, RunStarted(name="run-2", group="hello")),
    ]


# ------------------------------------------------------------------------------------------------------ the end
@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        (None, "FINISHED", ""),
        (ValueError("no data"), "FAILED", "ValueError: no data"),
        (RuntimeError(), "FAILED", "RuntimeError"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
        (SystemExit(0), "FINISHED", ""),
        (SystemExit(3), "FAILED", "exit code 3"),
    ],
    ids=repr,
)
def test_a_run_ends_as_its_bus_is_left(
    how: BaseException | None, status: Any, reason: str, stored_on: StoredOn
) -> None:
    with left(how) as bus:
        TrackingWriter().log({"loss": 1.0})
        TrackingWriter(run="run-2")

    ends = stored_on(bus, RunFinished)
    assert [(one.run, one.event) for one in ends] == [
        ("run-1", RunFinished(status=status, reason=reason)),
        ("run-2", RunFinished(status=status, reason=reason)),
    ]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_run_is_killed(backend: str, stored_on: StoredOn) -> None:
    bus = EventBus()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with bus:
                TrackingWriter().log({"loss": 1.0})
                scope.cancel()
                await anyio.sleep_forever()

    anyio.run(main, backend=backend)

    [one] = stored_on(bus, RunFinished)
    assert (one.event.status, one.event.reason.split(":")[0]) in {
        ("KILLED", "CancelledError"),
        ("KILLED", "Cancelled"),
    }


def test_the_scope_of_the_end_is_the_widest(stored_on: StoredOn) -> None:
    with left(None) as bus:
        TrackingWriter(scope=Scope.LOCAL)
        TrackingWriter(scope=Scope.FEDERATED)
        TrackingWriter(run="run-2")

    assert [(one.run, one.scope) for one in stored_on(bus, RunFinished)] == [
        ("run-1", Scope.FEDERATED),
        ("run-2", Scope.LOCAL),
    ]


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (RunStatus.FINISHED, "", RunFinished(status="FINISHED")),
        ("FAILED", "diverged", RunFinished(status="FAILED", reason="diverged")),
        (None, "ignored", RunFinished(status="FAILED", reason="ValueError: later")),
    ],
)
def test_what_finish_says_comes_first(
    status: RunStatus | str | None, reason: str, expected: RunFinished, stored_on: StoredOn
) -> None:
    with left(ValueError("later")) as bus:
        TrackingWriter().finish(status, reason)

    assert [one.event for one in stored_on(bus, RunFinished)] == [expected]


def test_the_last_word_counts(stored_on: StoredOn) -> None:
    with left(None) as bus:
        TrackingWriter().finish("FAILED", "diverged")
        TrackingWriter().finish("FINISHED")

    assert [one.event for one in stored_on(bus, RunFinished)] == [RunFinished(status="FINISHED")]


def test_an_unknown_status_is_refused_or_counted(bus: EventBus) -> None:
    with pytest.raises(BadInputError, match="status 'DONE' is not known: use one of FINISHED, FAILED, KILLED"):
        TrackingWriter().finish("DONE")

    counting = TrackingWriter(on_bad_input="count")
    assert counting.finish("DONE").refused is None
    assert counting.bad_inputs == {"status": 1}


def test_an_error_that_was_caught_says_nothing_of_the_run(stored_on: StoredOn) -> None:
    with left(None) as bus, pytest.raises(ValueError, match="tried"), TrackingWriter():
        raise ValueError("tried")

    assert [one.event.status for one in stored_on(bus, RunFinished)] == ["FINISHED"]


def test_a_run_nobody_wrote_to_is_none(stored_on: StoredOn) -> None:
    with left(None) as bus:
        pass

    assert stored_on(bus, RunFinished) == []


# ---------------------------------------------------------------------------------------- what exceptions mean
@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ExceptionGroup("many", [ValueError("a"), OSError("b")]), RunStatus.FAILED, "ValueError: a"),
        (BaseExceptionGroup("many", [KeyboardInterrupt()]), RunStatus.KILLED, "KeyboardInterrupt"),
        (BaseExceptionGroup("many", [KeyboardInterrupt(), OSError("b")]), RunStatus.FAILED, "OSError: b"),
        (SystemExit("no data"), RunStatus.FAILED, "no data"),
        (SystemExit(None), RunStatus.FINISHED, ""),
        (GeneratorExit(), RunStatus.KILLED, "GeneratorExit"),
        (UnprintableError(), RunStatus.FAILED, "UnprintableError: no message"),
        (ValueError("two\nlines \ud800"), RunStatus.FAILED, "ValueError: two lines ?"),
    ],
    ids=repr,
)
def test_an_exception_says_how_a_run_ended(error: BaseException, status: RunStatus, reason: str) -> None:
    assert outcome(error) == (status, reason)


def test_a_long_reason_is_shortened() -> None:
    _, reason = outcome(ValueError("x" * 10_000))

    assert len(reason) == MAX_REASON
    assert reason.endswith("x...")


# ---------------------------------------------------------------------------------------------------- lifetime
def test_the_book_of_runs_does_not_keep_its_bus_alive() -> None:
    with EventBus().background() as bus:
        TrackingWriter().log({"loss": 1.0})
    gone = weakref.ref(bus)

    del bus
    gc.collect()

    assert gone() is None


def test_writers_of_one_bus_share_its_run(bus: EventBus, stored: Stored) -> None:
    assert {TrackingWriter().run, WandBWriter().tracking.run} == {"run-1"}
    assert len(stored(RunStarted)) == 1


def test_a_process_on_the_bus_of_its_environment_starts_and_finishes_its_run(
    tmp_path: Path, stored_on: StoredOn
) -> None:
    with EventBus(tmp_path / "w", site="site-1", run="run-1").background() as bus:
        address = {"workspace": str(tmp_path / "w"), "site": "site-1", "job": "job", "rank": 1, "run": "run-1"}
        program = "import writers; writers.TrackingWriter().log({'loss': 1.0})"
        subprocess.run(
            [sys.executable, "-P", "-c", program],
            timeout=60,
            check=True,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(writers.__file__).parents[1]),
                "TRACKBUS_BUS": str(address).replace("'", '"'),
            },
        )
        read = stored_on(bus, (RunStarted, RunFinished))

    assert [(type(one.event), one.rank, one.run) for one in read] == [
        (RunStarted, 1, "run-1"),
        (RunFinished, 1, "run-1"),
    ]


def test_closing_logs_nothing_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "trackbus"), left(ValueError("x")):
        TrackingWriter().log({"loss": 1.0})

    assert caplog.messages == []
