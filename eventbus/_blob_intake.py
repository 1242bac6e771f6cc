"""A bus's blob store as what a relay brings blobs to."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import anyio.from_thread
import anyio.to_thread

from eventbus import _blob_files as files
from eventbus._blob_copy import Source, copy, refusal
from eventbus.abc import RefusedError
from eventbus.errors import BlobError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from eventbus._blob_reader import Blob, BlobReader
    from eventbus.blobs import BlobStore

T = TypeVar("T")


def bring_along(store: BlobStore, blob: Blob, source: BlobReader) -> None:
    """Keep a blob of another store under its name too: linked, or copied in one go.

    Raises:
        BlobError: No store of the source has it.
        RefusedError: The store does not take it.
    """
    folder = store.folder
    if folder is None or store.has(blob) or BlobIntake(store).link(blob, source, folder):
        return
    path, target = source.path(blob), files.place(folder, blob.name)
    store.admit(blob.size)
    try:
        with Source(path) as original, files.draft(target) as fd:
            original.check(copy(original.fd, fd, blob.size))
    except OSError as error:
        raise refusal(error) from error
    store.note(target, blob.size)


class BlobIntake:
    """Takes blobs from another store; implements `eventbus._blob_carrier.BlobTarget`.

    What is on its way lies in a part file, so whoever comes after a crash goes on with it. Chunks are written where
    they belong: two relays that bring the same bytes at once do no harm.

    Args:
        store: Where they are kept.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def missing(self, blobs: Sequence[Blob], source: BlobReader) -> list[Blob]:
        """Return which blobs are not there; those that can be linked from `source` are there by then."""
        folder = self._store.folder
        if folder is None:
            return []
        return await anyio.to_thread.run_sync(
            lambda: [one for one in blobs if not self._store.has(one) and not self.link(one, source, folder)]
        )

    def link(self, blob: Blob, source: BlobReader, folder: Path) -> bool:
        """Link a blob if both stores are on one file system; it is the same file then, and no copy to be verified.

        Returns:
            Whether it is there by now.
        """
        target = files.place(folder, blob.name)
        try:
            path = source.path(blob)
            self._store.admit(blob.size)
            if not files.linked(path, target):
                return False
            if (digest := files.noted_digest(path)) is not None and digest != blob.name:
                with suppress(OSError):  # then it is computed here, later
                    files.note_digest(target, digest)
        except (BlobError, RefusedError, OSError):  # said when it is sent
            return False
        self._store.note(target, blob.size)
        return True

    async def offset(self, blob: Blob) -> int:
        """Return how much of a blob is there already.

        Raises:
            RefusedError: The store does not take it.
        """
        return await self._in_thread(blob, self._offset)

    def _offset(self, part: Path, blob: Blob) -> int:
        self._store.admit(blob.size)
        fd = files.create(part, 0)
        try:
            size = os.fstat(fd).st_size
            if size > blob.size:
                os.ftruncate(fd, size := 0)
        finally:
            os.close(fd)
        return size

    async def append(self, blob: Blob, offset: int, data: bytes) -> None:
        """Take a chunk of a blob.

        Raises:
            RefusedError: The store can't be written, or the blob would get longer than it is.
        """
        if offset + len(data) > blob.size:
            raise RefusedError("a payload is longer than its event says")

        def write(part: Path, _: Blob) -> None:
            fd = files.create(part, 0)
            try:
                files.write_at(fd, data, offset)
            finally:
                os.close(fd)

        await self._in_thread(blob, write)

    async def finish(self, blob: Blob, digest: str) -> bool:
        """Verify a blob of which everything is there, and keep it; False if it is not what was sent.

        Raises:
            RefusedError: The store can't be written.
        """
        return await self._in_thread(blob, lambda part, _: self._finish(part, blob, digest))

    def _finish(self, part: Path, blob: Blob, digest: str) -> bool:
        target = part.with_name(blob.name)
        if not blob.name.startswith("late-") and blob.name != digest:
            return False
        try:
            size, check = part.stat().st_size, anyio.from_thread.check_cancelled
            if size != blob.size or files.hashed(part, check) != digest:
                part.unlink()
                return False
            part.replace(target)
        except FileNotFoundError:  # another relay has finished it
            return self._store.has(blob)
        if target.name != digest:
            files.note_digest(target, digest)
        self._store.note(target, blob.size)
        return True

    async def _in_thread(self, blob: Blob, call: Callable[[Path, Blob], T]) -> T:
        folder = self._store.folder
        if folder is None:
            raise RefusedError("nothing is kept here")
        with self._refusing():
            return await anyio.to_thread.run_sync(call, files.part_of(folder, blob.name), blob)

    @contextmanager
    def _refusing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise refusal(error) from error
