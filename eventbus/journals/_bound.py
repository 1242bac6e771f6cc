"""How much a journal may take: measured off the caller's path, and what happens when it is reached."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from eventbus._fork import held_by_forks
from eventbus._statistics import file_sizes
from eventbus.journals._caretaker import upkeep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_BYTES = 10 << 30
"""Room for tens of millions of events, and little beside the data and the checkpoints of a training."""

FULL_TIMEOUT = 1.0
"""Seconds that one caller waits for room: enough to trim files away, too little to hurt a training."""

FULL_SHARE = 0.98
"""From this share of the bound on events are refused: the rest is for the last words of runs, and for the log that
grows between two measurements."""

ROOM_SHARE = 0.95
"""Below this share there is room again; the gap keeps a journal at its bound from changing its mind every second."""

TRIM_SHARE = 0.9
"""From this share of the bound on what is delivered makes room."""

MIN_FREE_BYTES = 1 << 20
"""The disk counts as full from here on: the last words of runs need room too."""

LOOK_SECONDS = 0.05
"""How often one who waits asks for another measurement."""

_logger = logging.getLogger("trackbus.journal")


def judge(used: int, free: int, max_bytes: int, refusal: str | None) -> str | None:
    """Return why a journal takes no more events, or None.

    Args:
        used: What it takes, in bytes.
        free: What the disk has left for us, in bytes.
        max_bytes: Its bound.
        refusal: What was said the last time: until there is clearly room, it stays.
    """
    share, floor = (FULL_SHARE, 1) if refusal is None else (ROOM_SHARE, 2)
    if used > share * max_bytes:
        return f"the journal has reached its bound of {max_bytes} bytes"
    if free < floor * MIN_FREE_BYTES:
        return f"the disk has less than {MIN_FREE_BYTES >> 20} MiB left"
    return None


def nothing(_: object) -> None:
    """Make no room: a forked child trims nothing of its parent's."""


class Bound:
    """The bound of one journal's folder, with all its partitions.

    Args:
        folder: The journal's.
        max_bytes: The bound.
        full_timeout: How long one caller waits for room, in seconds.
        on_filled: Told in the caretaker's thread why the journal takes no more, once until there is room again.
        make_room: Told in the caretaker's thread how many bytes too many there are.

    Attributes:
        refusal: Why events are refused, or None.
        used: Bytes that the folder took when it was last measured.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        full_timeout: float,
        on_filled: Callable[[str], None],
        make_room: Callable[[int], None],
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._full_timeout = full_timeout
        self._on_filled = on_filled
        self.make_room = make_room
        self._failing = self._told = ""
        self._failed_at = 0
        self._in_vain = False
        self._making = held_by_forks(threading.Lock())
        self.refusal: str | None = None
        self.used = 0

    @property
    def is_reached(self) -> bool:
        """Whether events are refused, by us or by the disk."""
        return bool(self.refusal or self._failing)

    def fail(self, reason: str, end: int) -> None:
        """Note that the disk refused the record after `end`. The next one is tried all the same."""
        self._failing, self._failed_at = reason, end

    def measure(self, end: int) -> None:
        """Add up what the journal takes, make room, and decide; called in the caretaker's thread.

        Args:
            end: Number of the own partition's last record.
        """
        self.used = folder_bytes(self._folder)
        excess = self.used - int(TRIM_SHARE * self._max_bytes)
        try:
            if excess > 0:
                with self._making:
                    self.make_room(excess)
                self.used = folder_bytes(self._folder)
        finally:
            self.refusal = judge(self.used, free_bytes(self._folder), self._max_bytes, self.refusal)
            if end > self._failed_at:
                self._failing = ""
            self._tell(self.refusal or self._failing)

    def _tell(self, reason: str) -> None:
        """Say once that the journal is full, and once that there is room again."""
        told, self._told = self._told, reason
        if not reason:
            self._in_vain = False
        if bool(reason) == bool(told):
            return
        if reason:
            _logger.warning("the journal takes no events: %s", reason)
            self._on_filled(reason)
        else:
            _logger.warning("the journal takes events again")

    def wait(self) -> bool:
        """Wait for room, and tell whether to try again; who waited in vain was the last to wait until there is some."""
        if self._in_vain or upkeep.is_here:
            return False
        deadline = time.monotonic() + self._full_timeout
        while time.monotonic() < deadline:
            upkeep.ring()
            time.sleep(min(LOOK_SECONDS, self._full_timeout))
            if not self.is_reached:
                return True
        self._in_vain = True
        return self.refusal is None  # a disk that failed is tried once more


def folder_bytes(folder: Path) -> int:
    """Return what the files of a journal take, in bytes: those of all sites, logs and what is half made too."""
    return sum(size for _, size in file_sizes(folder))


def free_bytes(folder: Path) -> int:
    """Return what the disk has left for this user, in bytes."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
