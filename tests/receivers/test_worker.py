"""The worker's end of the control channel, and how left-behind processes are told from living ones."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from receivers import _processes
from receivers._control import Beat, Done, Drain, Inbox, News, Phase, Settled, Start, WorkerChannel, decode_news, pack

SECONDS = 10.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        yield ours, theirs


def start_order(config: str = "{}") -> Start:
    return Start(
        journal="/j",
        cursors="/c",
        name="n",
        sources=[],
        selectors=[],
        again=False,
        beside="dead",
        search_path=[],
        sink="a:B",
        config_type="a:C",
        config=config,
        workspace="/w",
        layout="per_site",
        max_items=1,
        max_bytes=1,
        max_delay=1.0,
        process_timeout=1.0,
        orphan_timeout=1.0,
    )


def test_a_parent_that_does_not_listen_holds_no_worker_up(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    channel = WorkerChannel(theirs)

    def talk() -> None:
        for number in range(20_000):
            channel.send(Phase("batch"))
            channel.send(Settled({"p": number}, []))
        channel.send(Phase("idle"))

    talker = threading.Thread(target=talk, daemon=True)
    talker.start()
    talker.join(SECONDS)
    assert not talker.is_alive()
    heard = hear_until_done(ours, channel)
    assert [one for one in heard if isinstance(one, Settled)][-1].cursor == {"p": 19_999}
    assert [one for one in heard if isinstance(one, Phase)][-1].name == "idle"
    assert isinstance(heard[-1], Done)


def hear_until_done(ours: socket.socket, channel: WorkerChannel) -> list[News]:
    last = threading.Thread(target=channel.send_last, args=(Done(), SECONDS), daemon=True)
    last.start()
    ours.settimeout(SECONDS)
    inbox, heard = Inbox(decode_news), list[News]()
    while not (heard and isinstance(heard[-1], Done)):
        heard += inbox.feed(ours.recv(65536))
    last.join(SECONDS)
    return heard


def test_last_words_to_a_deaf_parent_are_bounded(ends: tuple[socket.socket, socket.socket]) -> None:
    channel = WorkerChannel(ends[1])
    for _ in range(20_000):
        channel.send(Beat())
    channel.send_last(Done(), 0.2)
    assert not channel.parent_lost.is_set()


def test_a_start_order_may_be_longer_than_what_is_received_at_once(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    order = start_order("x" * 1_000_000)
    sender = threading.Thread(target=ours.sendall, args=(pack(order) + pack(Drain(1, "s/0-a")),), daemon=True)
    sender.start()
    channel = WorkerChannel(theirs)
    assert channel.receive(SECONDS) == order
    assert channel.receive(SECONDS) == Drain(1, "s/0-a")
    assert channel.receive(0.0) is None
    sender.join(SECONDS)


def test_a_lost_parent_is_noticed_and_gives_no_orders(ends: tuple[socket.socket, socket.socket]) -> None:
    channel = WorkerChannel(ends[1])
    ends[0].close()
    assert channel.receive(0.01) is None
    assert channel.parent_lost.is_set()
    channel.send_last(Done(), SECONDS)


def test_a_trainer_may_have_thousands_of_files_open(ends: tuple[socket.socket, socket.socket]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        high = socket.socket(fileno=fcntl.fcntl(ends[1].fileno(), fcntl.F_DUPFD_CLOEXEC, 2000))
        with closing(high):
            ends[0].sendall(pack(Drain(1, "s/0-a")))
            assert WorkerChannel(high).receive(SECONDS) == Drain(1, "s/0-a")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """What the SDK of another, dead worker has started."""
    marks = {_processes.MARKER: str(tmp_path), _processes.WORKER: "dead"}
    program = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, **marks}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def test_what_a_dead_worker_has_left_behind_is_ended(
    tmp_path: Path, helper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(_processes.WORKER, "ours")
    assert _processes.left_behind(str(tmp_path)) == [helper.pid]
    threading.Thread(target=helper.wait, daemon=True).start()
    _processes.end_left_behind(str(tmp_path), patience=0.1)
    assert helper.wait(SECONDS) == -9


def test_another_workers_processes_are_let_alone(tmp_path: Path, helper: subprocess.Popen[bytes]) -> None:
    _processes.end_worker_processes("ours", patience=0.0)
    assert helper.poll() is None
    assert _processes.marked_processes(str(tmp_path)) == [helper.pid]


def test_a_worker_whose_parent_dies_before_its_first_word_ends(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "receivers._worker", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    theirs.close()
    ours.close()
    assert worker.wait(3 * SECONDS) == 0  # Python's own start is most of it
