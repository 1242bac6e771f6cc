"""Reads MLflow's SQLite store by its tables, without MLflow."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from math import nan
from pathlib import Path

from readback._rows import Row, torn_row

_RUN_NAMES = "SELECT run_uuid, coalesce(nullif(name, ''), run_uuid) FROM runs"


@dataclass(frozen=True)
class MlflowRun:
    """One run of the table `runs`, with its params and tags. `end_time_ms` is None until it has ended."""

    run_id: str
    name: str
    experiment: str
    status: str
    lifecycle_stage: str
    artifact_uri: str
    start_time_ms: int | None
    end_time_ms: int | None
    params: dict[str, str]
    tags: dict[str, str]


def read_mlflow(path: Path | str) -> list[Row]:
    """Every metric, param and tag, each table in the order of its row ids.

    MLflow keeps an infinity as +-1.797e308: the row shows what is stored. A damaged store gives one torn row.
    """
    try:
        with closing(_open(path)) as store:
            _check(store)
            return [*_metrics(store), *_texts(store, "params", "param"), *_texts(store, "tags", "tag")]
    except sqlite3.DatabaseError as error:
        return [torn_row("", Path(path).name, str(error), 0)]


def read_mlflow_runs(path: Path | str) -> list[MlflowRun]:
    """Every run, deleted ones too, in the order of their row ids.

    Raises sqlite3.DatabaseError on a damaged store.
    """
    with closing(_open(path)) as store:
        params, tags = _by_run(store, "params"), _by_run(store, "tags")
        found = store.execute(
            "SELECT run_uuid, coalesce(runs.name, ''), experiments.name, status, runs.lifecycle_stage,"
            " artifact_uri, start_time, end_time"
            " FROM runs JOIN experiments USING (experiment_id) ORDER BY runs.rowid"
        )
        return [MlflowRun(*row, params=params.get(row[0], {}), tags=tags.get(row[0], {})) for row in found]


def _open(path: Path | str) -> sqlite3.Connection:
    return sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)


def _check(store: sqlite3.Connection) -> None:
    (verdict,) = store.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _metrics(store: sqlite3.Connection) -> Iterator[Row]:
    names = dict(store.execute(_RUN_NAMES))
    found = store.execute("SELECT rowid, run_uuid, key, step, value, is_nan, timestamp FROM metrics ORDER BY rowid")
    for order, run, key, step, value, is_nan, time_ms in found:
        shown = nan if is_nan else float(value)
        yield Row(names[run], "metric", key, step, shown, order, time_ms * 1_000_000)


def _texts(store: sqlite3.Connection, table: str, kind: str) -> Iterator[Row]:
    names = dict(store.execute(_RUN_NAMES))
    found = store.execute(f"SELECT rowid, run_uuid, key, value FROM {table} ORDER BY rowid")
    for order, run, key, value in found:
        yield Row(names[run], kind, key, None, value or "", order)


def _by_run(store: sqlite3.Connection, table: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for run, key, value in store.execute(f"SELECT run_uuid, key, value FROM {table} ORDER BY rowid"):
        found.setdefault(run, {})[key] = value or ""
    return found
