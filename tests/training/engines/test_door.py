"""Where scripts come in, while the process has no more file descriptors."""

from __future__ import annotations

import logging
import resource
import socket
from collections.abc import AsyncIterator

import anyio
import pytest

from training._wire import Hello, pack
from training.engines.link import open_door


class Warned(logging.Handler):
    """Tells that the engine has warned of something, and of what."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen = anyio.Event()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage()
        self.seen.set()


@pytest.fixture
async def warning() -> AsyncIterator[Warned]:
    handler = Warned()
    logger = logging.getLogger("trackbus.engines")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.mark.anyio
async def test_a_process_without_a_free_descriptor_lets_scripts_in_later(warning: Warned) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_door() as door:
        guest = door.expect()
        with socket.socket(socket.AF_UNIX) as script:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            try:
                script.connect(door.path)
                with anyio.fail_after(30):
                    await warning.seen.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            script.sendall(pack(Hello(token=guest.token)))
            with anyio.fail_after(30):
                await guest.news.wait()
    assert guest.wire is not None
    guest.wire.close()
    assert door.refused == 0
    assert "no script can be let in for the moment" in warning.text
