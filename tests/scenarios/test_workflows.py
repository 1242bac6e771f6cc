"""FedAvg and cross-site evaluation over real processes: scripts as people have them, read back from disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from mlflow_stores import put_mlflow_store
from readback import read_jsonl, read_mlflow_runs, read_wandb_runs
from safetensors import safe_open
from safetensors.torch import load_file

from receivers import JsonlReceiver, MLflowReceiver, Receiver, TensorBoardReceiver, WandBReceiver
from scenarios.stores import TRACKERS, stored_metrics
from training import (
    CrossSiteModelEval,
    FedAvg,
    IntimeModelSelector,
    PTFileModelLocator,
    PTFileModelPersistor,
    RoundResultsWriter,
    ValidationJsonGenerator,
    Workflow,
)
from training.engines import run_job
from training.plan import JobPlan, JobResult, ScriptPlan, SitePlan, Transfer

# Each site moves the weight half way to its own goal; how good a model is, is how near it is to that goal.
SCRIPT = """
import sys
import torch
import training.client as flare

goal = {"site-1": 1.0, "site-2": 3.0, "site-3": 8.0}
flare.init()
mine = goal[flare.get_site_name()]
best = None
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    if flare.is_submit_model():
        flare.send(flare.FLModel(params=best))
        continue
    accuracy = 1 / (1 + abs(float(model.params["w"]) - mine))
    metrics = {"accuracy": accuracy, "per_class": {"cat": {"f1": accuracy, "support": 10}}}
    if flare.is_evaluate():
        flare.send(flare.FLModel(metrics=metrics))
        continue
    best = {"w": model.params["w"] + (mine - model.params["w"]) / 2}
    value = best["w"] * float(sys.argv[1])
    flare.send(flare.FLModel(params={"w": value}, metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": 4}))
"""


def run(
    folder: Path,
    factors: Sequence[float],
    *workflows: Workflow,
    min_sites: int = 1,
    key_metric: str = "accuracy",
    receivers: tuple[Receiver, ...] = (JsonlReceiver(),),
    system_metrics: float = 0.0,
) -> JobResult:
    """Run a job over as many sites; what a site sends is its weight times its factor."""
    script = folder / "client.py"
    script.write_text(SCRIPT)
    transfers: list[Transfer] = ["FULL", "DIFF"]  # whole weights and differences may come together
    sites = [
        SitePlan(f"site-{index + 1}", ScriptPlan(script, (str(factor),), transfer=transfers[index % 2]))
        for index, factor in enumerate(factors)
    ]
    components = {
        "json_generator": ValidationJsonGenerator(),
        "model_selector": IntimeModelSelector(key_metric=key_metric),
        "results": RoundResultsWriter(),
        "persistor": PTFileModelPersistor(model={"w": torch.zeros(1)}),
        "locator": PTFileModelLocator("persistor"),
    }
    plan = JobPlan(
        *("job", workflows, components, sites, folder, receivers, min_sites),
        global_metrics=True,
        system_metrics=system_metrics,
    )
    return anyio.run(partial(run_job, plan, put_mlflow_store(folder / "ws")))


def weight(path: Path) -> float:
    return load_file(path)["w"].item()


def logged(folder: Path) -> list[tuple[str, Any, float]]:
    """What the server logged: key, step, value."""
    events = [line.value["event"] for line in read_jsonl(folder) if line.value.get("type") == "MetricsLogged"]
    return [(key, event["step"], value) for event in events for key, value in event["values"].items()]


def test_two_sites_train_and_measure_each_others_models(tmp_path: Path) -> None:
    trackers = (WandBReceiver("offline"), MLflowReceiver(), TensorBoardReceiver())
    result = run(
        *(tmp_path, [1, 1], FedAvg(num_clients=2, num_rounds=3), CrossSiteModelEval(model_locator_id="locator")),
        receivers=(JsonlReceiver(), *trackers),
        system_metrics=0.02,  # a site lives for some tenths of a second
    )
    assert (result.error, dict(result.problems), result.exit_code) == ("", {}, 0)

    # 0 -> 1 -> 1.5 -> 1.75: half way to the goals' mean, 2, in each round.
    models = tmp_path / "ws" / "models"
    assert weight(models / "FL_global_model.safetensors") == 1.75
    assert weight(models / "best_FL_global_model.safetensors") == 1.0  # (1 + 1/3) / 2 is the most there was
    with safe_open(str(models / "best_FL_global_model.safetensors"), framework="pt") as file:
        assert file.metadata()["round"] == "1"

    cells = json.loads((tmp_path / "ws" / "cross_site_val" / "cross_val_results.json").read_text())
    owners = {"site-1", "site-2", "SRV_FL_global_model.pt", "SRV_best_FL_global_model.pt"}
    assert {name: set(row) for name, row in cells.items()} == {"site-1": owners, "site-2": owners}
    assert cells["site-2"]["SRV_FL_global_model.pt"]["accuracy"] == pytest.approx(1 / 2.25)
    assert cells["site-1"]["SRV_best_FL_global_model.pt"]["per_class"] == {"cat": {"f1": 1.0, "support": 10}}

    rounds = [json.loads(line) for line in (tmp_path / "ws" / "round_results.jsonl").read_text().splitlines()]
    assert [line["global"]["per_class"]["cat"]["support"] for line in rounds] == [20, 20, 20]
    assert rounds[1]["sites"]["site-1"] == {
        "weight": 4.0,
        "steps": 4,
        "metrics": {"accuracy": 1.0, "per_class": {"cat": {"f1": 1.0, "support": 10}}},
    }
    accuracies = [(step, value) for key, step, value in logged(tmp_path / "ws" / "jsonl") if key == "global/accuracy"]
    assert accuracies == [(line["round"], line["global"]["accuracy"]) for line in rounds]
    assert_tracked_in_one_group(tmp_path / "ws", accuracies)


def assert_tracked_in_one_group(workspace: Path, accuracies: list[tuple[Any, float]]) -> None:
    """Every tracker has the rounds' averages in a run of the server's, beside those of the sites and their machines."""
    for tracker in TRACKERS:
        stored = stored_metrics(workspace, tracker)
        assert [found for (_, key), found in stored.items() if key == "global/accuracy"] == [
            [(step, pytest.approx(value)) for step, value in accuracies]
        ], tracker
        sampled = {run for run, key in stored if key == "system/cpu_utilization_percentage"}
        assert [sum(site in run for run in sampled) for site in ("server", "site-1", "site-2")] == [1, 1, 1], tracker
    assert {run.group for run in read_wandb_runs(workspace / "wandb")} == {"job"}
    assert {run.experiment for run in read_mlflow_runs(workspace / "mlflow.db")} == {"job"}
    (folder,) = (workspace / "tensorboard").iterdir()
    assert {one.name for one in folder.iterdir() if one.is_dir()} == {"server", "site-1", "site-2"}


def test_a_run_in_the_folder_of_another_keeps_its_own_results_alone(tmp_path: Path) -> None:
    first = run(tmp_path, [1], FedAvg(num_clients=1, num_rounds=2), CrossSiteModelEval(model_locator_id="locator"))
    again = run(tmp_path, [1], FedAvg(num_clients=1, num_rounds=1), key_metric="dice")
    assert (first.exit_code, again.exit_code) == (0, 0)
    models = tmp_path / "ws" / "models"
    assert [path.name for path in models.glob("*.safetensors")] == ["FL_global_model.safetensors"]
    assert weight(models / "FL_global_model.safetensors") == 0.5
    names = {path.name for path in (tmp_path / "ws" / "cross_site_val").iterdir()}
    assert names == {"models", "cross_val_results.json.earlier"}


def test_a_site_with_nan_weights_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    workflow = FedAvg(num_clients=3, num_rounds=2, min_responses=2)
    result = run(tmp_path, [1, 1, float("nan")], workflow)
    assert (result.error, result.exit_code) == ("", 0)
    assert {site: len(reasons) for site, reasons in result.problems.items()} == {"site-3": 1}
    assert "w holds a NaN or an infinity" in result.problems["site-3"][0]
    assert weight(tmp_path / "ws" / "models" / "FL_global_model.safetensors") == 1.5


def test_too_few_good_updates_end_the_job_with_the_reason(tmp_path: Path) -> None:
    result = run(tmp_path, [1, float("nan")], FedAvg(num_clients=2, num_rounds=2))
    assert result.exit_code == 1
    assert "round 1: 1 of the 2 answers needed came (site-2: w holds a NaN or an infinity)" in result.error
