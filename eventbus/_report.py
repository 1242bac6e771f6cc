"""What became of the events of a bus, per subscription."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventbus.abc import TrackerRun


@dataclass(frozen=True, slots=True)
class Line:
    """One subscription's part of the report; all are counts of events.

    Attributes:
        name: The receiver, relay or handler.
        delivered: Stored at the far end, or handled.
        dropped: Given up; the causes stand in `notes`.
        failed: Handler calls that raised, or failed attempts of a receiver.
        lost: Never delivered and never will be: what was dropped, and the events on which a handler raised. A receiver
            makes its failed attempts again.
        left: Still in the journal: they are delivered when the workspace is opened again.
        notes: Causes and states, for people.
        look: The command with which a person looks at the result.
        by_site: Events stored, by site.
        dropped_by_site: Events given up, by site, as far as the consumer tells.
        values: Numbers among them.
        runs: What the tracker calls the runs that were opened: see `ConsumerStatistics`.
    """

    name: str
    delivered: int = 0
    dropped: int = 0
    failed: int = 0
    lost: int = 0
    left: int = 0
    notes: tuple[str, ...] = ()
    look: str = ""
    by_site: dict[str, int] = field(default_factory=dict[str, int])
    dropped_by_site: dict[str, int] = field(default_factory=dict[str, int])
    values: int = 0
    runs: dict[str, TrackerRun] = field(default_factory=dict[str, "TrackerRun"])


@dataclass(frozen=True, slots=True)
class Report:
    """What a bus did. `str(report)` is a table.

    Attributes:
        published: Events taken by the journal.
        refused: Events that the journal could not take, by cause.
        lines: One per subscription.
        drained: Whether the drain ended before its deadline.
        health: How many of the published are words of the bus's and its receivers' own health: no tracker stores these.
        notes: What happened to the journal's files, for people.
        lost: Events that the journal took and may have lost, by cause: forgotten in memory, or not synced.
    """

    published: int
    refused: dict[str, int]
    lines: tuple[Line, ...]
    drained: bool = True
    health: int = 0
    notes: tuple[str, ...] = ()
    lost: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def complete(self) -> bool:
        """Whether every published event was delivered to every subscription: stored, or handled without an error."""
        return not self.refused and all(not (line.lost or line.left) for line in self.lines)

    def line(self, name: str) -> Line:
        """Return one subscription's part.

        Raises:
            KeyError: There is no such subscription.
        """
        for line in self.lines:
            if line.name == name:
                return line
        raise KeyError(name)

    def __str__(self) -> str:
        refused = "".join(f", {count} refused ({cause})" for cause, count in self.refused.items())
        lost = "".join(f", {count} {cause}" for cause, count in self.lost.items())
        head = f"{self.published} events published{refused}{lost}"
        if not self.drained:
            head += "; the drain ended at its deadline: what is left stays in the journal"
        rows = [("receiver", "delivered", "dropped", "failed", "left", "")]
        rows += [
            (
                line.name,
                str(line.delivered),
                str(line.dropped),
                str(line.failed),
                str(line.left),
                "; ".join(line.notes),
            )
            for line in self.lines
        ]
        return "\n".join([head, *self.notes, *align(rows)])


def align(rows: list[tuple[str, ...]]) -> Iterable[str]:
    """Yield rows as lines: names to the left, figures to the right, and a last column of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        name = row[0].ljust(widths[0])
        figures = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True)]
        yield "  ".join([name, *figures, row[-1]]).rstrip()
