"""What is stored in a run of MLflow one by one: files, pictures, tables, models, datasets, and numbers about models."""

from __future__ import annotations

import io
import json
import logging
import math
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from eventbus.artifacts import DatasetLogged, ModelLogged
from eventbus.errors import BlobError
from eventbus.media import (
    EmbeddingLogged,
    GraphLogged,
    ImagesLogged,
    MediaFile,
    MeshLogged,
    TableLogged,
    TensorLogged,
)
from eventbus.tracking import ChartsArranged, LinkedMetricsLogged, TextLogged
from receivers._json import as_json
from receivers._kept import identity, kept_files, suffix_of
from receivers._mlflow_draft import dataset_id, in_ms, mlflow_path
from receivers._mlflow_files import RunFiles
from receivers._mlflow_models import Models
from receivers._mlflow_tables import Table, Tables, stem
from receivers._mlflow_uri import is_refusal
from receivers._names import escape, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from eventbus import Envelope, Event
    from eventbus.blobs import BlobReader
    from receivers._mlflow_draft import Point, Upload

IMAGES_TAG = "mlflow.loggedImages"
"""Tells MLflow's page that a run has pictures over steps."""

CONTEXT_TAG = "mlflow.data.context"
"""Tag of what a dataset was used for."""

ROLE_TAG = "trackbus.role"
"""Tag of a dataset that the run wrote: MLflow knows those it read alone."""

PICTURES = UUID("5e1b1f0a-6f0c-5d3e-9b1e-7a0f6a3f4c11")
"""Names pictures: the same record gives the same name, so that one that comes again replaces itself."""

_KEPT = (TensorLogged, MeshLogged, EmbeddingLogged, GraphLogged, ChartsArranged)
"""What MLflow has no form for."""

MAX_WAITING = 10_000
"""Numbers that are kept in memory until their model comes: those that name it, and those of its step."""

MAX_PIXELS = 16_000_000
"""Of a larger picture there is no small twin: to make it takes 4 bytes and more of the worker's memory per pixel."""

DATASET_LENGTHS = (65_535, 1_048_575, 16_777_215)
"""Characters that MLflow takes of a dataset's source, schema and profile; a longer one, cut, would be no JSON."""

MAX_USE_KEY, MAX_USE_TAG = 255, 500
"""The same of a label of its use."""

_logger = logging.getLogger("trackbus.worker")

_PLAIN_DETAILS = {"width", "height", "channels"}


