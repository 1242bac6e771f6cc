"""What `log` of a W&B look-alike is given, parted by what becomes of it: numbers, texts, and everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from eventbus import Scope
from eventbus._codec import encode
from eventbus.abc import RefusedError
from eventbus.errors import BadInputError, MissingExtraError
from writers._arrays import array_of
from writers._keys import shown
from writers._values import MAX_DEPTH, inner_key, json_value, squeezed
from writers._wandb_image import Image
from writers._wandb_kinds import Histogram, Plotly, Values
from writers._wandb_media import Media, Several, comes_from
from writers._wandb_real import real_name, twin
from writers._wandb_table import Table, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from eventbus import Receipt
    from eventbus.blobs import BlobStore
    from eventbus.tracking import TrackingEvent
    from writers._intake import Intake
    from writers._wandb_media import Loggable
    from writers._writer import TrackingWriter

BINS_OF_ARRAY = 32
"""In so many bins W&B counts an array that is logged as it is; one of no more values it keeps as a list."""

_NUMBERS = frozenset({float, int})
_AS_THEY_ARE = frozenset({float, int, str, dict, list, type(None)})
_NOTHING: dict[Any, Any] = {}


Parted = tuple[Any, dict[Any, str], "dict[str, Loggable]"]
"""One call's data, flat: numbers by key, and whatever the intake is to refuse; texts by key; pictures, tables and the
like by their full key."""


def parted(data: Any, intake: Intake) -> Parted:
    """Part one call's data.

    Raises:
        BadInputError: They are nested too deep, or hold what can't be carried, and bad input raises.
    """
    if type(data) is not dict and not isinstance(data, Mapping):
        return data, _NOTHING, _NOTHING
    given = cast("Mapping[Any, Any]", data)
    if _NUMBERS.issuperset(map(type, given.values())):  # the usual case, and four times as fast
        return given, _NOTHING, _NOTHING
    try:
        flat = _once(_flat(given), intake)
    except BadInputError as error:
        intake.bad.note("data", error)
        return {}, _NOTHING, _NOTHING
    numbers, texts, others = _sorted(flat, intake)
    return _without_json(numbers, texts, intake), texts, others


def more_than_json(values: Any, intake: Intake) -> tuple[Any, dict[str, Loggable]]:
    """Part values into what JSON has, and pictures, tables and the like.

    Raises:
        BadInputError: One can't be carried, and bad input raises.
    """
    if not isinstance(values, Mapping):
        return values, {}
    given = cast("Mapping[Any, Any]", values)
    lists: dict[Any, Any] = {
        key: value for key, value in given.items() if isinstance(value, list | tuple) and _are_numbers(value)
    }
    numbers, texts, others = _sorted({key: value for key, value in given.items() if key not in lists}, intake)
    return {**numbers, **texts, **lists}, others


def kept(others: dict[str, Loggable], step: int | None, store: BlobStore, intake: Intake) -> list[TrackingEvent]:
    """Keep the payloads and return the events that name them.

    Raises:
        BadInputError: A file can't be read any more, and bad input raises.
        RefusedError: The environment does not allow it.
    """
    return [
        event
        for key, value in others.items()
        for event in recorded(key, lambda value=value, key=key: value.logged(key, step, store), intake)
    ]


def publish_with(
    to: TrackingWriter, others: dict[str, Loggable], step: int | None, events: list[TrackingEvent]
) -> Receipt:
    """Publish one call's events, and those whose payloads are to be kept.

    Raises:
        BadInputError: A payload can't be recorded, and bad input raises.
    """

    def make(store: BlobStore) -> list[TrackingEvent]:
        try:
            return [*events, *kept(others, step, store, to.intake)]
        except RefusedError:  # no room for a picture: the rest is recorded all the same
            to.publish(events, others)
            raise

    return to.publish_kept(make, others)


def recorded(key: str, make: Callable[[], Sequence[TrackingEvent]], intake: Intake) -> Sequence[TrackingEvent]:
    """Return the events that `make` makes, if they can be recorded; that is found out before any of them is published.

    Raises:
        BadInputError: They can't, and bad input raises.
        RefusedError: The environment does not allow it.
    """
    try:
        events = make()
        for event in events:
            encode(event, event.event_topic, Scope.LOCAL, "", 0)
    except ValidationError as error:
        intake.bad.note(key, BadInputError(f"{shown(key)} can't be recorded: {error.errors()[0]['msg']}"))
        return ()
    except RecursionError:
        intake.bad.note(key, BadInputError(f"{shown(key)} contains itself, or is nested too deep: flatten it"))
        return ()
    except BadInputError as error:
        intake.bad.note(key, error)
        return ()
    return events


def loggable(value: Any) -> Loggable | None:
    """Return what is more than a number or a text, in the form in which it is logged; None for what is not.

    Raises:
        BadInputError: It can't be carried.
    """
    if isinstance(value, int | float | str) or value is None:
        return None
    if isinstance(value, Media | Histogram | Table):
        return value
    if isinstance(value, list | tuple):
        return _several(cast("Sequence[Any]", value))
    if name := real_name(value):
        return table_of(value) if name == "Table" else twin(value)
    return _foreign(value)


def _sorted(flat: dict[Any, Any], intake: Intake) -> Parted:
    numbers, texts, others = dict[Any, Any](), dict[Any, str](), dict[str, "Loggable"]()
    for key, given in flat.items():
        try:
            value = given if type(given) in _AS_THEY_ARE else _plain(given)
            other = loggable(value)
        except MissingExtraError:
            raise
        except Exception as error:  # noqa: BLE001 - border: drawing a figure, or taking apart an object, is others' code
            fault = str(error) if isinstance(error, BadInputError) else f"{type(error).__name__}: {error}"
            intake.bad.note(key, BadInputError(f"{key!r}: {fault}"))
            continue
        if other is not None:
            name = intake.key(key)
            others.update({} if name is None else {name: other})
        elif isinstance(value, str):
            texts[key] = value
        else:
            numbers[key] = squeezed(value)
    return numbers, texts, others


def _without_json(numbers: dict[Any, Any], texts: dict[Any, str], intake: Intake) -> dict[Any, Any]:
    """Take out what W&B keeps as JSON: lists that are not all numbers become texts; None is left out, and counted.

    None never raises: a script that logs it runs with W&B, where it is a cell that says nothing.
    """
    left = dict[Any, Any]()
    for key, value in numbers.items():
        if value is None:
            intake.bad.count(key, BadInputError(f"{shown(key)} is None: leave it out, or log float('nan')"))
        elif isinstance(value, list | tuple | set | frozenset):
            try:
                texts[key] = json.dumps(json_value(key, cast("Any", value)), ensure_ascii=False)
            except BadInputError as error:
                intake.bad.note(key, error)
        else:
            left[key] = value
    return left


def _several(values: Sequence[Any]) -> Loggable | None:
    if _are_numbers(values):
        return Values(values)
    found = [loggable(one) for one in values]
    if not any(found):
        return None  # a list of texts, say
    media = [one for one in found if isinstance(one, Media)]
    if len(media) < len(found):
        raise BadInputError("a list holds other things than media of one kind: log each under its own key")
    return Several(media)


def _foreign(value: Any) -> Loggable | None:
    """Return drawings, data frames and arrays of several values as W&B takes them."""
    if comes_from(value, "matplotlib") or hasattr(value, "gcf"):
        return Image(value)
    if comes_from(value, "plotly"):
        return Plotly(value)
    if hasattr(value, "iloc") and hasattr(value, "columns"):
        return Table(dataframe=value)
    size = array_of("value", value).size if getattr(value, "shape", ()) != () else 1
    if size <= 1:
        return None
    return Values(value) if size <= BINS_OF_ARRAY else Histogram(value, num_bins=BINS_OF_ARRAY)


def _are_numbers(value: Any, depth: int = 0) -> bool:
    """Tell whether a value is a number, or a list of numbers, nested or not."""
    if isinstance(value, list | tuple):
        several = cast("Sequence[Any]", value) if depth <= MAX_DEPTH else ()  # it may contain itself
        return bool(several) and all(_are_numbers(one, depth + 1) for one in several)
    return isinstance(value, int | float) or (getattr(value, "shape", None) == () and not isinstance(value, str))


def _plain(value: Any) -> Any:
    """Return what W&B makes of values that JSON has no word for; any other as it is.

    Raises:
        UnicodeDecodeError: Bytes are no text.
    """
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, Enum) and not isinstance(value, int | float | str):
        return value.name
    is_text = getattr(getattr(value, "dtype", None), "kind", "") == "U"
    shape: Any = getattr(value, "shape", ())
    as_list: Any = getattr(value, "tolist", None)
    return as_list() if as_list and shape != () and (0 in shape or is_text) else value


def _once(items: Iterator[tuple[Any, Any]], intake: Intake) -> dict[Any, Any]:
    """Put flat keys together; of one that stands there twice, nested and dotted, the later value stays, counted."""
    flat = dict[Any, Any]()
    for key, value in items:
        if key in flat:
            intake.bad.count(key, BadInputError(f"{shown(key)} stands twice in one call: the later value is logged"))
        flat[key] = value
    return flat


def _flat(data: Mapping[Any, Any], above: str = "", depth: int = 0) -> Iterator[tuple[Any, Any]]:
    if depth > MAX_DEPTH:
        msg = f"data is nested deeper than {MAX_DEPTH} levels, or contains itself: flatten it"
        raise BadInputError(msg)
    for key, value in data.items():
        inner = inner_key(key) if above else key
        name = f"{above}{inner}" if isinstance(inner, str) else key  # what is no name is refused where it is logged
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[Any, Any]", value), f"{name}.", depth + 1)
        else:
            yield name, value
