import copy
import inspect
from argparse import Namespace
from collections import UserDict
from collections.abc import Callable
from datetime import UTC, date, datetime
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from eventbus import Envelope, Event, EventBus, Scope
from eventbus.errors import BadInputError
from eventbus.tracking import ConfigUpdated, MetricsLogged, RunFinished, SummaryUpdated, TextLogged
from writers import WandBWriter
from writers._intake import Intake
from writers._wandb_log import parted
from writers._writer import LEFT_OUT
from writers.wandb import WandBConfig

Stored = Callable[[type[Event]], list[Envelope[Any]]]
StoredOn = Callable[..., list[Envelope[Any]]]


class Colour(Enum):
    RED = 1


# ------------------------------------------------------------------------------------------------------------ log
def test_numbers_and_texts_are_published(bus: EventBus, stored: Stored) -> None:
    receipt = WandBWriter().log({"loss": 0.5, "note": "hello", "model": {"gate": {"lr": 1}, "name": "m"}}, step=3)

    assert [one.event for one in stored(MetricsLogged)] == [
        MetricsLogged(values={"loss": 0.5, "model.gate.lr": 1.0}, step=3)
    ]
    assert [one.event for one in stored(TextLogged)] == [
        TextLogged(key="note", text="hello", step=3),
        TextLogged(key="model.name", text="m", step=3),
    ]
    assert receipt.seq == 4


@pytest.mark.parametrize(
    ("calls", "steps"),
    [
        ([{}, {}, {}], [0, 1, 2]),
        ([{"commit": False}, {"commit": False}, {}, {}], [0, 0, 0, 1]),
        ([{"commit": True}, {"commit": True}], [0, 1]),
        ([{"step": 5}, {"step": 5}, {}, {}], [5, 5, 5, 6]),
        ([{"step": 5, "commit": True}, {}], [5, 6]),
        ([{"step": 5}, {"step": 2}, {}], [5, 2, 5]),  # W&B would drop what comes late
        ([{"step": np.int64(4)}, {}], [4, 4]),
    ],
)
def test_steps_are_counted_as_wandb_does(
    calls: list[dict[str, Any]], steps: list[int], bus: EventBus, stored: Stored
) -> None:
    writer = WandBWriter()

    for call in calls:
        writer.log({"loss": 1.0}, **call)

    assert [one.event.step for one in stored(MetricsLogged)] == steps


