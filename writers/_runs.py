"""The runs that the writers of a bus log to: each begins with its first writer and ends with the bus."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast
from weakref import WeakKeyDictionary, ref

from eventbus import Scope
from eventbus._fork import held_by_forks
from eventbus.errors import BadInputError
from eventbus.tracking import RunFinished, RunStarted, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventbus._bus import Bus

T = TypeVar("T")

MAX_REASON = 300
"""Characters of the reason why a run ended: enough for a message, too little for a dump."""

_SEVERITY = {RunStatus.FINISHED: 0, RunStatus.KILLED: 1, RunStatus.FAILED: 2}


@dataclass(slots=True)
class _Run:
    """What is known of one run.

    Attributes:
        scopes: Those in which its start is in the journal, and no end after it.
        title: How people call it.
        parent: Id of the run that it is nested in; empty for none.
        status: How it ended, where somebody said so.
        reason: Why.
    """

    scopes: set[Scope] = field(default_factory=set[Scope])
    title: str = ""
    parent: str = ""
    status: RunStatus | None = None
    reason: str = ""


class RunBook:
    """The runs of one bus. Made by `runs_of`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = ref(bus)  # the book lives as long as its bus, and must not be what keeps it alive
        self._runs: dict[str, _Run] = {}
        self._lock = held_by_forks(threading.RLock())
        self._last_words: dict[str, list[Callable[[], None]]] = {}
        self._shared: dict[tuple[str, type[object]], object] = {}

    def shared(self, name: str, make: type[T]) -> T:
        """Return what all writers of a run know together, one object of each class; it goes when the bus is left."""
        with self._lock:
            return cast("T", self._shared.setdefault((name, make), make()))

    def before_end(self, name: str, callback: Callable[[], None]) -> None:
        """Call `callback` before a run ends, while it still takes what it logs; it must not raise."""
        self._last_words.setdefault(name, []).append(callback)

    def _say_last_words(self, name: str) -> None:
        for callback in self._last_words.pop(name, ()):
            callback()

    def start(self, bus: Bus, name: str, scope: Scope, title: str = "", parent: str = "") -> str | None:
        """Publish that a run began, once per run and scope; again where it goes on after `close`, or is renamed.

        Args:
            bus: Where.
            name: Id of the run.
            scope: How far its records travel.
            title: How people call it; by default as before, else by its id.
            parent: Id of the run that it is nested in; by default as before.

        Returns:
            None if that is in the journal, else why the environment refused it: nothing may come before it.
        """
        with self._lock:
            run = self._runs.setdefault(name, _Run())
            if scope in run.scopes and title in ("", run.title):
                return None
            run.title, run.parent = title or run.title, parent or run.parent
            event = RunStarted(name=run.title or name, group=bus.origin.job, parent=run.parent)
            refused = bus.publish(event, scope=scope, run=name).refused
            if refused is None:
                run.scopes.add(scope)
            return refused

    def finish(self, name: str, status: RunStatus | str | None, reason: str) -> None:
        """Say how a run ended; the last word counts. None leaves it to how the bus is left.

        Raises:
            BadInputError: The status is not known.
        """
        if status is None:
            return
        with self._lock:
            run = self._runs.setdefault(name, _Run())
            run.status, run.reason = _status(status), short(reason)

    def go_on(self, name: str) -> None:
        """Forget how a run ended: it goes on, and may end in another way."""
        with self._lock:
            if run := self._runs.get(name):
                run.status, run.reason = None, ""

    def close(self, name: str, status: RunStatus | str, reason: str) -> None:
        """Publish now how a run ended: it has an end of its own, before that of the bus.

        Raises:
            BadInputError: The status is not known.
        """
        self.finish(name, status, reason)
        bus = self._bus()
        self._say_last_words(name)
        with self._lock:
            if bus is not None and (run := self._runs[name]).scopes and _publish_end(bus, name, run, None):
                run.scopes.clear()  # what is logged to it from now on begins with its start again

    def end(self, error: BaseException | None) -> None:
        """Publish how every run ended that has not; called by the bus when it is left."""
        bus = self._bus()
        if bus is None:
            return
        for name in tuple(self._last_words):
            self._say_last_words(name)
        with self._lock:
            for name, run in self._runs.items():
                if run.scopes:
                    _publish_end(bus, name, run, error)
            self._shared.clear()  # it may hold writers, and with them the bus


_books: WeakKeyDictionary[Bus, RunBook] = WeakKeyDictionary()
_books_lock = held_by_forks(threading.Lock())


def runs_of(bus: Bus) -> RunBook:
    """Return the book of a bus's runs."""
    with _books_lock:
        book = _books.get(bus)
        if book is None:
            book = _books[bus] = RunBook(bus)
            bus.at_close(book.end)
        return book


def _publish_end(bus: Bus, name: str, run: _Run, error: BaseException | None) -> bool:
    """Publish how a run ended, and tell whether that is in the journal."""
    status, reason = (run.status, run.reason) if run.status else outcome(error)
    scope = Scope.FEDERATED if Scope.FEDERATED in run.scopes else Scope.LOCAL
    return bus.publish(RunFinished(status=status.value, reason=reason), scope=scope, run=name).refused is None


def outcome(error: BaseException | None) -> tuple[RunStatus, str]:
    """Return what an exception says about the run that it ended: status and reason."""
    if error is None:
        return RunStatus.FINISHED, ""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return max((outcome(member) for member in group.exceptions), key=lambda found: _SEVERITY[found[0]])
    if isinstance(error, SystemExit):
        return _exit_outcome(error.code)
    if not isinstance(error, Exception):  # an interrupt, or a cancellation, whose text is the loop's own business
        return RunStatus.KILLED, type(error).__name__
    return RunStatus.FAILED, short(f"{type(error).__name__}: {_message(error)}".removesuffix(": "))


def short(reason: str) -> str:
    """Return a reason on one line, shortened, with nothing in it that can't be encoded."""
    line = " ".join(reason.encode("utf-8", "replace").decode().split())
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 3]}..."


def _exit_outcome(code: object) -> tuple[RunStatus, str]:
    if code in (None, 0):
        return RunStatus.FINISHED, ""
    return RunStatus.FAILED, short(f"exit code {code}" if isinstance(code, int) else _message(code))


def _message(error: object) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - border: a user's exception that can't describe itself must not stop a close
        return "no message"


def _status(status: RunStatus | str) -> RunStatus:
    if isinstance(status, RunStatus):
        return status
    try:
        return RunStatus(status)
    except ValueError as error:
        known = ", ".join(one.value for one in RunStatus)
        msg = f"status {status!r} is not known: use one of {known}"
        raise BadInputError(msg) from error
