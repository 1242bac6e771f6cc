"""A real MLflow server behind a proxy that spoils requests: all arrives once and in order, and nobody else notices.

Each test has its own run, so that one server serves them all.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from readback import MlflowRun, read_jsonl, read_mlflow, read_mlflow_runs, read_tensorboard
from servers.http_proxy import HttpProxy
from servers.mlflow_server import MLflowServer
from waiting import until

from eventbus import EventBus, Report
from eventbus.tracking import TRACKING
from receivers import FlushPolicy, JsonlReceiver, MLflowReceiver, TensorBoardReceiver
from receivers._processes import marked_processes
from writers import TrackingWriter

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

STEPS = 60
CREATE, LOG, END = "runs/create", "runs/log-batch", "runs/update"
PASSWORD = "s3cret-pass"
CALL_SECONDS = 0.5
"""A log call takes microseconds; on a machine that does many things at once one of some hundreds takes its time."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    with MLflowServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def proxy(server: MLflowServer) -> Iterator[HttpProxy]:
    with HttpProxy(server.port) as running:
        yield running


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W+", "-", request.node.name).strip("-")[:60]


class Trial:
    """A bus with MLflow behind the proxy, and two more receivers that must not notice anything."""

    def __init__(self, workspace: Path, proxy: HttpProxy, run: str, *, idle: float = 60, drain: float = 150) -> None:
        self.workspace = workspace
        self.run = run
        self.bus = EventBus(
            workspace, site="site-1", job="faults", run=run, drain_idle_timeout=idle, drain_timeout=drain
        )
        uri = proxy.uri.replace("//", f"//me:{PASSWORD}@")
        self.mlflow = MLflowReceiver(uri, flush=FlushPolicy(max_items=20, max_delay=0.05))
        self.longest_call = 0.0
        self._step = 0

    def subscribe(self) -> None:
        self.bus.subscribe(TRACKING, self.mlflow)
        self.bus.subscribe(TRACKING, JsonlReceiver())
        self.bus.subscribe(TRACKING, TensorBoardReceiver())

    def log(self, count: int = STEPS) -> None:
        writer = TrackingWriter(bus=self.bus)
        for _ in range(count):
            began = time.perf_counter()
            writer.log({"loss": float(self._step)}, step=self._step)
            self.longest_call = max(self.longest_call, time.perf_counter() - began)
            self._step += 1

    async def until_failed(self, times: int = 1) -> None:
        """Wait until the receiver has felt the fault."""
        await until(lambda: sum(self.mlflow.statistics().failed.values()) >= times)

    def report(self) -> Report:
        return self.bus.report()

    def others_have_all(self) -> bool:
        lines = [line.value for line in read_jsonl(self.workspace / "jsonl")]
        steps = [line["event"]["step"] for line in lines if line["type"] == "MetricsLogged"]
        points = [row.step for row in read_tensorboard(self.workspace / "tensorboard") if row.kind == "metric"]
        return steps == points == list(range(self._step))

    def assert_unharmed(self) -> None:
        """Nobody but MLflow's receiver was touched, and no password shows."""
        assert self.others_have_all()
        assert self.longest_call < CALL_SECONDS
        report = self.report()
        assert [report.line(name).failed for name in ("jsonl", "tensorboard")] == [0, 0]
        assert PASSWORD not in str(report)
        assert_no_secret(self.workspace)

    def assert_delivered(self, server: MLflowServer) -> None:
        """MLflow has everything once and in order, in one run that ended well."""
        self.assert_unharmed()
        assert self.report().complete, str(self.report())
        found = one_run(server, self.run)
        assert found.status == "FINISHED"
        assert metrics(server, found) == [(step, float(step)) for step in range(self._step)]


def assert_no_secret(workspace: Path) -> None:
    leaks = [file for file in workspace.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]
    assert not leaks


def runs_of(server: MLflowServer, run: str) -> list[MlflowRun]:
    """All runs that were made for one of ours, without those in the bin."""
    found = [one for one in read_mlflow_runs(server.store) if one.tags.get("trackbus.run") == f"{run}@site-1"]
    return [one for one in found if one.lifecycle_stage == "active"]


def one_run(server: MLflowServer, run: str) -> MlflowRun:
    (found,) = runs_of(server, run)
    return found


def metrics(server: MLflowServer, run: MlflowRun) -> list[tuple[int | None, float]]:
    """The points of a run in the order of storing; names are those of one test's run."""
    rows = [row for row in read_mlflow(server.store) if row.kind == "metric" and row.run == run.name]
    return [(row.step, float(row.value)) for row in rows]


def worker_log(workspace: Path) -> str:
    return (workspace / "workers" / "mlflow.log").read_text()


FAULTS: dict[str, dict[str, Any]] = {
    "answer lost": {"lost": True},
    "silent": {"silent": True},
    "late": {"delay": 7.0},
    "429": {"status": 429, "headers": {"Retry-After": "1"}, "body": b"slow down"},
    "500": {"status": 500, "body": b"oops"},
    "401": {"status": 401, "body": b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}'},
    "html": {"status": 200, "headers": {"Content-Type": "text/html"}, "body": b"<html>log in first</html>"},
    "cut": {"cut": True},
}


