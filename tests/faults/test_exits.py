"""Trainers end in every way a process can, beside a sink that hangs: in time, with Python's own exit code.

What a healthy sink can store is stored, the rest is on disk and is stored by the next start, and nobody stays behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from readback import read_jsonl
from waiting import wait_until

from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import FlushPolicy, Receiver, WorkerPolicy
from receivers._processes import marked_processes
from receivers.jsonl import JsonlConfig
from receivers.testing import HangingConfig

ROOT = Path(__file__).resolve().parents[2]
STEPS = 200
IDLE_SECONDS, DRAIN_SECONDS = 2.0, 8.0
EXIT_SECONDS = DRAIN_SECONDS + 12
"""The drain's deadline, ending a deaf worker, and the interpreter on a busy machine."""

ORPHAN_SECONDS = 4.0
POLICY = WorkerPolicy(process_timeout=60, orphan_timeout=ORPHAN_SECONDS)
FLUSH = FlushPolicy(max_items=20, max_delay=0.05)

TRAINER = """
import os, signal, sys, threading, time
from pathlib import Path
sys.path.append({folder!r})
from test_exits import receivers_of, STEPS, IDLE_SECONDS, DRAIN_SECONDS
from eventbus import EventBus
from eventbus.tracking import TRACKING, MetricsLogged
from writers import TrackingWriter

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started without
workspace = Path(sys.argv[1])
opened = EventBus(
    workspace, site="site-1", run="first", drain_idle_timeout=IDLE_SECONDS, drain_timeout=DRAIN_SECONDS
).background()

def say(what):
    os.write(1, what.encode() + b"\\n")

def train(bus):
    for one in receivers_of(workspace):
        bus.subscribe(TRACKING, one)
    writer = TrackingWriter(bus=bus)
    for step in range(STEPS):
        writer.log({{"loss": float(step)}}, step=step)
    for one in bus._feeds:
        while one.consumer.statistics().state in ("new", "starting"):  # both workers are at work
            time.sleep(0.02)

def wait():
    say("ready")
    for _ in range(6000):
        time.sleep(0.01)

{body}
"""

WITH = "with opened as bus:\n    train(bus)\n"

BODIES = {
    "leaves": WITH + "    say('ready')",
    "never left": "train(opened.__enter__())\nsay('ready')",
    "raises": WITH + "    say('ready')\n    raise ValueError('of its own')",
    "sys.exit": WITH + "    say('ready')\n    sys.exit(5)",
    "os._exit": WITH + "    say('ready')\n    os._exit(7)",
    "a handler raises, a thread exits": WITH.replace(
        "    train", "    bus.subscribe(MetricsLogged, lambda event: 1 / 0)\n    train"
    )
    + "    thread = threading.Thread(target=sys.exit, args=(9,))\n    thread.start()\n    thread.join()\n"
    + "    say('ready')",
    "SIGINT": WITH + "    wait()",
    "SIGTERM": WITH + "    wait()",
}

OFTEN = ("never left", "SIGINT")
"""These are in the normal suite."""

EXIT_CODES = {
    "leaves": 0,
    "never left": 0,
    "raises": 1,
    "sys.exit": 5,
    "os._exit": 7,
    "a handler raises, a thread exits": 0,
    "SIGINT": -signal.SIGINT,
    "SIGTERM": -signal.SIGTERM,
}

STATUSES = {
    "leaves": "FINISHED",
    "never left": "FINISHED",
    "raises": "FAILED",
    "sys.exit": "FAILED",
    "os._exit": "KILLED",
    "a handler raises, a thread exits": "FINISHED",
    "SIGINT": "KILLED",
    "SIGTERM": "KILLED",
}


def receivers_of(workspace: Path, *, hangs: bool = True) -> list[Receiver]:
    """A sink that stores everything, and one that hangs once and is deaf."""
    hung = HangingConfig(path="hung", at="write", after_rows=60, times=1 if hangs else 0, deaf=True)
    return [
        Receiver(config, name=name, flush=FLUSH, worker=POLICY)
        for config, name in ((JsonlConfig(path="healthy"), "healthy"), (hung, "hung"))
    ]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start_trainer(body: str) -> subprocess.Popen[bytes]:
        program = TRAINER.format(folder=str(Path(__file__).parent), body=body)
        with (tmp_path / "stderr").open("wb") as errors:
            trainer = subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
                start_new_session=True,
            )
        started.append(trainer)
        return trainer

    yield start_trainer
    for trainer in started:
        if trainer.poll() is None:
            os.killpg(trainer.pid, signal.SIGKILL)
        trainer.communicate()


