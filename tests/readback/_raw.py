"""Reads what the trackers keep as they keep it, for what has no place in a `Row`: pictures, files, links."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2
from wandb.proto import wandb_internal_pb2

from readback import _tensorboard, _wandb


@dataclass(frozen=True, slots=True)
class RawValue:
    """One value of TensorBoard's: its run, its step, the message itself and the plugin that its metadata name.

    The message of a graph is the serialised graph; its tag is empty.
    """

    run: str
    step: int
    tag: str
    plugin: str
    field: str
    message: Any


def raw_tensorboard(folder: Path | str) -> list[RawValue]:
    """Every value and every graph in the event files below a folder; raises TornError on a torn file."""
    root, found = Path(folder), list[RawValue]()
    for file in sorted(root.rglob("*tfevents*")):
        run = file.parent.relative_to(root).as_posix()
        for payload in _tensorboard._payloads(file.read_bytes()):
            event = event_pb2.Event()  # pyright: ignore[reportAttributeAccessIssue]
            event.ParseFromString(payload)
            if event.graph_def:
                found.append(RawValue(run, event.step, "", "graphs", "graph_def", event.graph_def))
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                found.append(RawValue(run, event.step, value.tag, plugin, value.WhichOneof("value") or "", value))
    return found


def raw_wandb(folder: Path | str) -> list[tuple[str, Any]]:
    """Every record of the `.wandb` files below a folder: its kind and its message; raises TornError on a torn file."""
    found = list[tuple[str, Any]]()
    for file in sorted(Path(folder).rglob("*.wandb")):
        for payload in _wandb._payloads(file.read_bytes()) if "latest-run" not in file.parts else ():
            record = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(payload)
            kind = record.WhichOneof("record_type")
            found.append((kind, getattr(record, kind)))
    return found


def raw_mlflow(path: Path | str, table: str) -> list[dict[str, Any]]:
    """Every row of one of the tables of MLflow's store."""
    with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as store:
        store.row_factory = sqlite3.Row
        return [dict(row) for row in store.execute(f"SELECT * FROM {table}")]
