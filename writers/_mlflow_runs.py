"""Runs as MLflow's functions have them: started, nested, ended, and named by an id."""

from __future__ import annotations

import secrets
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from eventbus._fork import held_by_forks
from eventbus.errors import BadInputError
from eventbus.tracking import RunStatus
from writers._keys import check_key, shown
from writers._mlflow_absent import Absent
from writers._runs import outcome, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from eventbus import Receipt
    from writers._writer import TrackingWriter
    from writers.system import SystemMetrics

NS_PER_MILLISECOND = 1_000_000

MAX_ID_STEM = 54
"""Characters of its writer's own run that the id of a new run has; with `-` and 8 more it is legal."""

RUNNING = "RUNNING"

_STATUSES = ", ".join(status.value for status in RunStatus)


@dataclass(frozen=True)
class RunInfo(Absent):
    """What is known of a run at once, by MLflow's names.

    Attributes:
        run_id: Our own id; MLflow's is made where the receiver writes the run, and has ours in its tag `trackbus.run`.
        run_name: How people call it.
        experiment_id: The job, which names the experiment.
        status: `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.
        start_time: Milliseconds since the epoch.
        end_time: The same; None while it runs.
    """

    run_id: str
    run_name: str
    experiment_id: str
    status: str = RUNNING
    start_time: int = 0
    end_time: int | None = None

    @property
    def run_uuid(self) -> str:
        """Its id, by an older name."""
        return self.run_id