class Uploads:
    """Stores one thing after the other in one run.

    Args:
        client: MLflow's client.
        run: The run, as MLflow has it.
        files: Its files.
        blobs: Finds the payloads.
    """

    def __init__(self, client: Any, run: Any, files: RunFiles, blobs: BlobReader) -> None:
        self._client = client
        self._run_id = run.info.run_id
        self._files = files
        self._blobs = blobs
        self._tags = dict(run.data.tags)
        self._tables = Tables(files, run.data.tags, self._set_tag)
        self._models = Models(client, run, files, blobs)
        self._recent: deque[Point] = deque(maxlen=MAX_WAITING)
        self._waiting: dict[str, list[Point]] = {}
        self._storers: dict[type[Event], Callable[[Any, Upload], None]] = {
            TextLogged: lambda event, upload: self._put_text(upload.path, event.text),
            ImagesLogged: self._put_images,
            TableLogged: self._put_table,
            ModelLogged: self._models.store,
            DatasetLogged: lambda event, _: self._log_dataset(event),
        }

    def store(self, uploads: Sequence[Upload]) -> list[Point]:
        """Store what is no number, in order.

        Returns:
            The numbers among it, linked with their models.
        """
        points: list[Point] = []
        for upload in uploads:
            event = upload.row.envelope.event
            if isinstance(event, LinkedMetricsLogged):
                points += self._linked(event.model or "", upload.points)
                continue
            self._store(event, upload)
            if isinstance(event, ModelLogged):
                points += self._models.link_steps([one for one in self._recent if one.step == (event.step or 0)])
                if event.key in self._waiting:
                    points += self._linked(event.key, self._waiting.pop(event.key))
        return points

    def _store(self, event: Event, upload: Upload) -> None:
        """Store one thing; what it holds itself must neither stop what follows nor end the worker."""
        put = next((self._storers[cls] for cls in type(event).__mro__ if cls in self._storers), self._keep)
        try:
            put(event, upload)
        except BlobError:
            self._files.counts[f"payload missing: {event.event_name}"] += 1
        except Exception as error:  # border: MLflow, Pillow and pandas judge what the event holds
            if not is_refusal(error, self._client.tracking_uri) or not self._takes_more():
                raise
            self._files.counts[f"refused by MLflow: {event.event_name}"] += 1
            path = f"refused/{event.event_name}/{identity(upload.row.envelope)}.json"
            self._files.put(path, as_json(event.__dict__).encode())
            _logger.warning("MLflow refuses a %s: %s: %s", event.event_name, type(error).__name__, error)

    def _takes_more(self) -> bool:
        """Tell whether the run is there and takes what it is given: MLflow refuses all of a deleted one."""
        return self._client.get_run(self._run_id).info.lifecycle_stage == "active"

    def link(self, points: Sequence[Point]) -> list[Point]:
        """Link numbers with the models of their steps, and remember them for those that follow."""
        self._recent.extend(points)
        return self._models.link_steps(points)

    def forget(self) -> None:
        """Count the numbers whose model has not come: they are stored without it."""
        if self._waiting:
            self._files.counts["unknown model"] += sum(map(len, self._waiting.values()))
            self._waiting.clear()

    def _linked(self, name: str, points: Sequence[Point]) -> list[Point]:
        """Link numbers with a model; those that come before it are stored at once, and linked when it comes."""
        model_id = self._models.find(name)
        if model_id is None:
            waiting = self._waiting.setdefault(name, [])
            if len(waiting) + len(points) > MAX_WAITING:
                self._files.counts["unknown model"] += len(points)
            else:
                waiting += points
            return list(points)
        self._models.link_input(model_id)
        return [point._replace(model_id=model_id) for point in points]

    def _put_text(self, path: str, text: str) -> None:
        self._files.put(path, text.encode(), "text/taken")

    def _keep(self, event: Event, upload: Upload) -> None:
        kept = kept_files(upload.row.envelope, self._blobs, self._files.counts)
        for path, source in kept:
            self._files.put(path, source)
        if kept and isinstance(event, _KEPT):
            self._files.counts[f"kept as a file: {event.event_name}"] += 1

    # --- pictures -------------------------------------------------------------------------------------------

    def _put_images(self, event: ImagesLogged, upload: Upload) -> None:
        envelope = upload.row.envelope
        if event.is_file and len(event.files) == 1:
            self._files.put(mlflow_path(event.key), self._blobs.path(event.files[0].blob))
        elif event.is_file:
            self._keep(event, upload)
            return
        else:
            self._put_steps(event, envelope)
        about = [{"caption": file.caption, **file.details} for file in event.files]
        if any(file.caption or file.details.keys() - _PLAIN_DETAILS for file in event.files):
            path = f"media/images/{mlflow_path(event.key)}/{identity(envelope)}.about.json"
            self._files.put(path, as_json({"files": about}).encode())

    def _put_steps(self, event: ImagesLogged, envelope: Envelope[Event]) -> None:
        """Store pictures as `log_image` does those of a key and a step."""
        key = escape(mlflow_path(event.key), r":").replace("/", "~")
        for index, file in enumerate(event.files):
            name = f"images/{key}+step+{event.step or 0}+timestamp+{in_ms(envelope.time_ns)}+{_uuid(envelope, index)}"
            self._put_picture(name, f"{name}+compressed", file)
        if IMAGES_TAG not in self._tags:
            self._set_tag(IMAGES_TAG, "True")

    def _put_picture(self, name: str, small_name: str, file: MediaFile) -> str:
        """Store a picture, and beside it a small one, which is what the page shows first; return where it is."""
        path = self._blobs.path(file.blob)
        try:
            whole, small = _both_sizes(path, is_png=file.media_type == "image/png")
        except Exception:  # noqa: BLE001 - border: Pillow is missing, or judges the picture: counted, and kept as it is
            self._files.counts["no small picture"] += 1
            return self._files.put(f"{name}{suffix_of(file)}", path)
        stored = self._files.put(f"{name}.png", whole)
        self._files.put(f"{small_name}.webp", small)
        return stored

    # --- tables ---------------------------------------------------------------------------------------------

    def _put_table(self, event: TableLogged, upload: Upload) -> None:
        envelope = upload.row.envelope
        path = mlflow_path(event.key) if event.is_file else f"tables/{mlflow_path(event.key)}/{identity(envelope)}.json"
        rows = json.loads(self._blobs.read(event.rows))
        cells = [self._cell_file(stem(path), envelope, index, file) for index, file in enumerate(event.files)]
        table = Table(event.columns, [[_with_file(cell, cells) for cell in row] for row in rows])
        if event.appends:
            self._tables.append((envelope.origin.partition, envelope.seq), path, table)
        else:
            self._tables.replace(path, table)

    def _cell_file(self, top: str, envelope: Envelope[Event], index: int, file: MediaFile) -> dict[str, str]:
        """Store the file of a cell, and return what stands in the cell, as `log_table` has it."""
        name = f"table_images/{top}/{_uuid(envelope, index)}"
        if file.media_type.startswith("image/"):
            path = self._put_picture(name, name, file)
            return {"type": "image", "filepath": path, "compressed_filepath": f"{name}.webp"}
        self._files.put(name, self._blobs.path(file.blob))
        return {"type": file.media_type, "filepath": name}

    # --- datasets -------------------------------------------------------------------------------------------

    def _log_dataset(self, event: DatasetLogged) -> None:
        entities = import_module("mlflow.entities")
        given = (event.source, event.data_schema, event.profile)
        source, schema, profile = (
            text if len(text) <= most else "" for text, most in zip(given, DATASET_LENGTHS, strict=True)
        )
        name, digest = dataset_id(event.key, event.digest)
        tags = {**event.tags, **({CONTEXT_TAG: event.context} if event.context else {})}
        tags |= {ROLE_TAG: event.role} if event.role != "input" else {}
        cut = {shorten(key, MAX_USE_KEY): value[:MAX_USE_TAG] for key, value in tags.items()}
        if (name, digest, source, schema, profile, cut) != (event.key, event.digest, *given, tags):
            self._files.counts["cut dataset"] += 1
        kind = event.source_type or "local"
        dataset = entities.Dataset(name, digest, kind, source or "{}", schema or None, profile or None)
        marks = [entities.InputTag(key, value) for key, value in cut.items()]
        self._client.log_inputs(self._run_id, [entities.DatasetInput(dataset, marks)])

    def _set_tag(self, name: str, value: str) -> None:
        self._client.set_tag(self._run_id, name, value)
        self._tags[name] = value


def _uuid(envelope: Envelope[Event], index: int) -> UUID:
    return uuid5(PICTURES, f"{envelope.origin.incarnation}-{envelope.seq}-{index}")


def _both_sizes(path: Path, *, is_png: bool) -> tuple[Path | bytes, bytes]:
    """Return a picture as PNG, and a small one as WebP.

    Raises:
        ImportError: Pillow is not installed.
        Exception: Pillow, which has many, can't read it or not write it so; ValueError where it is too large.
    """
    with import_module("PIL.Image").open(path) as picture:
        if math.prod(picture.size) > MAX_PIXELS:
            raise ValueError("decoded it would take too much memory")
        small = import_module("mlflow.tracking.multimedia").compress_image_size(picture)
        return path if is_png else _encoded(picture, "PNG"), _encoded(small, "WEBP")


def _encoded(picture: Any, form: str) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, format=form)
    return encoded.getvalue()


def _with_file(cell: Any, files: Sequence[Mapping[str, str]]) -> Any:
    """Put what names a file into a cell that is one."""
    match cell:
        case {"file": int(index)} if len(cell) == 1 and 0 <= index < len(files):
            return files[index]
        case _:
            return cell
