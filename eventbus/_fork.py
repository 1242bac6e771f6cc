"""What must happen first in a forked child: locks whose holder is missing there, files that it must not touch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from weakref import WeakMethod

if TYPE_CHECKING:
    from collections.abc import Callable

_methods: list[WeakMethod[Callable[[], None]]] = []


def call_in_child(method: Callable[[], None]) -> None:
    """Call a bound method in every child that is forked from now on, as long as its object lives."""
    _methods[:] = [other for other in _methods if other() is not None]
    _methods.append(WeakMethod(method))


def _call_all() -> None:
    for reference in _methods:
        if (method := reference()) is not None:
            method()


os.register_at_fork(after_in_child=_call_all)
