"""The same calls to the real mlflow, and to ours through a bus and its receiver: both stores hold the same."""

import inspect
import io
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import anyio
import mlflow
import mlflow.data
import mlflow.pytorch
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from mlflow_content import content_of
from PIL import Image

from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import MLflowReceiver
from writers import MLflowWriter
from writers._mlflow_client import MLflowClient
from writers._mlflow_models import Flavor

TIME_MS = 1_700_000_000_123

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

SHADES = (np.arange(12 * 10 * 3) % 255).reshape(12, 10, 3).astype("uint8")


class StopError(Exception):
    """What a run fails of."""


def log_everything(api: Any, folder: Path, **start: Any) -> None:
    """Call each function as a script does."""
    run = api.start_run(run_name="top", tags={"a": 1}, description="all of it", **start)
    with run:
        log_values(api)
        log_files(api, folder)
        log_pictures_and_tables(api)
        log_inputs(api, folder)
        log_a_model(api)
        with api.start_run(run_name="child", nested=True, **start) as child:
            api.log_metric("depth", 1.0, timestamp=TIME_MS)
            api.log_params({"from": "parent"}, run_id=run.info.run_id)
        api.log_metrics({"late": 1.0}, run_id=child.info.run_id, timestamp=TIME_MS)
    with pytest.raises(StopError), api.start_run(run_name="failed", **start):
        raise StopError
    api.start_run(run_name="killed", **start)
    api.end_run("KILLED")
    assert api.active_run() is None


def log_values(api: Any) -> None:
    api.log_metric("loss", 0.5, step=3, timestamp=TIME_MS)
    api.log_metrics({"loss": 0.25, "nan": float("nan"), "train/acc": 1}, step=4, timestamp=TIME_MS)
    api.log_param("lr", 0.1)
    api.log_params({"layers": [1, 2], "none": None, "flag": True})
    api.log_param("lr", 0.1)
    api.set_tag("owner", "me")
    api.set_tags({"try": 3, "stale": "yes", "owner": "you"})
    api.delete_tag("stale")


def log_files(api: Any, folder: Path) -> None:
    api.log_text("# hello", "notes/a.md")
    api.log_text("first", "notes/b.md")
    api.log_text("second", "notes/b.md")
    api.log_text("\u20ac" * 400_000, "notes/long.txt")
    api.log_dict({"a": [1, 2], "when": Path("x")}, "d/plain.json")
    api.log_dict({"a": [1, {"b": None}]}, "d/more.yaml")
    api.log_dict([1, 2], "d/no suffix")
    api.log_artifact(folder / "one.bin")
    api.log_artifact(str(folder / "one.bin"), "in/some")
    api.log_artifact(str(folder / "tree"), "in")
    api.log_artifacts(str(folder / "tree"))
    api.log_artifacts(str(folder / "tree"), "all")
    api.log_stream(io.BytesIO(bytes(range(256)) * 100), "streams/s.bin")


def log_pictures_and_tables(api: Any) -> None:
    figure = Figure()
    figure.subplots().plot([1, 3, 2])
    api.log_figure(figure, "figures/f.png")
    api.log_figure(figure, "figures/small", save_kwargs={"format": "png", "dpi": 20})
    api.log_image(SHADES, "pictures/rgb.png")
    api.log_image(SHADES[:, :, 0] / 255, "pictures/grey.png")
    api.log_image(Image.fromarray(SHADES), "pictures/pillow.jpg")
    for step in (1, 2):
        api.log_image(SHADES + step, key="dogs/big ones", step=step, timestamp=TIME_MS, synchronous=True)
    api.log_image(SHADES[:, :, :1] > 100, key="masks", timestamp=TIME_MS, synchronous=True)
    api.log_table({"a": [1, 2], "b": ["x", None], "c": [0.5, float("nan")]}, "tables/t.json")
    api.log_table(pd.DataFrame({"a": [3], "d": [pd.Timestamp("2026-01-02 03:04:05")]}), "tables/t.json")
    api.log_table({"alone": 1, "words": "one row"}, "tables/row.json")
    api.log_table({"a": [1, 2]}, "tables/t.parquet")
    api.log_table({"a": [3]}, "tables/t.parquet")
    api.log_table({"n": [1, 2], "picture": [Image.fromarray(SHADES)] * 2}, "tables/seen.json")


def log_inputs(api: Any, folder: Path) -> None:
    data: Any = mlflow.data
    numbers = data.from_numpy(np.arange(6.0).reshape(3, 2), source=str(folder / "one.bin"), name="numbers")
    frame = data.from_pandas(pd.DataFrame({"x": [1, 2]}), source=str(folder / "one.bin"), name="frame")
    api.log_input(numbers, context="training", tags={"split": "first"})
    api.log_inputs([frame], ["eval"], [None])
    api.log_metric("on data", 0.75, step=9, timestamp=TIME_MS, dataset=numbers)


