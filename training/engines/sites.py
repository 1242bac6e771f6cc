"""Asking the sites of a job: what `training.abc.Sites` promises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType

import anyio
import anyio.to_thread

from eventbus.errors import DecodeError
from training._wire import TaskSent, pack
from training.abc import Answer, Outcome, Patience, Task
from training.engines.link import Coming
from training.engines.site import Arrival, Request, Site
from training.errors import JobError, TooFewSitesError, UpdateRefusedError
from training.fl_model import MetaKey

PAYLOAD_BYTES = 64 * 1024 * 1024
PAYLOAD_FACTOR = 4
"""An answer may be so many times what was sent, and at least so many bytes: optimizer state is two models more, and
nobody fills the server's memory."""

TURN_SECONDS = 2.0
"""How long the others wait for a site whose answer comes slowly: a local socket carries a gigabyte in that time."""

LATE = "its answer came too late"

_logger = logging.getLogger("trackbus.engines")


@dataclass(eq=False, slots=True)
class _Round:
    """What came of a request so far.

    Attributes:
        accept: Takes an answer, off the loop.
        taking: Held while it does.
        taken: Sites of which it has taken one; whether they leave then makes no difference to it.
        accepted: Sites whose answer counts.
        problems: Why others have none.
        error: What ends the job.
        enough: Set when the fewest answers needed are there, or no more can come.
        complete: Set when no more can come.
    """

    accept: Callable[[Answer], object]
    min_answers: int
    waiting: set[str]
    taking: anyio.Lock = field(default_factory=anyio.Lock)
    taken: set[str] = field(default_factory=set[str])
    accepted: list[str] = field(default_factory=list[str])
    problems: dict[str, str] = field(default_factory=dict[str, str])
    error: BaseException | None = None
    enough: anyio.Event = field(default_factory=anyio.Event)
    complete: anyio.Event = field(default_factory=anyio.Event)

    def settle(self, site: str, problem: str) -> None:
        self.waiting.discard(site)
        if problem:
            self.problems[site] = problem
        else:
            self.accepted.append(site)
        if not self.waiting:
            self.complete.set()
        if not self.waiting or len(self.accepted) >= self.min_answers:
            self.enough.set()

    def fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.enough.set()
        self.complete.set()


