"""What an MLflow store holds, run by run, without what is by chance: ids, times of writing, who wrote it."""

import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import yaml
from PIL import Image
from readback import MlflowRun, raw_mlflow, read_mlflow_runs

Rows = list[dict[str, Any]]

BY_CHANCE = ("mlflow.user", "mlflow.source.", "mlflow.runName", "trackbus.", "mlflow.git", "mlflow.databricks")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
VERSION = re.compile(r'"(\d+)"')  # a server tells the number of a version as a text, and so MLflow keeps it in a tag
MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


def content_of(store: Path, artifacts: Path | None = None) -> dict[str, dict[str, Any]]:
    """What is kept of each run, by its name without the site before it."""
    runs = read_mlflow_runs(store)
    names = {run.run_id: run.name.removeprefix("site-1-") for run in runs}
    tables = {name: raw_mlflow(store, name) for name in TABLES}
    return {
        names[run.run_id]: {
            "status": run.status,
            "params": run.params,
            "tags": {key: names.get(value, value) for key, value in run.tags.items() if not key.startswith(BY_CHANCE)},
            "metrics": of_run(tables["metrics"], run, "key", "value", "step", "timestamp", "is_nan"),
            "files": dict(files_in(folder(run.artifact_uri, store, artifacts))),
            "models": [model_of(row, tables, store, artifacts) for row in of(tables, "logged_models", run)],
            "datasets": datasets_of(run, tables),
        }
        for run in runs
    }


TABLES = (
    *("metrics", "datasets", "inputs", "input_tags", "logged_models", "logged_model_params", "logged_model_tags"),
    *("logged_model_metrics", "model_versions"),
)


def of(tables: dict[str, Rows], name: str, run: MlflowRun) -> Rows:
    return [row for row in tables[name] if row["source_run_id"] == run.run_id]


def of_run(rows: Rows, run: MlflowRun, *fields: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row[field] for field in fields) for row in rows if row["run_uuid"] == run.run_id)


def datasets_of(run: MlflowRun, tables: dict[str, Rows]) -> list[Any]:
    """Each dataset that a run used, with the tags of its use."""
    found = []
    for use in tables["inputs"]:
        if (use["source_type"], use["destination_id"]) != ("DATASET", run.run_id):
            continue
        (dataset,) = (row for row in tables["datasets"] if row["dataset_uuid"] == use["source_id"])
        tags = {row["name"]: row["value"] for row in tables["input_tags"] if row["input_uuid"] == use["input_uuid"]}
        told = {
            key: value for key, value in dataset.items() if key.startswith(("name", "digest", "dataset_s", "dataset_p"))
        }
        found.append((told, tags))
    return sorted(found, key=str)


def model_of(model: dict[str, Any], tables: dict[str, Rows], store: Path, artifacts: Path | None) -> dict[str, Any]:
    mine = {name: [row for row in tables[name] if row.get("model_id") == model["model_id"]] for name in TABLES}
    outputs = [row for row in tables["inputs"] if row["destination_id"] == model["model_id"]]
    files = dict(files_in(folder(model["artifact_location"], store, artifacts)))
    described = files.pop("MLmodel")
    ids = ("run_id", "model_id", "model_uuid", "artifact_path", "utc_time_created", "model_size_bytes")
    return {
        "name": model["name"],
        "status": model["status"],
        "type": model["model_type"] or "",
        "params": {row["param_key"]: row["param_value"] for row in mine["logged_model_params"]},
        "tags": {
            row["tag_key"]: VERSION.sub(r"\1", row["tag_value"])
            for row in mine["logged_model_tags"]
            if not row["tag_key"].startswith(BY_CHANCE)
        },
        "metrics": sorted(
            (row["metric_name"], row["metric_value"], row["metric_step"], row["dataset_name"], row["dataset_digest"])
            for row in mine["logged_model_metrics"]
        ),
        "links": [(row["source_type"], row["step"]) for row in outputs],
        "files": sorted(files),
        "description": {key: value for key, value in described.items() if key not in ids},
        "is signed": described["model_id"] == model["model_id"] and described["run_id"] == model["source_run_id"],
        "versions": [
            (
                row["name"],
                row["version"],
                MODEL_ID.sub("<model>", row["source"]),
                row["run_id"] == model["source_run_id"],
            )
            for row in tables["model_versions"]
            if model["model_id"] in row["source"]
        ],
    }


def folder(uri: str, store: Path, artifacts: Path | None) -> Path:
    """The folder of an artifact URI; those of a server lie where it keeps them."""
    parts = urlsplit(uri)
    path = unquote(parts.path).lstrip("/")
    return (artifacts or store.parent / "artifacts") / path if parts.scheme == "mlflow-artifacts" else Path("/", path)


def files_in(top: Path) -> Iterable[tuple[str, Any]]:
    """Path and content of each file, decoded where it may be written in more ways than one."""
    for path in sorted(path for path in top.rglob("*") if path.is_file()):
        yield UUID.sub("<uuid>", path.relative_to(top).as_posix()), decoded(path)


def decoded(path: Path) -> Any:
    data = path.read_bytes()
    if path.suffix in (".png", ".webp", ".jpg"):
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
        return picture.shape, picture.astype(int).sum() if path.suffix == ".png" else None  # webp is lossy
    if path.suffix == ".json":
        return json.loads(UUID.sub("<uuid>", data.decode()))
    return yaml.safe_load(data) if path.name == "MLmodel" else data
