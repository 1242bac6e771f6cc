"""Reads a workspace's trackers into one shape, by readers that share no code with the sinks."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from faults.events import publisher_of
from faults.layout import PUBLISHERS
from readback import Row as StoredRow
from readback import read_jsonl, read_mlflow, read_tensorboard, read_wandb, read_wandb_configs

Series = dict[tuple[str, str], list[int]]
"""(Publisher's name, key) -> numbers, in the tracker's order."""

PARAM = "param"
TEXTS = ("note", "poison")


class TornStoreError(Exception):
    """A tracker's file can't be read to its end."""


def read_store(workspace: Path, tracker: str) -> Series:
    series: Series = defaultdict(list)
    for name, key, number in READERS[tracker](workspace):
        series[name, key].append(number)
    return dict(series)


Found = Iterable[tuple[str, str, int]]


def _jsonl(folder: Path) -> Found:
    for line in read_jsonl(folder):
        if line.torn:
            raise TornStoreError(f"{folder / line.file}: {line.torn}")
        name = f"{line.value.get('site')}-{line.value.get('run')}"
        for key, value in _values(line.value.get("type"), line.value.get("event")):
            yield name, key, int(value)


def _values(kind: str | None, event: Any) -> Iterable[tuple[str, Any]]:
    if kind == "MetricsLogged":
        return event["values"].items()
    if kind == "ParamsLogged":
        return [(PARAM, value) for value in event["values"].values()]
    return [(event["key"], event["text"])] if kind == "TextLogged" else []


def _rows(rows: Iterable[StoredRow], kinds: Collection[str]) -> Found:
    for row in sorted(rows, key=lambda row: row.order):
        if row.kind == "torn":
            raise TornStoreError(f"{row.run} {row.key}: {row.value}")
        key = PARAM if row.kind == "param" else row.key.removesuffix("/text_summary")
        if row.kind in kinds and (row.kind != "text" or key in TEXTS):
            yield _publisher(row.run), key, int(float(row.value))


def _publisher(run: str) -> str:
    """TensorBoard keeps `<run>/<site>`, the others `<site>-<run>`."""
    name, _, site = run.partition("/")
    return f"{site}-{name}" if site else run


def _wandb(workspace: Path) -> Found:
    yield from _rows(read_wandb(workspace / "wandb"), {"metric", "text"})
    for run, config in read_wandb_configs(workspace / "wandb").items():
        for key, value in config.items():
            if key.startswith(PARAM):
                yield run, PARAM, int(value)


def _dead_letters(folder: Path) -> Found:
    """Read them with nothing of ours but the layout of a record."""
    for file in sorted(folder.glob("*/*.db")):
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            bodies = [body for (body,) in connection.execute("SELECT body FROM records ORDER BY seq")]
        for body in bodies:
            fields = msgspec.msgpack.decode(body)[-1]
            key, value = _only_value(fields)
            yield PUBLISHERS[publisher_of(int(value))].name, key, int(value)


def _only_value(fields: dict[str, Any]) -> tuple[str, Any]:
    """Return key and value of a text, or of the first number of any other event: whatever was put aside is judged."""
    if "text" in fields:
        return fields["key"], fields["text"]
    return next(iter(fields["values"].items()))


READERS = {
    "dead letters": lambda workspace: _dead_letters(workspace / "dead" / "ordered"),
    "jsonl": lambda workspace: _jsonl(workspace / "jsonl"),
    "ordered": lambda workspace: _jsonl(workspace / "ordered"),
    "tensorboard": lambda workspace: _rows(read_tensorboard(workspace / "tensorboard"), {"metric", "text"}),
    "mlflow": lambda workspace: _rows(read_mlflow(workspace / "mlflow.db"), {"metric", "param"}),
    "wandb": _wandb,
}
