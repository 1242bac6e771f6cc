"""What an event says of a file, and where the file is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from eventbus import _blob_files as files
from eventbus._event import Part
from eventbus.errors import BlobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

VERIFY_BYTES = 64 << 20
"""Up to here a blob's digest is checked before it is first read; of a larger one only the length is."""

VERIFIED_BLOBS = 10_000
"""So many are known to be whole; then they are checked once more."""


class Blob(Part):
    """What an event says of a file in the blob store.

    Attributes:
        name: Its name there: the SHA-256 of its bytes in hexadecimal digits, or `late-` and a random number for a
            large file whose digest is not known when its event is published.
        size: Its length in bytes.
    """

    name: str = Field(pattern=r"^([0-9a-f]{64}|late-[0-9a-f]{32})$")
    size: int = Field(ge=0)


class BlobReader:
    """Finds blobs in the stores of one or several buses. Legal from any thread.

    Args:
        folders: The stores' folders; the first one that has a blob is asked for it.
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._folders = list(folders)
        self._verified: set[str] = set()

    def add(self, folder: Path) -> None:
        """Look in one more store."""
        if folder not in self._folders:
            self._folders.append(folder)

    def path(self, blob: Blob) -> Path:
        """Return the file of a blob, to be read and never changed.

        Raises:
            BlobError: No store has it, or what is there is not what was kept.
        """
        faults: list[str] = []
        for folder in self._folders:
            path = files.place(folder, blob.name)
            fault = self._fault(path, blob)
            if fault is None:
                return path
            faults += [fault] if fault else []
        why = "; ".join(faults) or f"it is in none of {len(self._folders)} stores"
        raise BlobError(f"blob {blob.name} of {blob.size} bytes can't be read: {why}")

    def read(self, blob: Blob) -> bytes:
        """Return the bytes of a blob.

        Raises:
            BlobError: No store has it, or what is there is not what was kept.
        """
        path = self.path(blob)
        try:
            return path.read_bytes()
        except OSError as error:
            raise BlobError(f"blob {blob.name} can't be read: {error.strerror or error}") from error

    def digest(self, blob: Blob, check: Callable[[], object] | None = None) -> str:
        """Return the SHA-256 of a blob in hexadecimal digits: computed here if it is not known yet.

        Args:
            blob: The blob.
            check: Called now and then while it is computed; it may raise, to give up.

        Raises:
            BlobError: No store has it, or what is there is not what was kept.
        """
        path = self.path(blob)
        try:
            return files.noted_digest(path) or files.hashed(path, check)
        except OSError as error:
            raise BlobError(f"blob {blob.name} can't be read: {error.strerror or error}") from error

    def _fault(self, path: Path, blob: Blob) -> str | None:
        """Return what is wrong with a file, empty where there is none, None if it is what was kept."""
        try:
            size = path.stat().st_size
            if size != blob.size:
                return f"it has {size} bytes"
            if blob.name in self._verified or size > VERIFY_BYTES:
                return None
            digest = files.noted_digest(path)
            if digest is not None and files.hashed(path) != digest:
                return "its bytes are not those that were kept"
        except FileNotFoundError:
            return ""
        except OSError as error:
            return error.strerror or str(error)
        if len(self._verified) >= VERIFIED_BLOBS:
            self._verified.clear()
        self._verified.add(blob.name)
        return None
