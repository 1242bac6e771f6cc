"""The parts of tensorboard that its sink uses: messages and record framing.

They are loaded by name, because tensorboard has no type information that a checker could use.
"""

from __future__ import annotations

import math
import struct
import wave
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from io import BytesIO
from itertools import islice, pairwise
from typing import Any

from eventbus.errors import BlobError
from eventbus.media import Array, HistogramLogged, MediaFile, PrCurveLogged, default_edges
from eventbus.tracking import StyledMetricsLogged

NS_PER_SECOND = 1_000_000_000
"""An int: a quotient of ints is rounded once, so that a float of seconds comes back as it was given."""

_PROTO = "tensorboard.compat.proto."

_TYPES = {
    "float32": ("DT_FLOAT", "float_val", "f"),
    "float64": ("DT_DOUBLE", "double_val", "d"),
    "int8": ("DT_INT8", "int_val", "b"),
    "int16": ("DT_INT16", "int_val", "h"),
    "int32": ("DT_INT32", "int_val", "i"),
    "int64": ("DT_INT64", "int64_val", "q"),
    "uint8": ("DT_UINT8", "int_val", "B"),
    "bool": ("DT_BOOL", "bool_val", "?"),
    "complex64": ("DT_COMPLEX64", "scomplex_val", "f"),
    "complex128": ("DT_COMPLEX128", "dcomplex_val", "d"),
    "float16": ("DT_HALF", "", "e"),
    "uint16": ("DT_UINT16", "", "H"),
    "uint32": ("DT_UINT32", "", "I"),
    "uint64": ("DT_UINT64", "", "Q"),
}
"""Per type of numbers: what TensorBoard calls it, its field in a tensor, and its code in Python's `struct`.

Those without a field TensorBoard reads from plain bytes only.
"""

MAX_LISTED_BYTES = 1 << 20
"""Larger tensors are stored as plain bytes, which TensorBoard reads as well: a list takes ten times the memory."""

COLOURS = 3
"""Channels of a picture of red, green and blue."""

VALUES_PER_RECORD = 100
"""Values of one step share a record: seven times as fast as one each."""

FLOAT32_MAX = 3.4028234663852886e38

MAX_SIZE = (1 << 31) - 1
"""Of a side, a width or a rate: tensorboard's messages have no room for more."""

MAX_THRESHOLDS = 127
"""Thresholds of a curve that the plugin is told of at most, as the SDK does."""


