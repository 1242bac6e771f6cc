"""The process that starts scripts, asked directly: what it does when the system, the server or a script fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest
from waiting import wait_until

from training.engines.orders import MAX_DATAGRAM, Ended, Ready, Spawn
from training.engines.processes import Process, open_nursery
from training.engines.script import ScriptFailedError

PROGRAM = "from training.engines.nursery import main; main()"

WITHOUT_FORK = """
import ctypes, errno, platform, struct

# Linux itself refuses to fork from here on: allow every system call but clone.
number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50000 | errno.EAGAIN), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0
assert prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
"""

SLOW_MODULE = """
import os, time
from pathlib import Path

deadline = time.monotonic() + 20
while not Path(os.environ["GO"]).exists() and time.monotonic() < deadline:
    time.sleep(0.01)
Path(os.environ["GO"] + ".seen").touch()
"""


@contextmanager
def nursery(program: str = PROGRAM) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """A nursery without a server: its socket, and its process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [sys.executable, "-c", program, str(theirs.fileno())]
        with subprocess.Popen(command, pass_fds=(theirs.fileno(),), start_new_session=True) as process:
            theirs.close()
            ours.settimeout(60)
            try:
                yield ours, process
            finally:
                ours.close()


def order(folder: Path, *command: str, environment: dict[str, str] | None = None, number: int = 0) -> Spawn:
    return Spawn(
        script="",
        args=(),
        command=command,
        search_path=(),
        folder=str(folder),
        log=str(folder / "log.txt"),
        environment=os.environ | (environment or {}),
        threads=1,
        seed=0,
        number=number,
    )


def send(control: socket.socket, order: Spawn) -> None:
    control.send(msgspec.msgpack.encode(order))


def ended(control: socket.socket) -> Ended:
    """The next report of an end: that all is loaded is told before."""
    while isinstance(report := msgspec.msgpack.decode(control.recv(MAX_DATAGRAM), type=Ready | Ended), Ready):
        pass
    return report


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def pid_in(file: Path) -> int:
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


# ---------------------------------------------------------------------------------------------------- the nursery's end
def test_it_ends_what_is_left_when_its_server_dies_without_having_read_all_reports(tmp_path: Path) -> None:
    with nursery() as (control, process):
        send(control, order(tmp_path, "sh", "-c", "setsid sleep 1000 & echo $! > pid; sleep 1000", number=1))
        daemon = pid_in(tmp_path / "pid")
        send(control, order(tmp_path, "true", number=2))
        assert control.recv(MAX_DATAGRAM, socket.MSG_PEEK)  # it lies there, unread
        control.close()
        assert process.wait(60) == 0
    assert not is_alive(daemon)


def test_a_process_that_the_system_has_no_room_for_is_one_sites_problem(tmp_path: Path) -> None:
    with nursery(WITHOUT_FORK + PROGRAM) as (control, process):
        for number in (1, 2):
            send(control, order(tmp_path, "true", number=number))
            assert ended(control) == Ended(number=number, code=126)
        control.close()
        assert process.wait(60) == 0
    assert "no process can be started: Resource temporarily unavailable" in (tmp_path / "log.txt").read_text()


def test_what_a_script_leaves_behind_ends_soon_after_it(tmp_path: Path) -> None:
    inner = "sleep 1000 & echo $! > pid; wait"
    with nursery() as (control, _):
        send(control, order(tmp_path, "sh", "-c", f"sh -c '{inner}' & while ! [ -s pid ]; do :; done", number=1))
        assert ended(control) == Ended(number=1, code=0)
        left = pid_in(tmp_path / "pid")  # no child of what is left, but of its child
        wait_until(lambda: not is_alive(left))
        send(control, order(tmp_path, "true", number=2))
        assert ended(control) == Ended(number=2, code=0)


def test_what_a_script_has_started_lives_while_the_script_does(tmp_path: Path) -> None:
    with nursery() as (control, _):
        orphan = "(sleep 1000 & echo $! > pid); while ! [ -e go ]; do sleep 0.01; done"
        send(control, order(tmp_path, "sh", "-c", orphan, number=1))
        left = pid_in(tmp_path / "pid")
        send(control, order(tmp_path, "sleep", "2.5", number=2))
        assert ended(control) == Ended(number=2, code=0)  # longer than the grace of what a script leaves behind
        assert is_alive(left)
        (tmp_path / "go").touch()
        assert ended(control) == Ended(number=1, code=0)
        wait_until(lambda: not is_alive(left))


# --------------------------------------------------------------------------------------------------- the server's half
@pytest.mark.anyio
async def test_many_orders_for_a_nursery_that_still_loads_do_not_block_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    big = {"BIG": "x" * 30_000}
    async with open_nursery(("slow_module",)) as home:
        spawned = [home.spawn(order(tmp_path, "true", environment=big), lambda: None) for _ in range(20)]
        assert not (tmp_path / "go.seen").exists()  # none of 600 kB has been read
        (tmp_path / "go").touch()
        for process in spawned:
            await process.exited.wait()
    assert [process.code for process in spawned] == [0] * 20


@pytest.mark.anyio
async def test_an_order_that_is_too_long_is_one_sites_problem(tmp_path: Path) -> None:
    async with open_nursery(()) as home:
        with pytest.raises(ScriptFailedError, match=r"environment and arguments take 10\d{5} bytes"):
            home.spawn(order(tmp_path, "true", environment={"BIG": "x" * 1_000_000}), lambda: None)
        process = home.spawn(order(tmp_path, "true"), lambda: None)
        await process.exited.wait()
    assert process.code == 0


@pytest.mark.anyio
async def test_the_longest_order_is_taken(tmp_path: Path) -> None:
    control, _peer = pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    room = control.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    for one in pair:
        one.close()
    longest = msgspec.structs.replace(order(tmp_path, "true"), environment={"PATH": os.environ["PATH"], "LD": ""})
    free = room - len(msgspec.msgpack.encode(longest)) - 40
    filled = {f"V{index}": "x" * (free // 4 - 10) for index in range(4)}  # the system takes 128 kB of one variable
    async with open_nursery(()) as home:
        process = home.spawn(msgspec.structs.replace(longest, environment=longest.environment | filled), lambda: None)
        await process.exited.wait()
    assert process.code == 0


def test_a_process_is_seen_to_end_also_when_the_job_is_cancelled(tmp_path: Path) -> None:
    spawned: list[Process] = []

    async def run() -> None:
        with anyio.CancelScope() as scope:
            async with open_nursery(()) as home:
                process = home.spawn(order(tmp_path, "sh", "-c", "echo $$ > pid; exec sleep 1000"), lambda: None)
                spawned.append(process)
                await anyio.to_thread.run_sync(partial(pid_in, tmp_path / "pid"))
                scope.cancel()
                try:
                    await anyio.sleep_forever()
                finally:
                    await process.stop()

    anyio.run(run)
    assert spawned[0].code == -signal.SIGTERM
