"""Threads of a process that do for all journals what must not happen on a caller's path.

`syncing` brings what was appended to the disk, so that a power cut costs at most `SYNC_SECONDS` or `SYNC_EVENTS`, and
at once when somebody waits for it. `upkeep` checkpoints, so that the write-ahead logs stay small, prepares the next
files and adds up what the journals take. They are two since a checkpoint may take long, and nobody who waits for a sync
should wait for it. Both end with the last partition. `blob_care` does both for the files that events name, and
computes their digests, once there are such files: that takes long where they are large.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus._fork import call_in_child
from eventbus.journals._partition import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable

SYNC_SECONDS = 0.2
"""What a power cut may cost at strength `process`."""

SYNC_EVENTS = 256
"""A sync is due as well when so many events came: at full speed it costs the same for all of them."""

CHECKPOINT_SECONDS = 1.0
"""Often enough that a checkpoint is short."""

RESTART_WAL_BYTES = 4 << 20
"""From this size on the log is made to start over: without that a passive checkpoint lets it grow for ever."""

CHECKPOINT_TIMEOUT_MS = 5
"""How long a restart waits for readers: writers wait with it, and the next second brings another chance."""

_logger = logging.getLogger("trackbus.journal")


class Bell:
    """Wakes one waiting thread. Ringing takes no lock: a signal handler may ring while its thread does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Let the current wait return, or else the next one."""
        try:
            self._lock.release()
        except RuntimeError:  # it rings already
            return

    def wait(self, timeout: float) -> None:
        """Return when it is rung, or after the timeout."""
        self._lock.acquire(timeout=timeout)


class Rounds:
    """A thread that calls all it was given, one after the other, again and again, while there is anything to call.

    Args:
        name: Name of the thread.
        seconds: Time between two rounds.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._begin()
        call_in_child(self._begin)

    def _begin(self) -> None:
        """Begin with nothing to do; a forked child has none of its parent's threads."""
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []
        self._ailing: set[Callable[[], None]] = set()
        self._bell = Bell()
        self.ring = self._bell.ring
        self._thread: threading.Thread | None = None

    @property
    def is_here(self) -> bool:
        """Whether the caller is this thread."""
        return threading.current_thread() is self._thread

    def watch(self, call: Callable[[], None]) -> None:
        """Call it in every round from now on."""
        with self._lock:
            self._calls.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def forget(self, call: Callable[[], None]) -> None:
        """Call it no more."""
        with self._lock:
            self._calls = [other for other in self._calls if other != call]
            self._ailing.discard(call)
        self.ring()

    def _run(self) -> None:
        while calls := self._next():
            for call in calls:
                self._try(call)

    def _next(self) -> list[Callable[[], None]]:
        self._bell.wait(self._seconds)
        with self._lock:
            if not self._calls:
                self._thread = None
            return self._calls

    def _try(self, call: Callable[[], None]) -> None:
        """Call it; what fails is logged once until it works again: the append path meets the same and counts it."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - border: one that fails must not end the thread of all the others
            if call not in self._ailing:
                self._ailing.add(call)
                _logger.warning("journal upkeep failed: %s; it is tried again until it works", error)
        else:
            self._ailing.discard(call)


syncing = Rounds("trackbus-sync", SYNC_SECONDS)
upkeep = Rounds("trackbus-caretaker", CHECKPOINT_SECONDS)
blob_care = Rounds("trackbus-blobs", SYNC_SECONDS)


class FileCare:
    """Syncs and checkpoints one SQLite file, from a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wal = Path(f"{path}-wal")
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT_MS}")
        self._wal_fd: int | None = None

    def sync(self) -> None:
        """Bring the write-ahead log to the disk.

        Raises:
            OSError: The disk failed, or the file was deleted.
        """
        if self._wal_fd is None:
            self._wal_fd = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
            sync_folder(self._wal.parent)
        os.fdatasync(self._wal_fd)
        if not os.fstat(self._wal_fd).st_nlink:
            raise FileNotFoundError(f"{self._path} was deleted")

    def checkpoint(self) -> None:
        """Move the log's pages into the file; a busy reader only puts it off."""
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if self._wal.stat().st_size > RESTART_WAL_BYTES:
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def empty_log(self) -> bool:
        """Move all of the log into the file of which nothing more is written; tell whether no reader was in the way."""
        busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def size(self) -> int:
        """Return the bytes that file and log take.

        Raises:
            FileNotFoundError: The file was deleted.
        """
        return self._path.stat().st_size + self._wal.stat().st_size

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        if self._wal_fd is not None:
            os.close(self._wal_fd)
            self._wal_fd = None
