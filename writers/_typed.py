"""One log call for every kind of value: what a value is stands beside it, as in NVFLARE's `log`."""

from __future__ import annotations

import logging
import os
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from eventbus import Receipt
from eventbus.artifacts import ModelLogged
from eventbus.errors import BadInputError
from eventbus.media import ImagesLogged
from writers._arrays import array_of
from writers._artifacts import files_of
from writers._keys import check_key, shown
from writers._pixels import picture_of
from writers._summary import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventbus.blobs import BlobStore
    from eventbus.tracking import TrackingEvent
    from writers._writer import TrackingWriter

CHANNELS = (1, 3, 4)
"""How long the axis of a picture's colours may be: it is known by that where nothing is said of the order."""

_RECORDS = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")


class AnalyticsDataType(Enum):
    """What a logged value is; the names are NVFLARE's.

    Attributes:
        SCALAR: A number, under the call's tag; METRIC is the same.
        SCALARS: Numbers by name that are drawn in one chart, whose tag is the call's.
        METRICS: Numbers by their own keys; the call's tag plays no part.
        PARAMETER: A parameter of the run, under the call's tag.
        PARAMETERS: Parameters by their own keys.
        TAG: A label of the run, under the call's tag.
        TAGS: Labels by their own keys.
        TEXT: A text, under the call's tag, or as the file that `path=` names.
        IMAGE: A picture, under the call's tag, or as the file that `path=` names: an array, a tensor, a picture of
            Pillow or a file's path. `dataformats=` says the order of an array's axes; by default HW, and HWC or CHW
            by which axis can be that of the colours.
        LOG_RECORD: A line of a log, under the call's tag, or in the file that `path=` names: a text, or a record of
            Python's `logging`.
        MODEL: A model that the caller has saved: the path of its file or folder. The call's tag is its name.
        INIT_DATA: What the run was set up with: a dict, nested as it is; it becomes the run's configuration.
    """

    SCALARS = "SCALARS"
    SCALAR = "SCALAR"
    IMAGE = "IMAGE"
    TEXT = "TEXT"
    LOG_RECORD = "LOG_RECORD"
    PARAMETER = "PARAMETER"
    PARAMETERS = "PARAMETERS"
    METRIC = "METRIC"
    METRICS = "METRICS"
    MODEL = "MODEL"
    TAG = "TAG"
    TAGS = "TAGS"
    INIT_DATA = "INIT_DATA"


_TAKES: Mapping[AnalyticsDataType, tuple[str, ...]] = {
    AnalyticsDataType.TEXT: ("path",),
    AnalyticsDataType.LOG_RECORD: ("path",),
    AnalyticsDataType.IMAGE: ("path", "dataformats"),
}


def log_typed(
    writer: TrackingWriter,
    tag: str,
    value: Any,
    data_type: AnalyticsDataType,
    global_step: int | None = None,
    **options: Any,
) -> Receipt:
    """Log a value as what its data type says that it is.

    Args:
        writer: Where it is logged.
        tag: Its name.
        value: A number, a text, a picture, a path, or a dict: see `AnalyticsDataType`.
        data_type: What it is.
        global_step: Where on the user's own axis: an integer from 0. Parameters, tags and models have none.
        **options: `path` of a text's or picture's file, `dataformats` of a picture. Any other is refused.

    Raises:
        BadInputError: The tag, the value, the step, the type or an option can't be recorded, and bad input raises.
        MissingExtraError: A picture needs numpy, or Pillow, and it is not installed.
    """
    log = _LOG.get(data_type) if isinstance(data_type, AnalyticsDataType) else None  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
    if log is None:
        error = BadInputError(f"data_type={data_type!r} can't be logged: use {', '.join(map(str, AnalyticsDataType))}")
        writer.intake.bad.note(tag, error)
        return writer.publish([], {tag: value})
    known = _TAKES.get(data_type, ())
    for name, option in options.items():
        if name not in known:
            writer.intake.unsupported(name, option, "leave it out")
    given = {name: options[name] for name in known if options.get(name) is not None}
    return log(writer, _Call(tag, value, global_step, given))


