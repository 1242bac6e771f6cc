"""The pure half of batching: when a batch is due, and what is in it."""

import pytest
from pydantic import ValidationError

from eventbus import Origin
from eventbus.abc import PartitionHeader, StoredRecord
from receivers import FlushPolicy
from receivers._batch import Batcher

HEADER = PartitionHeader(origin=Origin(site="s", rank=0, incarnation="a", job="j"), created_ns=1)


def records(count: int, size: int = 10, first: int = 1) -> list[StoredRecord]:
    return [StoredRecord(HEADER, seq, bytes(size)) for seq in range(first, first + count)]


def test_nothing_held_is_never_due() -> None:
    batcher = Batcher(FlushPolicy())
    batcher.add([], now=5.0)
    assert batcher.wait(100.0) is None
    assert batcher.take() == []


def test_a_record_waits_for_others_no_longer_than_the_delay() -> None:
    batcher = Batcher(FlushPolicy(max_delay=0.5))
    batcher.add(records(1), now=10.0)
    assert batcher.wait(10.2) == pytest.approx(0.3)
    batcher.add(records(1, first=2), now=10.4)  # a later one does not put it off
    assert batcher.wait(10.5) == 0.0
    assert [record.seq for record in batcher.take()] == [1, 2]


def test_enough_records_are_due_at_once_and_the_rest_stays() -> None:
    batcher = Batcher(FlushPolicy(max_items=3))
    batcher.add(records(5), now=0.0)
    assert batcher.wait(0.0) == 0.0
    assert batcher.room == 0
    assert [record.seq for record in batcher.take()] == [1, 2, 3]
    assert [record.seq for record in batcher.take()] == [4, 5]


def test_enough_bytes_are_due_at_once_and_a_batch_stays_below_them() -> None:
    batcher = Batcher(FlushPolicy(max_bytes=25))
    batcher.add(records(4), now=0.0)
    assert batcher.wait(0.0) == 0.0
    assert [len(batcher.take()) for _ in range(3)] == [2, 2, 0]


def test_one_record_larger_than_the_bound_is_a_batch_of_its_own() -> None:
    batcher = Batcher(FlushPolicy(max_bytes=25))
    batcher.add(records(2, size=100), now=0.0)
    assert [len(batcher.take()) for _ in range(3)] == [1, 1, 0]


@pytest.mark.parametrize("bound", ["max_items", "max_bytes", "max_delay"])
def test_a_bound_of_nothing_is_refused(bound: str) -> None:
    with pytest.raises(ValidationError, match=bound):
        FlushPolicy.model_validate({bound: 0})
