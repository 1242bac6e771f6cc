"""TensorBoard: event files, written with tensorboard's own record framing. No torch, no thread.

A run's files lie in `<folder>/<run id>/<site>`, so that is the run's name in TensorBoard; where one run holds all
sites, it is `<run id>/_combined`.

| Event | In TensorBoard |
| --- | --- |
| MetricsLogged | a scalar per key: float32, as the SDK has it; step (none: 0) and wall time of the caller |
| MetricsLogged with `main_tag` | like `add_scalars`: a run `<main_tag>_<key>` per key, tag `main_tag` |
| ParamsLogged | text `params`: a table of key and value |
| ConfigUpdated | text `config`: a table of dotted key and value |
| TagsSet | text `tags`: a table of key and value |
| TextLogged | text under its key, a file's text under its path |
| RunStarted | text `run/status`: RUNNING, its name and group |
| RunFinished | text `run/status`, written once, when the run is closed: the status of the run and why |

Texts are stored as the SDK stores them: tag `<key>/text_summary`, for the text plugin. Counted are
`float32 overflow` (a finite number over 3.4e38 becomes infinite), `renamed folder` (a name in `add_scalars`
that would have left the run's folder, or is too long for one) and `unsupported <event>`.

The position is the length of every file. When the run is opened again each file is cut back to its
acknowledged length, files that were not acknowledged are deleted, and what follows goes into a new file: a
TensorBoard that looks on has perhaps read what was cut off, and would stumble over other bytes in its place.
Only files of this sink are touched, which end with `.trackbus`.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Unpack, cast

from eventbus import Envelope, Event
from eventbus.errors import ConfigurationError, MissingExtraError
from eventbus.tracking import (
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    RunStatus,
    TagsSet,
    TextLogged,
)
from receivers._files import check_length
from receivers._names import file_name, flattened, relative_path
from receivers._receiver import Receiver, ReceiverOptions
from receivers.abc import Position, Row, RunInfo, Sink, SinkConfig, TrackerRun

FILE_PREFIX = "events.out.tfevents"
FILE_SUFFIX = ".trackbus"

VALUES_PER_RECORD = 100
"""Values of one step share a record: seven times as fast as one each."""

BUFFER_BYTES = 1 << 20
"""A file's records are handed to the operating system at the latest when there are so many bytes of them."""

FLOAT32_MAX = 3.4028234663852886e38


class TensorBoardConfig(SinkConfig):
    """Settings of TensorBoard.

    Attributes:
        tb_folder: Folder of the event files, relative to the workspace; by default `tensorboard` there.
    """

    kind: ClassVar[str] = "tensorboard"
    sink: ClassVar[str] = "receivers.tensorboard:TensorBoardSink"

    tb_folder: str | None = None

    def folder(self, workspace: Path) -> Path:
        """Return the folder that TensorBoard is pointed at."""
        return (workspace / Path(self.tb_folder or "tensorboard").expanduser()).absolute()

    def check(self, workspace: Path) -> None:
        """Refuse a missing SDK, and a folder that is a file."""
        if find_spec("tensorboard") is None:
            raise MissingExtraError(
                "TensorBoardReceiver needs the package tensorboard: pip install 'trackbus[tensorboard]'"
            )
        if self.folder(workspace).is_file():
            raise ConfigurationError(f"tb_folder={self.tb_folder!r} is a file; name a folder")

    def destination(self, workspace: Path) -> str:
        """Name the folder."""
        return f"{self.kind}:{self.folder(workspace)}"

    def look(self, workspace: Path) -> str:
        """Start TensorBoard."""
        return f"tensorboard --logdir {shlex.quote(str(self.folder(workspace)))}"


