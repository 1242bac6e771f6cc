"""Tables as MLflow's `log_table` keeps them: rows that follow each other in one file, however often they come again."""

from __future__ import annotations

import json
import posixpath
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from receivers._mlflow_draft import MAX_TAG_LENGTH, artifact_path, own_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from receivers._mlflow_files import RunFiles

LISTED_TAG = "mlflow.loggedArtifacts"
"""Where MLflow's page finds the tables of a run: `[{"path": ..., "type": "table"}, ...]`."""


class Table(NamedTuple):
    """Columns and rows."""

    columns: list[str]
    rows: list[list[Any]]


class Mark(NamedTuple):
    """What was added to a table: set before it is, so that it is known what to take away when it comes again.

    It says so by the records, not by the run's rows: another workspace that goes on with the run numbers them anew.

    Attributes:
        before: Rows that the table had before the last addition.
        added: The last record that was added of each partition, as (partition, sequence); the last addition at the end.
    """

    before: int = 0
    added: tuple[tuple[str, int], ...] = ()

    def has(self, partition: str, seq: int) -> bool:
        """Tell whether a record was added, or begun to be."""
        return seq <= dict(self.added).get(partition, 0)

    def then(self, record: tuple[str, int], before: int) -> Mark:
        """Return the mark of one more addition; partitions that were not seen for longest make room in the tag."""
        others = [one for one in self.added if one[0] != record[0]]
        mark = Mark(before, (*others, record))
        while len(mark.text()) > MAX_TAG_LENGTH:
            mark = Mark(before, mark.added[1:])
        return mark

    def text(self) -> str:
        """Return it as its tag."""
        return json.dumps(self)


class Tables:
    """The tables of one run.

    Args:
        files: The run's files.
        tags: The run's tags.
        set_tag: Sets one of them at once.
    """

    def __init__(self, files: RunFiles, tags: Mapping[str, str], set_tag: Callable[[str, str], None]) -> None:
        self._files = files
        self._tags = dict(tags)
        self._set = set_tag
        self._last: tuple[str, Table] | None = None

    def append(self, record: tuple[str, int], path: str, added: Table) -> None:
        """Put rows behind those that the table has; the same ones again change nothing.

        Args:
            record: Partition and sequence of the record that they came with.
            path: Of the table's file.
            added: The rows.
        """
        path = artifact_path(path)
        tag = own_tag("table", path)
        mark = _mark(self._tags.get(tag, "[0, []]"))
        is_last = mark.added[-1:] == (record,)
        if mark.has(*record) and not is_last:
            return
        table = self._read(path) if tag in self._tags else Table([], [])
        before = mark.before if is_last else len(table.rows)
        self._set_tag(tag, mark.then(record, before).text())
        self._last = None
        whole = joined(Table(table.columns, table.rows[:before]), added)
        self.replace(path, whole)
        self._last = path, whole

    def replace(self, path: str, table: Table) -> None:
        """Store a table as it is."""
        stored = self._files.put(path, _parquet(table) if path.endswith(".parquet") else _json(table))
        listed = _listed(self._tags.get(LISTED_TAG, "[]"))
        entry = {"path": stored, "type": "table"}
        if entry in listed:
            return
        if len(text := json.dumps([*listed, entry])) > MAX_TAG_LENGTH:
            self._files.counts["table not listed"] += 1
        else:
            self._set_tag(LISTED_TAG, text)

    def _read(self, path: str) -> Table:
        """Return the table that is stored, an empty one where there is none: its mark comes first."""
        if self._last is not None and self._last[0] == path:
            return self._last[1]
        stored = self._files.find(path)
        return Table([], []) if stored is None else self._files.read(stored, _read)

    def _set_tag(self, name: str, value: str) -> None:
        self._set(name, value)
        self._tags[name] = value


def _mark(tag: str) -> Mark:
    before, added = json.loads(tag)
    return Mark(before, tuple((partition, seq) for partition, seq in added))


def _listed(tag: str) -> list[Any]:
    """Return the tables that a tag lists; none where somebody else wrote something else there."""
    try:
        listed = json.loads(tag)
    except (ValueError, RecursionError):
        return []
    return cast("list[Any]", listed) if isinstance(listed, list) else []


def joined(first: Table, second: Table) -> Table:
    """Put one table's rows below another's; a column that one of them lacks is empty there."""
    columns = list(dict.fromkeys([*first.columns, *second.columns]))
    return Table(columns, [*_spread(first, columns), *_spread(second, columns)])


def _spread(table: Table, columns: list[str]) -> list[list[Any]]:
    if table.columns == columns:
        return table.rows
    places = [table.columns.index(name) if name in table.columns else None for name in columns]
    return [[None if place is None else row[place] for place in places] for row in table.rows]


def _json(table: Table) -> bytes:
    return json.dumps({"columns": table.columns, "data": table.rows}, separators=(",", ":")).encode()


def _parquet(table: Table) -> bytes:
    frame = import_module("pandas").DataFrame(table.rows, columns=table.columns)
    return frame.to_parquet(index=False)


def _read(path: Path) -> Table:
    if path.suffix == ".parquet":
        split = import_module("pandas").read_parquet(path).to_dict(orient="split")
        return Table([str(name) for name in split["columns"]], [list(row) for row in split["data"]])
    found = json.loads(path.read_bytes())
    return Table(found["columns"], found["data"])


def stem(path: str) -> str:
    """Return a table's path without its suffix: under it lie its pictures."""
    return posixpath.splitext(path)[0]