async def spoil_each_request(trial: Trial, proxy: HttpProxy, fault: dict[str, Any]) -> None:
    """Spoil the first request of each kind: create the run, log a batch, end the run."""
    with (
        proxy.fault(CREATE, times=1, **fault),
        proxy.fault(LOG, times=1, **fault),
        proxy.fault(END, times=1, **fault),
    ):
        async with trial.bus:
            trial.subscribe()
            trial.log()
            await until(lambda: proxy.spoilt(CREATE) == 1)
            trial.log()
            await until(lambda: proxy.spoilt(LOG) == 1)
            trial.log()
    assert [proxy.spoilt(path) for path in (CREATE, LOG, END)] == [1, 1, 1]


async def test_a_lost_answer_makes_nothing_come_twice(
    tmp_path: Path, server: MLflowServer, proxy: HttpProxy, run: str
) -> None:
    trial = Trial(tmp_path, proxy, run)
    await spoil_each_request(trial, proxy, FAULTS["answer lost"])
    trial.assert_delivered(server)


@pytest.mark.faults
@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "answer lost"])
async def test_every_request_survives_every_fault(
    tmp_path: Path, server: MLflowServer, proxy: HttpProxy, run: str, fault: str
) -> None:
    trial = Trial(tmp_path, proxy, run)
    await spoil_each_request(trial, proxy, FAULTS[fault])
    trial.assert_delivered(server)
    assert trial.report().line("mlflow").failed >= 1  # it was felt, and the report says so


# --- outages --------------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["500", "401"])
async def test_a_server_that_only_refuses_is_asked_ever_more_rarely(
    tmp_path: Path, server: MLflowServer, proxy: HttpProxy, run: str, fault: str
) -> None:
    trial = Trial(tmp_path, proxy, run)
    times = 2 if fault == "401" else 5  # a refused key is tried seldom
    async with trial.bus:
        trial.subscribe()
        trial.log()
        await until(lambda: trial.mlflow.statistics().delivered > 0)
        with proxy.fault(**FAULTS[fault]):
            began = time.monotonic()
            trial.log()
            await until(lambda: proxy.spoilt() >= times)
            lasted = time.monotonic() - began
            asked = proxy.spoilt()
        trial.log()
    assert asked < 4 + lasted  # the first tries come quickly
    trial.assert_delivered(server)


async def leave(trial: Trial) -> float:
    """Leave the bus; return how long it took."""
    began = time.monotonic()
    await trial.bus.__aexit__(None, None, None)
    return time.monotonic() - began


async def exit_during(trial: Trial, proxy: HttpProxy, fault: dict[str, Any]) -> float:
    """Log, lose the server, log more and leave the bus; return how long the exit took."""
    await trial.bus.__aenter__()
    trial.subscribe()
    trial.log()
    await until(lambda: trial.mlflow.statistics().delivered > 0)
    with proxy.fault(**fault):
        trial.log()
        await until(lambda: proxy.spoilt() > 0)
        return await leave(trial)


async def assert_the_next_start_stores_the_rest(trial: Trial, proxy: HttpProxy, server: MLflowServer) -> None:
    again = Trial(trial.workspace, proxy, f"{trial.run[:50]}-again")
    async with again.bus:
        again.subscribe()
    assert again.report().complete, str(again.report())
    found = one_run(server, trial.run)
    assert metrics(server, found) == [(step, float(step)) for step in range(2 * STEPS)]
    assert found.status == "FINISHED"


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["silent", "429"])
async def test_the_exit_is_bounded_while_the_server_is_down(
    tmp_path: Path, server: MLflowServer, proxy: HttpProxy, run: str, fault: str
) -> None:
    trial = Trial(tmp_path, proxy, run, idle=3, drain=10)
    took = await exit_during(trial, proxy, FAULTS[fault])
    assert took < 10 + 10  # its deadline, and what ending a worker takes
    trial.assert_unharmed()
    left = trial.report().line("mlflow").left
    assert left > 0
    assert not marked_processes(str(tmp_path / "cursors" / "mlflow.db"))
    await assert_the_next_start_stores_the_rest(trial, proxy, server)


@pytest.mark.faults
async def test_a_refused_port_at_the_start_holds_nobody_up(
    tmp_path: Path, server: MLflowServer, proxy: HttpProxy, run: str
) -> None:
    trial = Trial(tmp_path, proxy, run)
    async with trial.bus:
        with proxy.refusing():
            trial.subscribe()
            trial.log()
            await until(trial.others_have_all)
            await trial.until_failed(2)
        trial.log()
    trial.assert_delivered(server)
    assert "refused" in worker_log(tmp_path)


@pytest.mark.faults
async def test_a_server_that_is_killed_and_comes_back_has_everything(
    tmp_path: Path, server: MLflowServer, proxy: HttpProxy, run: str
) -> None:
    trial = Trial(tmp_path, proxy, run)
    async with trial.bus:
        trial.subscribe()
        trial.log()
        await until(lambda: trial.mlflow.statistics().delivered > 0)
        server.kill()
        trial.log()
        await trial.until_failed()
        await anyio.to_thread.run_sync(server.start)
        trial.log()
    trial.assert_delivered(server)


@pytest.mark.faults
async def test_a_server_that_is_frozen_and_goes_on_has_everything(
    tmp_path: Path, server: MLflowServer, proxy: HttpProxy, run: str
) -> None:
    trial = Trial(tmp_path, proxy, run)
    async with trial.bus:
        trial.subscribe()
        trial.log()
        await until(lambda: trial.mlflow.statistics().delivered > 0)
        server.stop()
        trial.log()
        await trial.until_failed()
        server.go_on()
        trial.log()
    trial.assert_delivered(server)
