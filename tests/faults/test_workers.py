"""What an SDK can do to its worker: take all memory, and leave a deaf process in a session of its own."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import anyio
import pytest
from readback import read_jsonl

from eventbus import EventBus, Report
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, Receiver
from receivers._processes import marked_processes

pytestmark = pytest.mark.anyio

COUNT = 200
NAME = "tested"

BACKEND = """
import os, resource, signal, subprocess, sys
from pathlib import Path
from typing import ClassVar
from receivers.testing import FaultConfig, FaultySink

HELPER = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"

def runs(pid):
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

class GreedyConfig(FaultConfig):
    sink: ClassVar[str] = "faulty_backend:GreedySink"

class GreedySink(FaultySink):
    def misbehave(self):
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (32 << 20), -1))
        hoard = []
        while True:
            hoard.append(bytearray(1 << 20))

class HelpedConfig(FaultConfig):
    sink: ClassVar[str] = "faulty_backend:HelpedSink"

class HelpedSink(FaultySink):
    def open(self, run, committed):
        notes = self.workspace / "helpers"
        with notes.open("a") as file:
            for pid in notes.read_text().split():
                if runs(pid):
                    print("alive", file=file)
        helper = subprocess.Popen(
            [sys.executable, "-c", HELPER], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        helper.stdout.readline()
        with notes.open("a") as file:
            print(helper.pid, file=file)
        return super().open(run, committed)

    def misbehave(self):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A backend in a module of the user's."""
    (tmp_path / "faulty_backend.py").write_text(BACKEND)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.reload(importlib.import_module("faulty_backend"))


async def deliver(workspace: Path, config: object) -> Report:
    with anyio.fail_after(90):
        async with EventBus(workspace, site="site-1", run="run", drain_idle_timeout=30) as bus:
            flush = FlushPolicy(max_items=20, max_delay=0.05)
            bus.subscribe(TRACKING, Receiver(config, name=NAME, flush=flush))  # type: ignore[arg-type] - a SinkConfig
            for step in range(COUNT):
                bus.publish(MetricsLogged(values={"loss": float(step)}, step=step), run="run")
    lines = [line.value for line in read_jsonl(workspace / "jsonl")]
    assert [line["event"]["step"] for line in lines if line["type"] == "MetricsLogged"] == list(range(COUNT))
    assert not marked_processes(str(workspace / "cursors" / f"{NAME}.db"))
    return bus.report()


async def test_a_sink_that_takes_all_memory_costs_its_worker_alone(tmp_path: Path, backend: ModuleType) -> None:
    report = await deliver(tmp_path, backend.GreedyConfig(path="jsonl", after_rows=60, times=1))
    assert report.complete, str(report)
    assert report.line(NAME).failed == 1
    assert any("MemoryError" in note for note in report.line(NAME).notes), str(report)


@pytest.mark.faults
async def test_a_deaf_helper_of_a_dead_worker_is_gone_before_the_next_one_looks(
    tmp_path: Path, backend: ModuleType
) -> None:
    (tmp_path / "helpers").touch()
    report = await deliver(tmp_path, backend.HelpedConfig(path="jsonl", after_rows=60, times=1))
    assert report.complete, str(report)
    assert report.line(NAME).failed == 1
    helpers = (tmp_path / "helpers").read_text().split()
    assert len(helpers) == 2
    assert "alive" not in helpers
    assert not [pid for pid in helpers if backend.runs(pid)]
