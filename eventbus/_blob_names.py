"""Which blobs a record names, found in its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast, get_args

import msgspec
from pydantic import BaseModel, ValidationError

from eventbus._blob_reader import Blob
from eventbus._codec import read_frame
from eventbus._event import registered_event
from eventbus.errors import DecodeError

KNOWN_KINDS = 1000
"""So many types are remembered, of which records may come from elsewhere."""

_decode_fields = msgspec.msgpack.Decoder(dict[str, Any]).decode


@lru_cache(KNOWN_KINDS)
def may_name_blobs(kind: str) -> bool:
    """Tell whether events of a type may name blobs; those of an unknown type may."""
    cls = registered_event(kind)
    return cls is None or _mentions_blob(cls, set())


def blobs_named(body: bytes) -> tuple[str, list[Blob]]:
    """Return a record's type and the blobs that it names; of one that is no event of its type, none."""
    try:
        frame = read_frame(body)
        if not may_name_blobs(frame.type):
            return frame.type, []
        fields, cls = _decode_fields(frame.fields), registered_event(frame.type)
        return frame.type, list(_alike(fields) if cls is None else blobs_in(cls.model_validate(fields)))
    except (DecodeError, msgspec.MsgspecError, ValueError, RecursionError):
        return "", []


def blobs_in(value: object) -> Iterator[Blob]:
    """Yield the blobs in the fields of an event, or of a part of one; what only looks like one in free JSON is none."""
    if isinstance(value, Blob):
        yield value
    elif isinstance(value, BaseModel):
        for one in value.__dict__.values():
            yield from blobs_in(one)
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            yield from blobs_in(one)
    elif isinstance(value, dict):
        for one in cast("dict[str, object]", value).values():
            yield from blobs_in(one)


def _mentions_blob(annotation: Any, seen: set[Any]) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        return issubclass(annotation, Blob) or any(
            _mentions_blob(info.annotation, seen) for info in annotation.model_fields.values()
        )
    return any(_mentions_blob(one, seen) for one in get_args(annotation))


def _alike(value: object) -> Iterator[Blob]:
    """Yield what looks like a blob in an event whose class is not known here."""
    if isinstance(value, list):
        for one in cast("list[object]", value):
            yield from _alike(one)
    elif isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        if fields.keys() == Blob.model_fields.keys():
            with suppress(ValidationError):
                yield Blob.model_validate(fields)
        for one in fields.values():
            yield from _alike(one)
