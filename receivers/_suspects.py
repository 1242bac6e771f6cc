"""Finds the event that ends every worker which writes it. Nothing else may be put aside.

The rule. A failure counts against the rows that are at risk, those that are written or being written and not known to
be stored, when a sink's `write`, `flush` or `close` raised, when the process died, or when a `write` or `flush` hung.
It never counts when the environment is at fault: while a run was being opened; when the error is, or was caused by,
a `TrackerUnavailableError`, a `ConnectionError`, a time-out, or a disk that is full, read-only or broken; when the
process was told to end; and when nothing was at risk.

`FAILURES` failures in a row of the same stretch begin the narrowing: the stretch is written in parts, each stored
before the next begins, and each failure halves what is at risk. The narrowing counts neither crashes nor hangs of one
event as chance until it has failed alone `FAILURES` times: then it is put aside. After `IN_A_ROW` events put aside
with none stored in between it is the tracker that fails, and no event is blamed any more.
"""

from __future__ import annotations

import errno
import socket
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from receivers.abc import NotAuthorisedError, Row, TrackerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from eventbus.journals.consumer import ConsumerFile, RunKey
    from receivers._control import Lost

FAILURES = 3
"""How often a stretch fails before it is narrowed down, and a single event before it is put aside: less is chance."""

IN_A_ROW = 10
"""Events that may be put aside with none stored in between: a tracker that stores nothing proves nothing."""

