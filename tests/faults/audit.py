"""Compares what publishers know they published with what a tracker holds. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from faults.events import Publisher, with_key

Stored = Mapping[tuple[str, str], Sequence[int]]
"""(Publisher's name, key) -> the numbers that a tracker holds under it, in the tracker's order."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a publisher knows.

    Attributes:
        publisher: Who it is.
        numbers: Log calls that returned, in their order.
        unsure: The calls that may have been under way when a life ended: stored or not, but at most once.
    """

    publisher: Publisher
    numbers: tuple[int, ...]
    unsure: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of values.

    Attributes:
        expected: Logged, and to be stored.
        lost: Logged and not stored.
        doubled: Stored more than once.
        reordered: Stored behind a later one.
        foreign: Stored, but never logged under that key, or not meant for that tracker.
    """

    expected: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    foreign: int = 0
    where: tuple[str, ...] = field(default=())

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.reordered or self.foreign)

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.expected + other.expected,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.reordered + other.reordered,
            self.foreign + other.foreign,
            self.where + other.where,
        )


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one tracker must hold.

    Attributes:
        ledgers: Publishers whose events go there.
        keys: Keys that it stores in a way that can be read back.
        private_of: Sites whose local events belong there; those of others must not be there at all.
        ordered: Whether it keeps an order and repetitions; a map of parameters does not.
    """

    ledgers: tuple[Ledger, ...]
    keys: tuple[str, ...]
    private_of: frozenset[str]
    unordered: frozenset[str] = frozenset()


def compare(tracker: str, expectation: Expectation, stored: Stored) -> Verdict:
    """Judge every series that was expected, and every one that was found."""
    wanted = {
        (ledger.publisher.name, key): ledger
        for ledger in expectation.ledgers
        for key in expectation.keys
        if key != "private" or ledger.publisher.site in expectation.private_of
    }
    verdict = Verdict()
    for (name, key), ledger in wanted.items():
        found = stored.get((name, key), ())
        found = sorted(found) if key in expectation.unordered else found
        one = judge(with_key(ledger.numbers, key), with_key(ledger.unsure, key), found)
        verdict += _placed(one, f"{tracker} {name} {key}")
    for series in stored.keys() - wanted.keys():
        verdict += _placed(Verdict(foreign=len(stored[series])), f"{tracker} {' '.join(series)}")
    return verdict


def judge(published: Collection[int], unsure: Collection[int], stored: Sequence[int]) -> Verdict:
    """Judge one series; numbers grow in the order of publishing."""
    counts = Counter(stored)
    firsts = list(counts)  # in the order of first appearance
    return Verdict(
        expected=len(published),
        lost=len(set(published) - counts.keys()),
        doubled=counts.total() - len(counts),
        reordered=sum(later < earlier for earlier, later in pairwise(firsts)),
        foreign=len(counts.keys() - set(published) - set(unsure)),
    )


def _placed(verdict: Verdict, place: str) -> Verdict:
    """Say where it is, if anything is wrong."""
    if verdict.clean:
        return verdict
    said = f"{place}: {verdict.lost} lost, {verdict.doubled} doubled, {verdict.reordered} reordered"
    said += f", {verdict.foreign} foreign of {verdict.expected}"
    return verdict + Verdict(where=(said,))
