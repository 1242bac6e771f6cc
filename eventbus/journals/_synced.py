"""How far a partition has come to the disk, and who waits for that."""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import TYPE_CHECKING

from eventbus._wake_up import WakeUp
from eventbus.errors import NotSyncedError

if TYPE_CHECKING:
    from collections.abc import Callable


class SyncMark:
    """The last sequence of a partition of which it is known whether it survives a power cut.

    One thread advances it, any number wait. No lock is taken: a signal handler may wait, and a fork leaves none behind.

    Args:
        reached: Where it stands.
        ask: Asks for a sync at once.

    Attributes:
        reached: Everything up to here was synced, or will never be.
        failed: How many records will never be, by cause: what a failed sync covered may be lost though a later one
            succeeds, since the kernel forgets what it could not write.
    """

    def __init__(self, reached: int, ask: Callable[[], None]) -> None:
        self.reached = reached
        self.failed: Counter[str] = Counter()
        self._ask = ask
        self._failures: list[tuple[int, int, str]] = []
        self._waiting: deque[tuple[int, Callable[[], object]]] = deque()

    def advance(self, seq: int, failure: str = "") -> None:
        """Move on to `seq`, synced or failed, and wake those who wait for it."""
        if seq <= self.reached:
            return
        if failure:
            self._note(self.reached + 1, seq, failure)
        self.reached = seq
        for _ in range(len(self._waiting)):
            wanted, wake = self._waiting.popleft()
            if wanted <= seq:
                wake()
            else:
                self._waiting.append((wanted, wake))

    def _note(self, first: int, last: int, failure: str) -> None:
        self.failed[failure] += last - first + 1
        if self._failures and self._failures[-1][1:] == (first - 1, failure):
            first, _, _ = self._failures.pop()
        self._failures.append((first, last, failure))

    def failure(self, seq: int) -> str | None:
        """Return why a record that was reached may not survive a power cut, or None if it does."""
        for first, last, failure in reversed(self._failures):
            if first <= seq <= last:
                return failure
        return None

    async def wait(self, seq: int) -> str | None:
        """Return when `seq` is reached, and what `failure` says. Legal on any loop."""
        if seq > self.reached:
            done = WakeUp()
            done.arm()
            self._call(seq, done)
            while seq > self.reached:
                await done.wait()
        return self.failure(seq)

    def wait_in_thread(self, seq: int, timeout: float | None) -> str | None:
        """Do what `wait` does, from a thread.

        Raises:
            NotSyncedError: It took longer than `timeout` seconds.
        """
        if seq > self.reached:
            done = threading.Event()
            self._call(seq, done.set)
            if seq > self.reached and not done.wait(timeout):
                msg = f"record {seq} is in the journal, but not on the disk after {timeout:g} s"
                raise NotSyncedError(msg)
        return self.failure(seq)

    def _call(self, seq: int, wake: Callable[[], object]) -> None:
        self._waiting.append((seq, wake))
        self._ask()
