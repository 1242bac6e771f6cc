"""The wall clock jumps, in the trainer and in its workers: order is that of the log, and times stay as given."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from readback import read_jsonl, read_mlflow, read_tensorboard, read_wandb

ROOT = Path(__file__).resolve().parents[2]
HOUR_NS, TEN_YEARS_NS = 3600 * 10**9, 10 * 365 * 86400 * 10**9
STEPS = 30

CLOCK = """
import os, time
from pathlib import Path
real, shift_file = time.time_ns, Path(os.environ["CLOCK_SHIFT"])
time.time_ns = lambda: real() + int(shift_file.read_text())
time.time = lambda: time.time_ns() / 1e9
"""

TRAINER = """
import sys, time
from pathlib import Path
from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import FlushPolicy, JsonlReceiver, MLflowReceiver, TensorBoardReceiver, WandBReceiver
from writers import TrackingWriter

workspace, shift, with_mlflow = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "mlflow"
flush = FlushPolicy(max_items=10, max_delay=0.05)
kinds = [JsonlReceiver, TensorBoardReceiver, WandBReceiver, *([MLflowReceiver] if with_mlflow else [])]
receivers = [kind(flush=flush) for kind in kinds]
step = 0
with EventBus(workspace, site="site-1", job="clock", run="run", drain_timeout=100).background() as bus:
    for one in receivers:
        bus.subscribe(TRACKING, one)
    writer = TrackingWriter()
    for jump in ("0", sys.argv[4], sys.argv[5]):
        shift.with_suffix(".new").write_text(jump)
        shift.with_suffix(".new").rename(shift)
        for _ in range(int(sys.argv[6])):
            receipt = writer.log({"loss": float(step)}, step=step)
            step += 1
            time.sleep(0.002)  # MLflow tells points apart by the millisecond
        receipt.wait_delivered(100)  # the workers see each jump too
print(bus.report())
assert bus.report().complete
assert all(not line.failed for line in bus.report().lines)
"""

TRACKERS = {
    "tensorboard": lambda workspace: read_tensorboard(workspace / "tensorboard"),
    "wandb": lambda workspace: read_wandb(workspace / "wandb"),
    "mlflow": lambda workspace: read_mlflow(workspace / "mlflow.db"),
}


def train(tmp_path: Path, with_mlflow: str) -> Path:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    (tmp_path / "shift").write_text("0")
    workspace = tmp_path / "run"
    jumps = (str(-HOUR_NS), str(TEN_YEARS_NS), str(STEPS))
    path = os.pathsep.join([str(tmp_path / "clock"), str(ROOT)])
    trainer = subprocess.run(
        [sys.executable, "-c", TRAINER, str(workspace), str(tmp_path / "shift"), with_mlflow, *jumps],
        env={**os.environ, "PYTHONPATH": path, "CLOCK_SHIFT": str(tmp_path / "shift")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert trainer.returncode == 0, trainer.stdout + trainer.stderr
    return workspace


def assert_times(times: list[int]) -> None:
    """One hour back after the first third, ten years forward after the second."""
    assert len(times) == 3 * STEPS
    first, second, third = times[:STEPS], times[STEPS : 2 * STEPS], times[2 * STEPS :]
    for part in (first, second, third):
        assert part == sorted(part)
    minute = 60 * 10**9
    assert abs(second[0] - first[-1] + HOUR_NS) < 2 * minute
    assert abs(third[0] - second[-1] - HOUR_NS - TEN_YEARS_NS) < 2 * minute


@pytest.mark.timeout(240)
@pytest.mark.parametrize("with_mlflow", ["no", pytest.param("mlflow", marks=pytest.mark.faults)])
def test_order_is_that_of_the_log_and_times_are_as_given(tmp_path: Path, with_mlflow: str) -> None:
    workspace = train(tmp_path, with_mlflow)
    lines = [line.value for line in read_jsonl(workspace / "jsonl") if line.value["type"] == "MetricsLogged"]
    given = [line["time_ns"] for line in lines]
    assert_times(given)
    assert [line["event"]["step"] for line in lines] == list(range(3 * STEPS))
    for name in ("tensorboard", "wandb", *(["mlflow"] if with_mlflow == "mlflow" else [])):
        rows = [row for row in sorted(TRACKERS[name](workspace), key=lambda row: row.order) if row.kind == "metric"]
        assert [row.step for row in rows] == list(range(3 * STEPS)), name
        times = [row.wall_time_ns or 0 for row in rows]
        assert all(abs(time - wanted) <= 10**6 for time, wanted in zip(times, given, strict=True)), name


WALL_CLOCK = {"time", "time_ns", "now_ns", "now", "utcnow", "today"}


def is_wall_clock(node: ast.AST) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in WALL_CLOCK


def measured_by_the_wall_clock(source: str) -> list[int]:
    """Return the lines that subtract, add or compare what the wall clock says: a jump would strike them."""
    sums = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.BinOp | ast.Compare | ast.AugAssign)]
    return [node.lineno for node in sums if any(is_wall_clock(one) for one in ast.walk(node))]


AGES = ROOT / "eventbus/_blob_files.py"
"""Says how old a file is, in one place: files know no other clock."""


def test_the_wall_clock_stamps_and_never_measures() -> None:
    files = [file for room in ("eventbus", "writers", "receivers") for file in sorted((ROOT / room).rglob("*.py"))]
    found = {file: len(lines) for file in files if (lines := measured_by_the_wall_clock(file.read_text()))}
    assert found == {AGES: 1}
    assert any(is_wall_clock(node) for file in files for node in ast.walk(ast.parse(file.read_text())))
    assert measured_by_the_wall_clock("began = time.time()\nif time.time() - began > 3: pass") == [2, 2]
