"""Brings the blobs that records name to another store, before the records: linked, or in chunks, and verified there."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from eventbus._blob_copy import TooLargeError
from eventbus.abc import RefusedError
from eventbus.errors import BlobError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from eventbus._blob_reader import Blob, BlobReader

T = TypeVar("T")

CHUNK_BYTES = 1 << 20
"""What is sent at once: what is held in memory, and what is sent again at most after a crash."""

ATTEMPTS = 3
"""How often a blob is sent that arrives damaged."""

RETRY_SECONDS = 1.0
"""How long a refused blob waits before it is offered again."""

PATIENCE_SECONDS = 30.0
"""How long a store may refuse (its disk is full, say) before records cross without their blobs."""

IMPATIENT_SECONDS = 600.0
"""For so long no other blob waits then: a store that is full for good must not hold up the records."""

TOUCH_SECONDS = 1.0
"""How often it is said that a long step gets on."""


class BlobTarget(Protocol):
    """The store that blobs are brought to. A call that was cut short may be made again."""

    async def missing(self, blobs: Sequence[Blob], source: BlobReader) -> list[Blob]:
        """Return which blobs are not there; those that can be linked from `source` are there by then."""
        ...

    async def offset(self, blob: Blob) -> int:
        """Return how much of a blob is there already.

        Raises:
            RefusedError: The store does not take it.
        """
        ...

    async def append(self, blob: Blob, offset: int, data: bytes) -> None:
        """Take a chunk of a blob.

        Raises:
            RefusedError: The store can't be written.
        """
        ...

    async def finish(self, blob: Blob, digest: str) -> bool:
        """Verify a blob of which everything is there, and keep it; False if it is not what was sent.

        Raises:
            RefusedError: The store can't be written.
        """
        ...


class BlobCarrier:
    """Brings blobs from one store to another.

    Args:
        source: Where they are.
        target: Where they go.
        touch: Told that it gets on.
        fail: Told of what failed and is tried again.
    """

    def __init__(
        self, source: BlobReader, target: BlobTarget, touch: Callable[[], None], fail: Callable[[str], None]
    ) -> None:
        self._source = source
        self._target = target
        self._touch = touch
        self._fail = fail
        self._patient_from = 0.0

    async def bring(self, blobs: Sequence[Blob]) -> dict[str, str]:
        """Bring some blobs; return why some could not be brought, by name."""
        left = await self._while_touching(lambda: self._target.missing(blobs, self._source))
        reasons = {blob.name: await self._brought(blob) for blob in left}
        return {name: reason for name, reason in reasons.items() if reason}

    async def _brought(self, blob: Blob) -> str:
        """Bring one blob, as often as that makes sense; return why it could not be brought."""
        started, attempts = time.monotonic(), 0
        while True:
            try:
                if await self._sent(blob):
                    return ""
                attempts += 1
                self._fail("a payload arrived damaged")
            except BlobError as error:
                return str(error)
            except RefusedError as error:
                self._fail(f"a payload was refused: {error}")
                if isinstance(error, TooLargeError) or not self._may_wait(started):
                    return str(error)
                self._touch()
                await anyio.sleep(RETRY_SECONDS)
            if attempts == ATTEMPTS:
                return f"it arrived damaged {ATTEMPTS} times"

    def _may_wait(self, since: float) -> bool:
        """Tell whether a blob that is refused may be offered once more."""
        now = time.monotonic()
        if now >= self._patient_from and now < since + PATIENCE_SECONDS:
            return True
        self._patient_from = max(self._patient_from, now + IMPATIENT_SECONDS)
        return False

    async def _sent(self, blob: Blob) -> bool:
        """Send what is not there yet of a blob, and have it verified."""
        path, digest = await self._while_touching(lambda: anyio.to_thread.run_sync(self._found, blob))
        offset = await self._target.offset(blob)
        while offset < blob.size:
            data = await anyio.to_thread.run_sync(_chunk, path, offset)
            if not data:
                raise BlobError(f"blob {blob.name} was cut short while it was sent")
            await self._target.append(blob, offset, data)
            offset += len(data)
            self._touch()
        return await self._while_touching(lambda: self._target.finish(blob, digest))

    def _found(self, blob: Blob) -> tuple[Path, str]:
        return self._source.path(blob), self._source.digest(blob, anyio.from_thread.check_cancelled)

    async def _while_touching(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await something that may take long, and say meanwhile that it gets on."""
        outcome: list[T] = []
        failure: BlobError | RefusedError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_touching)
            try:
                outcome.append(await call())
            except (BlobError, RefusedError) as error:  # a group of tasks would wrap it up
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return outcome[0]

    async def _keep_touching(self) -> None:
        while True:
            await anyio.sleep(TOUCH_SECONDS)
            self._touch()


def _chunk(path: Path, offset: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, CHUNK_BYTES, offset)
        finally:
            os.close(fd)
    except OSError as error:
        raise BlobError(f"{path.name} can't be read: {error.strerror or error}") from error
