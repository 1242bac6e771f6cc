"""Reads TensorBoard's event files: TFRecord framing around protobuf events."""

import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2
from tensorboard.util import tensor_util

from readback._rows import Row, TornError, torn_row

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_KINDS = {"scalars": "metric"}  # other plugins keep their name
_Plugins = dict[tuple[str, str], str]  # (run, tag) -> the plugin that its first event named


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


def _rows_of(file: Path, run: str, order: Iterator[int], plugins: _Plugins) -> Iterator[Row]:
    try:
        for payload in _payloads(file.read_bytes()):
            event = event_pb2.Event()  # pyright: ignore[reportAttributeAccessIssue]
            event.ParseFromString(payload)
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
