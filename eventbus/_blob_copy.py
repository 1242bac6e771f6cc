"""Copies a file as fast as the file system can, and notices when it changes meanwhile."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import sys
from typing import TYPE_CHECKING, Self

from eventbus.abc import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK_BYTES = 16 << 20
"""What one call of the kernel copies: few calls, and each ends soon enough for an interrupt."""

PLAIN_CHUNK_BYTES = 1 << 20
"""What is held in memory where the kernel can't copy by itself."""

FICLONE = 0x40049409
"""Linux's request to share a file's blocks until one of the two is changed."""

_logger = logging.getLogger("trackbus.blobs")

_CANT = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM}
"""What the kernel says where it can't copy in one way: then another one is tried."""


class TooLargeError(RefusedError):
    """Raised by a store that will never take a blob of this size."""


class Source:
    """A file, opened to be copied as it is now.

    Args:
        path: The file; what is none is refused without waiting for whoever writes into it.

    Attributes:
        fd: Its descriptor.
        size: Its length in bytes when it was opened.

    Raises:
        OSError: It can't be read, or is no file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.found = os.fstat(self.fd)
        self.size = self.found.st_size
        if not stat.S_ISREG(self.found.st_mode):
            os.close(self.fd)
            raise OSError(errno.EINVAL, "it is no file", str(path))

    def check(self, copied: int) -> None:
        """Refuse a copy of so many bytes, if the file was changed meanwhile, or has not the length that it says.

        Raises:
            RefusedError: It was, or has not.
        """
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) == (self.size, self.found.st_mtime_ns):
            if copied != self.size:
                raise RefusedError("a file has another length than it says, as in /proc and /sys: log a copy of it")
        else:
            _logger.warning("%s was changed while it was copied", self._path)
            raise RefusedError("a file was changed while it was copied: log it when it is complete")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def refusal(error: OSError) -> RefusedError:
    """Return what it means that the store could not be written."""
    why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    return RefusedError(f"the blob store can't be written: {why}")


def clone(source: int, target: int) -> bool:
    """Let a file share another one's blocks; tell whether the file system can do that."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True


def copy(source: int, target: int, size: int) -> int:
    """Copy the first `size` bytes of a file to the start of an empty one; return how many there were.

    Raises:
        OSError: One of the two can't be read or written.
    """
    done = 0
    for way in _WAYS:
        try:
            while done < size and (count := way(source, target, min(CHUNK_BYTES, size - done), done)):
                done += count
        except OSError as error:
            if error.errno not in _CANT or way is _plainly:
                raise
        else:
            return done
    return done


def _in_kernel(source: int, target: int, count: int, done: int) -> int:
    return os.copy_file_range(source, target, count, done, done)


def _by_sendfile(source: int, target: int, count: int, done: int) -> int:
    os.lseek(target, done, os.SEEK_SET)
    return os.sendfile(target, source, done, count)


def _plainly(source: int, target: int, count: int, done: int) -> int:
    data = os.pread(source, min(count, PLAIN_CHUNK_BYTES), done)
    view = memoryview(data)
    while view:
        view = view[os.pwrite(target, view, done + len(data) - len(view)) :]
    return len(data)


_WAYS: tuple[Callable[[int, int, int, int], int], ...] = (
    (_in_kernel, _by_sendfile, _plainly) if sys.platform == "linux" else (_plainly,)
)
