"""Scripts written for NVFLARE call the writers' methods by its argument names."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus import Envelope, Event, EventBus
from eventbus.tracking import MetricsLogged, ParamsLogged, TagsSet, TextLogged, TrackingEvent
from writers import MLflowWriter, SummaryWriter, WandBWriter

Stored = Callable[[type[Event]], list[Envelope[Any]]]

CALLS: list[tuple[type, str, dict[str, Any], Event]] = [
    (
        SummaryWriter,
        "add_scalar",
        {"tag": "a", "scalar": 0.5, "global_step": 3},
        MetricsLogged(values={"a": 0.5}, step=3),
    ),
    (
        SummaryWriter,
        "add_scalars",
        {"tag": "c", "scalars": {"a": 1.0}, "global_step": 3},
        MetricsLogged(values={"a": 1.0}, step=3, main_tag="c"),
    ),
    (WandBWriter, "log", {"metrics": {"a": 2.0}, "step": 1}, MetricsLogged(values={"a": 2.0}, step=1)),
    (MLflowWriter, "log_params", {"values": {"lr": 0.5}}, ParamsLogged(values={"lr": 0.5})),
    (MLflowWriter, "set_tag", {"key": "k", "tag": "v"}, TagsSet(values={"k": "v"})),
    (
        MLflowWriter,
        "log_text",
        {"text": "t", "artifact_file_path": "a.txt"},
        TextLogged(key="a.txt", text="t", is_file=True),
    ),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[1])
def test_arguments_have_nvflares_names_too(
    bus: EventBus, stored: Stored, call: tuple[type, str, dict[str, Any], Event]
) -> None:
    kind, method, arguments, event = call
    getattr(kind(), method)(**arguments)
    assert [one.event for one in stored(TrackingEvent)][1:] == [event]


def test_an_argument_under_both_names_is_an_error(bus: EventBus) -> None:
    both: dict[str, Any] = {"scalar_value": 1.0, "scalar": 2.0}
    with pytest.raises(TypeError, match="scalar_value"):
        SummaryWriter().add_scalar("a", **both)
