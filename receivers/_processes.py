"""Finds and ends the processes that an SDK started for a worker, also those in sessions of their own.

They are told apart by a variable in their environment that names the worker's consumer file. Linux's `/proc` is what
this reads; where there is none, nothing is found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

MARKER = "TRACKBUS_CONSUMER"
"""Environment variable of a worker and of all that it starts: the path of its consumer file."""

HELPER_SECONDS = 5.0
"""How long helpers of a dead worker may take to end by themselves: wandb-core writes on for about 2 s."""

POLL_SECONDS = 0.05
"""How often a disappearing process is looked for."""

_PR_SET_PDEATHSIG = 1


def marked_processes(consumer: str) -> list[int]:
    """Return the pids of other living processes that belong to a consumer's worker."""
    wanted = f"{MARKER}={consumer}".encode()
    try:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except FileNotFoundError:
        return []
    return [pid for pid in pids if pid != os.getpid() and _is_marked(pid, wanted)]


def _is_marked(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, a zombie, or somebody else's
        return False


def end_marked_processes(consumer: str, patience: float = HELPER_SECONDS) -> None:
    """Wait until a dead worker's helpers are gone; kill those that stay."""
    deadline = time.monotonic() + patience
    while pids := marked_processes(consumer):
        if time.monotonic() > deadline:
            kill(pids)
        time.sleep(POLL_SECONDS)


def kill(pids: list[int]) -> None:
    """Kill processes at once."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal a worker and the processes of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent dies; where it can't, the closed socket has to do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
