"""The light twin of W&B's artifact: files, gathered and then logged together."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eventbus.abc import RefusedError
from eventbus.artifacts import MAX_FILES, ArtifactFile
from eventbus.errors import AmbiguousBusError, BadInputError, NoBusError
from writers._artifacts import artifact_path, files_of, path_of
from writers._keys import shown
from writers._mode import bus_for
from writers._values import json_value

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pydantic import JsonValue

    from eventbus import Receipt
    from eventbus.blobs import BlobStore

WAIT_TIMEOUT = 60.0
"""Seconds that `wait()` waits for the receivers where none are given: what leaving a bus waits for them in all."""

MAX_NAME = 128
"""Characters of an artifact's name at W&B."""

_NAME = re.compile(r"[\w.-]+", re.ASCII)


class _Source(NamedTuple):
    """Some files of an artifact.

    Attributes:
        files: Keeps them in a store.
        replaces: Whether they take the place of files of the same path.
    """

    files: Callable[[BlobStore], list[ArtifactFile]]
    replaces: bool


class Artifact:
    """Files of a kind, with what is known of them.

    A file is kept as it is when it is added, if a bus is open then. Without one it is kept as it is when the artifact
    is logged; so it is too if that comes an hour later or more: a bus keeps for no longer what no record names.

    Args:
        name: Its name: letters, digits, `_`, `-` and `.`.
        type: Its kind: `dataset`, `model`, ...
        description: For people.
        metadata: What else is known of it.
        incremental: Refused: log the whole artifact.
        use_as: Accepted, as W&B does.
        storage_region: Refused: where files lie is the receiver's business.
        digest_algorithm: Accepted: files are named by their SHA-256.

    Attributes:
        name: Its name.
        type: Its kind.
        description: For people.
        metadata: What else is known of it; may be changed until it is logged.
        aliases: Names of this version.
        tags: Labels of this version.
        receipt: What the journal answered when it was logged; None before.

    Raises:
        BadInputError: The name is none, or an option can't be honoured.
    """

    def __init__(
        self,
        name: str,
        type: str,
        description: str | None = None,
        metadata: dict[str, Any] | None = None,
        incremental: bool = False,
        use_as: str | None = None,
        storage_region: str | None = None,
        digest_algorithm: str = "MD5",
    ) -> None:
        if incremental or storage_region is not None:
            raise BadInputError("Artifact: incremental= and storage_region= are not supported: log the whole artifact")
        self.name = _checked_name(name)
        self.type = str(type)
        self.description = description
        if metadata is not None and not isinstance(metadata, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
            raise BadInputError(f"metadata={shown(metadata)} of artifact {shown(name)}: pass a dict")
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.aliases: list[str] = []
        self.tags: list[str] = []
        self._sources: list[_Source] = []
        self.receipt: Receipt | None = None
        self._folder: Path | None = None

    # --- gathering ------------------------------------------------------------------------------------------

    def add_file(
        self,
        local_path: Any,
        name: str | None = None,
        is_tmp: bool | None = False,
        skip_cache: bool | None = False,
        policy: str | None = "mutable",
        overwrite: bool = False,
    ) -> str:
        """Add a file and return its path in the artifact.

        Args:
            local_path: The file.
            name: Its path in the artifact; by default its name.
            is_tmp: Accepted: a path is kept as it is given.
            skip_cache: Accepted: there is no cache.
            policy: `immutable`: nobody will ever change the file; then it is linked where that is possible.
            overwrite: Whether it takes the place of a file of the same path.

        Raises:
            BadInputError: There is no such file, or its path can't be one in an artifact.
        """
        local = path_of(local_path)
        if not os.path.isfile(local):  # noqa: PTH113 - a name that is too long is no error to it
            raise BadInputError(f"{shown(str(local_path))} is no file: add folders with add_dir")
        path = artifact_path(local.name if name is None else str(name))
        self._add(_one_file(local, path, immutable=policy == "immutable"), replaces=overwrite)
        return path

    def add_dir(
        self,
        local_path: Any,
        name: str | None = None,
        skip_cache: bool | None = False,
        policy: str | None = "mutable",
        merge: bool = False,
    ) -> None:
        """Add all files of a folder.

        Args:
            local_path: The folder.
            name: Where they lie in the artifact; by default at its top.
            skip_cache: Accepted: there is no cache.
            policy: `immutable`: nobody will ever change the files; then they are linked where that is possible.
            merge: Whether they take the place of files of the same paths.

        Raises:
            BadInputError: There is no such folder, or a file in it can't be one of an artifact.
        """
        local, under = path_of(local_path), artifact_path(name or "")
        if not os.path.isdir(local):  # noqa: PTH112 - a name that is too long is no error to it
            raise BadInputError(f"{shown(str(local_path))} is no folder: add files with add_file")
        immutable = policy == "immutable"
        self._add(lambda store: files_of(store, local, under, immutable=immutable), replaces=merge)

    def add_reference(
        self, uri: str, name: Any = None, checksum: bool = True, max_objects: int | None = None
    ) -> list[str]:
        """Add a file that stays where it is, by its address, and return its path in the artifact.

        Args:
            uri: Its address.
            name: Its path in the artifact; by default the last part of its address.
            checksum: Accepted: the address alone travels.
            max_objects: Accepted: one address is one entry.

        Raises:
            BadInputError: It is no address.
        """
        if not isinstance(uri, str) or "://" not in uri:  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
            raise BadInputError(f"{shown(uri)} is no address: add files with add_file")
        path = artifact_path(str(name) if name is not None else uri.rstrip("/").rpartition("/")[2])
        file = ArtifactFile(path=path, reference=uri)

        def files(_: BlobStore) -> list[ArtifactFile]:
            return [file]

        self._sources.append(_Source(files, replaces=False))
        return [path]

    @contextmanager
    def new_file(
        self, name: str, mode: str = "x", encoding: str | None = None, policy: str = "mutable"
    ) -> Generator[Any]:
        """Open a new file of the artifact for writing; it is added when the block ends without an error.

        Args:
            name: Its path in the artifact.
            mode: `x` or `w` for text, `xb` or `wb` for bytes.
            encoding: Of text; UTF-8 by default.
            policy: Accepted: it is in the artifact alone.
        """
        path, local = artifact_path(name), self._own_folder() / secrets.token_hex(8)
        with local.open(mode, encoding=None if "b" in mode else encoding or "utf-8") as file:
            yield file
        self._add(_one_file(local, path, immutable=True), replaces="w" in mode)

    def add(self, obj: Any, name: Any, overwrite: bool = False) -> None:
        """Refuse: pictures, tables and the like are logged with `log`.

        Raises:
            BadInputError: Always.
        """
        raise BadInputError(f"{type(obj).__name__} {shown(name)} is no file: log it with run.log, or add its file")

    # --- being logged ---------------------------------------------------------------------------------------

    def files(self, store: BlobStore) -> list[ArtifactFile]:
        """Keep what is not kept yet and return all files.

        Raises:
            BadInputError: A file is gone, two different ones lie at one path, or there are more than 4000.
            RefusedError: The environment does not allow it.
        """
        found: dict[str, ArtifactFile] = {}
        for source in self._sources:
            for file in source.files(store):
                if found.setdefault(file.path, file) != file and not source.replaces:  # the same content is one file
                    raise BadInputError(
                        f"two files lie at {shown(file.path)} of {shown(self.name)}: rename one of them"
                    )
                found[file.path] = file
        if len(found) > MAX_FILES:
            raise BadInputError(
                f"{shown(self.name)} has {len(found)} files, at most {MAX_FILES} fit: pack them into one"
            )
        return list(found.values())

    def facts(self) -> dict[str, JsonValue]:
        """Return its metadata as they travel.

        Raises:
            BadInputError: They can't be recorded.
        """
        return {str(key): json_value(key, value) for key, value in self.metadata.items()}

    def logged_as(self, receipt: Receipt) -> Artifact:
        """Note what the journal answered, for `wait`."""
        self.receipt = receipt
        return self

    def is_draft(self) -> bool:
        """Tell whether it was not logged yet."""
        return self.receipt is None

    def wait(self, timeout: float | None = None) -> Artifact:
        """Return when every receiver has stored it.

        Args:
            timeout: Seconds to wait; 60 by default.

        Raises:
            BadInputError: It was not logged.
            NotDeliveredError: It took longer, and the message names who lags; or it was refused.
        """
        if self.receipt is None:
            raise BadInputError(f"artifact {shown(self.name)} was not logged: run.log_artifact(artifact) first")
        self.receipt.wait_delivered(WAIT_TIMEOUT if timeout is None else timeout)
        return self

    def read_later(self, local_path: Path) -> None:
        """Add a file or a folder that is read when the artifact is logged."""

        def files(store: BlobStore) -> list[ArtifactFile]:
            return files_of(store, local_path)

        self._sources.append(_Source(files, replaces=False))

    def _add(self, files: Callable[[BlobStore], list[ArtifactFile]], *, replaces: bool) -> None:
        store = _store_now()
        if store is not None:
            try:
                kept = files(store)
            except RefusedError:
                pass  # the receipt says so, if the environment still refuses it then
            else:
                files = _moved(kept, store, files)
        self._sources.append(_Source(files, replaces))

    def _own_folder(self) -> Path:
        """Return the folder of its new files; it goes with the artifact."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="trackbus-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


class SavedFiles(list[str]):
    """Paths of the files that `save` took.

    Args:
        paths: Them.
        receipt: What the journal answered.
    """

    def __init__(self, paths: list[str], receipt: Receipt) -> None:
        super().__init__(paths)
        self.receipt = receipt

    def wait(self, timeout: float | None = None) -> SavedFiles:
        """Return when every receiver has stored them.

        Args:
            timeout: Seconds to wait; 60 by default.

        Raises:
            NotDeliveredError: It took longer, and the message names who lags; or they were refused.
        """
        self.receipt.wait_delivered(WAIT_TIMEOUT if timeout is None else timeout)
        return self


def artifact_of(value: Any) -> Artifact:
    """Return the light twin of an artifact of the SDK.

    Raises:
        BadInputError: Its files are not here.
    """
    made = Artifact(value.name.partition(":")[0], value.type, value.description, dict(value.metadata or {}))
    for path, entry in value.manifest.entries.items():
        if entry.ref is not None:
            made.add_reference(str(entry.ref), str(path))
        elif entry.local_path is not None:
            made.add_file(str(entry.local_path), str(path))
        else:
            raise BadInputError(
                f"file {shown(str(path))} of artifact {shown(made.name)} is not here: download it first"
            )
    return made


def artifact_at(path: Any, name: str, kind: str) -> Artifact:
    """Return an artifact of a file, a folder, or an address; it is read when it is logged.

    Raises:
        BadInputError: There is no such file or folder.
    """
    made = Artifact(name, kind)
    if isinstance(path, str) and "://" in path:
        made.add_reference(path)
        return made
    local = path_of(path)
    if not os.path.exists(local):  # noqa: PTH110 - a name that is too long is no error to it
        raise BadInputError(f"{shown(str(path))} is no file, no folder and no address such as s3://bucket/path")
    made.read_later(local)
    return made


def safe_name(text: str) -> str:
    """Return a text as the name of an artifact: what can't stand in one becomes `-`."""
    return "-".join(_NAME.findall(text))[:MAX_NAME] or "unnamed"


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        raise BadInputError(f"artifact name {shown(name)}: use 1 to {MAX_NAME} letters, digits, '_', '-' and '.'")
    return name


def _one_file(local: Path, path: str, *, immutable: bool) -> Callable[[BlobStore], list[ArtifactFile]]:
    def kept(store: BlobStore) -> list[ArtifactFile]:
        [file] = files_of(store, local, immutable=immutable)
        return [file.model_copy(update={"path": path})]

    return kept


def _moved(
    files: list[ArtifactFile], store: BlobStore, again: Callable[[BlobStore], list[ArtifactFile]]
) -> Callable[[BlobStore], list[ArtifactFile]]:
    """Return what gives files that a store keeps; for another one, or if they are gone, they are read again."""

    def kept(other: BlobStore) -> list[ArtifactFile]:
        if other is not store or not all(one.blob is None or store.has(one.blob) for one in files):
            return again(other)
        return files

    return kept


def _store_now() -> BlobStore | None:
    """Return the store of the current bus; None where no bus is open, or several are."""
    try:
        return bus_for(None).blobs
    except (NoBusError, AmbiguousBusError):
        return None
