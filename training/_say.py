"""Prints lines for a reader who may go while the work goes on."""

from __future__ import annotations

import os
import sys
from typing import IO


def say(line: str, *, error: bool = False) -> None:
    """Print a line to stdout or stderr at once; nothing more goes there once its reader is gone (`| head`)."""
    file = sys.stderr if error else sys.stdout
    try:
        print(line, file=file, flush=True)
    except BrokenPipeError:
        fall_silent(file)


def fall_silent(file: IO[str]) -> None:
    """Send a file whose reader is gone to nowhere: the interpreter has nothing left to flush into the closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)
