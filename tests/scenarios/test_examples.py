"""The examples run as they stand, and the trackers hold what they logged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scenarios.stores import TRACKERS, stored_metrics

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_example(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], cwd=folder, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_quickstart_fills_all_three_trackers(tmp_path: Path) -> None:
    output = run_example("quickstart.py", tmp_path)
    assert "202 events published" in output
    for tracker in TRACKERS:
        points = stored_metrics(tmp_path / "runs/exp1", tracker)
        by_key = {key: values for (_, key), values in points.items()}
        assert by_key["train/loss"] == [(step, pytest.approx(1 / (step + 1))) for step in range(100)], tracker
        assert by_key["train/lr"] == [(step, pytest.approx(0.1)) for step in range(100)], tracker


def test_a_script_without_a_loop_logs_from_threads(tmp_path: Path) -> None:
    output = run_example("script.py", tmp_path)
    assert "104 events published" in output
    for tracker in ("mlflow", "tensorboard"):
        points = stored_metrics(tmp_path / "runs/exp2", tracker)
        by_key = {key: values for (_, key), values in points.items()}
        expected = [(step, pytest.approx(1 / (step + 1))) for step in range(50)]
        assert by_key["loss/0"] == by_key["loss/1"] == expected, tracker


def test_no_example_is_longer_than_a_page() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lengths) >= 2
    assert max(lengths.values()) <= 60, lengths
