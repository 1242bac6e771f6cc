"""What a process ends with, as far as it can be known when its last words are due."""

from __future__ import annotations

import sys
import threading
from functools import cache, wraps
from typing import NoReturn

_said: list[SystemExit] = []


@cache
def watch_exit() -> None:
    """Take note of the code that the main thread gives to `sys.exit`: Python tells it to nobody at the exit.

    A `raise SystemExit(3)` past `sys.exit` goes unseen, and a code counts although somebody catches it.
    """
    leave = sys.exit

    @wraps(leave)
    def leave_with(status: object = None, /) -> NoReturn:
        if threading.current_thread() is threading.main_thread():
            _said[:] = [SystemExit(status)]
        leave(status)  # type: ignore[arg-type] - whatever the caller gave

    sys.exit = leave_with


def last_error() -> BaseException | None:
    """Return what the interpreter is ending with, if it is an error."""
    error: BaseException | None = getattr(sys, "last_value", None)
    return error or (_said[0] if _said else None)
