"""A W&B server that misbehaves: whatever it does and whenever, in the end it has every row once, and the true status.

The sink with the real SDK; the server on the loopback says how often it has misbehaved, so that no test passes because
nothing happened.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from servers.wandb_server import Fault, ServerRun, WandBServer

from eventbus import Envelope, Event, Origin, Scope
from eventbus.tracking import MetricsLogged, ParamsLogged, RunStatus
from receivers import _wandb_args, _wandb_server
from receivers.abc import Position, Row, RunInfo, TrackerUnavailableError
from receivers.wandb import WandBConfig, WandBSink

ORIGIN = Origin(site="site-1", rank=0, incarnation="i1", job="job")
RUN = RunInfo(id="exp", site="site-1", name="exp", group="job", started_ns=0)
QUICK = {
    "x_file_stream_transmit_interval": 0.1,
    "x_file_stream_retry_wait_min_seconds": 0.1,
    "x_graphql_retry_wait_min_seconds": 0.1,
    "x_file_transfer_retry_wait_min_seconds": 0.1,
}
ROWS = 60

pytestmark = pytest.mark.faults


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandBServer]:
    """A server, and an environment in which the SDK finds it and gives up soon."""
    for name, value in WandBConfig().environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for setting in ("init_timeout", "finish_timeout"):
        monkeypatch.setitem(_wandb_args._SETTINGS, setting, 3.0)
    monkeypatch.setattr(_wandb_server, "LOOK_SECONDS", 0.3)
    with WandBServer() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
        running.heal()
        wandb.teardown()


def rows(first: int = 1, last: int = ROWS) -> list[Row]:
    """What a worker hands out: every tenth row sets a parameter, the others are metrics."""
    return [Row(n, Envelope(_event(n), "t", Scope.LOCAL, "exp", n * 10**9, ORIGIN, n)) for n in range(first, last + 1)]


def _event(number: int) -> Event:
    if number % 10 == 0:
        return ParamsLogged(values={f"p{number}": number})
    return MetricsLogged(values={"loss": float(number)}, step=number)


class Worker:
    """Delivers as a worker does: opens, writes what is not stored, closes; anew after each failure."""

    def __init__(self, workspace: Path, server: WandBServer) -> None:
        self.workspace = workspace
        self.server = server
        self.stored = 0
        self.counts: dict[str, int] = {}
        self.failures: list[str] = []

    def attempt(self, fault: tuple[str, Fault] | None = None, when: str = "before") -> bool:
        """One life of a worker, in which a fault sets in; tell whether it got to the end."""
        if fault and when == "before":
            self.server.fault(*fault)
        sink = WandBSink(WandBConfig(mode="online", wandb_args={"settings": QUICK}), self.workspace)
        try:
            opened = sink.open(RUN, Position(self.stored))
            half = ROWS // 2
            self._write(sink, opened, half)
            if fault and when == "mid":
                self.server.fault(*fault)
            self._write(sink, max(opened, half), ROWS)
            if fault and when == "end":
                self.server.fault(*fault)
            self.stored = sink.close(RunStatus.FINISHED).row
        except (TrackerUnavailableError, OSError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            sink._leave()
            wandb.teardown()  # as the end of the worker's process would
            return False
        finally:
            self.counts = dict(sink.counts)
        return True

    def _write(self, sink: WandBSink, done: int, last: int) -> None:
        for first in range(done + 1, last + 1, 10):
            sink.write(rows(first, min(first + 9, last)))
            self.stored = max(self.stored, sink.flush().row)


def stands_once(run: ServerRun) -> None:
    """Hold what the server has against what was logged."""
    numbers = [n for n in range(1, ROWS + 1) if n % 10]
    assert [(row["_step"], row["global_step"], row["loss"]) for row in run.rows()] == [(n, n, n) for n in numbers]
    assert run.rewritten == []
    values = run.values()
    ours = {key: value for key, value in values.pop("trackbus").items() if value}  # an end that was taken back is empty
    assert (values, ours) == ({f"p{n}": n for n in range(10, ROWS + 1, 10)}, {"status": "FINISHED"})
    assert (run.complete, run.exit_code, run.summary()["loss"]) == (True, 0, numbers[-1])


SHORT: dict[str, dict[str, Any]] = {
    "500": {"status": 500, "times": 2},
    "429": {"status": 429, "times": 2},
    "dropped": {"drop": True, "times": 2},
    "answer lost": {"lost": True, "times": 2},
    "late": {"delay": 1.0, "times": 2},
    "401": {"status": 401, "times": 1},
    "403": {"status": 403, "times": 1},
    "404": {"status": 404, "times": 1},
    "400": {"status": 400, "times": 1},
    "413": {"status": 413, "times": 1},
}
LONG: dict[str, dict[str, Any]] = {
    "500": {"status": 500}, "429": {"status": 429}, "401": {"status": 401}, "403": {"status": 403},
    "dropped": {"drop": True}, "answers lost": {"lost": True}, "hanging": {"hang": True},
}  # fmt: skip
PHASES = [
    ("RunResumeStatus", "before"), ("UpsertBucket", "before"), ("UpsertBucket", "mid"), ("file_stream", "mid"),
    ("file_stream", "end"), ("upload", "mid"), ("CreateRunFiles", "mid"), ("RunPosition", "end"), ("*", "mid"),
]  # fmt: skip


@pytest.mark.parametrize(("endpoint", "when"), PHASES)
@pytest.mark.parametrize("kind", SHORT)
def test_what_passes_leaves_no_trace(tmp_path: Path, server: WandBServer, kind: str, endpoint: str, when: str) -> None:
    worker = Worker(tmp_path, server)
    fault = (endpoint, Fault(**SHORT[kind]))

    attempts = 1
    done = worker.attempt(fault, when)
    while not done and attempts < 4:
        attempts += 1
        done = worker.attempt()

    assert done, worker.failures
    assert server.suffered[endpoint] or endpoint == "*"
    stands_once(server.runs["exp.site-1"])


@pytest.mark.parametrize(("endpoint", "when"), PHASES)
@pytest.mark.parametrize("kind", LONG)
def test_what_lasts_is_told_and_made_up_for(
    tmp_path: Path, server: WandBServer, kind: str, endpoint: str, when: str
) -> None:
    worker = Worker(tmp_path, server)

    done = worker.attempt((endpoint, Fault(**LONG[kind])), when)
    server.heal()
    if not done:
        assert worker.attempt(), worker.failures

    stands_once(server.runs["exp.site-1"])
