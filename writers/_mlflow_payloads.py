"""What MLflow's functions log, made into events at the caller: metrics, texts, dicts, figures, tables, files, datasets.

Each function logs to the writer that it is given, so MLflow's module functions and its client's methods share them.
"""

from __future__ import annotations

import io
import json
import mimetypes
import shutil
from importlib import import_module
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from pydantic import ValidationError

from eventbus.abc import RefusedError
from eventbus.artifacts import ArtifactFile, ArtifactLogged, DatasetLogged, ModelLogged
from eventbus.errors import BadInputError, MissingExtraError, TrackbusError
from eventbus.media import FigureLogged, HtmlLogged, MediaFile
from eventbus.tracking import LinkedMetricsLogged, TagsDeleted
from writers._artifacts import artifact_path, files_of, path_of
from writers._keys import check_key, shown
from writers._mlflow_runs import NS_PER_MILLISECOND
from writers._values import MAX_VALUE_BYTES, numbers_in, text

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventbus import Receipt
    from eventbus.blobs import BlobStore
    from eventbus.tracking import TrackingEvent
    from writers._writer import TrackingWriter

T = TypeVar("T")

CONTEXT_TAG = "mlflow.data.context"
"""MLflow's tag of what a dataset was used for."""

MAX_TEXT = MAX_VALUE_BYTES // 4
"""Characters of a text that an event holds itself; a longer one is kept as a file."""

_POINT = ("key", "value", "timestamp", "step", "model_id", "dataset_name", "dataset_digest")
_YAML = (".yml", ".yaml")


class DatasetName(NamedTuple):
    """What names a dataset that is not at hand."""

    name: str | None
    digest: str | None


def publish(
    to: TrackingWriter, name: object, make: Callable[[BlobStore], Sequence[TrackingEvent]], time_ns: int | None = None
) -> Receipt:
    """Publish what `make` returns; input that can't be recorded is refused or counted as the writer says.

    Args:
        to: What logs.
        name: What it is logged under: what bad input is counted by.
        make: Puts the payloads into the store that it is given and returns the events.
        time_ns: When, nanoseconds since the epoch; now by default.

    Raises:
        BadInputError: It can't be recorded, and bad input raises.
    """

    def checked(store: BlobStore) -> Sequence[TrackingEvent]:
        try:
            return make(store)
        except BadInputError as error:
            to.intake.bad.note(name, error)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, fault["loc"]))
            to.intake.bad.note(name, BadInputError(f"{shown(name)}: {where}: {fault['msg']}"))
        except (TrackbusError, RefusedError):
            raise
        except Exception as error:  # border: matplotlib, Pillow, pandas and the caller's own objects run here
            if isinstance(error, OSError) and error.errno is not None:
                raise RefusedError(f"a payload can't be written: {error.strerror}") from error
            to.intake.bad.note(name, BadInputError(f"{shown(name)}: {type(error).__name__}: {error}"))
        return []

    return to.publish_kept(checked, name, time_ns, name=name)


# --- numbers ---------------------------------------------------------------------------------------------------------


def log_metrics(  # noqa: PLR0917 - MLflow's own arguments
    to: TrackingWriter,
    metrics: Mapping[str, float],
    step: object,
    timestamp: object,
    model_id: object = None,
    dataset: object = None,
) -> Receipt:
    """Log numbers, where asked for linked with a model and with the dataset that they were measured on.

    Args:
        to: What logs.
        metrics: Number by key.
        step: Where on the user's axis.
        timestamp: When, milliseconds since the epoch; now by default.
        model_id: Name of a logged model, or a tracker's own id of one.
        dataset: A dataset, which is logged too; or what names one.
    """
    moment = to.intake.moment("timestamp", timestamp, NS_PER_MILLISECOND)
    events = to.intake.metrics(numbers_in(metrics), step)
    if model_id is None and dataset is None:
        return to.publish(events, metrics, moment)

    model = _link(to, "model_id", model_id, check_key)
    used = None if isinstance(dataset, DatasetName) else _link(to, "dataset", dataset, dataset_event)
    name = dataset if isinstance(dataset, DatasetName) else used and DatasetName(used.key, used.digest)
    named = name or DatasetName(None, None)

    def linked(_store: BlobStore) -> list[TrackingEvent]:
        return [
            *([] if used is None else [used]),
            *(
                LinkedMetricsLogged(
                    values=event.values,
                    step=event.step,
                    model=model,
                    dataset_name=named.name,
                    dataset_digest=named.digest,
                )
                for event in events
            ),
        ]

    return publish(to, "metrics", linked, moment)


def _link(to: TrackingWriter, name: str, given: object, check: Callable[[object], T]) -> T | None:
    """Return what numbers are linked with; a bad link that does not raise is none, and the numbers stay."""
    try:
        return None if given is None else check(given)
    except BadInputError as error:
        to.intake.bad.note(name, error)
        return None