class _Call(NamedTuple):
    """What a call was given."""

    tag: str
    value: Any
    step: int | None
    options: Mapping[str, Any]

    @property
    def is_file(self) -> bool:
        return "path" in self.options

    @property
    def key(self) -> str:
        return self.options.get("path", self.tag)


def _text(writer: TrackingWriter, call: _Call) -> Receipt:
    return writer.log_text(call.key, call.value, call.step, is_file=call.is_file)


def _line(writer: TrackingWriter, call: _Call) -> Receipt:
    is_record = isinstance(call.value, logging.LogRecord)
    return _text(writer, call._replace(value=_RECORDS.format(call.value)) if is_record else call)


def _image(writer: TrackingWriter, call: _Call) -> Receipt:
    def make(store: BlobStore) -> TrackingEvent:
        at = Place(check_key(writer.intake.prefix + call.key), writer.intake.step(call.step), store)
        picture = picture_of(call.tag, call.value, call.options.get("dataformats") or _axes(call))
        return ImagesLogged(key=at.key, step=at.step, files=[at.picture(picture)], is_file=call.is_file)

    return _kept(writer, call, make)


def _axes(call: _Call) -> str:
    """Return the order of an array's axes, as far as its shape tells."""
    if isinstance(call.value, str | os.PathLike) or hasattr(call.value, "getbands"):
        return "HWC"  # a file, or a picture of Pillow
    shape: tuple[int, ...] = array_of(call.tag, call.value).shape
    if len(shape) == len("HW"):
        return "HW"
    return "CHW" if len(shape) == len("CHW") and shape[0] in CHANNELS and shape[-1] not in CHANNELS else "HWC"


def _model(writer: TrackingWriter, call: _Call) -> Receipt:
    def make(store: BlobStore) -> TrackingEvent:
        value: object = call.value
        if not isinstance(value, str | os.PathLike):
            kind = type(value).__name__
            raise BadInputError(f"{shown(call.tag)} is a {kind}: log the path of the file or folder it was saved to")
        files = files_of(store, cast("str | os.PathLike[str]", value))
        return ModelLogged(key=check_key(call.tag), files=files, kind="model")

    return _kept(writer, call, make)


def _kept(writer: TrackingWriter, call: _Call, make: Callable[[BlobStore], TrackingEvent]) -> Receipt:
    """Publish the event that `make` makes; what can't be recorded raises, or is left out and counted."""
    try:
        return writer.publish_kept(lambda store: [make(store)], call.tag)
    except BadInputError as error:
        writer.intake.bad.note(call.tag, error)
        return writer.publish([], call.tag)


_LOG: Mapping[AnalyticsDataType, Callable[[TrackingWriter, _Call], Receipt]] = {
    AnalyticsDataType.SCALAR: lambda writer, call: writer.log({call.tag: call.value}, call.step),
    AnalyticsDataType.METRIC: lambda writer, call: writer.log({call.tag: call.value}, call.step),
    AnalyticsDataType.SCALARS: lambda writer, call: writer.log(call.value, call.step, main_tag=call.tag),
    AnalyticsDataType.METRICS: lambda writer, call: writer.log(call.value, call.step),
    AnalyticsDataType.PARAMETER: lambda writer, call: writer.log_params({call.tag: call.value}),
    AnalyticsDataType.PARAMETERS: lambda writer, call: writer.log_params(call.value),
    AnalyticsDataType.TAG: lambda writer, call: writer.set_tags({call.tag: call.value}),
    AnalyticsDataType.TAGS: lambda writer, call: writer.set_tags(call.value),
    AnalyticsDataType.TEXT: _text,
    AnalyticsDataType.LOG_RECORD: _line,
    AnalyticsDataType.IMAGE: _image,
    AnalyticsDataType.MODEL: _model,
    AnalyticsDataType.INIT_DATA: lambda writer, call: writer.update_config(call.value),
}
