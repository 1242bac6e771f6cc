"""Waiting for what another thread or process does, where nothing announces it."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

PATIENCE = 60.0
"""Seconds after which a test gives up; a machine with nothing else to do needs a small part of them."""


def wait_until(met: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Look until it is so.

    Raises:
        AssertionError: It took longer.
    """
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"it did not come in {seconds:g} s"
        time.sleep(0.01)


async def until(met: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Do the same beside the loop, which goes on."""
    await anyio.to_thread.run_sync(wait_until, met, seconds)
