"""The script's end of the socket to its site: whole frames, and no polling."""

from __future__ import annotations

import select
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from training._wire import PREFIX, LinkAddress, Message, pack, unpack, unpack_prefix

MS_PER_SECOND: Final = 1000

MAX_POLL_SECONDS: Final = (2**31 - 1) / MS_PER_SECOND
"""The system counts the milliseconds of a wait in 31 bits."""


class Link:
    """Sends and receives frames; one thread does so at a time.

    Args:
        address: Where the site listens.

    Raises:
        OSError: Nobody listens there.
    """

    def __init__(self, address: LinkAddress) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(address.socket)
        except OSError:
            self._socket.close()
            raise

    def send(self, message: Message, payload: bytes = b"") -> None:
        """Send one frame; returns when the system has taken all of it.

        Raises:
            OSError: The other end is gone.
            BadInputError: The message is too long, or holds text that has no UTF-8.
        """
        begin = pack(message, len(payload))
        with self._whole_frame():
            self._socket.sendall(begin)
            if payload:  # who has read the whole frame may have closed the link by now
                self._socket.sendall(payload)

    def receive(self, timeout: float | None = None) -> tuple[Message, bytes] | None:
        """Wait for the next frame, and return its message and payload.

        Args:
            timeout: Seconds until it has to begin; None waits for as long as the other end lives.

        Returns:
            None if nothing came in time.

        Raises:
            OSError: The other end is gone.
            DecodeError: What came is no frame.
        """
        if self._socket.fileno() < 0:
            raise ConnectionAbortedError("the link is closed")
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        if not waiting.poll(_milliseconds(timeout)):
            return None
        with self._whole_frame():
            header_bytes, payload_bytes = unpack_prefix(self._read(PREFIX.size))
            message = unpack(self._read(header_bytes))
            return message, self._read(payload_bytes)

    @contextmanager
    def _whole_frame(self) -> Generator[None]:
        """Close the link if an interrupt, or nonsense, cuts a frame short: what follows could not be understood."""
        try:
            yield
        except OSError:  # the other end is gone; what it said before can still be read
            raise
        except BaseException:  # border: an interrupt is handled by who has called, once nobody can misread the link
            self.close()
            raise

    def _read(self, size: int) -> bytes:
        """Read so many bytes; mostly in one call, so that a large model is not copied."""
        parts: list[bytes] = []
        missing = size
        while missing:
            part = self._socket.recv(missing, socket.MSG_WAITALL)
            if not part:
                raise ConnectionResetError("the other end has closed the connection")
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close it; legal twice."""
        self._socket.close()


def _milliseconds(timeout: float | None) -> float | None:
    """Return a time-out as poll has it; one that is longer than it can wait, 24 days, is none."""
    return None if timeout is None or timeout > MAX_POLL_SECONDS else max(timeout, 0) * MS_PER_SECOND
