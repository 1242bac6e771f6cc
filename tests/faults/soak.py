"""What is run in the soak: `python -P -m faults.soak runs|buses WORKSPACE COUNT RECEIVERS`, with samples as JSON lines.

A process of its own, so that nothing that a test run has gathered is measured with it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from faults.host import make_receiver

from eventbus import EventBus, Report
from eventbus.tracking import TRACKING
from receivers._processes import marked_processes
from writers import TrackingWriter

SAMPLES = 20
"""How often is looked, evenly over all runs or buses."""

METRICS_PER_RUN = 3

DELIVERY_SECONDS = 100.0

PAGE = os.sysconf("SC_PAGE_SIZE")


def sample(done: int, who: str, pid: int) -> None:
    """Tell what a process holds."""
    folder = Path(f"/proc/{pid}")
    tell(
        done=done,
        who=who,
        pid=pid,
        files=len(list((folder / "fd").iterdir())),
        threads=len(list((folder / "task").iterdir())),
        bytes=int((folder / "statm").read_text().split()[1]) * PAGE,
    )


def tell(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def log_run(bus: EventBus, number: int) -> TrackingWriter:
    """Open a run, log a little, and end it."""
    writer = TrackingWriter(bus=bus, run=f"run-{number}")
    for step in range(METRICS_PER_RUN):
        writer.log({"loss": float(number * METRICS_PER_RUN + step)}, step=step)
    writer.finish()
    return writer


def many_runs(workspace: Path, count: int, receivers: list[str]) -> None:
    """Open and end so many runs on one bus."""
    with EventBus(workspace, site="site-1", drain_timeout=500).background() as bus:
        for name in receivers:
            bus.subscribe(TRACKING, make_receiver(name))
        for done in chunks(count):
            writers = [log_run(bus, number) for number in done]
            writers[-1].flush().wait_delivered(DELIVERY_SECONDS)
            gc.collect()
            sample(done[-1] + 1, "trainer", os.getpid())
            for name in receivers:
                sample(done[-1] + 1, name, worker_of(workspace, name))
    tell(complete=bus.report().complete, report=str(bus.report()))


def worker_of(workspace: Path, receiver: str) -> int:
    """Return the pid of a receiver's worker, not of what its SDK has started."""
    pids = marked_processes(str(workspace / "cursors" / f"{receiver}.db"))
    (worker,) = [pid for pid in pids if b"receivers._worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return worker


def many_buses(workspace: Path, count: int, receivers: list[str]) -> None:
    """Open and close so many buses, one after the other, with a run each."""
    reports: list[Report] = []
    for number in range(count):
        with EventBus(workspace, site="site-1", run=f"run-{number}").background() as bus:
            for name in receivers:
                bus.subscribe(TRACKING, make_receiver(name))
            log_run(bus, number)
        reports.append(bus.report())
        gc.collect()
        sample(number + 1, "trainer", os.getpid())
    tell(complete=all(report.complete for report in reports), report="\n".join(map(str, reports)))


def chunks(count: int) -> Iterator[range]:
    size = max(1, count // SAMPLES)
    for first in range(0, count, size):
        yield range(first, min(first + size, count))


def main() -> None:
    what, workspace, count, receivers = sys.argv[1:]
    soak = {"runs": many_runs, "buses": many_buses}[what]
    soak(Path(workspace), int(count), receivers.split(","))


if __name__ == "__main__":
    main()
