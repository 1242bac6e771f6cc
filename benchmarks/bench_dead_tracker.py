"""What a dead tracker costs the training: log calls, the other trackers and the exit, beside the same with a live one.

Four trainers run side by side, each in a process of its own with JSON lines, TensorBoard and MLflow: one whose MLflow
server is well, one whose port refuses, one whose server takes requests and never answers, one whose server answers
after seconds. They take turns in training, so that what else the machine does hits all of them alike.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from paired import Table, in_turns, options, p50_p99, percentile, ratio, timed

from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import FlushPolicy, JsonlReceiver, MLflowReceiver, TensorBoardReceiver
from writers import TrackingWriter

TESTS = Path(__file__).resolve().parents[1] / "tests"
"""Holds the servers, and the readers of what is stored."""

WELL, REFUSED, HUNG, SLOW = "well", "refused", "hung", "slow"

SLOW_SECONDS = 3.0
"""How long the slow server takes for each answer; the sink's own time-out is 5 s."""

DRAIN_IDLE, DRAIN = 3.0, 20.0
"""The exit's bounds for this measurement."""

ENDING_SECONDS = 10.0
"""What ending workers may take after the drain: grace, kill, and helpers that end by themselves."""

LAG_SECONDS = 60.0

FLUSH = FlushPolicy(max_delay=0.2)

LATER_SECONDS = 0.5
"""A worker looks into the journal every 0.25 s, so a ratio of such short times says little."""

STEPS, TURNS = 40, 20
"""Steps in a turn, and turns in a round: 800 calls of each case."""

MATRIX = 160
"""Side of the matrices that a step multiplies: about a millisecond."""


# --- the trainer ---------------------------------------------------------------------------------------------------


class Trainer:
    """What runs in a process of its own, on orders from its standard input."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._writer = TrackingWriter(bus=bus)
        self._weights = np.random.default_rng(0).normal(size=(MATRIX, MATRIX))
        self.steps = 0

    def block(self, steps: int) -> list[float]:
        """Train so many steps and return what each log call took, in nanoseconds."""
        times: list[float] = []
        for _ in range(steps):
            loss = float(np.tanh(self._weights @ self._weights).mean())
            times += timed(self._log, [loss])
        return times

    def _log(self, loss: float) -> None:
        self._writer.log({"loss": loss, "accuracy": 0.5, "lr": 0.02, "step": float(self.steps)}, step=self.steps)
        self.steps += 1

    def lag(self) -> float:
        """Return the seconds until the newest event stands in the JSON lines' file."""
        self._log(0.0)
        (file,) = (self._bus.workspace or Path()).glob("jsonl/*/*.jsonl")
        wanted, began = f'"step": {self.steps - 1}, '.encode(), time.perf_counter()
        while wanted not in tail(file) and time.perf_counter() - began < LAG_SECONDS:
            time.sleep(0.005)
        return time.perf_counter() - began


def tail(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 2000))
        return stream.read()


def train(workspace: str, uri: str) -> None:
    bus = EventBus(workspace, site="site-1", run="run", drain_idle_timeout=DRAIN_IDLE, drain_timeout=DRAIN)
    with bus.background():
        others = (JsonlReceiver(flush=FLUSH), TensorBoardReceiver(flush=FLUSH))
        for receiver in (*others, MLflowReceiver(tracking_uri=uri, flush=FLUSH)):
            bus.subscribe(TRACKING, receiver)
        trainer = Trainer(bus)
        for order in sys.stdin:
            name, *arguments = json.loads(order)
            if name == "leave":
                break
            tell(getattr(trainer, name)(*arguments))
        began = time.perf_counter()
    lines = {line.name: {"left": line.left, "dropped": line.dropped} for line in bus.report().lines}
    tell({"exit": time.perf_counter() - began, "steps": trainer.steps, "lines": lines})


def tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)


class Case:
    """The parent's end of a trainer."""

    def __init__(self, workspace: Path, uri: str) -> None:
        self.workspace = workspace
        workspace.mkdir()
        with (workspace / "trainer.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--trainer", str(workspace), uri],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def ask(self, *order: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


# --- the servers ---------------------------------------------------------------------------------------------------


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, str]]:
    """Yield a tracking URI for each case."""
    sys.path.append(str(TESTS))
    from servers.http_proxy import HttpProxy
    from servers.mlflow_server import MLflowServer, free_port

    folder.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(MLflowServer(folder))
        well, hung, slow = (stack.enter_context(HttpProxy(server.port)) for _ in range(3))
        stack.enter_context(hung.fault(silent=True))
        stack.enter_context(slow.fault(delay=SLOW_SECONDS))
        yield {WELL: well.uri, REFUSED: f"http://127.0.0.1:{free_port()}", HUNG: hung.uri, SLOW: slow.uri}