class Formats:
    """Makes tensorboard's messages.

    Attributes:
        record_writer: Frames records, given a file.
    """

    def __init__(self) -> None:
        self._event: Any = import_module(f"{_PROTO}event_pb2")
        self._summary: Any = import_module(f"{_PROTO}summary_pb2")
        self._tensor: Any = import_module(f"{_PROTO}tensor_pb2").TensorProto
        self._shape: Any = import_module(f"{_PROTO}tensor_shape_pb2").TensorShapeProto
        metadata: Any = import_module("tensorboard.plugins.text.metadata")
        self._text_metadata = metadata.create_summary_metadata(display_name=None, description=None)
        self.record_writer: Any = import_module("tensorboard.summary.writer.record_writer").RecordWriter

    def header(self, time_ns: int) -> Any:
        """Return a file's first record: without it readers purge steps that arrive late."""
        source = self._event.SourceMetadata(writer="trackbus")
        return self._event.Event(
            wall_time=time_ns / NS_PER_SECOND, file_version="brain.Event:2", source_metadata=source
        )

    def event(self, step: int, time_ns: int, **content: Any) -> Any:
        """Return a record: of a summary, a graph, or what a graph's run was."""
        return self._event.Event(step=step, wall_time=time_ns / NS_PER_SECOND, **content)

    def profile(self, run_metadata: bytes) -> Any:
        """Return what a graph's run was, under the tag of the SDK."""
        return self._event.TaggedRunMetadata(tag="step1", run_metadata=run_metadata)

    # --- summaries ------------------------------------------------------------------------------------------

    def summary(self, values: Iterable[Any]) -> Any:
        """Return a summary of values."""
        return self._summary.Summary(value=values)

    def value(self, tag: str, **content: Any) -> Any:
        """Return a value of a summary."""
        return self._summary.Summary.Value(tag=tag, **content)

    def plugin(self, name: str, content: bytes = b"") -> Any:
        """Return what names a value's plugin."""
        data = self._summary.SummaryMetadata.PluginData(plugin_name=name, content=content)
        return self._summary.SummaryMetadata(plugin_data=data)

    def scalars(self, values: Iterable[tuple[str, float]]) -> Any:
        """Return numbers as simple values, in single precision."""
        return self.summary(self.value(key, simple_value=number) for key, number in values)

    def styled(self, event: StyledMetricsLogged) -> Any:
        """Return numbers as tensors of the scalars plugin."""
        dtype, field = ("DT_DOUBLE", "double_val") if event.double_precision else ("DT_FLOAT", "float_val")
        plugin = self.plugin("scalars")
        return self.summary(
            self.value(key, tensor=self._tensor(dtype=dtype, **{field: [number]}), metadata=plugin)
            for key, number in event.values.items()
        )

    def text(self, tag: str, text: str) -> Any:
        """Return a text, as the SDK stores it."""
        tensor = self._tensor(
            dtype="DT_STRING", string_val=[text.encode(errors="replace")], tensor_shape=self._shaped([1])
        )
        return self.summary([self.value(f"{tag}/text_summary", metadata=self._text_metadata, tensor=tensor)])

    def texts(self, data: bytes) -> Any:
        """Return bytes as a tensor of no dimensions."""
        return self._tensor(dtype="DT_STRING", string_val=[data], tensor_shape=self._shaped([]))

    def floats(self, numbers: Iterable[float], shape: Sequence[int]) -> Any:
        """Return numbers as a tensor in single precision."""
        return self._tensor(dtype="DT_FLOAT", float_val=numbers, tensor_shape=self._shaped(shape))

    def tensor(self, tag: str, array: Array, data: bytes) -> Any:
        """Return an array as it is.

        Raises:
            BlobError: The bytes are no such array.
        """
        form = _form(array, data)
        dtype, field, _ = _TYPES[array.dtype]
        is_listed = field and len(data) <= MAX_LISTED_BYTES
        content: dict[str, Any] = {field: struct.unpack(form, data)} if is_listed else {"tensor_content": data}
        content["dtype"] = dtype
        tensor = self._tensor(tensor_shape=self._shaped(array.shape), **content)
        return self.summary([self.value(tag, metadata=self.plugin("tensor"), tensor=tensor)])

    def histogram(self, event: HistogramLogged) -> Any:
        """Return a distribution, with the empty bins that were put together for the way."""
        bins = list(_all_bins(event))
        histo = self._summary.HistogramProto(
            min=event.min,
            max=event.max,
            num=event.num,
            sum=event.sum,
            sum_squares=event.sum_squares,
            bucket_limit=[limit for limit, _ in bins],
            bucket=[count for _, count in bins],
        )
        return self.summary([self.value(event.key, histo=histo)])

    def curve(self, event: PrCurveLogged) -> Any:
        """Return precision and recall."""
        data: Any = import_module("tensorboard.plugins.pr_curve.plugin_data_pb2")
        thresholds = len(event.curve[0])
        told = data.PrCurvePluginData(version=0, num_thresholds=min(thresholds, MAX_THRESHOLDS))
        tensor = self.floats((number for row in event.curve for number in row), [len(event.curve), thresholds])
        metadata = self.plugin("pr_curves", told.SerializeToString())
        return self.summary([self.value(event.key, metadata=metadata, tensor=tensor)])

    def image(self, tag: str, file: MediaFile, data: bytes) -> Any:
        """Return a picture, or one that moves."""
        width, height, channels = (_whole(file, name) for name in ("width", "height", "channels"))
        space = COLOURS if channels == 1 else channels  # as the SDK has it, which makes grey ones coloured
        image = self._summary.Summary.Image(width=width, height=height, colorspace=space, encoded_image_string=data)
        return self.summary([self.value(tag, image=image, **self._caption(file))])

    def sound(self, tag: str, file: MediaFile, data: bytes) -> Any:
        """Return a sound in a WAV file."""
        rate, channels, frames = (_whole(file, name) for name in ("sample_rate", "channels", "frames"))
        if not (rate and channels and frames):
            rate, channels, frames = _in_the_file(data)
        audio = self._summary.Summary.Audio(
            sample_rate=rate,
            num_channels=channels,
            length_frames=frames,
            encoded_audio_string=data,
            content_type="audio/wav",
        )
        return self.summary([self.value(tag, audio=audio, **self._caption(file))])

    def _caption(self, file: MediaFile) -> dict[str, Any]:
        return {"metadata": self._summary.SummaryMetadata(summary_description=file.caption)} if file.caption else {}

    def _shaped(self, shape: Iterable[int]) -> Any:
        return self._shape(dim=[self._shape.Dim(size=size) for size in shape])


