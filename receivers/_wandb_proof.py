"""What was handed to the W&B SDK, and what of it provably stands in its file. Loads no SDK.

Rows of the history carry their numbers, and updates that come again do no harm. Alerts and artifacts carry no number,
and would stand there twice: so they are counted. The position says how many of them there were up to its row; those
that the files have beyond are left out when their rows come again, in the same order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from receivers.abc import Position

if TYPE_CHECKING:
    from receivers._wandb_file import Stored


class Proof(NamedTuple):
    """The record by which a call can be seen in the SDK's file.

    Attributes:
        kind: Its kind.
        keys: What it is about; empty for a row of the history.
    """

    kind: str
    keys: tuple[str, ...] = ()


@dataclass(slots=True)
class _Awaited:
    """A record that must come to stand in the file.

    Attributes:
        proof: Which one.
        number: Our row's number.
        upto: Number of the last row that is stored when it does.
        singles: How many of what may not come twice there are up to that row.
    """

    proof: Proof
    number: int
    upto: int
    singles: int

    def is_proved_by(self, record: Stored) -> bool:
        """Tell whether a record of the file is this one: they reach it in the order of the calls."""
        if record.kind != self.proof.kind:
            return False
        return self.number <= record.step if record.kind == "history" else self.proof.keys == record.keys


class Proofs:
    """Knows how far a run is stored.

    Args:
        committed: Where the worker's cursor stands.
        row: Number of the last row that the tracker has.
        singles: How many records that may not come twice stand in the run's files.
    """

    def __init__(self, committed: Position, row: int, singles: int) -> None:
        self._awaited: deque[_Awaited] = deque()
        self._committed = committed.row
        self._singles = self._seen = int(committed.token or 0)
        self._recorded = max(0, singles - self._singles)
        # Where the files have more of them than the position says, the rows that come again say whose they are.
        self._stored = committed.row if self._recorded else max(committed.row, row)

    @property
    def position(self) -> Position:
        """How far the run is stored."""
        return Position(self._stored, str(self._singles) if self._singles else "")

    @property
    def lacking(self) -> int:
        """How many records the file lacks."""
        return len(self._awaited)

    def is_recorded(self, number: int) -> bool:
        """Count what may not come twice, of a row behind the position; tell whether the files have it already."""
        if number <= self._committed:
            return True
        self._seen += 1
        if self._recorded:
            self._recorded -= 1
            return True
        return False

    def expect(self, proof: Proof, number: int, *, is_last: bool = True) -> None:
        """Wait for a record.

        Args:
            proof: Which one.
            number: Our row's number.
            is_last: Whether it is all that the row becomes.
        """
        self._awaited.append(_Awaited(proof, number, number if is_last else number - 1, self._seen))

    def pass_over(self, number: int) -> None:
        """Note a row that becomes no record: it is stored as soon as all that went before it is."""
        if self._awaited:
            self._awaited[-1].upto, self._awaited[-1].singles = number, self._seen
        elif number > self._stored:
            self._stored, self._singles = number, self._seen

    def take(self, record: Stored) -> None:
        """Strike off what a record of the file proves."""
        while self._awaited and self._awaited[0].is_proved_by(record):
            last = self._awaited.popleft()
            self._stored, self._singles = max(self._stored, last.upto), last.singles
            if record.kind != "history":
                break
