"""A trainer is killed and goes on from its last checkpoint, under the same run id: every tracker shows one run.

Its checkpoint is older than its last log call, so some steps are trained and logged again. These are new facts, as true
as the first: every tracker keeps both.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow_stores import put_mlflow_store
from readback import read_jsonl, read_mlflow_runs, read_wandb_runs
from servers.wandb_server import WandBServer
from waiting import wait_until

from scenarios.stores import TRACKERS, stored_metrics

CHECKPOINT, KILLED_AT, LAST = 50, 60, 80
ORPHAN_SECONDS = 40.0

TRAINER = """
import os, signal, sys
from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import JsonlReceiver, MLflowReceiver, TensorBoardReceiver, WandBReceiver
from writers import TrackingWriter

workspace, first, end, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
quick = {"settings": {"x_file_stream_transmit_interval": 0.2}}
with EventBus(workspace, site="site-1", job="job", run="X", drain_timeout=200).background() as bus:
    trackers = [WandBReceiver(mode, quick)]
    if mode == "offline":
        trackers += [MLflowReceiver(), TensorBoardReceiver(), JsonlReceiver()]
    for one in trackers:
        bus.subscribe(TRACKING, one)
    writer = TrackingWriter()
    writer.log_params({"lr": 0.1})
    for step in range(first, end):
        receipt = writer.log({"loss": step + (0.5 if first else 0.0)}, step=step)
    receipt.wait_delivered(100)
    print("stored", flush=True)
    if sys.stdin.readline() == "die\\n":
        os.kill(os.getpid(), signal.SIGKILL)
"""


class Life:
    """One process of the trainer; it stops when all that it has logged is stored."""

    def __init__(self, workspace: Path, first: int, end: int, mode: str = "offline") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(workspace), str(first), str(end), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "stored\n"

    def end(self, word: str) -> int:
        self.process.communicate(f"{word}\n", timeout=200)
        return self.process.returncode


def expected() -> list[tuple[int, float]]:
    first = [(step, float(step)) for step in range(KILLED_AT)]
    return first + [(step, step + 0.5) for step in range(CHECKPOINT, LAST)]


def until_ended(workspace: Path) -> None:
    """Wait until the orphaned workers have told the trackers that the run was killed."""
    wait_until(lambda: [run.status for run in read_mlflow_runs(workspace / "mlflow.db")] == ["KILLED"], ORPHAN_SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_trainer_goes_on_in_the_same_run_of_every_tracker(tmp_path: Path) -> None:
    assert Life(put_mlflow_store(tmp_path), 0, KILLED_AT).end("die") == -signal.SIGKILL
    until_ended(tmp_path)
    second = Life(tmp_path, CHECKPOINT, LAST)
    assert [run.status for run in read_mlflow_runs(tmp_path / "mlflow.db")] == ["RUNNING"]
    assert second.end("leave") == 0

    for tracker in TRACKERS:
        ((key, points),) = stored_metrics(tmp_path, tracker).items()
        assert (tracker, key[1], sorted(points)) == (tracker, "loss", sorted(expected()))
        if tracker != "mlflow":  # its rows have no order but step and time
            assert points == expected(), tracker
    (mlflow,) = read_mlflow_runs(tmp_path / "mlflow.db")
    assert (mlflow.name, mlflow.status, mlflow.params) == ("site-1-X", "FINISHED", {"lr": "0.1"})
    wandb = read_wandb_runs(tmp_path / "wandb")
    assert {run.run_id for run in wandb} == {"X.site-1"}
    assert (wandb[-1].exit_code, wandb[-1].config["trackbus"]) == (0, {"status": "FINISHED"})
    numbers = [row["_step"] for run in wandb for row in run.history]
    assert numbers == sorted(set(numbers))
    lines = read_jsonl(tmp_path / "jsonl")
    assert {line.file for line in lines} == {"X/site-1.jsonl"}
    steps = [line.value["event"]["step"] for line in lines if line.value["type"] == "MetricsLogged"]
    assert steps == [step for step, _ in expected()]
    assert lines[-1].value["status"] == "FINISHED"
    assert [folder.name for folder in (tmp_path / "tensorboard").iterdir()] == ["X"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_online_the_server_has_one_run_that_went_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with WandBServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        assert Life(tmp_path, 0, KILLED_AT, "online").end("die") == -signal.SIGKILL
        deadline = time.monotonic() + ORPHAN_SECONDS
        while not server.runs["X.site-1"].complete:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert server.runs["X.site-1"].exit_code == 255
        assert Life(tmp_path, CHECKPOINT, LAST, "online").end("leave") == 0

    (run,) = server.runs.values()
    assert [(row["global_step"], row["loss"]) for row in run.rows()] == expected()
    assert (run.exit_code, run.values()) == (0, {"lr": 0.1, "trackbus": {"status": "FINISHED", "reason": ""}})