# --- what is measured ----------------------------------------------------------------------------------------------


def log_calls(table: Table, cases: Mapping[str, Case], rounds: int) -> None:
    """Let the cases take short turns; a round is many of them, since p99 wants hundreds of calls."""
    blocks = {name: lambda case=case: case.ask("block", STEPS) for name, case in cases.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, turns in in_turns(blocks, TURNS).items():
            times[name].append([took for turn in turns for took in turn])
    for name, one in times.items():
        table.row(f"log call, {name}: p50 / p99", p50_p99(one), unit="us")
    tails = {name: [percentile(took, 99) for took in one] for name, one in times.items()}
    for name in (REFUSED, HUNG, SLOW):
        table.target(f"log call, {name}: p99 over {WELL}", ratio(tails[name], tails[WELL]), 1.5)


def lags(table: Table, cases: Mapping[str, Case], rounds: int) -> None:
    found = in_turns({name: lambda case=case: case.ask("lag") for name, case in cases.items()}, rounds)
    for name, seconds in found.items():
        table.row(f"until JSON lines have it, {name}: median", f"{statistics.median(seconds):.2f}", unit="s")
    for name in (REFUSED, HUNG, SLOW):
        later = statistics.median(one - well for one, well in zip(found[name], found[WELL], strict=True))
        table.target(f"until JSON lines have it, {name}: later than {WELL}", later, LATER_SECONDS, unit="s")


def exits(table: Table, cases: Mapping[str, Case]) -> None:
    for name, case in cases.items():
        told = case.ask("leave")
        most = (DRAIN_IDLE if name in (REFUSED, HUNG) else DRAIN) + ENDING_SECONDS
        table.target(f"exit, {name}", told["exit"], most, unit="s")
        table.claim(f"exit, {name}: the report accounts for all", unaccounted(name, told["lines"]))
        table.claim(f"the other trackers, {name}: hold every value once", missing(case.workspace, told["steps"]))


def unaccounted(name: str, lines: Mapping[str, Mapping[str, int]]) -> str:
    """Say what the report lacks: a dead tracker's events must be left, nothing may be dropped."""
    if any(line["dropped"] for line in lines.values()):
        return "events were dropped"
    if name in (REFUSED, HUNG) and not lines["mlflow"]["left"]:
        return "nothing is said to be left"
    return "MLflow lacks events" if name == WELL and lines["mlflow"]["left"] else ""


def missing(workspace: Path, logged: int) -> str:
    """Compare what the other trackers hold with the steps that were logged."""
    from readback import read_jsonl, read_tensorboard

    steps = [float(step) for step in range(logged)]
    lines = [line.value for line in read_jsonl(workspace / "jsonl")]
    jsonl = [line["event"]["values"]["step"] for line in lines if line.get("type") == "MetricsLogged"]
    rows = read_tensorboard(workspace / "tensorboard")
    tensorboard = [row.value for row in rows if row.kind == "metric" and row.key == "step"]
    wrong = [name for name, found in (("jsonl", jsonl), ("tensorboard", tensorboard)) if found != steps]
    return " and ".join(wrong)


def warm_up(cases: Mapping[str, Case]) -> None:
    """Let every worker import its SDK, and the supervisors of the dead ones meet their trouble."""
    for case in cases.values():
        case.ask("block", 50)
    deadline = time.monotonic() + LAG_SECONDS
    while not all(list(case.workspace.glob("jsonl/*/*.jsonl")) for case in cases.values()):
        assert time.monotonic() < deadline, "a worker did not start"
        time.sleep(0.1)
    for case in cases.values():
        case.ask("lag")


def main(arguments: Sequence[str] | None = None) -> None:
    args = options(__doc__).parse_args(arguments)
    rounds = 4 if args.quick else 24
    table = Table("a dead tracker: log calls of four values, the other trackers, the exit")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        uris = stack.enter_context(servers(folder / "server"))
        cases = {name: Case(folder / name, uri) for name, uri in uris.items()}
        for case in cases.values():
            stack.callback(case.close)
        warm_up(cases)
        log_calls(table, cases, rounds)
        lags(table, cases, 2 * rounds)
        exits(table, cases)
    table.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trainer"]:
        train(*sys.argv[2:])
    else:
        main()
