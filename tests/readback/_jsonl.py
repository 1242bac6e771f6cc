"""Reads files of JSON lines, whatever their fields mean."""

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class JsonLine:
    """One line: its file relative to the folder, its place among all lines read, and its object.

    A line that ends without a line feed or is no JSON object has the object {} and says so in `torn`.
    """

    file: str
    order: int
    value: dict[str, Any]
    torn: str | None = None


def read_jsonl(folder: Path | str) -> list[JsonLine]:
    """Every line of the `*.jsonl` files below a folder, file by file in the order of their names."""
    root, order = Path(folder), count()
    return [
        _line(file.relative_to(root).as_posix(), next(order), line)
        for file in sorted(root.rglob("*.jsonl"))
        for line in file.read_bytes().splitlines(keepends=True)
    ]


def _line(file: str, order: int, line: bytes) -> JsonLine:
    if not line.endswith(b"\n"):
        return JsonLine(file, order, {}, "no line feed at the end")
    try:
        value = json.loads(line)
    except ValueError as error:
        return JsonLine(file, order, {}, str(error))
    if not isinstance(value, dict):
        return JsonLine(file, order, {}, "not a JSON object")
    return JsonLine(file, order, value)
