"""The examples of federated training run as they stand, and the trackers hold what the scripts logged."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fashion_files import make_fashion
from mlflow_stores import put_mlflow_store
from readback import Row, read_mlflow, read_tensorboard, read_wandb
from safetensors.torch import load_file

from receivers.abc import AnalyticsConfig, AnalyticsSink, RunInfo
from receivers.testing import check_sink
from training.data import load_dataset

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "hello_pt"
ROUNDS, EPOCHS = 4, 2
STEPS = 2 * 47
"""Steps of a site's round: two epochs of 750 samples, 16 at a time."""


def run_example(name: str, *arguments: str, folder: Path, data_root: Path | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env=environment | ({"TRACKBUS_DATA_ROOT": str(data_root)} if data_root else {}),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More threads of torch fight over the cores, beside other tests above all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model() -> ModuleType:
    """The examples' own network and training, for this process."""
    spec = importlib.util.spec_from_file_location("hello_pt_model", EXAMPLES / "model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metrics(rows: list[Row]) -> dict[tuple[str, str], list[tuple[int | None, float]]]:
    """Return (step, value) by run and key, in the order of storing."""
    found: dict[tuple[str, str], list[tuple[int | None, float]]] = {}
    for row in sorted(rows, key=lambda row: row.order):
        assert row.kind != "torn", row
        if row.kind == "metric":
            found.setdefault((row.run, row.key), []).append((row.step, float(row.value)))
    return found


def runs(rows: list[Row]) -> set[str]:
    return {row.run for row in rows}


def demand_losses(rows: list[Row], run: str, rounds: int, key: str = "train_loss") -> None:
    """Every step's loss of a site is there once and in order, and the training made it smaller."""
    losses = metrics(rows)[run, key]
    assert [step for step, _ in losses] == list(range(1, rounds * STEPS + 1))
    values = [value for _, value in losses]
    assert sum(values[-20:]) < 0.9 * sum(values[:20])


@pytest.mark.usefixtures("one_thread")
def test_hello_pt_learns_the_digits_as_well_as_one_place_does(tmp_path: Path, model: ModuleType) -> None:
    """Four rounds of two epochs at two sites against eight epochs of the same network at one place."""
    run_example("job.py", folder=tmp_path)
    test = load_dataset("digits", 0).test
    federated, central = model.make_net(seed=0), model.make_net(seed=0)
    federated.load_state_dict(load_file(tmp_path / "runs/hello-pt/models/FL_global_model.safetensors"))
    torch.manual_seed(1)
    for _ in model.train(central, load_dataset("digits", 0).train, ROUNDS * EPOCHS):
        pass
    reached, wanted = model.accuracy(federated, test), model.accuracy(central, test)
    assert reached >= 0.93
    assert reached >= wanted - 0.03


def test_the_data_is_chosen_by_a_switch(tmp_path: Path) -> None:
    make_fashion(tmp_path / "FashionMNIST" / "raw", "", samples=200)
    switches = ("--data", "fashion-mnist", "--num_rounds", "1", "--partition", "shards:5")
    run_example("job.py", *switches, folder=tmp_path, data_root=tmp_path)
    found = [(tmp_path / f"runs/hello-pt/sites/site-{number}/log.txt").read_text() for number in (1, 2)]
    counts = [json.loads(f"[{text.partition('by class (')[2].partition(')')[0]}]") for text in found]
    assert sorted(map(sum, zip(*counts, strict=True))) == [20] * 10
    assert [sum(count > 0 for count in site) for site in counts] == [5, 5]


@pytest.mark.slow  # two runs
def test_the_same_seed_trains_the_same_weights_on_uneven_shares(tmp_path: Path) -> None:
    weights: list[dict[str, torch.Tensor]] = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        run_example("job.py", "--num_rounds", "1", "--partition", "dirichlet:0.5", folder=tmp_path / attempt)
        weights.append(load_file(tmp_path / attempt / "runs/hello-pt/models/FL_global_model.safetensors"))
    first, second = weights
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tensorboards_writer_fills_tensorboard(tmp_path: Path) -> None:
    run_example("job_tensorboard.py", "--num_rounds", "2", folder=tmp_path)
    rows = read_tensorboard(tmp_path / "runs/hello-pt-tensorboard/tb_events")
    assert {run.rpartition("/")[2] for run in runs(rows)} == {"site-1", "site-2"}
    for run in runs(rows):
        demand_losses(rows, run, rounds=2)
        assert [step for step, _ in metrics(rows)[run, "accuracy"]] == [0, 1]


@pytest.mark.parametrize("writer", ["mlflow", "tensorboard"])
def test_mlflows_and_tensorboards_writers_fill_mlflow(writer: str, tmp_path: Path) -> None:
    switches = ["--from_tensorboard"] if writer == "tensorboard" else []
    put_mlflow_store(tmp_path / "runs/hello-pt-mlflow")
    run_example("job_mlflow.py", "--num_rounds", "1", *switches, folder=tmp_path)
    rows = read_mlflow(tmp_path / "runs/hello-pt-mlflow/mlflow.db")
    assert runs(rows) == {"site-1-hello-pt-mlflow", "site-2-hello-pt-mlflow"}
    for run in runs(rows):
        demand_losses(rows, run, rounds=1)
    params = {(row.key, row.value) for row in rows if row.kind == "param"}
    assert params == ({("epochs", "2"), ("sites", "2")} if writer == "mlflow" else set())


SITES = {"site-1-hello-pt-wandb", "site-2-hello-pt-wandb"}


@pytest.mark.parametrize(
    ("switches", "at_server", "at_sites"),
    [
        ("--launch_external_process", SITES, set[str]()),
        ("--layout combined", {"hello-pt-wandb"}, set[str]()),
        ("--streamed_to_clients --disable_server_tracking", set[str](), SITES),
        ("--streamed_to_clients", SITES, SITES),
        ("--streamed_to_clients --layout combined", {"hello-pt-wandb"}, {"hello-pt-wandb"}),
    ],
    ids=["server", "server-combined", "clients", "both", "both-combined"],
)
def test_wandb_tracks_where_the_switches_say(
    switches: str, at_server: set[str], at_sites: set[str], tmp_path: Path
) -> None:
    """Runs: N at the server, or 1 that holds all sites; N at the sites; both: 2 N, or N + 1."""
    run_example("job_wandb.py", "--num_rounds", "1", *switches.split(), folder=tmp_path)
    workspace = tmp_path / "runs/hello-pt-wandb"
    server = read_wandb(workspace / "wandb") if (workspace / "wandb").exists() else []
    sites = {path.parent.name: read_wandb(path) for path in (workspace / "sites").glob("*/wandb")}
    assert len(list(workspace.rglob("*.wandb"))) == len(at_server) + 2 * bool(at_sites)  # none has the name of another
    assert runs(server) == at_server
    assert set().union(*map(runs, sites.values())) == at_sites
    combined = "combined" in switches
    for site in ("site-1", "site-2"):
        key = f"{site}/train_loss" if combined else "train_loss"
        run = "hello-pt-wandb" if combined else f"{site}-hello-pt-wandb"
        for rows in [server] * bool(at_server) + [sites.get(site, [])] * bool(at_sites):
            demand_losses(rows, run, rounds=1, key=key)
    if not at_server:
        demand_nothing_left_the_sites(workspace)


def demand_nothing_left_the_sites(workspace: Path) -> None:
    """No file outside of the sites' folders knows a metric's name, the job's own scripts left out."""
    files = [path for path in workspace.rglob("*") if path.is_file() and path.suffix != ".py"]
    telling = [path.relative_to(workspace).parts for path in files if b"train_loss" in path.read_bytes()]
    assert {parts[:2] for parts in telling} == {("sites", "site-1"), ("sites", "site-2")}


def test_the_wandb_job_is_exported_instead_of_run(tmp_path: Path) -> None:
    run_example("job_wandb.py", "--export_config", folder=tmp_path)
    (server,) = (tmp_path / "jobs").rglob("config_fed_server.json")
    (client,) = (tmp_path / "jobs").rglob("config_fed_client.json")
    assert [one["id"] for one in json.loads(server.read_text())["workflows"]]
    assert "client_wandb.py" in client.read_text()
    assert not (tmp_path / "runs").exists()


def test_a_tracker_of_ones_own_gets_what_a_writer_of_ones_own_logs(tmp_path: Path) -> None:
    run_example("job_own.py", "--num_rounds", "2", folder=tmp_path)
    files = sorted((tmp_path / "runs/hello-pt-own/scores").glob("*.csv"))
    assert [path.stem.rpartition("-site-")[2] for path in files] == ["1", "2"]
    for path in files:
        rows = list(csv.reader(path.read_text().splitlines()))
        assert Counter((step, key) for _, _, step, key, _ in rows) == Counter(
            (str(step), f"score/{key}") for step in (0, 1) for key in ("accuracy", "loss")
        )
        assert path.with_suffix(".end").read_text() == "FINISHED"


def test_the_tracker_of_ones_own_has_nothing_twice_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)

    def make_sink() -> AnalyticsSink:
        return AnalyticsSink(AnalyticsConfig(receiver="own_tracker:CsvReceiver", args={"folder": "csv"}), tmp_path)

    def read_back(run: RunInfo) -> list[str]:
        return (tmp_path / f"csv/{run.id}-{run.site}.csv").read_text().splitlines()

    check_sink(make_sink, read_back)


def test_no_example_is_longer_than_a_page() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lengths) >= 10
    assert max(lengths.values()) <= 60, lengths
