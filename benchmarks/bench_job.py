"""What a job costs beside the torch work in it: its start, its end, its rounds, and the memory of its server.

A job is started as its users start it: `python job.py`, two sites on the digits, each in a process of its own. Beside
it stand plain loops: the same torch work in two processes that know nothing of each other.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paired import Table, in_turns, options, ratio

SCRIPTS = Path(__file__).parent / "scripts"

TRACKERS = "wandb,mlflow,tensorboard"

FIRST_OPTIMIZER = "import torch; torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)"

TIMEOUT = 300.0
"""Seconds: a job that takes longer hangs."""


@dataclass(frozen=True, slots=True)
class Times:
    """What the job's process and its sites wrote down; seconds of one clock."""

    job: dict[str, float]
    sites: dict[str, dict[str, float]]

    @property
    def training(self) -> float:
        return self.last_answer - min(site["received"] for site in self.sites.values())

    @property
    def last_answer(self) -> float:
        return max(site["sent"] for site in self.sites.values())

    @property
    def end(self) -> float:
        return self.job["ended"] - self.last_answer


def run_job(*arguments: str) -> Times:
    with tempfile.TemporaryDirectory() as folder:
        job = [sys.executable, str(SCRIPTS / "job.py"), "--workspace", folder, *arguments]
        done = subprocess.run(job, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if done.returncode:
            sys.exit(f"the job failed:\n{done.stdout}\n{done.stderr}")
        check_stored(Path(folder) / "bench", arguments)
        found = {file.stem: json.loads(file.read_text()) for file in (Path(folder) / "times").glob("*.json")}
    return Times(found.pop("job"), found)


def check_stored(workspace: Path, arguments: Sequence[str]) -> None:
    """End the benchmark unless every tracker has all that every site has logged: what is not stored costs nothing."""
    status = [sys.executable, "-P", "-m", "training.cli", "status", "--json", str(workspace)]
    found = json.loads(subprocess.run(status, capture_output=True, text=True, check=True).stdout)["workspaces"][0]
    logged = sum(partition["events"] for partition in found["partitions"])
    stored = {one["name"]: sum(one["stored"].values()) for one in found["consumers"]}
    wanted = dict.fromkeys(TRACKERS.split(",") if TRACKERS in arguments else (), logged)
    if stored != wanted or (wanted and not logged):
        sys.exit(f"{logged} events are logged, and stored are {stored}")


def run_plain(rounds: int, epochs: int) -> float:
    """Return the seconds that two plain loops train, side by side."""
    with tempfile.TemporaryDirectory() as folder:
        common = ["--times", folder, "--rounds", str(rounds), "--epochs", str(epochs)]
        loops = [
            subprocess.Popen([sys.executable, str(SCRIPTS / "plain.py"), "--site", str(site), *common])
            for site in range(2)
        ]
        for loop in loops:
            loop.wait(TIMEOUT)
        found = [json.loads(file.read_text()) for file in Path(folder).glob("*.json")]
    return max(one["trained"] for one in found) - min(one["ready"] for one in found)


def run_torch() -> float:
    """Return the seconds that a bare process takes to import torch and make its first optimizer."""
    code = f"import time; a = time.monotonic(); {FIRST_OPTIMIZER}; print(time.monotonic() - a)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def run_simulator() -> float:
    """Return the seconds from the start of `trackbus simulator JOB` to every site's first step."""
    with tempfile.TemporaryDirectory() as folder:
        export = [sys.executable, str(SCRIPTS / "job.py"), "--workspace", folder, "--trackers", TRACKERS, "--export"]
        subprocess.run(export, check=True, capture_output=True)
        job, run = str(Path(folder) / "bench"), str(Path(folder) / "run")
        command = [sys.executable, "-P", "-m", "training.cli", "simulator", job, "-n", "2", "-w", run]
        started = time.monotonic()
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
        sites = [json.loads(file.read_text()) for file in (Path(folder) / "times").glob("site-*.json")]
    return max(site["stepped"] for site in sites) - started


def show_start(table: Table, pairs: int) -> None:
    cases: dict[str, Callable[[], float]] = {"torch": run_torch, "simulator": run_simulator}
    seconds = {name: statistics.median(found) for name, found in in_turns(cases, pairs).items()}
    table.row("import torch, first optimizer", f"{seconds['torch']:.2f}", unit="s")
    table.row("trackbus simulator to every site's first step", f"{seconds['simulator']:.2f}", unit="s")
    table.target("the start beyond torch", seconds["simulator"] - seconds["torch"], 2.0, unit="s")
    show_start_of_script(table, seconds["torch"], [run_job("--trackers", TRACKERS) for _ in range(pairs)])


def show_start_of_script(table: Table, torch: float, jobs: Sequence[Times]) -> None:
    """Print the start of `python job.py`, which loads torch itself before it has a job."""
    stepped = [max(site["stepped"] for site in job.sites.values()) for job in jobs]
    from_script = [step - job.job["started"] for step, job in zip(stepped, jobs, strict=True)]
    from_run = [step - job.job["began"] for step, job in zip(stepped, jobs, strict=True)]
    table.row("python job.py to every site's first step", f"{statistics.median(from_script):.2f}", unit="s")
    table.target("from recipe.execute(), beyond torch", statistics.median(from_run) - torch, 2.0, unit="s")


def show_rounds(table: Table, pairs: int, epochs: int) -> None:
    tracked: list[Times] = []

    def run_tracked() -> float:
        tracked.append(run_job("--epochs", str(epochs), "--trackers", TRACKERS))
        return tracked[-1].training

    cases: dict[str, Callable[[], float]] = {
        "plain": lambda: run_plain(2, epochs),
        "job": lambda: run_job("--epochs", str(epochs)).training,
        "tracked": run_tracked,
    }
    runs = in_turns(cases, pairs)
    table.row("2 sites x 2 rounds, plain loops", f"{statistics.median(runs['plain']):.2f}", unit="s")
    table.target("job over plain loops, no tracker", ratio(runs["job"], runs["plain"]), 1.10)
    table.row("job over plain loops, three trackers", ratio(runs["tracked"], runs["plain"]))
    table.target("last answer to exit, all stored", statistics.median(one.end for one in tracked), 3.0, unit="s")


def show_memory(table: Table, sites: Sequence[int]) -> None:
    peaks = {count: run_job("--script", "tiny", "--sites", str(count)).job["peak_mib"] for count in sites}
    for count, peak in peaks.items():
        table.row(f"server's process, {count} sites, peak", f"{peak:.0f}", unit="MiB")
    table.target(f"{sites[-1]} sites over {sites[0]}", peaks[sites[-1]] / peaks[sites[0]], 1.20)


def main() -> None:
    args = options(__doc__).parse_args()
    pairs = 1 if args.quick else 3
    table = Table(f"a job of two sites beside plain loops, {pairs} pairs of runs")
    show_start(table, pairs)
    show_rounds(table, pairs, 2 if args.quick else 30)
    show_memory(table, (2, 10) if args.quick else (2, 50))
    table.finish()


if __name__ == "__main__":
    main()