def log_batch(to: TrackingWriter, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> Receipt:
    """Log numbers, parameters and tags together: MLflow's entities, or tuples of their fields."""
    points = _all_fields(to, "metric", metrics, _POINT)
    values = [dict(_all_fields(to, kind, given, _POINT[:2])) for kind, given in (("param", params), ("tag", tags))]
    if to.intake.bad.on_bad_input == "raise":  # what is bad raises before anything is logged
        for key, value, _time, step in ((*point, None, None)[:4] for point in points):
            to.intake.metrics(numbers_in({key: value}), step)
        to.intake.params(values[0])
        to.intake.tags(values[1])
    receipts = [_log_point(to, *point) for point in points]
    receipts += [log(one) for log, one in zip((to.log_params, to.set_tags), values, strict=True) if one]
    if not receipts:
        return to.publish([], [*metrics, *params, *tags])
    return next((one for one in receipts if one.refused), receipts[-1])


def _log_point(
    to: TrackingWriter, key: str, value: float, timestamp: object = None, step: object = None, *link: Any
) -> Receipt:
    model, name, digest = (*link, None, None, None)[:3]
    return log_metrics(to, {key: value}, step, timestamp, model, None if name is None else DatasetName(name, digest))


def _all_fields(to: TrackingWriter, kind: str, entities: Iterable[Any], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the fields of entities, key and value first; what is none is bad input."""
    found: list[tuple[Any, ...]] = []
    for one in entities:
        fields = _fields(one, names)
        if len(_POINT[:2]) <= len(fields) <= len(names) and isinstance(fields[0], str):
            found.append(fields)
        else:
            to.intake.bad.note(kind, BadInputError(f"{shown(one)} is no {kind}: pass one of MLflow's, or a tuple"))
    return found


def _fields(entity: Any, names: Sequence[str]) -> tuple[Any, ...]:
    if isinstance(entity, tuple | list):
        return tuple(cast("Sequence[Any]", entity))
    return tuple(getattr(entity, name, None) for name in names)


def delete_tags(to: TrackingWriter, keys: Sequence[str]) -> Receipt:
    """Take labels of the run away."""
    return publish(to, keys[0], lambda _store: [TagsDeleted(keys=[check_key(key) for key in keys])])


# --- files -----------------------------------------------------------------------------------------------------------


def log_text(to: TrackingWriter, body: object, artifact_file: str) -> Receipt:
    """Log a text as a file; a long one goes through the blob store."""
    if not isinstance(body, str) or len(body) <= MAX_TEXT:
        return to.log_text(artifact_file, cast("str", body), is_file=True)

    def make(store: BlobStore) -> list[TrackingEvent]:
        return [file_event(store, artifact_file, _encoded(artifact_file, body))]

    return publish(to, artifact_file, make)


def log_dict(to: TrackingWriter, dictionary: object, artifact_file: str) -> Receipt:
    """Log a dict or a list as YAML or JSON, by the suffix."""
    try:
        body = _serialized(artifact_file, dictionary)
    except MissingExtraError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        to.intake.bad.note(artifact_file, BadInputError(f"{shown(artifact_file)}: {error}"))
        return to.publish([], artifact_file)
    return log_text(to, body, artifact_file)


def _serialized(artifact_file: object, dictionary: object) -> str:
    if PurePosixPath(str(artifact_file)).suffix not in _YAML:
        return json.dumps(dictionary, indent=2, default=str)
    try:
        yaml = import_module("yaml")
    except ImportError:
        name = shown(artifact_file)
        raise MissingExtraError(f"{name} is YAML, which needs PyYAML: pip install pyyaml, or call it .json") from None
    try:
        return yaml.dump(dictionary, indent=2, default_flow_style=False)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _encoded(key: object, body: str) -> bytes:
    try:
        return body.encode()
    except UnicodeEncodeError:
        text(key, body)  # says why, and what to do
        raise


def file_event(store: BlobStore, path: str, data: bytes) -> ArtifactLogged:
    """Keep bytes as one plain file of the run."""
    name = artifact_path(check_key(path))
    return ArtifactLogged(key=name, files=[ArtifactFile(path=name, blob=store.put(data))])


def log_files(to: TrackingWriter, local_path: str | os.PathLike[str], artifact_path: str | None) -> Receipt:
    """Log a file, or a folder under its own name."""

    def make(store: BlobStore) -> list[TrackingEvent]:
        path = path_of(local_path)
        under = artifact_path or ""
        if path.is_dir():
            under = f"{under}/{path.name}" if under else path.name
        return [_files_event(store, path, under)]

    return publish(to, local_path, make)


def log_folder(to: TrackingWriter, local_dir: str | os.PathLike[str], artifact_path: str | None) -> Receipt:
    """Log all files of a folder."""

    def make(store: BlobStore) -> list[TrackingEvent]:
        path = path_of(local_dir)
        if not path.is_dir():
            raise BadInputError(f"{shown(str(path))} is no folder: log a file with log_artifact")
        return [_files_event(store, path, artifact_path or "")]

    return publish(to, local_dir, make)


def _files_event(store: BlobStore, path: Path, under: str) -> ArtifactLogged:
    top = artifact_path(under)
    return ArtifactLogged(key=check_key(top or path.name), files=files_of(store, path, top))


def log_stream(to: TrackingWriter, stream: Any, artifact_file: str) -> Receipt:
    """Log what a binary stream holds as a file; it is read in pieces."""

    def make(store: BlobStore) -> list[TrackingEvent]:
        path = PurePosixPath(artifact_path(check_key(artifact_file)))
        if not hasattr(stream, "read"):
            raise BadInputError(f"{shown(stream)} is no stream: pass a file opened with 'rb', or an io.BytesIO")
        with TemporaryDirectory() as folder:
            copy = Path(folder, path.name)
            with copy.open("wb") as file:
                shutil.copyfileobj(stream, file)
            files = files_of(store, copy, _parent(path), immutable=True)
        return [ArtifactLogged(key=str(path), files=files)]

    return publish(to, artifact_file, make)


def _parent(path: PurePosixPath) -> str:
    return "" if str(path.parent) == "." else str(path.parent)


# --- figures ---------------------------------------------------------------------------------------------------------


def log_figure(
    to: TrackingWriter, figure: Any, artifact_file: str, save_kwargs: Mapping[str, Any] | None = None
) -> Receipt:
    """Draw a figure of matplotlib or Plotly and log the file."""

    def make(store: BlobStore) -> list[TrackingEvent]:
        path = check_key(artifact_file)
        data = _drawn(figure, path, dict(save_kwargs or {}))
        media_type = mimetypes.guess_type(path)[0] or "image/png"
        kind = HtmlLogged if media_type == "text/html" else FigureLogged
        return [kind(key=path, files=[MediaFile(blob=store.put(data), media_type=media_type)], is_file=True)]

    return publish(to, artifact_file, make)


def _drawn(figure: Any, path: str, options: dict[str, Any]) -> bytes:
    suffix = PurePosixPath(path).suffix[1:]
    if hasattr(figure, "savefig"):
        drawn = io.BytesIO()
        figure.savefig(drawn, **{"format": suffix or "png", **options})
        return drawn.getvalue()
    if hasattr(figure, "write_html") and suffix == "html":
        page = io.StringIO()
        figure.write_html(page, **{"include_plotlyjs": "cdn", "auto_open": False, **options})
        return page.getvalue().encode()
    if hasattr(figure, "to_image"):
        return figure.to_image(**{"format": suffix, **options})
    raise BadInputError(f"{shown(path)} is of type {type(figure).__name__}: pass a figure of matplotlib or Plotly")


# --- datasets --------------------------------------------------------------------------------------------------------


def log_inputs(
    to: TrackingWriter,
    datasets: Iterable[tuple[Any, str | None, Mapping[str, object] | None]],
    models: Iterable[Any],
) -> Receipt:
    """Log datasets, each with its context and tags, and models that the run used."""

    def make(_store: BlobStore) -> list[TrackingEvent]:
        used = [ModelLogged(key=check_key(model.model_id), files=[], is_input=True) for model in models]
        return [*(dataset_event(*one) for one in datasets), *used]

    return publish(to, "dataset", make)


def log_dataset_inputs(to: TrackingWriter, datasets: Sequence[Any], models: Sequence[Any]) -> Receipt:
    """Log what MLflow's client calls inputs: datasets with tags, one of which is their context."""
    return log_inputs(to, map(_use, datasets), models)


def _use(given: Any) -> tuple[Any, str | None, Mapping[str, object]]:
    tags = {tag.key: tag.value for tag in given.tags}
    return given.dataset, tags.pop(CONTEXT_TAG, None), tags


def log_outputs(to: TrackingWriter, models: Iterable[Any]) -> Receipt:
    """Log that models which stand in the tracker already are the run's."""

    def make(_store: BlobStore) -> list[TrackingEvent]:
        return [ModelLogged(key=check_key(one.model_id), files=[], step=to.intake.step(one.step)) for one in models]

    return publish(to, "models", make)


def dataset_event(dataset: Any, context: str | None = None, tags: Mapping[str, object] | None = None) -> DatasetLogged:
    """Make the event of a dataset: one of `mlflow.data`, or what MLflow's client has of one.

    Raises:
        BadInputError: It is neither, or a field of it can't be recorded.
    """
    fields = dataset.to_dict() if hasattr(dataset, "to_dict") else dataset
    name, digest = _field(fields, "name"), _field(fields, "digest")
    if not name or not digest:
        raise BadInputError(f"{shown(dataset)} is no dataset: pass one of mlflow.data, with a name and a digest")
    return DatasetLogged(
        key=check_key(name),
        digest=check_key(digest),
        source_type=_field(fields, "source_type"),
        source=_field(fields, "source"),
        data_schema=_field(fields, "schema"),
        profile=_field(fields, "profile"),
        context=context or "",
        tags={key: str(value) for key, value in (tags or {}).items()},
    )


def _field(fields: Any, name: str) -> str:
    value = cast("dict[str, object]", fields).get(name) if isinstance(fields, dict) else getattr(fields, name, None)
    return value if isinstance(value, str) else ""
