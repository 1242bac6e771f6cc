from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eventbus import Envelope, Event, EventBus, Receipt, Scope
from eventbus.errors import BadInputError
from eventbus.tracking import MetricsLogged, RunFinished, TextLogged, TrackingEvent
from writers import SummaryWriter

Stored = Callable[[type[Event]], list[Envelope[Any]]]


def test_scalars_and_texts_are_published(bus: EventBus, stored: Stored) -> None:
    writer = SummaryWriter()

    receipts = [
        writer.add_scalar("train/loss", torch.tensor(0.5), 3),
        writer.add_scalar("lr", 0.1),
        writer.add_scalars("loss", {"train": 0.5, "valid": np.float32(0.25)}, 4),
        writer.add_text("note", "hello", 5),
    ]

    assert [one.event for one in stored(TrackingEvent)][1:] == [
        MetricsLogged(values={"train/loss": 0.5}, step=3),
        MetricsLogged(values={"lr": 0.1}),
        MetricsLogged(values={"train": 0.5, "valid": 0.25}, step=4, main_tag="loss"),
        TextLogged(key="note", text="hello", step=5),
    ]
    assert [receipt.seq for receipt in receipts] == [2, 3, 4, 5]


def test_walltime_is_seconds(bus: EventBus, stored: Stored) -> None:
    writer = SummaryWriter()

    writer.add_scalar("a", 1, 0, 12.5)
    writer.add_scalars("a", {"b": 1}, 0, 12.5)
    writer.add_text("a", "b", 0, 12.5)
    writer.add_scalar("a", 1, 0, None, new_style=True, double_precision=True)

    *given, now = [one.time_ns for one in stored(TrackingEvent)][1:]
    assert given == [12_500_000_000] * 3
    assert now > 1_600_000_000 * 10**9
    with pytest.raises(BadInputError, match="'walltime' is out of range"):
        writer.add_scalar("a", 1, 0, -1.0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"log_dir": "logs/a"}, "logs/a"),
        ({"log_dir": Path("logs/a")}, "logs/a"),
        ({}, "runs/run-1"),
        ({"comment": "-wide"}, "runs/run-1-wide"),
    ],
)
def test_the_log_dir_is_given_back(bus: EventBus, arguments: dict[str, Any], expected: str) -> None:
    writer = SummaryWriter(**arguments)

    assert (writer.get_logdir(), writer.log_dir) == (expected, expected)


def test_options_of_ours_are_keywords(bus: EventBus, stored: Stored) -> None:
    with SummaryWriter("logs", run="run-2", scope=Scope.FEDERATED, on_bad_input="count") as writer:
        writer.add_scalar("loss", "0.5")
        assert isinstance(writer.flush(), Receipt)
        writer.close()
        writer.close()
        writer.add_scalar("loss", 0.5)

    [one] = stored(MetricsLogged)
    assert (one.run, one.scope, writer.bad_inputs) == ("run-2", Scope.FEDERATED, {"loss": 1})
    assert repr(writer) == "SummaryWriter(run='run-2', scope=FEDERATED)"


def test_leaving_the_writer_does_not_end_the_run(bus: EventBus, stored: Stored) -> None:
    with SummaryWriter() as writer:
        writer.add_scalar("loss", 0.5)

    assert stored(RunFinished) == []
