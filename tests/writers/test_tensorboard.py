from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eventbus import Envelope, Event, EventBus, Receipt, Scope
from eventbus.errors import BadInputError
from eventbus.tracking import MetricsLogged, RunFinished, RunStarted, TextLogged, TrackingEvent
from writers import SummaryWriter

Stored = Callable[[type[Event]], list[Envelope[Any]]]
StoredOn = Callable[..., list[Envelope[Any]]]


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


def test_folders_tell_runs_apart(tmp_path: Path, bus: EventBus, stored: Stored) -> None:
    for _ in range(2):  # made anew, they are the same runs
        for name, loss in (("train", 1.0), ("val", 2.0), ("val?", 3.0)):
            SummaryWriter(tmp_path / name).add_scalar("loss", loss, 0)
        SummaryWriter().add_scalar("loss", 0.0, 0)
        SummaryWriter(tmp_path / "val", run="mine").add_scalar("loss", 4.0, 0)

    runs = [one.run for one in stored(MetricsLogged)]
    train, val, odd = runs[:3]
    assert runs == [train, val, odd, "run-1", "mine"] * 2
    assert (train, val[:10], odd[:10], val != odd) == ("run-1", "run-1-val-", "run-1-val-", True)
    names = {one.run: one.event.name for one in stored(RunStarted)}
    assert names == {
        "run-1": "run-1",
        val: "val",
        odd: "val",
        "mine": "mine",
    }


def test_the_longest_names_make_a_legal_run(stored_on: StoredOn) -> None:
    with EventBus(run="r" * 63).background() as bus:
        for folder in ("logs/a", f"logs/{'b' * 200}"):
            SummaryWriter(folder).add_scalar("loss", 1.0, 0)

    assert [len(one.run) for one in stored_on(bus, MetricsLogged)] == [63, 63]


def test_the_log_dir_is_there_for_what_a_script_saves(tmp_path: Path, bus: EventBus) -> None:
    writer = SummaryWriter(tmp_path / "deep" / "runs")

    assert not (tmp_path / "deep").exists()
    Path(writer.log_dir, "model.pt").write_text("x")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"log_dir": "logs/a"}, "logs/a"),
        ({"log_dir": Path("logs/a")}, "logs/a"),
        ({}, "runs/run-1"),
        ({"comment": "-wide"}, "runs/run-1-wide"),
    ],
)
def test_the_log_dir_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bus: EventBus, arguments: dict[str, Any], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
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