def test_a_refused_call_is_no_step(bus: EventBus, stored: Stored) -> None:
    writer = WandBWriter()

    with pytest.raises(BadInputError, match="'loss' is of type complex"):
        writer.log({"note": "text", "loss": 1j})
    writer.log({"loss": 1.0})

    assert [one.event.step for one in stored(MetricsLogged)] == [0]
    assert stored(TextLogged) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": {"b": 1j}}, "'a.b' is of type complex"),
        ({1: 2.0}, "key 1 is of type int: use a str"),
        ({"a": {(1, 2): 2.0}}, r"key \(1, 2\) is of type tuple: use a str"),
        ({"a": b"\xff"}, "'a': UnicodeDecodeError"),
        ({"_step": 1}, "key '_step' is one that W&B keeps for itself"),
        ({"note": "x" * 900_001}, "'note' takes 900006 bytes"),
        ([1.0], "values by key are logged, not list"),
        (None, "values by key are logged, not NoneType"),
    ],
)
def test_bad_input_is_refused_by_name(bus: EventBus, data: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        WandBWriter().log(data)


def test_data_that_contain_themselves_are_refused(bus: EventBus) -> None:
    endless: dict[str, object] = {}
    endless["again"] = endless

    with pytest.raises(BadInputError, match="data is nested deeper than 20 levels, or contains itself"):
        WandBWriter().log(endless)

    writer = WandBWriter(on_bad_input="count")
    assert writer.log(endless).refused == LEFT_OUT
    assert writer.bad_inputs == {"data": 1}


def test_none_is_left_out_and_counted_whatever_bad_input_does(bus: EventBus, stored: Stored) -> None:
    writer = WandBWriter()

    writer.log({"loss": 1.0, "a": {"b": None}})
    assert writer.log({"loss": None}).refused == LEFT_OUT
    writer.log({"loss": 2.0})

    assert [one.event for one in stored(MetricsLogged)] == [
        MetricsLogged(values={"loss": 1.0}, step=0),
        MetricsLogged(values={"loss": 2.0}, step=2),
    ]
    assert writer.bad_inputs == {"a.b": 1, "loss": 1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", "b"], '["a", "b"]'),
        (("über", 2, None), '["über", 2, null]'),
        ([{"name": "a", "score": 0.5}], '[{"name": "a", "score": 0.5}]'),
        ([], "[]"),
        ({"b"}, '["b"]'),
        ([np.str_("a"), np.str_("b")], '["a", "b"]'),
        (np.array(["a", "b"]), '["a", "b"]'),
        (np.array([]), "[]"),
        (torch.zeros(2, 0), "[[], []]"),
        (datetime(2020, 1, 2, 3, tzinfo=UTC), "2020-01-02T03:00:00+00:00"),
        (date(2020, 1, 2), "2020-01-02"),
        (Colour.RED, "RED"),
        ("über".encode(), "über"),
    ],
)
def test_what_json_has_no_number_for_is_a_text(bus: EventBus, stored: Stored, value: Any, expected: str) -> None:
    writer = WandBWriter()

    writer.log({"loss": 1.0, "xs": value}, step=3)

    assert [one.event for one in stored(TextLogged)] == [TextLogged(key="xs", text=expected, step=3)]
    assert [one.event for one in stored(MetricsLogged)] == [MetricsLogged(values={"loss": 1.0}, step=3)]
    assert writer.bad_inputs == {}


def test_any_mapping_is_logged_and_numbers_are_keys_within_one(bus: EventBus, stored: Stored) -> None:
    run = WandBWriter()

    run.log(MappingProxyType({"acc": {0: 0.5, np.int64(1): UserDict({"low": 0.25, 2.5: 1})}}))
    run.summary.update(UserDict({"best": {3: 0.75}}))

    assert [one.event.values for one in stored(MetricsLogged)] == [{"acc.0": 0.5, "acc.1.low": 0.25, "acc.1.2.5": 1.0}]
    assert [one.event.values for one in stored(SummaryUpdated)] == [{"best": {"3": 0.75}}]


def test_bad_input_is_counted_and_the_rest_is_logged(bus: EventBus, stored: Stored) -> None:
    writer = WandBWriter(run="run-2", scope=Scope.FEDERATED, on_bad_input="count")

    writer.log({"loss": 1.0, "bad": None, "note": "text", "": "text"}, step="7")  # type: ignore[arg-type] - on purpose

    [metrics], [text] = stored(MetricsLogged), stored(TextLogged)
    assert (metrics.run, metrics.scope, metrics.event) == (
        "run-2",
        Scope.FEDERATED,
        MetricsLogged(values={"loss": 1.0}, step=0),
    )
    assert text.event == TextLogged(key="note", text="text", step=0)
    assert writer.bad_inputs == {"bad": 1, "": 1, "step": 1}


# --------------------------------------------------------------------------------------------------------- config
def test_what_is_set_is_published_and_read_back(bus: EventBus, stored: Stored) -> None:
    config = WandBWriter().config

    config.update({"lr": 0.1, "layers": (8, 16)})
    config.epochs = 3
    config["model"] = {"width": np.int64(8)}
    config.update(Namespace(seed=7), allow_val_change=True)
    config.lr = 0.2
    config.setdefaults({"lr": 1.0, "decay": None})

    assert [one.event.values for one in stored(ConfigUpdated)] == [
        {"lr": 0.1, "layers": [8, 16]},
        {"epochs": 3},
        {"model": {"width": 8}},
        {"seed": 7},
        {"lr": 0.2},
        {"decay": None},
    ]
    everything = {"lr": 0.2, "layers": [8, 16], "epochs": 3, "model": {"width": 8}, "seed": 7, "decay": None}
    assert config.as_dict() == dict(config) == dict(config.items()) == everything
    assert (config.lr, config["epochs"], config.get("seed"), config.get("none", 5)) == (0.2, 3, 7, 5)
    assert ("lr" in config, "none" in config, len(config), config.keys()) == (True, False, 6, list(everything))
    assert repr(config) == repr(everything)


