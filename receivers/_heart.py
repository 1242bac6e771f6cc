"""What a worker says while it lives: that it lives, and what it does."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import stat
import threading
import time
from typing import TYPE_CHECKING

from receivers._control import Beat, Phase

if TYPE_CHECKING:
    from receivers._control import WorkerChannel

BEAT_SECONDS = 1.0
"""How often the worker says that it lives."""

WATCHDOG_SECONDS = 10.0
"""The C-level watchdog ends a process whose threads have not run for `orphan_timeout`, but at least for so long: only
a stuck GIL does that, and loading a large extension on a busy machine, for some seconds."""

LOG_BYTES = 1 << 20
"""A worker's log starts over beyond this size: an SDK may print without end."""


class Heart(threading.Thread):
    """Says every second that the process lives, and winds up the watchdog."""

    def __init__(self, channel: WorkerChannel, orphan_timeout: float) -> None:
        super().__init__(name="trackbus-heart", daemon=True)
        self._channel = channel
        self._orphan_timeout = orphan_timeout

    def run(self) -> None:
        """Beat until the parent is lost; then leave the process its last seconds."""
        while not self._channel.parent_lost.is_set():
            faulthandler.dump_traceback_later(max(WATCHDOG_SECONDS, self._orphan_timeout), exit=True)
            self._channel.send(Beat())
            _trim_log()
            time.sleep(BEAT_SECONDS)
        faulthandler.dump_traceback_later(self._orphan_timeout, exit=True)


def _trim_log() -> None:
    """Let the log start over when it is too long; whoever writes it appends."""
    with contextlib.suppress(OSError):
        log = os.fstat(2)
        if stat.S_ISREG(log.st_mode) and log.st_size > LOG_BYTES:
            os.ftruncate(2, 0)


class Phases:
    """Tells the parent what the worker does: each beginning restarts a deadline, idleness is told once."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._is_idle = False

    def begin(self, name: str, seconds: float = 0.0) -> None:
        """Tell that a step begins, or goes on, which has a deadline, and what it may take beyond it."""
        self._is_idle = False
        self._channel.send(Phase(name, seconds))

    def rest(self) -> None:
        """Tell that nothing is under way."""
        if not self._is_idle:
            self._is_idle = True
            self._channel.send(Phase("idle"))
