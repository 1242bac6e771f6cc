"""W&B online, with real worker processes: killed, cut off, refused; in the end the server has every row once."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from servers.wandb_server import ServerRun, WandBServer
from waiting import wait_until

from eventbus import EventBus, Receipt
from eventbus.tracking import TRACKING, MetricsLogged, ParamsLogged
from receivers import FlushPolicy, WandBReceiver, WorkerPolicy
from receivers._processes import marked_processes

QUICK = {
    "x_file_stream_transmit_interval": 0.2,
    "x_file_stream_retry_wait_min_seconds": 0.1,
    "x_graphql_retry_wait_min_seconds": 0.1,
    "x_file_transfer_retry_wait_min_seconds": 0.1,
}
CALL_SECONDS = 0.25
"""No call may take longer, whatever the server does: it would take seconds if it waited for it."""

EXIT_SECONDS = 45.0
"""Leaving a bus ends 10 s after its last progress, the SDK's own end takes up to 15 s, and ending processes some."""

QUIET_SECONDS = 15.0

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandBServer]:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with WandBServer() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
        running.heal()


def wandb_online(interval: float = 0.2) -> WandBReceiver:
    settings = {**QUICK, "x_file_stream_transmit_interval": interval}
    return WandBReceiver(
        mode="online",
        wandb_args={"settings": settings},
        flush=FlushPolicy(max_items=25, max_delay=0.05),
        worker=WorkerPolicy(process_timeout=30),
    )


