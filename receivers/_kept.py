"""What was logged, as files: for trackers that have no form of their own for it.

A file's name says what is in it, its key, its step and which record it came from, so that a record which is delivered
again replaces what it made before: `<what>/<key>/<step or 0>-<incarnation>-<seq>[-<index>].<suffix>`. Where the key is
itself the path of a file it stays so.

Pictures, sounds and the like stay as they are; numbers become `.npy`, tables JSON as pandas reads it with
`orient="split"`, meshes `.obj`, points to be projected what TensorBoard's projector reads, all else JSON of its fields.
What a file can't hold (a caption, a sample rate, the aliases of an artifact) stands beside it in `<name>.about.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pydantic import JsonValue

from eventbus import Event
from eventbus.artifacts import ArtifactLogged, ModelLogged
from eventbus.errors import BlobError
from eventbus.media import (
    Array,
    AudioLogged,
    EmbeddingLogged,
    FigureLogged,
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
from eventbus.tracking import AlertRaised, ChartsArranged, KeyedEvent, TextLogged
from receivers._arrays import grids, npy, rows
from receivers._json import as_json
from receivers._names import ending, file_name, relative_path

if TYPE_CHECKING:
    from collections import Counter

    from eventbus import Envelope
    from eventbus.blobs import Blob, BlobReader

_SUFFIXES = {
    "application/vnd.plotly+json": ".plotly.json",
    "application/vnd.plotly.v1+json": ".plotly.json",
    "application/vnd.wandb.pts+json": ".pts.json",
    "audio/mpeg": ".mp3",
    "image/jpeg": ".jpg",
    "image/svg+xml": ".svg",
    "model/gltf+json": ".gltf",
    "model/gltf-binary": ".glb",
    "text/plain": ".txt",
    "video/ogg": ".ogv",
}
"""What others end with says their type: `.png`, `.wav`, `.pdb`."""

_FOLDERS: Mapping[type[Event], str] = {
    TextLogged: "text",
    AlertRaised: "alerts",
    HistogramLogged: "histograms",
    PrCurveLogged: "curves",
    TensorLogged: "tensors",
    MeshLogged: "meshes",
    EmbeddingLogged: "embeddings",
    GraphLogged: "graphs",
    TableLogged: "tables",
    FigureLogged: "figures",
    ImagesLogged: "images",
    AudioLogged: "audio",
    VideoLogged: "video",
    MediaLogged: "media",
    ModelLogged: "models",
    ArtifactLogged: "artifacts",
}

_IN_ITS_NAME = ("kind", "extension")
"""Details of a file that its path says already."""

_CURVE = ("true_positives", "false_positives", "true_negatives", "false_negatives", "precision", "recall")

MAX_COLOR = 255
"""What a color's full intensity is."""

MAX_READ = 64 << 20
"""Bytes of a payload that is held in memory, at the most, to be put into another form; larger ones stay as they are."""

MAX_WORDS = 8 << 20
"""Bytes of numbers that are written as text: as numbers of Python's they need thirty times as much."""

_UNREADABLE = (BlobError, ValueError, IndexError, TypeError, RecursionError)
"""What payloads raise that are not there, or hold something else than their event says: others choose their content."""


class KeptFile(NamedTuple):
    """One file to keep.

    Attributes:
        path: Where, below the run's files: relative, with slashes; it never leaves its folder.
        source: The file to copy, which must not be changed, or the bytes themselves.
    """

    path: str
    source: Path | bytes


def kept_files(envelope: Envelope[Event], blobs: BlobReader, counts: Counter[str]) -> list[KeptFile]:
    """Return a record as files.

    Args:
        envelope: The record: any event of the vocabulary, or of a user's own.
        blobs: Finds its payloads.
        counts: A file that can't be had, since its payload is missing or damaged, is left out and counted here as
            `payload missing: <event>`; nothing else is counted.
    """
    draft = _Draft(envelope, blobs, counts)
    make = next(_MAKERS[cls] for cls in type(envelope.event).__mro__ if cls in _MAKERS)
    draft.try_to(lambda: make(draft, envelope.event))
    return draft.files


def identity(envelope: Envelope[Event]) -> str:
    """Return what tells a record's files from those of others under the same key: its step, and which record it is."""
    step: object = getattr(envelope.event, "step", None)  # an event of a user's own may call anything so
    number = step if isinstance(step, int) else 0
    return f"{number}-{envelope.origin.incarnation}-{envelope.seq}"


def suffix_of(file: MediaFile) -> str:
    """Return what the name of a file ends with: as its writer says, else as its type does; `.bin` if nobody knows."""
    told = file.details.get("extension")
    subtype = file.media_type.rpartition("/")[2].removeprefix("x-")
    known = _SUFFIXES.get(file.media_type) or (f".{subtype}" if subtype.isalnum() else ".bin")
    return (ending(f".{told}") if isinstance(told, str) else "") or ending(known) or ".bin"


