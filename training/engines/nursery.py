"""Starts the processes of scripts, fast: a process of its own that has loaded what they want, and forks.

Run as `python -P -m training.engines.nursery FD MODULE...`: it imports the modules, then takes orders over the socket
FD, one datagram each, and reports when what it started has ended. It has one thread and runs no torch operation, so
its children can do all of it. When the socket closes, because the job is over or because its server is dead, it ends
every process that it or its children have started, and itself.

It adopts what a script leaves behind, also from sessions of their own: a launcher that was killed has workers. What
is in the script's own session ends soon after the script, the rest with the job.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from typing import cast

import msgspec

from training.engines.orders import MAX_DATAGRAM, Ended, Order, Ready, Report, Signal, Spawn
from training.engines.stage import play, set_scene

GRACE_SECONDS = 2.0
"""How long orphans may take to end by themselves: multiprocessing's own helper removes what leaked."""

POLL_SECONDS = 0.02
"""How often a dying process is looked for."""

NO_SUCH_COMMAND = 127
"""Exit code of a process whose command can't be run, as in a shell."""

CANT_START = 126
"""Exit code of a process that the system has no room for."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


_orders = msgspec.msgpack.Decoder(Order)


class Nursery:
    """The process itself; see the module.

    Args:
        control: Brings orders, takes reports.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._numbers: dict[int, int] = {}
        self._grace: dict[int, float] = {}
        self._news, self._alarm = socket.socketpair()
        self._alarm.setblocking(False)  # noqa: FBT003 - its only argument

    def run(self) -> Spawn | None:
        """Serve orders to the end; in a child that is to run a script, return what it was ordered to be."""
        home = os.getpid()
        try:
            return self._serve_all()
        finally:
            if os.getpid() == home:  # a child leaves this way too
                self._end_all()

    def _serve_all(self) -> Spawn | None:
        signal.set_wakeup_fd(self._alarm.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _wake)
        self._report(Ready())
        while True:
            ready, _, _ = select.select([self._control, self._news], [], [], self._seconds_to_next_look())
            if self._news in ready:
                self._news.recv(4096)
                self._report_ends()
            self._end_leftovers()
            if self._control in ready:
                data = self._receive()
                if not data:
                    return None
                order = _orders.decode(data)
                if self._serve(order):
                    return cast("Spawn", order)

    def _receive(self) -> bytes:
        try:
            return self._control.recv(MAX_DATAGRAM)
        except ConnectionError:  # the server is dead, and had not read all reports
            return b""

    def _serve(self, order: Order) -> bool:
        """Serve an order; True in a child that is now to run the order's script."""
        if isinstance(order, Signal):
            for pid, number in self._numbers.items():
                if number == order.number:
                    _signal_group(pid, order.signal)
            return False
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._refuse(order, error)
            return False
        if pid:
            self._numbers[pid] = order.number
            return False
        self._leave_home(parent)
        enter(order)
        return True

    def _refuse(self, order: Spawn, error: OSError) -> None:
        """Say that a process can't be started, where its last words would be; others still can, perhaps later."""
        with contextlib.suppress(OSError), open(order.log, "a", encoding="utf-8") as log:  # noqa: PTH123 - as below
            print(f"no process can be started: {error.strerror}", file=log)
        self._report(Ended(number=order.number, code=CANT_START))

    def _leave_home(self, parent: int) -> None:
        """Become a process of its own, in the child, that dies with the nursery."""
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._control, self._news, self._alarm):
            end.close()

    def _report_ends(self) -> None:
        for pid, code in _reap():
            number = self._numbers.pop(pid, None)
            if number is not None:
                self._grace[pid] = time.monotonic() + GRACE_SECONDS
                self._report(Ended(number=number, code=code))

    def _report(self, report: Report) -> None:
        with contextlib.suppress(ConnectionError):  # the server is dead, which the next look at its orders tells
            self._control.send(msgspec.msgpack.encode(report))

    def _seconds_to_next_look(self) -> float | None:
        return max(0.0, min(self._grace.values()) - time.monotonic()) if self._grace else None

    def _end_leftovers(self) -> None:
        """End what is left in the sessions of scripts that have ended, and whose grace is over.

        Only what has been adopted is seen: what a process has started is, once that process has been ended.
        """
        now = time.monotonic()
        over = {session for session, until in self._grace.items() if until <= now}
        left = {pid: _session(pid) for pid in _children() if pid not in self._numbers} if over else {}
        for pid, session in left.items():
            if session in over:
                _kill(pid)
        for session in over:
            if session in left.values():
                self._grace[session] = now + POLL_SECONDS
            else:
                del self._grace[session]

    def _end_all(self) -> None:
        for pid in self._numbers:
            _signal_group(pid, signal.SIGKILL)
        patient_until = time.monotonic() + GRACE_SECONDS
        while _has_children():
            for pid in _children() if time.monotonic() > patient_until else ():
                _kill(pid)
            time.sleep(POLL_SECONDS)


def enter(order: Spawn) -> None:
    """Be what was ordered, in the child: a command takes its place; for a script the scene is set."""
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.folder)
    if order.command:
        _become(order.command)
    set_scene(order.script, order.args, order.search_path, order.threads, order.seed)


def _wake(_number: int, _frame: object) -> None:
    """Do nothing: that there is a handler makes the alarm ring."""


def _become(command: tuple[str, ...]) -> None:
    try:
        os.execvp(command[0], command)  # noqa: S606 - the job's own command, and no shell
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(NO_SUCH_COMMAND)


def _reap() -> list[tuple[int, int]]:
    """Return the pids and codes of all children that have ended."""
    ended: list[tuple[int, int]] = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _has_children() -> bool:
    _reap()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _children() -> list[int]:
    """Return the pids of all children, adopted ones too, as far as the system tells."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123 - nothing to import
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _session(pid: int) -> int | None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getsid(pid)
    return None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(PermissionError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # it has no group of its own yet
            os.kill(pid, number)  # a zombie until it is reaped here, so the pid is nobody else's


def _prctl(option: int, value: int) -> None:
    """Ask Linux for something; where there is none of it, the closed socket has to do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, int(value), 0, 0, 0)


def _preload(modules: list[str]) -> None:
    """Import what scripts are about to: one that can't be imported is the script's own business."""
    gc.disable()  # the collector would look at millions of new objects again and again, a fifth of the time
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.enable()
    gc.freeze()  # children share the memory of what is loaded until somebody writes to it


def main() -> None:
    """Serve the socket named by the first argument, with the modules named by the others."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _preload(sys.argv[2:])
    order = Nursery(control).run()
    if order is not None:
        play(order.script)
    os._exit(0)  # torch's libraries complain of what is not freed


if __name__ == "__main__":
    main()