class TensorBoardSink(Sink[TensorBoardConfig]):
    """Writes the event files of one run."""

    _run: RunInfo
    _root: Path
    _row: int
    _time_ns: int

    def __init__(self, config: TensorBoardConfig, workspace: Path) -> None:
        super().__init__(config, workspace)
        self._formats = _Formats()
        self._sizes: dict[str, int] = {}
        self._files: dict[str, _EventFile] = {}
        self._stores: dict[type[Event], Callable[[Any, Envelope[Event]], None]] = {
            MetricsLogged: self._store_metrics,
            ParamsLogged: lambda event, envelope: self._store_table("params", event.values, envelope),
            TagsSet: lambda event, envelope: self._store_table("tags", event.values, envelope),
            ConfigUpdated: lambda event, envelope: self._store_table("config", dict(flattened(event.values)), envelope),
            TextLogged: self._store_text,
            RunStarted: self._store_start,
            RunFinished: lambda _event, _envelope: None,  # `close` knows the status of the whole run
        }

    def open(self, run: RunInfo, committed: Position) -> int:
        """Cut every file back to what was acknowledged.

        Raises:
            TrackerLostError: A file is shorter than what was acknowledged: somebody else changed it.
        """
        folder = self.config.folder(self.workspace)
        self._root = folder / file_name(run.id) / file_name(run.place)
        self._run, self._row, self._time_ns = run, committed.row, run.started_ns
        self._sizes = cast("dict[str, int]", json.loads(committed.token or "{}"))
        self._files = {}
        _cut_back(self._root, self._sizes)
        self.tracker_run = TrackerRun(self._root.relative_to(folder).as_posix(), str(self._root))
        return self._row

    def write(self, rows: Sequence[Row]) -> None:
        """Store the rows that are new."""
        for row in rows:
            if row.number > self._row:
                self._store(row.envelope)
                self._row = row.number

    def flush(self) -> Position:
        """Hand everything to the operating system.

        Raises:
            TrackerLostError: Somebody else has changed or removed a file.
        """
        for file in self._files.values():
            self._sizes[file.name] = file.flush()
        return Position(self._row, json.dumps(self._sizes))

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        """Store how the run ended."""
        if status is not None:
            text = f"{status.value}: {reason}" if reason else status.value
            self._add_text("run/status", text, 0, self._time_ns)
        return self.flush()

    def abandon(self) -> bool:
        """Do nothing: no file stays open, and the next `open` cuts them all back."""
        return True

    def _store(self, envelope: Envelope[Event]) -> None:
        self._time_ns = envelope.time_ns
        event = envelope.event
        store = next((self._stores[cls] for cls in type(event).__mro__ if cls in self._stores), None)
        if store is None:
            self.counts[f"unsupported {event.event_name}"] += 1
        else:
            store(event, envelope)

    def _store_metrics(self, event: MetricsLogged, envelope: Envelope[Event]) -> None:
        step = event.step or 0
        self.counts.update(_overflows(event.values.values()))
        if event.main_tag is None:
            for values in _chunks(event.values.items(), VALUES_PER_RECORD):
                self._add("", self._formats.scalars(values), step, envelope.time_ns)
            return
        for key, value in event.values.items():
            summary = self._formats.scalars([(event.main_tag, value)])
            self._add(self._folder_of(event.main_tag, key), summary, step, envelope.time_ns)

    def _folder_of(self, main_tag: str, key: str) -> str:
        """Return the folder that the SDK would take, unless it lies outside the run's."""
        wanted = f"{main_tag.replace('/', '_')}_{key}"
        folder = relative_path(wanted)
        self.counts.update(["renamed folder"] * (folder != wanted))
        return folder

    def _store_table(self, tag: str, values: Mapping[str, object], envelope: Envelope[Event]) -> None:
        lines = [f"| {_cell(key)} | {_cell(value)} |" for key, value in values.items()]
        table = "\n".join(["| key | value |", "| --- | --- |", *lines])
        self._add_text(tag, table, 0, envelope.time_ns)

    def _store_text(self, event: TextLogged, envelope: Envelope[Event]) -> None:
        self._add_text(event.key, event.text, event.step or 0, envelope.time_ns)

    def _store_start(self, event: RunStarted, envelope: Envelope[Event]) -> None:
        group = f" ({event.group})" if event.group else ""
        self._add_text("run/status", f"RUNNING: {event.name}{group}", 0, envelope.time_ns)

    def _add_text(self, tag: str, text: str, step: int, time_ns: int) -> None:
        self._add("", self._formats.text(tag, text), step, time_ns)

    def _add(self, folder: str, summary: Any, step: int, time_ns: int) -> None:
        """Add one record to the file of a folder below the run's, which is made with its first record."""
        file = self._files.get(folder)
        if file is None:
            name = _new_name(PurePosixPath(folder), self._sizes)
            file = self._files[folder] = _EventFile(self._root, name, self._formats)
            file.add(self._formats.header(time_ns))
        file.add(self._formats.event(summary, step, time_ns))


