"""What the tests of the bus share: both event loops, a bound on every wait, children that are killed in the end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from eventbus import Origin
from eventbus.pytest_plugin import bus, bus_workspace, recorder

__all__ = ["bus", "bus_workspace", "recorder"]

ROOT = Path(__file__).resolve().parents[2]

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def origin() -> Origin:
    return Origin(site="site-1", rank=0, incarnation="a1", job="job")


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts Python programs in processes of their own; what still runs after the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        path = tmp_path / f"program-{len(started)}.py"
        path.write_text(textwrap.dedent(program), encoding="utf-8")
        child = subprocess.Popen(
            [sys.executable, "-P", str(path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        started.append(child)
        return child

    yield start
    for child in started:
        with suppress(OSError):
            child.kill()
        child.communicate(timeout=10)


@pytest.fixture
def run_program(spawn: Spawn) -> Callable[..., str]:
    """Runs a program to its end and returns what it printed; anything on stderr fails the test."""

    def run(program: str, *arguments: object, **environment: str) -> str:
        child = spawn(program, *arguments, **environment)
        out, err = child.communicate(timeout=60)
        assert (child.returncode, err) == (0, ""), f"{out}\n{err}"
        return out

    return run
