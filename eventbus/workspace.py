"""The bus as users meet it: on a workspace folder, with its journal inside.

A workspace holds `journal/` (the log), `blobs/` (the files that events name), `cursors/` (how far each consumer got),
and by default the trackers' own files; `sites/<site>/` holds the same for sites that run in one process with their
server.
"""

from __future__ import annotations

import atexit
import math
import operator
import os
import re
import secrets
import threading
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

import msgspec
from anyio.from_thread import start_blocking_portal

from eventbus import _current
from eventbus._bus import Bus
from eventbus._drain import DRAIN_IDLE_SECONDS, DRAIN_SECONDS, DrainPolicy
from eventbus._event import Origin
from eventbus._exit import last_error, watch_exit
from eventbus._fork import call_in_child, held_by_forks, keep_for_ever
from eventbus._mode import is_disabled
from eventbus._place import make_place
from eventbus._topic import Scope
from eventbus.blobs import BlobQuota, BlobStore, blobs_of
from eventbus.errors import ConfigurationError, WorkspaceError
from eventbus.journals import MemoryJournal, SqliteJournal
from eventbus.journals._bound import FULL_TIMEOUT, MAX_BYTES
from eventbus.journals._partition import new_incarnation

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from eventbus._topic import Selector
    from eventbus.abc import Consumer, LocalJournal

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""What sites, jobs and runs may be called: safe as a folder, a subject and a tracker's id."""

ENVIRONMENT = "TRACKBUS_BUS"
"""Names the bus of a process that trackbus started: JSON with workspace, site, job, rank and run."""

Strength = Literal["process", "durable", "live"]
"""What an event survives: `process` any process of ours that is killed, `durable` a power cut too once its receipt was
awaited, `live` nothing."""

_opening = held_by_forks(threading.Lock())

SERVER = "server"
"""The site that federated records are relayed to."""


