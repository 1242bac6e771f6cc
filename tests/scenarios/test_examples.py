"""The examples run as they stand, and the trackers hold what they logged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_stores import put_mlflow_store
from readback import read_jsonl
from tracker_views import MlflowView, TensorBoardView, WandbView

from eventbus.tracking import TRACKING_EVENTS
from scenarios.stores import TRACKERS, stored_metrics

PAGE = 60

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_example(name: str, folder: Path, timeout: float = 110) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quickstart_fills_all_three_trackers(tmp_path: Path) -> None:
    put_mlflow_store(tmp_path / "runs/exp1")
    output = run_example("quickstart.py", tmp_path)
    assert "202 events published" in output
    for tracker in TRACKERS:
        points = stored_metrics(tmp_path / "runs/exp1", tracker)
        by_key = {key: values for (_, key), values in points.items()}
        assert by_key["train/loss"] == [(step, pytest.approx(1 / (step + 1))) for step in range(100)], tracker
        assert by_key["train/lr"] == [(step, pytest.approx(0.1)) for step in range(100)], tracker


def test_the_readme_shows_the_quickstart() -> None:
    shown = re.search(r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    assert set(shown[1].splitlines()) <= set((EXAMPLES / "quickstart.py").read_text().splitlines())


def test_a_script_without_a_loop_logs_from_threads(tmp_path: Path) -> None:
    put_mlflow_store(tmp_path / "runs/exp2")
    output = run_example("script.py", tmp_path)
    assert "104 events published" in output
    for tracker in ("mlflow", "tensorboard"):
        points = stored_metrics(tmp_path / "runs/exp2", tracker)
        by_key = {key: values for (_, key), values in points.items()}
        expected = [(step, pytest.approx(1 / (step + 1))) for step in range(50)]
        assert by_key["loss/0"] == by_key["loss/1"] == expected, tracker


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_type_is_in_every_tracker(tmp_path: Path) -> None:
    run_example("every_type.py", tmp_path, timeout=280)
    workspace = tmp_path / "runs/every-type"
    lines = [line.value["type"] for line in read_jsonl(workspace / "jsonl")]
    tb, mlflow, wandb = TensorBoardView(workspace / "tensorboard"), MlflowView(workspace), WandbView(workspace)

    assert set(lines) - {"RunStatus"} == {event.__name__ for event in TRACKING_EVENTS}
    assert {plugin for plugin, _ in tb.plugins()} == PLUGINS
    assert {one.field for one in tb.values} >= {"image", "audio", "histo", "simple_value", "tensor", "graph_def"}
    assert tb.tensor("pyramid_VERTEX", "mesh").shape == (1, 4, 3)
    assert tb.file("", "projector_config.pbtxt").count(b"metadata.tsv") == 1
    (model,) = mlflow.rows("logged_models")
    linked = [(row["metric_name"], row["model_id"]) for row in mlflow.rows("logged_model_metrics")]
    assert ("test/loss", model["model_id"]) in linked
    assert [row["name"] for row in mlflow.rows("datasets")] == ["clouds"]
    assert mlflow.json("tables/kinds.json", "")["data"] == [[0, 50], [1, 50], [2, 50]]
    assert mlflow.file("reports/report.md").startswith(b"# All went well")
    assert wandb.table("samples")["columns"] == ["kind", "x", "y"]
    assert len(wandb.media("gradients")) == 1
    assert [record.title for record in wandb.records("alert")] == ["done"]
    assert wandb.artifact("model").keys() >= {"MLmodel"}


PLUGINS = {"scalars", "text", "pr_curves", "tensor", "mesh", "custom_scalars", "hparams", "graphs"}


def test_no_example_is_longer_than_a_page() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lengths) >= 2
    assert lengths.pop("every_type.py") <= 2 * PAGE  # it has one of everything
    assert max(lengths.values()) <= PAGE, lengths