class ActiveRun(Absent):
    """A run that was started here; as a context manager it ends as its block does.

    Attributes:
        info: What is known of it.
        parent: Id of the run that it is nested in; empty for none.
        sampler: What samples the machine until it ends.
        ends: How often it has ended: it may go on.
    """

    def __init__(self, runs: Runs, info: RunInfo, parent: str) -> None:
        self._runs = runs
        self.info = info
        self.parent = parent
        self.sampler: SystemMetrics | None = None
        self.ends = 0

    @property
    def is_active(self) -> bool:
        """Whether it has not ended."""
        return self.info.status == RUNNING

    def is_of(self, runs: Runs) -> bool:
        """Tell whether it is one of these."""
        return self._runs.shares(runs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_active:
            status, reason = outcome(error)
            self._runs.end(self, status.value, reason)

    def __repr__(self) -> str:
        return f"ActiveRun(run_id={self.info.run_id!r}, status={self.info.status})"


_started: ContextVar[tuple[ActiveRun, ...]] = ContextVar("trackbus_mlflow_runs", default=())
"""Those started in this context, of any writer: tasks and threads do not end each other's."""


@dataclass(eq=False)
class _Shared:
    """What the writers know together that have one run of one bus as their own: each module may make one.

    Attributes:
        known: The runs that were begun, by their ids.
        is_own_used: Whether something was logged to the writers' own run while no other was active.
        is_own_free: Whether no run was started yet that is the writers' own.
        last: The run that was started last.
    """

    known: dict[str, ActiveRun] = field(default_factory=dict[str, "ActiveRun"])
    is_own_free: bool = True
    is_own_used: bool = False
    last: ActiveRun | None = None


_shared_lock = held_by_forks(threading.Lock())


class Runs:
    """The runs of one writer: its own, and those started with `start_run`, here or by a writer of the same own run.

    Args:
        own: Logs to its own run, which all writers of the bus share by default.
    """

    def __init__(self, own: TrackingWriter) -> None:
        self.own = own
        self._book = runs_of(own.bus)
        self._writers: dict[str, tuple[int, TrackingWriter]] = {}
        self._shared = self._book.shared(own.run, _Shared)
        if own.run not in self._shared.known:
            self._begun(own.run, own.run, "")

    @property
    def last(self) -> ActiveRun | None:
        """The run that was started last."""
        return self._shared.last

    def shares(self, others: Runs) -> bool:
        """Tell whether these are the same runs as another writer's."""
        return self._shared is others._shared

    def active(self) -> ActiveRun | None:
        """Return the innermost run that goes on in this context."""
        return next((run for run in reversed(_started.get()) if run.is_of(self) and run.is_active), None)

    def going_on(self) -> ActiveRun | None:
        """Return the active run, else the writers' own if logging to it began it, as it does in MLflow."""
        own = self._shared.known[self.own.run]
        return self.active() or (own if self._shared.is_own_used and own.is_active else None)

    def find(self, run_id: object) -> ActiveRun:
        """Return a run by its id.

        Raises:
            BadInputError: No run of that id was started here.
        """
        if not isinstance(run_id, str) or run_id not in self._shared.known:
            raise BadInputError(
                f"run_id={shown(run_id)} is no run of this writer: log to its own, to one that its start_run began, "
                "or name the run where the writer is made: MLflowWriter(run=...)"
            )
        return self._shared.known[run_id]

    def writer(self, run_id: str | None) -> TrackingWriter | None:
        """Return what logs to a run, by default the active one; None where the id is not known and that is counted.

        Raises:
            BadInputError: No run of that id was started here, and bad input raises.
        """
        if run_id is None:
            return self.active_writer()
        try:
            return self._writer(self.find(run_id).info.run_id)
        except BadInputError as error:
            self.own.intake.bad.note("run_id", error)
            return None

    def active_writer(self) -> TrackingWriter:
        """Return what logs to the active run, else to the writer's own."""
        if (active := self.active()) is not None:
            return self._writer(active.info.run_id)
        self._shared.is_own_used = True
        return self.own

    def log_to(self, run_id: str | None, log: Callable[[TrackingWriter], Receipt]) -> Receipt:
        """Log to a run, by default the active one; nothing where the id is not known and that is counted.

        Raises:
            BadInputError: No run of that id was started here, and bad input raises.
        """
        to = self.writer(run_id)
        return self.own.publish([], run_id) if to is None else log(to)

    def start(self, run_name: str | None, parent: str, *, is_nested: bool) -> ActiveRun:
        """Begin a run and make it the active one; the first that is not nested is the writer's own.

        Raises:
            BadInputError: Its name can't be one.
        """
        with _shared_lock:
            is_own = self._shared.is_own_free and not is_nested
            self._shared.is_own_free = self._shared.is_own_free and is_nested
        return self._activated(self.begin(run_name, parent, self.own.run if is_own else None))

    def resume(self, run: ActiveRun, run_name: str | None) -> ActiveRun:
        """Make a run that was begun here the active one.

        Raises:
            BadInputError: Its name can't be one.
        """
        self._shared.is_own_free = self._shared.is_own_free and run.info.run_id != self.own.run
        return self._activated(self.begin(run_name, run.parent, run.info.run_id))

    def begin(self, run_name: str | None, parent: str, run_id: str | None = None) -> ActiveRun:
        """Begin a run: a new one, or go on with one that was begun here.

        Raises:
            BadInputError: Its name can't be one.
        """
        title = check_key(run_name) if run_name else ""
        name = run_id or f"{self.own.run[:MAX_ID_STEM]}-{secrets.token_hex(4)}"
        self._book.go_on(name)
        self._book.start(self.own.bus, name, self.own.scope, title, parent)
        return self._begun(name, title, parent)

    def rename(self, run: ActiveRun, name: str) -> Receipt:
        """Call a run otherwise.

        Raises:
            BadInputError: The name can't be one.
        """
        self._book.start(self.own.bus, run.info.run_id, self.own.scope, check_key(name), run.parent)
        run.info = replace(run.info, run_name=name)
        return self.own.flush()

    def end(self, run: ActiveRun, status: str, reason: str = "") -> Receipt:
        """End a run; that of the bus itself ends with the bus.

        Raises:
            BadInputError: The status is not known, and bad input raises.
        """
        run_id = run.info.run_id
        if run.sampler is not None:
            run.sampler.stop()
        try:
            status = RunStatus(status).value
        except ValueError:
            self.own.intake.bad.note("status", BadInputError(f"status {shown(status)} is not known: use {_STATUSES}"))
            status = RunStatus.FINISHED.value
        if run_id == self.own.run:
            self.own.finish(status, reason)
        else:
            self._book.close(run_id, status, reason)
        run.ends += 1
        run.info = replace(run.info, status=status, end_time=_now_ms())
        return self.own.flush()

    def _activated(self, run: ActiveRun) -> ActiveRun:
        _started.set((*(one for one in _started.get() if one.is_active and one is not run), run))
        self._shared.last = run
        return run

    def _begun(self, run_id: str, title: str, parent: str) -> ActiveRun:
        run = self._shared.known.get(run_id)
        if run is None:
            info = RunInfo(run_id, title or run_id, self.own.bus.origin.job, start_time=_now_ms())
            run = self._shared.known[run_id] = ActiveRun(self, info, parent)
        else:
            run.info = replace(run.info, run_name=title or run.info.run_name, status=RUNNING, end_time=None)
        return run

    def _writer(self, run_id: str) -> TrackingWriter:
        if run_id == self.own.run:
            return self.own
        ends = self._shared.known[run_id].ends
        bound = self._writers.get(run_id)
        if bound is None or bound[0] != ends:  # a run that goes on after its end begins anew
            bound = self._writers[run_id] = ends, self.own.bind(run=run_id)
        return bound[1]


def _now_ms() -> int:
    now_ns = time.time_ns()
    return now_ns // NS_PER_MILLISECOND