def until_ready(trainer: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    assert trainer.stdout is not None
    os.set_blocking(trainer.stdout.fileno(), False)
    wait_until(lambda: trainer.stdout.read() == b"ready\n", seconds)  # type: ignore[union-attr] - as above


def ended(trainer: subprocess.Popen[bytes]) -> int:
    """Return the exit code, which must come in time."""
    return trainer.wait(EXIT_SECONDS)


def steps(folder: Path) -> list[int]:
    lines = read_jsonl(folder)
    assert not [line for line in lines if line.torn]
    return [line.value["event"]["step"] for line in lines if line.value["type"] == "MetricsLogged"]


def statuses(folder: Path) -> list[str]:
    return [line.value["status"] for line in read_jsonl(folder) if line.value["type"] == "RunStatus"]


def workers(workspace: Path) -> list[int]:
    return [pid for name in ("healthy", "hung") for pid in marked_processes(str(workspace / "cursors" / f"{name}.db"))]


async def open_again(workspace: Path) -> EventBus:
    async with EventBus(workspace, site="site-1", run="second") as bus:
        for one in receivers_of(workspace, hangs=False):
            bus.subscribe(TRACKING, one)
    return bus


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[] if way in OFTEN else [pytest.mark.faults]) for way in BODIES],
)
def test_an_exit_is_bounded_and_loses_nothing(
    tmp_path: Path, start: Callable[[str], subprocess.Popen[bytes]], way: str
) -> None:
    trainer = start(BODIES[way])
    until_ready(trainer)
    if way.startswith("SIG"):
        trainer.send_signal(signal.Signals[way])
    assert ended(trainer) == EXIT_CODES[way], (tmp_path / "stderr").read_text()
    wait_until(lambda: not workers(tmp_path), ORPHAN_SECONDS + 15)
    assert steps(tmp_path / "healthy") == list(range(STEPS))
    assert statuses(tmp_path / "healthy") == [STATUSES[way]]
    assert steps(tmp_path / "hung") == list(range(len(steps(tmp_path / "hung"))))
    assert len(steps(tmp_path / "hung")) < STEPS  # it did hang
    again = anyio.run(open_again, tmp_path)
    assert again.report().complete, str(again.report())
    for folder in ("healthy", "hung"):
        assert steps(tmp_path / folder) == list(range(STEPS))
        assert statuses(tmp_path / folder) == [STATUSES[way]]


PATIENT = """
opened = EventBus(workspace, site="site-1", run="first", drain_idle_timeout=100, drain_timeout=100)
"""

LOOPS = {
    "background": PATIENT + "with opened.background() as bus:\n    train(bus)\n    bus.at_close(tell)\n    wait()",
    "asyncio": PATIENT + "import anyio\nanyio.run(body, backend='asyncio')",
    "trio": PATIENT + "import anyio\nanyio.run(body, backend='trio')",
}

ASYNC_BODY = """
def tell(error):
    say("drain")

async def body():
    import anyio
    import anyio.to_thread
    async with opened as bus:
        bus.at_close(tell)
        await anyio.to_thread.run_sync(train, bus)
        say("ready")
        await anyio.sleep_forever()
"""


@pytest.mark.parametrize(
    "loop", [pytest.param(one, marks=[] if one == "background" else [pytest.mark.faults]) for one in LOOPS]
)
def test_a_second_interrupt_ends_the_drain(
    tmp_path: Path, start: Callable[[str], subprocess.Popen[bytes]], loop: str
) -> None:
    trainer = start(ASYNC_BODY + LOOPS[loop])
    until_ready(trainer)
    trainer.send_signal(signal.SIGINT)
    assert trainer.stdout is not None
    wait_until(lambda: trainer.stdout.read() == b"drain\n", 20)  # type: ignore[union-attr] - as above
    wait_until(lambda: len(steps(tmp_path / "healthy")) == STEPS, 20)
    assert trainer.poll() is None  # the drain waits for the sink that hangs
    began = time.monotonic()
    trainer.send_signal(signal.SIGINT)
    assert trainer.wait(EXIT_SECONDS) == -signal.SIGINT, (tmp_path / "stderr").read_text()
    assert time.monotonic() - began < 12
    wait_until(lambda: not workers(tmp_path), ORPHAN_SECONDS + 15)
    again = anyio.run(open_again, tmp_path)
    assert again.report().complete, str(again.report())
    for folder in ("healthy", "hung"):
        assert steps(tmp_path / folder) == list(range(STEPS))
        assert statuses(tmp_path / folder) == ["KILLED"]
