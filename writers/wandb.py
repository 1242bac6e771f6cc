"""A look-alike of W&B: its run, its data types and its module's functions, and no SDK behind them.

`import writers.wandb as wandb` is the one line that a script changes: `wandb.init(...)` returns a run on the current
bus, and `wandb.log`, `wandb.config`, `wandb.summary` and the like act on the latest one.
"""

from __future__ import annotations

import sys
import threading
from datetime import timedelta
from enum import Enum
from math import isfinite
from typing import TYPE_CHECKING, Any

from eventbus._fork import held_by_forks
from eventbus.errors import BadInputError
from eventbus.tracking import AlertRaised, MetricDefined, RunStatus, TrackingEvent
from writers._keys import check_key, shown
from writers._look_alike import also_named
from writers._runs import outcome
from writers._values import number
from writers._wandb_artifact import Artifact
from writers._wandb_config import WandBConfig, WandBSummary
from writers._wandb_files import RunFiles
from writers._wandb_image import Image
from writers._wandb_init import Sessions
from writers._wandb_kinds import Audio, Histogram, Html, Molecule, Object3D, Plotly, Video
from writers._wandb_log import parted, publish_with, recorded
from writers._wandb_table import Table
from writers._wandb_watch import Watch
from writers._writer import run_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from eventbus import Receipt, Scope
    from eventbus._bus import Bus
    from writers._intake import OnBadInput

__all__ = [
    "AlertLevel",
    "Artifact",
    "Audio",
    "Classes",
    "Histogram",
    "Html",
    "Image",
    "Molecule",
    "Object3D",
    "Plotly",
    "Run",
    "Table",
    "Video",
    "WandBConfig",
    "WandBSummary",
    "WandBWriter",
    "init",
]

ALERT_WAIT = 60.0
"""Seconds in which an alert of the same title is not sent again, as at W&B."""

SUMMARIES = frozenset({"min", "max", "mean", "last", "copy", "none", "first", "best"})
"""What can stand for a metric's whole history."""