class _Draft:
    """Collects the files of one record."""

    def __init__(self, envelope: Envelope[Event], blobs: BlobReader, counts: Counter[str]) -> None:
        self.files: list[KeptFile] = []
        self.envelope = envelope
        self.blobs = blobs
        self._counts = counts

    def try_to(self, add: Callable[[], object]) -> None:
        """Add something, unless its payload can't be had."""
        try:
            add()
        except _UNREADABLE:
            self._counts[f"payload missing: {self.envelope.event.event_name}"] += 1

    def name(self, key: str) -> str:
        """Return the path of the record's files under a key, without a suffix."""
        kind = type(self.envelope.event)
        folder = next((_FOLDERS[cls] for cls in kind.__mro__ if cls in _FOLDERS), file_name(kind.event_name))
        return (
            f"{folder}/{relative_path(key)}/{identity(self.envelope)}" if key else f"{folder}/{identity(self.envelope)}"
        )

    def add(self, path: str, source: Path | bytes | str) -> str:
        """Add a file, and return its path."""
        self.files.append(KeptFile(path, source.encode() if isinstance(source, str) else source))
        return path

    def add_blob(self, path: str, blob: Blob) -> None:
        """Add a payload as it is."""
        self.try_to(lambda: self.add(path, self.blobs.path(blob)))

    def add_array(self, name: str, array: Array) -> None:
        """Add an array as a file of numpy's; a large one as it is, with what is known of it beside it."""
        if array.blob.size <= MAX_READ:
            self.try_to(lambda: self.add(f"{name}.npy", npy(array, self.read(array.blob))))
        else:
            self.add_blob(f"{name}.bin", array.blob)
            self.add_about(name, {"dtype": array.dtype, "shape": array.shape})

    def add_large_arrays(self, name: str, **arrays: Array | None) -> bool:
        """Add arrays one by one if they are too large to be written as text; tell whether they are."""
        given = {key: array for key, array in arrays.items() if array is not None}
        if sum(array.blob.size for array in given.values()) <= MAX_WORDS:
            return False
        for key, array in given.items():
            self.add_array(f"{name}/{key}", array)
        return True

    def read(self, blob: Blob) -> bytes:
        """Return the bytes of a payload.

        Raises:
            BlobError: It can't be had, or is too large to be held in memory.
        """
        if blob.size > MAX_READ:
            raise BlobError(f"blob {blob.name} of {blob.size} bytes is too large to be held in memory")
        return self.blobs.read(blob)

    def grids(self, array: Array | None) -> list[list[tuple[float, ...]]]:
        """Return an array's grids, none of no array."""
        return grids(array, self.read(array.blob)) if array is not None else []

    def json(self, blob: Blob) -> Any:
        """Return what a payload of JSON says."""
        return json.loads(self.read(blob))

    def add_about(self, name: str, about: Mapping[str, Any]) -> None:
        """Add what a file can't hold beside it."""
        told = {key: value for key, value in about.items() if value}
        if told:
            self.add(f"{name}.about.json", as_json(told))


def _keep_fields(draft: _Draft, event: Event) -> None:
    key = event.key if isinstance(event, KeyedEvent) else ""
    draft.add(f"{draft.name(key)}.json", as_json(event.__dict__))


def _keep_text(draft: _Draft, event: TextLogged) -> None:
    draft.add(relative_path(event.key) if event.is_file else f"{draft.name(event.key)}.txt", event.text)


def _keep_alert(draft: _Draft, event: AlertRaised) -> None:
    draft.add(f"{draft.name(event.title)}.txt", f"{event.level}: {event.title}\n\n{event.text}\n")


def _keep_charts(draft: _Draft, event: ChartsArranged) -> None:
    draft.add(f"charts/{file_name(draft.envelope.site)}.json", as_json(event.charts))


def _keep_curve(draft: _Draft, event: PrCurveLogged) -> None:
    curve = dict(zip(_CURVE, event.curve, strict=True))
    draft.add(f"{draft.name(event.key)}.json", as_json({"key": event.key, "step": event.step, **curve}))


def _keep_tensor(draft: _Draft, event: TensorLogged) -> None:
    draft.add_array(draft.name(event.key), event.tensor)


def _keep_media(draft: _Draft, event: MediaLogged) -> None:
    name = draft.name(event.key)
    for index, file in enumerate(event.files):
        number = f"-{index}" if len(event.files) > 1 else ""
        path = f"{name}{number}{suffix_of(file)}"
        if event.is_file:
            own = PurePosixPath(relative_path(event.key))
            path = str(own.with_name(f"{own.stem}{number if index else ''}{own.suffix}"))
        draft.add_blob(path, file.blob)
    about = [_about(file) for file in event.files]
    draft.add_about(name, {"files": about if any(about) else None})


def _about(file: MediaFile) -> dict[str, JsonValue]:
    """Return what is known of a file beside what its name says."""
    told = {key: value for key, value in file.details.items() if key not in _IN_ITS_NAME}
    return {"caption": file.caption, **told} if file.caption else told


