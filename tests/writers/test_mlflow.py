import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eventbus import Envelope, Event, EventBus, Scope
from eventbus.errors import BadInputError
from eventbus.tracking import MetricsLogged, ParamsLogged, TagsSet, TextLogged, TrackingEvent
from writers import MLflowWriter
from writers._mlflow_absent import FLAVORS
from writers._writer import LEFT_OUT

Stored = Callable[[type[Event]], list[Envelope[Any]]]


def test_everything_is_published(bus: EventBus, stored: Stored) -> None:
    writer = MLflowWriter()

    receipts = [
        writer.log_metric("loss", 0.5, 3),
        writer.log_metrics({"loss": 0.25, "n": 7}, step=4),
        writer.log_param("lr", 0.1),
        writer.log_params({"layers": [1, 2], "seed": None}),
        writer.set_tag("owner", "me"),
        writer.set_tags({"try": 3}),
        writer.log_text("# hello", "notes/a.md"),
    ]

    assert [one.event for one in stored(TrackingEvent)][1:] == [
        MetricsLogged(values={"loss": 0.5}, step=3),
        MetricsLogged(values={"loss": 0.25, "n": 7.0}, step=4),
        ParamsLogged(values={"lr": 0.1}),
        ParamsLogged(values={"layers": "[1, 2]", "seed": "None"}),
        TagsSet(values={"owner": "me"}),
        TagsSet(values={"try": "3"}),
        TextLogged(key="notes/a.md", text="# hello", is_file=True),
    ]
    assert [receipt.seq for receipt in receipts] == list(range(2, 9))


def test_what_mlflow_makes_one_number_of_is_one(bus: EventBus, stored: Stored) -> None:
    writer: Any = MLflowWriter()

    writer.log_metric("loss", np.array([0.5]), step=np.array([3]))
    writer.log_metrics({"a": torch.ones(1, 1), "b": "0.25", "c": np.float32(2)}, step=torch.tensor([4]))
    writer.client.log_metric("run-1", "late", "1e-3")

    assert [one.event for one in stored(MetricsLogged)] == [
        MetricsLogged(values={"loss": 0.5}, step=3),
        MetricsLogged(values={"a": 1.0, "b": 0.25, "c": 2.0}, step=4),
        MetricsLogged(values={"late": 0.001}),
    ]
    for value, fault in (("high", "is of type str, not a number"), (np.zeros(2), "of shape")):
        with pytest.raises(BadInputError, match=fault):
            writer.log_metric("loss", value)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("sklearn", r"log_model\(model, name, flavor='sklearn'\)"),
        ("set_tracking_uri", r"MLflowReceiver\(tracking_uri=\.\.\.\)"),
        ("get_artifact_uri", "read them with the real mlflow"),
        ("register_model", r"registered_model_name=\.\.\."),
        ("evaluate", "what is not logging is in mlflow itself"),
    ],
)
def test_what_is_not_here_is_missed_by_name_with_the_way_out(name: str, way_out: str, bus: EventBus) -> None:
    with pytest.raises(AttributeError, match=f"MLflowWriter has no '{name}': .*{way_out}"):
        getattr(MLflowWriter(), name)


def test_a_run_says_where_to_find_what_it_does_not_know(bus: EventBus) -> None:
    writer: Any = MLflowWriter()
    run = writer.start_run()

    with pytest.raises(AttributeError, match=r"RunInfo has no 'artifact_uri': .* read them with the real mlflow"):
        _ = run.info.artifact_uri
    with pytest.raises(AttributeError, match="ActiveRun has no 'data': writers log and read nothing back"):
        _ = run.data
    with pytest.raises(AttributeError, match=r"Flavor has no 'log_state_dict': torch\.save it"):
        writer.pytorch.log_state_dict({}, "model")
    assert copy.deepcopy(run.info) == run.info


def test_every_flavor_that_saves_models_is_known() -> None:
    import mlflow

    folder = Path(str(mlflow.__file__)).parent
    saving = {one.parent.name for one in folder.glob("*/__init__.py") if "\ndef save_model(" in one.read_text()}

    assert saving - FLAVORS - {"pytorch"} == set()


def test_a_timestamp_is_milliseconds(bus: EventBus, stored: Stored) -> None:
    writer = MLflowWriter(scope=Scope.FEDERATED)

    writer.log_metric("loss", 0.5, timestamp=1_700_000_000_123)
    writer.log_metrics({"loss": 0.5}, timestamp=1_700_000_000_123, synchronous=False)

    assert [one.time_ns for one in stored(MetricsLogged)] == [1_700_000_000_123_000_000] * 2
    assert {one.scope for one in stored(MetricsLogged)} == {Scope.FEDERATED}


@pytest.mark.parametrize(("option", "fault"), [("run_id", "no run of this writer"), ("dataset", "no dataset")])
def test_an_option_that_can_not_be_honoured_is_refused(option: str, fault: str, bus: EventBus, stored: Stored) -> None:
    writer: Any = MLflowWriter()

    for log in (
        lambda: writer.log_metric("loss", 0.5, **{option: "abc"}),
        lambda: writer.log_metrics({"loss": 0.5}, **{option: "abc"}),
    ):
        with pytest.raises(BadInputError, match=fault):
            log()

    assert stored(MetricsLogged) == []


def test_another_run_is_refused_everywhere(bus: EventBus, stored: Stored) -> None:
    writer = MLflowWriter()

    for log in (
        lambda: writer.log_params({"lr": 0.1}, run_id="abc"),
        lambda: writer.log_text("a", "b", run_id="abc"),
    ):
        with pytest.raises(BadInputError, match=r"name the run where the writer is made: MLflowWriter\(run=\.\.\.\)"):
            log()

    assert len(stored(TrackingEvent)) == 1


def test_where_bad_input_is_counted_values_never_go_to_a_wrong_run(bus: EventBus, stored: Stored) -> None:
    writer = MLflowWriter(on_bad_input="count")

    other = writer.log_metric("loss", 1, run_id="abc")
    linked = writer.log_metric("loss", 2, model_id="a\0b", timestamp=-1)

    assert (other.refused, linked.refused) == (LEFT_OUT, None)
    assert [one.event.values for one in stored(MetricsLogged)] == [{"loss": 2.0}]
    assert writer.bad_inputs == {"run_id": 1, "model_id": 1, "timestamp": 1}


def test_a_path_out_of_the_run_is_refused(bus: EventBus) -> None:
    for path in ("../../x", "/abs", "a\0b", "x" * 300):
        with pytest.raises(BadInputError, match="key "):
            MLflowWriter().log_text("text", path)


@pytest.mark.parametrize(
    "method", ["log_metric", "log_metrics", "log_param", "log_params", "log_text", "set_tag", "set_tags"]
)
@pytest.mark.filterwarnings("default")
def test_methods_are_called_as_mlflows(method: str) -> None:
    import mlflow

    assert arguments(getattr(MLflowWriter, method))[1:] == arguments(getattr(mlflow, method))


def arguments(function: Callable[..., object]) -> list[tuple[str, object]]:
    return [(one.name, one.default) for one in inspect.signature(function).parameters.values()]
