"""Values as JSON that every reader knows: NaN and infinities as strings, bytes as base64, date-times as ISO 8601."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from eventbus import Part


def as_json(value: Any) -> str:
    """Return a value as one line of JSON."""
    try:
        return json.dumps(value, default=_plain, allow_nan=False)
    except ValueError:  # a number that JSON doesn't know: rare, so only then every value is looked at
        return json.dumps(_spelled(value), default=_plain, allow_nan=False)


def _plain(value: object) -> Any:
    """Return the fields of a part and the text of a date or of bytes."""
    if isinstance(value, Part):
        return _spelled(value.__dict__)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no form in JSON")  # no event can hold one


def _spelled(value: Any) -> Any:
    """Return the value with its NaNs and infinities as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _spelled(inner) for key, inner in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_spelled(inner) for inner in cast("list[Any]", value)]
    return value
