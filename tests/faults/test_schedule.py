"""The campaign's faults are the same for the same seed, and strike everybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.layout import Layout
from faults.schedule import WEIGHTS, Cast, make_schedule

CAST = Layout(Path("/nowhere"), ("jsonl", "tensorboard", "ordered", "mlflow", "wandb")).cast()


def test_the_same_seed_gives_the_same_faults() -> None:
    assert make_schedule(1, CAST, 50, 100) == make_schedule(1, CAST, 50, 100)
    assert make_schedule(1, CAST, 50, 100) != make_schedule(2, CAST, 50, 100)


@pytest.mark.parametrize("seed", range(5))
def test_every_kind_strikes_and_in_time(seed: int) -> None:
    schedule = make_schedule(seed, CAST, 48, 100.0)
    assert len(schedule) == 48
    assert {fault.kind for fault in schedule} == set(WEIGHTS)
    assert [fault.at for fault in schedule] == sorted(fault.at for fault in schedule)
    assert all(0 < fault.at <= 100 for fault in schedule)
    assert sum(fault.hits_sdk() for fault in schedule) >= 8


def test_nobody_is_struck_who_is_not_there() -> None:
    cast = Cast(hosts=("federation",), trainers=(), consumers=("server/jsonl",), sinks=False)
    schedule = make_schedule(0, cast, 200, 100.0)
    assert {fault.kind for fault in schedule} == {"kill worker", "stop", "kill host", "everything"}
    assert {fault.target for fault in schedule} == {"federation", "server/jsonl", "all"}
    assert not any(fault.hits_sdk() for fault in schedule)
