"""Finds the processes of a campaign by a variable in their environment, and the ones that it starts itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CAMPAIGN = "TRACKBUS_TESTED_CAMPAIGN"
"""Set for everything that a campaign starts, so whoever is left behind is found."""

CONSUMER = b"TRACKBUS_CONSUMER"

ROOT = Path(__file__).resolve().parents[2]


class Process(NamedTuple):
    """A living process."""

    pid: int
    started: int
    parent: int
    consumer: str
    command: bytes

    @property
    def id(self) -> tuple[int, int]:
        """A pid may come back; pid and start time together don't."""
        return self.pid, self.started

    @property
    def is_worker(self) -> bool:
        return b"receivers._worker" in self.command

    @property
    def is_core(self) -> bool:
        return b"wandb-core" in self.command


def scan(campaign: str) -> list[Process]:
    """Return all living processes of a campaign."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found = (_look_at(pid, campaign.encode()) for pid in pids)
    return [process for process in found if process is not None]


def _look_at(pid: int, campaign: bytes) -> Process | None:
    folder = Path(f"/proc/{pid}")
    try:
        pairs = (pair.partition(b"=") for pair in (folder / "environ").read_bytes().split(b"\0"))
        environment = {name: value for name, _, value in pairs}
        if environment.get(CAMPAIGN.encode()) != campaign:
            return None
        state, *rest = (folder / "stat").read_text().rpartition(")")[2].split()
        command = (folder / "cmdline").read_bytes()
    except OSError:  # gone meanwhile, a zombie, or somebody else's
        return None
    if state == "Z":
        return None
    return Process(pid, int(rest[18]), int(rest[0]), os.fsdecode(environment.get(CONSUMER, b"")), command)


class Actor:
    """A process of the campaign, over all its lives. It ends by itself when its standard input does."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self.command = list(command)
        self._environment = environment
        self._log = logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.lives = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *extra: str) -> None:
        self.lives += 1
        paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", *self.command, *extra],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": paths, **self._environment},
            )

    def kill(self) -> bool:
        """Kill it at once; tell whether it was alive."""
        if not self.is_running:
            return False
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)
        self.end_input()
        return self._process.returncode == -9

    def end_input(self) -> None:
        """Tell it to end."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process else None
