"""Files that events name: pictures, tables, artifacts, models. Written once, before the event, and never changed."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from eventbus._event import Part
from eventbus.abc import RefusedError
from eventbus.errors import BlobError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Blob", "BlobReader", "BlobStore", "blobs_of"]

FOLDER = "blobs"


class Blob(Part):
    """What an event says of a file in the blob store.

    Attributes:
        name: Its name there: the SHA-256 of its bytes in hexadecimal digits, or `late-` and a random number for a
            large file whose digest is not known when its event is published.
        size: Its length in bytes.
    """

    name: str = Field(pattern=r"^([0-9a-f]{64}|late-[0-9a-f]{32})$")
    size: int = Field(ge=0)


def blobs_of(journal: Path) -> Path:
    """Return the folder of the blobs that a journal's events name: it lies beside the journal."""
    return journal.parent / FOLDER


class BlobReader:
    """Finds blobs in the stores of one or several buses.

    Args:
        folders: The stores' folders; the first one that has a blob is asked for it.
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._folders = list(folders)

    def path(self, blob: Blob) -> Path:
        """Return the file of a blob, to be read and never changed.

        Raises:
            BlobError: No store has it, or what is there has another length.
        """
        for folder in self._folders:
            path = _place(folder, blob.name)
            if path.is_file() and path.stat().st_size == blob.size:
                return path
        raise BlobError(f"blob {blob.name} of {blob.size} bytes is in none of {len(self._folders)} stores")

    def read(self, blob: Blob) -> bytes:
        """Return the bytes of a blob.

        Raises:
            BlobError: No store has it, or what is there has another length.
        """
        return self.path(blob).read_bytes()


class BlobStore(BlobReader):
    """Keeps the blobs of one bus. Legal from any thread.

    Args:
        folder: Where; made with the first blob. None: nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        super().__init__([] if folder is None else [folder])
        self.folder = folder

    def put(self, data: bytes | bytearray | memoryview) -> Blob:
        """Keep bytes and return what names them.

        Raises:
            RefusedError: The environment does not allow it: the disk is full, a quota is reached.
        """
        blob = Blob(name=hashlib.sha256(data).hexdigest(), size=memoryview(data).nbytes)
        if self.folder is not None:
            self._write(_place(self.folder, blob.name), data)
        return blob

    def put_file(self, path: Path, *, immutable: bool = False) -> Blob:
        """Keep a file as it is now and return what names it; the caller may change or delete it afterwards.

        Args:
            path: The file.
            immutable: Whether nobody will ever change it: then it is linked, where the file system can do that.

        Raises:
            RefusedError: The environment does not allow it: the disk is full, a quota is reached.
            OSError: The file can't be read.
        """
        del immutable
        blob = Blob(name=f"late-{secrets.token_hex(16)}", size=path.stat().st_size)
        if self.folder is not None:
            target = _place(self.folder, blob.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        return blob

    def _write(self, path: Path, data: bytes | bytearray | memoryview) -> None:
        if path.exists():
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
            draft.write_bytes(data)
            os.replace(draft, path)  # noqa: PTH105
        except OSError as error:
            raise RefusedError(f"the blob store can't be written: {error.strerror or error}") from error


def _place(folder: Path, name: str) -> Path:
    return folder / name.removeprefix("late-")[:2] / name
