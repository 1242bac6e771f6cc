"""What the light twins of W&B's data types have in common.

A twin holds what was given as it was when it was made; a file is read when it is logged, as W&B reads it.
"""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from eventbus.abc import RefusedError
from eventbus.errors import BadInputError
from eventbus.media import (
    MAX_FILES_OF_MEDIA,
    MediaFile,
    MediaLogged,
)
from writers._arrays import array_of
from writers._keys import shown
from writers._values import MAX_DEPTH, json_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import JsonValue

    from eventbus.blobs import Blob, BlobStore
    from eventbus.tracking import TrackingEvent

_MEDIA_TYPES = {
    "plotly.json": "application/vnd.plotly.v1+json",
    "pts.json": "application/json",
    "wav": "audio/wav",
    "bmp": "image/bmp",
    "obj": "model/obj",
    "stl": "model/stl",
    "gltf": "model/gltf+json",
    "glb": "model/gltf-binary",
}
_JSON = ("plotly.json", "pts.json")


class Loggable(Protocol):
    """What `log` takes beside numbers and texts."""

    def logged(self, key: str, step: int | None, store: BlobStore) -> Sequence[TrackingEvent]:
        """Keep the payload and return the events that name it.

        Raises:
            BadInputError: A file that it was made of can't be read any more.
            RefusedError: The environment does not allow it.
        """
        ...


class Media:
    """Base of the twins that are files.

    Args:
        source: The bytes, or the file that has them.
        extension: What the file's name ends with, without the dot.
        caption: What people read below it.
        details: What else is known of it.

    Attributes:
        kind: What it is.
        event: The event that tells of it.
    """

    kind: ClassVar[str]
    event: type[MediaLogged]

    def __init__(
        self,
        source: bytes | Path,
        extension: str,
        caption: str | None = None,
        details: dict[str, JsonValue] | None = None,
    ) -> None:
        if caption is not None and not isinstance(caption, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
            raise BadInputError(f"caption={shown(caption)} is of type {type(caption).__name__}: use a str")
        self.source = source
        self.extension = extension
        self.caption = caption
        self.details = details or {}

    def kept(self, store: BlobStore, at: int) -> list[MediaFile]:
        """Keep the file, and what goes with it.

        Args:
            store: Where.
            at: Its index among the files of the event.

        Raises:
            BadInputError: The file that it was made of can't be read any more.
            RefusedError: The environment does not allow it.
        """
        del at
        return [self._file(store, self.details)]

    def logged(self, key: str, step: int | None, store: BlobStore) -> list[MediaLogged]:
        """Keep the file and return the event that names it."""
        return Several([self]).logged(key, step, store)

    def _file(self, store: BlobStore, details: dict[str, JsonValue]) -> MediaFile:
        return MediaFile(
            blob=_kept(store, self.source),
            media_type=media_type(self.kind, self.extension),
            caption=self.caption,
            details={"kind": self.kind, "extension": self.extension, **details},
        )


class Several:
    """Media of one kind that are shown together.

    Args:
        media: One or more of them.

    Raises:
        BadInputError: They are of different kinds.
    """

    def __init__(self, media: Sequence[Media]) -> None:
        kinds = sorted({one.kind for one in media})
        if len(kinds) > 1:
            raise BadInputError(
                f"a list holds media of different kinds ({', '.join(kinds)}): log each under its own key"
            )
        self._media = media

    def logged(self, key: str, step: int | None, store: BlobStore) -> list[MediaLogged]:
        """Keep the files and return the event that names them."""
        files = Shelf(store)
        for one in self._media:
            files.put(one)
        if len(files.files) > MAX_FILES_OF_MEDIA:
            raise BadInputError(
                f"{shown(key)} has {len(files.files)} files, at most {MAX_FILES_OF_MEDIA} fit: log fewer"
            )
        return [self._media[0].event(key=key, step=step, files=files.files)]


class Shelf:
    """The files of one event.

    Attributes:
        files: Those that are kept by now, in order.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self.files: list[MediaFile] = []

    def put(self, media: Media) -> int:
        """Keep media's files and return the index of the first, which is the media itself."""
        at = len(self.files)
        self.files += media.kept(self._store, at)
        return at


def comes_from(value: object, package_name: str) -> bool:
    """Tell whether a value's class is one of a package, without importing that."""
    return type(value).__module__.partition(".")[0] == package_name


def as_figure(value: Any) -> Any:
    """Return the figure of whatever matplotlib calls a drawing: a figure, an axis, a line; or pyplot itself."""
    if hasattr(value, "gcf"):
        return value.gcf()
    return value if hasattr(value, "savefig") else getattr(value, "figure", value)


def is_path(value: object) -> bool:
    """Tell whether a value is a path."""
    return isinstance(value, str | os.PathLike)


def checked_path(value: Any) -> Path:
    """Return the path of a file.

    Raises:
        BadInputError: There is no such file, or it is an address.
    """
    name = os.fsdecode(value)
    if "://" in name:
        raise BadInputError(f"{shown(name)} is an address: fetch it, or log it with Artifact.add_reference")
    path = Path(name).absolute()
    if not os.path.isfile(path):  # noqa: PTH113 - a name that is too long is no error to it
        raise BadInputError(f"{shown(name)} is no file: does it exist?")
    return path


def extension_of(path: Path) -> str:
    """Return what a file's name ends with, without the dot, in lower case."""
    name = path.name.lower()
    return next((known for known in _JSON if name.endswith(f".{known}")), path.suffix[1:].lower())


def one_of(what: str, given: str | None, known: Iterable[str]) -> str:
    """Return what was given, if it is known.

    Raises:
        BadInputError: It is not, or nothing was given.
    """
    if given is None or given not in known:
        raise BadInputError(f"{what} is {shown(given)}: use one of {', '.join(known)}")
    return given


def media_type(kind: str, extension: str) -> str:
    """Return the MIME type of a file."""
    if kind == "molecule":
        return f"chemical/x-{extension}"
    known = _MEDIA_TYPES.get(extension) or mimetypes.guess_type(f"x.{extension}")[0]
    return known or "application/octet-stream"


def plain(key: object, value: Any, depth: int = 0) -> JsonValue:
    """Return numbers, texts and arrays, nested in lists and dicts, as JSON has them.

    Raises:
        BadInputError: They are nested too deep.
    """
    if depth > MAX_DEPTH:
        raise BadInputError(f"{shown(key)} is nested deeper than {MAX_DEPTH} levels, or contains itself: flatten it")
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {str(name): plain(key, one, depth + 1) for name, one in items}
    if isinstance(value, list | tuple):
        return [plain(key, one, depth + 1) for one in cast("Sequence[Any]", value)]
    if getattr(value, "shape", ()) != ():
        inside = array_of(key, value).tolist() if comes_from(value, "torch") else value.tolist()
        return plain(key, inside, depth + 1)  # arrays of objects hold whatever they like
    return json_value(key, value, depth)


def _kept(store: BlobStore, source: bytes | Path) -> Blob:
    if isinstance(source, bytes):
        return store.put(source)
    try:
        return store.put_file(source)
    except FileNotFoundError as error:
        raise BadInputError(f"{shown(str(source))} is gone: log it before it is deleted") from error
    except RefusedError:
        raise
    except OSError as error:
        raise RefusedError(f"{source.name} can't be read: {error.strerror or error}") from error
