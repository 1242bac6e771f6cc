"""Reads `.wandb` files: LevelDB's log format around protobuf records."""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

from readback._rows import Row, TornError, torn_row

_FILE_HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
_BLOCK = 32 * 1024  # counted from the start of the file, its header included
_CHUNK_HEADER = struct.Struct("<IHB")  # crc32 over type and data, length of data, type
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_INTERNAL = {"_step", "_runtime", "_timestamp", "_wandb", "global_step"}


@dataclass
class WandbArtifact:
    """One artifact that a run logged: what W&B is told of it, and its files by path, as bytes or an address."""

    name: str
    kind: str
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    description: str
    metadata: dict[str, Any]
    is_input: bool
    digest: str
    files: dict[str, bytes | str]


@dataclass
class WandbRun:
    """One `.wandb` file: who wrote it, how it ended, and its history rows as {key: value}, in file order.

    rows: the history again, with nested values as they were logged.
    metrics: what was defined, by name: step_metric, hidden, summary ...
    alerts: (title, text, level, wait in ms).
    files: the run's own files by path, which it names and has: pictures, tables, saved files.
    """

    path: Path
    run_id: str = ""
    name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    alerts: list[tuple[str, str, str, int]] = field(default_factory=list)
    artifacts: list[WandbArtifact] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None  # None: the run was not finished
    torn: str | None = None  # why the file can't be read to its end


def read_wandb(folder: Path | str) -> list[Row]:
    """All history rows below a folder, one Row per key; `step` is the field `global_step` of the same row."""
    order = count()
    return [row for run in read_wandb_runs(folder) for row in _rows_of(run, order)]


def read_wandb_configs(folder: Path | str) -> dict[str, dict[str, Any]]:
    """The config of each run below a folder, by the run's name; later files of a run update earlier ones."""
    configs: dict[str, dict[str, Any]] = {}
    for run in read_wandb_runs(folder):
        configs.setdefault(run.name, {}).update(run.config)
    return configs


def read_wandb_runs(folder: Path | str) -> list[WandbRun]:
    """Every `.wandb` file below a folder, in the order of their paths, which carry the start time.

    `latest-run`, a link to one of their folders, is left out.
    """
    files = Path(folder).rglob("*.wandb")
    return [_read_file(file) for file in sorted(files) if "latest-run" not in file.parts]


def _rows_of(run: WandbRun, order: Iterator[int]) -> Iterator[Row]:
    for number, values in zip(order, run.history, strict=False):
        step = values.get("global_step")
        wall = values.get("_timestamp")
        for key, value in values.items():
            kind, shown = _shown(key, value)
            yield Row(
                run=run.name,
                kind=kind,
                key=key,
                step=None if step is None else int(step),
                value=shown,
                order=number,
                wall_time_ns=None if wall is None else round(wall * 1e9),
            )
    if run.torn is not None:
        yield torn_row(run.name, run.path.name, run.torn, next(order))


