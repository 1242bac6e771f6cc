"""Two sites log as fast as their threads can, into all three trackers: everything arrives, once and in order."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest

from eventbus import EventBus, Relay, Scope
from eventbus.tracking import TRACKING
from receivers import MLflowReceiver, TensorBoardReceiver, WandBReceiver
from scenarios.stores import TRACKERS, stored_metrics
from writers import SummaryWriter

SITES = ("site-1", "site-2")
METRICS = 10_000


def train(writer: SummaryWriter) -> None:
    for step in range(METRICS):
        writer.add_scalar("loss", float(step), step)


@pytest.mark.timeout(300)
def test_ten_thousand_metrics_of_each_site_are_stored_once_and_in_order(tmp_path: Path) -> None:
    with EventBus(tmp_path, site="server", job="fast", drain_timeout=200).background() as server:
        for receiver in (WandBReceiver(), MLflowReceiver(), TensorBoardReceiver()):
            server.subscribe(TRACKING, receiver)
        with ExitStack() as stack:
            buses = [
                stack.enter_context(EventBus(tmp_path / "sites" / site, site=site, job="fast", run="r").background())
                for site in SITES
            ]
            for bus in buses:
                bus.subscribe(TRACKING.federated, Relay(server))
            threads = [Thread(target=train, args=[SummaryWriter(bus=bus, scope=Scope.FEDERATED)]) for bus in buses]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    report = server.report()
    assert report.complete, str(report)
    expected = [(step, float(step)) for step in range(METRICS)]
    for tracker in TRACKERS:
        points = stored_metrics(tmp_path, tracker)
        assert len(points) == len(SITES), tracker
        assert all(values == expected for values in points.values()), tracker
        assert all(report.line(tracker).by_site[site] == METRICS + 2 for site in SITES), str(report)