class _EventFile:
    """One event file: its records are framed in memory and appended with each flush, so no file stays open.

    Args:
        root: Folder of the run.
        name: Name of the file, relative to the root.
        formats: What tensorboard brings.
    """

    def __init__(self, root: Path, name: str, formats: _Formats) -> None:
        self.name = name
        self._path = root / name
        self._size = 0
        self._buffer = BytesIO()
        self._records = formats.record_writer(self._buffer)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        if self._buffer.tell() > BUFFER_BYTES:
            self.flush()

    def flush(self) -> int:
        """Append what is new; return the file's length."""
        data = self._buffer.getvalue()
        if data:
            check_length(self._path, self._size, most=self._size)
            with self._path.open("ab") as file:
                file.write(data)
            self._size += len(data)
            self._buffer.seek(0)
            self._buffer.truncate()
        return self._size


class _Formats:
    """The parts of tensorboard that this sink uses: its messages and its record framing.

    They are loaded by name, because tensorboard has no type information that a checker could use.
    """

    def __init__(self) -> None:
        proto = "tensorboard.compat.proto."
        self._event: Any = import_module(f"{proto}event_pb2")
        self._summary: Any = import_module(f"{proto}summary_pb2").Summary
        self._tensor: Any = import_module(f"{proto}tensor_pb2").TensorProto
        self._shape: Any = import_module(f"{proto}tensor_shape_pb2").TensorShapeProto
        metadata: Any = import_module("tensorboard.plugins.text.metadata")
        self._text_metadata = metadata.create_summary_metadata(display_name=None, description=None)
        self.record_writer: Any = import_module("tensorboard.summary.writer.record_writer").RecordWriter

    def header(self, time_ns: int) -> Any:
        """Return a file's first record: without it readers purge steps that arrive late."""
        source = self._event.SourceMetadata(writer="trackbus")
        return self._event.Event(wall_time=time_ns / 1e9, file_version="brain.Event:2", source_metadata=source)

    def event(self, summary: Any, step: int, time_ns: int) -> Any:
        return self._event.Event(summary=summary, step=step, wall_time=time_ns / 1e9)

    def scalars(self, values: Iterable[tuple[str, float]]) -> Any:
        value = self._summary.Value
        return self._summary(value=[value(tag=key, simple_value=number) for key, number in values])

    def text(self, tag: str, text: str) -> Any:
        shape = self._shape(dim=[self._shape.Dim(size=1)])
        tensor = self._tensor(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
        value = self._summary.Value(tag=f"{tag}/text_summary", metadata=self._text_metadata, tensor=tensor)
        return self._summary(value=[value])


def _cut_back(root: Path, sizes: Mapping[str, int]) -> None:
    """Bring the files of this sink to their acknowledged lengths, and delete those without one."""
    for name, size in sizes.items():
        path = root / name
        check_length(path, size)
        with path.open("r+b") as file:
            file.truncate(size)
    for path in list(root.rglob(f"{FILE_PREFIX}.*{FILE_SUFFIX}")):
        if path.relative_to(root).as_posix() not in sizes:
            path.unlink()


def _new_name(folder: PurePosixPath, sizes: Mapping[str, int]) -> str:
    """Return a name that sorts behind the folder's other files: TensorBoard reads them in that order."""
    stamps = [int(path.name.split(".")[3]) for path in map(PurePosixPath, sizes) if path.parent == folder]
    stamp = max([int(time.time()), *(used + 1 for used in stamps)])
    host = file_name(socket.gethostname())
    return (folder / f"{FILE_PREFIX}.{stamp:010d}.{host}.{os.getpid()}{FILE_SUFFIX}").as_posix()


def _chunks(items: Iterable[tuple[str, float]], size: int) -> Iterator[list[tuple[str, float]]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _overflows(values: Iterable[float]) -> list[str]:
    return ["float32 overflow" for value in values if FLOAT32_MAX < abs(value) < math.inf]


def _cell(value: object) -> str:
    """Return a value as a cell of a table: a bar or a line's end would break it."""
    return str(value).replace("|", "\\|").replace("\n", "<br>")


class TensorBoardReceiver(Receiver):
    """Fills the event files that TensorBoard reads.

    Args:
        tb_folder: Folder of the event files, relative to the workspace; by default `tensorboard` there.
        options: `name`, `layout`, `flush`, `worker` and `python`, as `Receiver` takes them.
    """

    def __init__(
        self,
        tb_folder: str | None = None,
        **options: Unpack[ReceiverOptions],
    ) -> None:
        super().__init__(TensorBoardConfig(tb_folder=tb_folder), **options)
