"""Names that a tracker or a file system refuses, spelled so that it takes them.

A character that may not stand in a name is written as its code, `%` as `_x25_`. Two different names never
become one, and what was logged can be read off the result: an underscore that could be taken for the start of
such a code is written as one itself.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import cast

MAX_PATH = 1000
"""Bytes of a path below its folder: systems allow 4096 in all, and it is put behind others."""

MAX_ENDING = 20
"""Letters of what a file's name ends with: what is longer says no kind of file."""

MAX_FILE_NAME = 200
"""Bytes of a file's or folder's name: file systems allow 255, and endings are added."""

_CODE = re.compile(r"_x[0-9a-fh]*_")
_CONTROL = r"[\x00-\x1f\x7f]"


def escape(name: str, unsafe: str) -> str:
    """Write each character that the regular expression `unsafe` matches as its code."""
    if not re.search(unsafe, name) and not _CODE.search(name):
        return name
    return re.sub(rf"{unsafe}|_(?=x)", lambda found: f"_x{ord(found[0]):x}_", name)


def shorten(name: str, limit: int) -> str:
    """Cut a name to `limit` bytes of UTF-8; a cut name ends with its digest and so stays its own."""
    data = name.encode()
    if len(data) <= limit:
        return name
    mark = f"_xh{sha256(data).hexdigest()[:16]}_"
    return data[: limit - len(mark)].decode(errors="ignore") + mark


def is_plain_path(name: str) -> bool:
    """Tell whether a name, read as a path, stays below its folder and has no other spelling."""
    return name != "." and posixpath.normpath(name) == name and not name.startswith(("/", ".."))


def file_name(name: str) -> str:
    """Return a name that can be one component of a path, whoever chose it."""
    unsafe = r"[^\w.\- ]" if name.strip(".") else r"[^\w\- ]"
    return shorten(escape(name, unsafe), MAX_FILE_NAME) or "_x_"


def relative_path(name: str) -> str:
    """Return a path that stays below its folder; harmless names keep their slashes and stay as they are."""
    path = escape(name, _CONTROL if is_plain_path(name) else rf"[/.]|{_CONTROL}")
    return shorten("/".join(shorten(part, MAX_FILE_NAME) for part in path.split("/")), MAX_PATH)


def ending(name: str) -> str:
    """Return what a file's name may end with of what it shall end with, its dot included; empty if it is too long."""
    return file_name(name) if 1 < len(name) <= MAX_ENDING else ""


def flattened(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Name the leaves of a nested configuration by their dotted path; lists stay whole."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flattened(cast("dict[str, object]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
