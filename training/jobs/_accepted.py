"""What NVFLARE's jobs contain, and what needs nothing here."""

from __future__ import annotations

from collections.abc import Sequence

ANALYTIC_EVENT_TYPE = "analytix_log_stats"
"""What NVFLARE calls the event of something logged; receivers accept it as their `events`."""


class ConvertToFedEvent:
    """Accepted in any place of a job, and left out: what sites log reaches the server if a tracker is there.

    Args:
        events_to_convert: Has no effect.
        fed_event_prefix: Has no effect.
    """

    def __init__(self, events_to_convert: Sequence[str], fed_event_prefix: str = "fed.") -> None:
        self.events_to_convert = list(events_to_convert)
        self.fed_event_prefix = fed_event_prefix

    def add_to_fed_job(self, job: object, ctx: object) -> None:
        """Put nothing."""
