"""Files that events name: pictures, tables, artifacts, models. Written once, before the event, and never changed.

Several processes of a site share a store. Each counts what it adds itself and learns of the others' when the store is
measured again, so its bounds are kept roughly: within what the others add in `MEASURE_SECONDS`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from eventbus import _blob_files as files
from eventbus._blob_copy import Source, TooLargeError, clone, copy, refusal
from eventbus._blob_files import FOLDER, blobs_of
from eventbus._blob_reader import Blob, BlobReader
from eventbus._fork import call_in_child, held_by_forks
from eventbus.abc import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FOLDER", "Blob", "BlobQuota", "BlobReader", "BlobStore", "BlobUsage", "blobs_of"]

SMALL_BYTES = 4 << 20
"""Up to here a file is read into memory and gets its digest at once: that takes milliseconds."""

RESERVE_BYTES = 64 << 20
"""What a large blob leaves free on the disk, so that the journal can go on."""

FLUSH_SECONDS = 0.2
"""How often what came meanwhile is synced while a large file is hashed: as often as the journal is."""

MEMORY_BYTES = 1 << 30
"""What the payloads of a bus in memory may take; then the oldest ones make room."""

CROWDED_SHARE = 0.9
"""From this share of its bounds on what is delivered makes room, with the journal's files that name it."""

ROOM_SHARE = 0.8
"""So far the oldest payloads of a bus in memory are removed: not one by one."""


_logger = logging.getLogger("trackbus.blobs")


class BlobQuota(msgspec.Struct, frozen=True, kw_only=True):
    """What a blob store may hold.

    Attributes:
        bytes: All blobs together.
        count: How many blobs.
        one: The largest single one, bytes.
    """

    bytes: int = 100 << 30
    count: int = 1_000_000
    one: int = 20 << 30


class BlobUsage(msgspec.Struct, frozen=True):
    """What a blob store holds: blobs, and their bytes."""

    count: int = 0
    bytes: int = 0


