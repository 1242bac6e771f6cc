"""The vocabulary of experiment tracking: its events and their topic.

Every writer publishes these and every receiver understands them, so any writer's events fill any tracker.
Metric values may be NaN or infinite: they round-trip.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, StringConstraints

from eventbus._event import Event
from eventbus._topic import Topic

MAX_KEYS = 1000
"""Keys in one event; a call that logs more is split by the writer's caller."""

MAX_KEY_LENGTH = 250
"""Characters of a key: what MLflow, the narrowest tracker, accepts."""

Key = Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY_LENGTH, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Name of a metric, parameter, tag or text: printable, 1 to 250 characters."""

Step = Annotated[int, Field(ge=0, lt=2**63)]
"""Position of a value on the user's own axis: an integer from 0."""

Scalar = str | bool | int | float
"""What a parameter may be."""


class RunStatus(Enum):
    """How a run ended, in the words of the trackers."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


class TrackingEvent(Event, topic="analytix_log_stats"):
    """Base of all tracking events."""


class RunStarted(TrackingEvent):
    """A run began, or went on after a restart.

    Attributes:
        name: How people call the run.
        group: What its sibling runs at other sites share: the job.
    """

    name: Key
    group: str = ""


class RunFinished(TrackingEvent):
    """A run ended: with success, by an error, or killed."""

    event_urgent: ClassVar[bool] = True

    status: Literal["FINISHED", "FAILED", "KILLED"]
    reason: str = ""


class MetricsLogged(TrackingEvent):
    """Numbers measured at one moment.

    Attributes:
        values: Number by key.
        step: Where on the user's axis; None where the caller gave no step.
        main_tag: For numbers drawn in one chart (`add_scalars`): the tag that they share.
    """

    values: dict[Key, float] = Field(min_length=1, max_length=MAX_KEYS)
    step: Step | None = None
    main_tag: Key | None = None

    @property
    def event_subject(self) -> Hashable:
        """Which metrics."""
        return self.main_tag, *self.values


class ParamsLogged(TrackingEvent):
    """Parameters of the run: set once, not measured."""

    values: dict[Key, Scalar] = Field(min_length=1, max_length=MAX_KEYS)

    @property
    def event_subject(self) -> Hashable:
        """Which parameters."""
        return tuple(self.values)


class TagsSet(TrackingEvent):
    """Labels of the run; a later one replaces an earlier one."""

    values: dict[Key, str] = Field(min_length=1, max_length=MAX_KEYS)

    @property
    def event_subject(self) -> Hashable:
        """Which labels."""
        return tuple(self.values)


class ConfigUpdated(TrackingEvent):
    """Nested configuration of the run; later values replace earlier ones key by key."""

    values: dict[Key, JsonValue] = Field(min_length=1, max_length=MAX_KEYS)

    @property
    def event_subject(self) -> Hashable:
        """Which settings."""
        return tuple(self.values)


class TextLogged(TrackingEvent):
    """A text.

    Attributes:
        key: Its tag, or the path of its file within the run.
        text: The text itself.
        step: Where on the user's axis; None where the caller gave no step.
        is_file: Whether `key` is the path of a file, as MLflow's `log_text` has it, or a tag.
    """

    key: Key
    text: str
    step: Step | None = None
    is_file: bool = False

    @property
    def event_subject(self) -> Hashable:
        """Which text."""
        return self.key


TRACKING: Topic[TrackingEvent] = Topic(TrackingEvent.event_topic, TrackingEvent)
"""All tracking events of this bus; `TRACKING.federated` only those that may cross to a server."""
