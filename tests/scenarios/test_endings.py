"""However a trainer ends, and however it held its bus: every tracker says how, and why where that can be known."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from mlflow_stores import put_mlflow_store
from readback import read_jsonl, read_mlflow_runs, read_tensorboard, read_wandb_runs

from eventbus import EventBus, Report
from eventbus.tracking import TRACKING
from eventbus.workspace import ENVIRONMENT
from receivers import JsonlReceiver, MLflowReceiver, Receiver, TensorBoardReceiver, WandBReceiver, WorkerPolicy
from receivers._processes import marked_processes

ROOT = Path(__file__).resolve().parents[2]
VANISHED = "the writing process vanished"
TRACKERS = ("wandb", "mlflow", "tensorboard", "jsonl")


@dataclass(frozen=True)
class Ending:
    """A way to end.

    Attributes:
        code: What the trainer does last.
        exit_code: Of the process.
        status: Of the run.
        reason: Regular expression for why.
    """

    code: str
    exit_code: int
    status: str
    reason: str = ""


WAIT = "os.write(1, b'ready'); time.sleep(60)"
ENDINGS = {
    "returns": Ending("pass", 0, "FINISHED"),
    "raises": Ending("raise ValueError('bad loss')", 1, "FAILED", "ValueError: bad loss"),
    "exits": Ending("sys.exit(3)", 3, "FAILED", "exit code 3"),
    "interrupted": Ending(WAIT, -signal.SIGINT, "KILLED", "KeyboardInterrupt|CancelledError"),
    "terminated": Ending(WAIT, -signal.SIGTERM, "KILLED", VANISHED),
    "killed": Ending(WAIT, -signal.SIGKILL, "KILLED", VANISHED),
    "gone": Ending("os._exit(7)", 7, "KILLED", VANISHED),
    "cancelled": Ending("raise_when_cancelled()", 0, "KILLED", "CancelledError"),
}
SIGNALS = {"interrupted": signal.SIGINT, "terminated": signal.SIGTERM, "killed": signal.SIGKILL}

PROGRAM = """
import os, sys, time
import anyio
from eventbus import EventBus
from eventbus.tracking import TRACKING
from writers import TrackingWriter

workspace, run = sys.argv[1:3]

def train():
    writer = TrackingWriter(run=run)
    for step in range(3):
        writer.log({{"loss": float(step)}}, step=step)

{body}
"""

HOLDS = {
    "background": """
with EventBus(workspace, site="site-1", job="endings", run=run).background():
    train()
    {code}
""",
    "async with": """
async def main():
    with anyio.CancelScope() as scope:
        async with EventBus(workspace, site="site-1", job="endings", run=run):
            train()
            if "cancelled" in run:
                scope.cancel()
                await anyio.sleep_forever()
            elif {waits}:
                os.write(1, b"ready")
                await anyio.sleep(60)
            else:
                {code}
anyio.run(main)
""",
    "never left": """
held = EventBus(workspace, site="site-1", job="endings", run=run).background()
held.__enter__()
train()
{code}
""",
    "environment": """
