"""Pictures and tables as MLflow's functions take them: numpy, Pillow and pandas by how they behave."""

from __future__ import annotations

import io
import json
import math
import mimetypes
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from eventbus.errors import BadInputError
from eventbus.media import ImagesLogged, MediaFile, TableLogged
from writers._arrays import package
from writers._keys import check_key, shown
from writers._mlflow_payloads import publish
from writers._mlflow_runs import NS_PER_MILLISECOND
from writers._pixels import Picture, picture_of

if TYPE_CHECKING:
    from eventbus import Receipt
    from eventbus.blobs import BlobStore
    from eventbus.tracking import TrackingEvent
    from writers._writer import TrackingWriter

TABLE_SUFFIXES = (".json", ".parquet")

MAX_LEVEL = 255
"""Full intensity of a pixel."""

_COLORS = (3, 4)
_CHANNELS = {"1": 1, "L": 1, "LA": 2, "RGB": 3, "RGBA": 4}


# --- pictures --------------------------------------------------------------------------------------------------------


def log_image(  # noqa: PLR0917 - MLflow's own arguments, in its order
    to: TrackingWriter,
    image: Any,
    artifact_file: str | None = None,
    key: str | None = None,
    step: int | None = None,
    timestamp: int | None = None,
) -> Receipt:
    """Log a picture: as a file, or under a key at a step.

    Raises:
        BadInputError: It can't be recorded, and bad input raises.
    """
    is_file = artifact_file is not None
    moment = to.intake.moment("timestamp", timestamp, NS_PER_MILLISECOND)

    def make(store: BlobStore) -> list[TrackingEvent]:
        if is_file == (key is not None) or (is_file and (step, timestamp) != (None, None)):
            raise BadInputError("log_image takes either artifact_file=, or key= with step= and timestamp=")
        name, position = check_key(artifact_file or key), None if step is None else to.intake.step(step)
        file = _picture_file(store, name, image, artifact_file)
        return [ImagesLogged(key=name, files=[file], step=position, is_file=is_file)]

    return publish(to, artifact_file or key, make, moment)


def _picture_file(store: BlobStore, name: str, image: Any, path: str | None = None) -> MediaFile:
    media_type = (mimetypes.guess_type(path)[0] if path else None) or "image/png"
    picture = _pillow(name, image) if media_type != "image/png" else _pillow_or_pixels(name, image)
    if isinstance(picture, Picture):
        data, width, height, channels = picture
    else:
        data, (width, height) = _saved(name, picture, media_type), picture.size
        channels = _CHANNELS.get(picture.mode, 3)
    details = {"width": width, "height": height, "channels": channels}
    return MediaFile(blob=store.put(data), media_type=media_type, details=dict(details))


def _pillow_or_pixels(name: str, image: Any) -> Any:
    """Return a picture of Pillow, or an encoded one where our own encoder, which is faster, can do it."""
    if not hasattr(image, "shape"):
        return _pillow(name, image)
    pixels = _levels(name, image)
    is_colored = pixels.ndim == 3 and pixels.shape[2] in _COLORS  # noqa: PLR2004 - height, width, channels
    return picture_of(name, pixels, "HWC") if is_colored else _pillow(name, pixels)


def _pillow(name: str, image: Any) -> Any:
    """Return a picture of Pillow.

    Raises:
        BadInputError: It is none, nor an array of pixels.
        MissingExtraError: Pillow is not installed.
    """
    if hasattr(image, "to_pil"):
        return image.to_pil()
    if hasattr(image, "save") and hasattr(image, "mode"):
        return image
    if not hasattr(image, "shape"):
        raise BadInputError(f"{shown(name)} is of type {type(image).__name__}: pass an array, or a picture of Pillow")
    pixels = _levels(name, image)
    try:
        return package("PIL.Image").fromarray(pixels)
    except (TypeError, ValueError) as error:
        raise BadInputError(f"{shown(name)} of shape {pixels.shape} is no picture: {error}") from error


def _levels(name: str, image: Any) -> Any:
    """Return an array's pixels as uint8, the way MLflow does: other numbers than integers are taken as 0 to 1.

    Raises:
        BadInputError: They are no pixels.
        MissingExtraError: numpy is not installed.
    """
    numpy = package("numpy")
    pixels = numpy.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if pixels.dtype.kind not in "biuf" or not pixels.size:
        raise BadInputError(f"{shown(name)} is of {pixels.dtype}, shape {pixels.shape}: pass height x width x channels")
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels  # noqa: PLR2004 - as above
    if pixels.dtype == numpy.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind in "iu":
        if low < 0 or high > MAX_LEVEL:
            raise BadInputError(f"{shown(name)} has pixels from {low} to {high}: integers are levels from 0 to 255")
        return pixels.astype(numpy.uint8)
    if pixels.dtype.kind == "f" and (low < 0 or high > 1) and high > low:
        pixels = (pixels - low) / (high - low)
    return (numpy.nan_to_num(pixels) * MAX_LEVEL).astype(numpy.uint8)