class AlertLevel(Enum):
    """How bad it is."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class WandBWriter(RunFiles):
    """Logs with the methods of a W&B run: `log`, `config`, `summary`, `log_artifact`, `watch`, `alert`, `finish`.

    Args:
        bus: Where to publish; by default the current bus.
        run: Id of the run; by default the bus's own.
        scope: Whether what is logged stays at its site or may cross to the server; by default what the bus says.
        on_bad_input: Whether what can't be recorded raises, or is left out and counted.

    Attributes:
        config: The run's configuration.
        summary: Values that stand for the whole run.
    """

    def __init__(
        self,
        *,
        bus: Bus | None = None,
        run: str | None = None,
        scope: Scope | None = None,
        on_bad_input: OnBadInput = "raise",
    ) -> None:
        super().__init__(bus=bus, run=run, scope=scope, on_bad_input=on_bad_input)
        self.config = WandBConfig(self.tracking)
        self._last: dict[str, Any] = {}
        self.summary = WandBSummary(self.tracking, self._last)
        self.is_finished = False
        self._next_step = 0
        self._lock = held_by_forks(threading.Lock())
        self._watch = Watch(self._log_counted, self.tracking.intake.bad.count)

    @property
    def step(self) -> int:
        """The step of the next call of `log` that is given none."""
        return self._next_step

    starting_step = 0

    @also_named(metrics="data")
    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> Receipt:
        """Log numbers, texts, pictures, tables and the like.

        Without a step the writer counts for itself, as W&B does: every call is a step of its own, unless
        `commit=False` lets the next call add to the same one. A step lower than an earlier one is kept, where
        W&B would drop its values.

        Args:
            data: By key: numbers, texts, `Image`, `Table`, `Histogram` and the other data types, ours or the SDK's; a
                list of media of one kind; a drawing of matplotlib (a picture), a figure of plotly, a DataFrame (a
                table), an array of more than 32 numbers (a histogram of 32 bins), a list or an array of fewer (as they
                are), any other list, and an empty one (a text: its JSON); dates in ISO's form, a member of an enum by
                its name, bytes as the text that they encode. A nested mapping is flattened, its keys joined by '.';
                within it numbers are keys too. None is left out and counted, whatever bad input does.
            step: Where on your own axis: an integer from 0; the writer's own count goes on from it.
            commit: Whether the step is complete; by default it is where none is given.

        Raises:
            BadInputError: A key, a value or the step can't be recorded, and bad input raises.
        """
        intake = self.tracking.intake
        numbers, texts, others = parted(data, intake)
        with self._lock:
            given = None if step is None else intake.step(step)
            position = self._next_step if given is None else given
            metrics = intake.metrics(numbers, position)
            events: list[TrackingEvent] = [*metrics]
            for key, text in texts.items():
                events += intake.text(key, text, position)
            is_complete = commit or (commit is None and step is None)
            self._next_step = max(self._next_step, position) + bool(is_complete)
            for one in metrics:  # without a call: this is every call's path
                self._last.update(one.values)
        if others:
            return publish_with(self.tracking, others, position, events)
        return self.tracking.publish(events, data)

    def define_metric(
        self,
        name: str,
        step_metric: Any = None,
        step_sync: bool | None = None,
        hidden: bool | None = None,
        summary: str | None = None,
        overwrite: bool | None = None,
    ) -> MetricDefined | None:
        """Say how a metric is shown.

        Args:
            name: The metric, or a pattern that ends with `*`.
            step_metric: The metric that is its x-axis, by its name or as this method returned it.
            step_sync: Whether the last value of that one is added to rows that lack it.
            hidden: Whether it has no chart of its own.
            summary: What stands for its whole history: `min`, `max`, `mean`, `last`, `first`, ..., joined by commas.
            overwrite: Whether this replaces what was said before.

        Returns:
            What was said; None if it was left out.

        Raises:
            BadInputError: A name or the summary is not known, and bad input raises.
        """
        intake = self.tracking.intake
        said = recorded(name, lambda: [_metric(name, step_metric, step_sync, hidden, summary, overwrite)], intake)
        self.tracking.publish(said, name)
        return next((one for one in said if isinstance(one, MetricDefined)), None)

    def alert(
        self,
        title: str,
        text: str,
        level: str | AlertLevel | None = None,
        wait_duration: float | timedelta | None = None,
    ) -> Receipt:
        """Tell people of something that they should see.

        Args:
            title: In one line.
            text: What happened.
            level: `INFO`, `WARN` or `ERROR`; `INFO` by default.
            wait_duration: Seconds in which an alert of the same title is not sent again; a minute by default.

        Raises:
            BadInputError: The title, the text, the level or the wait can't be recorded, and bad input raises.
        """
        events = recorded("alert", lambda: [_alert(title, text, level, wait_duration)], self.tracking.intake)
        return self.tracking.publish(events, title)

    def watch(
        self,
        models: Any,
        criterion: Any = None,
        log: str | None = "gradients",
        log_freq: int = 1000,
        idx: int | None = None,
        log_graph: bool = False,
    ) -> None:
        """Log how a model's gradients and parameters are distributed, every so many batches.

        A model that is watched already keeps its number, and is watched as this call says.

        Args:
            models: A model of torch, or several.
            criterion: Accepted: the graph is logged without it.
            log: `gradients`, `parameters`, `all`, or None.
            log_freq: Every how many batches.
            idx: Number of the first model; by default they are counted.
            log_graph: Whether the model's own description is logged, as the text `graph_<number>`.

        Raises:
            BadInputError: One is no model, or an option is not known, and bad input raises.
        """
        try:
            numbered = self._watch.add(models, log, log_freq, idx)
        except BadInputError as error:
            self.tracking.intake.bad.note("watch", error)
            return
        for index, model in numbered if log_graph else ():
            self.tracking.log_text(f"graph_{index}", repr(model))

    def unwatch(self, models: Any = None) -> None:
        """Watch some models no more, by default none."""
        self._watch.remove(models)

    def write_logs(self, text: str) -> Receipt:
        """Log a text of the run's own output, as the text `output.log`.

        Raises:
            BadInputError: It is no text, and bad input raises.
        """
        return self.tracking.log_text("output.log", text, self._next_step)

    def mark_preempting(self) -> Receipt:
        """Say that the run may be stopped from outside: as the tag `wandb.preempting`."""
        return self.tracking.set_tags({"wandb.preempting": "true"})

    def finish(self, exit_code: int | None = None, quiet: bool | None = None) -> Receipt:
        """End the run; that of the bus itself ends with the bus. Waits for nothing.

        Args:
            exit_code: 0 for success, another number for a failure. None is success too, but while an exception is
                being handled: that leaves it to how the bus is left.
            quiet: Accepted.
        """
        self._leave()
        if exit_code is None and sys.exc_info()[1] is not None:
            return self.tracking.finish()
        if exit_code:
            return self._end(RunStatus.FAILED, f"exit code {exit_code}")
        return self._end(RunStatus.FINISHED, "")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say that the run failed if an error ends the block, as W&B does."""
        self._leave()
        self._end(*outcome(error))

    def _end(self, status: RunStatus, reason: str) -> Receipt:
        return self.tracking.finish(status, reason) if self._is_of_the_bus() else self.tracking.end(status, reason)

    def _is_of_the_bus(self) -> bool:
        """Tell whether the run is the bus's own, to which its other writers log too."""
        return self.id == run_name(self.tracking.bus, None)

    def _leave(self) -> None:
        self.is_finished = True
        self._watch.remove()
        self.save_changed()

    def _log_counted(self, key: str, counted: Histogram) -> None:
        name = self.tracking.intake.key(key)
        if name is not None:
            self.tracking.publish(counted.logged(name, self._next_step, self.tracking.bus.blobs), key)


