"""Which payloads an event names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import cast

from pydantic import BaseModel

from eventbus.artifacts import ArtifactFile
from eventbus.blobs import Blob
from eventbus.media import MediaFile
from receivers._kept import suffix_of
from receivers._names import ending


def payloads(value: object) -> Iterator[tuple[Blob, str]]:
    """Find the blobs that an event names, one of a user's own too.

    Yields:
        Each blob, and what the name of a file of it ends with, empty where that is not known.
    """
    match value:
        case Blob():
            yield value, ""
        case MediaFile():
            yield value.blob, suffix_of(value)
        case ArtifactFile(blob=Blob() as blob):
            yield blob, ending(PurePosixPath(value.path).suffix)
        case _:
            for one in _parts(value):
                yield from payloads(one)


def _parts(value: object) -> Iterable[object]:
    """Return what may hold blobs: a run of numbers is passed over quickly."""
    inner: Iterable[object] = ()
    if isinstance(value, BaseModel):
        inner = value.__dict__.values()
    elif isinstance(value, dict):
        inner = cast("dict[str, object]", value).values()
    elif isinstance(value, list):
        inner = cast("list[object]", value)
    return cast("list[object]", [one for one in inner if isinstance(one, BaseModel | list | dict)])
