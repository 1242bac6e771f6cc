"""The child half: reads the journal and fills one tracker. Started `python -P -m receivers._worker FD`.

The main thread delivers; a second one says every second that the process lives. When the parent dies, the worker
stores what was logged, ends the lost runs as KILLED and is gone within `orphan_timeout`, by a watchdog that needs no
GIL.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import logging
import os
import signal
import socket
import stat
import sys
import threading
import time
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus._topic import Scope, Selector
from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import ConsumerFile, ConsumerLock
from receivers import _processes
from receivers._batch import Batcher
from receivers._control import Beat, Done, Drain, Failed, Flush, Phase, Settled, Start, WorkerChannel
from receivers._delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from eventbus.abc import Cursor, StoredRecord
    from receivers._control import Order
    from receivers.abc import Sink

BEAT_SECONDS = 1.0
"""How often the worker says that it lives."""

POLL_SECONDS = 0.25
"""How often an idle worker looks into the journal."""

STAND_BY_SECONDS = 0.2
"""How often a worker looks how far the one got that it stands by for."""

ORPHAN_SECONDS = 2.0
"""How often it looks whether that one's parent is dead: a look goes over all processes of the machine."""

ENDED_SECONDS = 1.0
"""How often an idle worker looks whether a writer has vanished."""

WATCHDOG_SECONDS = 60.0
"""The C-level watchdog ends a process whose threads have not run for so long: only a stuck GIL does that."""

DYING_SECONDS = 5.0
"""How long a parent may take to die: it holds its partition until its last thread is gone and its memory is freed."""

LAST_SECONDS = 5.0
"""How long the last words wait for a parent whose loop is busy."""

LOG_BYTES = 1 << 20
"""A worker's log starts over beyond this size: an SDK may print without end."""

REASON_CHARACTERS = 500
"""An SDK's error may hold a whole page."""

_logger = logging.getLogger("trackbus.worker")


class Heart(threading.Thread):
    """Says every second that the process lives, and winds up the watchdog."""

    def __init__(self, channel: WorkerChannel, orphan_timeout: float) -> None:
        super().__init__(name="trackbus-heart", daemon=True)
        self._channel = channel
        self._orphan_timeout = orphan_timeout

    def run(self) -> None:
        """Beat until the parent is lost; then leave the process its last seconds."""
        while not self._channel.parent_lost.is_set():
            faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
            self._channel.send(Beat())
            _trim_log()
            time.sleep(BEAT_SECONDS)
        faulthandler.dump_traceback_later(self._orphan_timeout, exit=True)


def _trim_log() -> None:
    """Let the log start over when it is too long; whoever writes it appends."""
    with contextlib.suppress(OSError):
        log = os.fstat(2)
        if stat.S_ISREG(log.st_mode) and log.st_size > LOG_BYTES:
            os.ftruncate(2, 0)


