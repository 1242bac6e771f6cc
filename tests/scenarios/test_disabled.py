"""`TRACKBUS_MODE=disabled`: a script runs as it stands, and leaves no file, no process and no thread of ours behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.errors import ConfigurationError

SCRIPT = """
import json, os, sys, threading
from pathlib import Path
import anyio
from eventbus import EventBus, Relay, Scope
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import JsonlReceiver, WandBReceiver
from writers import MLflowWriter, SummaryWriter, WandBWriter

handled = []

def children():
    return [pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]

async def handle(event: MetricsLogged) -> None:
    handled.append(event.step)

async def main():
    async with EventBus("runs/server", site="server") as server, EventBus("runs/site", site="site-1") as bus:
        jsonl = JsonlReceiver()
        server.subscribe(TRACKING, jsonl)
        if sys.argv[1] == "without a key":
            server.subscribe(TRACKING, WandBReceiver(mode="online"))
        bus.subscribe(TRACKING.federated, Relay(server))
        bus.subscribe(MetricsLogged, handle)
        writers = WandBWriter(bus=bus, scope=Scope.FEDERATED), MLflowWriter(bus=bus), SummaryWriter(bus=bus)
        for step in range(10):
            receipt = writers[0].log({"loss": 1.0}, step=step)
            writers[1].log_metric("loss", 1.0, step=step)
            writers[2].add_scalar("loss", 1.0, step)
        await receipt.delivered(20)
        if os.environ.get("TRACKBUS_MODE") != "disabled":
            await jsonl.ready()
        bus.publish(MetricsLogged(values={"own": 1.0}, step=99))
        writers[0].finish()
        found = {"threads": len(threading.enumerate()), "children": len(children()), "address": bool(bus.address)}
    return {**found, "handled": handled, "complete": bus.report().complete, "lines": len(bus.report().lines)}

print(json.dumps(anyio.run(main)))
"""

WITHOUT_A_BUS = """
import threading
from writers import WandBWriter
writer = WandBWriter()
writer.log({"loss": 1.0})
print(threading.active_count())
"""


def run(folder: Path, script: str, mode: str, *arguments: str) -> str:
    environment = {**os.environ, "TRACKBUS_MODE": mode, "NETRC": str(folder / "none"), "WANDB_API_KEY": ""}
    command = [sys.executable, "-P", "-c", script, *arguments]
    return subprocess.check_output(command, cwd=folder, env=environment, text=True, timeout=100)


def found(folder: Path, mode: str, *arguments: str) -> dict[str, Any]:
    return json.loads(run(folder, SCRIPT, mode, *arguments))


def test_a_script_with_bus_and_receivers_leaves_no_trace(tmp_path: Path) -> None:
    disabled = found(tmp_path, "disabled", "without a key")

    assert disabled == {
        "threads": 1, "children": 0, "address": True, "handled": [99], "complete": True, "lines": 1,
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_same_script_records_where_it_may(tmp_path: Path) -> None:
    enabled = found(tmp_path, "enabled", "with what works")

    assert (enabled["children"], len(enabled["handled"])) == (1, 31)
    assert enabled["threads"] > 1
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["server", "site"]


def test_a_writer_needs_no_bus(tmp_path: Path) -> None:
    assert run(tmp_path, WITHOUT_A_BUS, "disabled") == "1\n"
    assert list(tmp_path.iterdir()) == []


def test_a_mode_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKBUS_MODE", "disable")

    with pytest.raises(ConfigurationError, match="use 'disabled', or unset it"):
        EventBus("nowhere")
