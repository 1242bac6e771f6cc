"""Waits while another process works on a consumer's file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import ConsumerFile
from receivers import _processes
from receivers._control import Drain, Phase, Settled

if TYPE_CHECKING:
    from eventbus.journals.consumer import ConsumerLock
    from receivers._control import Order, Start, WorkerChannel

STAND_BY_SECONDS = 0.2
"""How often a worker looks how far the one got that it stands by for."""

ORPHAN_SECONDS = 2.0
"""How often it looks whether that one's parent is dead: a look goes over all processes of the machine."""


class StandBy:
    """Waits while another process works on the consumer's file, and tells what that one has stored.

    An orphan that was stopped would hold the file for ever: nobody else is left to find it. It is let run on, so that
    it can notice that its parent is dead, store what was logged and end.
    """

    def __init__(self, channel: WorkerChannel, start: Start) -> None:
        self._channel = channel
        self._start = start
        self._order: Order | None = None
        self._told: Settled | None = None
        self._looked_at = -ORPHAN_SECONDS
        self._behind_orphan = False

    def acquire(self, lock: ConsumerLock) -> bool:
        """Return True when the lock is ours, False when there is nothing left to wait for."""
        self._look_for_orphans()
        if lock.try_acquire():
            return True
        with ConsumerFile(Path(self._start.cursors), self._start.name) as file:
            while not lock.try_acquire():
                self._look_for_orphans()
                if self._channel.parent_lost.is_set() or self._is_drained(file):
                    return False
                self._channel.send(Phase("standing by"))
                self._order = self._channel.receive(STAND_BY_SECONDS) or self._order
        if self._order is not None:
            self._channel.put_back(self._order)
        return True

    def _look_for_orphans(self) -> None:
        """Let stopped orphans run on, also one that only stood by: it is left to us to find it."""
        now = time.monotonic()
        if now - self._looked_at > ORPHAN_SECONDS:
            self._looked_at = now
            orphans = _processes.orphans(os.environ.get(_processes.MARKER, ""))
            _processes.resume(orphans)
            self._behind_orphan = bool(orphans)

    def _is_drained(self, file: ConsumerFile) -> bool:
        """Pass on where the other one stands; once we are to drain, it is enough that our own records are stored.

        The rest is the other one's, unless it is an orphan: then it ends soon, and we are the last to deliver.
        """
        settled = Settled(file.cursor(), [(kind, name, value) for (kind, name), value in sorted(file.counts().items())])
        if settled != self._told:
            self._told = settled
            self._channel.send(settled)
        if not isinstance(self._order, Drain) or self._behind_orphan:
            return False
        own = self._start.partition
        end = JournalReader(Path(self._start.journal)).ends().get(own, 0)
        return settled.cursor.get(own, 0) >= end