def chunks(values: Mapping[str, float]) -> Iterator[list[tuple[str, float]]]:
    """Split the values of one step into as many as share a record."""
    iterator = iter(values.items())
    while chunk := list(islice(iterator, VALUES_PER_RECORD)):
        yield chunk


def overflows(values: Iterable[float]) -> list[str]:
    """Name, as a cause to be counted, each number that is finite and becomes infinite in single precision."""
    return ["float32 overflow" for value in values if FLOAT32_MAX < abs(value) < math.inf]


def numbers_of(array: Array, data: bytes) -> Sequence[float]:
    """Return the numbers of an array, row by row.

    Raises:
        BlobError: The bytes are no such array.
    """
    return struct.unpack(_form(array, data), data)


def _form(array: Array, data: bytes) -> str:
    """Return the form of an array for `struct`: of a complex one its real and imaginary parts in turn."""
    _, _, code = _TYPES.get(array.dtype, ("", "", ""))
    count = math.prod(array.shape) * (2 if array.dtype.startswith("complex") else 1)
    is_sized = all(0 <= side <= MAX_SIZE for side in array.shape)
    if not (code and is_sized and count * struct.calcsize(f"<{code}") == len(data)):
        raise BlobError(f"{len(data)} bytes are no {array.dtype} of shape {array.shape}")
    return f"<{count}{code}"


def _all_bins(event: HistogramLogged) -> list[tuple[float, float]]:
    """Name every bin by its upper limit, and an empty one first, where it is known where the bins begin."""
    bins = list(zip(event.limits, event.counts, strict=False))
    if event.low is not None:
        return [(event.low, 0.0), *bins]
    places = {edge: place for place, edge in enumerate(default_edges())}
    at = [places.get(limit, -1) for limit, _ in bins]
    if -1 in at or any(
        count and here - before != 1 for (before, here), (_, count) in zip(pairwise(at), bins[1:], strict=True)
    ):
        return bins
    counts = dict(zip(at, event.counts, strict=False))
    return [(default_edges()[place], counts.get(place, 0.0)) for place in range(at[0], at[-1] + 1)] if at else bins


def _whole(file: MediaFile, name: str) -> int:
    known = file.details.get(name)
    return known if isinstance(known, int) and 0 <= known <= MAX_SIZE else 0


def _in_the_file(data: bytes) -> tuple[int, int, int]:
    """Return frames a second, channels and frames of a WAV file; zeros, where it says nothing that Python reads."""
    try:
        with wave.open(BytesIO(data)) as sound:
            return sound.getframerate(), sound.getnchannels(), sound.getnframes()
    except (wave.Error, EOFError):
        return 0, 0, 0
