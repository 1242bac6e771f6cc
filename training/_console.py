"""What a training looks like on a terminal, and in a file: a bar per site, or plain lines; then what was stored."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from eventbus.workspace import SERVER
from training._label_table import label_table
from training._plan import DataDealt, FederationConfig, RoundDone, RoundMetrics, RunResumed, SiteReady, StepDone
from training._say import fall_silent
from training._words import count_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from eventbus import Report
    from training._plan import FederationResult
    from training._plan import Progress as Fact
    from training.trackers import Account

PLAIN_WIDTH = 120
"""Columns of a table in a file; on a terminal it is as wide as that."""

NAMED_SITES = 4
"""So many sites are shown one by one in a round's line, more as a range."""


class LastingConsole(Console):
    """Falls silent when its reader goes or its disk is full: a training that nobody sees (`| head`) goes on."""

    def __exit__(self, *raised: object) -> None:
        """Show what was printed; where that can't be written, write no more."""
        try:
            super().__exit__(*raised)
        except OSError as failure:
            self._give_up(failure)

    def on_broken_pipe(self) -> None:
        """Write no more."""
        self._give_up(BrokenPipeError())

    def _give_up(self, why: OSError) -> None:
        self.quiet = True
        fall_silent(self.file, why)


def make_console(kind: type[Console] = Console, *, stderr: bool = False) -> Console:
    """Make a console that breaks no long line in a file."""
    console = kind(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


class Screen:
    """Shows one training. Its methods are legal from any thread.

    Args:
        config: What is trained.
        trackers: Names of the receivers.
    """

    def __init__(self, config: FederationConfig, trackers: Sequence[str]) -> None:
        self._config = config
        self._out = make_console(LastingConsole)
        self._errors = make_console(LastingConsole, stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._out,
            transient=True,
        )
        self._status = self._bars.add_task("", total=None, note="")
        self._tasks = {site: self._add_bar(site) for site in config.site_names}
        self._trackers = ", ".join(trackers)

    def __enter__(self) -> Self:
        config = self._config
        what = f"{count_of(config.sites, 'site')}, {count_of(config.rounds, 'round')}, {config.dataset}"
        self._print(f"{what} -> {self._trackers or 'no tracker'} in {config.workspace}")
        if self._out.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the moving part. Legal twice."""
        if self._bars.live.is_started:
            self._bars.stop()

    def tell(self, fact: Fact) -> None:
        """Show what the training tells."""
        if isinstance(fact, StepDone):
            self._bars.update(self._tasks[fact.site], completed=fact.done, note=f"loss {fact.loss:#.4g}")
        elif isinstance(fact, SiteReady):
            self._bars.update(self._tasks[fact.site], total=fact.steps, visible=True)
            self.status("training")
        elif isinstance(fact, RoundDone):
            self._print(self._round_line(fact.metrics))
        elif isinstance(fact, DataDealt):
            self._print(label_table(fact.classes))
        elif isinstance(fact, RunResumed):
            self._print(self._resumed_line(fact))
        else:
            rest = "; storing what the trackers lack" if self._trackers else ""
            self._print(f"trained in {fact.seconds:.1f} s{rest}")
            self.status("storing")

    def _add_bar(self, site: str) -> TaskID:
        return self._bars.add_task(site, total=None, visible=False, note="")

    def status(self, what: str) -> None:
        """Show what is being done, where there is a terminal."""
        self._bars.update(self._status, description=what)

    def note(self, text: str) -> None:
        """Show a warning."""
        console = self._out if self._out.is_terminal else self._errors
        console.print(f"trackbus: {text}")

    def _print(self, text: str) -> None:
        self._out.print(text)

    def _resumed_line(self, fact: RunResumed) -> str:
        if fact.completed < self._config.rounds:
            return f"going on with {fact.run} at round {fact.completed + 1}/{self._config.rounds}"
        return f"{fact.run} is complete after {count_of(fact.completed, 'round')}: train on with a larger --rounds"

    def _round_line(self, metrics: RoundMetrics) -> str:
        head = f"round {metrics.round + 1}/{self._config.rounds}"
        found = f"loss {metrics.loss:#.4g}  accuracy {metrics.accuracy:.3f}"
        return f"{head}  {found}  ({_sites(metrics)})"

    # --- at the end ---------------------------------------------------------------------------------------------

    def print_events(self, reports: Mapping[str, Report], accounts: Sequence[Account]) -> Outcome:
        """Print what became of the events, and return what is not stored."""
        if accounts:
            self._out.print(_table(accounts))
        for note in _notes(reports):
            self._print(note)
        outcome = _outcome(reports, accounts)
        self._print_what_to_do(outcome, {one.tracker for one in accounts if one.late})
        self._print_looks(reports)
        return outcome

    def _print_what_to_do(self, outcome: Outcome, late: Collection[str]) -> None:
        workspace = shlex.quote(str(self._config.workspace))
        if outcome.late:
            self._print(
                f"{outcome.late} are late: they stay in the journal, and are stored when the workspace is opened again"
            )
            self._print("why, and store them now:")
            self._print(f"  trackbus status {workspace}")
        for name in sorted(late):
            self._print(f"  trackbus replay {workspace} --to {name} --name {name}")
        if outcome.lost:
            self._print(f"{outcome.lost} are lost to a tracker; why: trackbus status {workspace}")

    def _print_looks(self, reports: Mapping[str, Report]) -> None:
        server = reports.get(SERVER)
        looks = [line.look for line in server.lines if line.look] if server else []
        if looks:
            self._print("look at it:")
        for look in [*looks, *(_pages(server) if server else ())]:
            self._print(f"  {look}")

    def print_result(self, result: FederationResult) -> None:
        """Print where the best model is."""
        if result.best is None:
            return
        whose = f"round {result.best.round + 1}" if result.best_is_new else "of an earlier run: none was better"
        self._print(f"best model: {result.best_path} (accuracy {result.best.value:.3f}, {whose})")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What of the events published is not stored; both count an event once per tracker that lacks it.

    Attributes:
        lost: Refused, dropped, or left to a handler that raised: gone.
        late: On disk, and stored later.
    """

    lost: int
    late: int


def _outcome(reports: Mapping[str, Report], accounts: Sequence[Account]) -> Outcome:
    lines = [line for report in reports.values() for line in report.lines]
    refused = sum(sum(report.refused.values()) for report in reports.values())
    lost = refused + sum(line.lost for line in lines)
    late = sum(one.late for one in accounts) or sum(line.left for line in lines)
    return Outcome(max(lost, sum(one.dropped for one in accounts)), late)


def _pages(report: Report) -> Iterable[str]:
    """The runs that have a page of their own."""
    for line in report.lines:
        pages = {name: run.url for name, run in line.runs.items() if run.url.startswith("http")}
        yield from (f"{line.name} {name}: {url}" for name, url in sorted(pages.items()))


def _sites(metrics: RoundMetrics) -> str:
    found = {site: one.get("validation_accuracy") for site, one in metrics.sites.items()}
    known = {site: value for site, value in found.items() if value is not None}
    if len(known) > NAMED_SITES:
        return f"sites {min(known.values()):.3f} to {max(known.values()):.3f}"
    return ", ".join(f"{site} {value:.3f}" for site, value in known.items())


def _table(accounts: Iterable[Account]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("site", "tracker"):
        table.add_column(name)
    for name in ("published", "stored", "late", "dropped"):
        table.add_column(name, justify="right")
    for one in accounts:
        figures = (one.published, one.stored, one.late, one.dropped)
        style = "" if one.stored == one.published else "yellow"
        table.add_row(Text(one.site), Text(one.tracker), *map(str, figures), style=style)
    return table


def _notes(reports: Mapping[str, Report]) -> Iterable[str]:
    """What went otherwise than it should, by site and receiver."""
    for site, report in reports.items():
        yield from (f"{site}: {count} refused ({cause})" for cause, count in report.refused.items())
        yield from (f"{site}: {line.name}: {note}" for line in report.lines for note in line.notes)
        if not report.drained:
            yield f"{site}: the time to store the rest was up"
