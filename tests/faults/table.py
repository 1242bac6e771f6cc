"""The campaign's result as a person reads it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from faults.audit import Verdict
from faults.stage import Outcome, Strike
from rich.table import Table


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What became of one seed.

    Attributes:
        seed: Which.
        trackers: Receivers at the server.
        events: Log calls that had returned.
        verdict: What the trackers hold, over all of them.
        outcome: What the referee saw.
        seconds: How long it took.
    """

    seed: int
    trackers: tuple[str, ...]
    events: int
    verdict: Verdict
    outcome: Outcome
    seconds: float

    @property
    def bitten(self) -> list[Strike]:
        return [strike for strike in self.outcome.strikes if strike.bit is not None]

    @property
    def clean(self) -> bool:
        return self.verdict.clean and not self.outcome.left and not self.outcome.broken

    @property
    def problems(self) -> list[str]:
        return [*self.verdict.where, *self.outcome.left, *self.outcome.broken]


def result_table(results: Sequence[SeedResult]) -> Table:
    """One line per seed, and their sum; only faults that bit are counted, and values are counted in every tracker."""
    table = Table(title="faults at random", title_justify="left", show_footer=True)
    total = [_row(result) for result in results]
    sums = [sum(row[column] for row in total) for column in range(len(HEADS))]
    table.add_column("seed", "all")
    table.add_column("trackers at the server")
    for head, figure in zip(HEADS, sums, strict=True):
        table.add_column(head, str(figure), justify="right")
    for result, row in zip(results, total, strict=True):
        table.add_row(str(result.seed), " ".join(result.trackers), *map(str, row))
    return table


HEADS = (
    *("faults", "bit", "on SDKs", "events", "values"),
    *("lost", "doubled", "reordered", "foreign", "left", "broken", "s"),
)
"""`values` are those that the trackers must hold, over all of them; `foreign` were never logged there, `left` processes
that outlived everything, `broken` what the referee saw go wrong otherwise."""


def _row(result: SeedResult) -> list[int]:
    verdict, outcome = result.verdict, result.outcome
    return [
        len(outcome.strikes),
        len(result.bitten),
        sum(strike.fault.hits_sdk() for strike in result.bitten),
        result.events,
        verdict.expected,
        verdict.lost,
        verdict.doubled,
        verdict.reordered,
        verdict.foreign,
        len(outcome.left),
        len(outcome.broken),
        round(result.seconds),
    ]


def kinds_table(results: Sequence[SeedResult]) -> Table:
    """One line per kind of fault: how many bit, and how long until another process served or the order was obeyed."""
    table = Table(title="by kind", title_justify="left")
    for head in ("fault", "struck", "bit", "median s", "longest s"):
        table.add_column(head, justify="left" if head == "fault" else "right")
    strikes = [strike for result in results for strike in result.outcome.strikes]
    struck = Counter(_kind(strike) for strike in strikes)
    for kind in sorted(struck):
        took = [one.bit - one.at for one in strikes if _kind(one) == kind and one.bit is not None]
        figures = (f"{statistics.median(took):.1f}", f"{max(took):.1f}") if took else ("", "")
        table.add_row(kind, str(struck[kind]), str(len(took)), *figures)
    return table


def _kind(strike: Strike) -> str:
    fault = strike.fault
    if fault.kind in ("sink", "everything"):
        return f"{fault.kind}: {fault.target}"
    return f"{fault.kind}: {fault.target.rpartition('/')[2]}" if strike.victim else f"{fault.kind}"
