"""The campaign's own judge finds what it is there to find: without that, a row of zeros means nothing."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from faults.audit import Expectation, Ledger, Verdict, compare, judge
from faults.events import (
    EVENTS_OF_A_LIFE,
    LIVES,
    POISON,
    PUBLISHERS,
    Publisher,
    keys_of,
    number_of,
    publisher_of,
    with_key,
)
from faults.layout import read_ledgers
from faults.stores import TornStoreError, read_store


def figures(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.lost, verdict.doubled, verdict.reordered, verdict.foreign


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ([1, 2, 3, 4], (0, 0, 0, 0)),
        ([1, 2, 4], (1, 0, 0, 0)),
        ([], (4, 0, 0, 0)),
        ([1, 2, 3, 3, 4], (0, 1, 0, 0)),
        ([1, 2, 3, 4, 1, 2], (0, 2, 0, 0)),
        ([1, 3, 2, 4], (0, 0, 1, 0)),
        ([4, 1, 2, 3], (0, 0, 1, 0)),
        ([1, 2, 3, 4, 9], (0, 0, 0, 1)),
        ([1, 2, 3, 4, 5], (0, 0, 0, 0)),  # the call that may have been under way
        ([1, 2, 3, 4, 5, 5], (0, 1, 0, 0)),  # but not twice
        ([2, 1, 1], (2, 1, 1, 0)),
    ],
)
def test_a_series_is_judged(stored: list[int], found: tuple[int, int, int, int]) -> None:
    assert figures(judge([1, 2, 3, 4], [5], stored)) == found


ONE, OTHER = Publisher(0, "site-1", "r1"), Publisher(1, "site-2", "r1")


def ledger(publisher: Publisher, count: int = 60) -> Ledger:
    return Ledger(publisher, tuple(number_of(publisher.index, 0, event) for event in range(count)))


EXPECTED = Expectation((ledger(ONE), ledger(OTHER)), ("loss", "accuracy", "private", "note"), frozenset({"site-1"}))


def whole() -> dict[tuple[str, str], list[int]]:
    stored = {
        (one.publisher.name, key): with_key(one.numbers, key)
        for one in EXPECTED.ledgers
        for key in ("loss", "accuracy", "private", "note")
    }
    del stored["site-2-r1", "private"]
    return stored


def test_a_whole_store_is_clean() -> None:
    verdict = compare("tracker", EXPECTED, whole())
    assert verdict.clean
    assert verdict.expected == sum(map(len, whole().values()))
    assert not verdict.where


def test_each_series_that_is_not_clean_is_named() -> None:
    stored = whole()
    del stored["site-1-r1", "loss"][5]
    stored["site-2-r1", "note"] *= 2
    verdict = compare("tracker", EXPECTED, stored)
    assert (verdict.lost, verdict.doubled) == (1, 3)
    assert [place.partition(":")[0] for place in verdict.where] == ["tracker site-1-r1 loss", "tracker site-2-r1 note"]


def test_what_another_publisher_logged_is_foreign() -> None:
    stored = whole()
    stored["site-1-r1", "loss"], stored["site-2-r1", "loss"] = stored["site-2-r1", "loss"], stored["site-1-r1", "loss"]
    verdict = compare("tracker", EXPECTED, stored)
    assert verdict.lost == verdict.foreign == 2 * len(stored["site-1-r1", "loss"])


def test_a_local_event_that_left_its_site_is_foreign() -> None:
    stored = whole() | {("site-2-r1", "private"): [number_of(1, 0, 3)]}
    assert figures(compare("tracker", EXPECTED, stored)) == (0, 0, 0, 1)


def test_a_map_has_no_order() -> None:
    numbers = ledger(ONE, 700)
    expected = Expectation((numbers,), ("param",), frozenset(), unordered=frozenset({"param"}))
    stored = {("site-1-r1", "param"): with_key(numbers.numbers, "param")[::-1]}
    assert compare("tracker", expected, stored).clean
    stored["site-1-r1", "param"].pop()
    assert compare("tracker", expected, stored).lost == 1


# --- what it is given -----------------------------------------------------------------------------------------------


def test_numbers_are_exact_in_32_bits_and_grow() -> None:
    highest = number_of(PUBLISHERS - 1, LIVES - 1, EVENTS_OF_A_LIFE - 1)
    assert struct.unpack("f", struct.pack("f", highest)) == (highest,)
    assert struct.unpack("f", struct.pack("f", highest - 1)) == (highest - 1,)
    assert number_of(1, 0, 0) > number_of(0, LIVES - 1, EVENTS_OF_A_LIFE - 1)
    assert number_of(0, 1, 0) > number_of(0, 0, EVENTS_OF_A_LIFE - 1)


def test_every_key_comes_up() -> None:
    counts = {key: len(with_key(range(1000), key)) for key in ("loss", "accuracy", "private", "note", "param")}
    assert counts == {"loss": 915, "accuracy": 915, "private": 40, "note": 40, "param": 5}
    assert {len(keys_of(number)) for number in range(1000)} == {1, 2}


def test_poison_is_rare() -> None:
    assert {number_of(3, 0, 150), number_of(3, 1, 150)} == POISON
    assert with_key(range(min(POISON) - 1000, max(POISON) + 1000), "poison") == sorted(POISON)
    assert {publisher_of(number) for number in POISON} == {3}


def test_a_ledger_is_read_life_by_life(tmp_path: Path) -> None:
    for life, count in enumerate((3, 0, 2)):
        numbers = [number_of(1, life, event) for event in range(count)]
        (tmp_path / f"site-1-r1.{life:02}").write_text("".join(f"{number}\n" for number in numbers))
    found = read_ledgers(tmp_path)["site-1-r1"]
    assert found.numbers == tuple(number_of(1, life, event) for life, event in ((0, 0), (0, 1), (0, 2), (2, 0), (2, 1)))
    assert found.unsure == {number_of(1, 0, 3), number_of(1, 1, 0), number_of(1, 2, 2)}


def test_a_store_is_read_and_a_torn_one_is_told(tmp_path: Path) -> None:
    file = tmp_path / "jsonl" / "r1" / "site-1.jsonl"
    file.parent.mkdir(parents=True)
    line = {"site": "site-1", "run": "r1", "type": "MetricsLogged", "event": {"values": {"loss": 7.0, "accuracy": 7.0}}}
    file.write_text(json.dumps(line) + "\n")
    assert read_store(tmp_path, "jsonl") == {("site-1-r1", "loss"): [7], ("site-1-r1", "accuracy"): [7]}
    file.write_text(json.dumps(line))
    with pytest.raises(TornStoreError):
        read_store(tmp_path, "jsonl")
