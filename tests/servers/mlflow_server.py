"""A real MLflow tracking server in a process of its own: killed, stopped and started again on one port and one store.

with MLflowServer(tmp_path) as server:
    server.stop()       # SIGSTOP: it takes connections and never answers
    server.go_on()
    server.kill()       # SIGKILL
    server.start()      # the same port, the same store
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Self

from mlflow_stores import put_mlflow_store

if TYPE_CHECKING:
    from pathlib import Path

START_SECONDS = 120.0
"""It imports for 4 to 20 s, and a busy machine takes its time."""

POLL_SECONDS = 0.1


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MLflowServer:
    """Runs between `with` and its end.

    Attributes:
        store: The SQLite file of the server, for reading it without MLflow.
        artifacts: Folder of the artifacts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "mlflow.db"
        self.artifacts = folder / "artifacts"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Tracking URI."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it on its port and store, and wait until it answers."""
        if not self.store.exists():
            put_mlflow_store(self.folder)
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.store}"),
            *("--artifacts-destination", str(self.artifacts)),
        ]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, env=environment
            )
        self._wait_until_ready(self._process)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert process.poll() is None, f"the server ended: {(self.folder / 'log').read_text()[-2000:]}"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        """Kill it and what it started."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def stop(self) -> None:
        """Stop it as a debugger or a frozen machine would: the kernel goes on taking connections for it."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a stopped server go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server does not run"
        os.killpg(self._process.pid, number)
