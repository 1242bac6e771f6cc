"""What a publisher of the campaign logs: numbers that say who logged them, in which life, and as which of its events.

A number is stored by every tracker as a value, a text or a key, and is exact in TensorBoard's 32 bits. It grows with
each event of a publisher, over all its lives, so loss, doubling, disorder and mixing-up can be told exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

EVENTS_OF_A_LIFE = 1 << 15
LIVES = 1 << 5
PUBLISHERS = 1 << 4  # all three together: 24 bits, which a 32-bit float holds exactly

Key = Literal["loss", "accuracy", "private", "note", "param", "poison"]


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who logs: a process at a site, with a run of its own that goes on over its lives."""

    index: int
    site: str
    run: str

    @property
    def name(self) -> str:
        return f"{self.site}-{self.run}"


def number_of(index: int, life: int, event: int) -> int:
    """Pack them; each has its bound."""
    assert index < PUBLISHERS
    assert life < LIVES
    assert event < EVENTS_OF_A_LIFE
    return (index * LIVES + life) * EVENTS_OF_A_LIFE + event


def publisher_of(number: int) -> int:
    """Return the publisher's index."""
    return number // EVENTS_OF_A_LIFE // LIVES


POISON = frozenset(number_of(3, life, 150) for life in range(2))
"""One sink can't store these, however often it tries. They are few: each costs its worker many lives until found."""


def keys_of(number: int) -> tuple[Key, ...]:
    """Say under which keys an event of this number is stored: most are metrics of two values."""
    if number in POISON:
        return ("poison",)
    place = number % 200
    if place == 150:
        return ("param",)
    if place % 25 == 7:
        return ("note",)
    if place % 25 == 3:
        return ("private",)
    return ("loss", "accuracy")


def with_key(numbers: Iterable[int], key: str) -> list[int]:
    """Return those that are stored under a key."""
    return [number for number in numbers if key in keys_of(number)]
