"""Sites as plain async functions in this process: an engine of its own, for tests of what the server does."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from training.abc import Answer, Outcome, Patience, Server, ServerEvent, Task
from training.errors import UpdateRefusedError
from training.fl_model import FLModel

Site = Callable[[Task], Awaitable[FLModel]]
"""What a site does with a task: it returns its answer, or raises, or never ends."""


class GoneError(Exception):
    """Raised by a site that leaves for good."""


@dataclass
class LocalSites:
    """Asks the functions, each in a task of its own.

    Attributes:
        sites: By name.
        left: Those that are gone, and why.
        asked: What was asked, in order: the task and its targets.
    """

    sites: dict[str, Site]
    left: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[Task, tuple[str, ...]]] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.sites if name not in self.left)

    async def ask(
        self, task: Task, targets: Sequence[str], accept: Callable[[Answer], object], patience: Patience
    ) -> Outcome:
        self.asked.append((task, tuple(targets)))
        asking = _Asking(self, task, accept, patience, set(targets))
        with anyio.move_on_after(math.inf if patience.timeout is None else patience.timeout) as deadline:
            asking.deadline = deadline
            async with anyio.create_task_group() as tasks:
                for name in targets:
                    tasks.start_soon(asking.serve, name)
        late = dict.fromkeys(sorted(asking.open), "it did not answer in time")
        return Outcome(tuple(asking.accepted), asking.problems | late)


@dataclass
class _Asking:
    sites: LocalSites
    task: Task
    accept: Callable[[Answer], object]
    patience: Patience
    open: set[str]
    accepted: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    deadline: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    turn: anyio.Lock = field(default_factory=anyio.Lock)

    async def serve(self, name: str) -> None:
        try:
            model = await self.sites.sites[name](self.task)
        except GoneError as error:
            self.sites.left[name] = str(error)
            self.settle(name, str(error))
        except RuntimeError as error:
            self.settle(name, f"its script failed: {error}")
        else:
            async with self.turn:
                await self.take(Answer(name, model))

    async def take(self, answer: Answer) -> None:
        try:
            await anyio.to_thread.run_sync(self.accept, answer)
        except UpdateRefusedError as error:
            self.settle(answer.site, error.reason)
            return
        self.settle(answer.site)
        if len(self.accepted) >= self.patience.min_answers and self.patience.grace is not None:
            self.deadline.deadline = min(self.deadline.deadline, anyio.current_time() + self.patience.grace)

    def settle(self, name: str, problem: str = "") -> None:
        self.open.discard(name)
        if problem:
            self.problems[name] = problem
        else:
            self.accepted.append(name)


def make_server(
    folder: Path, sites: Mapping[str, Site] | LocalSites, *, seed: int = 0, writer: Any = None, **components: object
) -> tuple[Server, list[ServerEvent]]:
    """A server with these sites and components, and the events that it tells."""
    told: list[ServerEvent] = []
    server = Server(
        job="job",
        folder=folder,
        app_folder=folder / "app",
        seed=seed,
        sites=sites if isinstance(sites, LocalSites) else LocalSites(dict(sites)),
        components=components,
        writer=writer,
        in_thread=partial(anyio.to_thread.run_sync),
        tell=told.append,
    )
    return server, told
