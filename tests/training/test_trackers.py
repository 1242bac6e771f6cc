"""What became of each site's events in each tracker: the sums hold, whatever else lies in the journals."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eventbus import EventBus, Relay, Scope
from eventbus.health import WorkerLost
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import JsonlReceiver
from training.trackers import Account, settle_accounts

pytestmark = pytest.mark.anyio

LOST = WorkerLost(receiver="jsonl", reason="died", restarts=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def publish(bus: EventBus, count: int, scope: Scope = Scope.LOCAL) -> None:
    for step in range(count):
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=step), run="run", scope=scope)


async def federate(workspace: Path, receiver: JsonlReceiver) -> tuple[Account, ...]:
    """A server and a site whose journals begin, go on and end with words of health."""
    async with EventBus(workspace, site="server", drain_idle_timeout=2) as server:
        server.subscribe(TRACKING, receiver)
        async with EventBus(workspace / "sites" / "site-1", site="site-1") as site:
            site.subscribe(TRACKING.federated, Relay(server))
            for bus, count, scope in ((server, 2, Scope.LOCAL), (site, 3, Scope.FEDERATED)):
                bus.tell(LOST)
                publish(bus, count, scope)
                bus.tell(LOST)
                publish(bus, count, scope)
                bus.tell(LOST)
    return settle_accounts({"server": server, "site-1": site}, [receiver], server)


async def test_words_of_health_are_in_no_account(tmp_path: Path) -> None:
    assert await federate(tmp_path, JsonlReceiver()) == (
        Account("server", "jsonl", published=4, stored=4, late=0, dropped=0),
        Account("site-1", "jsonl", published=6, stored=6, late=0, dropped=0),
    )


async def test_nor_in_that_of_a_tracker_that_is_late(tmp_path: Path) -> None:
    assert await federate(tmp_path, JsonlReceiver(python="/nowhere/python")) == (
        Account("server", "jsonl", published=4, stored=0, late=4, dropped=0),
        Account("site-1", "jsonl", published=6, stored=0, late=6, dropped=0),
    )


async def test_what_a_tracker_drops_is_told_by_site(tmp_path: Path) -> None:
    buses = {site: EventBus(tmp_path, site=site) for site in ("site-1", "site-2")}
    for bus in buses.values():
        bus.open()
        publish(bus, 4)
        bus.close()
    (file,) = (tmp_path / "journal" / "site-2").glob("*.db")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE records SET body = x'00' WHERE seq = 2")
    receiver = JsonlReceiver()
    async with EventBus(tmp_path, site="server") as server:
        server.subscribe(TRACKING, receiver)
    line = server.report().line("jsonl")
    assert (line.dropped, line.lost, line.dropped_by_site) == (1, 1, {"site-2": 1})
    assert settle_accounts(buses, [receiver], server) == (
        Account("site-1", "jsonl", published=4, stored=4, late=0, dropped=0),
        Account("site-2", "jsonl", published=4, stored=3, late=0, dropped=1),
    )
