"""Faults at random against real processes and trackers: `python -P -m faults.campaign --seeds 5 --faults 220`.

For each seed a small federation logs while processes are killed, stopped, hung and crashed at random moments; then
everything may recover, and what the trackers hold is compared with what the publishers know. The exit code is 1 if
anything was lost, doubled, reordered, mixed up or left behind. The same seed gives the same faults.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from faults.audit import Ledger, Verdict, compare
from faults.layout import PUBLISHERS, Layout, read_ledgers
from faults.schedule import make_schedule
from faults.stage import Stage
from faults.stores import TornStoreError, read_store
from faults.table import SeedResult, kinds_table, result_table
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

FILES = ("jsonl", "tensorboard", "ordered")

CASTS = ((*FILES, "mlflow"), (*FILES, "wandb"), FILES, (*FILES, "mlflow", "wandb"), (*FILES, "wandb"))
"""Receivers at the server, seed by seed."""

SECONDS_PER_FAULT = {True: 2.0, False: 1.3}
"""Mean pause between two faults, with a real SDK at the server and without: workers that import one need longer."""

WIDTH = 130
"""Columns of the tables where there is no terminal."""

LEAST_SHARE = 0.7
"""Share of the faults that must bite: a target may be dead already, or an order come too late."""


def run_seed(
    seed: int, folder: Path, *, trackers: tuple[str, ...], faults: int, events: int, progress: Progress
) -> SeedResult:
    """Play one seed and judge it."""
    began = time.monotonic()
    layout = Layout(folder, trackers)
    layout.make()
    has_sdk = bool({"mlflow", "wandb"} & set(trackers))
    seconds = faults * SECONDS_PER_FAULT[has_sdk]
    schedule = make_schedule(seed, layout.cast(), faults, seconds)
    task = progress.add_task(f"seed {seed}: {' '.join(trackers)}", total=faults)
    with closing(Stage(seed, layout, 1.2 * events / len(PUBLISHERS) / seconds)) as stage:
        stage.play(schedule, lambda: count_events(layout) >= events, lambda: progress.advance(task))
        progress.update(task, description=f"seed {seed}: recovers")
        stage.recover()
    (folder / "strikes.txt").write_text("".join(f"{strike.told()}\n" for strike in stage.outcome.strikes))
    progress.update(task, description=f"seed {seed}: is compared")
    ledgers = read_ledgers(layout.ledgers)
    verdict = judge(layout, ledgers)
    progress.remove_task(task)
    published = sum(len(ledger.numbers) for ledger in ledgers.values())
    return SeedResult(seed, trackers, published, verdict, stage.outcome, time.monotonic() - began)


def count_events(layout: Layout) -> int:
    """Count quickly: every line of a ledger but the first lives' is of about the same length."""
    return sum(file.read_bytes().count(b"\n") for file in layout.ledgers.iterdir())


def judge(layout: Layout, ledgers: dict[str, Ledger]) -> Verdict:
    """Compare every tracker of every site with the ledgers."""
    verdict = Verdict()
    for site, trackers in layout.trackers_at.items():
        for tracker in (*trackers, "dead letters") if "ordered" in trackers else trackers:
            expectation = layout.expectation(site, tracker, ledgers)
            try:
                stored = read_store(layout.workspace(site), tracker)
            except TornStoreError as torn:
                verdict += Verdict(lost=1, where=(f"{site}/{tracker} is torn: {torn}",))
                continue
            verdict += compare(f"{site}/{tracker}", expectation, stored)
    return verdict


def run_campaign(args: argparse.Namespace, folder: Path, console: Console) -> list[SeedResult]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results: list[SeedResult] = []
    with Progress(*columns, console=console) as progress:
        for number in range(args.seeds):
            seed = args.first_seed + number
            result = run_seed(
                seed,
                folder / f"seed-{seed}",
                trackers=CASTS[seed % len(CASTS)],
                faults=-(-args.faults // args.seeds),
                events=-(-args.events // args.seeds),
                progress=progress,
            )
            results.append(result)
            progress.console.print(f"seed {seed}: {len(result.bitten)} faults bit, {result.seconds:.0f} s")
            for problem in result.problems:
                progress.console.print(f"seed {seed}: {problem}", style="red", markup=False)
            if result.clean and not args.keep:
                shutil.rmtree(folder / f"seed-{seed}")
    return results


def is_convincing(results: list[SeedResult]) -> bool:
    struck = sum(len(result.outcome.strikes) + result.outcome.missed for result in results)
    return sum(len(result.bitten) for result in results) >= LEAST_SHARE * struck


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--faults", type=int, default=230, help="faults over all seeds")
    parser.add_argument("--events", type=int, default=110_000, help="events over all seeds, at least")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--keep", action="store_true", help="keep the files of clean seeds too")
    return parser


def main() -> None:
    args = options().parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="trackbus-faults-"))
    began = time.monotonic()
    results = run_campaign(args, folder, console)
    console.print(kinds_table(results))
    console.print(result_table(results))
    failed = [result.seed for result in results if not result.clean]
    if failed:
        console.print(f"seeds {failed} are not clean; their files are in {folder}", style="red")
    if not is_convincing(results):
        console.print("too few of the faults have bitten", style="red")
    console.print(f"{time.monotonic() - began:.0f} s in all")
    sys.exit(int(bool(failed) or not is_convincing(results)))


if __name__ == "__main__":
    main()
