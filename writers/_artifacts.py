"""Files and folders, made into the files of an artifact: what is walked, what is refused, and where each file lies.

A symlink counts as what it points to, as long as that is inside the folder that was named. What the caller can mend is
`BadInputError`: a path that is not there, a link that leads out, a folder that holds a socket. What happens to the
files meanwhile is the environment's doing and `RefusedError`.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import JsonValue, ValidationError

from eventbus.abc import RefusedError
from eventbus.artifacts import MAX_FILES, ArtifactFile, ArtifactLogged
from eventbus.errors import BadInputError
from writers._keys import check_key, shown
from writers._values import json_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventbus.blobs import Blob, BlobStore

_logger = logging.getLogger("trackbus.writers")

MAX_PATH_LENGTH = 1000
"""Characters of a file's path within an artifact."""

_CALLERS = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""What a wrong path leads to; a disk that fails is not the caller's doing."""

_SEPARATORS = re.compile(r"[/\\]+")
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


def files_of(
    store: BlobStore, local_path: str | os.PathLike[str], under: str = "", *, immutable: bool = False
) -> list[ArtifactFile]:
    """Keep a file, or all files of a folder, as they are now.

    Args:
        store: Where they are kept.
        local_path: The file or the folder; a folder is walked in sorted order, links that stay inside are followed.
        under: Where they lie in the artifact: a relative path with slashes, empty for its top.
        immutable: Whether nobody will ever change the files: then they are linked, where the file system can do that.

    Returns:
        The files; a single one is called as it is called on the disk, those of a folder by their path within it.

    Raises:
        BadInputError: There is no such file, it can't be read or is none, its name can't travel, a link leads out of
            the folder, or there are more than 4000 files.
        RefusedError: The environment does not allow it: the disk is full, a quota is reached, a file changed meanwhile.
    """
    path, top = path_of(local_path), artifact_path(under)
    try:
        found = list(_listed(path))
    except OSError as error:
        kind = BadInputError if error.errno in _CALLERS else RefusedError
        raise kind(f"{shown(str(path))} can't be read: {error.strerror or error}") from error
    except RuntimeError as error:  # what links in a circle is said so, or by too deep a walk
        raise BadInputError(f"{shown(str(path))} holds links that lead in a circle: take them out") from error
    names = [artifact_path(f"{top}/{name}" if top else name) for name, _ in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInputError(f"path {shown(twice)} is that of two files: rename one of them")
    return [
        ArtifactFile(path=name, blob=_kept(store, file, immutable=immutable))
        for name, (_, file) in zip(names, found, strict=True)
    ]


def artifact_of(key: object, kind: str, aliases: object, metadata: object, description: str) -> ArtifactLogged:
    """Make the event of an artifact, still without its files.

    Args:
        key: Its name.
        kind: What it is.
        aliases: Names of this version: several, or a single one.
        metadata: What else is known of it: a mapping, or None.
        description: For people.

    Raises:
        BadInputError: One of them can't be recorded.
    """
    names = [aliases] if isinstance(aliases, str) else aliases
    values: object = {} if metadata is None else metadata
    if not isinstance(names, Sequence) or not isinstance(values, Mapping):
        raise BadInputError(f"{shown(key)}: aliases are a list of texts, and metadata a dict")
    try:
        return ArtifactLogged(
            key=check_key(key),
            files=[],
            kind=kind,
            aliases=list(cast("Sequence[str]", names)),
            metadata=cast("dict[str, JsonValue]", json_value("metadata", cast("object", values))),
            description=description,
        )
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise BadInputError(f"{shown(key)}: {field} can't be recorded: {error.errors()[0]['msg']}") from error


def path_of(local_path: object) -> Path:
    """Return what a caller gave as a path.

    Raises:
        BadInputError: It is none.
    """
    if not isinstance(local_path, str | os.PathLike):
        raise BadInputError(f"{shown(local_path)} is no path: pass a str or a pathlib.Path")
    return Path(os.fsdecode(cast("str | os.PathLike[str]", local_path))).absolute()


def artifact_path(path: str) -> str:
    """Return the path of a file within an artifact, or of a folder, in the form in which it travels.

    Raises:
        BadInputError: It is absolute, leads out by `..`, is too long, or holds what can't be printed.
    """
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
        raise BadInputError(f"path {shown(path)} is of type {type(path).__name__}: use a str")
    parts = [part for part in _SEPARATORS.split(path) if part not in ("", ".")]
    if _ABSOLUTE.match(path):
        raise BadInputError(f"path {shown(path)} is absolute: use one within the artifact, such as 'a/b'")
    if ".." in parts:
        raise BadInputError(f"path {shown(path)} has a part '..', which leads out of the artifact: take it out")
    if not path.isprintable():
        raise BadInputError(f"path {shown(path)} holds a character that can't be printed: rename the file")
    if len(path) > MAX_PATH_LENGTH:
        raise BadInputError(f"path {shown(path)} is longer than {MAX_PATH_LENGTH} characters: shorten it")
    return "/".join(parts)


def _listed(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files that a path stands for, each with its path within the artifact.

    Raises:
        OSError: The path, or a folder below it, can't be read.
    """
    real = path.resolve(strict=True)
    if not real.is_dir():
        yield path.name, _checked(real, path)
        return
    for number, (name, file) in enumerate(_walked(real, real, "")):
        if number == MAX_FILES:
            raise BadInputError(
                f"{shown(str(path))} holds more than {MAX_FILES} files: log it in parts, or pack it into one file"
            )
        yield name, file


def _walked(folder: Path, root: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        path = Path(entry.path)
        real = path.resolve(strict=True) if entry.is_symlink() else path
        if not real.is_relative_to(root):
            raise BadInputError(
                f"{shown(entry.path)} is a link that leads out of {shown(str(root))}: log what it points to by itself"
            )
        if not real.is_dir():
            yield prefix + entry.name, _checked(real, path)
        elif folder.is_relative_to(real):
            raise BadInputError(f"{shown(entry.path)} is a link that leads back to where it stands: take it out")
        else:
            yield from _walked(real, root, f"{prefix}{entry.name}/")


def _checked(real: Path, path: Path) -> Path:
    """Return what a path leads to, if that is a file: whoever opens a pipe would wait for a writer."""
    if not stat.S_ISREG(real.stat().st_mode):
        raise BadInputError(f"{shown(str(path))} is neither a file nor a folder: leave it out")
    return real


def _kept(store: BlobStore, path: Path, *, immutable: bool) -> Blob:
    try:
        return store.put_file(path, immutable=immutable)
    except PermissionError as error:
        raise BadInputError(f"{shown(str(path))} can't be read: {error.strerror}") from error
    except OSError as error:
        _logger.warning("%s can't be read: %s", path, error)
        raise RefusedError(f"a file can't be read: {error.strerror or error}") from error