class Training:
    """A run that logs on a bus, and remembers how long its calls took."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.done = 0
        self.slowest = 0.0

    def log(self, count: int) -> Receipt:
        """Log so many steps, and one parameter."""
        receipt = self._publish(ParamsLogged(values={f"p{self.done}": self.done}))
        for step in range(self.done, self.done + count):
            receipt = self._publish(MetricsLogged(values={"loss": float(step)}, step=step))
        self.done += count
        return receipt

    def _publish(self, event: MetricsLogged | ParamsLogged) -> Receipt:
        start = time.perf_counter()
        receipt = self.bus.publish(event, run=self.bus.run)
        self.slowest = max(self.slowest, time.perf_counter() - start)
        return receipt


def open_bus(workspace: Path, run: str = "exp") -> EventBus:
    return EventBus(workspace, site="site-1", job="job", run=run, drain_timeout=90)


def processes(workspace: Path, program: str) -> list[int]:
    """The worker's processes whose command line has a word in it."""
    found = marked_processes(str(workspace / "cursors" / "wandb.db"))
    return [pid for pid in found if program in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def kill(workspace: Path, *programs: str) -> int:
    pids = [pid for program in programs for pid in processes(workspace, program)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)


def stands_once(run: ServerRun, steps: int, *, exit_code: int = 0, status: str = "FINISHED") -> None:
    """Hold what the server has against what was logged."""
    assert [(row["global_step"], row["loss"]) for row in run.rows()] == [(step, step) for step in range(steps)]
    numbers = [row["_step"] for row in run.rows()]
    assert numbers == sorted(set(numbers))
    assert run.rewritten == []
    assert (run.complete, run.exit_code, run.values()["trackbus"]["status"]) == (True, exit_code, status)


CORE, WORKER = "wandb-core", "receivers._worker"


@pytest.mark.parametrize("programs", [(CORE,), (WORKER,), (WORKER, CORE)], ids=["core", "worker", "both"])
def test_kills_leave_no_trace(tmp_path: Path, server: WandBServer, programs: tuple[str, ...]) -> None:
    receiver, moments, killed = wandb_online(), random.Random(7), 0
    with open_bus(tmp_path).background() as bus:
        bus.subscribe(TRACKING, receiver)
        training = Training(bus)
        for _ in range(3):
            training.log(200).wait_delivered(60)
            training.log(200)
            wait_until(lambda: processes(tmp_path, CORE))
            time.sleep(moments.uniform(0, 0.5))
            killed += kill(tmp_path, *programs)
        training.log(100)
    report = bus.report()

    assert killed >= 3
    assert receiver.statistics().restarts >= 3
    assert report.complete, report
    stands_once(server.runs["exp.site-1"], training.done)
    assert [server.runs["exp.site-1"].values()[f"p{200 * n}"] for n in range(6)] == [200 * n for n in range(6)]


def test_what_was_written_and_not_sent_is_sent_by_the_next_worker(tmp_path: Path, server: WandBServer) -> None:
    with open_bus(tmp_path).background() as bus:
        bus.subscribe(TRACKING, wandb_online(interval=3600))
        training = Training(bus)
        training.log(300).wait_delivered(60)
        assert server.runs["exp.site-1"].rows() == []  # in the file alone
        assert kill(tmp_path, CORE, WORKER) == 2

    stands_once(server.runs["exp.site-1"], 300)


def test_a_server_that_is_down_at_the_start_gets_all_when_it_comes(tmp_path: Path, server: WandBServer) -> None:
    port = server.port
    server.__exit__()
    receiver = wandb_online()
    with ExitStack() as servers:
        with open_bus(tmp_path).background() as bus:
            bus.subscribe(TRACKING, receiver)
            training = Training(bus)
            training.log(100)
            wait_until(lambda: receiver.statistics().failed)
            training.log(100)
            assert "TrackerUnavailableError" in str(receiver.statistics().failed)
            later = servers.enter_context(WandBServer(port))
            training.log(100).wait_delivered(90)
        assert training.slowest < CALL_SECONDS
        stands_once(later.runs["exp.site-1"], 300)


@pytest.mark.parametrize("fault", [{"drop": True}, {"hang": True}, {"status": 503}], ids=str)
def test_a_server_that_fails_at_the_end_costs_seconds_and_gets_all_the_next_time(
    tmp_path: Path, server: WandBServer, fault: dict[str, Any]
) -> None:
    with open_bus(tmp_path).background() as bus:
        bus.subscribe(TRACKING, wandb_online())
        training = Training(bus)
        training.log(200).wait_delivered(60)
        wait_until(server.runs["exp.site-1"].rows)
        server.fault("*", **fault)
        training.log(200)
        start = time.monotonic()
    took = time.monotonic() - start
    report = bus.report()
    assert took < EXIT_SECONDS, took
    assert not report.complete
    assert report.line("wandb").left > 0, report
    assert sum(server.suffered.values()) > 0
    assert not server.runs["exp.site-1"].complete

    server.heal()
    with open_bus(tmp_path, run="another").background() as bus:  # nothing new for the first run
        bus.subscribe(TRACKING, wandb_online())
    assert bus.report().complete, bus.report()
    stands_once(server.runs["exp.site-1"], 400)


def test_a_key_that_is_revoked_is_told_and_no_reason_to_hurry(tmp_path: Path, server: WandBServer) -> None:
    receiver = wandb_online()
    with open_bus(tmp_path).background() as bus:
        bus.subscribe(TRACKING, receiver)
        training = Training(bus)
        training.log(100).wait_delivered(60)
        wait_until(lambda: len(server.runs["exp.site-1"].rows()) == 100)
        server.fault("*", status=401)
        while not receiver.statistics().failed:
            training.log(1)
            time.sleep(0.2)
        assert "401" in str(receiver.statistics().failed)
        asked, start = sum(server.seen.values()), time.monotonic()
        wait_until(lambda: time.monotonic() - start > QUIET_SECONDS)
        assert sum(server.seen.values()) - asked < QUIET_SECONDS * 3
        server.heal()
        training.log(100).wait_delivered(90)
    assert training.slowest < CALL_SECONDS
    stands_once(server.runs["exp.site-1"], training.done)


def test_a_run_that_is_deleted_at_the_server_is_counted_and_stops_no_other(tmp_path: Path, server: WandBServer) -> None:
    receiver = wandb_online()
    with open_bus(tmp_path).background() as bus:
        bus.subscribe(TRACKING, receiver)
        training = Training(bus)
        training.log(100).wait_delivered(60)
        wait_until(lambda: len(server.runs["exp.site-1"].rows()) == 100)
        server.delete("exp.site-1")
        training.log(100)
        wait_until(lambda: receiver.statistics().delivered >= 202)
    with open_bus(tmp_path).background() as bus:  # the same run goes on, and another one begins
        bus.subscribe(TRACKING, receiver := wandb_online())
        training.bus = bus
        training.log(50)
        bus.publish(MetricsLogged(values={"loss": 0.0}, step=0), run="other")
    report = bus.report()

    assert report.complete, report
    assert receiver.statistics().altered["run deleted at the server"] >= 50
    assert "exp.site-1" not in server.runs
    stands_once(server.runs["other.site-1"], 1)
