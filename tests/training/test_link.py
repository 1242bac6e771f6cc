"""The server's end of a script's socket: a payload comes whole, in pieces, or with a clear end to the patience."""

import socket
from collections.abc import Iterator

import anyio
import pytest

from eventbus.errors import DecodeError
from training.engines import link
from training.engines.link import Coming, Wire

DATA = bytes(range(250)) * 8


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    """The server's end, and the script's."""
    here, there = socket.socketpair()
    with here, there:
        yield Wire(here), there


def test_a_payload_whose_reading_was_cancelled_is_read_on(ends: tuple[Wire, socket.socket]) -> None:
    wire, script = ends
    payload = Coming(len(DATA))

    async def read() -> None:
        script.sendall(DATA[:700])
        with anyio.move_on_after(0.05) as scope:
            await wire.fill(payload)
        assert (scope.cancelled_caught, payload.missing) == (True, len(DATA) - 700)
        script.sendall(DATA[700:])
        await wire.fill(payload)

    anyio.run(read)
    assert (payload.missing, bytes(payload.data)) == (0, DATA)


def test_a_payload_that_comes_byte_by_byte_is_not_waited_for(
    ends: tuple[Wire, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire, script = ends
    monkeypatch.setattr(link, "STALL_SECONDS", 0.5)  # longer than it is silent, shorter than all of it takes

    async def trickle() -> None:
        for number in range(len(DATA)):
            script.sendall(DATA[number : number + 1])
            await anyio.sleep(0.002)

    async def read() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trickle)
            with pytest.raises(DecodeError, match=r"\d+ of 2000 bytes did not come within 0\.50\d* s"):
                await wire.fill(Coming(len(DATA)))
            tasks.cancel_scope.cancel()

    anyio.run(read)
