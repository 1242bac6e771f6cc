"""One worker for all the buses that a receiver is subscribed on, supervised from a thread of its own.

The thread lives from the first bus to the last: no bus's own loop outlives the others, and the kernel ends a worker
with the thread that started it. The buses may stand on any loops and threads; they and the supervisor only leave each
other word, and nobody waits for the other's lock longer than it takes to write it down.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from eventbus._wake_up import WakeUp
from receivers._control import Attach, Detach, Drain, Flush

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from eventbus import Event
    from eventbus.abc import Cursor, Feed, LocalJournal
    from receivers._control import Order, Source
    from receivers._supervisor import Supervisor

LOOK_SECONDS = 1.0
"""How often a bus looks for news that nobody woke it for; none should come that way."""


@dataclass(slots=True, eq=False)
class Member:
    """A bus that is served: what its loop and the supervisor's thread leave for each other.

    Attributes:
        source: Its journal.
        journal: The same, as the bus writes it.
        draining: Whether it is being left.
        wanted: What it waits for: see `Feed`.
        drained: Whether all that it had when it was left is stored.
        finished: Whether nothing is done for it any more.
        error: Why nothing can be done for it.
    """

    source: Source
    journal: LocalJournal
    draining: bool = False
    wanted: int = 0
    drained: bool = False
    finished: bool = False
    error: Exception | None = None
    _cursor: Cursor | None = None
    _touched: bool = False
    _events: deque[Event] = field(default_factory=deque["Event"])
    _left_out: dict[str, str] | None = None
    _news: WakeUp = field(default_factory=WakeUp)

    # --- in the supervisor's thread -----------------------------------------------------------------------------

    def contradicts(self, cursor: Cursor) -> bool:
        """Tell whether a position holds more of the bus's own partition than was ever logged."""
        return cursor.get(self.journal.origin.partition, 0) > self.journal.last_seq

    def move(self, cursor: Cursor) -> None:
        """Leave word of the position."""
        self._cursor = cursor
        self._news()

    def touch(self) -> None:
        """Leave word that the worker gets on."""
        self._touched = True
        self._news()

    def tell(self, event: Event) -> None:
        """Leave an event to publish."""
        self._events.append(event)
        self._news()

    def leave_out(self, files: Mapping[str, str]) -> None:
        """Leave word of the files of the bus's journal that can't be read."""
        self._left_out = {path: why for path, why in files.items() if Path(path).is_relative_to(self.source.journal)}
        self._news()

    def finish(self) -> None:
        """Say that nothing is done for the bus any more."""
        self.finished = True
        self._news()

    # --- on the bus's loop --------------------------------------------------------------------------------------

    async def pass_orders(self, feed: Feed, wake: Callable[[], None]) -> None:
        """Pass on what the bus wants, for as long as it is served."""
        while True:
            self.draining, self.wanted = feed.draining, feed.wanted
            wake()
            await feed.wait_for_orders(LOOK_SECONDS)

    async def pass_news(self, feed: Feed) -> None:
        """Tell the bus how far its events are stored, until nothing is done for it any more."""
        while True:
            finished = self.finished  # asked first: the last news must not be missed
            touched, self._touched = self._touched, False
            cursor, self._cursor = self._cursor, None
            left_out, self._left_out = self._left_out, None
            while self._events:
                feed.tell(self._events.popleft())
            if left_out is not None:
                feed.leave_out(left_out)
            if cursor is not None:
                feed.moved(cursor)
            elif touched:
                feed.touch()
            if finished:
                return
            await self._wait()

    async def until_finished(self) -> None:
        """Return when nothing is done for the bus any more."""
        while not self.finished:
            await self._wait()

    async def _wait(self) -> None:
        self._news.arm()
        if not self.finished:
            with anyio.move_on_after(LOOK_SECONDS):
                await self._news.wait()


@dataclass(slots=True)
class Told:
    """What one worker was told so far: which buses it serves, which of them are left, what they wait for."""

    attached: set[int]
    left: set[int] = field(default_factory=set[int])
    wanted: dict[int, int] = field(default_factory=dict[int, int])


def new_orders(buses: Iterable[Member], told: Told) -> list[Order]:
    """Return what a worker is to be told now, and note that it was."""
    members = {one.source.bus: one for one in buses}
    orders: list[Order] = [Attach(one.source) for bus, one in members.items() if bus not in told.attached]
    orders += [Detach(bus) for bus in sorted(told.attached - members.keys())]  # last: a worker without a bus ends
    left = [bus for bus, one in members.items() if one.draining and bus not in told.left]
    orders += [Drain(bus, members[bus].journal.origin.partition) for bus in left]
    wanted = {bus: one.wanted for bus, one in members.items()}
    if any(seq > told.wanted.get(bus, 0) for bus, seq in wanted.items()):
        orders.append(Flush())
    told.attached, told.wanted = set(members), wanted
    told.left.update(left)
    return orders


