"""Light twins of W&B's sounds, videos, pages, charts, scenes and molecules, and of its histogram."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from eventbus.errors import BadInputError
from eventbus.media import (
    AudioLogged,
    HistogramLogged,
    HtmlLogged,
    MoleculeLogged,
    Object3DLogged,
    PlotlyLogged,
    TensorLogged,
    VideoLogged,
)
from writers._arrays import array_of, kept_array, package
from writers._histogram import histogram
from writers._keys import shown
from writers._sounds import gif, wav
from writers._wandb_media import Media, as_figure, checked_path, comes_from, extension_of, is_path, one_of, plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import JsonValue

    from eventbus.blobs import BlobStore

MAX_BINS = 512
"""Of a W&B histogram."""

MAX_POINT_AXES = (3, 4, 6)
"""Numbers of a point in a cloud: its place; with a category; with a colour."""


class Audio(Media):
    """A sound.

    Args:
        data_or_path: Path of a file, or samples from -1 to 1: frames, or frames x channels.
        sample_rate: Frames a second, Hz; must be given with samples.
        caption: What people read below it.

    Raises:
        BadInputError: It can't be a sound.
    """

    kind = "audio"
    event = AudioLogged

    def __init__(self, data_or_path: Any, sample_rate: int | None = None, caption: str | None = None) -> None:
        if is_path(data_or_path):
            path = checked_path(data_or_path)
            details: dict[str, JsonValue] = {} if sample_rate is None else {"sample_rate": sample_rate}
            super().__init__(path, extension_of(path), caption, details)
            return
        if sample_rate is None:
            raise BadInputError("samples have no rate of their own: Audio(samples, sample_rate=44100)")
        data, channels, frames = wav("Audio", _sixteen_bits(data_or_path), sample_rate)
        super().__init__(data, "wav", caption, {"sample_rate": sample_rate, "channels": channels, "frames": frames})


class Video(Media):
    """A moving picture.

    Args:
        data_or_path: Path of a GIF, MP4, WebM or Ogg file; a binary stream of one; or pixels from 0 to 255: frames x
            channels x height x width, with a batch before them if need be, which is shown side by side.
        caption: What people read below it.
        fps: Frames a second of pixels, 4 by default; a file has its own.
        format: What a stream holds; pixels are encoded as `gif`.

    Raises:
        BadInputError: It can't be a video, or pixels are to become another format than GIF.
    """

    kind = "video"
    event = VideoLogged
    EXTS = ("gif", "mp4", "webm", "ogg")

    def __init__(
        self, data_or_path: Any, caption: str | None = None, fps: int | None = None, format: str | None = None
    ) -> None:
        if is_path(data_or_path):
            path = checked_path(data_or_path)
            super().__init__(path, one_of("Video", extension_of(path), self.EXTS), caption)
        elif hasattr(data_or_path, "read"):
            super().__init__(_stream(data_or_path), one_of("format", format, self.EXTS), caption)
        else:
            data, details = self._encoded(data_or_path, 4 if fps is None else fps, format)
            super().__init__(data, "gif", caption, details)

    @staticmethod
    def _encoded(data: Any, fps: int, form: str | None) -> tuple[bytes, dict[str, JsonValue]]:
        if one_of("format", form, Video.EXTS) != "gif":
            raise BadInputError(f"pixels are encoded as GIF, not as {form}: pass format='gif', or the path of a file")
        frames = array_of("Video", data)
        batch = frames[None] if frames.ndim == 4 else frames  # noqa: PLR2004 - frames x channels x height x width
        encoded, width, height = gif("Video", batch.astype("uint8"), fps)
        return encoded, {"fps": fps, "width": width, "height": height}


class Html(Media):
    """A page of HTML.

    Args:
        data: Its text; the path of a file that ends with `.html`; or a stream.
        inject: Whether W&B adds its own style sheet.
        data_is_not_path: Whether the text is one even where a file has such a name.

    Raises:
        BadInputError: It is none of these.
    """

    kind = "html"
    event = HtmlLogged

    def __init__(
        self,
        data: Any,
        inject: bool = True,
        data_is_not_path: bool = False,
    ) -> None:
        super().__init__(_page(data, may_be_path=not data_is_not_path), "html", None, {"inject": bool(inject)})


class Plotly(Media):
    """A chart of Plotly.

    Args:
        val: A figure of plotly, or one of matplotlib that plotly can convert.

    Raises:
        BadInputError: It is none of these.
        MissingExtraError: plotly is not installed.
    """

    kind = "plotly"
    event = PlotlyLogged

    def __init__(self, val: Any) -> None:
        figure = package("plotly.tools").mpl_to_plotly(as_figure(val)) if comes_from(val, "matplotlib") else val
        if not hasattr(figure, "to_json"):
            raise BadInputError(f"Plotly({type(val).__name__}) is no figure: pass one of plotly, or of matplotlib")
        super().__init__(str(figure.to_json()).encode(), "plotly.json")


class Object3D(Media):
    """A scene, or a cloud of points.

    Args:
        data_or_path: Path of a file of OBJ, glTF, GLB, Babylon, STL or points (`.pts.json`); a stream of one; an array
            of points, n x 3 (place), n x 4 (with a category from 1 to 14) or n x 6 (with red, green, blue); or a dict
            of `type` (`lidar/beta`), `points`, `boxes` and `vectors`.
        caption: What people read below it.
        kwargs: `file_type`: what a stream holds.

    Raises:
        BadInputError: It is none of these.
    """

    kind = "object3d"
    event = Object3DLogged
    SUPPORTED_TYPES = ("obj", "gltf", "glb", "babylon", "stl", "pts.json")

    def __init__(self, data_or_path: Any, caption: str | None = None, **kwargs: Any) -> None:
        form = check_file_type(kwargs)
        if isinstance(data_or_path, dict):
            super().__init__(_scene(cast("dict[str, Any]", data_or_path)), "pts.json", caption)
        elif is_path(data_or_path) or hasattr(data_or_path, "read"):
            super().__init__(*opened("Object3D", data_or_path, form, self.SUPPORTED_TYPES), caption)
        else:
            super().__init__(_points(data_or_path), "pts.json", caption)

    @classmethod
    def from_file(cls, data_or_path: Any, file_type: str | None = None) -> Object3D:
        """Make one of a path, or of a stream of `file_type`."""
        return cls(data_or_path, file_type=file_type)

    @classmethod
    def from_numpy(cls, data: Any) -> Object3D:
        """Make one of points: n x 3, n x 4 or n x 6."""
        return cls(data)

    @classmethod
    def from_point_cloud(
        cls, points: Any, boxes: Any, vectors: Any = None, point_cloud_type: str = "lidar/beta"
    ) -> Object3D:
        """Make one of points, with boxes and vectors drawn around them."""
        return cls({"type": point_cloud_type, "points": points, "boxes": boxes, "vectors": vectors or []})


class Molecule(Media):
    """A molecule.

    Args:
        data_or_path: Path of a file of one of `SUPPORTED_TYPES`, or a stream of one.
        caption: What people read below it.
        kwargs: `file_type`: what a stream holds.

    Raises:
        BadInputError: It is neither. Molecules of RDKit are written to a file first.
    """

    kind = "molecule"
    event = MoleculeLogged
    SUPPORTED_TYPES = ("pdb", "pqr", "mmcif", "mcif", "cif", "sdf", "sd", "gro", "mol2", "mmtf")

    def __init__(self, data_or_path: Any, caption: str | None = None, **kwargs: Any) -> None:
        form = check_file_type(kwargs)
        if not is_path(data_or_path) and not hasattr(data_or_path, "read"):
            raise BadInputError(
                f"Molecule({type(data_or_path).__name__}) is no path and no stream: write it to a file of one of "
                f"{', '.join(self.SUPPORTED_TYPES)}"
            )
        super().__init__(*opened("Molecule", data_or_path, form, self.SUPPORTED_TYPES), caption)


class Histogram:
    """How values are distributed.

    What is not finite is in no bin; `num` counts it all the same.

    Args:
        sequence: The values: an array, a tensor or a nested list.
        np_histogram: In place of them: what `numpy.histogram` returned, (counts, edges).
        num_bins: How many bins values are counted in, at most 512.

    Attributes:
        histogram: Count of each bin.
        bins: Edges of the bins: one more than counts.
        fields: What the event says.

    Raises:
        BadInputError: There is nothing to count, or there are too many bins.
    """

    MAX_LENGTH = MAX_BINS

    def __init__(self, sequence: Any = None, np_histogram: Any = None, num_bins: int = 64) -> None:
        if np_histogram is None:
            values = array_of("Histogram", sequence)
            counted = _binned(_finite(values), num_bins)
        else:
            values, counted = None, np_histogram
        sums = {} if values is None else _sums(values)
        self.fields: dict[str, Any] = {**histogram("Histogram", np_histogram=counted), **sums}
        self.histogram: list[float] = self.fields["counts"]
        self.bins: list[float] = [self.fields["low"], *self.fields["limits"]]
        _check_bins(len(self.histogram))

    def logged(self, key: str, step: int | None, store: BlobStore) -> list[HistogramLogged]:
        """Return the event."""
        del store
        return [HistogramLogged(key=key, step=step, **self.fields)]


class Values:
    """Several numbers that keep their order, as W&B keeps a list.

    Args:
        values: A list, nested or not, or an array.

    Raises:
        BadInputError: They are no numbers.
    """

    def __init__(self, values: Any) -> None:
        self._array = array_of("list", values)

    def logged(self, key: str, step: int | None, store: BlobStore) -> list[TensorLogged]:
        """Keep the numbers and return the event that names them."""
        return [TensorLogged(key=key, step=step, tensor=kept_array(store, self._array))]


def _sixteen_bits(samples: Any) -> Any:
    """Return samples as the library stores them that W&B's SDK uses: the full scale is 32768, rounded down.

    Raises:
        BadInputError: They are integers of a type whose full scale nobody knows; the SDK refuses them too.
    """
    array, numpy = array_of("Audio", samples), package("numpy")
    if array.dtype.kind == "f":
        return numpy.floor(numpy.nan_to_num(array) * 32768).clip(-32768, 32767).astype("int16")
    if array.dtype not in (numpy.int16, numpy.int32):
        raise BadInputError(f"Audio: samples of {array.dtype} have no full scale: pass floats from -1 to 1, or int16")
    return (array >> 16).astype("int16") if array.dtype == numpy.int32 else array


def check_file_type(options: dict[str, Any]) -> str | None:
    """Return the option `file_type`.

    Raises:
        TypeError: There are other options.
    """
    form = options.pop("file_type", None)
    if options:
        raise TypeError(f"got an unexpected argument {next(iter(options))!r}")
    return form


def opened(what: str, data: Any, form: str | None, known: Iterable[str]) -> tuple[bytes | Path, str]:
    """Return the file or the bytes that a path or a stream stands for, and its extension.

    Raises:
        BadInputError: There is no such file, or it is of no known type.
    """
    named = getattr(data, "name", None) if hasattr(data, "read") else data
    if is_path(named):
        path = checked_path(named)
        return path, one_of(what, extension_of(path), known)
    return _stream(data), one_of(f"file_type of {what}", form, known)


def _stream(stream: Any) -> bytes:
    if hasattr(stream, "seek"):
        stream.seek(0)
    data = stream.read()
    return data.encode() if isinstance(data, str) else bytes(data)


def _page(data: Any, *, may_be_path: bool) -> bytes:
    if may_be_path and is_path(data) and os.fsdecode(data).endswith(".html") and Path(data).is_file():
        return Path(data).read_bytes()
    if isinstance(data, str):
        return data.encode("utf-8", "replace")
    if hasattr(data, "read"):
        return _stream(data)
    raise BadInputError(f"Html({type(data).__name__}) is no text, no stream and no file that ends with .html")


def _scene(data: dict[str, Any]) -> bytes:
    one_of("type of Object3D", data.get("type"), ["lidar/beta"])
    parts = {name: plain(name, data.get(name, [])) for name in ("vectors", "points", "boxes")}
    return json.dumps({"type": data["type"], **parts}).encode()


def _points(data: Any) -> bytes:
    points = array_of("Object3D", data)
    if points.ndim != 2 or points.shape[1] not in MAX_POINT_AXES:  # noqa: PLR2004 - points x numbers
        raise BadInputError(f"Object3D has shape {points.shape}: points are n x 3, n x 4 or n x 6")
    return json.dumps(points.tolist()).encode()


def _finite(values: Any) -> Any:
    numpy = package("numpy")
    flat = values.astype(float).reshape(-1)
    finite = flat[numpy.isfinite(flat)]
    if not finite.size:
        raise BadInputError("Histogram has no finite value to count")
    return finite


def _binned(values: Any, num_bins: Any) -> tuple[Any, Any]:
    if isinstance(num_bins, int):
        _check_bins(num_bins)  # before there is memory for them
    try:
        return package("numpy").histogram(values, bins=num_bins)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"num_bins={shown(num_bins)} of Histogram: {error}") from error


def _check_bins(number: int) -> None:
    if number > MAX_BINS:
        raise BadInputError(f"Histogram has {number} bins, W&B takes {MAX_BINS}: pass fewer")


def _sums(values: Any) -> dict[str, Any]:
    flat = _finite(values)
    return {
        "min": float(flat.min()),
        "max": float(flat.max()),
        "num": float(values.size),
        "sum": float(flat.sum()),
        "sum_squares": float(flat.dot(flat)),
    }
