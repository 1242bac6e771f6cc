"""Prints lines for a reader who may go while the work goes on: whatever becomes of the screen, the work never ends."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import IO


def say(line: str, *, error: bool = False) -> None:
    """Print a line to stdout or stderr at once, if there is one: what it has no characters for is escaped.

    Nothing more goes there once its reader is gone (`| head`) or its disk is full.
    """
    file = sys.stderr if error else sys.stdout
    if not file:  # a daemon may have none
        return
    try:
        print(_in_characters_of(file, _plain(line)), file=file, flush=True)
    except OSError as failure:
        fall_silent(file, failure)
    except ValueError:  # it was closed
        return


def _plain(line: str) -> str:
    """Escape what draws on a terminal, line ends too: part of a line may be what a site says."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)


def _in_characters_of(file: IO[str], line: str) -> str:
    encoding: str = getattr(file, "encoding", None) or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def fall_silent(file: IO[str], why: OSError) -> None:
    """Send a file that takes nothing more to nowhere: the interpreter has nothing left to flush into it.

    What but a reader's leave has made an end of stdout is said on stderr.
    """
    with suppress(OSError, ValueError):  # it is closed, or no file of the system's
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)
    if file is not sys.stderr and not isinstance(why, BrokenPipeError):
        say(f"trackbus: nothing more is shown: {why.strerror}", error=True)


def is_terminal() -> bool:
    """Tell whether stdout is there and is a terminal."""
    return bool(sys.stdout) and sys.stdout.isatty()
