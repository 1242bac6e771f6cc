"""The part of MLflow's module functions that says which run is logged to."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus import Receipt
from eventbus.errors import BadInputError
from writers._look_alike import LookAlike
from writers._mlflow_client import MLflowClient
from writers._mlflow_runs import ActiveRun, Runs
from writers._runs import runs_of
from writers.system import SystemMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from writers._writer import TrackingWriter

NOTE_TAG = "mlflow.note.content"
"""MLflow's tag of a run's description."""

EXPERIMENT_TAG = "experiment"
"""Tag of the experiment that a script asked for."""

_logger = logging.getLogger("trackbus.writers")


class Experiment(NamedTuple):
    """What `set_experiment` returns, by MLflow's names: the job, which names the experiment of all its runs."""

    experiment_id: str
    name: str


@dataclass
class _Wanted:
    """What the writers of one run were asked for, for the runs that they start from then on.

    Attributes:
        experiment: Name of an experiment other than the job; empty for none.
    """

    experiment: str = ""


class MLflowRuns(LookAlike):
    """Starts, names and ends runs as `mlflow` does."""

    @cached_property
    def _runs(self) -> Runs:
        return Runs(self.tracking)

    @property
    def _wanted(self) -> _Wanted:
        return runs_of(self.tracking.bus).shared(self.tracking.run, _Wanted)

    @cached_property
    def client(self) -> MLflowClient:
        """The logging calls of `mlflow.MlflowClient`, on this writer's runs."""
        return MLflowClient(self._runs)

    def start_run(  # noqa: PLR0917 - MLflow's own arguments, in its order
        self,
        run_id: str | None = None,
        experiment_id: str | None = None,
        run_name: str | None = None,
        nested: bool = False,
        parent_run_id: str | None = None,
        tags: dict[str, Any] | None = None,
        description: str | None = None,
        log_system_metrics: bool | None = None,
    ) -> ActiveRun:
        """Begin a run, or go on with one; as a context manager it ends as its block does.

        Args:
            run_id: A run that this writer began.
            experiment_id: See `set_experiment`.
            run_name: How people call the run.
            nested: Whether it may begin while another is active, below which it is shown then.
            parent_run_id: The run below which it is shown; by default the active one.
            tags: Its labels.
            description: What it is, for people: the tag `mlflow.note.content`.
            log_system_metrics: Whether the machine is sampled until it ends, see `writers.system`.

        Raises:
            BadInputError: A run is active and `nested` is not said, an id is not known, or a name or tag can't be
                recorded, and bad input raises.
            MissingExtraError: The machine is to be sampled, and psutil is not installed.
        """
        active = self._runs.active()
        if active is not None and not nested:
            self._note("nested", f"run {active.info.run_id} is active: end it first, or pass nested=True")
        known = self._known(run_id)
        parent = self._known(parent_run_id) or active
        experiment = experiment_id or (self._wanted.experiment if known is None and self._runs.last else "")
        if known is None:
            run = self._runs.start(run_name, parent.info.run_id if parent else "", is_nested=parent is not None)
        else:
            run = self._runs.resume(known, run_name)
        labels = dict(tags or {}) | ({} if description is None else {NOTE_TAG: description})
        labels |= {EXPERIMENT_TAG: experiment} if experiment else {}
        self._active_writer().set_tags(labels)
        if log_system_metrics:
            run.sampler = SystemMetrics(self._active_writer()).start()
        return run

    def end_run(self, status: str = "FINISHED") -> Receipt:
        """End the run that goes on, if there is one; one that nobody started ends with the bus, with this status.

        Raises:
            BadInputError: The status is none of `FINISHED`, `FAILED`, `KILLED`, and bad input raises.
        """
        run = self._runs.going_on()
        return self.tracking.flush() if run is None else self._runs.end(run, status)

    def active_run(self) -> ActiveRun | None:
        """Return the innermost run that goes on: that of `start_run`, or the writer's own once it was logged to."""
        return self._runs.going_on()

    def last_active_run(self) -> ActiveRun | None:
        """Return the active run, else the one that was active last."""
        return self._runs.going_on() or self._runs.last

    def get_run(self, run_id: str) -> ActiveRun:
        """Return a run of this writer.

        Raises:
            BadInputError: There is none of that id.
        """
        return self._runs.find(run_id)

    def set_experiment(
        self,
        experiment_name: str | None = None,
        experiment_id: str | None = None,
        trace_location: Any = None,
    ) -> Experiment:
        """Say what it means here: the experiment is the receiver's choice, by default the job.

        The name is kept in the tag `experiment` of the run that goes on, and of those that are started from then on.

        Raises:
            BadInputError: The name can't be recorded, and bad input raises.
        """
        job, wanted = self.tracking.bus.origin.job, experiment_name or experiment_id
        if wanted:
            self._wanted.experiment = "" if wanted == job else wanted
        if wanted and wanted != job:
            if self._runs.going_on() is not None:
                self._active_writer().set_tags({EXPERIMENT_TAG: wanted})
            elif self._runs.last is None:  # the next run is the writers' own
                self.tracking.set_tags({EXPERIMENT_TAG: wanted})
            _logger.info(
                "set_experiment(%r): runs stand in the experiment of their job, %r; choose another where it is "
                "received: MLflowReceiver(kw_args={'experiment_name': ...})",
                wanted,
                job,
            )
        return Experiment(job, job)

    def flush_async_logging(self) -> Receipt:
        """Return a receipt that covers all that was logged so far. Waits for nothing."""
        return self.flush()

    # --- which run ------------------------------------------------------------------------------------------

    def _to(self, run_id: str | None, log: Callable[[TrackingWriter], Receipt]) -> Receipt:
        return self._runs.log_to(run_id, log)

    def _active_writer(self) -> TrackingWriter:
        return self._runs.active_writer()

    def _known(self, run_id: str | None) -> ActiveRun | None:
        try:
            return None if run_id is None else self._runs.find(run_id)
        except BadInputError as error:
            self.tracking.intake.bad.note("run_id", error)
            return None

    def _note(self, name: str, fault: str) -> None:
        self.tracking.intake.bad.note(name, BadInputError(fault))
