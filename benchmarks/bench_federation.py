"""What tracking costs a federated training: the same rounds with three trackers and without a bus, in turns.

Two sites train in one process, one torch thread each. With tracking, each site logs to a bus of its own, a relay
carries it to the server's bus, and a worker process each for W&B (offline), MLflow and TensorBoard stores it. Time
counts from the first step's order, which waits until the workers have stored a first event, to the last answer.
"""

import contextlib
import os
import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from paired import Table, in_turns, options, ratio

from receivers import MLflowReceiver, Receiver, TensorBoardReceiver, WandBReceiver
from training.federation import (
    FederationConfig,
    FederationResult,
    Progress,
    RoundDone,
    TrainingDone,
    run_federation,
)

READY_TIMEOUT = 180.0
"""Seconds: three SDKs are imported on a machine that may be busy."""

LOCAL_EPOCHS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run is, and how often it logs."""

    rounds: int
    log_every: int


@dataclass(frozen=True, slots=True)
class Clocks:
    """Wall time; CPU of the trainer's process, of all that it started, and of the thread that asks: the bus's loop."""

    wall: float
    trainer: float
    workers: float
    loop: float

    @classmethod
    def now(cls) -> "Clocks":
        return cls(time.perf_counter(), time.process_time(), cpu_of_descendants(), time.thread_time())

    def since(self, earlier: "Clocks") -> "Clocks":
        return Clocks(
            wall=self.wall - earlier.wall,
            trainer=self.trainer - earlier.trainer,
            workers=self.workers - earlier.workers,
            loop=self.loop - earlier.loop,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One training, and its clocks from the end of the first round to that of the last."""

    result: FederationResult
    later_rounds: Clocks

    @property
    def seconds(self) -> float:
        return self.result.training_seconds

    @property
    def events(self) -> int:
        return sum({account.site: account.published for account in self.result.accounts}.values())


def cpu_of_descendants() -> float:
    """Return the seconds of CPU that this process's living descendants have used."""
    stats: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended in between
            fields = path.read_text().rpartition(")")[2].split()
            stats[int(path.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    found = {os.getpid()}
    while more := {pid for pid, (parent, _) in stats.items() if parent in found} - found:
        found |= more
    return sum(stats[pid][1] for pid in found - {os.getpid()}) / os.sysconf("SC_CLK_TCK")


def receivers() -> list[Receiver]:
    wandb = WandBReceiver(mode="offline", wandb_args={"project": "bench"})
    return [wandb, MLflowReceiver(), TensorBoardReceiver()]


def train(plan: Plan, *, tracked: bool) -> Run:
    clocks: list[Clocks] = []

    def tell(progress: Progress) -> None:  # both are told by the loop's thread
        if isinstance(progress, RoundDone | TrainingDone):
            clocks.append(Clocks.now())

    with tempfile.TemporaryDirectory() as folder:
        config = FederationConfig(
            workspace=Path(folder) / "bench",
            rounds=plan.rounds,
            local_epochs=LOCAL_EPOCHS,
            log_every=plan.log_every,
            ready_timeout=READY_TIMEOUT,
        )
        trackers = receivers() if tracked else []

        async def run() -> FederationResult:
            return await run_federation(config, receivers=trackers, tracking=tracked, on_progress=tell)

        return Run(anyio.run(run), clocks[-1].since(clocks[0]))


def problem_with(runs: Sequence[Run]) -> str:
    """Say whether anything that was logged is not in every tracker: what is not stored costs nothing."""
    accounts = [account for run in runs for account in run.result.accounts]
    missing = sum(account.late + account.dropped for account in accounts)
    return "" if accounts and not missing else f"{missing} are not"


def parser() -> ArgumentParser:
    found = options(__doc__)
    found.add_argument("--rounds", type=int, help="rounds of a run")
    found.add_argument("--pairs", type=int, help="runs of each kind")
    found.add_argument("--log-every", type=int, default=5, help="steps between two that are logged")
    return found


def show_time(table: Table, plain: Sequence[Run], tracked: Sequence[Run]) -> None:
    seconds, others = [run.seconds for run in tracked], [run.seconds for run in plain]
    for number, (one, other) in enumerate(zip(others, seconds, strict=True), start=1):
        table.row(f"pair {number}: without / with tracking", f"{one:.2f} / {other:.2f}", unit="s")
    medians = statistics.median(others), statistics.median(seconds)
    table.row("median: without / with tracking", f"{medians[0]:.2f} / {medians[1]:.2f}", unit="s")
    table.row("with over without, pair by pair", ratio(seconds, others))
    table.target("with over without, ratio of the medians", medians[1] / medians[0], 1.10)
    table.row("time in training, all runs", f"{sum(seconds) + sum(others):.0f}", unit="s")


def show_cost(table: Table, plain: Sequence[Run], tracked: Sequence[Run]) -> None:
    """Print what other work on the machine disturbs less than the time."""
    bare = [run.later_rounds.trainer for run in plain]
    table.row("trainer's CPU, with over without", ratio([run.later_rounds.trainer for run in tracked], bare))
    both = [run.later_rounds.trainer + run.later_rounds.workers for run in tracked]
    table.row("CPU of trainer and workers, with over without", ratio(both, bare))
    table.row("of it: the bus's loop", f"{per_event(tracked, lambda one: one.loop):.2f}", unit="ms an event")
    table.row("of it: the workers", f"{per_event(tracked, lambda one: one.workers):.2f}", unit="ms an event")
    table.row("events in a run", tracked[0].events)
    table.row("events a second, median", f"{statistics.median(run.events / run.seconds for run in tracked):.0f}")
    ready = statistics.median(run.result.ready_seconds for run in tracked)
    table.row("until the workers were ready, median", f"{ready:.1f}", unit="s")
    table.claim("every event is in every tracker", problem_with(tracked))


def per_event(runs: Sequence[Run], cpu: Callable[[Clocks], float]) -> float:
    """Return milliseconds of CPU per event, the median run's."""
    share = (runs[0].result.rounds[-1].round) / len(runs[0].result.rounds)  # of the rounds that the clocks cover
    return statistics.median(cpu(run.later_rounds) / (run.events * share) for run in runs) * 1e3


def main() -> None:
    args = parser().parse_args()
    plan = Plan(args.rounds or (2 if args.quick else 32), args.log_every)
    pairs = args.pairs or (1 if args.quick else 3)
    train(Plan(1, 1), tracked=False)  # warms up
    table = Table(f"two sites, {plan.rounds} rounds, every {plan.log_every}. step logged; {pairs} pairs of runs")
    runs = in_turns({"without": lambda: train(plan, tracked=False), "with": lambda: train(plan, tracked=True)}, pairs)
    show_time(table, runs["without"], runs["with"])
    show_cost(table, runs["without"], runs["with"])
    table.finish()


if __name__ == "__main__":
    main()
