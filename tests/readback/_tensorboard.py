"""Reads TensorBoard's event files: TFRecord framing around protobuf events."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from PIL import Image, ImageSequence
from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

from readback._rows import Row, TornError, torn_row

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_KINDS = {"scalars": "metric"}  # other plugins keep their name
_Plugins = dict[tuple[str, str], str]  # (run, tag) -> the plugin that its first event named


_PLUGINS = {
    "hparams": "hparams.plugin_data_pb2:HParamsPluginData",
    "mesh": "mesh.plugin_data_pb2:MeshPluginData",
    "pr_curves": "pr_curve.plugin_data_pb2:PrCurvePluginData",
    "text": "text.plugin_data_pb2:TextPluginData",
}
"""What a plugin's own data are: a module of tensorboard's plugins and a message in it."""


@dataclass(frozen=True, slots=True)
class TensorBoardRecord:
    """One record of an event file, parsed to the end: pictures to their pixels, tensors to their numbers.

    run: the folder below the one that was read.
    tag: of the summary's value; "graph_def" and "run_metadata" for what is no summary.
    content: all that it says.
    """

    run: str
    tag: str
    step: int
    wall_time: float
    content: dict[str, Any]


def _crc_table() -> list[int]:
    """CRC-32C (Castagnoli), reflected, one entry a byte."""
    table: list[int] = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc_table()


def read_tensorboard(folder: Path | str) -> list[Row]:
    """Every value in the event files below a folder; a run is the file's folder, below the given one."""
    root, order, rows = Path(folder), count(), list[Row]()
    plugins: _Plugins = {}
    for file in sorted(root.rglob("*tfevents*")):
        run = file.parent.relative_to(root).as_posix()
        rows.extend(_rows_of(file, run, order, plugins))
    return rows


def read_tensorboard_records(folder: Path | str) -> list[TensorBoardRecord]:
    """Every record in the event files below a folder, a summary's values one by one."""
    root = Path(folder)
    return [
        TensorBoardRecord(file.parent.relative_to(root).as_posix(), tag, event.step, event.wall_time, content)
        for file in sorted(root.rglob("*tfevents*"))
        for event in map(_event, _payloads(file.read_bytes()))
        for tag, content in _contents(event)
    ]


def _event(payload: bytes) -> Any:
    event = event_pb2.Event()  # pyright: ignore[reportAttributeAccessIssue]
    event.ParseFromString(payload)
    return event


def _contents(event: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for value in event.summary.value:
        yield value.tag, _content(value)
    if event.graph_def:
        message: Any = import_module("tensorboard.compat.proto.graph_pb2").GraphDef
        yield "graph_def", MessageToDict(message.FromString(event.graph_def))
    if event.HasField("tagged_run_metadata"):
        message = import_module("tensorboard.compat.proto.config_pb2").RunMetadata
        told = MessageToDict(message.FromString(event.tagged_run_metadata.run_metadata))
        yield "run_metadata", {"tag": event.tagged_run_metadata.tag, **told}


def _content(value: Any) -> dict[str, Any]:
    field: str = value.WhichOneof("value") or ""
    plugin = value.metadata.plugin_data
    content: dict[str, Any] = {"field": field, "plugin": plugin.plugin_name}
    if plugin.plugin_name in _PLUGINS:
        module, _, name = _PLUGINS[plugin.plugin_name].partition(":")
        message: Any = getattr(import_module(f"tensorboard.plugins.{module}"), name)
        content["plugin_data"] = MessageToDict(message.FromString(plugin.content))
    if field == "tensor":
        array: Any = tensor_util.make_ndarray(value.tensor)
        return content | {"dtype": value.tensor.dtype, "shape": array.shape, "numbers": str(array.tolist())}
    if field == "image":
        return content | _image(value.image)
    return content | ({"value": MessageToDict(value)[_JSON_NAMES.get(field, field)]} if field else {})


_JSON_NAMES = {"simple_value": "simpleValue"}


def _image(image: Any) -> dict[str, Any]:
    """Its sizes as they are told, and its pixels: of one that moves, frame by frame."""
    with Image.open(io.BytesIO(image.encoded_image_string)) as opened:
        kind, info = opened.format, opened.info
        frames = [np.asarray(frame.convert("RGBA")).tobytes() for frame in ImageSequence.Iterator(opened)]
    told = {"height": image.height, "width": image.width, "colorspace": image.colorspace}
    return {**told, "format": kind, "size": opened.size, "frames": frames, "duration": info.get("duration")}


def _rows_of(file: Path, run: str, order: Iterator[int], plugins: _Plugins) -> Iterator[Row]:
    try:
        for payload in _payloads(file.read_bytes()):
            event = _event(payload)
            for value in event.summary.value:
                kind, shown = _shown(value, _plugin(value, run, plugins))
                yield Row(run, kind, value.tag, event.step, shown, next(order), round(event.wall_time * 1e9))
    except TornError as error:
        yield torn_row(run, file.name, str(error), next(order))


def _plugin(value: Any, run: str, plugins: _Plugins) -> str:
    """The plugin of a value's tag. Writers may name it in the tag's first event only."""
    name = value.metadata.plugin_data.plugin_name
    if name:
        plugins[run, value.tag] = name
    return plugins.get((run, value.tag), "")


def _shown(value: Any, plugin: str) -> tuple[str, float | str]:
    """Kind and value: a number for a scalar, the joined strings of a text, the shape of any other tensor."""
    field = value.WhichOneof("value")
    if field == "simple_value":
        return "metric", value.simple_value
    if field != "tensor":
        return plugin or field or "", ""
    array: Any = tensor_util.make_ndarray(value.tensor)
    if array.dtype.kind == "O":
        return plugin, "\n".join(cell.decode() for cell in array.ravel().tolist())
    shown = array.item() if array.size == 1 else f"{array.dtype}{list(array.shape)}"
    return _KINDS.get(plugin, plugin), shown


def _payloads(data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        (length,) = _LENGTH.unpack(_checked(data, position, _LENGTH.size))
        position += _LENGTH.size + _CRC.size
        yield _checked(data, position, length)
        position += length + _CRC.size


def _checked(data: bytes, position: int, length: int) -> bytes:
    """The bytes at a position whose masked checksum follows them."""
    part = data[position : position + length]
    end = position + length
    if end + _CRC.size > len(data):
        message = f"a record is cut off at byte {position}"
        raise TornError(message)
    if _masked_crc(part) != _CRC.unpack_from(data, end)[0]:
        message = f"a checksum is wrong at byte {position}"
        raise TornError(message)
    return part


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
