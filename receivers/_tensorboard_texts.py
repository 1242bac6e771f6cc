"""What TensorBoard shows as a text, since it has no other form for it: mostly tables of markdown. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from eventbus import Event
from eventbus.artifacts import ArtifactFile, ArtifactLogged, DatasetLogged, ModelLogged
from eventbus.errors import BlobError
from eventbus.media import TableLogged
from eventbus.tracking import (
    AlertRaised,
    ConfigUpdated,
    MetricDefined,
    ParamsLogged,
    RunStarted,
    SummaryUpdated,
    TagsDeleted,
    TagsSet,
    TextLogged,
)
from receivers._names import flattened

MAX_ROWS = 100
"""Rows of a table that are shown: TensorBoard shows a text as one page."""


class Text(NamedTuple):
    """A text to store.

    Attributes:
        tag: Its name.
        text: Markdown.
        step: Where on the user's axis.
    """

    tag: str
    text: str
    step: int = 0


def table(columns: Sequence[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a table of markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def shown_table(event: TableLogged, rows: Sequence[Sequence[Any]]) -> Text:
    """Return the first rows of a table; a cell that is a file shows which one."""
    lines = ([_shown(cell, event) for cell in row] for row in rows[:MAX_ROWS])
    more = f"\n\nThe first {MAX_ROWS} of {len(rows)} rows." if len(rows) > MAX_ROWS else ""
    return Text(event.key, table(event.columns, lines) + more, event.step or 0)


def file_list(event: ArtifactLogged) -> Text:
    """Return what an artifact or a model is, and its files."""
    known = {
        "kind": event.kind,
        "aliases": ", ".join(event.aliases),
        "tags": ", ".join(event.tags),
        "flavor": getattr(event, "flavor", ""),
        "registered as": getattr(event, "registered_name", ""),
        "role": "input" if event.is_input else "",
        **dict(flattened(event.metadata)),
        **getattr(event, "params", {}),
    }
    told = {name: value for name, value in known.items() if value != ""}
    about = _keyed(told) if told else ""
    files = table(("file", "bytes"), ((file.path, _place_or_size(file)) for file in event.files))
    what = "models" if isinstance(event, ModelLogged) else "artifacts"
    text = "\n\n".join(part for part in (event.description, about, files) if part)
    return Text(f"{what}/{event.key}", text, event.step or 0)


def _keyed(values: Mapping[str, object]) -> str:
    return table(("key", "value"), values.items())


def _started(event: RunStarted) -> Text:
    group = f" ({event.group})" if event.group else ""
    parent = f", nested in {event.parent}" if event.parent else ""
    return Text("run/status", f"RUNNING: {event.name}{group}{parent}")


def _defined(event: MetricDefined) -> Text:
    known = {**event.__dict__, "summary": ", ".join(event.summary)}
    told = {name: value for name, value in known.items() if name != "name" and value not in (None, "", False)}
    return Text("metrics", table(("metric", *told), [(event.name, *told.values())]))


def _dataset(event: DatasetLogged) -> Text:
    known = {"name": event.key, **event.model_dump(exclude={"key", "step", "tags"}), **event.tags}
    shown = _keyed({name: value for name, value in known.items() if value != ""})
    return Text("datasets", shown, event.step or 0)


def list_in(data: bytes) -> list[Any]:
    """Return the list that JSON holds.

    Raises:
        BlobError: It is no JSON, or no list.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BlobError(f"{len(data)} bytes are no JSON") from error
    if not isinstance(found, list):
        raise BlobError(f"{len(data)} bytes of JSON are no list")
    return cast("list[Any]", found)


def table_in(data: bytes) -> list[list[Any]]:
    """Return the rows that JSON holds.

    Raises:
        BlobError: It is no JSON, or no list of lists.
    """
    rows = list_in(data)
    if not all(isinstance(row, list) for row in rows):
        raise BlobError(f"{len(data)} bytes of JSON are no table")
    return rows


def _shown(cell: Any, event: TableLogged) -> object:
    match cell:
        case {"file": int(index)} if len(cell) == 1 and 0 <= index < len(event.files):
            file = event.files[index]
            return f"{file.caption or file.media_type} (file {index})"
        case None:
            return ""
        case _:
            return cell


def _place_or_size(file: ArtifactFile) -> object:
    return file.blob.size if file.blob is not None else file.reference


def _cell(value: object) -> str:
    """Return a value as a cell of a table: a bar or a line's end would break it."""
    return str(value).replace("|", "\\|").replace("\n", "<br>")


TEXTS: Mapping[type[Event], Callable[[Any], Text]] = {
    ParamsLogged: lambda event: Text("params", _keyed(event.values)),
    TagsSet: lambda event: Text("tags", _keyed(event.values)),
    TagsDeleted: lambda event: Text("tags", _keyed(dict.fromkeys(event.keys, "(deleted)"))),
    ConfigUpdated: lambda event: Text("config", _keyed(dict(flattened(event.values)))),
    SummaryUpdated: lambda event: Text("summary", _keyed(dict(flattened(event.values)))),
    TextLogged: lambda event: Text(event.key, event.text, event.step or 0),
    AlertRaised: lambda event: Text(
        "alerts", table(("level", "alert", "text"), [(event.level, event.title, event.text)])
    ),
    RunStarted: _started,
    MetricDefined: _defined,
    DatasetLogged: _dataset,
}
"""What becomes of those events that are texts here."""