def _keep_table(draft: _Draft, event: TableLogged) -> None:
    name = draft.name(event.key)
    paths = [f"{name}-{index}{suffix_of(file)}" for index, file in enumerate(event.files)]
    for path, file in zip(paths, event.files, strict=True):
        draft.add_blob(path, file.blob)
    if event.rows.size > MAX_READ:
        draft.add_blob(f"{name}.rows.json", event.rows)
        draft.add_about(name, {"columns": event.columns, "files": paths})
        return
    data = [[_with_path(cell, paths) for cell in row] for row in draft.json(event.rows)]
    is_whole_file = event.is_file and not event.appends  # what follows earlier rows must not replace them
    path = relative_path(event.key) if is_whole_file else f"{name}.json"
    draft.add(path, as_json({"columns": event.columns, "data": data}))


def _with_path(cell: Any, paths: Sequence[str]) -> Any:
    """Name the file of a cell by its path, where the cell is one."""
    match cell:
        case {"file": int(index)} if len(cell) == 1 and type(index) is int and 0 <= index < len(paths):
            return {"file": paths[index]}
        case _:
            return cell


def _keep_mesh(draft: _Draft, event: MeshLogged) -> None:
    name = draft.name(event.key)
    draft.add_about(name, event.config)
    if draft.add_large_arrays(name, vertices=event.vertices, colors=event.colors, faces=event.faces):
        return
    vertices, colors, faces = (draft.grids(array) for array in (event.vertices, event.colors, event.faces))
    for index, corners in enumerate(vertices):
        tints = [[value / MAX_COLOR for value in color] for color in colors[index]] if colors else [()] * len(corners)
        lines = [_words("v", *corner, *tint) for corner, tint in zip(corners, tints, strict=True)]
        lines += [_words("f", *(int(corner) + 1 for corner in face)) for face in (faces[index] if faces else ())]
        draft.add(f"{name}-{index}.obj" if len(vertices) > 1 else f"{name}.obj", "\n".join([*lines, ""]))


def _words(*values: object) -> str:
    return " ".join(map(str, values))


def _keep_embedding(draft: _Draft, event: EmbeddingLogged) -> None:
    name = draft.name(event.key)
    if not draft.add_large_arrays(name, tensors=event.matrix):
        draft.try_to(
            lambda: draft.add(f"{name}/tensors.tsv", _lines(rows(event.matrix, draft.read(event.matrix.blob))))
        )
    if event.labels is not None:
        labels = event.labels
        header = [event.header] if event.header else []
        draft.try_to(lambda: draft.add(f"{name}/metadata.tsv", _lines([*header, *draft.json(labels)])))
    if event.sprite is not None:
        draft.add_blob(f"{name}/sprite{suffix_of(event.sprite)}", event.sprite.blob)
        draft.add_about(f"{name}/sprite", {"sprite_size": event.sprite_size})


def _lines(rows: Iterable[Any]) -> str:
    return "".join(f"{_cells(row)}\n" for row in rows)


def _cells(line: Any) -> str:
    """Return a line of values with a tab between them; what would break it becomes a space."""
    cells = cast("Sequence[Any]", line if isinstance(line, list | tuple) else [line])
    return "\t".join(" ".join(str(cell).splitlines()).replace("\t", " ") for cell in cells)


def _keep_graph(draft: _Draft, event: GraphLogged) -> None:
    name = draft.name(event.key)
    draft.add_blob(f"{name}{'.onnx' if event.kind == 'onnx' else '.pb'}", event.graph)
    if event.profile is not None:
        draft.add_blob(f"{name}.profile.pb", event.profile)


def _keep_artifact(draft: _Draft, event: ArtifactLogged) -> None:
    """Keep plain files where they say; versions of one artifact apart from each other.

    Where one run holds all sites the key begins with the site; then plain files lie in a folder of it.
    """
    name, site = draft.name(event.key), f"{draft.envelope.site}/"
    is_plain = type(event) is ArtifactLogged and not event.kind
    folder = f"{name}/" if not is_plain else site if event.key.startswith(site) else ""
    for file in event.files:
        if file.blob is not None:
            draft.add_blob(f"{folder}{relative_path(file.path)}", file.blob)
    about = event.model_dump(exclude={"key", "step", "files"}, exclude_defaults=True)
    draft.add_about(
        name, {**about, "references": {file.path: file.reference for file in event.files if file.reference}}
    )


_MAKERS: Mapping[type[Event], Callable[[_Draft, Any], None]] = {
    TextLogged: _keep_text,
    AlertRaised: _keep_alert,
    ChartsArranged: _keep_charts,
    PrCurveLogged: _keep_curve,
    TensorLogged: _keep_tensor,
    MeshLogged: _keep_mesh,
    EmbeddingLogged: _keep_embedding,
    GraphLogged: _keep_graph,
    TableLogged: _keep_table,
    MediaLogged: _keep_media,
    ArtifactLogged: _keep_artifact,
    Event: _keep_fields,
}
