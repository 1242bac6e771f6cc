"""The trainer is killed at random moments, three times: every log call that had returned is in each tracker once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from readback import read_mlflow_runs, read_wandb_runs

from scenarios.stores import TRACKERS, Points, stored_metrics

KILLS = 3
STEPS_OF_THE_LAST = 200

TRAINER = """
import os, sys, time
from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import MLflowReceiver, TensorBoardReceiver, WandBReceiver
from writers import TrackingWriter

workspace, run, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
with EventBus(workspace, site="site-1", job="killed", run=run, drain_timeout=200).background() as bus:
    for receiver in (WandBReceiver(), MLflowReceiver(), TensorBoardReceiver()):
        bus.subscribe(TRACKING, receiver)
    writer = TrackingWriter()
    for step in range(steps):
        writer.log({"loss": float(step)}, step=step)
        os.write(1, b".")  # says that the call has returned
        time.sleep(0.0005)  # a training step
"""


def start(workspace: Path, run: str, steps: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(workspace), run, str(steps)], stdout=subprocess.PIPE, start_new_session=True
    )


def read_for(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Count what the trainer says for so long; it would stop if nobody listened."""
    assert process.stdout is not None
    returned, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        returned += len(os.read(process.stdout.fileno(), 4096))
    return returned


@pytest.mark.timeout(400)
def test_every_log_call_that_had_returned_is_stored_exactly_once(tmp_path: Path) -> None:
    moments = random.Random(20)
    returned: dict[str, int] = {}
    for kill in range(KILLS):
        run = f"run-{kill}"
        trainer = start(tmp_path, run, steps=10**9)
        assert trainer.stdout is not None
        returned[run] = len(os.read(trainer.stdout.fileno(), 1)) + read_for(trainer, moments.uniform(0.2, 6.0))
        os.kill(trainer.pid, signal.SIGKILL)
        returned[run] += len(trainer.communicate()[0])
    last = start(tmp_path, "run-last", STEPS_OF_THE_LAST)
    assert last.communicate(timeout=200)[0] == b"." * STEPS_OF_THE_LAST
    assert last.returncode == 0
    for tracker in TRACKERS:
        assert_stored(stored_metrics(tmp_path, tracker), returned, tracker)
    assert_statuses(tmp_path)


def assert_stored(points: Points, returned: dict[str, int], tracker: str) -> None:
    by_run = {run: values for (run, key), values in points.items() if key == "loss"}
    for run, count in {**returned, "run-last": STEPS_OF_THE_LAST}.items():
        (values,) = [values for name, values in by_run.items() if run in name]
        # The call that was under way when the kill came may be stored too: it had not returned.
        assert len(values) - count in (0, 1), (tracker, run, len(values), count)
        assert values == [(step, float(step)) for step in range(len(values))], (tracker, run)


def assert_statuses(workspace: Path) -> None:
    mlflow = {run.name: run.status for run in read_mlflow_runs(workspace / "mlflow.db")}
    assert {name.removeprefix("site-1-"): status for name, status in mlflow.items()} == {
        "run-0": "KILLED",
        "run-1": "KILLED",
        "run-2": "KILLED",
        "run-last": "FINISHED",
    }
    exits = {(run.name, run.exit_code) for run in read_wandb_runs(workspace / "wandb")}
    assert ("site-1-run-last", 0) in exits
    assert ("site-1-run-0", 0) not in exits
