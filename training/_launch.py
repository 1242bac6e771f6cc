"""Runs a federation from the command line: shows it, ends it on a signal, and says what became of its events."""

from __future__ import annotations

import logging
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from training._console import Screen

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from receivers import Receiver
    from training._plan import FederationConfig, FederationResult
    from training.federation import Federation

SIGNALS = (signal.SIGINT, signal.SIGTERM)

SIGNALLED = 128
"""Exit code of a process that a signal ended, less the signal's number."""


def launch(config: FederationConfig, receivers: Sequence[Receiver], *, strict: bool = False) -> int:
    """Train, and return the exit code: 1 where something is lost or, if `strict`, not stored yet.

    Raises:
        TrackbusError: What the training raised; what became of the events was printed before.
    """
    with Screen(config, [receiver.name for receiver in receivers]) as screen, _shown_on(screen):
        screen.status("loading torch")
        from training.federation import Federation

        federation = Federation(config, receivers=receivers, on_progress=screen.tell)
        screen.status("starting the sites")
        ending = _Ending(federation, screen)
        try:
            anyio.run(ending.run)
        finally:
            screen.close()
            outcome = screen.print_events(federation.reports(), federation.accounts())
    if ending.result:
        screen.print_result(ending.result)
    if ending.signal:
        return SIGNALLED + ending.signal
    return 1 if outcome.lost or (strict and outcome.late) else 0


class _Ending:
    """A training that a signal may end: by a cancellation, so that what was logged is stored and runs end KILLED."""

    def __init__(self, federation: Federation, screen: Screen) -> None:
        self._federation = federation
        self._screen = screen
        self._error: Exception | None = None
        self.signal = 0
        self.result: FederationResult | None = None

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._heed_signals, tasks.cancel_scope)
            try:
                self.result = await self._federation.run()
            except Exception as error:  # noqa: BLE001 - border: raised again below, outside the task group
                self._error = error
            tasks.cancel_scope.cancel()
        if self._error is not None:
            raise self._error

    async def _heed_signals(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(*SIGNALS) as signals:
            async for number in signals:
                self.signal = number
                break
        # From here on the signals do what they do by default: a second one ends the process at once.
        self._screen.note("stopping; what was logged is being stored (again: stop at once)")
        scope.cancel()


@contextmanager
def _shown_on(screen: Screen) -> Generator[None]:
    """Show our own warnings on the screen rather than over it."""
    logger, handler = logging.getLogger("trackbus"), _ScreenHandler(screen)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


class _ScreenHandler(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        self._screen.note(record.getMessage() + (f" ({cause})" if cause else ""))