class SiteGroup:
    """The sites of a job.

    Args:
        sites: All of them, in order.
        min_sites: With fewer left there is no sense in asking.
        threads: How many may work at a task at the same time.
        report: Told why a site has no answer that counts.
        moved: Told the moments of the job: `sent` for every task, `answered` for every answer.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        min_sites: int,
        threads: int,
        report: Callable[[str, str], object],
        moved: Callable[[str], object],
    ) -> None:
        self._sites = {site.name: site for site in sites}
        self._min_sites = min_sites
        self._turns = anyio.CapacityLimiter(threads)
        self._thread = anyio.CapacityLimiter(1)  # anyio's own is shared with files and receivers
        self._reading = anyio.Lock()
        self._report = report
        self._moved = moved
        self._count = 0
        self._most_sent = 0
        self._rounds: set[_Round] = set()
        for site in sites:
            site.on_leave = self._on_leave

    @property
    def names(self) -> tuple[str, ...]:
        """Those that can be asked now, in the job's order."""
        return tuple(name for name, site in self._sites.items() if not site.left)

    @property
    def left(self) -> Mapping[str, str]:
        """Those that can't be asked any more, and why."""
        return MappingProxyType({name: site.left for name, site in self._sites.items() if site.left})

    async def ask(
        self, task: Task, targets: Sequence[str], accept: Callable[[Answer], object], patience: Patience
    ) -> Outcome:
        """Send a task to sites, and take their answers as they come; see `training.abc.Sites`.

        Raises:
            TooFewSitesError: Fewer sites are left than the job needs.
        """
        self._check_enough()
        one = _Round(accept, patience.min_answers, set(targets))
        request = await self._make_request(task, one)
        self._rounds.add(one)
        try:
            await self._gather(request, targets, one, patience)
        finally:
            self._rounds.discard(one)
            with anyio.CancelScope(shield=True):  # an answer that is being taken is taken, whatever happens
                async with one.taking:
                    request.close()
            for site in self._sites.values():
                site.forget(request)
        for site in sorted(one.problems, key=list(targets).index):
            self._report(site, one.problems[site])
        if one.error:
            raise one.error
        return Outcome(tuple(one.accepted), dict(one.problems))

    async def _make_request(self, task: Task, one: _Round) -> Request:
        from training._payload import payload_of

        head, payload = await anyio.to_thread.run_sync(payload_of, task.model, limiter=self._thread)
        self._count += 1
        try:
            pack(TaskSent(task=self._count, name=task.name, model=head))  # what no site can be sent is no site's fault
        except ValueError as error:
            raise JobError(f"the task '{task.name}' can't be sent: {error}") from error
        self._most_sent = max(self._most_sent, len(payload))

        async def take(arrival: Arrival) -> str:
            return await self._take(request, one, arrival)

        request = Request(self._count, task.name, head, payload, take, lambda: self._moved("sent"))
        return request

    async def _gather(self, request: Request, targets: Sequence[str], one: _Round, patience: Patience) -> None:
        states: dict[str, Callable[[], str]] = {}
        why = ""
        async with anyio.create_task_group() as tasks:
            for name in targets:
                tasks.start_soon(self._ask_one, request, name, one, states)
            why = await _wait(one, patience)
            async with one.taking:
                request.close()
            tasks.cancel_scope.cancel()
        for name in sorted(one.waiting) if one.error is None else ():
            one.problems[name] = f"{states[name]() if name in states else 'its turn did not come'} {why}"

    async def _ask_one(self, request: Request, name: str, one: _Round, states: dict[str, Callable[[], str]]) -> None:
        site = self._sites.get(name)
        if site is None:
            one.settle(name, "there is no such site")
            return
        async with self._turns:
            errand = site.ask(request)
            states[name] = lambda: errand.state
            await errand.done.wait()
        one.settle(name, errand.problem)

    async def _take(self, request: Request, one: _Round, arrival: Arrival) -> str:
        """Take an answer while no other is being read: memory holds one, and those that come slowly."""
        bound = max(PAYLOAD_BYTES, PAYLOAD_FACTOR * self._most_sent)
        if arrival.size > bound:
            raise DecodeError(f"an answer of {arrival.size} bytes; {bound} may come")
        coming = Coming(arrival.size)
        async with self._reading:
            with anyio.move_on_after(TURN_SECONDS):
                if request.is_open:
                    await arrival.wire.fill(coming)
            if not coming.missing:
                return await self._hand_over(request, one, arrival, coming.data)
        if not request.is_open:
            await arrival.wire.skip(coming.missing)
            return self._say_late(request, arrival.site)
        await arrival.wire.fill(coming)  # too slow for its turn: it goes on beside the others
        async with self._reading:
            return await self._hand_over(request, one, arrival, coming.data)

    async def _hand_over(self, request: Request, one: _Round, arrival: Arrival, payload: bytearray) -> str:
        async with one.taking:
            if not request.is_open:
                return self._say_late(request, arrival.site)
            self._moved("answered")
            return await self._accept(one, arrival, payload)

    def _say_late(self, request: Request, site: str) -> str:
        self._sites[site].complain(
            f"its answer to '{request.name}' (task {request.number}) came too late, and was thrown away"
        )
        return LATE

    async def _accept(self, one: _Round, arrival: Arrival, payload: bytearray) -> str:
        try:
            reason = await anyio.to_thread.run_sync(_accept, one.accept, arrival, payload, limiter=self._thread)
        except Exception as error:  # noqa: BLE001 - border: what takes answers is the job's; its error ends the job
            one.fail(error)
            return f"the job has failed: {error}"
        if not reason:
            one.taken.add(arrival.site)
        return reason

    def _on_leave(self, _: Site) -> None:
        for one in self._rounds:
            try:
                self._check_enough(one.taken)
            except TooFewSitesError as error:
                one.fail(error)

    def _check_enough(self, done: AbstractSet[str] = frozenset()) -> None:
        """See to it that enough sites are left, or have done what is asked of them already."""
        if len(done | set(self.names)) < self._min_sites:
            raise TooFewSitesError(self._min_sites, len(self.names), self.left)


def _accept(accept: Callable[[Answer], object], arrival: Arrival, payload: bytearray) -> str:
    """Make a model of an answer and hand it over, off the loop; return why it does not count, or nothing."""
    from training._payload import model_from

    try:
        model = model_from(arrival.head, bytes(payload), "pytorch")
    except Exception as error:  # noqa: BLE001 - border: whatever a site sends is that site's problem
        return f"its answer can't be read: {error}"
    model.meta[MetaKey.SITE_NAME] = arrival.site
    try:
        accept(Answer(arrival.site, model))
    except UpdateRefusedError as error:
        return error.reason
    return ""


async def _wait(one: _Round, patience: Patience) -> str:
    """Wait as long as patience lasts; return what to tell those that have not answered."""
    with anyio.move_on_after(patience.timeout):
        await one.enough.wait()
        with anyio.move_on_after(patience.grace):
            await one.complete.wait()
            return ""
        return f"within the {patience.grace:g} s that were left once {patience.min_answers} answers were there"
    return f"within {patience.timeout:g} s"
