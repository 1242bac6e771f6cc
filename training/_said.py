"""What an event says, on one line of a terminal: files by their kind and size, long lists by what they span."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from receivers._json import as_json
from training._words import count_of

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUE_CHARACTERS = 120
"""A longer value is cut in a readable line; JSON has all of it."""

MAX_FILES = 3
"""So many files are told one by one, the rest counted."""

MAX_NUMBERS = 8
"""A longer list of numbers is told by its length and its ends."""

_BLOB = re.compile(r"[0-9a-f]{64}|late-[0-9a-f]{32}")
_SCALE = ("B", "kB", "MB", "GB", "TB")

Fields = Mapping[str, Any]


def said(fields: Fields) -> Iterator[str]:
    """Yield the words of an event; where something stands as it always does, there are none.

    Args:
        fields: What the event says, decoded; its class need not be known.
    """
    for name, value in fields.items():
        told = _told(value)
        if told:
            yield f"{name}={told}"
        elif isinstance(value, Mapping):
            yield from (f"{word(key)}={_value(one)}" for key, one in cast("Fields", value).items())
        elif value is not False and value not in (None, "", []):  # a step of 0 is said
            yield f"{name}={_value(value)}"


def word(text: str) -> str:
    """Return text that can't be taken for anything else on a terminal: no escape, no line's end, no blank."""
    cut = _cut(text)
    return cut if cut.isprintable() and cut and " " not in text else json.dumps(cut, ensure_ascii=not cut.isprintable())


def size(count: float) -> str:
    """Return a number of bytes as people say it: `1.8 kB`."""
    scale = 0
    while count >= 999.5 and scale < len(_SCALE) - 1:  # noqa: PLR2004 - it would be written as 1000
        count, scale = count / 1000, scale + 1
    return f"{count:.3g} {_SCALE[scale]}"


def _told(value: Any) -> str:
    """Return what a file, files, or many numbers are; empty for any other value."""
    if isinstance(value, Mapping):
        return _file(cast("Fields", value))
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return ""
    items = cast("Sequence[Any]", value)
    return _files(items) or _numbers(items)


def _files(items: Sequence[Any]) -> str:
    told = [_file(cast("Fields", one)) for one in items[:MAX_FILES] if isinstance(one, Mapping)]
    if not told or not all(told):
        return ""
    rest = [f"{len(items) - MAX_FILES} more"] if len(items) > MAX_FILES else []
    return f"[{', '.join(told + rest)}]"


def _file(one: Fields) -> str:
    """Return what a blob is, or a part of an event that names one: a medium, an array, a file of an artifact."""
    if one.keys() >= {"reference", "path"} and set(one) <= {"path", "blob", "reference"}:
        if not (isinstance(one["path"], str) and isinstance(one["reference"], str)):
            return ""
        return word(one["path"]) + (f" ({_blob(one['blob'])})" if one.get("blob") else f" -> {word(one['reference'])}")
    blob = one if set(one) == {"name", "size"} else one.get("blob")
    of = _blob(blob)
    if not of or blob is one:
        return of
    if "shape" in one:
        return f"{one.get('dtype')}{_value(one['shape'])} ({of})"
    given = one.get("details")
    details: Fields = cast("Fields", given) if isinstance(given, Mapping) else {}
    extent = f" {details['width']}x{details['height']}" if {"width", "height"} <= details.keys() else ""
    caption = f" {word(str(one['caption']))}" if one.get("caption") else ""
    return f"{one.get('media_type', 'file')}{extent} ({of}){caption}"


def _blob(blob: Any) -> str:
    if not isinstance(blob, Mapping):
        return ""
    name, count = blob.get("name"), blob.get("size")  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    is_one = isinstance(name, str) and _BLOB.fullmatch(name) and isinstance(count, int)
    return size(cast("int", count)) if is_one else ""


def _numbers(items: Sequence[Any]) -> str:
    if len(items) > MAX_NUMBERS and all(isinstance(one, int | float) for one in items):
        return f"[{count_of(len(items), 'number')}, {_value(items[0])} .. {_value(items[-1])}]"
    rows = [len(cast("Sequence[Any]", one)) for one in items if isinstance(one, list)]
    is_grid = len(rows) == len(items) and len(set(rows)) == 1
    return f"[{len(rows)} x {count_of(rows[0], 'number')}]" if is_grid and len(rows) * rows[0] > MAX_NUMBERS else ""


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return word(value) if isinstance(value, str) else _cut(as_json(value))


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_CHARACTERS else f"{text[:VALUE_CHARACTERS]}... ({len(text)} characters)"