Run = WandBWriter
"""What W&B calls it."""

Classes = list[dict[str, Any]]
"""Names of classes, for `Image`: `[{"id": 1, "name": "cat"}, ...]`."""

Settings = dict[str, Any]
"""What `init` takes as `settings`, which have no meaning here."""

_sessions = Sessions(WandBWriter)
init = _sessions.init


def login(
    anonymous: Any = None,
    key: str | None = None,
    relogin: bool | None = None,
    host: str | None = None,
    force: bool | None = None,
    timeout: int | None = None,
    verify: bool = False,
    referrer: str | None = None,
) -> bool:
    """Return that there is nothing to log in to: keys and servers are the receivers' business."""
    return True


def __getattr__(name: str) -> Any:
    """Return `run`, `config`, `summary`, or a method of the latest run.

    Raises:
        AttributeError: W&B has no such name, or it is one of those that are not carried.
    """
    return _sessions.attribute(name)


def _metric(
    name: Any, step_metric: Any, step_sync: bool | None, hidden: bool | None, summary: Any, overwrite: bool | None
) -> MetricDefined:
    checked = check_key(name)
    if "*" in checked[:-1]:
        raise BadInputError(f"metric {shown(name)}: a '*' stands at the end only")
    if not isinstance(summary, str | None):
        raise BadInputError(f"summary={shown(summary)} of metric {shown(name)}: use a str such as 'min,max'")
    kinds = [one.strip().lower() for one in summary.split(",")] if summary else []
    if unknown := [one for one in kinds if one not in SUMMARIES]:
        raise BadInputError(f"summary {shown(unknown[0])} is not known: use some of {', '.join(sorted(SUMMARIES))}")
    axis = getattr(step_metric, "name", step_metric)
    return MetricDefined(
        name=checked,
        step_metric=None if axis is None else check_key(axis),
        step_sync=step_sync,
        hidden=hidden,
        summary=kinds,
        overwrite=bool(overwrite),
    )


def _alert(title: Any, text: Any, level: Any, wait: Any) -> AlertRaised:
    named = "INFO" if level is None else str(getattr(level, "value", level)).upper()
    if named not in AlertLevel.__members__:
        raise BadInputError(f"level {shown(level)} is not known: use one of {', '.join(AlertLevel.__members__)}")
    if not isinstance(text, str):
        raise BadInputError(f"the text of alert {shown(title)} is of type {type(text).__name__}: use a str")
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
    waits = ALERT_WAIT if seconds is None else number("wait_duration", seconds)
    if not isfinite(waits):
        raise BadInputError(f"wait_duration is {waits}: use seconds, or a timedelta")
    return AlertRaised(title=check_key(title), text=text, level=AlertLevel[named].value, wait_seconds=waits)