train()
{code}
""",
}
"""How a trainer holds its bus."""

CASES = [(hold, name) for hold in HOLDS for name in ENDINGS if name != "cancelled" or hold == "async with"]


def run_name(hold: str, name: str) -> str:
    return f"{hold}-{name}".replace(" ", "-")


def start(workspace: Path, hold: str, name: str, program: str = PROGRAM) -> subprocess.Popen[bytes]:
    ending, run = ENDINGS[name], run_name(hold, name)
    body = HOLDS[hold].format(code=ending.code, waits=ending.code == WAIT)
    address = {"workspace": str(workspace), "site": "site-1", "job": "endings", "run": run}
    named = {ENVIRONMENT: json.dumps(address)} if hold == "environment" else {}
    return subprocess.Popen(
        [sys.executable, "-c", program.format(body=body), str(workspace), run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **named},
    )


def end(trainer: subprocess.Popen[bytes], name: str) -> None:
    with trainer:
        assert trainer.stdout is not None
        if name in SIGNALS and trainer.stdout.read(5) == b"ready":
            trainer.send_signal(SIGNALS[name])
        _, errors = trainer.communicate(timeout=100)
    assert trainer.returncode == ENDINGS[name].exit_code, (name, errors.decode())


def four() -> list[Receiver]:
    return [WandBReceiver(), MLflowReceiver(), TensorBoardReceiver(), JsonlReceiver()]


Told = dict[str, tuple[str, str]]
"""Status and reason by run."""


def in_wandb(workspace: Path) -> Told:
    codes = {0: "FINISHED", 1: "FAILED", 255: "KILLED"}
    told: Told = {}
    for run in read_wandb_runs(workspace / "wandb"):
        ours = run.config.get("trackbus", {})
        assert run.exit_code is not None
        assert ours.get("status") == codes[run.exit_code], run
        told[run.name.removeprefix("site-1-")] = ours["status"], ours.get("reason", "")
    return told


def in_mlflow(workspace: Path) -> Told:
    runs = read_mlflow_runs(workspace / "mlflow.db")
    return {run.name.removeprefix("site-1-"): (run.status, run.tags.get("trackbus.reason", "")) for run in runs}


def in_tensorboard(workspace: Path) -> Told:
    told: Told = {}
    for row in read_tensorboard(workspace / "tensorboard"):
        if row.key == "run/status/text_summary":
            status, _, reason = str(row.value).partition(": ")
            told[row.run.removesuffix("/site-1")] = status, reason
    return told


def in_jsonl(workspace: Path) -> Told:
    lines = [line.value for line in read_jsonl(workspace / "jsonl")]
    return {line["run"]: (line["status"], line["reason"]) for line in lines if line["type"] == "RunStatus"}


READERS: dict[str, Callable[[Path], Told]] = {
    "wandb": in_wandb,
    "mlflow": in_mlflow,
    "tensorboard": in_tensorboard,
    "jsonl": in_jsonl,
}


async def deliver(workspace: Path) -> Report:
    async with EventBus(workspace, site="late", drain_idle_timeout=100, drain_timeout=100) as bus:
        for receiver in four():
            bus.subscribe(TRACKING, receiver)
    return bus.report()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A workspace in which a trainer ended in every way, and what the four trackers made of it."""
    workspace = put_mlflow_store(tmp_path_factory.mktemp("endings"))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda case: end(start(workspace, *case), case[1]), CASES))
    return workspace, anyio.run(deliver, workspace)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("tracker", TRACKERS)
def test_every_tracker_says_how_every_trainer_ended(ended: tuple[Path, Report], tracker: str) -> None:
    workspace, report = ended
    assert report.complete, str(report)
    told = READERS[tracker](workspace)
    assert set(told) == {run_name(*case) for case in CASES}
    for hold, name in CASES:
        status, reason = told[run_name(hold, name)]
        expected = ENDINGS[name]
        assert status == expected.status, (hold, name, reason)
        assert re.fullmatch(expected.reason, reason), (hold, name, reason)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", TRACKERS)
def test_runs_are_reported_as_the_tracker_calls_them(ended: tuple[Path, Report], tracker: str) -> None:
    workspace, report = ended
    runs = report.line(tracker).runs
    assert set(runs) == {f"site-1/{run_name(*case)}" for case in CASES}
    if tracker == "mlflow":
        known = {
            f"site-1/{run.name.removeprefix('site-1-')}": run.run_id
            for run in read_mlflow_runs(workspace / "mlflow.db")
        }
        assert {name: run.id for name, run in runs.items()} == known
        assert {run.url for run in runs.values()} == {f"sqlite:///{workspace / 'mlflow.db'}"}
        return
    if tracker == "wandb":
        known = {(run.run_id, str(run.path.parent)) for run in read_wandb_runs(workspace / "wandb")}
        assert {(run.id, run.url) for run in runs.values()} == known
    assert all(Path(run.url).exists() for run in runs.values())
    assert len({run.url for run in runs.values()}) == len(CASES)


ATTACHED = PROGRAM.replace(
    "def train():\n",
    """from scenarios.test_endings import POLICY, four

def train():
    from eventbus._current import current_bus
    receivers = four()
    for receiver in receivers:
        receiver.worker_policy = POLICY
        current_bus().subscribe(TRACKING, receiver)
    while any(receiver.statistics().state in ("new", "starting") for receiver in receivers):
        time.sleep(0.05)
""",
)
POLICY = WorkerPolicy(orphan_timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_workers_of_a_killed_trainer_say_so_by_themselves(tmp_path: Path) -> None:
    trainer = start(put_mlflow_store(tmp_path), "background", "killed", ATTACHED)
    end(trainer, "killed")
    files = [str(tmp_path / "cursors" / f"{tracker}.db") for tracker in TRACKERS]
    deadline = time.monotonic() + 120
    while any(marked_processes(file) for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for tracker in TRACKERS:
        assert READERS[tracker](tmp_path) == {"background-killed": ("KILLED", VANISHED)}, tracker
