"""What a killed worker costs: from SIGKILL to the batch that its successor writes again, and of what that consists.

The target counts what is ours: starting a process, importing trackbus, taking the lock, building the batch again.
Beside it stand what the SDK needs to be imported and to open its run, and what its helper processes need to end.

    python benchmarks/bench_restart.py [--quick] [BACKEND ...]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from eventbus import EventBus
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, JsonlReceiver, MLflowReceiver, Receiver, TensorBoardReceiver, WandBReceiver
from receivers import _processes as processes
from receivers._control import Phase
from receivers._supervisor import Supervisor
from receivers._watch import Watch

TARGET_SECONDS = 1.0
FLUSH = FlushPolicy(max_items=50, max_delay=0.05)
EVENTS = 2000

BACKENDS: dict[str, Callable[[], Receiver]] = {
    "jsonl": lambda: JsonlReceiver(name="bench", flush=FLUSH),
    "tensorboard": lambda: TensorBoardReceiver(name="bench", flush=FLUSH),
    "mlflow": lambda: MLflowReceiver(name="bench", flush=FLUSH),
    "wandb": lambda: WandBReceiver(name="bench", flush=FLUSH),
}


@dataclass
class Clock:
    """When a supervisor's steps were, in seconds of the monotonic clock."""

    marks: list[tuple[float, str]] = field(default_factory=list)

    def mark(self, name: str) -> None:
        self.marks.append((time.monotonic(), name))

    def first(self, name: str, after: float) -> float:
        return next(at for at, what in self.marks if what == name and at >= after)


def watch_with(clock: Clock) -> None:
    """Have the parent half note what it does and hears."""
    hear, end = Watch.hear, processes.end_worker_processes
    spawn = Supervisor._spawn  # noqa: SLF001 - a moment that the parent tells nobody

    def heard(self: Watch, news: Any, now: float) -> None:
        clock.mark(news.name if isinstance(news, Phase) else type(news).__name__)
        hear(self, news, now)

    def ended(worker: str) -> None:
        clock.mark("helpers looked for")
        end(worker)
        clock.mark("helpers gone")

    def spawned(self: Supervisor, *arguments: Any) -> Any:
        clock.mark("spawned")
        return spawn(self, *arguments)

    Watch.hear, processes.end_worker_processes = heard, ended
    setattr(Supervisor, "_spawn", spawned)  # noqa: B010 - a checker would want the same arguments by name


async def kill_once(make: Callable[[], Receiver], clock: Clock) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        async with EventBus(folder, site="site-1", run="run", drain_idle_timeout=30, drain_timeout=120) as bus:
            receiver = make()
            bus.subscribe(TRACKING, receiver)
            await receiver.ready()
            for step in range(EVENTS):
                bus.publish(MetricsLogged(values={"loss": float(step)}, step=step), run="run")
            began = time.monotonic()
            await until(lambda: any(name == "batch" and at > began for at, name in clock.marks))
            consumer = str(Path(folder) / "cursors" / "bench.db")
            (worker,) = [pid for pid in processes.marked_processes(consumer) if os.getsid(pid) == pid][:1]
            os.kill(worker, signal.SIGKILL)
            killed = time.monotonic()
            await until(lambda: any(name == "batch" and at > killed + 0.05 for at, name in clock.marks))
        assert bus.report().complete, str(bus.report())
    return split(clock, killed)


def split(clock: Clock, killed: float) -> dict[str, float]:
    looked = clock.first("helpers looked for", killed)
    gone = clock.first("helpers gone", killed)
    spawned = clock.first("spawned", gone)
    starting = clock.first("starting", spawned)
    opening = clock.first("opening", spawned)
    batch = clock.first("batch", opening)
    helpers, sdk = gone - looked, batch - opening
    return {
        "total": batch - killed,
        "helpers": helpers,
        "SDK": sdk,
        "noticed": looked - killed,
        "paused": spawned - gone,
        "started": starting - spawned,
        "rebuilt": opening - starting,
        "ours": batch - killed - helpers - sdk,
    }


async def until(met: Callable[[], bool]) -> None:
    with anyio.fail_after(120):
        while not met():  # noqa: ASYNC110 - what is measured wakes nobody
            await anyio.sleep(0.002)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backends", nargs="*", choices=[[], *BACKENDS], default=[])
    parser.add_argument("--quick", action="store_true", help="one kill each")
    arguments = parser.parse_args()
    clock = Clock()
    watch_with(clock)
    columns = ("total", "helpers", "SDK", "ours", "noticed", "paused", "started", "rebuilt")
    print("seconds from SIGKILL to the first batch written again (median)")
    print(f"{'':12}" + "".join(f"{name:>9}" for name in columns))
    missed = False
    for name in arguments.backends or BACKENDS:
        rounds = [anyio.run(kill_once, BACKENDS[name], clock) for _ in range(1 if arguments.quick else 5)]
        row = {column: statistics.median(one[column] for one in rounds) for column in columns}
        print(f"{name:12}" + "".join(f"{row[column]:9.2f}" for column in columns))
        missed = missed or row["ours"] > TARGET_SECONDS
    print(f"target: ours at most {TARGET_SECONDS:g} s: {'missed' if missed else 'met'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
