"""What the server and its nursery say to each other: one message in one datagram."""

from __future__ import annotations

import msgspec

MAX_DATAGRAM = 1 << 20
"""More than such a socket takes at once by default."""


class Spawn(msgspec.Struct, tag="spawn", frozen=True, kw_only=True):
    """Start a process.

    Attributes:
        script: The script that runs in it, absolute.
        args: The script's arguments.
        command: Its whole command line; empty: the process is forked, and runs the script itself.
        search_path: Folders in which the script finds modules, after its own.
        folder: Where it runs.
        log: The file that takes what it prints.
        environment: All variables that it has.
        threads: Threads of a torch operation; for a forked script.
        seed: Of the random states that the script finds; for a forked script.
        number: What it is called in later orders and reports.
    """

    script: str
    args: tuple[str, ...]
    command: tuple[str, ...]
    search_path: tuple[str, ...]
    folder: str
    log: str
    environment: dict[str, str]
    threads: int
    seed: int
    number: int = 0


class Signal(msgspec.Struct, tag="signal", frozen=True, kw_only=True):
    """Send a signal to a process and its group, if it still lives."""

    number: int
    signal: int


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """All is loaded; nothing was started before."""


class Ended(msgspec.Struct, tag="ended", frozen=True, kw_only=True):
    """A process has ended; the code is that of `subprocess`: negative for a signal."""

    number: int
    code: int


Order = Spawn | Signal
Report = Ready | Ended
