"""trackbus: a typed event bus whose log is durable."""

from eventbus._current import current_bus
from eventbus._event import Envelope, Event, Origin, Part
from eventbus._overflow import Overflow
from eventbus._receipt import Receipt
from eventbus._report import Report
from eventbus._subscription import Subscription
from eventbus._topic import Scope, Topic
from eventbus.errors import TrackbusError
from eventbus.relay import Relay
from eventbus.workspace import EventBus

__all__ = [
    "Envelope",
    "Event",
    "EventBus",
    "Origin",
    "Overflow",
    "Part",
    "Receipt",
    "Relay",
    "Report",
    "Scope",
    "Subscription",
    "Topic",
    "TrackbusError",
    "current_bus",
]
