"""A process of the campaign that runs buses: `python -P -m faults.host ROLE FOLDER TRACKERS RATE`.

It publishes on its own bus in its main thread until its standard input ends, then leaves its buses and writes down what
they report. A rate of 0 only delivers what is left.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from faults.layout import FEDERATION, LONE, SERVER, SITES, Layout
from faults.ordered_sink import OrderedConfig
from faults.publisher import publish, stop_at_end_of_input

from eventbus import EventBus, Relay, Scope
from eventbus.tracking import TRACKING
from receivers import (
    FlushPolicy,
    JsonlReceiver,
    MLflowReceiver,
    Receiver,
    TensorBoardReceiver,
    WandBReceiver,
    WorkerPolicy,
)
from writers import TrackingWriter

FLUSH = FlushPolicy(max_items=200, max_delay=0.3)
"""Small batches: a fault meets more of their seams."""

WORKER = WorkerPolicy(start_timeout=40, process_timeout=20, heartbeat_timeout=6, orphan_timeout=15)
QUICK_WORKER = WorkerPolicy(start_timeout=4, process_timeout=4, heartbeat_timeout=4, orphan_timeout=15)
"""Short, since this sink hangs on order; beyond what a loaded machine needs for a batch."""

DRAIN_IDLE, DRAIN = 60.0, 200.0
"""The end of a campaign waits for everything; that a drain is bounded is another test's matter."""


def make_receiver(name: str) -> Receiver:
    match name:
        case "ordered":
            return Receiver(OrderedConfig(), name=name, flush=FLUSH, worker=QUICK_WORKER)
        case "jsonl":
            return JsonlReceiver(flush=FLUSH, worker=WORKER)
        case "tensorboard":
            return TensorBoardReceiver(flush=FLUSH, worker=WORKER)
        case "mlflow":
            return MLflowReceiver(flush=FLUSH, worker=WORKER)
        case _:
            return WandBReceiver(wandb_args={"project": "campaign"}, flush=FLUSH, worker=WORKER)


def open_bus(stack: ExitStack, layout: Layout, site: str, run: str) -> EventBus:
    """Open a site's bus with the receivers that belong there."""
    bus = EventBus(
        layout.workspace(site), site=site, job="campaign", run=run, drain_idle_timeout=DRAIN_IDLE, drain_timeout=DRAIN
    )
    stack.enter_context(bus.background())
    for name in layout.trackers_at.get(site, ()):
        bus.subscribe(TRACKING, make_receiver(name))
    return bus


def open_federation(stack: ExitStack, layout: Layout) -> list[EventBus]:
    """Open the server, then the sites, which are left first."""
    server = open_bus(stack, layout, "server", SERVER.run)
    sites = [open_bus(stack, layout, site, "unused") for site in SITES]
    for site in sites:
        site.subscribe(TRACKING.federated, Relay(server))
    return [server, *sites]


def write_report(path: Path, buses: Iterable[EventBus]) -> None:
    lines = [
        {"bus": bus.site, "drained": bus.report().drained, "refused": bus.report().refused}
        | {field: getattr(line, field) for field in ("name", "delivered", "dropped", "failed", "left", "notes")}
        for bus in buses
        for line in bus.report().lines
    ]
    path.write_text(json.dumps(lines, indent=1))


def main() -> None:
    role, folder, trackers, rate = sys.argv[1:]
    layout = Layout(Path(folder), tuple(trackers.split(",")))
    publisher = SERVER if role == FEDERATION else LONE
    stop = stop_at_end_of_input()
    with ExitStack() as stack:
        buses = open_federation(stack, layout) if role == FEDERATION else [open_bus(stack, layout, role, LONE.run)]
        if float(rate):
            writer = TrackingWriter(bus=buses[0], run=publisher.run, scope=Scope.FEDERATED)
            publish(publisher, writer, float(rate), layout.ledgers, stop)
        stop.wait()
    write_report(layout.folder / "reports" / f"{role}.json", buses)


if __name__ == "__main__":
    main()