class Latch:
    """Something that comes true once, in any thread, and is waited for on any loop."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: list[WakeUp] = []

    def set(self) -> None:
        """Say that it is true."""
        self._is_set = True
        while self._waiting:
            self._waiting.pop()()

    async def wait(self) -> None:
        """Return when it is true."""
        wake_up = WakeUp()
        wake_up.arm()
        self._waiting.append(wake_up)
        if not self._is_set:  # asked last: who sets it either sees this waiter or is seen
            await wake_up.wait()


class Joint:
    """The buses of one receiver, as its supervisor sees them.

    Args:
        name: The receiver's name.
        make_supervisor: Makes what keeps a worker running until all buses have drained.
    """

    def __init__(self, name: str, make_supervisor: Callable[[Joint], Supervisor]) -> None:
        self.name = name
        self._make_supervisor = make_supervisor
        self._lock = threading.Lock()
        self._members: list[Member] = []
        self._thread: threading.Thread | None = None
        self._orders = self._stop = WakeUp()

    # --- for the buses ------------------------------------------------------------------------------------------

    async def serve(self, feed: Feed, member: Member, begin: Callable[[], None]) -> None:
        """Serve a bus until it is left and all that it had is stored.

        Args:
            feed: The bus.
            member: What stands for it.
            begin: Called if it is the first one, before the worker is started.

        Raises:
            Exception: No worker can be kept running at all.
        """
        self._join(member, begin)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(member.pass_orders, feed, self._orders)
                await member.pass_news(feed)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                self._abandon(member)
                await member.until_finished()
        if member.error is not None:
            raise member.error

    def _join(self, member: Member, begin: Callable[[], None]) -> None:
        with self._lock:
            self._members.append(member)
            if self._thread is None:
                begin()
                self._orders, self._stop = WakeUp(), WakeUp()  # each belongs to one loop
                name = f"trackbus receiver {self.name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def _abandon(self, member: Member) -> None:
        """Do no more for a bus that waits no longer; with the last one, end the worker."""
        if not member.finished:
            self.drained([member.source.bus])
            self._stop()
            self._orders()

    # --- for the supervisor -------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """Return the buses that are served."""
        with self._lock:
            return list(self._members)

    @property
    def draining(self) -> bool:
        """Whether a bus is being left: its time is short."""
        return any(member.draining for member in self.members())

    async def wait_for_orders(self, timeout: float) -> None:
        """Return when a bus comes, wants something or is left, or after the timeout."""
        self._orders.arm()
        with anyio.move_on_after(timeout):
            await self._orders.wait()

    def moved(self, cursor: Cursor) -> None:
        """Tell that everything up to `cursor` is stored."""
        for member in self.members():
            member.move(cursor)

    def touch(self) -> None:
        """Tell that the worker gets on, though its cursor does not move yet."""
        for member in self.members():
            member.touch()

    def tell(self, event: Event) -> None:
        """Publish a word of the receiver's health on every bus."""
        for member in self.members():
            member.tell(event)

    def leave_out(self, files: Mapping[str, str]) -> None:
        """Tell each bus which files of its journal can't be read at present, and why, by path."""
        for member in self.members():
            member.leave_out(files)

    def drained(self, buses: Iterable[int]) -> None:
        """Tell that all is done for some buses: they are let go, the last ones when the worker has ended."""
        known = set(buses)
        with self._lock:
            for member in self._members:
                member.drained = member.drained or member.source.bus in known
            if self._is_drained():
                return
            done = [member for member in self._members if member.drained]
            self._members = [member for member in self._members if not member.drained]
        for member in done:
            member.finish()

    def _is_drained(self) -> bool:
        return all(member.drained for member in self._members)

    # --- its thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            ended = anyio.run(self._supervise)
        except Exception as error:  # noqa: BLE001 - border: the buses say it in their reports
            with self._lock:
                ended = self._dismiss()
            for member in ended:
                member.error = error
        for member in ended:
            member.finish()

    async def _supervise(self) -> list[Member]:
        """Keep a worker running as long as a bus has not drained; return the buses that are to be let go."""
        while (ended := self._ended()) is None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._cancel_when_abandoned, tasks.cancel_scope)
                await self._make_supervisor(self).run()
                tasks.cancel_scope.cancel()
        return ended

    async def _cancel_when_abandoned(self, scope: anyio.CancelScope) -> None:
        while not self._is_drained():
            self._stop.arm()
            await self._stop.wait()
        scope.cancel()

    def _ended(self) -> list[Member] | None:
        with self._lock:  # a bus that comes from now on has a thread of its own
            return self._dismiss() if self._is_drained() else None

    def _dismiss(self) -> list[Member]:
        members, self._members, self._thread = self._members, [], None
        return members
