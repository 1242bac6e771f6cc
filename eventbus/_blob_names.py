"""Which blobs a record names, found in its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast, get_args

import msgspec
from pydantic import BaseModel

from eventbus import _blob_files as files
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
    """Return a record's type and the blobs that it names."""
    try:
        frame = read_frame(body)
        blobs = _blobs_in(_decode_fields(frame.fields)) if may_name_blobs(frame.type) else ()
        return frame.type, list(blobs)
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", []


def _mentions_blob(annotation: Any, seen: set[Any]) -> bool:
    if annotation is Blob:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        return any(_mentions_blob(info.annotation, seen) for info in annotation.model_fields.values())
    return any(_mentions_blob(one, seen) for one in get_args(annotation))


def _blobs_in(value: object) -> Iterator[Blob]:
    if isinstance(value, list):
        for one in cast("list[object]", value):
            yield from _blobs_in(one)
    elif isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        name, size = fields.get("name"), fields.get("size")
        if len(fields) == 2 and isinstance(name, str) and isinstance(size, int) and files.NAME.fullmatch(name):  # noqa: PLR2004 - and no third
            yield Blob(name=name, size=size)
        else:
            for one in fields.values():
                yield from _blobs_in(one)
