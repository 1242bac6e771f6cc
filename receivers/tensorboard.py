"""TensorBoard: event files, written with tensorboard's own record framing. No torch, no thread.

A run's files lie in `<folder>/<run id>/<site>`, so that is the run's name in TensorBoard; where one run holds all
sites, it is `<run id>/_combined`. What the SDK's writer makes of the same calls is what stands in them; what becomes of
each event is told in `receivers.matrix`. In detail:

* A scalar is float32, or a tensor where the new style was asked for, with the caller's wall time. What has no step has
  step 0.
* Metrics of a `main_tag` lie in a run `<main_tag>_<key>` per key under the tag `main_tag`; a session of HParams in a
  run `<run_name>`, or one that is named by the time.
* Several pictures of one call are `<key>/<index>`. An embedding is the projector's files `<step>/<tag>/*`, which
  `projector_config.pbtxt` names.
* The text `run/status` is RUNNING when a run begins; how it ended is written once, when it is closed.

What is kept is a file below `_files` in the run's folder. Counted are `kept as a file: <event>`,
`payload missing: <event>`, `link of metrics left out`, `boxes left out` (of a picture), `float32 overflow` (a finite
number over 3.4e38 becomes infinite), `renamed folder` (a name in `add_scalars` or of a session that would have left the
run's folder, is too long for one, or belongs to other files there), `refused by TensorBoard: <event>` (what it holds
itself fits into no record; it is kept) and `unsupported <event>`.

The position is the length of every file. When the run is opened again each file is cut back to its
acknowledged length, files that were not acknowledged are deleted, and what follows goes into a new file: a
TensorBoard that looks on has perhaps read what was cut off, and would stumble over other bytes in its place.
Only files of this sink are touched, which end with `.trackbus`, in folders that this workspace began (see
`receivers._owner`). Other files appear whole and under names that the same record always has, so a record that comes
again replaces what it left.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Unpack, cast

from eventbus import Envelope, Event
from eventbus.artifacts import ArtifactLogged
from eventbus.blobs import Blob
from eventbus.errors import BlobError, ConfigurationError, MissingExtraError
from eventbus.media import (
    Array,
    AudioLogged,
    EmbeddingLogged,
    GraphLogged,
    HistogramLogged,
    ImagesLogged,
    MediaFile,
    MediaLogged,
    MeshLogged,
    PrCurveLogged,
    TableLogged,
    TensorLogged,
    VideoLogged,
)
from eventbus.tracking import (
    ChartsArranged,
    HParamsLogged,
    LinkedMetricsLogged,
    MetricsLogged,
    RunFinished,
    RunStatus,
    StyledMetricsLogged,
)
from receivers._files import TAKEN, folder_below, put_file
from receivers._kept import kept_files
from receivers._names import file_name, relative_path
from receivers._owner import take
from receivers._receiver import Receiver, ReceiverOptions
from receivers._tensorboard_file import FILE_PREFIX, KEPT, EventFile, cut_back, files_below, new_name
from receivers._tensorboard_formats import NS_PER_SECOND, Formats, chunks, numbers_of, overflows
from receivers._tensorboard_plugins import graph_of_onnx, hparams, layout, mesh
from receivers._tensorboard_projector import CONFIG, store_embedding
from receivers._tensorboard_texts import MAX_ROWS, TEXTS, Text, file_list, shown_table, table_in
from receivers.abc import Position, Row, RunInfo, Sink, SinkConfig, TrackerRun

SOUNDS = frozenset({"audio/wav", "audio/wave", "audio/x-wav", "audio/vnd.wave"})
"""Types of sounds that TensorBoard plays."""

MOVING = frozenset({"image/gif", "video/gif"})
"""Types of videos that TensorBoard shows: as images."""

SHOWN = frozenset({"image/png", "image/jpeg", "image/gif", "image/bmp", "image/x-ms-bmp"})
"""Types of pictures that TensorBoard shows."""

OURS = re.compile(rf"^({KEPT}|{TAKEN}|\.?{re.escape(CONFIG)}[^/]*)(/|$)|^\d{{5,}}/|(^|/){re.escape(FILE_PREFIX)}")
"""Where other files than a chart's or session's lie: those that are kept, the projector's, and event files."""


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
        return folder_below(workspace, self.tb_folder or "tensorboard")

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
        self._formats = formats = Formats()
        self._sizes: dict[str, int] = {}
        self._files: dict[str, EventFile] = {}
        self._stores: dict[type[Event], Callable[[Any, Envelope[Event]], None]] = {
            **{kind: self._stores_text(make) for kind, make in TEXTS.items()},
            MetricsLogged: self._store_metrics,
            StyledMetricsLogged: self._store_styled,
            LinkedMetricsLogged: self._store_linked,
            HParamsLogged: self._store_hparams,
            ChartsArranged: lambda event, envelope: self._add(layout(formats, event.charts), envelope),
            HistogramLogged: lambda event, envelope: self._add(formats.histogram(event), envelope),
            PrCurveLogged: lambda event, envelope: self._add(formats.curve(event), envelope),
            TensorLogged: self._store_tensor,
            MeshLogged: self._store_mesh,
            EmbeddingLogged: self._store_embedding,
            GraphLogged: self._store_graph,
            TableLogged: self._store_table,
            ImagesLogged: lambda event, envelope: self._store_media(event, envelope, SHOWN, formats.image),
            AudioLogged: lambda event, envelope: self._store_media(event, envelope, SOUNDS, formats.sound),
            VideoLogged: lambda event, envelope: self._store_media(event, envelope, MOVING, formats.image),
            MediaLogged: lambda _event, envelope: self._keep(envelope),
            ArtifactLogged: self._store_artifact,
            RunFinished: lambda _event, _envelope: None,  # `close` knows the status of the whole run
        }

    def open(self, run: RunInfo, committed: Position) -> int:
        """Cut every file back to what was acknowledged.

        Raises:
            TrackerLostError: A file is shorter than what was acknowledged: somebody else changed it.
            TrackerTakenError: Another workspace has written into the run's folder.
        """
        folder = self.config.folder(self.workspace)
        self._root = folder / file_name(run.id) / file_name(run.place)
        self._run, self._row, self._time_ns = run, committed.row, run.started_ns
        self._sizes = cast("dict[str, int]", json.loads(committed.token or "{}"))
        self._files = {}
        if not committed.token:
            take(self._root, self.workspace, is_used=bool(files_below(self._root)))
        cut_back(self._root, self._sizes)
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
            self._put("", self._formats.event(0, self._time_ns, summary=self._formats.text("run/status", text)))
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
            return
        try:
            store(event, envelope)
        except BlobError:
            self._miss(event)
        except (LookupError, TypeError, ValueError):  # what it holds itself fits into no record of TensorBoard's
            self.counts[f"refused by TensorBoard: {event.event_name}"] += 1
            self._keep(envelope)

    # --- numbers --------------------------------------------------------------------------------------------

    def _store_metrics(self, event: MetricsLogged, envelope: Envelope[Event]) -> None:
        self.counts.update(overflows(event.values.values()))
        if event.main_tag is None:
            for values in chunks(event.values):
                self._add(self._formats.scalars(values), envelope)
            return
        for key, value in event.values.items():
            folder = self._folder(f"{event.main_tag.replace('/', '_')}_{key}")
            self._add(self._formats.scalars([(event.main_tag, value)]), envelope, folder)

    def _store_linked(self, event: LinkedMetricsLogged, envelope: Envelope[Event]) -> None:
        if event.model or event.dataset_name or event.dataset_digest:
            self.counts["link of metrics left out"] += 1
        self._store_metrics(event, envelope)

    def _store_styled(self, event: StyledMetricsLogged, envelope: Envelope[Event]) -> None:
        if not event.new_style or event.main_tag is not None:
            self._store_metrics(event, envelope)
            return
        if not event.double_precision:
            self.counts.update(overflows(event.values.values()))
        self._add(self._formats.styled(event), envelope)

    def _store_hparams(self, event: HParamsLogged, envelope: Envelope[Event]) -> None:
        folder = self._folder(event.run_name or str(envelope.time_ns / NS_PER_SECOND))
        self.counts.update(overflows(event.metrics.values()))
        for summary in hparams(self._formats, event):
            self._add(summary, envelope, folder)
        for metric in event.metrics.items():
            self._add(self._formats.scalars([metric]), envelope, folder)

    def _store_tensor(self, event: TensorLogged, envelope: Envelope[Event]) -> None:
        data = self.blobs.read(event.tensor.blob)
        self._add(self._formats.tensor(event.key, event.tensor, data), envelope)

    def _store_mesh(self, event: MeshLogged, envelope: Envelope[Event]) -> None:
        arrays = {"vertices": event.vertices, "faces": event.faces, "colors": event.colors}
        read = {name: self._numbers(array, event) for name, array in arrays.items() if array is not None}
        parts = {name: numbers for name, numbers in read.items() if numbers is not None}
        if "vertices" in parts:
            self._add(mesh(self._formats, event, parts), envelope)

    def _store_embedding(self, event: EmbeddingLogged, _envelope: Envelope[Event]) -> None:
        store_embedding(self._root, event, lambda blob: self._read(blob, event), self.counts)

    def _store_graph(self, event: GraphLogged, envelope: Envelope[Event]) -> None:
        data = self.blobs.read(event.graph)
        graph = data if event.kind == "graph_def" else graph_of_onnx(data)
        if graph is None:
            self._keep(envelope)
            return
        self._put("", self._formats.event(0, envelope.time_ns, graph_def=graph))
        if event.profile is not None and (profile := self._read(event.profile, event)) is not None:
            told = self._formats.profile(profile)
            self._put("", self._formats.event(0, envelope.time_ns, tagged_run_metadata=told))

    # --- media and files ------------------------------------------------------------------------------------

    def _store_media(
        self,
        event: MediaLogged,
        envelope: Envelope[Event],
        native: frozenset[str],
        make: Callable[[str, MediaFile, bytes], Any],
    ) -> None:
        """Show those files whose type TensorBoard knows (`native`), and keep the others."""
        shown = [file.media_type in native for file in event.files]
        self.counts.update(["boxes left out"] * sum("boxes" in file.details for file in event.files))
        for index, file in enumerate(event.files):
            if shown[index] and (data := self._read(file.blob, event)) is not None:
                tag = f"{event.key}/{index}" if len(event.files) > 1 else event.key
                self._add(make(tag, file, data), envelope)
        if not all(shown):
            self._keep(envelope)

    def _store_table(self, event: TableLogged, envelope: Envelope[Event]) -> None:
        rows = self._rows_of(event)
        self._add_text(shown_table(event, rows), envelope)
        if len(rows) > MAX_ROWS or event.files:
            self._keep(envelope)

    def _store_artifact(self, event: ArtifactLogged, envelope: Envelope[Event]) -> None:
        self._add_text(file_list(event), envelope)
        self._keep(envelope)

    def _keep(self, envelope: Envelope[Event]) -> None:
        files = kept_files(envelope, self.blobs, self.counts)
        for file in files:
            put_file(self._root / KEPT, file, self.counts)
        if files:
            self.counts[f"kept as a file: {envelope.event.event_name}"] += 1

    def _rows_of(self, event: TableLogged) -> list[list[Any]]:
        try:
            return table_in(self.blobs.read(event.rows))
        except BlobError:
            self._miss(event)
            return []

    def _numbers(self, array: Array, event: Event) -> Sequence[float] | None:
        try:
            return numbers_of(array, self.blobs.read(array.blob))
        except BlobError:
            self._miss(event)
            return None

    def _read(self, blob: Blob, event: Event) -> bytes | None:
        """Return a payload; one that can't be had is counted, and the rest of its event is stored."""
        try:
            return self.blobs.read(blob)
        except BlobError:
            self._miss(event)
            return None

    def _miss(self, event: Event) -> None:
        self.counts[f"payload missing: {event.event_name}"] += 1

    # --- event files ----------------------------------------------------------------------------------------

    def _stores_text(self, make: Callable[[Any], Text]) -> Callable[[Any, Envelope[Event]], None]:
        return lambda event, envelope: self._add_text(make(event), envelope)

    def _add_text(self, text: Text, envelope: Envelope[Event]) -> None:
        summary = self._formats.text(text.tag, text.text)
        self._put("", self._formats.event(text.step, envelope.time_ns, summary=summary))

    def _add(self, summary: Any, envelope: Envelope[Event], folder: str = "") -> None:
        step: int | None = getattr(envelope.event, "step", None)
        self._put(folder, self._formats.event(step or 0, envelope.time_ns, summary=summary))

    def _folder(self, wanted: str) -> str:
        """Return the folder that the SDK would take, unless it lies outside the run's or where files of ours do."""
        folder = relative_path(wanted)
        folder = file_name(f"_{folder}") if OURS.search(folder) else folder
        self.counts.update(["renamed folder"] * (folder != wanted))
        return folder

    def _put(self, folder: str, record: Any) -> None:
        """Add one record to the file of a folder below the run's, which is made with its first record."""
        file = self._files.get(folder)
        if file is None:
            name = new_name(PurePosixPath(folder), self._sizes)
            file = self._files[folder] = EventFile(self._root, name, self._formats)
            file.add(self._formats.header(self._time_ns))
        file.add(record)


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
