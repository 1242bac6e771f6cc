"""Pictures, sounds, tables, distributions: what is logged at one step and is more than a number.

Payloads stand in the blob store; an event names them. What is drawn, encoded or counted is so at the caller: no tensor
and no pickle travels.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import Field, JsonValue

from eventbus._event import Part
from eventbus._tracking import KeyedEvent
from eventbus.blobs import Blob

__all__ = [
    "Array",
    "AudioLogged",
    "EmbeddingLogged",
    "FigureLogged",
    "GraphLogged",
    "HistogramLogged",
    "HtmlLogged",
    "ImagesLogged",
    "MediaFile",
    "MediaLogged",
    "MeshLogged",
    "MoleculeLogged",
    "Object3DLogged",
    "PlotlyLogged",
    "PrCurveLogged",
    "TableLogged",
    "TensorLogged",
    "VideoLogged",
    "default_edges",
]

MAX_FILES_OF_MEDIA = 1000
"""Pictures, sounds and the like under one key at one step."""

MAX_BINS = 10_000
"""Bins of a histogram, thresholds of a curve."""


@cache
def default_edges() -> list[float]:
    """Return the edges of the bins that TensorBoard's SDKs share: from 1e-12 to 1e20 by tenths, mirrored at zero."""
    edge, rising = 1e-12, list[float]()
    while edge < 1e20:  # noqa: PLR2004 - the SDKs' own limit
        rising.append(edge)
        edge *= 1.1
    return [*(-one for one in reversed(rising)), 0.0, *rising]


class MediaFile(Part):
    """One picture, sound or the like.

    Attributes:
        blob: Its bytes.
        media_type: What they are, as in MIME: `image/png`, `audio/wav`, `video/mp4`, `text/html`, ...
        caption: What people read below it.
        details: What else is known of it. Of pictures `width` and `height` in pixels, `channels`, and W&B's `boxes`,
            `masks`, `classes`, `grouping`; of sounds `sample_rate` in Hz, `channels`, `frames`; of videos `fps`,
            `width`, `height`; of pages `inject`.
    """

    blob: Blob
    media_type: str
    caption: str | None = None
    details: dict[str, JsonValue] = Field(default={})


class Array(Part):
    """Numbers of one type in a grid.

    Attributes:
        blob: The numbers, row by row, little endian.
        dtype: Their type as numpy names it: `float32`, `uint8`, ...
        shape: How many there are along each axis.
    """

    blob: Blob
    dtype: str
    shape: list[int]


class MediaLogged(KeyedEvent):
    """Base of what is stored as files: pictures, sounds and the like.

    Attributes:
        files: One file, or several that are shown together.
        is_file: Whether `key` is the path of the file, as MLflow's `log_image` has it, or a tag.
    """

    files: list[MediaFile] = Field(min_length=1, max_length=MAX_FILES_OF_MEDIA)
    is_file: bool = False


class ImagesLogged(MediaLogged):
    """Pictures."""


class FigureLogged(ImagesLogged):
    """Figures of matplotlib, drawn at the caller."""


class AudioLogged(MediaLogged):
    """Sounds."""


class VideoLogged(MediaLogged):
    """Moving pictures: GIF, MP4, WebM, Ogg."""


class HtmlLogged(MediaLogged):
    """Pages of HTML."""


class PlotlyLogged(MediaLogged):
    """Charts of Plotly, as its JSON."""


class Object3DLogged(MediaLogged):
    """Scenes and point clouds: glTF, OBJ, STL, or W&B's JSON of points and boxes."""


class MoleculeLogged(MediaLogged):
    """Molecules: PDB, PQR, MMCIF, MOL2 and the like."""


class TableLogged(KeyedEvent):
    """A table.

    Attributes:
        columns: Names of the columns.
        rows: The rows as JSON, `[[cell, ...], ...]`. A cell that is a file is `{"file": <index in files>}`.
        num_rows: How many rows there are.
        files: Pictures, sounds and the like in its cells.
        is_file: Whether `key` is the path of a file, as MLflow's `log_table` has it, or a tag.
        appends: Whether the rows follow those that were logged under this key before.
    """

    columns: list[str] = Field(max_length=MAX_BINS)
    rows: Blob
    num_rows: int = Field(ge=0)
    files: list[MediaFile] = Field(default=[], max_length=MAX_FILES_OF_MEDIA)
    is_file: bool = False
    appends: bool = False


class HistogramLogged(KeyedEvent):
    """How values are distributed: counted at the caller.

    Attributes:
        limits: Upper limit of each bin, rising. Where they are of `default_edges`, empty bins that follow one another
            count as one: half of those that normal values have are empty.
        counts: How many values each bin has.
        low: Lower limit of the first bin, where it is known (`np.histogram` has it, TensorBoard's bins do not).
        min, max, num, sum, sum_squares: Of the values themselves.
    """

    limits: list[float] = Field(max_length=MAX_BINS)
    counts: list[float] = Field(max_length=MAX_BINS)
    low: float | None = None
    min: float
    max: float
    num: float
    sum: float
    sum_squares: float


class PrCurveLogged(KeyedEvent):
    """Precision and recall over thresholds from 0 to 1.

    Attributes:
        curve: Six lists of one number per threshold: true positives, false positives, true negatives, false negatives,
            precision, recall.
    """

    curve: list[list[float]] = Field(min_length=6, max_length=6)


class TensorLogged(KeyedEvent):
    """A tensor as it is."""

    tensor: Array


class MeshLogged(KeyedEvent):
    """Triangles or points in space.

    Attributes:
        vertices: Batch x number of vertices x 3, float32.
        colors: Batch x number of vertices x 3, uint8.
        faces: Batch x number of faces x 3, int32: which vertices form a triangle.
        config: What three.js is told: camera, lights, material.
    """

    vertices: Array
    colors: Array | None = None
    faces: Array | None = None
    config: dict[str, JsonValue] = Field(default={})


class EmbeddingLogged(KeyedEvent):
    """Points in a space of many dimensions, to be projected.

    Attributes:
        matrix: Number of points x dimensions.
        labels: What each point is, as JSON: `[label, ...]`, or `[[field, ...], ...]` with a header.
        header: Names of the fields of a label; empty for labels of one field.
        sprite: The pictures of all points in one, square; each `sprite_size` pixels wide and high.
        sprite_size: Width and height of one picture, pixels.
    """

    matrix: Array
    labels: Blob | None = None
    header: list[str] = Field(default=[])
    sprite: MediaFile | None = None
    sprite_size: list[int] = Field(default=[])


class GraphLogged(KeyedEvent):
    """How a model computes.

    Attributes:
        graph: TensorFlow's `GraphDef`, or ONNX's `ModelProto`, serialised.
        kind: Which of them.
        profile: TensorFlow's `RunMetadata`, serialised, where it was made.
    """

    graph: Blob
    kind: Literal["graph_def", "onnx"] = "graph_def"
    profile: Blob | None = None
