"""One thread per process that does for all partitions what must not happen on a caller's path.

It syncs what was appended, so that a power cut costs at most `SYNC_SECONDS`, and it checkpoints, so that the
write-ahead log stays small. It ends with the last partition.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Protocol

SYNC_SECONDS = 0.2
"""What a power cut may cost at strength `process`."""

CHECKPOINT_SECONDS = 1.0
"""Often enough that a checkpoint is short."""

RESTART_WAL_BYTES = 4 << 20
"""From this size on the log is made to start over: without that a passive checkpoint lets it grow for ever."""

_logger = logging.getLogger("trackbus.journal")


class Kept(Protocol):
    """What the caretaker looks after."""

    def care(self, *, checkpoint: bool) -> None:
        """Sync what was appended and, if asked, checkpoint."""


class FileCare:
    """Syncs and checkpoints one SQLite file, from a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._wal = f"{path}-wal"
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA busy_timeout = 100")
        self._wal_fd: int | None = None

    def sync(self) -> None:
        """Bring the write-ahead log to the disk."""
        if self._wal_fd is None:
            self._wal_fd = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        os.fdatasync(self._wal_fd)

    def checkpoint(self) -> None:
        """Move the log's pages into the file; a busy reader only puts it off."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if Path(self._wal).stat().st_size > RESTART_WAL_BYTES:
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        if self._wal_fd is not None:
            os.close(self._wal_fd)
            self._wal_fd = None


class _Caretaker:
    """The thread and what it looks after."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Kept] = []
        self._changed = threading.Event()
        self._ailing: set[int] = set()
        self._thread: threading.Thread | None = None

    def watch(self, kept: Kept) -> None:
        """Look after a partition from now on."""
        with self._lock:
            self._kept.append(kept)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="trackbus-caretaker", daemon=True)
                self._thread.start()

    def forget(self, kept: Kept) -> None:
        """Look after it no more."""
        with self._lock:
            self._kept = [other for other in self._kept if other is not kept]
            self._ailing.discard(id(kept))
            self._changed.set()

    def _run(self) -> None:
        last_checkpoint = time.monotonic()
        while kept := self._next():
            due = time.monotonic() - last_checkpoint >= CHECKPOINT_SECONDS
            for one in kept:
                self._care(one, checkpoint=due)
            last_checkpoint = time.monotonic() if due else last_checkpoint

    def _next(self) -> list[Kept]:
        self._changed.wait(SYNC_SECONDS)
        with self._lock:
            self._changed.clear()
            if not self._kept:
                self._thread = None
            return self._kept

    def _care(self, kept: Kept, *, checkpoint: bool) -> None:
        """Look after one partition; what fails is logged once until it works again: it is tried five times a second."""
        try:
            kept.care(checkpoint=checkpoint)
        except (OSError, sqlite3.Error) as error:  # the append path meets the same fault and counts what it refuses
            if id(kept) not in self._ailing:
                self._ailing.add(id(kept))
                _logger.warning("journal upkeep failed: %s; it is tried again until it works", error)
        else:
            if checkpoint:  # both kinds of upkeep work again
                self._ailing.discard(id(kept))

    def after_fork(self) -> None:
        """Start anew in a forked child: the thread did not come along."""
        self.__init__()


caretaker = _Caretaker()
os.register_at_fork(after_in_child=caretaker.after_fork)
