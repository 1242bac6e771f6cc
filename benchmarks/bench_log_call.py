"""What one log call of four values costs its caller, beside what it is made of and beside the trackers' own SDKs.

The call is `TrackingWriter.log` on a bus with a workspace, at its default strength: when it returns, the event
survives `kill -9`. Nothing is subscribed: this is the price of the journal alone. The calls of all cases take turns:
in a tight loop, in the training loop of a small network (a log per step), and in that loop beside a busy thread. Then
the same call on buses of each strength, its receipt ignored or awaited.
"""

import contextlib
import random
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from paired import Table, in_turns, options, p50_p99, percentile, ratio_of_p50, timed
from torch.optim import SGD

from eventbus import EventBus, Origin, Receipt, Scope
from eventbus._codec import encode
from eventbus.abc import PartitionHeader
from eventbus.journals import _partition
from eventbus.tracking import TRACKING, MetricsLogged
from eventbus.workspace import Strength
from training.data import Dataset, load_dataset
from training.loop import StepResult, round_generator, train_epoch
from training.model import TutorialCNN, build_model
from writers import TrackingWriter

Values = dict[str, float]
Log = Callable[[Values, int], object]

OURS, FLOOR, TENSORBOARD, WANDB = "trackbus", "build, encode, bare insert", "4 x add_scalar", "wandb.log"

STRENGTHS: tuple[Strength, ...] = ("process", "durable", "live")

KEYS: tuple[str, ...] = ("train/loss", "train/accuracy", "train/lr", "train/samples")

BATCH = 16

GROUP = 64
"""Calls that are awaited together."""


def values_of(step: int) -> Values:
    return dict(zip(KEYS, (1.0 / (step + 1), step % 17 / 17, 0.02, float(BATCH)), strict=True))


# --- the cases -----------------------------------------------------------------------------------------------------


class BareInsert:
    """The least a durable log call could be: build the event, encode it, insert it, with the journal's own settings."""

    def __init__(self, folder: Path) -> None:
        origin = Origin(site="bare", rank=0, incarnation="0", job="bare")
        self._path = folder / "bare.db"
        _partition.create_file(self._path, PartitionHeader(origin=origin, created_ns=0))
        self._connection: sqlite3.Connection = _partition.open_writer(self._path)
        self._seq = 0

    def log(self, values: Values, step: int) -> None:
        event = MetricsLogged(values=values, step=step)
        body = encode(event, TRACKING.name, Scope.LOCAL, "bare", time.time_ns())
        self._seq += 1
        row = (self._seq, body, _partition.checksum(self._seq, body))
        self._connection.execute("INSERT INTO records VALUES (?, ?, ?)", row)

    def checkpoint(self) -> None:
        """Do between the rounds what the journal's caretaker does all the time."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def ours_and_floor(folder: Path) -> Iterator[tuple[Log, BareInsert]]:
    bare = BareInsert(folder)
    with EventBus(folder / "workspace").background() as bus, contextlib.closing(bare):
        writer = TrackingWriter(bus=bus)
        yield writer.log, bare


@contextlib.contextmanager
def tensorboard(folder: Path) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def log(values: Values, step: int) -> None:
            for tag, value in values.items():
                writer.add_scalar(tag, value, step)

        yield log


@contextlib.contextmanager
def wandb_offline(folder: Path) -> Iterator[Log]:
    import wandb

    settings = wandb.Settings(silent=True, console="off", x_disable_machine_info=True)
    run = wandb.init(mode="offline", dir=folder, project="bench", settings=settings)

    def log(values: Values, step: int) -> None:
        run.log(values, step=step)

    with run:
        yield log


class Awaited:
    """A writer on a durable bus, whose receipts a thread waits for: each at once, or those of a group together."""

    def __init__(self, log: Callable[[Values, int], Receipt]) -> None:
        self._log = log

    def each(self, values: Values, step: int) -> None:
        self._log(values, step).wait()

    def group(self, values: Values, step: int) -> None:
        receipts = [self._log(values, step) for _ in range(GROUP)]
        for receipt in receipts:
            receipt.wait()


# --- in a training loop --------------------------------------------------------------------------------------------


@dataclass
class Turns:
    """Logs every step of a training by one case; the cases take turns, in a new order each time."""

    logs: Mapping[str, Log]
    times: dict[str, list[list[float]]] = field(default_factory=dict[str, list[list[float]]])

    def __post_init__(self) -> None:
        self._order: list[str] = []
        self._shuffle = random.Random(0).sample
        self.begin()

    def begin(self) -> None:
        """Forget what was measured."""
        self.times = {name: [] for name in self.logs}

    def begin_round(self) -> None:
        for rounds in self.times.values():
            rounds.append([])

    def log(self, result: StepResult, step: int) -> None:
        self._order = self._order or self._shuffle(list(self.logs), len(self.logs))
        name = self._order.pop()
        values = dict(zip(KEYS, (result.loss, result.accuracy, 0.02, float(result.samples)), strict=True))
        [took] = timed(lambda at: self.logs[name](values, at), [step])
        self.times[name][-1].append(took)


class Training:
    """The digits at one torch thread: an epoch is a round."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._model: TutorialCNN = build_model(0, data.classes)
        self._optimizer = SGD(self._model.parameters(), 0.02, 0.9)
        self._done = 0  # W&B drops what is logged at a lower step than before
        self.steps: list[float] = []

    def run(self, turns: Turns, rounds: int, samples: int | None = None) -> None:
        samples = samples or len(self._data.train)
        for number in range(rounds):
            turns.begin_round()
            generator = round_generator(0, "bench", number)
            data = self._data.train.take(torch.randperm(len(self._data.train), generator=generator)[:samples])
            started = time.perf_counter_ns()
            result = train_epoch(
                self._model,
                data,
                self._optimizer,
                batch_size=BATCH,
                generator=generator,
                on_step=lambda step: turns.log(step, self._done + step.step),
            )
            self._done += result.steps
            self.steps.append((time.perf_counter_ns() - started) / result.steps)


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    """Keep the interpreter busy from a second thread, as a data loader in pure Python does."""
    stop = threading.Event()

    def count() -> None:
        number = 0
        while not stop.is_set():
            for _ in range(1000):
                number += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --- the three measurements ----------------------------------------------------------------------------------------