def log_a_model(api: Any) -> None:
    api.log_metric("before", 1.0, step=7, timestamp=TIME_MS)
    saved = api.pytorch.log_model(
        torch.nn.Linear(2, 1),
        name="net",
        registered_model_name="registered",
        pip_requirements=["torch"],
        serialization_format="pickle",
        params={"depth": 2},
        tags={"kind": "small"},
        model_type="linear",
        step=7,
    )
    api.log_metrics({"after": 2.0}, step=7, timestamp=TIME_MS)
    api.log_metrics({"elsewhere": 2.0}, step=8, timestamp=TIME_MS)
    api.log_metric("of the model", 3.0, step=8, timestamp=TIME_MS, model_id=saved.model_id)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    (folder / "tree" / "deep").mkdir(parents=True)
    (folder / "one.bin").write_bytes(b"one")
    (folder / "tree" / "top.txt").write_text("top")
    (folder / "tree" / "deep" / "down.txt").write_text("down")
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, given: Path) -> Iterator[Path]:
    """The store that the real mlflow fills; a copy of it as it was before lies beside it."""
    folder = tmp_path_factory.mktemp("theirs")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    try:
        experiment = mlflow.create_experiment("job", (folder / "artifacts").as_uri())
        mlflow.MlflowClient().delete_experiment(experiment)
        shutil.copyfile(folder / "mlflow.db", folder / "empty.db")
        mlflow.MlflowClient().restore_experiment(experiment)
        log_everything(mlflow, given, experiment_id=experiment)
        yield folder
    finally:
        mlflow.set_tracking_uri(cast("Any", None))  # as if it had never been set: the variable counts again


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, given: Path, theirs: Path) -> Path:
    """The store that our receiver fills; what it starts with is an empty one, as they take seconds to make."""
    folder = tmp_path_factory.mktemp("ours")
    shutil.copyfile(theirs / "empty.db", folder / "mlflow.db")
    anyio.run(log_ours, folder, given)
    return folder


async def log_ours(folder: Path, given: Path) -> None:
    receiver = MLflowReceiver()
    async with EventBus(folder, site="site-1", job="ours", run="own") as bus:
        bus.subscribe(TRACKING, receiver)
        log_everything(MLflowWriter(), given)
    found = receiver.statistics()
    assert (found.lag, found.dropped, found.failed, found.altered, found.restarts) == (0, {}, {}, {}, 0)


RUNS = ("top", "child", "failed", "killed")
PARTS = ("status", "params", "tags", "metrics", "files", "models", "datasets")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("run", RUNS)
def test_both_stores_hold_the_same(run: str, part: str, theirs: Path, ours: Path) -> None:
    assert content_of(ours / "mlflow.db")[run][part] == content_of(theirs / "mlflow.db")[run][part]


def test_there_is_something_to_compare(theirs: Path, ours: Path) -> None:
    found = content_of(theirs / "mlflow.db")["top"]

    assert set(content_of(ours / "mlflow.db")) == set(RUNS)
    assert all(found[part] for part in PARTS)
    assert len(found["files"]) == 32


# ------------------------------------------------------------------------------------------------- signatures
FLUENT = (
    *("log_metric", "log_metrics", "log_param", "log_params", "set_tag", "set_tags", "delete_tag", "log_text"),
    *("log_dict", "log_figure", "log_image", "log_table", "log_artifact", "log_artifacts", "log_stream", "log_input"),
    *("log_inputs", "log_outputs", "start_run", "end_run", "active_run", "last_active_run", "get_run"),
    *("set_experiment", "flush_async_logging"),
)
CLIENT = (
    *("create_run", "get_run", "set_terminated", "update_run", "log_metric", "log_batch", "log_param", "set_tag"),
    *("delete_tag", "log_text", "log_dict", "log_figure", "log_image", "log_table", "log_artifact", "log_artifacts"),
    *("log_stream", "log_inputs", "log_outputs"),
)
OTHER_MATTERS = {
    *("log_assessment", "log_expectation", "log_feedback", "log_issue", "log_trace"),  # of traces, not of runs
    *("log_model_params", "log_model_artifact", "log_model_artifacts"),  # of models that stand in a store
}


@pytest.mark.parametrize("name", FLUENT)
def test_functions_are_called_as_mlflows(name: str) -> None:
    assert arguments(getattr(MLflowWriter, name))[1:] == arguments(getattr(mlflow, name))


@pytest.mark.parametrize("name", CLIENT)
def test_the_clients_methods_are_called_as_mlflows(name: str) -> None:
    assert arguments(getattr(MLflowClient, name)) == arguments(getattr(mlflow.MlflowClient, name))


def test_a_model_is_logged_as_mlflows() -> None:
    assert arguments(Flavor.log_model)[1:] == arguments(import_module("mlflow.pytorch").log_model)


def test_no_function_that_logs_is_forgotten() -> None:
    prefixes = ("log_", "set_tag", "delete_tag")
    fluent = {name for name in dir(mlflow) if name.startswith(prefixes)}
    client = {name for name in dir(mlflow.MlflowClient) if name.startswith(prefixes)}

    assert (fluent - set(FLUENT) - OTHER_MATTERS, client - set(CLIENT) - OTHER_MATTERS) == (set(), set())


def arguments(function: Callable[..., object]) -> list[tuple[str, object, object]]:
    parameters = inspect.signature(function).parameters.values()
    return [(one.name, one.default, one.kind) for one in parameters]