def _saved(name: str, picture: Any, media_type: str) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        BadInputError: Pillow can't write such a picture so.
    """
    form = media_type.rpartition("/")[2].upper()
    saved = io.BytesIO()
    try:
        picture.save(saved, format=form)
    except (KeyError, OSError, ValueError) as error:
        raise BadInputError(f"{shown(name)} can't be written as {form}: {error}") from error
    return saved.getvalue()


# --- tables ----------------------------------------------------------------------------------------------------------


def log_table(to: TrackingWriter, data: Any, artifact_file: str) -> Receipt:
    """Log the rows of a table; they follow those that were logged to the same file before.

    Raises:
        BadInputError: It can't be recorded, and bad input raises.
    """

    def make(store: BlobStore) -> list[TrackingEvent]:
        path = check_key(artifact_file)
        if PurePosixPath(path).suffix not in TABLE_SUFFIXES:
            raise BadInputError(f"{shown(path)} is no table's file: its name ends with .json or .parquet")
        columns, rows = _columns_and_rows(path, data)
        files: list[MediaFile] = []
        _put_pictures(store, columns, rows, files)
        body = json.dumps([[_cell(cell) for cell in row] for row in rows], separators=(",", ":")).encode()
        blob = store.put(body)
        table = TableLogged(
            key=path, columns=columns, rows=blob, num_rows=len(rows), files=files, is_file=True, appends=True
        )
        return [table]

    return publish(to, artifact_file, make)


def _columns_and_rows(path: str, data: Any) -> tuple[list[str], list[list[Any]]]:
    if isinstance(data, Mapping):
        given = cast("Mapping[Any, Any]", data)
        return [str(name) for name in given], _rows_of_dict([_plain(column) for column in given.values()])
    if hasattr(data, "columns") and hasattr(data, "to_dict"):
        split = data.to_dict(orient="split")
        return [str(name) for name in split["columns"]], [list(row) for row in split["data"]]
    raise BadInputError(f"{shown(path)} is a {type(data).__name__}: pass a dict of columns or a DataFrame of pandas")


def _plain(column: Any) -> Any:
    return column.tolist() if hasattr(column, "tolist") else column


def _rows_of_dict(columns: list[Any]) -> list[list[Any]]:
    """Return the rows of columns, as pandas reads a dict: columns of unequal lengths are the cells of one row."""
    lengths = {len(column) for column in columns if _is_list(column)}
    if len(lengths) != 1:
        return [columns] if columns else []
    (length,) = lengths
    full = [column if _is_list(column) else [column] * length for column in columns]
    return [list(row) for row in zip(*full, strict=True)]


def _is_list(column: object) -> bool:
    return isinstance(column, Sequence) and not isinstance(column, str | bytes)


def _put_pictures(store: BlobStore, columns: Sequence[str], rows: list[list[Any]], files: list[MediaFile]) -> None:
    """Put a number in the place of each picture, and the picture among the files.

    Raises:
        BadInputError: A column holds pictures and other things.
    """
    for place, name in enumerate(columns):
        found = [_is_picture(row[place]) for row in rows]
        if any(found) and not all(found):
            raise BadInputError(f"column {shown(name)} holds pictures and other things: use a column for each")
        for row in rows if any(found) else ():
            files.append(_picture_file(store, name, row[place]))
            row[place] = {"file": len(files) - 1}


def _is_picture(cell: Any) -> bool:
    return hasattr(cell, "save") and hasattr(cell, "resize") and hasattr(cell, "size")


def _cell(cell: Any) -> Any:
    """Return a cell as JSON has it, the way pandas writes it: NaN is null; infinities, which JSON lacks, are texts."""
    plain = cell.tolist() if hasattr(cell, "tolist") else cell
    if isinstance(plain, float):
        return None if math.isnan(plain) else plain if math.isfinite(plain) else str(plain)
    if plain is None or isinstance(plain, str | int):
        return plain
    if isinstance(plain, Mapping):
        return {str(key): _cell(inner) for key, inner in cast("Mapping[Any, Any]", plain).items()}
    if isinstance(plain, list | tuple):
        return [_cell(inner) for inner in cast("Sequence[Any]", plain)]
    return _other_cell(plain)


def _other_cell(cell: Any) -> str | None:
    if isinstance(cell, date):
        is_time = isinstance(cell, datetime)
        return None if cell != cell else cell.isoformat(timespec="milliseconds") if is_time else cell.isoformat()  # noqa: PLR0124 - pandas' NaT
    return None if type(cell).__name__ in ("NAType", "NaTType") else str(cell)