def tight_loop(table: Table, log: Log, bare: BareInsert, rounds: int, calls: int) -> None:
    steps = range(calls)
    batch = [(values_of(step), step) for step in steps]

    def block(one: Log) -> list[float]:
        return timed(lambda given: one(*given), batch)

    def bare_block() -> list[float]:
        times = block(bare.log)
        bare.checkpoint()
        return times

    cases = {OURS: lambda: block(log), FLOOR: bare_block}
    in_turns(cases, 1)  # warms up
    times = in_turns(cases, rounds)
    for name in (OURS, FLOOR):
        table.row(f"tight loop: {name}, p50 / p99", p50_p99(times[name]), unit="us")
    table.target(f"tight loop: p50 over {FLOOR}", ratio_of_p50(times[OURS], times[FLOOR]), 2.0)


def strengths(table: Table, folder: Path, rounds: int, calls: int) -> None:
    """Compare with the default strength; what is awaited waits for this disk, whose speed is the figure's."""
    batch = [(values_of(step), step) for step in range(calls)]

    def block(log: Log, given: Sequence[tuple[Values, int]]) -> Callable[[], list[float]]:
        return lambda: timed(lambda one: log(*one), given)

    with contextlib.ExitStack() as stack:
        logs = {
            one: TrackingWriter(bus=stack.enter_context(EventBus(folder / one, strength=one).background())).log
            for one in STRENGTHS
        }
        awaited = Awaited(logs["durable"])
        cases = {one: block(log, batch) for one, log in logs.items()}
        cases["durable, each awaited"] = block(awaited.each, batch[: calls // 10])
        cases[f"durable, {GROUP} awaited together, for all"] = block(awaited.group, batch[: calls // 50])
        in_turns(cases, 1)  # warms up
        times = in_turns(cases, rounds)
    for name, taken in times.items():
        table.row(f"strength {name}, p50 / p99", p50_p99(taken), unit="us")
    table.row("durable, ignored, p50 over process", ratio_of_p50(times["durable"], times["process"]))
    table.row("live, p50 over process", ratio_of_p50(times["live"], times["process"]))


def in_training(table: Table, training: Training, logs: Mapping[str, Log], rounds: int) -> None:
    turns = Turns(logs)
    training.run(turns, 1)  # warms up
    training.steps.clear()
    turns.begin()
    training.run(turns, rounds)
    table.row("training: a step and its log, median", f"{statistics.median(training.steps) / 1e6:.1f}", unit="ms")
    for name in logs:
        table.row(f"training: {name}, p50 / p99", p50_p99(turns.times[name]), unit="us")
    table.row(f"training: p50 over {FLOOR}", ratio_of_p50(turns.times[OURS], turns.times[FLOOR]))
    table.target(f"training: p50 over {TENSORBOARD}", ratio_of_p50(turns.times[OURS], turns.times[TENSORBOARD]), 1.2)
    table.target(f"training: p50 over {WANDB}", ratio_of_p50(turns.times[OURS], turns.times[WANDB]), 0.4)


def beside_busy_thread(table: Table, training: Training, logs: Mapping[str, Log], rounds: int) -> None:
    turns = Turns(logs)
    with busy_thread():
        training.run(turns, rounds, samples=BATCH * len(logs) * 2)
    for name in logs:
        pooled = [took for one in turns.times[name] for took in one]
        figures = " / ".join(f"{percentile(pooled, percent) / 1e6:.2f}" for percent in (50, 99))
        table.row(f"beside a busy thread: {name}, p50 / p99", figures, unit="ms")


def main() -> None:
    args = options(__doc__).parse_args()
    torch.set_num_threads(1)
    training = Training(load_dataset("digits", 0))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        table = Table("one log call of four values; nothing is subscribed, the journal alone")
        log, bare = stack.enter_context(ours_and_floor(folder))
        tight_loop(table, log, bare, *((7, 200) if args.quick else (31, 500)))
        strengths(table, folder, *((5, 200) if args.quick else (21, 500)))
        others = {TENSORBOARD: tensorboard, WANDB: wandb_offline}
        logs: dict[str, Log] = {OURS: log, FLOOR: bare.log}
        logs |= {name: stack.enter_context(case(folder)) for name, case in others.items()}
        in_training(table, training, logs, 8 if args.quick else 48)
        beside_busy_thread(table, training, logs, 2 if args.quick else 10)
    table.finish()


if __name__ == "__main__":
    main()
