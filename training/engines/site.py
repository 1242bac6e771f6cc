"""One site of a job: what its script is asked, and what it says."""

from __future__ import annotations

import logging
import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from eventbus.errors import DecodeError
from training._wire import End, Leave, Message, ModelHead, Result, TaskSent, Welcome
from training.engines.link import HungUpError, Wire
from training.engines.script import Script, ScriptFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

    from training.engines.link import Door, Guest
    from training.engines.orders import Spawn
    from training.engines.processes import NurseryClient
    from training.plan import SitePlan

OVER = "the job is over"

_logger = logging.getLogger("trackbus.engines")


@dataclass(frozen=True, slots=True)
class Home:
    """What the sites of a job share: where processes are started, and where scripts come in."""

    job: str
    nursery: NurseryClient
    door: Door


@dataclass(frozen=True, slots=True)
class Arrival:
    """An answer that has come, but for its tensors: so many bytes of them are still on the wire."""

    site: str
    head: ModelHead
    size: int
    wire: Wire


@dataclass(eq=False, slots=True)
class Request:
    """What is asked of several sites: the same bytes for all.

    Attributes:
        number: Of the task; every answer names it.
        name: Of the task.
        head: The model, but for its tensors.
        payload: Its tensors.
        take: Takes an answer off its wire. Returns why it does not count, or nothing.
        on_sent: Called each time that a site has it.
        is_open: Whether answers still count.
    """

    number: int
    name: str
    head: ModelHead
    payload: bytes
    take: Callable[[Arrival], Awaitable[str]]
    on_sent: Callable[[], object]
    is_open: bool = True

    def close(self) -> None:
        """Take no more answers; whoever has not been sent it need not be."""
        self.is_open, self.payload = False, b""


@dataclass(eq=False, slots=True)
class Errand:
    """A request at one site.

    Attributes:
        request: What is asked.
        state: What it waits for, for people.
        done: Set when it is settled.
        problem: Why there is no answer that counts; empty: there is one.
    """

    request: Request
    state: str = "its script has not called init yet"
    done: anyio.Event = field(default_factory=anyio.Event)
    problem: str = ""

    def settle(self, problem: str = "") -> None:
        """Let it be over; the first word counts."""
        if not self.done.is_set():
            self.problem = problem
            self.done.set()