class BlobStore(BlobReader):
    """Keeps the blobs of one bus. Legal from any thread and in forked children.

    Args:
        folder: Where; made with the first blob. None: nothing is kept.
        quota: What it may hold.
        evicts: Whether the oldest blobs make room for new ones, rather than that new ones are refused.

    Attributes:
        attend: Called in the caller's thread when there is something to sync, or to compute the digest of.
    """

    def __init__(self, folder: Path | None, quota: BlobQuota | None = None, *, evicts: bool = False) -> None:
        super().__init__([] if folder is None else [folder])
        self.folder = folder
        self.quota = quota or BlobQuota()
        self.attend: Callable[[], None] = _nothing
        self._evicts = evicts
        self._usage = BlobUsage()
        self._lock = held_by_forks(threading.RLock())  # reentrant: a signal handler may log while its thread does
        self._tidy = _nothing
        self._begin()
        call_in_child(self._begin)

    def _begin(self) -> None:
        """Begin with nothing to look after, as a forked child does: what is there is its parent's work."""
        self._unsynced: deque[Path] = deque()
        self._undigested: deque[Path] = deque()
        self._syncing = threading.Lock()
        self._trouble = ""
        self._synced_at = 0.0
        self._synced_folders: set[Path] = set()

    @classmethod
    def temporary(cls) -> BlobStore:
        """Return a store in a temporary folder, which is removed when the store is closed or the process ends."""
        try:
            home = Path(tempfile.gettempdir())
        except FileNotFoundError:  # there is no folder that can be written: blobs are refused, and that is counted
            home = Path(os.devnull)
        folder = home / f"trackbus-{os.getpid()}-{os.urandom(8).hex()}"
        store = cls(folder, BlobQuota(bytes=MEMORY_BYTES), evicts=True)
        store._tidy = weakref.finalize(store, _remove_own, folder, os.getpid())
        return store

    @property
    def usage(self) -> BlobUsage:
        """What it holds, as far as this process knows."""
        return self._usage

    @property
    def is_crowded(self) -> bool:
        """Whether it is near one of its bounds."""
        usage, quota = self._usage, self.quota
        return usage.bytes > CROWDED_SHARE * quota.bytes or usage.count > CROWDED_SHARE * quota.count

    # --- keeping ------------------------------------------------------------------------------------------------

    def put(self, data: bytes | bytearray | memoryview) -> Blob:
        """Keep bytes and return what names them.

        Raises:
            RefusedError: The environment does not allow it: the disk is full, a quota is reached.
        """
        blob = Blob(name=hashlib.sha256(data).hexdigest(), size=memoryview(data).nbytes)
        if self.folder is None:
            return blob
        path = files.place(self.folder, blob.name)
        if self.has(blob):
            self._look_after_soon(path)  # whoever has put it there may not have synced it
            return blob
        try:
            self.admit(blob.size)
            with files.draft(path) as fd:
                files.write_at(fd, data, 0)
        except OSError as error:
            raise refusal(error) from error
        self.note(path, blob.size)
        return blob

    def put_file(self, path: Path, *, immutable: bool = False) -> Blob:
        """Keep a file as it is now and return what names it; the caller may change or delete it afterwards.

        A large one is copied as fast as the file system can, and its digest is computed later.

        Args:
            path: The file.
            immutable: Whether nobody will ever change it: then it is linked, where the file system can do that.

        Raises:
            RefusedError: The environment does not allow it: the disk is full, a quota is reached, the file was changed
                meanwhile.
            OSError: The file can't be read.
        """
        with Source(path) as source:
            if source.size > SMALL_BYTES:
                return self._keep_large(path, source, immutable=immutable)
            data = _read(source.fd, source.size)
            source.check(len(data))
        return self.put(data)

    def _keep_large(self, path: Path, source: Source, *, immutable: bool) -> Blob:
        blob = Blob(name=files.new_name(), size=source.size)
        if self.folder is None:
            return blob
        target = files.place(self.folder, blob.name)
        try:
            self.admit(blob.size)
            if not (immutable and files.linked(path.resolve(), target, source.found)):
                self._copy(source, target)
        except OSError as error:
            raise refusal(error) from error
        self.note(target, blob.size)
        return blob

    def _copy(self, source: Source, target: Path) -> None:
        with files.draft(target) as fd:
            if clone(source.fd, fd):
                copied = os.fstat(fd).st_size
            else:
                self._check_room(fd, source.size)
                copied = copy(source.fd, fd, source.size)
            source.check(copied)

    def has(self, blob: Blob) -> bool:
        """Tell whether a blob is there; then it counts as new, and is not removed before its event is there."""
        if self.folder is None:
            return False
        path = files.place(self.folder, blob.name)
        try:
            found = path.stat()
            if found.st_size != blob.size:
                return False
            if blob.name.startswith("late-"):
                files.renew(path, found)
            else:
                os.utime(path)
        except OSError:
            return False
        return True

    # --- bounds -------------------------------------------------------------------------------------------------

    def admit(self, size: int) -> None:
        """Tell whether there is room for a blob of so many bytes.

        Raises:
            TooLargeError: There will never be any for this one.
            RefusedError: There is none: a quota is reached.
        """
        usage, quota = self._usage, self.quota
        if size > (most := min(quota.one, quota.bytes)):
            raise TooLargeError(f"a file is larger than the blob store takes: {most} bytes (BlobQuota)")
        if self._evicts and (usage.bytes + size > quota.bytes or usage.count >= quota.count):
            self._evict()
        elif usage.bytes + size > quota.bytes:
            raise RefusedError(f"the blob store has reached its bound of {quota.bytes} bytes (BlobQuota.bytes)")
        elif usage.count >= quota.count:
            raise RefusedError(f"the blob store has reached its bound of {quota.count} files (BlobQuota.count)")

    def _check_room(self, fd: int, size: int) -> None:
        found = os.fstatvfs(fd)
        if found.f_bavail * found.f_frsize < size + RESERVE_BYTES:
            raise RefusedError("the disk has no room for a file in the blob store: free some, or move the workspace")

    def note(self, path: Path, size: int) -> None:
        """Count a blob that has come, and have it looked after."""
        with self._lock:
            self._usage = BlobUsage(self._usage.count + 1, self._usage.bytes + size)
        self._look_after_soon(path)

    def _look_after_soon(self, path: Path) -> None:
        if self._evicts:  # it does not outlive the process
            return
        self._unsynced.append(path)
        if files.noted_digest(path) is None:
            self._undigested.append(path)
        self.attend()

    def measure(self) -> None:
        """Add up what the store holds, whoever has put it there."""
        if self.folder is None:
            return
        before, count, size = self._usage, 0, 0
        for one in files.sizes(self.folder):
            count, size = count + 1, size + one
        with self._lock:  # what came meanwhile may count twice, until the next time
            now = self._usage
            self._usage = BlobUsage(now.count - before.count + count, now.bytes - before.bytes + size)

    def _evict(self) -> None:
        if self.folder is None:
            return
        with self._lock:
            found = sorted(files.kept(self.folder), key=lambda one: one[1].st_mtime_ns, reverse=True)
            left = sum(stat.st_size for _, stat in found)
            while found and (left > ROOM_SHARE * self.quota.bytes or len(found) > ROOM_SHARE * self.quota.count):
                path, oldest = found.pop()
                path.unlink(missing_ok=True)
                left -= oldest.st_size
            self.measure()

    # --- care, in other threads ---------------------------------------------------------------------------------

    def sync(self) -> str:
        """Bring to the disk what was kept so far, and return why that, or an earlier attempt, has failed, if so."""
        with self._syncing:
            self._sync()
            trouble, self._trouble = self._trouble, ""
        return trouble

    def flush(self) -> None:
        """Bring to the disk what was kept so far; if that fails, the next `sync` says why."""
        with self._syncing:
            self._sync()

    def _sync(self) -> None:
        self._synced_at = time.monotonic()
        paths = [self._unsynced.popleft() for _ in range(len(self._unsynced))]
        if not paths or self.folder is None:
            return
        try:
            files.sync(paths, self._synced_folders)
        except OSError as error:
            self._trouble = f"the disk failed a sync of the blob store: {error.strerror or error}"
            _logger.warning("%s: %d payloads may be lost in a power cut", self._trouble, len(paths))

    def look_after(self) -> None:
        """Sync what was kept, and note the digests of what is large.

        Raises:
            OSError: A digest can't be computed or noted now.
        """
        self.flush()
        while self._undigested:
            path = self._undigested[0]
            try:
                files.note_digest(path, files.hashed(path, self._flush_if_due))
            except FileNotFoundError:  # gone: nobody needs it
                pass
            finally:
                self._undigested.popleft()

    def _flush_if_due(self) -> None:
        """Sync, every now and then, what came while a large file is hashed."""
        if time.monotonic() > self._synced_at + FLUSH_SECONDS:
            self.flush()

    def close(self) -> None:
        """Remove a temporary folder. Legal twice."""
        self._tidy()


def _nothing() -> None:
    """Do nothing."""


def _remove_own(folder: Path, pid: int) -> None:
    """Remove a temporary folder, but not that of a forked child's parent."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def _read(fd: int, size: int) -> bytes:
    """Read up to one byte more than there should be."""
    parts: list[bytes] = []
    left = size + 1
    while left and (part := os.read(fd, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
