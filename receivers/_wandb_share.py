"""Whose rows a W&B run holds: several journals may fill one run, one after the other. Loads no SDK.

A trainer that goes on in a new workspace names its run, and W&B has rows under that name already. The new journal
counts its own from 1: they go behind those that are there, and only what this journal's own rows have become may be
left out when they come again. So the run's summary says whose its last rows are.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from receivers.abc import Position

SHARE = "_trackbus"
"""Field of the summary that holds the last share."""


class Share(NamedTuple):
    """The part of a W&B run that one journal fills.

    Attributes:
        journal: What tells the journal's rows from another's: when the first of them was logged. One whose beginning
            was trimmed counts its rows anew, and is another.
        offset: What a row's number in W&B has more than its own.
        singles: How much there is of others, in the files, that may not come twice.
        before: Digest of the share before it; empty for the first.
    """

    journal: str
    offset: int
    singles: int
    before: str

    @property
    def text(self) -> str:
        """How it stands in the summary."""
        return ":".join(map(str, self))

    @classmethod
    def of(cls, text: str) -> Self | None:
        """Return the share that a text says; None where it says none."""
        journal, *rest = text.split(":")
        try:
            offset, singles, before = rest
            return cls(journal, int(offset), int(singles), before)
        except ValueError:
            return None

    def follows(self, text: str) -> bool:
        """Tell whether this share came right after another."""
        return self.before == _digest(text)


class Held(NamedTuple):
    """What a W&B run holds.

    Attributes:
        row: Number of its last row.
        singles: How much there is in the files that may not come twice.
        in_files: The last share that the files tell of; empty for none.
        at_server: The one that the server tells of.
    """

    row: int
    singles: int
    in_files: str
    at_server: str

    @property
    def last(self) -> str:
        """The last share: that of the files, where it follows the server's or the server has not heard of it yet."""
        share = Share.of(self.in_files)
        is_known = share is not None and (self.at_server in ("", self.in_files) or share.follows(self.at_server))
        return self.in_files if is_known else self.at_server


def share_of(journal: str, committed: Position, held: Held) -> Share:
    """Return the share of a journal: the last one if it is its own, else a new one behind all that the run holds."""
    last = Share.of(held.last)
    if last is not None and last.journal == journal:
        return last
    singles = held.singles - int(committed.token or 0)
    return Share(journal, max(0, held.row - committed.row), max(0, singles), _digest(held.last))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""