class BusAddress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a process publishes, in a form that fits into its environment."""

    workspace: str
    site: str
    job: str
    rank: int = 0
    run: str = ""
    strength: Strength = "process"
    max_bytes: int = MAX_BYTES
    scope: Scope = Scope.LOCAL
    blob_quota: BlobQuota | None = None


def check_name(what: str, name: str) -> str:
    """Return `name` if it is a legal name of a site, job or run.

    Raises:
        ConfigurationError: It is not; the message says what is.
    """
    if not (isinstance(name, str) and NAME.fullmatch(name)):  # pyright: ignore[reportUnnecessaryIsInstance] - callers are not all checked
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
        scope: How far travels what writers of this bus log that name no scope: `LOCAL` stays at the site.
        strength: `process`: when a log call has returned, its event survives `kill -9` of any process of ours.
            `durable`: when its receipt was awaited, it survives a power cut too; a call that nobody awaits costs the
            same. `live`: the journal is in memory, whatever the workspace, and keeps the latest events only: for
            progress views.
        max_bytes: What the journal's folder may take, measured once a second. Near it, the oldest files that every
            consumer has stored make room.
        blob_quota: What the store of pictures, artifacts and other payloads may hold, which lies beside the journal;
            what does not fit is refused, and counted.
        full_timeout: Seconds that a thread waits when it is full, one thread once; then events are refused, and
            counted, until there is room. The bus's own loop never waits.
        drain_idle_timeout: Seconds without progress after which leaving the bus stops waiting.
        drain_timeout: Seconds after which leaving the bus stops waiting in any case.
        journal_dir: Folder on a local disk for the journal, where the workspace is on a network's; a pointer in the
            workspace leads everybody there. By default what `TRACKBUS_JOURNAL_DIR` says.

    Raises:
        ConfigurationError: A name or a number is not legal, the strength is not known or needs a workspace, or the
            environment names an unknown mode.
    """

    def __init__(
        self,
        workspace: str | Path | None = None,
        *,
        site: str = "local",
        job: str | None = None,
        rank: int = 0,
        run: str | None = None,
        scope: Scope = Scope.LOCAL,
        strength: Strength = "process",
        max_bytes: int = MAX_BYTES,
        blob_quota: BlobQuota | None = None,
        full_timeout: float = FULL_TIMEOUT,
        drain_idle_timeout: float = DRAIN_IDLE_SECONDS,
        drain_timeout: float = DRAIN_SECONDS,
        journal_dir: str | Path | None = None,
    ) -> None:
        _check_numbers(
            max_bytes=max_bytes,
            full_timeout=full_timeout,
            drain_idle_timeout=drain_idle_timeout,
            drain_timeout=drain_timeout,
        )
        policy = DrainPolicy(drain_idle_timeout, drain_timeout)
        super().__init__(self._make_journal, policy, durable=strength == "durable")
        folder_name = name_from(Path(workspace).resolve().name) if workspace is not None else "run"
        self.scope = scope
        self._workspace = None if workspace is None or strength == "live" else Path(workspace).resolve()
        self.strength: Strength = _check_strength(strength, self._workspace)
        self._max_bytes = max_bytes
        self._blob_quota = blob_quota
        self._full_timeout = full_timeout
        self._journal_dir = None if journal_dir is None else Path(journal_dir)
        self._is_disabled = is_disabled()
        self.site = check_name("site", site)
        self.job = check_name("job", job) if job else folder_name
        self.rank = _check_rank(rank)
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
        return BusAddress(
            workspace=str(self._workspace),
            site=self.site,
            job=self.job,
            rank=self.rank,
            run=self.run,
            strength=self.strength,
            max_bytes=self._max_bytes,
            scope=self.scope,
            blob_quota=self._blob_quota,
        )

    def _add_consumer(self, selector: Selector, consumer: Consumer) -> None:
        if not self._is_disabled:
            super()._add_consumer(selector, consumer)

    def _make_journal(self) -> LocalJournal:
        origin = Origin(
            site=self.site,
            rank=self.rank,
            incarnation=new_incarnation(),
            job=self.job,
            attempt=_restarts(os.environ.get("TORCHELASTIC_RESTART_COUNT") or "0"),
        )
        if self._workspace is None or self._is_disabled:
            return MemoryJournal(origin)
        _make_writable(self._workspace)
        place = make_place(self._workspace, self._journal_dir)
        return SqliteJournal(
            place.journal,
            origin,
            cursors=place.cursors,
            max_bytes=self._max_bytes,
            full_timeout=self._full_timeout,
        )

    def _open_blobs(self, journal: LocalJournal) -> BlobStore:
        if self._is_disabled:
            return BlobStore(None)
        if journal.folder is None:
            return BlobStore.temporary()
        return BlobStore(blobs_of(journal.folder), self._blob_quota)

    def background(self) -> AbstractContextManager[Self]:
        """Run the bus on a loop in a thread of its own, for a script that has none.

        The body runs in the calling thread; leaving it drains the bus, as `async with` does. A second Ctrl-C, while
        it drains, ends the drain. A bus that is never left is left when the interpreter exits.
        """
        self._background = self._run_in_background()  # kept: a notebook enters it and keeps the bus alone
        return self._background

    @contextmanager
    def _run_in_background(self) -> Generator[Self]:
        with ExitStack() as exits:
            self._exits = exits
            call_in_child(self._stay_behind)
            portal = exits.enter_context(start_blocking_portal(name="trackbus"))
            exits.push(self._hurry)
            exits.enter_context(portal.wrap_async_context_manager(self))
            exits.callback(_current.leave, self, _current.enter(self))
            watch_exit()
            leave = atexit.register(partial(_leave_at_exit, exits))
            exits.callback(atexit.unregister, leave)
            yield self

    def _stay_behind(self) -> None:
        """In a forked child, leaving closes the child's partition alone: loop and thread are its parent's."""
        keep_for_ever(self._exits.pop_all())
        self._exits.callback(self.close)

    def _hurry(self, kind: type[BaseException] | None, *_: object) -> None:
        """Cut the drain short if an interrupt has ended the wait for it."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._drain_policy.cut_short()


def _check_strength(strength: str, workspace: Path | None) -> Strength:
    for known in get_args(Strength):
        if strength == known and (workspace is not None or known != "durable"):
            return known
    msg = f"strength={strength!r}: use 'process', 'live', or with a workspace 'durable'"
    raise ConfigurationError(msg)


def _check_rank(rank: int) -> int:
    """Return a rank as the plain integer that stands in the journal."""
    try:
        whole = int(operator.index(rank))
    except TypeError:
        whole = -1
    if whole < 0:
        msg = f"rank={rank!r}: use a whole number; ranks count from 0"
        raise ConfigurationError(msg)
    return whole


def _check_numbers(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, Real) or math.isnan(value):
            msg = f"{name}={value!r}: use a number, of {'bytes' if name == 'max_bytes' else 'seconds'}"
            raise ConfigurationError(msg)


def _restarts(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        msg = f"TORCHELASTIC_RESTART_COUNT={text!r} is no number of restarts: unset it"
        raise ConfigurationError(msg) from error


def _make_writable(workspace: Path) -> None:
    probe = workspace / f".probe-{secrets.token_hex(4)}"
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        msg = f"the workspace {workspace} can't be written: {error.strerror}; choose another folder with --workspace"
        raise WorkspaceError(msg) from error


def address_of(bus: Bus) -> str:
    """Return the address of a bus as text, for another process; empty for one in memory."""
    return msgspec.json.encode(bus.address).decode() if isinstance(bus, EventBus) and bus.workspace else ""


def bus_at(text: str) -> Bus:
    """Return the bus of an address: one that is open here, else one that this process opens for itself.

    Raises:
        ConfigurationError: The text is no address.
    """
    for bus in _current.open_buses():
        if address_of(bus) == text:
            return bus
    with _opening:
        return _open_bus_at(text)


def _bus_of_environment() -> Bus | None:
    text = os.environ.get(ENVIRONMENT)
    return bus_at(text) if text else None


@cache
def _open_bus_at(text: str) -> Bus:
    """Open it once: a forked child has its parent's bus, and writes a partition of its own on it."""
    try:
        address = msgspec.json.decode(text, type=BusAddress)
    except msgspec.MsgspecError as error:
        msg = f"{ENVIRONMENT} is not the address of a bus: {error}"
        raise ConfigurationError(msg) from error
    bus = EventBus(
        address.workspace,
        site=address.site,
        job=address.job,
        rank=address.rank,
        run=address.run or None,
        strength=address.strength,
        max_bytes=address.max_bytes,
        scope=address.scope,
        blob_quota=address.blob_quota,
    )
    bus.open()
    watch_exit()
    atexit.register(_leave, bus)
    return bus


def _leave(bus: Bus) -> None:
    try:
        bus.stop(last_error())
    finally:
        bus.close()


def _leave_at_exit(exits: ExitStack) -> None:
    error = last_error()
    exits.__exit__(type(error) if error else None, error, None)


_current.set_environment_opener(_bus_of_environment)
