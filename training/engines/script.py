"""A site's script while it runs: its process, its connection, and what becomes of both."""

from __future__ import annotations

import math
import shutil
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from eventbus.errors import TrackbusError
from training.engines.link import HungUpError, Wire

if TYPE_CHECKING:
    from training._wire import Welcome
    from training.engines.link import Guest
    from training.engines.processes import Process
    from training.plan import ScriptPlan

EXIT_SECONDS = 2.0
"""How long a script that has hung up may take to end before its site is said to have left: the exit code says why."""

LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 3
"""How much of a script's last words goes into the reason why its site has left."""


class ScriptFailedError(TrackbusError, RuntimeError):
    """Raised when a site's script is there no more; the message says why, and where its log is.

    Attributes:
        is_clean: Whether it has said so, or has ended without an error: it may have done all that it wanted to.
    """

    def __init__(self, what: str, *, is_clean: bool = False) -> None:
        """Say what has happened."""
        super().__init__(what)
        self.is_clean = is_clean


@dataclass(eq=False, slots=True)
class Script:
    """A script that was started.

    Attributes:
        plan: How it is run.
        process: Its process.
        guest: As what it comes in.
        log: The file that takes what it prints.
        log_begin: Where in the file its own lines begin.
        is_needed: Whether it has, or had, something to do.
        conversation: What is said to it and what it says goes on within this, however slow it is.
        deadline: When it must have ended, on the loop's clock, once that is known.
    """

    plan: ScriptPlan
    process: Process
    guest: Guest
    log: Path
    log_begin: int
    is_needed: bool = True
    conversation: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    deadline: float = math.inf

    @property
    def wire(self) -> Wire:
        """Its connection, once it was let in."""
        assert self.guest.wire is not None  # noqa: S101 - nobody asks before
        return self.guest.wire

    async def let_in(self, welcome: Welcome) -> bool:
        """Wait until it has come, and welcome it.

        Returns:
            False: it is not needed any more.

        Raises:
            ScriptFailedError: It has ended, or has not come in time.
        """
        with anyio.move_on_after(self.plan.launch_timeout) as waiting:
            await self.guest.news.wait()
        if self.guest.wire:
            with suppress(HungUpError):  # the reader finds out, and why
                await self.wire.send(welcome)
            return True
        if self.process.exited.is_set():
            raise ScriptFailedError(f"its script {self._last_words()}, before it called init")
        self.terminate()
        if waiting.cancelled_caught:
            raise ScriptFailedError(
                f"its script did not call init within {self.plan.launch_timeout:g} s{self._tail()}; its log: {self.log}"
            )
        self.is_needed = False
        return False

    def let_it_end(self) -> None:
        """From now on it has the time that the plan gives it to end; if it has not come yet, it need not come."""
        if self.deadline == math.inf:
            self.deadline = self.conversation.deadline = anyio.current_time() + self.plan.shutdown_timeout
            self.guest.news.set()

    def terminate(self) -> None:
        """Tell it to end."""
        self.process.signal(signal.SIGTERM)

    def failed(self, what: str, *, is_clean: bool = False) -> ScriptFailedError:
        """Return the error for a script of which is known what it did."""
        return ScriptFailedError(f"its script {what}; its log: {self.log}", is_clean=is_clean)

    async def hung_up(self) -> ScriptFailedError:
        """Return the error for a script that has gone without a word: its process says why, if it ends soon."""
        with anyio.move_on_after(EXIT_SECONDS):
            await self.process.exited.wait()
        what = f"its script {self._last_words()}, before the job was over"
        return ScriptFailedError(what, is_clean=self.process.code == 0)

    async def stop(self) -> str:
        """See to it that the process ends, by its deadline at the latest.

        Returns:
            What is to be said against how it ended, or nothing.
        """
        self.let_it_end()
        try:
            with anyio.CancelScope(deadline=self.deadline):
                await self.process.exited.wait()
        finally:
            was_alive = not self.process.exited.is_set()
            await self.process.stop()
        if not self.is_needed:
            return ""
        if was_alive:
            return f"its script had to be stopped: it did not end within {self.plan.shutdown_timeout:g} s"
        return f"its script {self._last_words()}, in the end" if self.process.code else ""

    def _last_words(self) -> str:
        """Return how the process has ended and the last lines that it printed, for people."""
        return f"{_ending(self.process)}{self._tail()}; its log: {self.log}"

    def _tail(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(self.log_begin, self.log.stat().st_size - LOG_TAIL_BYTES))
                text = file.read(LOG_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f" ({' | '.join(lines[-LOG_TAIL_LINES:])})" if lines else ""


def _ending(process: Process) -> str:
    if not process.exited.is_set():
        return "has hung up"
    if process.code is None:
        return "is gone with the process that started it"
    if process.code < 0:
        return f"was killed by {_signal_name(-process.code)}"
    return f"ended with exit code {process.code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # those for real-time use have none
        return f"signal {number}"


def command_of(command: tuple[str, ...], script: Path, args: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command line of a script that is started by its own command.

    `python` is this interpreter, and a launcher that is on no path, such as torchrun, is looked for beside it.
    """
    if not command:
        return ()
    return (_program(command[0]), *command[1:], str(script), *args)


def _program(name: str) -> str:
    if name in {"python", "python3"}:
        return sys.executable
    beside = Path(sys.executable).with_name(name)
    return str(beside) if shutil.which(name) is None and beside.is_file() else name
