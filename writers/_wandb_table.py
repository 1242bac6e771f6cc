"""The light twin of W&B's table."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

from eventbus.errors import BadInputError
from eventbus.media import MAX_FILES_OF_MEDIA, TableLogged
from writers._arrays import package
from writers._keys import shown
from writers._wandb_kinds import Histogram
from writers._wandb_media import Media, Shelf, plain
from writers._wandb_real import real_name, twin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eventbus.blobs import BlobStore

DEFAULT_COLUMNS = ("Input", "Output", "Expected")
LOG_MODES = ("IMMUTABLE", "MUTABLE", "INCREMENTAL", None)


class Table:
    """Rows of cells; a cell is a value, a picture, a sound, a histogram or the like.

    Args:
        columns: Names of the columns.
        data: The rows, or a 2-d array, or a DataFrame.
        rows: The rows, by an older name.
        dataframe: A DataFrame of pandas; it brings its columns.
        dtype: Accepted: a cell keeps the type that it has.
        optional: Accepted: a cell may be None.
        allow_mixed_types: Accepted: a column may be of mixed types.
        log_mode: `INCREMENTAL`: each time it is logged, only the rows that were added since. Else the whole table.

    Attributes:
        columns: Names of the columns.
        data: The rows.
        log_mode: What is logged of it.
        logged_rows: How many of the rows were logged already.

    Raises:
        BadInputError: A row has another number of cells than there are columns, or the columns are no names.
    """

    def __init__(
        self,
        columns: Any = None,
        data: Any = None,
        rows: Any = None,
        dataframe: Any = None,
        dtype: Any = None,
        optional: bool | list[bool] = True,
        allow_mixed_types: bool = False,
        log_mode: str | None = "IMMUTABLE",
    ) -> None:
        if log_mode not in LOG_MODES:
            raise BadInputError(f"log_mode={shown(log_mode)} is not known: use one of IMMUTABLE, MUTABLE, INCREMENTAL")
        frame = dataframe if dataframe is not None else data if hasattr(data, "iloc") else None
        given: Any = (data if data is not None else rows) if frame is None else _rows_of(frame)
        self.columns: list[Any] = _columns(DEFAULT_COLUMNS if columns is None else columns, frame)
        self.data: list[list[Any]] = []
        self.log_mode = log_mode
        self.logged_rows = 0
        rows_given: Any = [] if given is None else given
        for row in rows_given:
            self.add_data(*row)

    def add_data(self, *data: Any) -> None:
        """Add a row.

        Raises:
            BadInputError: It has another number of cells than there are columns.
        """
        if len(data) != len(self.columns):
            raise BadInputError(f"a row of {len(data)} cells does not fit into the columns {shown(self.columns)}")
        self.data.append(list(data))

    def add_row(self, *row: Any) -> None:
        """Add a row, as `add_data` does."""
        self.add_data(*row)

    def add_column(self, name: str, data: Any, optional: bool = False) -> None:
        """Add a column.

        Args:
            name: Its name.
            data: Its cells, one per row.
            optional: Accepted: a cell may be None.

        Raises:
            BadInputError: There is such a column, or it is not as long as the others.
        """
        if not isinstance(name, str) or name in self.columns:  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
            raise BadInputError(f"{shown(name)} is a column already, or no name")
        if self.columns and len(data) != len(self.data):
            raise BadInputError(f"column {shown(name)} has {len(data)} cells, the table has {len(self.data)} rows")
        self.data = [
            [*row, cell] for row, cell in zip(self.data if self.columns else [[] for _ in data], data, strict=True)
        ]
        self.columns.append(name)

    def add_computed_columns(self, fn: Callable[[int, dict[Any, Any]], dict[str, Any]]) -> None:
        """Add columns that a function makes of each row: `fn(index, row)` returns cells by name."""
        found = [fn(index, dict(zip(self.columns, row, strict=True))) for index, row in self.iterrows()]
        for name in found[0] if found else ():
            self.add_column(name, [cells[name] for cells in found])

    def get_column(self, name: Any, convert_to: str | None = None) -> Any:
        """Return the cells of a column: a list, or with `convert_to="numpy"` an array.

        Raises:
            BadInputError: There is no such column.
        """
        if name not in self.columns:
            raise BadInputError(f"there is no column {shown(name)}: there are {shown(self.columns)}")
        cells = [row[self.columns.index(name)] for row in self.data]
        return package("numpy").array(cells) if convert_to == "numpy" else cells

    def get_dataframe(self) -> Any:
        """Return it as a DataFrame of pandas."""
        return package("pandas").DataFrame.from_records(self.data, columns=self.columns)

    def iterrows(self) -> Iterator[tuple[int, list[Any]]]:
        """Yield each row with its index."""
        return enumerate(self.data)

    def logged(self, key: str, step: int | None, store: BlobStore) -> list[TableLogged]:
        """Keep the rows and return the events that name them."""
        is_incremental = self.log_mode == "INCREMENTAL"
        start = self.logged_rows if is_incremental else 0
        parts = list(_parts(self.data[start:], store))
        events = [
            TableLogged(
                key=key,
                step=step,
                columns=[str(name) for name in self.columns],
                rows=store.put(json.dumps(rows).encode()),
                num_rows=len(rows),
                files=files.files,
                appends=bool(index or (is_incremental and start)),
            )
            for index, (rows, files) in enumerate(parts)
        ]
        self.logged_rows = len(self.data)
        return events


def table_of(value: Any) -> Table:
    """Return the light twin of the SDK's table."""
    made = Table(list(value.columns), list(value.data), log_mode=value.log_mode)
    if value.log_mode == "INCREMENTAL" and value._last_logged_idx is not None:
        made.logged_rows = value._last_logged_idx + 1
    if value.log_mode == "INCREMENTAL":
        value._last_logged_idx = len(value.data) - 1  # the SDK says so too, where it logs
    return made


