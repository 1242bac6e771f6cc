"""What a job looks like while it runs, and what it leaves: lines of text, and on a terminal a bar for the rounds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from eventbus._report import align
from eventbus.workspace import SERVER
from training._say import is_terminal, say
from training.abc import (
    BestModelFound,
    ComponentProblem,
    ModelValidated,
    RoundAggregated,
    RoundStarted,
    ServerEvent,
    SiteProblem,
    StoppedEarly,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from eventbus import Report
    from training.plan import JobPlan, JobResult

SHOWN_METRICS = 3
"""So many of a round's metrics stand in its line; the trackers have all."""

NAMED_SITES = 4
"""So many sites are named in a line."""


class JobScreen:
    """Shows one job. `tell` is legal from any thread.

    Args:
        plan: The job.
        workspace: Where it runs.
    """

    def __init__(self, plan: JobPlan, workspace: Path) -> None:
        self._plan = plan
        self._workspace = workspace
        self._rounds = ""
        self._first: int | None = None
        self._bar = _Bar() if is_terminal() else None

    def __enter__(self) -> Self:
        say(self._head())
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _head(self) -> str:
        plan = self._plan
        at_sites = {receiver.name for site in plan.sites for receiver in site.receivers}
        trackers = [f"{receiver.name} at the server" for receiver in plan.receivers]
        trackers += [f"{name} at the sites" for name in sorted(at_sites)]
        names = ", ".join(site.name for site in plan.sites[:NAMED_SITES])
        more = f" and {len(plan.sites) - NAMED_SITES} more" if len(plan.sites) > NAMED_SITES else ""
        return f"{plan.name}: {names}{more} -> {', '.join(trackers) or 'no tracker'} in {self._workspace}"

    def tell(self, event: ServerEvent) -> None:
        """Show what happens at the server."""
        if isinstance(event, RoundStarted):
            self._first = event.round if self._first is None else self._first
            self._rounds = f"/{self._first + event.total_rounds}"
            if self._bar is not None:
                self._bar.show(event, self._first)
        line = _line(event, self._rounds)
        if line:
            is_problem = isinstance(event, SiteProblem | ComponentProblem)
            say(line, error=is_problem)

    def print_result(self, result: JobResult) -> None:
        """Print what became of the events, where the models are, and what went wrong."""
        for line in _result_lines(result, self._trackers()):
            say(line)
        for line in _problem_lines(result):
            say(line, error=True)

    def _trackers(self) -> set[str]:
        owners = (self._plan, *self._plan.sites)
        return {receiver.name for owner in owners for receiver in owner.receivers}


class _Bar:
    """A bar for the rounds; nothing where rich is not installed."""

    def __init__(self) -> None:
        self._progress: Any = None

    def start(self) -> None:
        try:
            from rich.progress import Progress

            from training._console import LastingConsole
        except ModuleNotFoundError:
            return
        self._progress = Progress(console=LastingConsole(), transient=True)
        self._task = self._progress.add_task("starting", total=None)
        self._progress.start()

    def show(self, event: RoundStarted, first: int) -> None:
        if self._progress is not None:
            what = f"round {event.round + 1}/{first + event.total_rounds}"
            done = event.round - first
            self._progress.update(self._task, description=what, completed=done, total=event.total_rounds)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()


def _line(event: ServerEvent, rounds: str) -> str:
    if isinstance(event, RoundAggregated):
        named = [f"{one.site} {_metrics(one.metrics)}" for one in event.contributions[:NAMED_SITES]]
        more = len(event.contributions) - len(named)
        by_site = ", ".join([*named, f"and {more} more"] if more else named)
        return f"round {event.round + 1}{rounds}  {_metrics(event.aggregated.metrics or {})}  ({by_site})"
    if isinstance(event, BestModelFound):
        return f"best model so far: {event.metric} {event.value:.4g} (at the start of round {event.round + 1})"
    if isinstance(event, ModelValidated):
        return f"{event.model_owner} at {event.site}: {_metrics(event.metrics)}"
    if isinstance(event, StoppedEarly):
        return f"stops after round {event.round + 1}: {event.reason}"
    return _problem(event)


def _problem(event: ServerEvent) -> str:
    if isinstance(event, ComponentProblem):
        return f"{SERVER}: {event.component}: {event.reason}"
    if isinstance(event, SiteProblem):
        where = f" in round {event.round + 1}" if event.round is not None else ""
        return f"{event.site}: {event.task}{where}: {event.reason}"
    return ""


def _metrics(metrics: Mapping[str, Any]) -> str:
    numbers = [f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float)]
    return ", ".join(numbers[:SHOWN_METRICS]) or "no metrics"


# --- at the end ------------------------------------------------------------------------------------------------------


def _result_lines(result: JobResult, trackers: Collection[str]) -> Iterator[str]:
    rows = [row for at, report in result.reports.items() for row in _rows(at, report, trackers)]
    if rows:
        yield from align([("tracker", "at", "events of", "stored", "lost", ""), *rows])
    late = sum(line.left for report in result.reports.values() for line in report.lines)
    if late:
        yield f"{late} are late: they stay in the journal; why, and how to store them: trackbus status {result.folder}"
    files = [*sorted(result.folder.glob("models/*.safetensors")), *result.folder.glob("*/cross_val_results.json")]
    yield from (f"wrote {file}" for file in files)
    yield from (f"look at it: {look}" for look in _looks(result.reports.values()))


def _rows(at: str, report: Report, trackers: Collection[str]) -> Iterator[tuple[str, ...]]:
    for line in report.lines:
        if line.name in trackers or line.dropped:  # a relay that loses nothing is of no interest
            lost = Counter(line.dropped_by_site)
            if line.dropped > lost.total():  # whose they are was not told
                lost[at] += line.dropped - lost.total()
            for site in sorted(line.by_site.keys() | lost.keys()) or [at]:
                yield (line.name, at, site, str(line.by_site.get(site, 0)), str(lost[site]), "")


def _looks(reports: Iterable[Report]) -> Iterable[str]:
    return dict.fromkeys(line.look for report in reports for line in report.lines if line.look)


def _problem_lines(result: JobResult) -> Iterator[str]:
    for at, report in result.reports.items():
        yield from (f"{at}: {count} refused ({cause})" for cause, count in report.refused.items())
        yield from (f"{at}: {line.name}: {note}" for line in report.lines for note in line.notes)
    for site, problems in result.problems.items():
        yield from (f"{site}: {problem}" for problem in problems)
    if result.error:
        yield f"{SERVER}: the job has failed: {result.error}"
