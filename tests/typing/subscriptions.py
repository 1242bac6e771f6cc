"""Read by a type checker, never run: each line that ignores an error must be one, and no other may be.

An ignore that hides nothing is an error itself: `reportUnnecessaryTypeIgnoreComment`.
"""

from pathlib import Path
from typing import assert_type

from eventbus import Envelope, Event, EventBus, Overflow, Receipt, Relay, Scope, Subscription, Topic
from eventbus.testing import Recorder, recording
from eventbus.tracking import TRACKING, MetricsLogged, RunStarted, TrackingEvent

METRICS: Topic[MetricsLogged] = Topic("metrics", MetricsLogged)


async def on_run(event: RunStarted) -> None: ...
async def on_metrics(event: MetricsLogged) -> None: ...
async def on_tracking(event: TrackingEvent) -> None: ...
async def on_any(event: Event) -> None: ...
def on_metrics_in_thread(event: MetricsLogged) -> None: ...
async def on_metrics_envelope(envelope: Envelope[MetricsLogged]) -> None: ...
async def on_any_envelope(envelope: Envelope[Event]) -> None: ...
async def answering(event: MetricsLogged) -> int: ...
async def no_argument() -> None: ...


def handlers(bus: EventBus) -> None:
    assert_type(bus.subscribe(MetricsLogged, on_metrics), Subscription)
    bus.subscribe(MetricsLogged, on_metrics_in_thread)
    bus.subscribe(MetricsLogged, on_tracking)  # a handler of the base class takes each subclass
    bus.subscribe(MetricsLogged, on_any)
    bus.subscribe(MetricsLogged, lambda event: event.values.clear())
    bus.subscribe(MetricsLogged, on_metrics, name="mine", overflow=Overflow.DROP_OLDEST, queue_events=10)
    bus.subscribe(MetricsLogged, on_run)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(TrackingEvent, on_metrics)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(Event, on_metrics)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(MetricsLogged, no_argument)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(MetricsLogged, answering)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(MetricsLogged, lambda event: event.no_such_field)  # pyright: ignore[reportAttributeAccessIssue]
    bus.subscribe(MetricsLogged, on_metrics, overflow="block")  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(MetricsLogged, on_metrics, overflow=Overflow.DROP_NEWEST)
    bus.subscribe(TRACKING, on_tracking, overflow=Overflow.COALESCE)
    bus.subscribe(MetricsLogged, on_metrics, overflow=Overflow.COALESCE, coalesce_key=lambda one: one.origin.site)
    bus.subscribe("train.*", on_any, overflow=Overflow.COALESCE, coalesce_key=lambda one: (one.topic, one.run))
    bus.subscribe(MetricsLogged, on_metrics, coalesce_key="run")  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(MetricsLogged, on_metrics, coalesce_key=list)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(MetricsLogged, on_metrics, coalesce_key=no_argument)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(MetricsLogged, on_metrics, unknown=1)  # pyright: ignore[reportCallIssue]
    bus.subscribe(MetricsLogged, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(str, on_metrics)  # pyright: ignore[reportArgumentType, reportCallIssue]


def topics(bus: EventBus) -> None:
    bus.subscribe(TRACKING, on_tracking)
    bus.subscribe(TRACKING, on_any)
    bus.subscribe(TRACKING.federated, on_tracking)
    bus.subscribe(METRICS, on_metrics)
    bus.subscribe(METRICS, on_tracking)
    bus.subscribe(TRACKING, on_metrics)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(TRACKING.federated, on_run)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(METRICS, on_run)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert_type(METRICS.federated, Topic[MetricsLogged])
    general: Topic[TrackingEvent] = METRICS
    special: Topic[MetricsLogged] = TRACKING  # pyright: ignore[reportAssignmentType]
    wrong: Topic[MetricsLogged] = Topic("metrics", RunStarted)  # pyright: ignore[reportAssignmentType]
    del general, special, wrong


def patterns(bus: EventBus) -> None:
    bus.subscribe("train.*", on_any)
    bus.subscribe("train.*", on_metrics)  # pyright: ignore[reportArgumentType, reportCallIssue]


def envelopes(bus: EventBus) -> None:
    bus.subscribe(MetricsLogged, on_metrics_envelope, envelopes=True)
    bus.subscribe(MetricsLogged, on_any_envelope, envelopes=True)
    bus.subscribe(TRACKING, on_any_envelope, envelopes=True)
    bus.subscribe(MetricsLogged, on_metrics_envelope)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(MetricsLogged, on_metrics, envelopes=True)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bus.subscribe(TRACKING, on_metrics_envelope, envelopes=True)  # pyright: ignore[reportArgumentType, reportCallIssue]


def consumers(bus: EventBus, server: EventBus) -> None:
    assert_type(bus.subscribe(TRACKING.federated, Relay(server)), None)
    bus.subscribe("*", Relay(server))
    bus.subscribe(TRACKING, Relay)  # pyright: ignore[reportArgumentType, reportCallIssue]


def publishing(bus: EventBus) -> None:
    assert_type(bus.publish(MetricsLogged(values={"loss": 1.0})), Receipt)
    bus.publish(MetricsLogged(values={"loss": 1.0}), scope=Scope.FEDERATED)
    bus.publish({"loss": 1.0})  # pyright: ignore[reportArgumentType]
    bus.publish(MetricsLogged)  # pyright: ignore[reportArgumentType]
    bus.publish(MetricsLogged(values={"loss": 1.0}), scope="federated")  # pyright: ignore[reportArgumentType]
    MetricsLogged(values={"loss": "low"})  # pyright: ignore[reportArgumentType]
    MetricsLogged(value={"loss": 1.0})  # pyright: ignore[reportCallIssue]


async def lifetimes(workspace: Path) -> None:
    async with EventBus(workspace) as bus:
        assert_type(bus, EventBus)
        assert_type(await bus.publish(MetricsLogged(values={"loss": 1.0})), Receipt)
    with EventBus(workspace).background() as background:
        assert_type(background, EventBus)
    with EventBus(workspace):  # pyright: ignore[reportGeneralTypeIssues]
        pass


async def recorders(bus: EventBus) -> None:
    with recording(bus, MetricsLogged) as recorder:
        assert_type(recorder, Recorder[MetricsLogged])
        assert_type(await recorder.wait_for(1), list[MetricsLogged])
    with recording(bus, TRACKING) as general:
        assert_type(general.events, list[TrackingEvent])
