"""Whom a handler that publishes may wait for: nobody who may be waiting for it, itself first of all."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from eventbus._fork import held_by_forks

if TYPE_CHECKING:
    from collections.abc import Generator

_handler: ContextVar[object | None] = ContextVar("trackbus_handler", default=None)
_held: list[object] = []
_lock = held_by_forks(threading.RLock())  # reentrant: a signal handler may publish while its thread does


def be_handler(handler: object | None) -> None:
    """Say that all that this context calls from now on is done within this handler, or within none."""
    _handler.set(handler)


def is_within_handler() -> bool:
    """Tell whether the caller was called by a handler, in its thread or another that has its context."""
    return _handler.get() is not None


@contextmanager
def may_wait_for(handler: object) -> Generator[bool]:
    """Tell whether to wait within the block until a handler has caught up.

    A handler waits for another one only if that waits for nobody at this moment: so none ever waits in a circle.
    """
    own = _handler.get()
    if own is None:
        yield True
        return
    with _lock:
        may = handler is not own and handler not in _held
        if may:
            _held.append(own)
    try:
        yield may
    finally:
        if may:
            with _lock:
                _held.remove(own)