class Site:
    """A site; its `run` is its life.

    Args:
        plan: What it is.
        home: What it shares with the others.
        order: Makes the order for a process of its script, given the guest that it is to be.
        log: The file that takes what its script prints.

    Attributes:
        left: Why it can't be asked any more; empty while it can.
        complaints: What went wrong here and is no task's problem.
        on_leave: Called when it has left before the job was over.
    """

    def __init__(self, plan: SitePlan, home: Home, order: Callable[[Guest], Spawn], log: Path) -> None:
        self.plan = plan
        self.left = ""
        self.complaints: list[str] = []
        self.on_leave: Callable[[Site], object] = lambda _: None
        self._home = home
        self._log = log
        self._spawn_order = order
        self._errands: deque[Errand] = deque()
        self._news = anyio.Event()
        self._is_over = False
        self._over_reason = ""
        self._current: Errand | None = None
        self._script: Script | None = None
        self._is_done = False

    @property
    def name(self) -> str:
        """Its name."""
        return self.plan.name

    @property
    def failure(self) -> str:
        """Why it has left before the job was over; empty if it has not, or had nothing left to do and said no error."""
        return "" if self._is_done or self.left == OVER else self.left

    @property
    def _is_busy(self) -> bool:
        return any(errand and errand.request.is_open for errand in (self._current, *self._errands))

    # --- for who asks ---------------------------------------------------------------------------------------------

    def ask(self, request: Request) -> Errand:
        """Have the site do something, after what it was asked before."""
        errand = Errand(request)
        names = self.plan.script.task_names
        if self.left:
            errand.settle(self.left)
        elif "*" not in names and request.name not in names:
            errand.settle(f"its script serves {', '.join(names)} only")
        else:
            if self._current:
                errand.state = f"it was still busy with '{self._current.request.name}'"
            self._errands.append(errand)
            self._tell()
        return errand

    def forget(self, request: Request) -> None:
        """Don't keep what was not sent of a request that is closed; what was sent is waited for."""
        kept = [errand for errand in self._errands if errand.request is not request]
        self._errands = deque(kept)

    def end(self, reason: str = "") -> None:
        """Ask no more: its script is told that the job is over."""
        self._is_over, self._over_reason = True, reason
        if self._current:
            self._current.settle(OVER)
        if self._script:
            self._script.let_it_end()
        self._tell()

    def leave(self, reason: str) -> None:
        """Count it as gone; the first reason counts."""
        if self.left:
            return
        self._close(reason)
        self.on_leave(self)

    def _close(self, reason: str) -> None:
        self.left = reason
        for errand in (self._current, *self._errands):
            if errand:
                errand.settle(reason)
        self._errands.clear()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    # --- its life -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run its script until the job is over or the script is; what goes wrong makes the site leave."""
        try:
            if self.plan.script.launch_once:
                await self._run_script(self._all_errands())
            else:
                await self._run_script_for_each()
        except ScriptFailedError as error:
            self.leave(str(error))
        if not self.left:
            self._close(OVER)

    async def _all_errands(self) -> AsyncIterator[Errand]:
        while not self._is_over:
            while self._errands:
                yield self._errands.popleft()
            news = self._news
            if not self._is_over and not self._errands:
                await news.wait()

    async def _run_script_for_each(self) -> None:
        """Run the script once for each task; that it fails in one is that task's problem."""
        async for errand in self._all_errands():
            if not errand.request.is_open:
                continue
            try:
                await self._run_script(_only(errand))
            except ScriptFailedError as error:
                errand.settle(str(error))

    async def _run_script(self, errands: AsyncIterable[Errand]) -> None:
        """Start the script, talk to it, end it.

        Raises:
            ScriptFailedError: It has failed, or left before it was told to.
        """
        if self._is_over:
            return
        script = self._script = self._start()
        try:
            if await script.let_in(self._welcome()):
                await self._converse(script, errands)
        except ScriptFailedError as error:
            if self.plan.script.launch_once:
                self._is_done = error.is_clean and not self._is_busy
                self.leave(str(error))  # who waits for it waits no longer, though the process may live on for a moment
            raise
        finally:
            complaint = await script.stop()
            self._home.door.forget(script.guest)
            if complaint and (self._is_done or not self.left):
                self.complain(complaint)

    def _start(self) -> Script:
        path = self.plan.script.script
        if not path.is_file():
            raise ScriptFailedError(f"its script {path} does not exist")
        guest = self._home.door.expect()
        begin = self._log.stat().st_size if self._log.exists() else 0
        process = self._home.nursery.spawn(self._spawn_order(guest), guest.give_up)
        return Script(self.plan.script, process, guest, self._log, begin)

    def _welcome(self) -> Welcome:
        plan = self.plan.script
        return Welcome(
            site=self.name,
            job=self._home.job,
            params_format=plan.params_format,
            transfer=plan.transfer,
            config=dict(self.plan.config),
        )

    def complain(self, what: str) -> None:
        """Note what went wrong here and is no task's problem."""
        self.complaints.append(what)
        _logger.warning("%s: %s", self.name, what)

    # --- the conversation -----------------------------------------------------------------------------------------

    async def _converse(self, script: Script, errands: AsyncIterable[Errand]) -> None:
        """Send errands and take answers, until there are no more errands or no more script.

        Raises:
            ScriptFailedError: There is no more script.
        """
        failure: ScriptFailedError | None = None

        async def send() -> None:
            with suppress(HungUpError):  # the reader finds out, and why
                async for errand in errands:
                    await self._send(script.wire, errand)
                await script.wire.send(End(reason=self._over_reason))
                script.let_it_end()

        with script.conversation:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                failure = await self._listen(script)
                tasks.cancel_scope.cancel()
        if failure and script.deadline == math.inf:
            raise failure

    async def _send(self, wire: Wire, errand: Errand) -> None:
        """Send an errand, and wait until it is settled: also late, since the script does one thing at a time."""
        request = errand.request
        if not request.is_open:
            errand.settle(errand.state)
            return
        self._current, errand.state = errand, f"no answer to '{request.name}'"
        await wire.send(TaskSent(task=request.number, name=request.name, model=request.head), request.payload)
        request.on_sent()
        await errand.done.wait()

    async def _listen(self, script: Script) -> ScriptFailedError:
        """Take what the script sends until it hangs up or should; return why it has."""
        try:
            while True:
                message, size = await script.wire.receive()
                if isinstance(message, Leave):
                    why = message.error or "it ended of its own accord, or called shutdown()"
                    return script.failed(f"has left: {why}", is_clean=not message.error)
                await self._take(message, size, script.wire)
        except HungUpError:
            return await script.hung_up()
        except DecodeError as error:
            script.terminate()
            return script.failed(f"sent what can't be read: {error}")

    async def _take(self, message: Message, size: int, wire: Wire) -> None:
        errand = self._current
        if not isinstance(message, Result) or errand is None or message.task != errand.request.number:
            raise DecodeError(f"a {type(message).__name__} where none was due")
        errand.settle(await errand.request.take(Arrival(self.name, message.model, size, wire)))
        self._current = None


async def _only(errand: Errand) -> AsyncIterator[Errand]:
    yield errand
