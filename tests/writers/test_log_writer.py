"""A look-alike of one's own: what it writes is published as what its data type says."""

from collections.abc import Callable
from typing import Any

import pytest

from eventbus import Envelope, Event, EventBus, Receipt, Scope
from eventbus.errors import BadInputError
from eventbus.tracking import MetricsLogged, ParamsLogged, TagsSet, TextLogged, TrackingEvent
from writers.abc import AnalyticsDataType, LogWriter

Stored = Callable[[type[Event]], list[Envelope[Any]]]


class ScoreWriter(LogWriter):
    """A tracker that nobody has."""

    def score(self, name: str, value: object, step: int | None = None) -> Receipt:
        return self.write(name, value, AnalyticsDataType.SCALAR, step)

    def get_writer_name(self) -> str:
        return "SCORES"


KINDS: list[tuple[AnalyticsDataType, object, Event]] = [
    (AnalyticsDataType.SCALAR, 0.5, MetricsLogged(values={"it": 0.5}, step=3)),
    (AnalyticsDataType.METRIC, 1, MetricsLogged(values={"it": 1.0}, step=3)),
    (AnalyticsDataType.SCALARS, {"a": 1, "b": 2}, MetricsLogged(values={"a": 1.0, "b": 2.0}, step=3, main_tag="it")),
    (AnalyticsDataType.METRICS, {"a": 1, "b": 2}, MetricsLogged(values={"a": 1.0, "b": 2.0}, step=3)),
    (AnalyticsDataType.PARAMETER, "adam", ParamsLogged(values={"it": "adam"})),
    (AnalyticsDataType.PARAMETERS, {"lr": 0.1}, ParamsLogged(values={"lr": 0.1})),
    (AnalyticsDataType.TAG, "red", TagsSet(values={"it": "red"})),
    (AnalyticsDataType.TAGS, {"team": "red"}, TagsSet(values={"team": "red"})),
    (AnalyticsDataType.TEXT, "hello", TextLogged(key="it", text="hello", step=3)),
]


@pytest.mark.parametrize(("kind", "value", "event"), KINDS, ids=[kind.name for kind, _, _ in KINDS])
def test_a_value_is_what_its_type_says(
    bus: EventBus, stored: Stored, kind: AnalyticsDataType, value: object, event: Event
) -> None:
    ScoreWriter(bus=bus).write("it", value, kind, 3)
    assert [one.event for one in stored(TrackingEvent)][1:] == [event]


def test_a_text_with_a_path_is_a_file(bus: EventBus, stored: Stored) -> None:
    ScoreWriter().write("text", "all of it", AnalyticsDataType.TEXT, path="report/summary.txt")
    assert [one.event for one in stored(TextLogged)] == [
        TextLogged(key="report/summary.txt", text="all of it", is_file=True)
    ]


def test_its_methods_go_to_its_run_and_scope(bus: EventBus, stored: Stored) -> None:
    with ScoreWriter(run="other", scope=Scope.FEDERATED) as writer:
        receipt = writer.score("f1", 0.5, 7)
        writer.write("all", {"f1": 0.25})

    assert receipt.refused is None
    assert [(one.run, one.scope, one.event.values) for one in stored(MetricsLogged)] == [
        ("other", Scope.FEDERATED, {"f1": 0.5}),
        ("other", Scope.FEDERATED, {"f1": 0.25}),
    ]
    assert repr(writer) == "SCORES(run='other', scope=FEDERATED)"


@pytest.mark.parametrize("kind", [AnalyticsDataType.IMAGE, AnalyticsDataType.MODEL, "SCALAR", []])
def test_a_type_that_is_not_carried_is_refused_by_name(bus: EventBus, stored: Stored, kind: Any) -> None:
    with pytest.raises(BadInputError, match=r"can't be logged: use AnalyticsDataType\.SCALAR"):
        ScoreWriter().write("it", 0.5, kind)
    assert stored(MetricsLogged) == []


def test_an_unknown_option_is_refused(bus: EventBus) -> None:
    with pytest.raises(BadInputError, match="colour= is not supported: leave it out"):
        ScoreWriter().write("it", 0.5, AnalyticsDataType.SCALAR, colour="red")


def test_bad_input_is_counted_where_it_does_not_raise(bus: EventBus, stored: Stored) -> None:
    writer = ScoreWriter(on_bad_input="count")
    assert writer.write("picture", b"", AnalyticsDataType.IMAGE).refused
    assert writer.score("word", "high").refused
    writer.score("f1", 0.5)
    assert writer.bad_inputs == {"picture": 1, "word": 1}
    assert [one.event.values for one in stored(MetricsLogged)] == [{"f1": 0.5}]
