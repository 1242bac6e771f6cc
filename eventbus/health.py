"""What the bus and its receivers say of their own health, on a topic of its own: `HEALTH`.

These events tell of changes only: a bus on which nothing fails publishes none. They are local, and no tracker stores
them; subscribe a handler to be told, or read them with `trackbus inspect`.
"""

from __future__ import annotations

from typing import ClassVar

from eventbus._event import Event
from eventbus._topic import Topic


class HealthEvent(Event, topic="trackbus.health"):
    """Base of all health events."""

    event_urgent: ClassVar[bool] = True


class WorkerLost(HealthEvent):
    """A receiver's worker died, hung or failed; it is started again.

    Attributes:
        receiver: Name of the receiver.
        reason: What happened, for people.
        restarts: How often this receiver's worker was lost since the bus was entered.
    """

    receiver: str
    reason: str
    restarts: int


class WorkerRecovered(HealthEvent):
    """A receiver stores events again.

    Attributes:
        receiver: Name of the receiver.
        seconds: How long it stored nothing.
    """

    receiver: str
    seconds: float


class CircuitOpened(HealthEvent):
    """A receiver's tracker does not answer: it is left alone for a while, and its events wait in the journal.

    Attributes:
        receiver: Name of the receiver.
        reason: What happened last.
        seconds: When it is tried again.
    """

    receiver: str
    reason: str
    seconds: float


class CircuitClosed(HealthEvent):
    """A receiver's tracker answers again."""

    receiver: str


class EventDeadLettered(HealthEvent):
    """An event that a tracker can't store was put aside, so that the others go on.

    Attributes:
        receiver: Name of the receiver.
        partition: Key of the event's partition.
        seq: Its number there.
        reason: Why it can't be stored.
    """

    receiver: str
    partition: str
    seq: int
    reason: str


class JournalQuarantined(HealthEvent):
    """A damaged file of the journal was put aside.

    Attributes:
        path: Where it is now.
        reason: What is wrong with it.
        salvaged: Events that could be read, and are still delivered.
        lost: Events that could not, as far as it can be told; 0 where nothing says how many there were.
    """

    path: str
    reason: str
    salvaged: int
    lost: int


class JournalTrimmed(HealthEvent):
    """Old files of the journal were removed to stay within its bound.

    Attributes:
        files: How many.
        bytes: How much room that made.
    """

    files: int
    bytes: int


class JournalFilled(HealthEvent):
    """The journal can't take more: events are refused and counted until there is room.

    Attributes:
        reason: The bound that is reached, or what the disk says.
    """

    reason: str


HEALTH: Topic[HealthEvent] = Topic(HealthEvent.event_topic, HealthEvent)
"""All health events of this bus."""
