"""For tests of backends and of what drives them: `check_sink`, and sinks that hang, crash and dawdle.

The faulty sinks are the JSON lines sink with a fault: what they stored before and after it can be read back.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from eventbus.tracking import RunStatus
from receivers._conformance import HALF, SAMPLES, START_NS, check_sink, make_rows, make_run
from receivers.abc import NotAuthorisedError, Position, Row, RunInfo, TrackerUnavailableError
from receivers.jsonl import JsonlConfig, JsonlSink

__all__ = [
    "HALF",
    "SAMPLES",
    "START_NS",
    "CrashingConfig",
    "CrashingSink",
    "DownConfig",
    "DownSink",
    "FaultConfig",
    "HangingConfig",
    "HangingSink",
    "PoisonConfig",
    "PoisonSink",
    "SlowConfig",
    "SlowSink",
    "check_sink",
    "make_rows",
    "make_run",
]


class FaultConfig(JsonlConfig):
    """Where a sink misbehaves.

    Attributes:
        at: The call that does.
        after_rows: How many rows are stored before. In `write` the fault comes just before the row after
            them, so it is that one event's; elsewhere in each call from there on.
        times: How often in all, counted over restarts in a file of the folder; None: always.
    """

    at: Literal["open", "write", "flush", "close"] = "write"
    after_rows: int = 0
    times: int | None = None


class FaultySink(JsonlSink):
    """A JSON lines sink with a fault; subclasses say which."""

    def __init__(self, config: FaultConfig, workspace: Path) -> None:
        super().__init__(config, workspace)
        self._fault = config

    @abstractmethod
    def misbehave(self) -> None:
        """Do what is wrong."""

    def open(self, run: RunInfo, committed: Position) -> int:
        """Open the run, or misbehave."""
        self._row = committed.row
        self._maybe("open")
        return super().open(run, committed)

    def write(self, rows: Sequence[Row]) -> None:
        """Store the rows, or misbehave between two of them."""
        before = [row for row in rows if row.number <= self._fault.after_rows]
        super().write(before)
        if self._fault.at == "write" and self._meets(rows[len(before) :]):
            self._strike()
        super().write(rows[len(before) :])

    def flush(self) -> Position:
        """Flush, or misbehave."""
        self._maybe("flush")
        return super().flush()

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        """Close the run, or misbehave."""
        self._maybe("close")
        return super().close(status, reason)

    def _meets(self, rows: Sequence[Row]) -> bool:
        return any(row.number == self._fault.after_rows + 1 for row in rows)

    def _maybe(self, point: str) -> None:
        if self._fault.at == point and self._row >= self._fault.after_rows:
            self._strike()

    def _strike(self) -> None:
        if self._fault.times is None or self._count() <= self._fault.times:
            self.misbehave()

    def _count(self) -> int:
        """Count this time in, in a way that outlives the process."""
        folder = self._fault.folder(self.workspace)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "faults").open("ab") as file:
            file.write(b".")
            return file.tell()


class HangingConfig(FaultConfig):
    """A sink that hangs.

    Attributes:
        deaf: Whether it ignores SIGTERM as well, as a process stuck in an SDK does.
        holds_gil: Whether it hangs in C code that keeps all of the process's threads from running.
    """

    kind: ClassVar[str] = "hanging"
    sink: ClassVar[str] = "receivers.testing:HangingSink"

    deaf: bool = False
    holds_gil: bool = False


class HangingSink(FaultySink):
    """Hangs for ever: only a kill ends it."""

    def __init__(self, config: HangingConfig, workspace: Path) -> None:
        super().__init__(config, workspace)
        self._deaf = config.deaf
        self._holds_gil = config.holds_gil

    def misbehave(self) -> None:
        """Wait for what never comes."""
        if self._deaf:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while self._holds_gil:
            ctypes.PyDLL(None).pause()  # unlike CDLL it keeps the lock
        never = threading.Event()
        while True:
            never.wait()


class CrashingConfig(FaultConfig):
    """A sink that crashes.

    Attributes:
        how: Raise an error, leave with exit code 3 as `os._exit` does, or die by SIGKILL.
    """

    kind: ClassVar[str] = "crashing"
    sink: ClassVar[str] = "receivers.testing:CrashingSink"

    how: Literal["raise", "exit", "kill"] = "kill"


class CrashingSink(FaultySink):
    """Crashes, and leaves half a line behind if it was writing."""

    def __init__(self, config: CrashingConfig, workspace: Path) -> None:
        super().__init__(config, workspace)
        self._how = config.how

    def misbehave(self) -> None:
        """End the process or the call."""
        if self._fault.at == "write":
            self._file.write(b'{"number": ')
            self._file.flush()
        if self._how == "raise":
            raise RuntimeError("this sink crashes on order")
        if self._how == "exit":
            os._exit(3)
        os.kill(os.getpid(), signal.SIGKILL)


class SlowConfig(FaultConfig):
    """A sink that takes its time.

    Attributes:
        seconds: How long it waits at each call from `after_rows` on.
    """

    kind: ClassVar[str] = "slow"
    sink: ClassVar[str] = "receivers.testing:SlowSink"

    seconds: float = 1.0


class SlowSink(FaultySink):
    """Stores everything, slowly."""

    def __init__(self, config: SlowConfig, workspace: Path) -> None:
        super().__init__(config, workspace)
        self._seconds = config.seconds

    def misbehave(self) -> None:
        """Wait."""
        time.sleep(self._seconds)

    def _meets(self, rows: Sequence[Row]) -> bool:
        return bool(rows)


class DownConfig(JsonlConfig):
    """A sink whose tracker is down for as long as a file named `down` lies in its folder.

    Attributes:
        at: The call that finds out.
        refuses: Whether the tracker answers, and refuses the key.
        leaves_process: Whether the process can't be used any more then, as with SDKs that keep a state of their own.
    """

    kind: ClassVar[str] = "down"
    sink: ClassVar[str] = "receivers.testing:DownSink"

    at: Literal["open", "write", "flush", "close"] = "write"
    refuses: bool = False
    leaves_process: bool = False


class DownSink(JsonlSink):
    """A JSON lines sink that is unavailable at times."""

    def __init__(self, config: DownConfig, workspace: Path) -> None:
        super().__init__(config, workspace)
        self._down = config

    def open(self, run: RunInfo, committed: Position) -> int:
        """Open the run, unless the tracker is down."""
        self._maybe("open")
        return super().open(run, committed)

    def write(self, rows: Sequence[Row]) -> None:
        """Store half of the rows; the tracker may go down in between."""
        half = len(rows) // 2
        super().write(rows[:half])
        self._maybe("write")
        super().write(rows[half:])

    def flush(self) -> Position:
        """Flush, unless the tracker is down."""
        self._maybe("flush")
        return super().flush()

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        """Close the run, unless the tracker is down."""
        self._maybe("close")
        return super().close(status, reason)

    def abandon(self) -> bool:
        """Let go, and say whether the process can be used again."""
        return super().abandon() and not self._down.leaves_process

    def _maybe(self, at: str) -> None:
        if self._down.at == at and (self._down.folder(self.workspace) / "down").exists():
            raise NotAuthorisedError("no such key") if self._down.refuses else TrackerUnavailableError("it is down")


class PoisonConfig(JsonlConfig):
    """A sink that some events are poison to.

    Attributes:
        key: An event is poison if it mentions this word, as a key or anywhere else.
        at: The call that can't take it. Before `flush` and `close` rows are held back: `flush` stores nothing where
            `close` is the one that fails.
        how: Raise an error, die by SIGKILL or by SIGSEGV, leave with an exit code, or hang.
    """

    kind: ClassVar[str] = "poison"
    sink: ClassVar[str] = "receivers.testing:PoisonSink"

    key: str = "poison"
    at: Literal["write", "flush", "close"] = "write"
    how: Literal["raise", "kill", "segfault", "exit", "hang"] = "raise"


class PoisonSink(JsonlSink):
    """A JSON lines sink that fails at certain events, every time."""

    def __init__(self, config: PoisonConfig, workspace: Path) -> None:
        super().__init__(config, workspace)
        self._poison = config
        self._is_poisoned = False
        self._holds = config.at == "close"

    def open(self, run: RunInfo, committed: Position) -> int:
        """Open the run."""
        self._stored = committed
        return super().open(run, committed)

    def write(self, rows: Sequence[Row]) -> None:
        """Store the rows, up to the first that is poison."""
        for row in rows:
            self._is_poisoned = self._is_poisoned or self._poison.key in row.envelope.event.model_dump_json()
            self._maybe("write")
            super().write([row])

    def flush(self) -> Position:
        """Store what was written, unless only `close` does."""
        self._maybe("flush")
        return self._stored if self._holds else super().flush()

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        """Store everything."""
        self._maybe("close")
        self._holds = False
        return super().close(status, reason)

    def _maybe(self, at: str) -> None:
        if self._is_poisoned and self._poison.at == at:
            self._fail()

    def _fail(self) -> None:
        if self._poison.how == "raise":
            raise RuntimeError("this event is poison")
        if self._poison.how == "exit":
            os._exit(3)
        if self._poison.how == "hang":
            threading.Event().wait()
        os.kill(os.getpid(), signal.SIGKILL if self._poison.how == "kill" else signal.SIGSEGV)
