"""Fixtures for tests of code that stands on the bus. pytest finds them wherever trackbus is installed.

The asynchronous ones need the mark `anyio` on the test, and run on the backend that it names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventbus._event import Event
from eventbus.testing import RECORDER_QUEUE, Recorder
from eventbus.workspace import EventBus


@pytest.fixture
def bus_workspace(tmp_path: Path) -> Path:
    """Return a folder for a bus of this test: `EventBus(bus_workspace)`."""
    return tmp_path / "workspace"


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    """Enter a bus whose journal is in memory; it is left, and drained, after the test."""
    async with EventBus() as entered:
        yield entered


@pytest.fixture
async def recorder(bus: EventBus) -> Recorder[Event]:
    """Return a handler that keeps all events of `bus`."""
    keeping: Recorder[Event] = Recorder()
    bus.subscribe("*", keeping, name="recorder", queue_events=RECORDER_QUEUE)
    return keeping
