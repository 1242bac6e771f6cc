"""What tracking costs a federated training: the same rounds with three trackers and without a bus, in turns.

Two sites train in one process, one torch thread each. With tracking, each site logs to a bus of its own, a relay
carries it to the server's bus, and a worker process each for W&B (offline), MLflow and TensorBoard stores it. Time
counts from the first step's order, which waits until the workers have stored a first event, to the last answer.
"""

import math
import statistics
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from paired import Table, in_turns, options, ratio

from receivers import MLflowReceiver, Receiver, TensorBoardReceiver, WandBReceiver
from training.federation import FederationConfig, FederationResult, run_federation

READY_TIMEOUT = 180.0
"""Seconds: three SDKs are imported on a machine that may be busy."""

LOCAL_EPOCHS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run is, and how often it logs."""

    rounds: int
    log_every: int


def receivers() -> list[Receiver]:
    wandb = WandBReceiver(mode="offline", wandb_args={"project": "bench"})
    return [wandb, MLflowReceiver(), TensorBoardReceiver()]


def train(plan: Plan, *, tracked: bool) -> FederationResult:
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
            return await run_federation(config, receivers=trackers, tracking=tracked)

        return anyio.run(run)


def rounds_in(seconds: float) -> int:
    """Measure a short training, and return how many rounds take at least so long."""
    train(Plan(1, 1), tracked=False)  # warms up
    per_round = min(train(Plan(2, 1), tracked=False).training_seconds for _ in range(2)) / 2
    return math.ceil(seconds / per_round)


def problem_with(results: Sequence[FederationResult]) -> str:
    """Say whether anything that was logged is not in every tracker: what is not stored costs nothing."""
    accounts = [account for result in results for account in result.accounts]
    missing = sum(account.late + account.dropped for account in accounts)
    return "" if accounts and not missing else f"{missing} events are not"


def parser() -> ArgumentParser:
    found = options(__doc__)
    found.add_argument("--log-every", type=int, default=5, help="steps between two that are logged")
    found.add_argument("--pairs", type=int, default=0, help="runs of each kind")
    return found


def main() -> None:
    args = parser().parse_args()
    pairs = args.pairs or (1 if args.quick else 4)
    plan = Plan(rounds_in(2.0 if args.quick else 10.0), args.log_every)
    table = Table(f"two sites, {plan.rounds} rounds, every {plan.log_every}th step logged; {pairs} pairs of runs")
    results = in_turns(
        {"plain": lambda: train(plan, tracked=False), "tracked": lambda: train(plan, tracked=True)}, pairs
    )
    plain, tracked = ([result.training_seconds for result in results[kind]] for kind in ("plain", "tracked"))
    for number, (one, other) in enumerate(zip(plain, tracked, strict=True), start=1):
        table.row(f"pair {number}: plain / tracked", f"{one:.2f} / {other:.2f}", unit="s")
    table.row("median: plain / tracked", f"{statistics.median(plain):.2f} / {statistics.median(tracked):.2f}", unit="s")
    table.row("tracked over plain, pair by pair", ratio(tracked, plain))
    table.target("tracked over plain, ratio of medians", statistics.median(tracked) / statistics.median(plain), 1.10)
    table.row("training in all", f"{sum(plain) + sum(tracked):.0f}", unit="s")
    last = results["tracked"][-1]
    table.row("events a second, last run", f"{events(last) / last.training_seconds:.0f}")
    table.row("until the workers were ready, last run", f"{last.ready_seconds:.1f}", unit="s")
    table.claim("every event is in every tracker", problem_with(results["tracked"]))
    table.finish()


def events(result: FederationResult) -> int:
    published = {account.site: account.published for account in result.accounts}
    return sum(published.values())


if __name__ == "__main__":
    main()
