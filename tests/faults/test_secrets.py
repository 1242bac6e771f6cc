"""Secrets in the configuration, in a URI, in the environment and on the command line stand nowhere that people look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers.mlflow_server import free_port

ROOT = Path(__file__).resolve().parents[2]
IN_URI, IN_QUERY, IN_ARGV, IN_KEY = "uri-s3cret", "query-s3cret", "argv-s3cret", "local-" + "5ec2e7" * 6 + "abcd"
SECRETS = (IN_URI, IN_QUERY, IN_ARGV, IN_KEY)

TRAINER = """
import logging, sys, time
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
from eventbus import EventBus
from eventbus.errors import TrackbusError
from eventbus.health import HEALTH
from eventbus.tracking import TRACKING
from receivers import JsonlReceiver, MLflowReceiver, WandBReceiver
from receivers._processes import marked_processes
from writers import TrackingWriter

workspace, uri = Path(sys.argv[1]), Path(sys.argv[2]).read_text()
mlflow, wandb = MLflowReceiver(uri), WandBReceiver(mode="offline")

def command_lines():
    pids = [pid for name in ("mlflow", "wandb") for pid in marked_processes(str(workspace / "cursors" / f"{name}.db"))]
    for pid in pids:
        try:
            yield Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        except OSError:
            pass

try:
    MLflowReceiver(uri.replace("http", "ftp")).config.check(workspace)
except TrackbusError as error:
    print("refused:", error)
with EventBus(workspace, site="site-1", run="run", drain_idle_timeout=2, drain_timeout=20).background() as bus:
    bus.subscribe(HEALTH, lambda event: print("health:", event))
    for one in (mlflow, wandb, JsonlReceiver()):
        bus.subscribe(TRACKING, one)
    print(repr(mlflow), repr(mlflow.config), mlflow.config, bus.address)
    TrackingWriter().log({"loss": 1.0}, step=1)
    deadline = time.monotonic() + 60
    while not mlflow.statistics().failed and time.monotonic() < deadline:
        time.sleep(0.05)
        seen = list(command_lines())
    print("command lines:", seen)
    print("statistics:", mlflow.statistics(), wandb.statistics())
print(bus.report())
"""


def places(secret: str, folder: Path, said: bytes) -> list[str]:
    """Name the files, and the output, that hold a secret."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    found = [str(file) for file in files if secret.encode() in file.read_bytes()]
    return found + ["output"] * (secret.encode() in said)


@pytest.mark.slow
def test_a_secret_stands_in_no_file_no_output_and_no_command_line(tmp_path: Path) -> None:
    workspace, uri = tmp_path / "run", tmp_path / "uri"
    uri.write_text(f"http://me:{IN_URI}@127.0.0.1:{free_port()}/x?token={IN_QUERY}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_API_KEY": IN_KEY}
    trainer = subprocess.run(
        [sys.executable, "-c", TRAINER, str(workspace), str(uri), f"--token={IN_ARGV}"],
        env=environment,
        capture_output=True,
        timeout=110,
        check=False,
    )
    said = trainer.stdout + trainer.stderr
    assert trainer.returncode == 0, said.decode()
    assert [places(secret, workspace, said) for secret in SECRETS] == [[], [], [], []]
    assert b"***@127.0.0.1" in said  # the address is named without them
    assert b"receivers._worker" in said  # the command lines were there to be looked at
    assert list((workspace / "wandb").rglob("*.wandb"))
    assert b"***@127.0.0.1" in (workspace / "workers" / "mlflow.log").read_bytes()
    assert places(IN_URI, tmp_path, said) == [str(uri)]  # the search does find what is there
