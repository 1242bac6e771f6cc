"""The bus as users meet it: on a workspace folder, with its journal inside.

A workspace holds `journal/` (the log), `cursors/` (how far each consumer got), and by default the trackers' own files;
`sites/<site>/` holds the same for sites that run in one process with their server.
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import sys
import threading
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec
from anyio.from_thread import start_blocking_portal

from eventbus import _current
from eventbus._bus import Bus
from eventbus._drain import DRAIN_IDLE_SECONDS, DRAIN_SECONDS, DrainPolicy
from eventbus._event import Origin
from eventbus._mode import is_disabled
from eventbus._place import make_place
from eventbus.errors import ConfigurationError, WorkspaceError
from eventbus.journals import MemoryJournal, SqliteJournal
from eventbus.journals._partition import new_incarnation

if TYPE_CHECKING:
    from collections.abc import Generator

    from eventbus._topic import Selector
    from eventbus.abc import Consumer, LocalJournal

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""What sites, jobs and runs may be called: safe as a folder, a subject and a tracker's id."""

ENVIRONMENT = "TRACKBUS_BUS"
"""Names the bus of a process that trackbus started: JSON with workspace, site, job, rank and run."""

_opening = threading.Lock()

SERVER = "server"
"""The site that federated records are relayed to."""


class BusAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process publishes, in a form that fits into its environment."""

    workspace: str
    site: str
    job: str
    rank: int = 0
    run: str = ""


def check_name(what: str, name: str) -> str:
    """Return `name` if it is a legal name of a site, job or run.

    Raises:
        ConfigurationError: It is not; the message says what is.
    """
    if not NAME.fullmatch(name):
        msg = (
            f"{what} {name!r} is not a name: use 1 to 63 letters, digits, '_' and '-', beginning with a letter or digit"
        )
        raise ConfigurationError(msg)
    return name


def name_from(text: str) -> str:
    """Make a legal name of any text."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:50] or "run"


class EventBus(Bus):
    """A bus on a workspace folder.

    With `TRACKBUS_MODE=disabled` in the environment it is one in memory, and starts no receiver and no relay.

    Args:
        workspace: The folder; made if missing. None keeps the journal in memory: nothing survives the process.
        site: Name of this site; `server` is the site that others relay to.
        job: Name of the job; by default the folder's name.
        rank: Rank of this process within its site.
        run: Id of the run that writers of this bus log to; by default `<job>-<4 random>` per opening.
        drain_idle_timeout: Seconds without progress after which leaving the bus stops waiting.
        drain_timeout: Seconds after which leaving the bus stops waiting in any case.
        journal_dir: Folder on a local disk for the journal, where the workspace is on a network's; a pointer in the
            workspace leads everybody there. By default what `TRACKBUS_JOURNAL_DIR` says.

    Raises:
        ConfigurationError: A name is not legal, or the environment names an unknown mode.
    """

    def __init__(
        self,
        workspace: str | Path | None = None,
        *,
        site: str = "local",
        job: str | None = None,
        rank: int = 0,
        run: str | None = None,
        drain_idle_timeout: float = DRAIN_IDLE_SECONDS,
        drain_timeout: float = DRAIN_SECONDS,
        journal_dir: str | Path | None = None,
    ) -> None:
        super().__init__(self._make_journal, DrainPolicy(drain_idle_timeout, drain_timeout))
        self._workspace = None if workspace is None else Path(workspace).resolve()
        self._journal_dir = None if journal_dir is None else Path(journal_dir)
        folder_name = name_from(self._workspace.name) if self._workspace else "run"
        self._is_disabled = is_disabled()
        self.site = check_name("site", site)
        self.job = check_name("job", job) if job else folder_name
        if rank < 0:
            msg = f"rank {rank} is negative; ranks count from 0"
            raise ConfigurationError(msg)
        self.rank = rank
        self.run = check_name("run", run) if run else f"{self.job[:58]}-{secrets.token_hex(2)}"

    @property
    def workspace(self) -> Path | None:
        """The folder of the bus, or None if its journal is in memory."""
        return None if self._is_disabled else self._workspace

    @property
    def address(self) -> BusAddress:
        """What a process that this one starts needs to publish on the same workspace.

        Raises:
            ConfigurationError: The bus has no workspace.
        """
        if self._workspace is None:
            msg = "a bus in memory has no address; give it a workspace"
            raise ConfigurationError(msg)
        return BusAddress(workspace=str(self._workspace), site=self.site, job=self.job, rank=self.rank, run=self.run)

    def _add_consumer(self, selector: Selector, consumer: Consumer) -> None:
        if not self._is_disabled:
            super()._add_consumer(selector, consumer)

    def _make_journal(self) -> LocalJournal:
        origin = Origin(
            site=self.site,
            rank=self.rank,
            incarnation=new_incarnation(),
            job=self.job,
            attempt=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
        )
        if self._workspace is None or self._is_disabled:
            return MemoryJournal(origin)
        _make_writable(self._workspace)
        place = make_place(self._workspace, self._journal_dir)
        return SqliteJournal(place.journal, origin, cursors=place.cursors)

    @contextmanager
    def background(self) -> Generator[Self]:
        """Run the bus on a loop in a thread of its own, for a script that has none.

        The body runs in the calling thread; leaving it drains the bus, as `async with` does. A second Ctrl-C, while
        it drains, ends the drain. A bus that is never left is left when the interpreter exits.
        """
        with ExitStack() as exits:
            portal = exits.enter_context(start_blocking_portal(name="trackbus"))
            exits.push(self._hurry)
            exits.enter_context(portal.wrap_async_context_manager(self))
            exits.callback(_current.leave, self, _current.enter(self))
            leave = atexit.register(partial(_leave_at_exit, exits))
            exits.callback(atexit.unregister, leave)
            yield self

    def _hurry(self, kind: type[BaseException] | None, *_: object) -> None:
        """Cut the drain short if an interrupt has ended the wait for it."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._drain_policy.cut_short()


def _make_writable(workspace: Path) -> None:
    probe = workspace / f".probe-{secrets.token_hex(4)}"
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        msg = f"the workspace {workspace} can't be written: {error.strerror}; choose another folder with --workspace"
        raise WorkspaceError(msg) from error


def _bus_of_environment() -> Bus | None:
    with _opening:
        return _open_bus_of_environment(os.getpid())


@cache
def _open_bus_of_environment(_pid: int) -> Bus | None:
    """Open it once per process: a forked child writes a partition of its own."""
    text = os.environ.get(ENVIRONMENT)
    if not text:
        return None
    try:
        address = msgspec.json.decode(text, type=BusAddress)
    except msgspec.MsgspecError as error:
        msg = f"{ENVIRONMENT} is not the address of a bus: {error}"
        raise ConfigurationError(msg) from error
    bus = EventBus(address.workspace, site=address.site, job=address.job, rank=address.rank, run=address.run or None)
    bus.open()
    atexit.register(_leave, bus)
    return bus


def _leave(bus: Bus) -> None:
    try:
        bus.stop(_last_error())
    finally:
        bus.close()


def _leave_at_exit(exits: ExitStack) -> None:
    error = _last_error()
    exits.__exit__(type(error) if error else None, error, None)


def _last_error() -> BaseException | None:
    """Return what the interpreter is ending with, if it is an error."""
    return getattr(sys, "last_value", None)


_current.set_environment_opener(_bus_of_environment)
