"""Waits while another process works on a consumer's file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import ConsumerFile
from receivers import _processes
from receivers._control import Attach, Detach, Drain, Phase, Settled

if TYPE_CHECKING:
    from eventbus.abc import Cursor
    from eventbus.journals.consumer import ConsumerLock
    from receivers._control import Order, Source, Start, WorkerChannel

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
        self._orders: list[Order] = []
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
                order = self._channel.receive(STAND_BY_SECONDS)
                self._orders += [order] if order else []
        for order in reversed(self._orders):
            self._channel.put_back(order)
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
        cursor = file.cursor()
        served, left = self._served()
        drained = [] if self._behind_orphan else [bus for bus in left if _is_stored(served[bus], left[bus], cursor)]
        counts = [(kind, name, value) for (kind, name), value in sorted(file.counts().items())]
        settled = Settled(cursor, counts, drained)
        if settled != self._told:
            self._told = settled
            self._channel.send(settled)
        return len(drained) == len(served)

    def _served(self) -> tuple[dict[int, Source], dict[int, str]]:
        """Return the buses that wait, and the own partitions of those that are left, as the orders so far have it."""
        served = {one.bus: one for one in self._start.sources}
        left: dict[int, str] = {}
        for order in self._orders:
            if isinstance(order, Attach):
                served[order.source.bus] = order.source
            elif isinstance(order, Drain):
                left[order.bus] = order.partition
            elif isinstance(order, Detach):
                served.pop(order.bus, None)
        return served, {bus: partition for bus, partition in left.items() if bus in served}


def _is_stored(source: Source, own: str, cursor: Cursor) -> bool:
    return cursor.get(own, 0) >= JournalReader(Path(source.journal)).ends().get(own, 0)
