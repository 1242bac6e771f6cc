"""Finds and ends the processes that an SDK started for a worker, also those in sessions of their own.

They are told apart by variables in their environment that name the worker and its consumer file. Linux's `/proc` is
what this reads; where there is none, nothing is found.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MARKER = "TRACKBUS_CONSUMER"
"""Environment variable of a worker and of all that it starts: the path of its consumer file."""

WORKER = "TRACKBUS_WORKER"
"""Environment variable of the same processes: which worker of that consumer; several processes may each have one."""

PARENT = "TRACKBUS_PARENT"
"""Environment variable of the same processes: pid of the worker's parent."""

HELPER_SECONDS = 5.0
"""How long helpers of a dead worker may take to end by themselves: wandb-core writes on for about 2 s."""

KILL_SECONDS = 5.0
"""How long a killed process may take to disappear: one that waits for a dead disk takes for ever."""

POLL_SECONDS = 0.05
"""How often a disappearing process is looked for."""

PARENT_DIED = signal.SIGHUP
"""The kernel's word that the parent dies. Not SIGTERM, which is an order to end: a process of many threads dies thread
by thread, and while it does `getppid` still names it."""

_PR_SET_PDEATHSIG = 1

_logger = logging.getLogger("trackbus.receivers")


def marked_processes(consumer: str) -> list[int]:
    """Return the pids of other living processes that belong to a consumer's workers."""
    return _processes_with(MARKER, consumer)


def _processes_with(name: str, value: str) -> list[int]:
    try:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except FileNotFoundError:
        return []
    return [pid for pid in pids if pid != os.getpid() and _environment(pid).get(name) == value]


def _environment(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, a zombie, or somebody else's
        return {}
    pairs = (os.fsdecode(pair).partition("=") for pair in text.split(b"\0"))
    return {name: value for name, _, value in pairs}


def _is_worker(pid: int) -> bool:
    """Tell a worker from what it started: it leads its session."""
    try:
        return os.getsid(pid) == pid and b"receivers._worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def left_behind(consumer: str) -> list[int]:
    """Return the pids of a consumer's processes whose own worker is dead: the living ones stand by."""
    owners = {pid: _environment(pid).get(WORKER) for pid in marked_processes(consumer)}
    alive = {os.environ.get(WORKER), *(owner for pid, owner in owners.items() if _is_worker(pid))}
    return [pid for pid, owner in owners.items() if owner not in alive]


def orphans(consumer: str) -> list[int]:
    """Return the pids of a consumer's workers whose parent is dead."""
    pids = [pid for pid in marked_processes(consumer) if _is_worker(pid)]
    return [pid for pid in pids if _environment(pid).get(PARENT) not in (None, _parent(pid))]


def _parent(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    except (OSError, IndexError):
        return None


def resume(pids: list[int]) -> None:
    """Let processes run on that were stopped; the others don't notice."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


def end_left_behind(consumer: str, patience: float = HELPER_SECONDS) -> None:
    """Wait until what dead workers of a consumer have started is gone; kill what stays."""
    _end(lambda: left_behind(consumer), patience)


def end_worker_processes(worker: str, patience: float = HELPER_SECONDS) -> None:
    """Wait until what one dead worker has started is gone; kill what stays."""
    _end(lambda: _processes_with(WORKER, worker), patience)


def _end(find: Callable[[], list[int]], patience: float) -> None:
    patient_until = time.monotonic() + patience
    while pids := find():
        now = time.monotonic()
        if now > patient_until + KILL_SECONDS:
            _logger.warning("processes %s can't be killed", pids)
            return
        if now > patient_until:
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
    """Ask the kernel to say when the parent dies; where it can't, the closed socket has to do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(PARENT_DIED), 0, 0, 0)