def cell(value: Any, files: Shelf) -> JsonValue:
    """Return a cell as it travels; media go among the files.

    Raises:
        BadInputError: It would be taken for a file.
    """
    value = twin(value) if real_name(value) else value
    if isinstance(value, Media):
        return {"file": files.put(value)}
    if isinstance(value, Histogram):
        return {"histogram": {"values": list(value.histogram), "bins": list(value.bins)}}
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if (
        isinstance(value, dict)
        and len(cast("dict[Any, Any]", value)) == 1
        and not {"file", "histogram"}.isdisjoint(cast("dict[Any, Any]", value))
    ):
        raise BadInputError(
            "a cell is a dict of 'file' or 'histogram' alone: what a file is, is told so; add another key"
        )
    return plain("cell", value)


def _parts(rows: Sequence[Sequence[Any]], store: BlobStore) -> Iterator[tuple[list[list[JsonValue]], Shelf]]:
    """Yield the rows as they travel, with their files: as many at once as one event has room for."""
    part, files = list[list[JsonValue]](), Shelf(store)
    for row in rows:
        media = sum(isinstance(value, Media) for value in row)
        if part and len(files.files) + media > MAX_FILES_OF_MEDIA // 2:  # masks are files too
            yield part, files
            part, files = [], Shelf(store)
        part.append([cell(value, files) for value in row])
    yield part, files


def _rows_of(frame: Any) -> Iterator[list[Any]]:
    columns = [frame[name].to_numpy() for name in frame.columns]
    return ([column[index] for column in columns] for index in range(len(frame)))


def _columns(given: Any, frame: Any) -> list[Any]:
    columns: list[Any] = list(given if frame is None else frame.columns)
    if not all(type(name) in (str, int) for name in columns):
        raise BadInputError(f"columns {shown(columns)} are no names: use str")
    return columns
