"""The server's end of what scripts say to it: one Unix socket, on which each shows the token that it was given."""

from __future__ import annotations

import logging
import secrets
import shutil
import socket
import tempfile
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from eventbus.errors import DecodeError, TrackbusError
from training._wire import PREFIX, Hello, Message, pack, unpack, unpack_prefix

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

STALL_SECONDS = 30.0
"""How long a script may be silent in the midst of a frame: sending takes no thought, and others wait for their turn."""

HELLO_SECONDS = 10.0
"""How long who has connected may take to say who it is."""

ACCEPT_SECONDS = 0.5
"""How long it waits to let somebody in when the process has no more file descriptors: others may be closed by then."""

MAX_PATH = 100
"""Bytes of the path of a socket's folder: Linux takes 107 with the name."""

SLOWEST = 1 << 20
"""Bytes a second that a payload must come with, after `STALL_SECONDS`: far less than any socket on one machine does."""

CHUNK = 1 << 20
"""Bytes read at once of what is thrown away."""

_logger = logging.getLogger("trackbus.engines")


class HungUpError(TrackbusError, ConnectionError):
    """Raised when a script is not there any more."""


@dataclass(slots=True)
class Coming:
    """A payload on its way.

    Attributes:
        missing: Bytes that are not here yet.
        data: Has room for all of it once reading has begun.
    """

    missing: int
    data: bytearray = field(default_factory=bytearray)


class Wire:
    """A script's connection: frames in, frames out. One task may read while another writes."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)  # noqa: FBT003 - its only argument
        self._socket = connection

    async def send(self, message: Message, payload: bytes = b"") -> None:
        """Send a frame.

        Raises:
            HungUpError: Nobody is there.
            ValueError: The message is too long.
        """
        for part in (pack(message, len(payload)), payload):
            await self._send_all(memoryview(part))

    async def _send_all(self, rest: memoryview) -> None:
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise HungUpError("the script has hung up") from error

    async def receive(self) -> tuple[Message, int]:
        """Return the next message, and how long the payload is that has to be read or skipped then.

        Raises:
            HungUpError: Nobody is there.
            DecodeError: What came is no frame.
        """
        header, payload = unpack_prefix(bytes(await self._read(PREFIX.size, None)))
        return unpack(bytes(await self._read(header))), payload

    async def fill(self, payload: Coming) -> None:
        """Read what is missing of a payload; if this is cancelled, the next call goes on.

        Raises:
            HungUpError: Nobody is there.
            DecodeError: The script stopped in its midst, or is too slow.
        """
        payload.data = payload.data or bytearray(payload.missing)
        bound = STALL_SECONDS + payload.missing / SLOWEST
        with anyio.move_on_after(bound) as scope:
            while payload.missing:
                rest = memoryview(payload.data)[-payload.missing :]
                payload.missing -= await self._read_some(rest, STALL_SECONDS)
        if scope.cancelled_caught:
            raise DecodeError(f"{payload.missing} of {len(payload.data)} bytes did not come within {bound:g} s")

    async def skip(self, size: int) -> None:
        """Read a payload that nobody wants, and keep nothing of it."""
        while size:
            size -= len(await self._read(min(size, CHUNK)))

    async def _read(self, size: int, timeout: float | None = STALL_SECONDS) -> bytearray:
        """Read exactly so many bytes; the time-out is for each piece of them."""
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            rest = rest[await self._read_some(rest, timeout if len(rest) == size else STALL_SECONDS) :]
        return data

    async def _read_some(self, into: memoryview, timeout: float | None) -> int:
        """Wait for bytes, and return how many came; a cancelled wait has taken none."""
        while True:
            try:
                got = self._socket.recv_into(into)
            except BlockingIOError:
                await self._wait_for_more(timeout)
                continue
            except OSError as error:
                raise HungUpError("the script has hung up") from error
            if not got:
                raise HungUpError("the script has hung up")
            return got

    async def _wait_for_more(self, timeout: float | None) -> None:
        with anyio.move_on_after(timeout) as scope:
            await anyio.wait_readable(self._socket)
        if scope.cancelled_caught:
            raise DecodeError(f"nothing came for {timeout:g} s in the midst of a frame")

    def hang_up(self) -> None:
        """Let the reader find an end once it has read what is there."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close it. Legal twice."""
        self._socket.close()


@dataclass(slots=True, eq=False)
class Guest:
    """A script that is expected.

    Attributes:
        token: What it has to show.
        news: Set when it has come, or never will.
        wire: Its connection, once it has come.
    """

    token: str = field(default_factory=lambda: secrets.token_hex(32))
    news: anyio.Event = field(default_factory=anyio.Event)
    wire: Wire | None = None

    def give_up(self) -> None:
        """Take note that its process has ended: it won't come, or what it has sent is all there will be."""
        self.news.set()
        if self.wire:
            self.wire.hang_up()


class Door:
    """Where scripts come in. Made by `open_door`.

    Attributes:
        path: Of the socket.
        refused: How many were turned away: no token, a wrong one, or one that was shown before.
    """

    def __init__(self, path: str, listener: socket.socket) -> None:
        self.path = path
        self.refused = 0
        self._listener = listener
        self._guests: dict[str, Guest] = {}

    def expect(self) -> Guest:
        """Expect one more script."""
        guest = Guest()
        self._guests[guest.token] = guest
        return guest

    def forget(self, guest: Guest) -> None:
        """Let it in no more, and close its connection."""
        self._guests.pop(guest.token, None)
        if guest.wire:
            guest.wire.close()

    async def serve(self) -> None:
        """Let scripts in, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(self._listener)
                try:
                    connection = self._listener.accept()[0]
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                except OSError as error:  # who has knocked waits at the socket
                    _logger.warning("no script can be let in for the moment: %s", error)
                    await anyio.sleep(ACCEPT_SECONDS)
                    continue
                tasks.start_soon(self._greet, Wire(connection))

    async def _greet(self, wire: Wire) -> None:
        guest = None
        with anyio.move_on_after(HELLO_SECONDS), suppress(HungUpError, DecodeError):
            message, payload = await wire.receive()
            if isinstance(message, Hello) and not payload:
                guest = self._guests.pop(message.token, None)
        if guest is None:
            self.refused += 1
            _logger.warning("somebody without a valid token was turned away from the scripts' socket")
            wire.close()
            return
        guest.wire = wire
        guest.news.set()


@asynccontextmanager
async def open_door() -> AsyncGenerator[Door]:
    """Listen on a socket in a folder that this user alone can enter."""
    folder = _make_folder()
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)  # noqa: FBT003 - its only argument
            listener.bind(str(folder / "link"))
            listener.listen(128)
            door = Door(str(folder / "link"), listener)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(door.serve)
                yield door
                tasks.cancel_scope.cancel()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="trackbus-"))
    if len(str(folder)) <= MAX_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="trackbus-", dir="/tmp"))
