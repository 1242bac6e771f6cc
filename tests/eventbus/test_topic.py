"""What a subscription wants, and what it gets."""

from __future__ import annotations

import pytest

from eventbus import Event, Scope, Topic
from eventbus._topic import Selector
from eventbus.tracking import TRACKING, MetricsLogged, ParamsLogged, TrackingEvent


class Other(Event, topic="other"):
    pass


@pytest.mark.parametrize(
    ("what", "topic", "event_type", "scope", "wanted"),
    [
        (MetricsLogged, TRACKING.name, MetricsLogged, Scope.LOCAL, True),
        (MetricsLogged, "elsewhere", MetricsLogged, Scope.FEDERATED, True),
        (MetricsLogged, TRACKING.name, ParamsLogged, Scope.LOCAL, False),
        (TrackingEvent, TRACKING.name, ParamsLogged, Scope.LOCAL, True),
        (Event, "anywhere", Other, Scope.LOCAL, True),
        (TRACKING, TRACKING.name, MetricsLogged, Scope.LOCAL, True),
        (TRACKING, TRACKING.name, MetricsLogged, Scope.FEDERATED, True),
        (TRACKING, "elsewhere", MetricsLogged, Scope.LOCAL, False),
        (TRACKING, TRACKING.name, Other, Scope.LOCAL, False),
        (TRACKING.federated, TRACKING.name, MetricsLogged, Scope.LOCAL, False),
        (TRACKING.federated, TRACKING.name, MetricsLogged, Scope.FEDERATED, True),
        ("*", "anywhere", Other, Scope.FEDERATED, True),
        ("train.*", "train.loss", Other, Scope.LOCAL, True),
        ("train.*", "train", Other, Scope.LOCAL, False),
        ("train.*", "Train.loss", Other, Scope.LOCAL, False),
        ("train.?", "train.a", Other, Scope.LOCAL, True),
        ("train.[ab]", "train.c", Other, Scope.LOCAL, False),
        ("other", "other", Other, Scope.LOCAL, True),
        ("oth", "other", Other, Scope.LOCAL, False),
    ],
)
def test_a_selector_takes_what_it_names(
    what: type[Event] | Topic[Event] | str, topic: str, event_type: type[Event], scope: Scope, wanted: bool
) -> None:
    selector = Selector.of(what)

    assert selector.matches(topic, event_type, scope) is wanted
    assert selector.admits(topic, scope) or not wanted


def test_a_topic_is_named_as_people_know_it() -> None:
    assert str(TRACKING) == "analytix_log_stats"
    assert str(TRACKING.federated) == "fed.analytix_log_stats"


def test_the_federated_twin_has_the_same_name_and_type() -> None:
    twin = TRACKING.federated

    assert (twin.name, twin.event_type, twin.only) == (TRACKING.name, TrackingEvent, Scope.FEDERATED)
    assert twin.federated == twin
    assert TRACKING.only is None