def _shown(key: str, value: Any) -> tuple[str, float | str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    shown = float(value) if number else value if isinstance(value, str) else json.dumps(value)
    if key.partition(".")[0] in _INTERNAL:
        return "internal", shown
    return ("metric" if number else "text"), shown


def _read_file(path: Path) -> WandbRun:
    run = WandbRun(path, run_id=path.stem.removeprefix("run-"), name=path.stem.removeprefix("run-"))
    try:
        for payload in _payloads(path.read_bytes()):
            record = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(payload)
            _apply(run, record)
    except TornError as error:
        run.torn = str(error)
    return run


def _apply(run: WandbRun, record: Any) -> None:
    """Take what one record says into the run. Records of other kinds (telemetry, files) are passed over."""
    kind = record.WhichOneof("record_type")
    if kind == "run":
        _apply_run(run, record.run)
    elif kind == "history":
        run.history.append(_items(record.history.item))
        run.rows.append(_nested(record.history.item))
    elif kind == "summary":
        run.summary.update(_items(record.summary.update))
    elif kind == "config":
        run.config.update(_items(record.config.update))
    elif kind == "exit":
        run.exit_code = record.exit.exit_code
    else:
        _apply_other(run, kind, record)


def _apply_other(run: WandbRun, kind: str, record: Any) -> None:
    if kind == "metric":
        _apply_metric(run, record.metric)
    elif kind == "alert":
        alert = record.alert
        run.alerts.append((alert.title, alert.text, alert.level, alert.wait_duration))
    elif kind == "artifact":
        run.artifacts.append(_artifact(record.artifact))
    elif kind == "files":
        folder = run.path.parent / "files"
        paths = [file.path for file in record.files.files if (folder / file.path).is_file()]
        run.files.update({path: (folder / path).read_bytes() for path in paths})


def _apply_metric(run: WandbRun, metric: Any) -> None:
    said = run.metrics.setdefault(metric.name or metric.glob_name, {})
    said["step_metric"] = metric.step_metric
    said["step_sync"], said["hidden"] = metric.options.step_sync, metric.options.hidden
    said["summary"] = {field.name for field, value in metric.summary.ListFields() if value is True}


def _artifact(record: Any) -> WandbArtifact:
    files = {entry.path: entry.ref or Path(entry.local_path).read_bytes() for entry in record.manifest.contents}
    return WandbArtifact(
        name=record.name,
        kind=record.type,
        aliases=tuple(sorted(record.aliases)),
        tags=tuple(record.tags),
        description=record.description,
        metadata=json.loads(record.metadata or "{}"),
        is_input=record.use_after_commit,
        digest=record.digest,
        files=files,
    )


def _apply_run(run: WandbRun, record: Any) -> None:
    run.run_id = record.run_id
    run.name = record.display_name or record.run_id
    run.project = record.project
    run.group = record.run_group
    run.job_type = record.job_type
    run.notes = record.notes
    run.tags = tuple(record.tags)
    run.config.update(_items(record.config.update))


def _items(items: Iterable[Any]) -> dict[str, Any]:
    """{key: value} of a record's items; nested keys are joined by a dot."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _nested(items: Iterable[Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in items:
        *path, last = tuple(item.nested_key) or (item.key,)
        inner = row
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)
    return row


def _payloads(data: bytes) -> Iterator[bytes]:
    """The records of one file: whole chunks, and chains of first, middle and last ones joined."""
    chain: bytes | None = None
    for kind, chunk in _chunks(data):
        if (kind in {_FULL, _FIRST}) != (chain is None):
            message = f"chunk type {kind} in the wrong place"
            raise TornError(message)
        chain = chunk if chain is None else chain + chunk
        if kind in {_FULL, _LAST}:
            yield chain
            chain = None
    if chain is not None:
        raise TornError("the last record has no end")


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    if data[: len(_FILE_HEADER)] != _FILE_HEADER:
        raise TornError("no file header")
    position = len(_FILE_HEADER)
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < _CHUNK_HEADER.size:
            position += left
            continue
        kind, chunk = _chunk(data, position)
        position += _CHUNK_HEADER.size + len(chunk)
        yield kind, chunk


def _chunk(data: bytes, position: int) -> tuple[int, bytes]:
    start = position + _CHUNK_HEADER.size
    if start > len(data):
        message = f"a chunk header is cut off at byte {position}"
        raise TornError(message)
    crc, length, kind = _CHUNK_HEADER.unpack_from(data, position)
    chunk = data[start : start + length]
    if len(chunk) < length:
        message = f"a chunk is cut off at byte {position}"
        raise TornError(message)
    if kind not in {_FULL, _FIRST, _MIDDLE, _LAST} or zlib.crc32(chunk, zlib.crc32(bytes([kind]))) != crc:
        message = f"a checksum is wrong at byte {position}"
        raise TornError(message)
    return kind, chunk
