"""Says on the bus how a receiver's worker and its tracker are: changes only, never per event."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from eventbus.health import CircuitClosed, CircuitOpened, EventDeadLettered, WorkerLost, WorkerRecovered
from receivers._circuit import Circuit

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventbus import Event
    from receivers._control import Buried, Unavailable


class Alarm:
    """Knows what was told of one receiver.

    Args:
        receiver: Name of the receiver.
        tell: Publishes an event.

    Attributes:
        circuit: Counts the failures, of the tracker and of workers.
        isolating: Whether the last worker looked for the event that ended those before it.
        for_good: Whether what ended the last worker does not mend itself.
    """

    def __init__(self, receiver: str, tell: Callable[[Event], None]) -> None:
        self._receiver = receiver
        self._tell = tell
        self._lost_at: float | None = None
        self.circuit = Circuit()
        self.isolating = False
        self.for_good = False

    @property
    def state(self) -> str:
        """What is wrong with the tracker, for people; empty while nothing is known."""
        return f"circuit open: {self.circuit.reason}" if self.circuit.is_open else ""

    def begin(self) -> None:
        """Take note that a worker is started: what ended the last one says nothing of how this one ends."""
        self.isolating = self.for_good = False

    def lose(self, reason: str, restarts: int, *, hurried: bool) -> float:
        """Take note that a worker was lost; return the seconds until the next is started."""
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            self._tell(WorkerLost(receiver=self._receiver, reason=reason, restarts=restarts))
        if self.isolating:
            return Circuit(failures=1).pause()
        opens = self.circuit.fail(reason, for_good=self.for_good)
        pause = self.circuit.pause(hurried=hurried)
        if opens:
            self._tell(CircuitOpened(receiver=self._receiver, reason=reason, seconds=pause))
        return pause

    def be_unavailable(self, news: Unavailable) -> None:
        """Take note that a worker can't reach the tracker, and waits."""
        if self.circuit.fail(news.reason, for_good=news.for_good):
            self._tell(CircuitOpened(receiver=self._receiver, reason=news.reason, seconds=news.seconds))

    def recover(self) -> None:
        """Take note that the tracker has stored something."""
        if self.circuit.succeed():
            self._tell(CircuitClosed(receiver=self._receiver))
        if self._lost_at is not None:
            self._tell(WorkerRecovered(receiver=self._receiver, seconds=time.monotonic() - self._lost_at))
            self._lost_at = None

    def bury(self, news: Buried) -> None:
        """Take note that an event was put aside."""
        self._tell(
            EventDeadLettered(receiver=self._receiver, partition=news.partition, seq=news.seq, reason=news.reason)
        )
