"""What every tracking event has in common: its topic, and what keys and steps are."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated

from pydantic import Field, StringConstraints

from eventbus._event import Event

MAX_KEYS = 1000
"""Keys in one event; a call that logs more is split by the writer's caller."""

MAX_KEY_LENGTH = 250
"""Characters of a key: what MLflow, the narrowest tracker, accepts."""

Key = Annotated[str, StringConstraints(min_length=1, max_length=MAX_KEY_LENGTH, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""Name of a metric, parameter, tag, text or file: printable, 1 to 250 characters."""

Step = Annotated[int, Field(ge=0, lt=2**63)]
"""Position of a value on the user's own axis: an integer from 0."""

Scalar = str | bool | int | float
"""What a parameter may be."""


class TrackingEvent(Event, topic="analytix_log_stats"):
    """Base of all tracking events."""


class KeyedEvent(TrackingEvent):
    """Base of what is logged under a key at a step.

    Attributes:
        key: Its tag, or the path of its file within the run.
        step: Where on the user's axis; None where the caller gave no step.
    """

    key: Key
    step: Step | None = None

    @property
    def event_subject(self) -> Hashable:
        """Which one."""
        return self.key
