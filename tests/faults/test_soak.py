"""A thousand runs and fifty buses leave no descriptor, thread or memory behind, neither in the trainer nor in a worker.

`make soak` runs the whole; a small cut of it is part of the suite.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from faults.processes import ROOT
from faults.soak import METRICS_PER_RUN
from readback import read_jsonl, read_mlflow, read_tensorboard, read_wandb

SPARE = 2
"""Descriptors or threads more than at half-time: one is being closed while we look."""

STEP_BYTES = 2 << 20
"""What may be taken once and for all, even after half-time."""

TRAINER_BYTES_PER_RUN = 4 << 10
"""A trainer remembers how each of its runs ended."""

WORKER_BYTES_PER_RUN = 24 << 10
"""A worker remembers where each run stands; an allocator gives nothing back while it warms up."""

BYTES_PER_BUS = 384 << 10
"""Each bus leaves a partition in the workspace, and who reads the journal has up to 100 of its files open at a time."""


@dataclass(frozen=True)
class Sample:
    done: int
    who: str
    pid: int
    files: int
    threads: int
    bytes: int


def soak(what: str, workspace: Path, count: int, receivers: str, timeout: float) -> dict[str, list[Sample]]:
    """Run it, and return what each process held, in the order of time."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "faults.soak", what, str(workspace), str(count), receivers],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
    )
    assert done.returncode == 0, done.stderr
    *lines, last = map(json.loads, done.stdout.splitlines())
    assert last["complete"], last["report"]
    samples: dict[str, list[Sample]] = {}
    for line in lines:
        samples.setdefault(line["who"], []).append(Sample(**line))
    return samples


def growth(samples: Sequence[Sample], most_bytes: float) -> list[str]:
    """Say what has grown over the second half; the first one warms up.

    Memory grows in steps that an allocator or SQLite takes once: so the median from one look to the next counts, and
    the sum but for `STEP_BYTES`.
    """
    half = samples[len(samples) // 2 :]
    typical = median((two.bytes - one.bytes) / (two.done - one.done) for one, two in pairwise(half))
    mean = (half[-1].bytes - half[0].bytes - STEP_BYTES) / (half[-1].done - half[0].done)
    slope = max(typical, mean)
    found = [f"{slope:.0f} bytes each, at most {most_bytes:.0f}"] if slope > most_bytes else []
    for what in ("files", "threads"):
        figures: list[int] = [getattr(one, what) for one in half]
        if max(figures) > figures[0] + SPARE:
            found.append(f"{what} from {figures[0]} to {max(figures)}")
    if len({one.pid for one in samples}) > 1:
        found.append("the process was replaced")
    return found


def assert_flat(samples: dict[str, list[Sample]], who: set[str]) -> None:
    assert samples.keys() == who
    found = {
        name: growth(held, TRAINER_BYTES_PER_RUN if name == "trainer" else WORKER_BYTES_PER_RUN)
        for name, held in samples.items()
    }
    assert not any(found.values()), found


STORED: dict[str, Any] = {
    "jsonl": lambda workspace: [
        value
        for line in read_jsonl(workspace / "jsonl")
        for value in (line.value.get("event") or {}).get("values", {}).values()
    ],
    "tensorboard": lambda workspace: metrics(read_tensorboard(workspace / "tensorboard")),
    "mlflow": lambda workspace: metrics(read_mlflow(workspace / "mlflow.db")),
    "wandb": lambda workspace: metrics(read_wandb(workspace / "wandb")),
}


def metrics(rows: Sequence[Any]) -> list[float]:
    return [float(row.value) for row in rows if row.kind == "metric"]


def assert_stored(workspace: Path, runs: int, receivers: str) -> None:
    """Every number of every run is there once: they are all different."""
    for receiver in receivers.split(","):
        assert sorted(STORED[receiver](workspace)) == [float(one) for one in range(runs * METRICS_PER_RUN)], receiver


# --- the yardstick --------------------------------------------------------------------------------------------------


def made_up(**per_step: int) -> list[Sample]:
    flat = {"files": 20, "threads": 4, "bytes": 40_000_000}
    return [
        Sample(step * 10, "trainer", 1, **{name: value + step * per_step.get(name, 0) for name, value in flat.items()})
        for step in range(20)
    ]


def steps(at: set[int]) -> list[Sample]:
    """Memory that grows now and then, by a megabyte."""
    return [
        replace(one, bytes=one.bytes + sum(1 << 20 for moment in at if number >= moment))
        for number, one in enumerate(made_up())
    ]


@pytest.mark.parametrize(
    ("samples", "finds"),
    [
        (made_up(), []),
        (made_up(bytes=40_000), []),
        (made_up(bytes=60_000), ["6000 bytes each, at most 5000"]),
        (steps(at={15}), []),
        (steps(at={11, 15, 18}), ["11651 bytes each, at most 5000"]),
        (made_up(files=1), ["files from 30 to 39"]),
        (made_up(threads=1), ["threads from 14 to 23"]),
        ([*made_up(), Sample(200, "trainer", 2, 20, 4, 40_000_000)], ["the process was replaced"]),
    ],
)
def test_growth_is_found(samples: list[Sample], finds: list[str]) -> None:
    assert growth(samples, 5000) == finds


# --- the soak -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "receivers"),
    [
        pytest.param(200, "jsonl", marks=pytest.mark.timeout(120)),
        pytest.param(1000, "jsonl,tensorboard", marks=[pytest.mark.soak, pytest.mark.timeout(700)]),
        pytest.param(300, "mlflow", marks=[pytest.mark.soak, pytest.mark.timeout(700)]),
        pytest.param(150, "wandb", marks=[pytest.mark.soak, pytest.mark.timeout(1200)]),
    ],
)
def test_many_runs_on_one_bus_leave_nothing_behind(tmp_path: Path, runs: int, receivers: str) -> None:
    samples = soak("runs", tmp_path, runs, receivers, timeout=1100)
    assert_stored(tmp_path, runs, receivers)
    assert_flat(samples, {"trainer", *receivers.split(",")})


@pytest.mark.parametrize(
    ("buses", "receivers"),
    [
        pytest.param(6, "jsonl", marks=pytest.mark.timeout(120)),
        pytest.param(50, "jsonl,tensorboard", marks=[pytest.mark.soak, pytest.mark.timeout(700)]),
    ],
)
def test_many_buses_leave_nothing_behind(tmp_path: Path, buses: int, receivers: str) -> None:
    samples = soak("buses", tmp_path, buses, receivers, timeout=650)
    assert_stored(tmp_path, buses, receivers)
    assert samples.keys() == {"trainer"}
    assert not growth(samples["trainer"], BYTES_PER_BUS), samples
