"""What the three trackers hold of a workspace, read by code that is independent of the sinks."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from readback import read_mlflow, read_tensorboard, read_wandb

Points = dict[tuple[str, str], list[tuple[int | None, float]]]
"""(Run, key) -> (step, value) in the order of storing."""

TRACKERS = {
    "wandb": lambda workspace: read_wandb(workspace / "wandb"),
    "mlflow": lambda workspace: read_mlflow(workspace / "mlflow.db"),
    "tensorboard": lambda workspace: read_tensorboard(workspace / "tensorboard"),
}


def stored_metrics(workspace: Path, tracker: str) -> Points:
    """Return every metric that one tracker holds, with as many entries as it holds points."""
    points: Points = defaultdict(list)
    for row in sorted(TRACKERS[tracker](workspace), key=lambda row: row.order):
        assert row.kind != "torn", row
        if row.kind == "metric":
            points[row.run, row.key].append((row.step, float(row.value)))
    return dict(points)
