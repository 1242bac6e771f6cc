"""Pictures, tables, histograms and the like as values of the W&B SDK: each is a field of a row. Loads no SDK.

What the SDK refuses (a video of a kind that it doesn't know, say) is kept as a file of the run. Files are handed to the
SDK under names with an ending, by which it tells what they are; it copies them into the run's own folder before a row
that names them is recorded.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, cast

from eventbus.errors import BlobError
from eventbus.media import (
    AudioLogged,
    EmbeddingLogged,
    HistogramLogged,
    HtmlLogged,
    ImagesLogged,
    MediaFile,
    MediaLogged,
    MeshLogged,
    MoleculeLogged,
    Object3DLogged,
    PlotlyLogged,
    PrCurveLogged,
    TableLogged,
    VideoLogged,
)
from receivers._arrays import grids, rows
from receivers._files import put_file
from receivers._kept import KeptFile, kept_files, suffix_of
from receivers._wandb_calls import add_artifact, internal_artifact, keep_refused

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from eventbus import Envelope, Event
    from eventbus.blobs import BlobReader
    from receivers._wandb_run import Run

MAX_BINS = 512
"""Bins of a histogram that the SDK accepts."""

_KINDS: Mapping[type[MediaLogged], str] = {
    ImagesLogged: "image",
    AudioLogged: "audio",
    VideoLogged: "video",
    HtmlLogged: "html",
    PlotlyLogged: "plotly",
    Object3DLogged: "object3d",
    MoleculeLogged: "molecule",
}


class Fields:
    """Makes the fields of one row.

    Args:
        sdk: The SDK's module.
        run: The run.
        blobs: Finds the payloads.
        counts: Takes what was stored otherwise than logged.
        number: Number of the row.
        folder: A folder of this row's own, for the SDK to copy from.
    """

    def __init__(
        self, sdk: Any, run: Run, blobs: BlobReader, counts: Counter[str], *, number: int, folder: Path
    ) -> None:
        self._sdk = sdk
        self._run = run
        self._blobs = blobs
        self._counts = counts
        self._number = number
        self._folder = folder

    def of(self, key: str, envelope: Envelope[Event]) -> dict[str, Any]:
        """Return the fields that a record becomes: mostly one, under its key; none where its payload is missing."""
        name = envelope.event.event_name
        try:
            return self._made(key, envelope)
        except BlobError:
            self._counts[f"payload missing: {name}"] += 1
        except Exception as error:  # noqa: BLE001 - border: the SDK judges files; counted, and kept as a file
            self.refuse(envelope, error)
        return {}

    def refuse(self, envelope: Envelope[Event], error: Exception) -> None:
        """Keep as a file what the SDK has refused."""
        keep_refused(self._sdk, self._run, envelope, self._blobs, self._counts, error=error)

    def _made(self, key: str, envelope: Envelope[Event]) -> dict[str, Any]:
        match envelope.event:
            case HistogramLogged() as event:
                return {key: self._histogram(event)}
            case TableLogged() as event:
                return {key: self._logged(key, self._table(event))}
            case PrCurveLogged() as event:
                return {key: self._logged(key, self._sheet(("threshold", "precision", "recall"), curve_rows(event)))}
            case EmbeddingLogged() as event:
                return self._embedding(key, event)
            case MeshLogged() as event:
                return {key: self._mesh(envelope, event)}
            case event:
                return self._media(key, cast("MediaLogged", event))

    # --- files --------------------------------------------------------------------------------------------------

    def _media(self, key: str, event: MediaLogged) -> dict[str, Any]:
        """Return one value, or a list where several were logged together."""
        kind = next(_KINDS[cls] for cls in type(event).__mro__ if cls in _KINDS)
        shown = [file for file in event.files if not file.details.get("is_mask")]
        if kind == "image" and len(shown) > (most := self._sdk.Image.MAX_ITEMS):
            self._counts["pictures left out"] += len(shown) - most
            shown = shown[:most]
        made = [value for file in shown if (value := self._present(kind, file, event)) is not None]
        if not made:
            return {}
        return {key: made[0] if len(shown) == 1 else made}

    def _present(self, kind: str, file: MediaFile, event: MediaLogged) -> Any:
        try:
            return self._value(kind, file, event.files)
        except BlobError:
            self._counts[f"payload missing: {event.event_name}"] += 1
            return None

    def _value(self, kind: str, file: MediaFile, files: Sequence[MediaFile]) -> Any:
        """Return a file as a value of the SDK.

        Args:
            kind: What it is, as the SDK's class is called in small letters.
            file: The file.
            files: Those of the whole event: masks stand among them.
        """
        if kind == "image":
            return self._image(file, files)
        return {
            "audio": self._audio,
            "video": self._video,
            "html": self._html,
            "plotly": self._plotly,
            "object3d": self._object,
            "molecule": self._molecule,
        }[kind](file)

    def _staged(self, file: MediaFile, suffix: str = "") -> str:
        """Return a file's path under a name that ends as its type says."""
        name = f"{file.blob.name}{suffix or suffix_of(file)}"
        if not (self._folder / name).exists():
            put_file(self._folder, KeptFile(name, self._blobs.path(file.blob)), self._counts)
        return str(self._folder / name)

    def _image(self, file: MediaFile, files: Sequence[MediaFile]) -> Any:
        said = cast("dict[str, Any]", file.details)
        masks: dict[str, dict[str, Any]] = said.get("masks", {})
        return self._sdk.Image(
            self._staged(file),
            caption=file.caption,
            grouping=said.get("grouping"),
            classes=said.get("classes"),
            boxes={name: _labelled(box) for name, box in said.get("boxes", {}).items()} or None,
            masks={name: self._mask(mask, files[int(mask["file"])]) for name, mask in masks.items()} or None,
        )

    def _mask(self, mask: Mapping[str, Any], file: MediaFile) -> dict[str, Any]:
        import numpy as np
        from PIL import Image

        labels = {key: value for key, value in mask.items() if key != "file"}
        with Image.open(self._staged(file)) as picture:
            return {"mask_data": np.asarray(picture), **_labelled(labels)}

    def _audio(self, file: MediaFile) -> Any:
        return self._sdk.Audio(self._staged(file), sample_rate=file.details.get("sample_rate"), caption=file.caption)

    def _video(self, file: MediaFile) -> Any:
        video = self._sdk.Video(self._staged(file), caption=file.caption)
        # The SDK knows the size of a video that it has encoded itself, as the writer has done in its place.
        video._width, video._height = file.details.get("width"), file.details.get("height")  # noqa: SLF001
        return video

    def _html(self, file: MediaFile) -> Any:
        text = self._blobs.read(file.blob).decode(errors="replace")
        return self._sdk.Html(text, inject=bool(file.details.get("inject", True)), data_is_not_path=True)

    def _plotly(self, file: MediaFile) -> Any:
        """Return a chart from its JSON: the SDK's own way asks for plotly, which nobody needs here."""
        chart = self._sdk.Plotly.__new__(self._sdk.Plotly)
        cast("Any", super(self._sdk.Plotly, chart)).__init__()
        chart._set_file(self._staged(file, ".plotly.json"), extension=".plotly.json")  # noqa: SLF001
        return chart

    def _object(self, file: MediaFile) -> Any:
        return self._sdk.Object3D(self._staged(file), caption=file.caption)

    def _molecule(self, file: MediaFile) -> Any:
        return self._sdk.Molecule(self._staged(file), caption=file.caption)

    # --- tables -------------------------------------------------------------------------------------------------

    def _table(self, event: TableLogged) -> Any:
        lines: list[list[Any]] = json.loads(self._blobs.read(event.rows))
        if event.appends:
            self._counts["appended rows as a table of their own"] += 1
        return self._sheet(event.columns, ([self._cell(cell, event) for cell in line] for line in lines))

    def _cell(self, cell: Any, event: TableLogged) -> Any:
        match cell:
            case {"file": int(index)} if len(cell) == 1 and index < len(event.files):
                file = event.files[index]
                return self._value(str(file.details.get("kind", "image")), file, event.files)
            case {"histogram": {"values": values, "bins": bins}} if len(cell) == 1:
                return {"_type": "histogram", "values": values, "bins": bins}  # the SDK has none in tables
            case _:
                return cell

    def _sheet(self, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> Any:
        """Return a table; one whose columns mix types is told not to mind."""
        every = [list(line) for line in lines]
        most = self._sdk.Table.MAX_ARTIFACT_ROWS
        if len(every) > most:
            self._counts["rows of a table left out"] += len(every) - most
        try:
            return self._sdk.Table(columns=list(columns), data=every[:most])
        except TypeError:
            return self._sdk.Table(columns=list(columns), data=every[:most], allow_mixed_types=True)

    def _logged(self, key: str, table: Any) -> Any:
        """Log a table as an artifact, as the SDK does with each, but by a call that is recorded."""
        artifact = internal_artifact(self._sdk)(f"run-{self._run.id}-{key}", "run_table")
        artifact.add(table, key)
        add_artifact(self._run, artifact, [], [])
        table.bind_to_run(self._run, key, self._number)
        return table

    def _embedding(self, key: str, event: EmbeddingLogged) -> dict[str, Any]:
        """Return points as a table: their labels, then one column per dimension; and the sprite as a picture."""
        matrix = rows(event.matrix, self._blobs.read(event.matrix.blob))
        width = event.matrix.shape[-1]
        labels: list[Any] = json.loads(self._blobs.read(event.labels)) if event.labels else [[] for _ in matrix]
        fields = [cast("list[Any]", label) if isinstance(label, list) else [label] for label in labels]
        named = event.header or (["label"] if event.labels else [])
        columns = [*named, *(f"dim_{index}" for index in range(width))]
        lines = ([*said, *point] for said, point in zip(fields, matrix, strict=True))
        made = {key: self._logged(key, self._sheet(columns, lines))}
        return made | ({f"{key}/sprite": self._value("image", event.sprite, ())} if event.sprite else {})

    # --- numbers ------------------------------------------------------------------------------------------------

    def _histogram(self, event: HistogramLogged) -> Any:
        counts, edges = binned(event)
        if len(counts) < len(event.counts) - 1:
            self._counts["bins of a histogram merged"] += 1
        return self._sdk.Histogram(np_histogram=(counts, edges))

    def _mesh(self, envelope: Envelope[Event], event: MeshLogged) -> Any:
        if event.config:
            self._counts["camera and light of a mesh left out"] += 1
        if event.faces is None:
            clouds = self._clouds(event)
        else:
            files = kept_files(envelope, self._blobs, self._counts)
            clouds = [(".obj", file.source) for file in files if file.path.endswith(".obj")]
        made: list[Any] = []
        for index, (suffix, data) in enumerate(clouds):
            target = self._folder / f"{index}{suffix}"
            target.write_bytes(cast("bytes", data))
            made.append(self._sdk.Object3D(str(target)))
        return made[0] if len(made) == 1 else made

    def _clouds(self, event: MeshLogged) -> list[tuple[str, Any]]:
        """Return clouds of points as the SDK's JSON: x, y, z, and the colour if there is one."""
        clouds = grids(event.vertices, self._blobs.read(event.vertices.blob))
        colors = grids(event.colors, self._blobs.read(event.colors.blob)) if event.colors else [[()] * len(clouds[0])]
        return [
            (".pts.json", json.dumps([[*point, *color] for point, color in zip(cloud, tints, strict=True)]).encode())
            for cloud, tints in zip(clouds, colors * (1 if event.colors else len(clouds)), strict=True)
        ]


def _labelled(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return boxes or a mask with the ids of their classes as numbers: JSON has made texts of them."""
    labels = group.get("class_labels")
    return {**group, "class_labels": {int(key): name for key, name in labels.items()}} if labels else dict(group)


def curve_rows(event: PrCurveLogged) -> list[tuple[float, float, float]]:
    """Return threshold, precision and recall, from the threshold 0 to 1."""
    *_, precision, recall = event.curve
    last = max(len(precision) - 1, 1)
    return [(index / last, *pair) for index, pair in enumerate(zip(precision, recall, strict=True))]


def binned(event: HistogramLogged) -> tuple[list[float], list[float]]:
    """Return a histogram's counts and edges as the SDK takes them: finite, and at most 512 bins.

    Where it is not known where the first bin begins, it begins at the least value; an empty one is left out. Bins of
    one that has more are added up by twos, threes, ...
    """
    counts, limits = list(event.counts), list(event.limits)
    if event.low is not None:
        edges = [event.low, *limits]
    elif counts and not counts[0]:
        counts, edges = counts[1:], limits
    else:
        edges = [min(event.min, *limits), *limits]
    edges = [
        edge if math.isfinite(edge) else math.copysign(max(abs(event.min), abs(event.max)), edge) for edge in edges
    ]
    share = math.ceil(len(counts) / MAX_BINS) or 1
    merged = [math.fsum(counts[start : start + share]) for start in range(0, len(counts), share)]
    return [int(count) if count.is_integer() else count for count in merged], [*edges[:-1:share], edges[-1]]
