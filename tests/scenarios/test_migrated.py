"""Scripts in NVFLARE's style, moved over by `trackbus migrate --write` and never by hand, run and track as they did."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from readback import read_mlflow, read_mlflow_runs, read_tensorboard, read_wandb, read_wandb_runs
from safetensors.torch import load_file
from sklearn.datasets import load_digits

CORPUS = Path(__file__).resolve().parents[1] / "training" / "nvflare_style"
pytestmark = pytest.mark.slow  # each runs a job as a user does, and waits for torch to load three times
SITES = ("site-1", "site-2")
TIMEOUT = 110
MIXED = ("--external_site", "site-2")
"""One site's script runs in its process, the other's in one of its own, started by a command."""

COMMAND = "from training.cli import main; main()"


def call(*arguments: str | Path, cwd: Path) -> str:
    """Run Python as a user does; what it prints, where it ends well."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, moved over; what has to be changed by hand is left out."""
    folder = tmp_path_factory.mktemp("moved") / "corpus"
    shutil.copytree(CORPUS, folder, ignore=shutil.ignore_patterns("own_receiver", "README.md"))
    call("-c", COMMAND, "migrate", "--write", folder, cwd=folder)
    return folder


def result_of(output: str) -> Path:
    """The folder that a job script names as its result."""
    (line,) = [line for line in output.splitlines() if line.startswith("Result can be found in")]
    return Path(line.partition(":")[2].strip())


def points(folder: Path, key: str) -> dict[str, list[tuple[int | None, float]]]:
    """What event files hold of a metric: (step, value) in the order of storing, by site."""
    rows = [row for row in read_tensorboard(folder) if row.key == key]
    assert not [row for row in rows if row.kind == "torn"]
    by_site: dict[str, list[tuple[int | None, float]]] = {}
    for row in rows:
        by_site.setdefault(row.run.split("/")[1], []).append((row.step, float(row.value)))
    return by_site


