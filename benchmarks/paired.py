"""What the benchmarks share: cases that take turns, percentiles, and a plain table with a target beside each figure.

A machine's other work comes and goes, so two cases measured one after the other differ by that alone. Here they take
turns in short rounds of one run, and what counts is the median of the ratios within a round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

T = TypeVar("T")

US = 1e3  # nanoseconds


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ours over another, once per round: the median, and the middle 80 % of the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} .. {self.high:.2f})"


def options(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a run of seconds: fewer rounds, wider spread")
    return parser


def in_turns(cases: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Run every case once per round; each round turns the order of the one before."""
    order = list(cases)
    results: dict[str, list[T]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name in order:
            results[name].append(cases[name]())
        order.reverse()
    return results


def timed(call: Callable[[T], object], arguments: Iterable[T]) -> list[float]:
    """Return what each call took, in nanoseconds."""
    clock = time.perf_counter_ns
    times: list[float] = []
    for argument in arguments:
        started = clock()
        call(argument)
        times.append(clock() - started)
    return times


def percentile(values: Iterable[float], percent: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * percent / 100))]


def p50_p99(rounds: Iterable[Iterable[float]], unit: float = US) -> str:
    """Return p50 and p99 of all rounds' calls together."""
    pooled = [value for one in rounds for value in one]
    return f"{percentile(pooled, 50) / unit:.1f} / {percentile(pooled, 99) / unit:.1f}"


def ratio(ours: Sequence[float], others: Sequence[float]) -> Ratio:
    """Compare round with round."""
    ratios = [one / other for one, other in zip(ours, others, strict=True)]
    return Ratio(statistics.median(ratios), percentile(ratios, 10), percentile(ratios, 90))


def ratio_of_p50(ours: Iterable[Sequence[float]], others: Iterable[Sequence[float]]) -> Ratio:
    """Compare round with round, each by the median of its calls."""
    return ratio([statistics.median(one) for one in ours], [statistics.median(one) for one in others])


class Table:
    """Prints one figure a line, and knows whether a target was missed."""

    def __init__(self, title: str) -> None:
        self._missed = False
        print(f"{title}\n")
        print(f"{'':<56} {'figure':>22} {'target':>9}")

    def row(self, what: str, figure: object, *, unit: str = "") -> None:
        """Print a figure that has no target."""
        print(f"{what:<56} {f'{figure} {unit}'.rstrip():>22}", flush=True)

    def target(self, what: str, value: float | Ratio, most: float, *, unit: str = "") -> None:
        """Print a figure that must be `most` at most."""
        number = value.median if isinstance(value, Ratio) else value
        is_met = number <= most
        self._missed |= not is_met
        figure = f"{value}" if isinstance(value, Ratio) else f"{value:.3g} {unit}".rstrip()
        print(f"{what:<56} {figure:>22} {f'<= {most:g}':>9}  {'ok' if is_met else 'MISSED'}", flush=True)

    def claim(self, what: str, problem: str = "") -> None:
        """Print something that must hold; `problem` says why it does not."""
        self._missed |= bool(problem)
        print(f"{what:<56} {problem or 'yes':>22} {'yes':>9}  {'MISSED' if problem else 'ok'}", flush=True)

    def finish(self) -> NoReturn:
        """End the script: with 1 if a target was missed."""
        print()
        sys.exit(int(self._missed))  # an int: W&B's own exit hook refuses a bool
