"""What a fork needs: locks that no missing thread holds in the child, and files that the child never touches."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakMethod, ref

if TYPE_CHECKING:
    from collections.abc import Callable

FORK_SECONDS = 5.0
"""How long a fork waits for one lock: a checkpoint on a slow disk takes less, and a fork must not hang."""


class Lock(Protocol):
    """`threading.Lock` or `threading.RLock`."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - as in threading
        """Take it."""
        ...

    def release(self) -> None:
        """Let go of it."""
        ...


L = TypeVar("L", bound=Lock)

_methods: list[WeakMethod[Callable[[], None]]] = []
_locks: list[ref[Any]] = []
_holding: list[Lock] = []
_forking = threading.Lock()
_inherited: list[object] = []


def call_in_child(method: Callable[[], None]) -> None:
    """Call a bound method in every child that is forked from now on, as long as its object lives."""
    _methods[:] = [other for other in _methods if other() is not None]
    _methods.append(WeakMethod(method))


def held_by_forks(lock: L) -> L:
    """Let every fork hold a lock, so that no thread is within what it guards: SQLite's own locks would stay held.

    Locks that are taken while others are held have to be made before those.
    """
    _locks[:] = [other for other in _locks if other() is not None]
    _locks.append(ref(lock))
    return lock


def keep_for_ever(*inherited: object) -> None:
    """Keep what a child must never close, since it is its parent's, to the end of the child's process."""
    _inherited.extend(inherited)


def _before_fork() -> None:
    """Take the locks, those that are taken first by everybody else first."""
    for lock in (_forking, *(lock for one in reversed(_locks) if (lock := one()) is not None)):
        if lock.acquire(timeout=FORK_SECONDS):
            _holding.append(lock)


def _after_fork() -> None:
    while _holding:
        _holding.pop().release()


def _after_fork_in_child() -> None:
    _after_fork()
    for reference in _methods:
        if (method := reference()) is not None:
            method()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
