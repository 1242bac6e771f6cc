"""One log call for every kind of value: what a value is stands beside it, as in NVFLARE's `log`."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from eventbus import Receipt
from eventbus.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from writers._writer import TrackingWriter


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
        IMAGE: Not carried yet, like MODEL, LOG_RECORD and INIT_DATA: refused by name.
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
        value: A number, a text, or a dict of them: see `AnalyticsDataType`.
        data_type: What it is.
        global_step: Where on the user's own axis: an integer from 0. Parameters and tags have none.
        **options: `path` of a text's file. Any other is refused.

    Raises:
        BadInputError: The tag, the value, the step, the type or an option can't be recorded, and bad input raises.
    """
    intake = writer.intake
    path = options.pop("path", None)
    for name, option in options.items():
        intake.unsupported(name, option, "leave it out")
    if data_type is AnalyticsDataType.TEXT:
        return writer.log_text(tag if path is None else path, value, global_step, is_file=path is not None)
    log = _LOG.get(data_type) if isinstance(data_type, AnalyticsDataType) else None  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
    if log is None:
        error = BadInputError(f"data_type={data_type!r} can't be logged: use {', '.join(map(str, _KNOWN))}")
        intake.bad.note(tag, error)
        return writer.publish([], {tag: value})
    return log(writer, tag, value, global_step)


def _one(writer: TrackingWriter, tag: str, value: Any, step: int | None) -> Receipt:
    return writer.log({tag: value}, step)


def _chart(writer: TrackingWriter, tag: str, value: Mapping[str, Any], step: int | None) -> Receipt:
    return writer.log(value, step, main_tag=tag)


def _many(writer: TrackingWriter, _tag: str, value: Mapping[str, Any], step: int | None) -> Receipt:
    return writer.log(value, step)


_LOG: Mapping[AnalyticsDataType, Callable[[TrackingWriter, str, Any, int | None], Receipt]] = {
    AnalyticsDataType.SCALAR: _one,
    AnalyticsDataType.METRIC: _one,
    AnalyticsDataType.SCALARS: _chart,
    AnalyticsDataType.METRICS: _many,
    AnalyticsDataType.PARAMETER: lambda writer, tag, value, _: writer.log_params({tag: value}),
    AnalyticsDataType.PARAMETERS: lambda writer, _, value, __: writer.log_params(value),
    AnalyticsDataType.TAG: lambda writer, tag, value, _: writer.set_tags({tag: value}),
    AnalyticsDataType.TAGS: lambda writer, _, value, __: writer.set_tags(value),
}

_KNOWN = (*_LOG, AnalyticsDataType.TEXT)
