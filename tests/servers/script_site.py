"""The site of one training script, without a job around it: what an engine is to a script, one frame at a time.

Run a script in a process of its own, say what it is asked, and look at what it answers.
"""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Self

from training._payload import model_from, payload_of
from training._wire import PREFIX, End, Hello, Leave, Message, Result, TaskSent, Welcome, pack, unpack, unpack_prefix
from training.fl_model import FLModel

PATIENCE_SECONDS = 100.0  # for a process that imports a framework, on a busy machine

TOKEN = "a token"


class ScriptSite:
    """A site that a script can be started at."""

    def __init__(self, folder: Path, **welcome: Any) -> None:
        self._folder = folder
        self._welcome = Welcome(site="site-1", job="job-1", **welcome)
        self._path = folder / "link"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(PATIENCE_SECONDS)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._link: socket.socket | None = None
        self._tasks = 0
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._listener.close()
        for process in self.processes:
            process.kill()
            process.communicate()

    # --- the script --------------------------------------------------------------------------------------------------

    def start(self, script: str, **environment: str) -> subprocess.Popen[str]:
        """Start a script; its output is read by `output`."""
        file = self._folder / "client.py"
        file.write_text(textwrap.dedent(script), encoding="utf-8")
        link = {"socket": str(self._path), "token": TOKEN, "site": "site-1", "job": "job-1"}
        process = subprocess.Popen(
            [sys.executable, str(file)],
            env={**os.environ, "TRACKBUS_CLIENT": json.dumps(link), **environment},
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(self, script: str, **environment: str) -> subprocess.Popen[str]:
        """Start a script, and meet it."""
        process = self.start(script, **environment)
        self.meet()
        return process

    def output(self, process: subprocess.Popen[str]) -> tuple[str, str, int]:
        """Wait for the script's end: what it printed, what it complained of, its exit code."""
        printed, complained = process.communicate(timeout=PATIENCE_SECONDS)
        return printed, complained, process.returncode

    # --- the link ----------------------------------------------------------------------------------------------------

    def meet(self) -> None:
        """Take the script's connection, and welcome it."""
        self._link, _ = self._listener.accept()
        self._link.settimeout(PATIENCE_SECONDS)
        hello = self.next()
        assert isinstance(hello, Hello)
        assert (hello.token, hello.rank) == (TOKEN, 0)
        self._send(self._welcome)

    def refuse(self, reason: str) -> None:
        """Take the script's connection, and end it."""
        self._link, _ = self._listener.accept()
        self.end(reason)

    def ask(self, name: str, model: FLModel) -> None:
        """Send a task."""
        self._tasks += 1
        head, payload = payload_of(model)
        self._send(TaskSent(task=self._tasks, name=name, model=head), payload)

    def answer(self) -> FLModel:
        """Wait for the answer to the last task; its params are numpy arrays."""
        message, payload = self._frame()
        assert isinstance(message, Result), message
        assert message.task == self._tasks
        return model_from(message.model, payload, "numpy")

    def left(self) -> str:
        """Wait for the script to leave, and return its reason."""
        message = self.next()
        assert isinstance(message, Leave), message
        assert self._link is not None
        assert self._link.recv(1) == b""
        return message.error

    def end(self, reason: str = "") -> None:
        """Say that there are no more tasks, and close."""
        self._send(End(reason=reason))
        self.close()

    def close(self) -> None:
        """Close the link without a word, as a killed engine does."""
        if self._link is not None:
            self._link.close()

    def next(self) -> Message:
        """Wait for the next message."""
        return self._frame()[0]

    def send_raw(self, data: bytes) -> None:
        """Send what no engine sends."""
        assert self._link is not None
        self._link.sendall(data)

    def _send(self, message: Message, payload: bytes = b"") -> None:
        assert self._link is not None
        self._link.sendall(pack(message, len(payload)) + payload)

    def _frame(self) -> tuple[Message, bytes]:
        header, payload = unpack_prefix(self._read(PREFIX.size))
        return unpack(self._read(header)), self._read(payload)

    def _read(self, size: int) -> bytes:
        assert self._link is not None
        data = b""
        while len(data) < size:
            part = self._link.recv(size - len(data))
            assert part, "the script has closed the link"
            data += part
        return data
