"""What pictures, histograms and samples of the machine cost a training, beside torch's own SummaryWriter.

A training step is a matrix product of some milliseconds. Every 100 ms it logs one picture of 64 KiB of uint8, and the
cases take turns; what counts is how long the call keeps the step, encoding and the blob store included. Nothing is
subscribed. Histograms are of a tensor of a million elements. Then a plain log call of four numbers is compared on a bus
with pictures and on one without; and a sample of the machine is taken apart.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import torch
from paired import Table, in_turns, options, p50_p99, percentile, ratio_of_p50, timed

from eventbus import EventBus
from eventbus._codec import decode
from eventbus.media import HistogramLogged
from writers import SummaryWriter, TrackingWriter
from writers._machine import Machine

EVERY_SECONDS = 0.1
"""Between two pictures: ten a second."""

SIDE = 148
"""Pixels: 148 x 148 x 3 are 64 KiB and a little."""

ELEMENTS = 1_000_000
BATCH = [({"loss": 0.1, "accuracy": 0.9, "lr": 0.02, "samples": 16.0}, step) for step in range(200)]

MS = 1e6  # nanoseconds

Call = Callable[[int], object]


def noise() -> Any:
    """The worst to be compressed."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def scene() -> Any:
    """Smooth, as what people look at: three waves."""
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = (np.sin(x / 20) + np.cos(y / 30), np.sin(y / 15), np.cos(x / 25))
    return np.stack([(wave * 60 + 128).astype(np.uint8) for wave in waves], axis=2)


@contextlib.contextmanager
def theirs(folder: Path) -> Iterator[Any]:
    from torch.utils.tensorboard import SummaryWriter as TorchWriter

    with TorchWriter(str(folder / "torch")) as writer:
        yield writer


def pictures(table: Table, ours: SummaryWriter, others: Any, calls: int) -> None:
    """Log in the steps of a training, ten a second in all."""
    raw, smooth = noise(), scene()
    cases: dict[str, Call] = {
        "trackbus, noise": lambda step: ours.add_image("noise", raw, step, dataformats="HWC"),
        "trackbus, a scene": lambda step: ours.add_image("scene", smooth, step, dataformats="HWC"),
        "trackbus, noise in grey": lambda step: ours.add_image("grey", raw.reshape(SIDE, -1), step, dataformats="HW"),
        "torch, noise": lambda step: others.add_image("noise", raw, step, dataformats="HWC"),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    busy: dict[str, list[float]] = {name: [] for name in cases}
    weights, work = torch.randn(400, 400), torch.randn(400, 400)
    steps, due = list[float](), time.perf_counter()
    for number in range(calls * len(cases)):
        name = list(cases)[number % len(cases)]
        due += EVERY_SECONDS
        while time.perf_counter() < due:
            steps += timed(lambda _: work @ weights @ weights, [0])
        started = time.thread_time_ns()
        times[name] += timed(cases[name], [number])
        busy[name].append(time.thread_time_ns() - started)
    table.row("a step, median", f"{statistics.median(steps) / MS:.1f}", unit="ms")
    for name, taken in times.items():
        table.row(f"64 KiB picture: {name}, p50 / p99", p50_p99([taken], MS), unit="ms")
        table.row(f"64 KiB picture: {name}, CPU, p50 / p99", p50_p99([busy[name]], MS), unit="ms")
    for name in list(cases)[:3]:
        table.target(f"64 KiB picture: {name}, p99", percentile(times[name], 99) / MS, 2.0, unit="ms")
    table.row("64 KiB picture: p50 over torch", ratio_of_p50([times["trackbus, noise"]], [times["torch, noise"]]))


def histograms(table: Table, bus: EventBus, ours: SummaryWriter, others: Any, rounds: int) -> None:
    tensor = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(0))
    cases = {
        "trackbus": lambda: timed(lambda step: ours.add_histogram("weights", tensor, step), [0]),
        "torch": lambda: timed(lambda step: others.add_histogram("weights", tensor, step), [0]),
    }
    in_turns(cases, 1)  # warms up
    times = in_turns(cases, rounds)
    for name, taken in times.items():
        table.row(f"histogram of 1 M elements: {name}, p50 / p99", p50_p99(taken, MS), unit="ms")
    table.target("histogram: p50 over torch", ratio_of_p50(times["trackbus"], times["torch"]), 1.5)
    table.target("histogram: largest record", max(map(len, histogram_records(bus))), 8192, unit="bytes")


def histogram_records(bus: EventBus) -> list[bytes]:
    """Return the records as they lie in the journal."""
    records = anyio.run(bus.journal.read, {}, 1_000_000)
    bodies = [(one.body, decode(one.body, one.header.origin, one.seq).event) for one in records]
    return [body for body, event in bodies if isinstance(event, HistogramLogged)]


def scalars(table: Table, with_pictures: TrackingWriter, folder: Path, rounds: int) -> None:
    with EventBus(folder / "plain").background() as bus:
        plain = TrackingWriter(bus=bus)
        cases = {
            "with pictures": lambda: timed(lambda one: with_pictures.log(*one), BATCH),
            "without": lambda: timed(lambda one: plain.log(*one), BATCH),
        }
        in_turns(cases, 1)  # warms up
        times = in_turns(cases, rounds)
    for name, taken in times.items():
        table.row(f"four numbers on a bus {name}, p50 / p99", p50_p99(taken), unit="us")
    table.target(
        "four numbers: p50 with pictures over without", ratio_of_p50(times["with pictures"], times["without"]), 1.1
    )


def samples(table: Table, bus: EventBus, rounds: int) -> None:
    """Take samples by hand: what their thread costs the interpreter's others is its own processor time."""
    writer, machine = TrackingWriter(bus=bus), Machine(Path("/"))
    times: list[float] = []
    for number in range(rounds):
        started = time.thread_time_ns()
        writer.log(machine.read(), number)
        times.append(time.thread_time_ns() - started)
    table.row("a sample of the machine, CPU, p50 / p99", p50_p99([times], MS), unit="ms")
    table.target("a sample of the machine, CPU, p50", percentile(times, 50) / MS, 1.0, unit="ms")


def main() -> None:
    args = options(__doc__).parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        table = Table("media of a training; nothing is subscribed, journal and blob store alone")
        bus = stack.enter_context(EventBus(folder / "workspace").background())
        ours, others = SummaryWriter(bus=bus), stack.enter_context(theirs(folder))
        pictures(table, ours, others, 20 if args.quick else 200)
        histograms(table, bus, ours, others, 7 if args.quick else 31)
        scalars(table, ours.tracking, folder, 7 if args.quick else 31)
        samples(table, bus, 100 if args.quick else 500)
    table.finish()


if __name__ == "__main__":
    main()