def test_nothing_of_nvflare_is_left(corpus: Path) -> None:
    files = sorted(corpus.rglob("*.py"))
    trees = [node for file in files for node in ast.walk(ast.parse(file.read_bytes()))]
    imports = [ast.unparse(node) for node in trees if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(files) == len(list(CORPUS.rglob("*.py"))) - 1
    assert [line for line in imports if line.startswith(("from training", "import training"))]
    assert not [line for line in imports if "nvflare" in line]


# --------------------------------------------------------------------------------------------------- hello-pt
def accuracy_on_digits(file: Path) -> float:
    """How good a model is on what no site has trained on, worked out by its weights alone."""
    weights = load_file(file)
    digits: Any = load_digits()
    x = torch.tensor(digits.data[1200:], dtype=torch.float32) / 16.0
    hidden = torch.relu(x @ weights["fc1.weight"].T + weights["fc1.bias"])
    scores = hidden @ weights["fc2.weight"].T + weights["fc2.bias"]
    return (scores.argmax(dim=1) == torch.tensor(digits.target[1200:])).float().mean().item()


def test_hello_pt_learns(corpus: Path, tmp_path: Path) -> None:
    output = call("job.py", "--workspace", tmp_path, "--num_rounds", "3", *MIXED, cwd=corpus / "hello_pt")
    assert "Job Status is: FINISHED:COMPLETED" in output
    assert accuracy_on_digits(result_of(output) / "models" / "FL_global_model.safetensors") > 0.8


def test_an_exported_job_runs_by_the_simulator(corpus: Path, tmp_path: Path) -> None:
    call("job.py", "--export_config", tmp_path / "jobs", cwd=corpus / "hello_pt")
    job, workspace = tmp_path / "jobs" / "hello-pt", tmp_path / "run"
    written = json.loads((job / "app" / "config" / "config_fed_server.json").read_text())
    assert written["format_version"] == 2
    call("-c", COMMAND, "simulator", "-w", workspace, "-n", "2", "-t", "2", job, cwd=tmp_path)
    assert accuracy_on_digits(workspace / "models" / "FL_global_model.safetensors") > 0.7


# ---------------------------------------------------------------------------------------------- a job by hand
def test_a_job_by_hand_runs_one_site_in_process_and_one_outside(corpus: Path, tmp_path: Path) -> None:
    call("job.py", tmp_path, cwd=corpus / "fed_job")
    losses = points(tmp_path / "tensorboard", "loss")
    assert {site: [step for step, _ in losses[site]] for site in SITES} == {site: [0, 1] for site in SITES}
    assert all(losses[site][1][1] < losses[site][0][1] for site in SITES)


def test_a_job_of_numpy_scripts_averages_exactly(corpus: Path, tmp_path: Path) -> None:
    call("job.py", tmp_path, cwd=corpus / "numpy_script")
    weights = load_file(tmp_path / "models" / "FL_global_model.safetensors")
    mean = (1 * 1.0 + 3 * 3.0) / 4  # what the sites add, weighted by what they say that they have trained on
    assert all(torch.equal(value, torch.full_like(value, 2 * mean)) for value in weights.values())


def test_decorated_functions_train_and_measure(corpus: Path, tmp_path: Path) -> None:
    output = call("job.py", tmp_path, cwd=corpus / "decorators")
    rounds = [json.loads(line) for line in (tmp_path / "round_results.jsonl").read_text().splitlines()]
    assert [one["round"] for one in rounds] == [0, 1]
    assert all("accuracy" in one["sites"][site]["metrics"] for one in rounds for site in SITES), output


def test_every_model_is_measured_at_every_site(corpus: Path, tmp_path: Path) -> None:
    output = call("job.py", tmp_path, cwd=corpus / "cross_site")
    results = json.loads((result_of(output) / "cross_site_val" / "cross_val_results.json").read_text())
    assert set(results) == set(SITES)
    for measured in results.values():
        assert {*SITES, "SRV_FL_global_model.pt", "SRV_best_FL_global_model.pt"} <= set(measured)
        assert all(metrics["samples"] == 100 for metrics in measured.values())


# --------------------------------------------------------------------------------------------------- trackers
def test_tensorboard_holds_every_value(corpus: Path, tmp_path: Path) -> None:
    output = call("job.py", "--workspace", tmp_path, *MIXED, cwd=corpus / "tensorboard")
    events = result_of(output) / "tb_events"
    expected = [(step, step / 4) for step in range(20)]
    assert points(events, "train/progress") == dict.fromkeys(SITES, expected)
    assert {site: len(held) for site, held in points(events, "train/loss").items()} == dict.fromkeys(SITES, 20)
    assert {row.run.split("/")[1] for row in read_tensorboard(events)} == set(SITES)  # the server has no run of its own


def test_trackers_at_the_sites_alone_get_their_own_values(corpus: Path, tmp_path: Path) -> None:
    output = call("job.py", "--workspace", tmp_path, "--client_side", "--no_server_side", cwd=corpus / "tensorboard")
    result = result_of(output)
    assert not list(result.glob("tb_events"))
    for site in SITES:
        held = points(result / "sites" / site / "tb_events", "train/progress")
        assert held == {site: [(step, step / 4) for step in range(20)]}


def test_mlflow_holds_every_value(corpus: Path, tmp_path: Path) -> None:
    output = call("job.py", "--workspace", tmp_path, *MIXED, cwd=corpus / "mlflow")
    store = result_of(output) / "mlflow.db"
    runs = read_mlflow_runs(store)
    assert sorted(run.params["site"] for run in runs) == list(SITES)
    for run in runs:
        site = run.params["site"]
        assert (run.experiment, run.status, run.name) == ("fl-experiment", "FINISHED", f"{site}-fl-run")
        assert run.params == {"lr": "0.05", "optimizer": "SGD", "site": site}
        assert (run.tags["data"], run.tags["kind"]) == ("synthetic", "test")
        metrics = [row for row in read_mlflow(store) if row.kind == "metric" and row.run == run.name]
        assert [(row.step, row.value) for row in metrics if row.key == "loss"] == [
            (step, 1 / (1 + step)) for step in range(10)
        ]
        assert [(row.step, row.value) for row in metrics if row.key == "accuracy"] == [(0, 0.0), (1, 0.5)]
        notes = Path(run.artifact_uri.removeprefix("file://")) / "notes"
        assert [(notes / f"round_{number}.txt").read_text() for number in (0, 1)] == ["round 0", "round 1"]


def test_receivers_put_to_the_sites_by_hand_fill_a_store_at_each(corpus: Path, tmp_path: Path) -> None:
    output = call("job.py", "--workspace", tmp_path, "--by_hand", cwd=corpus / "mlflow")
    result = result_of(output)
    assert not (result / "mlflow.db").exists()
    for site in SITES:
        store = result / "sites" / site / "mlflow.db"
        (run,) = read_mlflow_runs(store)
        assert run.params["site"] == site
        assert len([row for row in read_mlflow(store) if row.key == "loss"]) == 10
        assert (result / "sites" / site / "artifacts").is_dir()


def test_wandb_holds_every_value_at_the_server_and_at_the_sites(corpus: Path, tmp_path: Path) -> None:
    output = call("job.py", "--workspace", tmp_path, "--streamed_to_clients", *MIXED, cwd=corpus / "wandb")
    result = result_of(output)
    expected = [(step, 2.0 - step / 8) for step in range(8)]
    for folder, sites in {
        result: SITES,
        result / "sites" / "site-1": ("site-1",),
        result / "sites" / "site-2": ("site-2",),
    }.items():
        runs = read_wandb_runs(folder / "wandb")
        assert sorted(run.name for run in runs) == [f"{site}-wandb" for site in sites]
        assert all((run.project, run.exit_code, run.torn) == ("wandb-experiment", 0, None) for run in runs)
        for run in runs:
            rows = [row for row in read_wandb(folder / "wandb") if row.run == run.name and row.key == "train_loss"]
            assert [(row.step, row.value) for row in rows] == expected


# -------------------------------------------------------------------------------------------------- Lightning
def test_lightning_trains_and_measures_the_model_of_all_sites(corpus: Path, tmp_path: Path) -> None:
    output = call("job.py", "--workspace", tmp_path, *MIXED, cwd=corpus / "lightning")
    result = result_of(output)
    rounds = [json.loads(line) for line in (result / "round_results.jsonl").read_text().splitlines()]
    first, second = ([one["sites"][site]["metrics"]["val_acc_epoch"] for site in SITES] for one in rounds)
    assert min(second) > max(first)  # what the sites were sent in the second round has learnt
    assert second == pytest.approx([accuracy_on_noise(result / "models" / "best_FL_global_model.safetensors")] * 2)


def accuracy_on_noise(file: Path) -> float:
    """How good the Lightning job's model is on the data that its sites validate with, worked out by its weights."""
    weights = load_file(file)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    hidden = torch.relu(x @ weights["layers.0.weight"].T + weights["layers.0.bias"])
    scores = hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"]
    return (scores.argmax(dim=1) == x[:, :3].argmax(dim=1)).float().mean().item()
