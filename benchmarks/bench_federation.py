"""What tracking costs a federated training: the same rounds with three trackers and without a bus, in turns.

Two sites train in one process, one torch thread each. With tracking, each site logs to a bus of its own, a relay
carries it to the server's bus, and a worker process each for W&B (offline), MLflow and TensorBoard stores it. Time
counts from the first step's order, which waits until the workers have stored a first event, to the last answer.
"""

import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
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
    """Wall time, CPU of the trainer's process, and CPU of the thread that asks: the bus's loop."""

    wall: float
    process: float
    loop: float

    @classmethod
    def now(cls) -> "Clocks":
        return cls(time.perf_counter(), time.process_time(), time.thread_time())

    def since(self, earlier: "Clocks") -> "Clocks":
        return Clocks(self.wall - earlier.wall, self.process - earlier.process, self.loop - earlier.loop)


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
    cpu = ratio([run.later_rounds.process for run in tracked], [run.later_rounds.process for run in plain])
    table.row("trainer's CPU, with over without", cpu)
    for name, runs in (("without", plain), ("with", tracked)):
        share = statistics.median(run.later_rounds.loop / run.later_rounds.wall for run in runs)
        table.row(f"loop's CPU {name} tracking", f"{share:.1%}", unit="of a core")
    table.row("events in a run", tracked[0].events)
    table.row("events a second, median", f"{statistics.median(run.events / run.seconds for run in tracked):.0f}")
    ready = statistics.median(run.result.ready_seconds for run in tracked)
    table.row("until the workers were ready, median", f"{ready:.1f}", unit="s")
    table.claim("every event is in every tracker", problem_with(tracked))


def main() -> None:
    args = parser().parse_args()
    plan = Plan(args.rounds or (2 if args.quick else 8), args.log_every)
    pairs = args.pairs or (1 if args.quick else 5)
    train(Plan(1, 1), tracked=False)  # warms up
    table = Table(f"two sites, {plan.rounds} rounds, every {plan.log_every}. step logged; {pairs} pairs of runs")
    runs = in_turns({"without": lambda: train(plan, tracked=False), "with": lambda: train(plan, tracked=True)}, pairs)
    show_time(table, runs["without"], runs["with"])
    show_cost(table, runs["without"], runs["with"])
    table.finish()


if __name__ == "__main__":
    main()