REASON_CHARACTERS = 500
"""An SDK's error may hold a whole page."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_NETWORK = {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN}
_PROCESS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_STORE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
}


class AtRisk(msgspec.Struct, frozen=True):
    """Rows of one run that are at risk.

    Attributes:
        worker: Who writes them.
        partition, seq: The first one's record.
        rows: How many they are.
    """

    worker: str
    partition: str
    seq: int
    rows: int


class Suspicion(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the failures of one stretch. Pure: it is given the failures.

    Attributes:
        stretch: AtRiskition and sequence with which the first outstanding batch begins; another one, another suspicion.
        failures: In a row, of the whole stretch or of the one event `part`.
        limit: Rows that may be at risk at once; 0 while nothing is narrowed down.
        part: What is at risk, once something is narrowed down.
        reason: The last failure.
        aside: Events put aside since something was stored.
        delivered: Events that the consumer had stored in all when the last one was put aside.
    """

    stretch: tuple[str, int]
    failures: int = 0
    limit: int = 0
    part: AtRisk | None = None
    reason: str = ""
    aside: int = 0
    delivered: int = 0

    def after_failure(self, reason: str, rows: int) -> Suspicion:
        """Return what one more failure leaves to suspect, of so many rows in all."""
        if self.aside >= IN_A_ROW:
            return self
        if self.limit == 0:
            return self._of_all(reason, rows)
        if self.part is None:
            return self
        if self.part.rows > 1:
            return replace(self, failures=0, limit=max(1, self.part.rows // 2), part=None, reason=reason)
        return replace(self, failures=self.failures + 1, reason=reason)

    def _of_all(self, reason: str, rows: int) -> Suspicion:
        failures = self.failures + 1
        if failures < FAILURES:
            return replace(self, failures=failures, reason=reason)
        return replace(self, failures=0, limit=max(1, rows // 2), reason=reason)

    def at_risk(self, part: AtRisk) -> Suspicion:
        """Return it while a part is written; another single event has its own failures."""
        known = self.part
        same = known is not None and (known.partition, known.seq, known.rows) == (part.partition, part.seq, part.rows)
        return replace(self, part=part, failures=self.failures if same else 0)

    def after_success(self) -> Suspicion:
        """Return it once a part is stored: more may be at risk again."""
        return replace(self, failures=0, limit=self.limit * 2, part=None, aside=0)

    def without_part(self, delivered: int) -> Suspicion:
        """Return it once the one event is put aside."""
        return replace(self, failures=0, part=None, aside=self.aside + 1, delivered=delivered)

    @property
    def condemned(self) -> AtRisk | None:
        """The one event that is to be put aside."""
        return self.part if self.limit and self.part and self.part.rows == 1 and self.failures >= FAILURES else None


class Step(msgspec.Struct, frozen=True):
    """What a worker does that is not the events' fault: it opens a run, or ends one whose writers have gone."""

    worker: str
    site: str
    run: str
    ends: bool = False


_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Suspicion).decode
_decode_step = msgspec.msgpack.Decoder(Step).decode


class Suspects:
    """What a worker suspects, kept in its consumer's file: the worker that finds out does not live to tell.

    Args:
        file: The consumer's file.
        worker: Name of this worker process.
    """

    def __init__(self, file: ConsumerFile, worker: str) -> None:
        self._file = file
        self._worker = worker
        self._suspicion = self._load()
        self._in_step = False

    def _load(self) -> Suspicion | None:
        """Return what is suspected of the batch that is now the first one outstanding."""
        plan = next(iter(self._file.plans()), None)
        if plan is None or not plan.segments:
            return None
        stretch = (plan.segments[0].partition, plan.segments[0].first)
        noted = self._file.noted("suspicion")
        known = _decode(noted) if noted else None
        if known is None or known.stretch == stretch:
            return known or Suspicion(stretch=stretch)
        return Suspicion(
            stretch=stretch, aside=known.aside if known.delivered == self._delivered() else 0, delivered=known.delivered
        )

    def _delivered(self) -> int:
        return sum(value for (kind, _), value in self._file.counts().items() if kind == "delivered")

    @property
    def condemned(self) -> AtRisk | None:
        """The one event that is to be put aside before anything is written."""
        return self._suspicion.condemned if self._suspicion else None

    @property
    def reason(self) -> str:
        """The last failure, for people."""
        return self._suspicion.reason if self._suspicion else ""

    @property
    def narrowing(self) -> bool:
        """Whether rows are written in parts, each stored before the next."""
        return self._suspicion is not None and self._suspicion.limit > 0

    def blame_lost(self, lost: Lost) -> None:
        """Blame what was at risk for the loss of a worker before this one."""
        step = self._file.noted("step")
        if step and (known := _decode_step(step)).worker == lost.worker:
            self._blame_step(known)
            return
        part = self._suspicion.part if self._suspicion else None
        if not self.narrowing or (part is not None and part.worker == lost.worker):
            self._blame(lost.reason)

    def _blame_step(self, step: Step) -> None:
        """Count a worker that was lost while it ended a run; opening one is never blamed on events."""
        self._file.note("step", None)
        state = self._file.runs().get((step.site, step.run))
        if step.ends and state is not None:
            state.failed_ends += 1
            self._file.save_run((step.site, step.run), state)

    def _blame(self, reason: str) -> None:
        if not self.narrowing:
            self._suspicion = self._load()
        if self._suspicion is not None:
            rows = sum(plan.rows for plan in self._file.plans())
            self._save(self._suspicion.after_failure(reason[:REASON_CHARACTERS], rows))

    def _save(self, suspicion: Suspicion) -> None:
        self._suspicion = suspicion
        self._file.note("suspicion", _encode(suspicion))

    @contextmanager
    def step(self, key: RunKey, *, ends: bool = False) -> Generator[None]:
        """Note while a run is opened, or ended without an event that says so."""
        step = Step(self._worker, *key, ends)
        self._file.note("step", _encode(step))
        self._in_step = True
        try:
            yield
        except Exception as error:  # border: whatever an SDK raises ends the worker; here it only counts for the run
            if not is_environment(error):
                self._blame_step(step)
            raise
        finally:
            self._in_step = False
        self._file.note("step", None)

    @contextmanager
    def blaming(self, rows: Sequence[Row] = ()) -> Generator[None]:
        """Count what a sink raises against the rows at risk: while something is narrowed down, those that it writes."""
        if rows and self._suspicion is not None and self.narrowing:
            partition, seq = rows[0].envelope.id
            self._save(self._suspicion.at_risk(AtRisk(self._worker, partition, seq, len(rows))))
        try:
            yield
        except Exception as error:  # border: whatever an SDK raises; it goes on its way
            if not self._in_step and not is_environment(error):
                self._blame(said(error))
            raise

    def parts(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Yield rows of one run in the parts in which they are to be written."""
        while rows:
            limit = self._suspicion.limit if self._suspicion else 0
            part, rows = (rows[:limit], rows[limit:]) if limit else (rows, [])
            yield part

    def passed(self) -> None:
        """Note that they are stored."""
        if self._suspicion is not None and self.narrowing:
            self._save(self._suspicion.after_success())

    def put_aside(self, part: AtRisk) -> None:
        """Remember that the condemned event's record lies among the dead letters."""
        if self._suspicion is not None:
            reason = self._suspicion.reason
            self._suspicion = self._suspicion.without_part(self._delivered())
            self._file.add_dead(part.partition, part.seq, reason, suspicion=_encode(self._suspicion))

    def clear(self) -> None:
        """Narrow nothing down any more: everything that was outstanding is stored."""
        if self._suspicion is not None and not self._suspicion.aside:
            self._file.note("suspicion", None)
        self._suspicion = None


def is_environment(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, says nothing about the events: the tracker or the disk is at fault."""
    return any(_is_environment(one) for one in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    seen: BaseException | None = error
    for _ in range(20):  # a chain may run in a circle
        if seen is not None:
            yield seen
            seen = seen.__cause__ or seen.__context__


def _is_environment(error: BaseException) -> bool:
    if isinstance(error, TrackerUnavailableError | ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _STORE
    return isinstance(error, OSError) and error.errno in _DISK | _NETWORK | _PROCESS


def said(error: BaseException) -> str:
    """Return an error in one line, for people."""
    kind = "not authorised" if isinstance(error, NotAuthorisedError) else type(error).__name__
    return " ".join(f"{kind}: {error}".split())[:REASON_CHARACTERS]