def test_what_was_not_set_is_missed_by_name(bus: EventBus) -> None:
    config = WandBWriter().config

    with pytest.raises(AttributeError, match=r"the configuration has no 'lr'; set it first: config\.lr = \.\.\."):
        _ = config.lr
    with pytest.raises(KeyError, match="lr"):
        _ = config["lr"]
    assert copy.copy(config).as_dict() == {}


def test_a_configuration_that_can_not_be_recorded_is_refused(bus: EventBus, stored: Stored) -> None:
    config = WandBWriter().config

    with pytest.raises(BadInputError, match="key '_wandb'"):
        config.update({"_wandb": 1})
    with pytest.raises(BadInputError, match="values by key are logged, not list"):
        config.update([1])  # type: ignore[arg-type] - on purpose

    assert (stored(ConfigUpdated), config.as_dict()) == ([], {})


def test_what_is_read_back_of_a_configuration_is_not_what_was_published(bus: EventBus, stored: Stored) -> None:
    run = WandBWriter()

    run.config.model = {"width": 8}
    run.config.model["width"] = 16
    run.summary["best"] = {"loss": 0.5}
    run.summary["best"]["loss"] = 0.25

    assert [one.event.values for one in stored(ConfigUpdated)] == [{"model": {"width": 8}}]
    assert [one.event.values for one in stored(SummaryUpdated)] == [{"best": {"loss": 0.5}}]


# ----------------------------------------------------------------------------------------------------- the run's end
@pytest.mark.parametrize(
    ("exit_code", "expected"),
    [
        (None, RunFinished(status="FINISHED")),
        (0, RunFinished(status="FINISHED")),
        (3, RunFinished(status="FAILED", reason="exit code 3")),
    ],
)
def test_the_exit_code_says_how_the_run_ended(
    exit_code: int | None, expected: RunFinished, stored_on: StoredOn
) -> None:
    with EventBus().background() as bus:
        WandBWriter().finish(exit_code, quiet=True)

    assert [one.event for one in stored_on(bus, RunFinished)] == [expected]


def test_an_error_that_leaves_the_writer_fails_the_run(stored_on: StoredOn) -> None:
    with EventBus().background() as bus:
        with pytest.raises(ValueError, match="no data"), WandBWriter():
            raise ValueError("no data")
        with WandBWriter(run="run-2") as writer:
            writer.log({"loss": 1.0})

    assert [one.event for one in stored_on(bus, RunFinished)] == [
        RunFinished(status="FINISHED"),  # of run-2, which ends with its block
        RunFinished(status="FAILED", reason="ValueError: no data"),
    ]


# ------------------------------------------------------------------------------------------------------- signatures
@pytest.mark.filterwarnings("default")
def test_methods_are_called_as_wandbs() -> None:
    from wandb import Run
    from wandb.sdk.wandb_config import Config

    assert arguments(WandBWriter.log) == arguments(Run.log)
    assert arguments(WandBWriter.finish)[:2] == arguments(Run.finish)  # `quiet` was dropped by newer ones
    for method in ("update", "setdefaults", "keys", "items", "as_dict", "__getitem__", "__setitem__"):
        assert arguments(getattr(WandBConfig, method)) == arguments(getattr(Config, method))


def arguments(function: Callable[..., object]) -> list[tuple[str, object]]:
    return [(one.name, one.default) for one in inspect.signature(function).parameters.values()]


def test_a_key_that_stands_twice_in_a_call_is_counted() -> None:
    numbers, _, _ = parted({"a.b": 2.0, "a": {"b": 3.0}, "c": 1.0}, intake := Intake())

    assert numbers == {"a.b": 3.0, "c": 1.0}
    assert intake.bad.counts == {"a.b": 1}
