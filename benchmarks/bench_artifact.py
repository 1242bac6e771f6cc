"""What an artifact costs its caller: 200 MB beside `cp`, linked where nobody changes it; and the memory it takes.

The file is copied on the disk that holds `TMPDIR`, and what was copied is removed and synced between two measurements.
Then one picture of 64 KiB, ten times a second, beside its encoding alone.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from paired import Table, in_turns, options, percentile, ratio

from eventbus import EventBus
from writers import SummaryWriter, TrackingWriter
from writers._pixels import picture_of

MEGABYTE = 1_000_000
SIZE = 200 * MEGABYTE
WAIT_SECONDS = 60.0
PIXELS = (148, 148, 3)  # 64 KiB

MEMORY = """
import json, sys, threading
from pathlib import Path

import psutil

from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import JsonlReceiver, MLflowReceiver, TensorBoardReceiver, WandBReceiver
from writers import TrackingWriter

me = psutil.Process()
peaks = {}


def private(pid):
    # Files that are mapped don't count: W&B maps what it hashes, and the system takes such pages back at any time.
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def watch(pids, done):
    while not done.wait(0.005):
        for pid in pids:
            peaks[pid] = max(peaks.get(pid, 0), private(pid))


folder, small, large = map(Path, sys.argv[1:])
with EventBus(folder).background() as bus:
    for receiver in (JsonlReceiver(), TensorBoardReceiver(), MLflowReceiver(), WandBReceiver(mode="offline")):
        bus.subscribe(TRACKING, receiver)
    writer = TrackingWriter()
    writer.log_artifact(small, kind="model").wait_delivered(120)
    before = {one.pid: private(one.pid) for one in [me, *me.children(recursive=True)]}
    done = threading.Event()
    watcher = threading.Thread(target=watch, args=(list(before), done))
    watcher.start()
    writer.log_artifact(large, kind="model").wait_delivered(120)
    done.set()
    watcher.join()
    print(json.dumps([peaks[pid] - one for pid, one in before.items()]))
"""


@contextmanager
def workplace() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bench-artifact-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def seconds_of_cp(source: Path, folder: Path) -> float:
    target = folder / "copy.bin"
    started = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    took = time.perf_counter() - started
    target.unlink()
    os.sync()
    return took


def seconds_of_log(bus: EventBus, source: Path, *, immutable: bool) -> float:
    writer = TrackingWriter(bus=bus)
    started = time.perf_counter()
    receipt = writer.log_artifact(source, immutable=immutable)
    took = time.perf_counter() - started
    assert receipt.refused is None, receipt.refused
    assert bus.workspace is not None
    digested = wait_for_digest(bus.workspace / "blobs")
    digested.unlink()
    digested.with_suffix("").unlink()
    os.sync()
    return took


def wait_for_digest(blobs: Path) -> Path:
    """Return the note of the one blob's digest: it is computed beside the caller, and must not disturb the next one."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for note in blobs.glob("*/late-*.sha256"):
            return note
        time.sleep(0.01)
    raise TimeoutError("no digest was noted")


def compare(table: Table, folder: Path, source: Path, rounds: int) -> None:
    with EventBus(folder / "run").background() as bus:
        results = in_turns(
            {
                "cp": lambda: seconds_of_cp(source, folder),
                "copied": lambda: seconds_of_log(bus, source, immutable=False),
                "linked": lambda: seconds_of_log(bus, source, immutable=True),
            },
            rounds,
        )
    table.row("cp", f"{percentile(results['cp'], 50) * 1e3:.1f}", unit="ms")
    table.row("log_artifact", f"{percentile(results['copied'], 50) * 1e3:.1f}", unit="ms")
    table.target("log_artifact over cp", ratio(results["copied"], results["cp"]), 1.2)
    table.target("log_artifact(immutable=True) over cp", ratio(results["linked"], results["cp"]), 0.2)


def memory(table: Table, folder: Path, source: Path) -> None:
    small = folder / "small.bin"
    small.write_bytes(b"small")
    command = [sys.executable, "-P", "-c", MEMORY, str(folder / "memory"), str(small), str(source)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=5 * WAIT_SECONDS).stdout
    trainer, *workers = json.loads(found.splitlines()[-1])
    table.target("peak private memory that it adds, trainer", trainer / MEGABYTE, 64, unit="MB")
    table.target("the same, the largest of four workers and theirs", max(workers) / MEGABYTE, 64, unit="MB")


def pictures(table: Table, folder: Path, count: int) -> None:
    """Log pictures at their pace; what matters is for how long a call keeps its loop."""
    random = np.random.default_rng(0)
    shots = [random.integers(0, 256, PIXELS, dtype=np.uint8) for _ in range(10)]
    with EventBus(folder / "pictures").background():
        writer = SummaryWriter()
        for shot in shots:  # imports, folders
            writer.add_image("first", shot, 0, dataformats="HWC")
        encoded: list[float] = []
        times: list[float] = []
        for step in range(count):
            time.sleep(0.1)
            shot, started = shots[step % len(shots)], time.perf_counter()
            picture_of("shot", shot)
            between = time.perf_counter()
            writer.add_image("shot", shot, step, dataformats="HWC")
            encoded.append(between - started)
            times.append(time.perf_counter() - between)
    for percent in (50, 99):
        row = f"encoding a picture of 64 KiB alone, p{percent}"
        table.row(row, f"{percentile(encoded, percent) * 1e3:.2f}", unit="ms")
    table.row("a picture of 64 KiB, p50", f"{percentile(times, 50) * 1e3:.2f}", unit="ms")
    table.target("a picture of 64 KiB, p99", percentile(times, 99) * 1e3, 2, unit="ms")


def main() -> None:
    arguments = options(__doc__).parse_args()
    table = Table(f"an artifact of {SIZE // MEGABYTE} MB")
    with workplace() as folder:
        source = folder / "model.bin"
        source.write_bytes(os.urandom(SIZE))
        compare(table, folder, source, 5 if arguments.quick else 15)
        memory(table, folder, source)
        pictures(table, folder, 50 if arguments.quick else 300)
    table.finish()


if __name__ == "__main__":
    main()
