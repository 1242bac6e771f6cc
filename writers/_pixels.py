"""Pictures, encoded at the caller as PNG.

The encoder is our own: 64 KiB of noise take it 0.4 ms, where Pillow at its fastest takes 1.6 ms. Every row is stored as
its difference from the one above, and what is left is compressed by run lengths and Huffman codes.
"""

from __future__ import annotations

import math
import struct
import sys
import zlib
from os import PathLike
from typing import Any, NamedTuple, cast

from eventbus.errors import BadInputError
from writers._arrays import package, real_array_of
from writers._keys import shown

PICTURES_PER_ROW = 8
"""So many pictures of a batch stand side by side, as in TensorBoard's SDK."""

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's number for a picture of so many channels: grey, grey and opacity, colours, colours and opacity."""

MAX_SIDE = 1 << 16
"""Pixels along one side: more is a mistake in the order of the axes."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # a row as its difference from the one above


class Picture(NamedTuple):
    """An encoded picture.

    Attributes:
        png: The file.
        width, height: Its size in pixels.
        channels: 1 grey, 2 with opacity, 3 colours, 4 with opacity.
    """

    png: bytes
    width: int
    height: int
    channels: int


def picture_of(key: object, data: object, dataformats: str = "HWC") -> Picture:
    """Encode a picture; a batch of them (`NCHW`) is put together to one.

    Numbers that are not of uint8 are taken as 0 to 1 and cut to it, as TensorBoard's SDK does; NaN is black.

    Args:
        key: What it is logged under, for errors.
        data: An array, tensor or nested list; or a picture of Pillow; or the path of a file that Pillow can read.
        dataformats: Order of an array's axes: H height, W width, C channels, N number of pictures.

    Raises:
        BadInputError: It can't be a picture; the message says why.
        MissingExtraError: numpy is not installed, or Pillow, where that is needed.
    """
    if isinstance(data, str | PathLike):
        return encoded(key, _opened(key, cast("str | PathLike[str]", data)))
    if callable(getattr(data, "convert", None)) and hasattr(data, "getbands"):
        return encoded(key, _pixels_of(data))
    return encoded(key, pixels(key, real_array_of(key, data), dataformats))


def tiled(key: object, data: object, dataformats: str = "NCHW") -> Picture:
    """Encode a batch of pictures as one: `picture_of`, for batches by default."""
    return picture_of(key, data, dataformats)


def sprite_of(key: object, data: object) -> Picture:
    """Encode a batch of pictures, number x channels x height x width, as one square, row by row.

    Raises:
        BadInputError: They are no pictures; the message says why.
        MissingExtraError: numpy is not installed.
    """
    numpy, batch = package("numpy"), real_array_of(key, data)
    if batch.ndim != len("NCHW"):
        raise BadInputError(f"{shown(key)} has shape {batch.shape}: pass number x channels x height x width")
    sheet = _grid(key, bytes_of(batch), across=math.ceil(math.sqrt(len(batch))))
    side = max(sheet.shape[:2])
    square = numpy.zeros((side, side, sheet.shape[2]), numpy.uint8)
    square[: sheet.shape[0], : sheet.shape[1]] = sheet
    return encoded(key, square)


def figure_picture(key: object, figure: object, close: bool = True) -> Picture:  # noqa: FBT001, FBT002 - as the SDKs have it
    """Draw a figure of matplotlib; a list of them, of one size, is put together to one picture.

    Args:
        key: What it is logged under, for errors.
        figure: A figure, or a list of figures.
        close: Whether pyplot lets go of it.

    Raises:
        BadInputError: It is no figure, or they differ in size.
        MissingExtraError: matplotlib or numpy is not installed.
    """
    if not isinstance(figure, list):
        return encoded(key, _drawn(key, figure, close=close))
    sheets = [_drawn(key, one, close=close) for one in cast("list[object]", figure)]
    if len({sheet.shape for sheet in sheets}) != 1:
        raise BadInputError(f"{shown(key)} is {len(sheets)} figures of different sizes: log them one by one")
    return tiled(key, package("numpy").stack(sheets), "NHWC")


def pixels(key: object, array: Any, dataformats: str) -> Any:
    """Return an array as uint8 of height x width x channels; a batch is put together to one picture.

    Raises:
        BadInputError: The order of the axes does not fit the array.
    """
    given = dataformats.upper() if isinstance(dataformats, str) else ""  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
    wanted = {4: "NCHW", 3: "HWC", 2: "HW"}.get(len(given), "?")
    if sorted(given) != sorted(wanted):
        raise BadInputError(f"dataformats={dataformats!r} is no order of axes: use the letters of NCHW, HWC or HW once")
    if array.ndim != len(given):
        raise BadInputError(f"{shown(key)} has shape {array.shape}, which is not dataformats={dataformats!r}")
    ordered = bytes_of(array).transpose([given.index(axis) for axis in wanted])
    if wanted == "NCHW":
        return _grid(key, ordered)
    return ordered if wanted == "HWC" else ordered[:, :, None]


def encoded(key: object, array: Any) -> Picture:
    """Encode uint8 of height x width x channels.

    Raises:
        BadInputError: It has too many channels, or no pixels.
    """
    height, width, channels = array.shape
    if channels not in COLOR_TYPES or not 0 < height <= MAX_SIDE or not 0 < width <= MAX_SIDE:
        raise BadInputError(
            f"{shown(key)} is {height} pixels high, {width} wide, with {channels} channels: a picture has 1 to 4 "
            f"channels and at most {MAX_SIDE} pixels a side; is dataformats= right?"
        )
    head = struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", _compressed(array)), (b"IEND", b""))
    return Picture(b"".join([_SIGNATURE, *(_chunk(*each) for each in chunks)]), width, height, channels)


def _compressed(array: Any) -> bytes:
    numpy = package("numpy")
    height, width, channels = array.shape
    flat = array.reshape(height, width * channels)
    rows = numpy.empty((height, width * channels + 1), numpy.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = flat[0]
    numpy.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return packer.compress(rows.data) + packer.flush()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def bytes_of(array: Any) -> Any:
    """Return pixels as uint8; numbers of other types are taken as 0 to 1."""
    numpy = package("numpy")
    if array.dtype == numpy.uint8:
        return array
    with numpy.errstate(all="ignore"):  # what is too large for it is cut below
        scaled = array.astype(numpy.float32) * numpy.float32(255)
    return numpy.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).astype(numpy.uint8)


def _grid(key: object, batch: Any, across: int = PICTURES_PER_ROW) -> Any:
    """Put a batch, number x channels x height x width, together, row by row; what stays free is black."""
    number, channels, height, width = batch.shape
    if channels not in (1, 3):
        raise BadInputError(f"{shown(key)} is a batch of pictures of {channels} channels: 1 or 3 can be put together")
    across = min(number, across)
    down = -(-number // across)
    canvas = package("numpy").zeros((down * across, channels, height, width), "u1")
    canvas[:number] = batch
    grid = canvas.reshape(down, across, channels, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(down * height, across * width, channels)


def _opened(key: object, path: str | PathLike[str]) -> Any:
    image = package("PIL.Image")
    try:
        with image.open(path) as opened:
            return _pixels_of(opened)
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise BadInputError(f"{shown(key)} is no file with a picture that can be read: {error}") from error


def _pixels_of(image: Any) -> Any:
    """Return the pixels of a picture of Pillow."""
    is_transparent = "A" in image.getbands() or "transparency" in image.info
    return package("numpy").asarray(image.convert("RGBA" if is_transparent else "RGB"))


def _drawn(key: object, figure: Any, *, close: bool) -> Any:
    agg, numpy = package("matplotlib.backends.backend_agg"), package("numpy")
    if not (hasattr(figure, "savefig") and hasattr(figure, "set_canvas")):
        raise BadInputError(f"{shown(key)} is a {type(figure).__name__}, not a figure: pass plt.gcf(), or fig")
    before, canvas = figure.canvas, agg.FigureCanvasAgg(figure)
    try:
        canvas.draw()
        sheet = numpy.asarray(canvas.buffer_rgba())[:, :, :3].copy()
    finally:
        figure.set_canvas(before)
    pyplot = sys.modules.get("matplotlib.pyplot")
    if close and pyplot is not None:
        pyplot.close(figure)
    return sheet