class Phases:
    """Tells the parent what the worker does: each beginning restarts a deadline, idleness is told once."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel
        self._is_idle = False

    def begin(self, name: str) -> None:
        """Tell that a step begins which has a deadline."""
        self._is_idle = False
        self._channel.send(Phase(name))

    def rest(self) -> None:
        """Tell that nothing is under way."""
        if not self._is_idle:
            self._is_idle = True
            self._channel.send(Phase("idle"))


class Worker:
    """Delivers until it is told to drain, or until its parent is lost and everything is stored."""

    def __init__(
        self, channel: WorkerChannel, start: Start, delivery: Delivery, reader: JournalReader, phases: Phases
    ) -> None:
        self._channel = channel
        self._phases = phases
        self._start = start
        self._delivery = delivery
        self._reader = reader
        self._batcher = Batcher(start.flush_policy())
        self._read_to: Cursor = {}
        self._wanted: Cursor = {}
        self._has_more = False
        self._target: Cursor | None = None
        self._looked_at = 0.0

    def run(self) -> None:
        """Work until the end."""
        self._report()
        self._delivery.recover()
        self._read_to = dict(self._delivery.read_to)
        self._report()
        self._phases.rest()
        while not self._is_done():
            self._obey(self._channel.receive(self._wait_seconds()))
            self._turn()
        self._finish()

    def _turn(self) -> None:
        now = time.monotonic()
        self._batcher.add(self._read(), now)
        moved = False
        if self._is_due(now):
            self._delivery.deliver(self._batcher.take())
            moved = True
        elif self._delivery.outstanding:
            moved = self._delivery.flush()
        if now - self._looked_at > ENDED_SECONDS:
            self._looked_at = now
            self._delivery.end_lost_runs()
        if moved:
            self._report()
        self._phases.rest()

    def _read(self) -> list[StoredRecord]:
        room = self._batcher.room
        records = self._reader.read(self._read_to, room) if room else []
        self._read_to.update({record.header.key: record.seq for record in records})
        self._has_more = len(records) >= room
        return records

    def _is_due(self, now: float) -> bool:
        wait = self._batcher.wait(now)
        return wait is not None and (wait == 0.0 or self._is_leaving() or not self._has_written(self._wanted))

    def _wait_seconds(self) -> float:
        due = self._batcher.wait(time.monotonic())
        if self._has_more or (due is not None and (due == 0.0 or self._is_leaving())):
            return 0.0
        return POLL_SECONDS

    def _is_leaving(self) -> bool:
        return self._target is not None or self._channel.parent_lost.is_set()

    def _obey(self, order: object) -> None:
        if isinstance(order, Flush):
            self._wanted = self._reader.ends()
        elif isinstance(order, Drain):
            self._target = self._reader.ends()

    def _has_written(self, target: Cursor) -> bool:
        written = self._delivery.read_to
        return all(written.get(partition, 0) >= end for partition, end in target.items())

    def _is_done(self) -> bool:
        """Tell whether all is written: closing the sinks stores it."""
        if self._channel.parent_lost.is_set() and self._target is None:
            self._wait_for_parents_end()
            self._target = self._reader.ends()
        return self._target is not None and self._has_written(self._target)

    def _wait_for_parents_end(self) -> None:
        """Wait until the parent has let go of its partition: until then its runs are not known to be lost."""
        deadline = time.monotonic() + min(DYING_SECONDS, self._start.orphan_timeout / 2)
        own = [one for one in self._reader.partitions() if one.header.key == self._start.partition]
        while not all(one.ended() for one in own) and time.monotonic() < deadline:
            time.sleep(STAND_BY_SECONDS)

    def _finish(self) -> None:
        orphaned = self._channel.parent_lost.is_set()
        self._delivery.end_lost_runs("" if orphaned else self._start.partition)
        self._delivery.leave()
        self._report()

    def _report(self) -> None:
        self._channel.send(Settled(self._delivery.cursor, self._delivery.counts))


def make_sink_factory(start: Start) -> Callable[[], Sink[Any]]:
    """Import the sink that a start order names and return what makes one for a run."""
    sink_type = _load(start.sink)
    config = _load(start.config_type).model_validate_json(start.config)
    workspace = Path(start.workspace)
    return lambda: sink_type(config, workspace)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return attrgetter(name)(importlib.import_module(module))


def selectors_of(start: Start) -> list[Selector]:
    """Return the subscriptions that a start order names; importing an event's class makes its records readable."""
    return [
        Selector(pattern, _load(event) if event else None, None if scope is None else Scope(scope), sites, runs)
        for pattern, event, scope, sites, runs in start.selectors
    ]


