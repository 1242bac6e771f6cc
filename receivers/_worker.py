"""The child half: reads the journal and fills one tracker. Started `python -P -m receivers._worker FD`.

The main thread delivers; a second one says every second that the process lives. When the parent dies, the worker
stores what was logged, ends the lost runs as KILLED and is gone within `orphan_timeout`, by a watchdog that needs no
GIL.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import ConsumerFile, ConsumerLock
from receivers import _processes
from receivers._batch import Batcher
from receivers._circuit import Circuit
from receivers._control import (
    Attach,
    Buried,
    Detach,
    Done,
    Drain,
    Failed,
    Flush,
    LeftOut,
    Opened,
    Phase,
    Settled,
    Start,
    Unavailable,
    WorkerChannel,
)
from receivers._dead import put_aside
from receivers._delivery import Delivery
from receivers._heart import Heart, Phases
from receivers._loading import make_sink_factory, selectors_of
from receivers._sources import Journals
from receivers._stand_by import STAND_BY_SECONDS, StandBy
from receivers._suspects import Suspects, said
from receivers.abc import TrackerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from eventbus.abc import Cursor, StoredRecord
    from receivers._control import Order

POLL_SECONDS = 0.25
"""How often an idle worker looks into the journal."""

ENDED_SECONDS = 1.0
"""How often an idle worker looks whether a writer has vanished."""

START_SECONDS = 60.0
"""How long the first order may take: the loop of the parent may be busy with a training step."""

DYING_SECONDS = 5.0
"""How long a parent may take to die: it holds its partition until its last thread is gone and its memory is freed."""

LAST_SECONDS = 5.0
"""How long the last words wait for a parent whose loop is busy."""

_logger = logging.getLogger("trackbus.worker")


class Worker:
    """Delivers until all its buses are left, or until its parent is lost and everything is stored.

    A tracker that is unavailable costs no process: what was written to it is forgotten, and written again from the
    committed position as after a crash, at growing intervals.
    """

    def __init__(
        self,
        channel: WorkerChannel,
        start: Start,
        make_delivery: Callable[[], Delivery],
        journals: Journals,
        phases: Phases,
    ) -> None:
        self._channel = channel
        self._phases = phases
        self._start = start
        self._make_delivery = make_delivery
        self._journals = journals
        self._circuit = Circuit(failures=start.failures)
        self._wanted: Cursor = {}
        self._targets: dict[int, Cursor] = {}  # of the buses that are left
        self._drained: list[int] = []
        self._mending = False
        self._left_out: dict[str, str] = {}
        self._begin()

    def _begin(self) -> None:
        """Stand where the consumer's file says that everything is stored."""
        self._delivery = self._make_delivery()
        self._batcher = Batcher(self._start.flush_policy())
        self._read_to: Cursor = {}
        self._has_more = False
        self._looked_at = 0.0
        self._progress, self._progressed_at = 0, time.monotonic()

    def run(self) -> None:
        """Work until the end, however often the tracker is unavailable."""
        while not self._has_worked():
            self._begin()

    def _has_worked(self) -> bool:
        """Work until the end and return True, or until the tracker is unavailable, and leave it alone for a while."""
        try:
            self._work()
        except TrackerUnavailableError as error:
            if not self._delivery.abandon():
                raise
            self._leave_alone(error)
            return False
        return True

    def _work(self) -> None:
        self._report()
        self._delivery.recover()
        self._read_to = dict(self._delivery.read_to)
        self._report()
        self._phases.rest()
        while not self._is_done():
            self._obey(self._channel.receive(self._wait_seconds()))
            self._turn()
        self._finish()

    def _leave_alone(self, error: TrackerUnavailableError) -> None:
        """Wait before the next try; a drain that begins meanwhile is worth one at once."""
        if self._delivery.progress:
            self._circuit.succeed()
        self._circuit.fail(said(error), for_good=error.needs_person)
        leaving = self._is_leaving()
        pause = self._circuit.pause(hurried=leaving)
        _logger.warning("the tracker is unavailable, tried again in %.1f s: %s", pause, said(error))
        self._channel.send(Unavailable(said(error), pause, error.needs_person))
        self._phases.begin("waiting for the tracker")
        until = time.monotonic() + pause
        while time.monotonic() < until and self._is_leaving() == leaving:
            self._obey(self._channel.receive(min(POLL_SECONDS, pause)))

    def _turn(self) -> None:
        now = time.monotonic()
        self._batcher.add(self._read(), now)
        moved = False
        if self._is_due(now):
            self._delivery.deliver(self._batcher.take())
            self._progressed_at = time.monotonic()  # however long it took: it was announced how long it may
            moved = True
        elif self._delivery.outstanding:
            moved = self._delivery.flush()
        self._check_progress(now)
        if now - self._looked_at > ENDED_SECONDS:
            self._looked_at = now
            self._delivery.end_lost_runs()
        if self._let_go() or moved:
            self._report()
        self._report_damage()
        self._phases.rest()

    def _let_go(self) -> bool:
        """Note which of the buses that are left have all they had stored; the last one ends with the worker."""
        if len(self._journals.served) == 1 or self._is_mending():
            return False
        before = len(self._drained)
        for bus, target in list(self._targets.items()):
            if len(self._journals.served) > 1 and self._has_passed(target):
                self._end_runs_of(bus)
                if self._has_passed(target, stored=True):
                    self._drained.append(bus)
                    self._journals.commit(self._start.name, self._delivery.cursor)
                    self._forget(bus)
        return len(self._drained) > before

    def _end_runs_of(self, bus: int) -> None:
        """End what a bus that was left has not ended; that of a dead parent has vanished, and says so itself."""
        orphaned = self._channel.parent_lost.is_set()
        self._delivery.end_lost_runs("" if orphaned else self._journals.served[bus].partition)

    def _forget(self, bus: int) -> None:
        self._journals.remove(bus)
        self._targets.pop(bus, None)

    def _check_progress(self, now: float) -> None:
        """Treat a sink that stores nothing for as long as a call may take as one that hangs."""
        if not self._delivery.outstanding or self._delivery.progress != self._progress:
            self._progress, self._progressed_at = self._delivery.progress, now
        elif now - self._progressed_at > self._start.process_timeout:
            self._delivery.give_up(self._start.process_timeout)

    def _read(self) -> list[StoredRecord]:
        room = 0 if self._delivery.is_full else self._batcher.room
        records = self._journals.read(self._read_to, room) if room else []
        self._read_to.update({record.header.key: record.seq for record in records})
        self._has_more = 0 < room <= len(records)
        return records

    def _is_due(self, now: float) -> bool:
        wait = None if self._delivery.is_full else self._batcher.wait(now)
        return wait is not None and (wait == 0.0 or self._is_leaving() or not self._has_passed(self._wanted))

    def _wait_seconds(self) -> float:
        due = None if self._delivery.is_full else self._batcher.wait(time.monotonic())
        if self._has_more or (due is not None and (due == 0.0 or self._is_leaving())):
            return 0.0
        return POLL_SECONDS

    def _is_leaving(self) -> bool:
        return bool(self._targets) or self._channel.parent_lost.is_set()

    def _obey(self, order: object) -> None:
        served = self._journals.served
        if isinstance(order, Flush):
            self._wanted = self._journals.ends()
        elif isinstance(order, Attach):
            self._journals.add(order.source)
        elif isinstance(order, Drain) and order.bus in served:
            served[order.bus] = replace(served[order.bus], partition=order.partition)
            self._targets[order.bus] = self._journals.ends(order.bus)
        elif isinstance(order, Detach):
            self._forget(order.bus)

    def _has_passed(self, target: Cursor, *, stored: bool = False) -> bool:
        """Tell whether all that can be read up to a position is written, or even stored."""
        position = self._delivery.cursor if stored else self._delivery.read_to
        return all(position.get(key, 0) >= end or self._journals.is_left_out(key) for key, end in target.items())

    def _is_done(self) -> bool:
        """Tell whether all is written: closing the sinks stores it. What is being mended is waited for."""
        waiting = self._journals.served.keys() - self._targets.keys()
        if waiting and self._channel.parent_lost.is_set():
            self._wait_for_parents_end()
            self._targets.update({bus: self._journals.ends(bus) for bus in waiting})
        elif waiting:
            return False
        return not self._is_mending() and all(self._has_passed(target) for target in self._targets.values())

    def _is_mending(self) -> bool:
        """Tell whether something is being mended; what came of it is part of what the journals hold."""
        was_mending, self._mending = self._mending, bool(self._journals.being_mended())
        if was_mending and not self._mending:
            self._targets = {bus: self._journals.ends(bus) for bus in self._targets}
            return True
        return self._mending

    def _wait_for_parents_end(self) -> None:
        """Wait until the parent has let go of its partition: until then its runs are not known to be lost."""
        deadline = time.monotonic() + min(DYING_SECONDS, self._start.orphan_timeout / 2)
        keys = {source.partition for source in self._journals.served.values()}
        own = [one for one in self._journals.partitions() if one.header.key in keys]
        while not all(one.ended() for one in own) and time.monotonic() < deadline:
            time.sleep(STAND_BY_SECONDS)

    def _finish(self) -> None:
        for bus in self._targets:
            self._end_runs_of(bus)
        self._delivery.leave()
        self._drained += self._targets
        self._report()

    def _report(self) -> None:
        cursor = self._delivery.cursor
        self._journals.commit(self._start.name, cursor)
        self._channel.send(Settled(cursor, self._delivery.counts, self._drained))

    def _report_damage(self) -> None:
        """Tell the parent, which writes the journal, what of it can't be read."""
        left_out = self._journals.unreadable
        if left_out != self._left_out:
            self._left_out = left_out
            self._channel.send(LeftOut(left_out))


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
    selectors = selectors_of(start)
    home = JournalReader(Path(start.journal), again=start.again)
    home.beside = JournalReader(Path(start.beside), again=not start.again)
    name = os.environ.get(_processes.WORKER, "")

    with ConsumerFile(Path(start.cursors), start.name) as file:
        if start.lost is not None:
            Suspects(file, name).blame_lost(start.lost)
        phases = Phases(channel)
        journals = Journals(file, home, start.sources)
        make_sink = make_sink_factory(start, journals.blobs)

        def bury(record: StoredRecord, reason: str) -> None:
            put_aside(Path(start.workspace) / "dead" / start.name, record, start.name, reason, journals.blobs)
            channel.send(Buried(record.header.key, record.seq, reason))

        def make_delivery() -> Delivery:
            return Delivery(
                journals,
                file,
                selectors,
                make_sink,
                phases.begin,
                layout=start.layout,
                suspects=Suspects(file, name),
                bury=bury,
                opened=lambda key, run: channel.send(Opened(*key, run)),
            )

        Worker(channel, start, make_delivery, journals, phases).run()


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
    start = _first_order(channel)
    if not isinstance(start, Start):
        return
    Heart(channel, start.orphan_timeout).start()
    try:
        work(channel, start)
    except Exception as error:  # border: whatever an SDK raises is told to the parent, which starts anew
        _logger.exception("the worker ends")
        channel.send_last(
            Failed(said(error), isinstance(error, TrackerUnavailableError) and error.needs_person), LAST_SECONDS
        )
        sys.stderr.flush()
        os._exit(1)  # an SDK's own exit handlers may wait for ever


def _first_order(channel: WorkerChannel) -> Order | None:
    """Wait to be told what to do; a parent that died before it said so leaves nothing to do."""
    deadline = time.monotonic() + START_SECONDS
    order: Order | None = None
    while order is None and not channel.parent_lost.is_set() and time.monotonic() < deadline:
        order = channel.receive(POLL_SECONDS)
    return order


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(143)


def _note_lost_parent(channel: WorkerChannel, _number: int, _frame: FrameType | None) -> None:
    channel.parent_lost.set()


if __name__ == "__main__":
    main()
