"""Topics: a name, the type of event it carries, and how far its records travel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Generic, TypeVar

from eventbus.errors import SubscriptionError

if TYPE_CHECKING:
    from eventbus._event import Event

FEDERATED_PREFIX = "fed."
"""What the name of a federated topic starts with where both scopes are shown side by side."""


class Scope(Enum):
    """How far a record travels: `LOCAL` never leaves its site, `FEDERATED` crosses to the server."""

    LOCAL = 0
    FEDERATED = 1


E_co = TypeVar("E_co", bound="Event", covariant=True)


@dataclass(frozen=True, slots=True)
class Topic(Generic[E_co]):
    """A named stream of events of one type.

    Attributes:
        name: What records carry, for example `analytix_log_stats`.
        event_type: The class of its events; a base class stands for all its subclasses.
        only: The one scope to which a subscription is narrowed, or None for both.
    """

    name: str
    event_type: type[E_co]
    only: Scope | None = None

    @property
    def federated(self) -> Topic[E_co]:
        """The same topic narrowed to records that may cross to a server."""
        return replace(self, only=Scope.FEDERATED)

    def __str__(self) -> str:
        prefix = FEDERATED_PREFIX if self.only is Scope.FEDERATED else ""
        return prefix + self.name


@dataclass(frozen=True, slots=True)
class Selector:
    """What a subscription wants.

    Attributes:
        pattern: A topic's name, or a shell pattern such as `train.*`.
        event_type: The class of wanted events, subclasses included; None for all.
        only: The one scope it takes, or None for both.
        sites: Names of the sites it takes, or none for all; only what reads a journal heeds it, and the same for runs.
        runs: Ids of the runs it takes, or none for all.
    """

    pattern: str = "*"
    event_type: type[Event] | None = None
    only: Scope | None = None
    sites: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    @classmethod
    def of(cls, what: type[Event] | Topic[Event] | str) -> Selector:
        """Make the selector that an event class, a topic or a pattern stands for.

        Raises:
            SubscriptionError: It is none of these.
        """
        if isinstance(what, str):
            return cls(pattern=what)
        wanted, event_type = (cls(), what)
        if isinstance(what, Topic):
            wanted, event_type = cls(pattern=what.name, only=what.only), what.event_type
        if not (isinstance(event_type, type) and hasattr(event_type, "event_topic")):
            msg = f"subscribe to an event class, a topic or a pattern of topic names such as 'train.*', not to {what!r}"
            raise SubscriptionError(msg)
        return replace(wanted, event_type=event_type)

    def matches(self, topic: str, event_type: type[Event], scope: Scope) -> bool:
        """Tell whether a record is wanted."""
        return self.admits(topic, scope) and (self.event_type is None or issubclass(event_type, self.event_type))

    def admits(self, topic: str, scope: Scope) -> bool:
        """Tell whether a record may be wanted, by its address alone."""
        if self.only is not None and scope is not self.only:
            return False
        return self.pattern == topic or fnmatchcase(topic, self.pattern)

    def admits_run(self, site: str, run: str) -> bool:
        """Tell whether a run's records may be wanted."""
        return (not self.sites or site in self.sites) and (not self.runs or run in self.runs)