class StandBy:
    """Waits while another process works on the consumer's file, and tells what that one has stored.

    An orphan that was stopped would hold the file for ever: nobody else is left to find it. It is let run on, so that
    it can notice that its parent is dead, store what was logged and end.
    """

    def __init__(self, channel: WorkerChannel, start: Start) -> None:
        self._channel = channel
        self._start = start
        self._order: Order | None = None
        self._told: Settled | None = None
        self._looked_at = -ORPHAN_SECONDS
        self._behind_orphan = False

    def acquire(self, lock: ConsumerLock) -> bool:
        """Return True when the lock is ours, False when there is nothing left to wait for."""
        if lock.try_acquire():
            return True
        with ConsumerFile(Path(self._start.cursors), self._start.name) as file:
            while not lock.try_acquire():
                self._look_for_orphans()
                if self._channel.parent_lost.is_set() or self._is_drained(file):
                    return False
                self._channel.send(Phase("standing by"))
                self._order = self._channel.receive(STAND_BY_SECONDS) or self._order
        if self._order is not None:
            self._channel.put_back(self._order)
        return True

    def _look_for_orphans(self) -> None:
        now = time.monotonic()
        if now - self._looked_at > ORPHAN_SECONDS:
            self._looked_at = now
            orphans = _processes.orphans(os.environ.get(_processes.MARKER, ""))
            _processes.resume(orphans)
            self._behind_orphan = bool(orphans)

    def _is_drained(self, file: ConsumerFile) -> bool:
        """Pass on where the other one stands; once we are to drain, it is enough that our own records are stored.

        The rest is the other one's, unless it is an orphan: then it ends soon, and we are the last to deliver.
        """
        settled = Settled(file.cursor(), [(kind, name, value) for (kind, name), value in sorted(file.counts().items())])
        if settled != self._told:
            self._told = settled
            self._channel.send(settled)
        if not isinstance(self._order, Drain) or self._behind_orphan:
            return False
        own = self._start.partition
        end = JournalReader(Path(self._start.journal)).ends().get(own, 0)
        return settled.cursor.get(own, 0) >= end


def work(channel: WorkerChannel, start: Start) -> None:
    """Deliver what a start order asks for."""
    sys.path += [folder for folder in start.search_path if folder not in sys.path]
    lock = ConsumerLock(Path(start.cursors), start.name)
    if StandBy(channel, start).acquire(lock):
        _processes.end_left_behind(os.environ.get(_processes.MARKER, ""))
        _deliver(channel, start)
    channel.send_last(Done(), LAST_SECONDS)


def _deliver(channel: WorkerChannel, start: Start) -> None:
    channel.send(Phase("starting"))
    make_sink = make_sink_factory(start)
    selectors = selectors_of(start)
    reader = JournalReader(Path(start.journal), again=start.again)
    reader.beside = JournalReader(Path(start.beside), again=not start.again)
    with ConsumerFile(Path(start.cursors), start.name) as file:
        phases = Phases(channel)
        delivery = Delivery(reader, file, selectors, make_sink, phases.begin, layout=start.layout)
        Worker(channel, start, delivery, reader, phases).run()


def main() -> None:
    """Run a worker on the descriptor that the command line names."""
    parent = os.getppid()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = WorkerChannel(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGTERM, _end_at_once)
    signal.signal(_processes.PARENT_DIED, partial(_note_lost_parent, channel))
    _processes.end_with_parent()
    if os.getppid() != parent:
        channel.parent_lost.set()
    start = channel.receive(WATCHDOG_SECONDS)
    if not isinstance(start, Start):
        return
    Heart(channel, start.orphan_timeout).start()
    try:
        work(channel, start)
    except Exception as error:  # border: whatever an SDK raises is told to the parent, which starts anew
        _logger.exception("the worker ends")
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        channel.send_last(Failed(reason[:REASON_CHARACTERS]), LAST_SECONDS)
        sys.stderr.flush()
        os._exit(1)  # an SDK's own exit handlers may wait for ever


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(143)


def _note_lost_parent(channel: WorkerChannel, _number: int, _frame: FrameType | None) -> None:
    channel.parent_lost.set()


if __name__ == "__main__":
    main()
