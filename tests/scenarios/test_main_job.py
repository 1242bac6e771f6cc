"""The main job: federated training at two sites, every metric of which is found again in all three trackers, once."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from readback import read_mlflow_runs, read_wandb_runs

from scenarios.stores import TRACKERS, stored_metrics

Series = dict[tuple[str, str], list[tuple[int | None, float]]]
"""(Site, key) -> (step, value) in the order of logging."""


def published_metrics(workspace: Path) -> Series:
    """Read what each site logged from the site's own journal, with nothing of ours but the layout of a record."""
    series: Series = defaultdict(list)
    for file in sorted([*workspace.glob("journal/server/*.db"), *workspace.glob("sites/*/journal/*/*.db")]):
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            bodies = [body for (body,) in connection.execute("SELECT body FROM records ORDER BY seq")]
        for body in bodies:
            _, kind, _, _, _, _, fields = msgspec.msgpack.decode(body)
            if kind == "MetricsLogged":
                prefix = f"{fields['main_tag']}/" if fields["main_tag"] else ""
                for key, value in fields["values"].items():
                    series[file.parent.name, prefix + key].append((fields["step"], value))
    return dict(series)


@pytest.mark.timeout(300)
def test_every_metric_of_every_site_is_in_every_tracker_once_and_in_order(tmp_path: Path) -> None:
    workspace = tmp_path / "runs/main"
    command = [
        sys.executable,
        "-m",
        "training.cli",
        "run",
        "--sites",
        "2",
        "--rounds",
        "2",
        "--seed",
        "3",
        "--system-metrics",
    ]
    done = subprocess.run(
        [*command, "--trackers", "wandb,mlflow,tensorboard", "--workspace", str(workspace)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "WANDB_API_KEY": "", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    published = published_metrics(workspace)
    assert sites_with(published, "global/accuracy") == {"server"}
    assert sites_with(published, "train/loss") == {"site-1", "site-2"}
    assert sites_with(published, "system/cpu_utilization_percentage") == {"server", "site-1", "site-2"}
    assert sum(len(values) for values in published.values()) > 100
    for tracker in TRACKERS:
        assert_equal(stored_metrics(workspace, tracker), published, tracker)
    assert_finished(workspace)
    for command_to_look in ("tensorboard --logdir", "mlflow ui --backend-store-uri", "wandb sync"):
        assert command_to_look in done.stdout


def sites_with(series: Series, key: str) -> set[str]:
    return {site for site, name in series if name == key}


def assert_equal(stored: Series, published: Series, tracker: str) -> None:
    """Compare series by series; TensorBoard keeps 32 bits of a number, and is given 0 where there is no step."""
    by_site = {(site_of(run), key): values for (run, key), values in stored.items()}
    assert by_site.keys() == published.keys(), tracker
    for name, expected in published.items():
        assert [value for _, value in by_site[name]] == pytest.approx([value for _, value in expected], rel=1e-6)
        assert [step or 0 for step, _ in by_site[name]] == [step or 0 for step, _ in expected], (tracker, name)


def site_of(run: str) -> str:
    """Return the site that a tracker's run belongs to: runs are named `<site>-<run>` or kept in `<run>/<site>`."""
    (site,) = {
        site for site in ("server", "site-1", "site-2") if run.startswith(f"{site}-") or run.endswith(f"/{site}")
    }
    return site


def assert_finished(workspace: Path) -> None:
    mlflow = read_mlflow_runs(workspace / "mlflow.db")
    assert [run.status for run in mlflow] == ["FINISHED"] * 3
    assert {run.experiment for run in mlflow} == {"federated"}
    wandb = read_wandb_runs(workspace / "wandb")
    assert [run.exit_code for run in wandb] == [0] * 3
    assert {run.group for run in wandb} == {"federated"}
    (folder,) = (workspace / "tensorboard").iterdir()
    assert {one.name for one in folder.iterdir() if one.is_dir()} == {"server", "site-1", "site-2"}
