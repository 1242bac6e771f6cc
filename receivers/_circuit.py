"""How long to leave a tracker alone that fails, and when to say that it does. Pure: it is given the failures."""

from __future__ import annotations

import random
from dataclasses import dataclass

BACK_OFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Pause before each further try in a row; any progress starts over. Jittered, so that workers don't move in step."""

OPEN_AFTER = 5
"""Failures in a row, some 10 s of them, that open the circuit: a tracker that is restarted is back sooner."""

OPEN_SECONDS = 30.0
"""Pause between tries while the circuit is open: what a person can wait, and no load for a tracker that is down."""

HURRIED_SECONDS = 2.0
"""Longest pause once the bus drains: its time is short, and a tracker may come back in it."""


@dataclass(slots=True)
class Circuit:
    """Counts the failures of one tracker in a row. While it is open, tries go on, but seldom.

    Attributes:
        failures: In a row, without anything stored in between.
        is_open: Whether they are so many that the tracker is left alone.
        reason: The last one.
    """

    failures: int = 0
    is_open: bool = False
    reason: str = ""

    def fail(self, reason: str, *, for_good: bool = False) -> bool:
        """Count a failure and tell whether it opens the circuit: one that a person must mend does so at once."""
        self.failures += 1
        self.reason = reason
        opens = not self.is_open and (for_good or self.failures >= OPEN_AFTER)
        self.is_open = self.is_open or opens
        return opens

    def succeed(self) -> bool:
        """Start over; tell whether that closes the circuit."""
        was_open = self.is_open
        self.failures, self.is_open, self.reason = 0, False, ""
        return was_open

    def pause(self, *, hurried: bool = False) -> float:
        """Return the seconds until the next try."""
        step = min(self.failures, len(BACK_OFF_SECONDS)) - 1
        longest = OPEN_SECONDS if self.is_open else BACK_OFF_SECONDS[max(0, step)]
        return min(longest, HURRIED_SECONDS if hurried else longest) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it
