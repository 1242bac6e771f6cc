"""Arrays as the blob store has them, for receivers that have no numpy: as a file of numpy's, and as numbers."""

from __future__ import annotations

import math
import re
import struct

from eventbus.errors import BlobError
from eventbus.media import Array

_CODES = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "bool": "?",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
}
"""What `struct` calls the types of numbers."""

_DTYPE = re.compile(r"(int|uint|float|complex)(\d+)")
_KINDS = {"int": "i", "uint": "u", "float": "f", "complex": "c"}
BITS = 8
"""In a byte."""

_ALIGNMENT = 64
_MAGIC = b"\x93NUMPY\x01\x00"


def npy(array: Array, data: bytes) -> bytes:
    """Return an array as a file of numpy's; of a type that numpy lacks, as raw bytes of that size.

    Args:
        array: What is known of it.
        data: Its numbers, row by row, little endian.

    Raises:
        BlobError: There are not as many bytes as its shape and type say.
    """
    found = _DTYPE.fullmatch("uint8" if array.dtype == "bool" else array.dtype)
    size = int(found[2]) // BITS if found else len(data) // max(1, math.prod(array.shape))
    if min(array.shape, default=0) < 0 or size * math.prod(array.shape) != len(data):
        raise _unlike(array, data)
    kind = _KINDS[found[1]] if found else "V"
    descr = "|b1" if array.dtype == "bool" else f"{'<' if size > 1 else '|'}{kind}{size}"
    shape = "".join(f"{length}, " for length in array.shape)
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}"
    before = len(_MAGIC) + struct.calcsize("<H")
    header += " " * (-(before + len(header) + 1) % _ALIGNMENT) + "\n"
    return _MAGIC + struct.pack("<H", len(header)) + header.encode() + data


def rows(array: Array, data: bytes) -> list[tuple[float, ...]]:
    """Return an array's numbers by its last axis: one tuple per row, whatever stands before that axis.

    Raises:
        BlobError: There are not as many numbers as its shape says, or they are of a type that has no numbers.
    """
    width = array.shape[-1] if array.shape else 1
    if min(array.shape, default=0) < 0:
        raise _unlike(array, data)
    try:
        flat = struct.unpack(f"<{math.prod(array.shape)}{_CODES[array.dtype]}", data)
    except (struct.error, KeyError) as error:
        raise _unlike(array, data) from error
    return [flat[at : at + width] for at in range(0, len(flat), width)] if width else []


def grids(array: Array, data: bytes) -> list[list[tuple[float, ...]]]:
    """Return the rows of each of an array's grids, its last two axes; of an array without more axes, of the one.

    Raises:
        BlobError: There are not as many numbers as its shape says, or they are of a type that has no numbers.
    """
    flat = rows(array, data)
    height = array.shape[-2] if len(array.shape) > 1 else 1
    return [flat[at : at + height] for at in range(0, len(flat), height)] if height else []


def _unlike(array: Array, data: bytes) -> BlobError:
    return BlobError(f"{len(data)} bytes are no {array.dtype}{array.shape}")
