"""A receiver: fills one tracker from a bus's journal, in a supervised worker process."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import count as numbers
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypedDict
from weakref import WeakKeyDictionary, WeakSet

import anyio.to_thread

from eventbus._fork import held_by_forks
from eventbus._place import place_of
from eventbus.abc import Consumer, ConsumerStatistics
from eventbus.errors import ConfigurationError, MissingExtraError, SubscriptionError, WorkspaceError
from eventbus.journals._destination import Destination, check_free
from eventbus.journals.consumer import DROPPED_OF, ConsumerFile
from eventbus.workspace import check_name
from receivers._batch import FlushPolicy
from receivers._control import Source, Start
from receivers._joint import Joint, Latch, Member
from receivers._layout import LAYOUTS, Layout
from receivers._rows import part_of
from receivers._supervisor import Supervisor
from receivers._watch import Health, WorkerPolicy

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from eventbus._topic import Selector
    from eventbus.abc import Cursor, Feed
    from receivers.abc import SinkConfig


_buses = numbers(1)
_at_files = held_by_forks(threading.Lock())  # a child must not inherit a process in the midst of SQLite


class ReceiverOptions(TypedDict, total=False):
    """What every receiver takes beside its backend's settings: see `Receiver`."""

    name: str | None
    layout: Layout
    flush: FlushPolicy | None
    worker: WorkerPolicy | None
    python: str | None
    events: Sequence[str] | None


NVFLARE_EVENTS = ("analytix_log_stats", "fed.analytix_log_stats")
"""What NVFLARE calls what is logged at a site, and what of it has come to the server."""


class Receiver(Consumer):
    """Base of all receivers.

    One receiver may be subscribed on several buses, at any time and on any loops: one worker reads all their journals
    into the one tracker. Each bus is left when what its own journal holds is stored, and reports that alone; what the
    worker itself does stands in all reports. The receiver's home is the workspace of the first bus that it is
    subscribed on: its cursor is there, and by default the tracker's files.

    Args:
        config: Settings of the backend.
        name: Its name on the bus and the name of its cursor; by default the kind of the backend.
        layout: `per_site` gives every site a run of its own in the tracker, called `<site>-<name>`. `combined` puts all
            sites of a run into one, called `<name>`: the keys of metrics, params, tags, configuration and texts begin
            with `<site>/`, and it ends, as badly as the worst of its sites, with the last of them.
        flush: When batches are written.
        worker: Deadlines of the worker process.
        python: Interpreter of the worker, for an SDK that lives in an environment of its own.
        events: Accepted, as NVFLARE's jobs have it: where a receiver stands says what it gets.

    Raises:
        ConfigurationError: The name is not legal, or there is no such layout, or no such events.
    """

    default_flush: ClassVar[FlushPolicy] = FlushPolicy()

    def __init__(
        self,
        config: SinkConfig,
        *,
        name: str | None = None,
        layout: Layout = "per_site",
        flush: FlushPolicy | None = None,
        worker: WorkerPolicy | None = None,
        python: str | None = None,
        events: Sequence[str] | None = None,
    ) -> None:
        self.config = config
        self.name = check_name("receiver name", name or config.kind)
        if layout not in LAYOUTS:
            raise ConfigurationError(f"layout={layout!r} is not known: use one of {', '.join(LAYOUTS)}")
        if unknown := set(events or ()).difference(NVFLARE_EVENTS):
            raise ConfigurationError(f"events: unknown {', '.join(sorted(unknown))}; topics are named at subscribe()")
        self.layout: Layout = layout
        self.flush_policy = flush or self.default_flush
        self.worker_policy = worker or WorkerPolicy()
        self._settled = config
        self.python = python or sys.executable
        self._health = Health()
        self._ready = Latch()
        self._joint = Joint(self.name, self._make_supervisor)
        self._home: Path | None = None
        self._journal, self._again = "", False
        self._selectors: Sequence[Selector] = ()
        self._search_path: list[str] = []
        self._subscribed: WeakSet[Feed] = WeakSet()
        self._accounts: WeakKeyDictionary[Feed, _Account] = WeakKeyDictionary()

    def check(self, feed: Feed) -> None:
        """Refuse what can't work: a journal in memory, settings that are wrong, a cursor of another destination.

        A cursor that is damaged or gone keeps no training from starting: `consume` fails of it, and the report says so.
        """
        workspace, journal = _folders(feed, self.name)
        home = self._home or workspace
        try:
            self.config.check(home)
        except MissingExtraError:
            if self.python == sys.executable:  # another interpreter may well have what this one lacks
                raise
        kinds = {one.event_type for one in feed.selectors if one.event_type} | {type(self.config)}
        for kind in kinds:
            check_importable(kind, self.name)
        self._check_selectors(feed)
        cursors, destination = place_of(workspace).cursors, self._destination(home, workspace)
        check_free(cursors, self.name, destination)  # before there is a file
        with _at_files, suppress(WorkspaceError), ConsumerFile(cursors, self.name) as file:
            file.claim(destination)
        if not self._subscribed:
            self._selectors, self._ready = feed.selectors, Latch()
            self._search_path = _own_folders((*kinds, type(self)))  # once: the working directory may change
        if not self._subscribed and workspace == home:
            self._home, self._journal, self._again = home, str(journal), feed.journal.again
        self._subscribed.add(feed)

    def _check_selectors(self, feed: Feed) -> None:
        if self._subscribed and list(feed.selectors) != list(self._selectors):
            raise SubscriptionError(
                f"the receiver {self.name} is subscribed to something else on another bus, and one worker serves both; "
                "subscribe it to the same, or make another receiver"
            )

    def _destination(self, home: Path, workspace: Path) -> Destination:
        line = self.config.destination(home)
        if self.layout != "per_site":
            line += f" ({self.layout})"
        if workspace != home:
            line += f", with its cursor in {home}"
        return Destination.of(line, home, workspace)

    async def consume(self, feed: Feed) -> None:
        """Have a worker deliver until the bus drains: the same one for all buses that the receiver is subscribed on.

        Raises:
            WorkspaceError: The cursor is damaged or gone.
        """
        try:
            await self._serve(feed)
        finally:
            self._subscribed.discard(feed)
            if not self._subscribed:
                self._ready.set()  # whoever waits for a receiver that has failed would wait for ever

    async def _serve(self, feed: Feed) -> None:
        workspace, journal = _folders(feed, self.name)
        home = self._home or workspace
        settled = await anyio.to_thread.run_sync(self.config.settle)
        cursor, counts = await anyio.to_thread.run_sync(self._stored, home)
        cursors = "" if workspace == home else str(place_of(workspace).cursors)
        source = Source(next(_buses), str(journal), feed.journal.origin.partition, cursors)
        self._accounts[feed] = _Account(source.label, part_of(counts, source.label))
        feed.moved(cursor)

        def begin() -> None:
            self._settled, self._health = settled, Health(counts=counts, baseline=dict(counts))

        await self._joint.serve(feed, Member(source, feed.journal), begin)

    def _stored(self, home: Path) -> tuple[Cursor, dict[tuple[str, str], int]]:
        with _at_files, ConsumerFile(place_of(home).cursors, self.name) as file:
            return file.cursor(), file.counts()

    def _make_supervisor(self, joint: Joint) -> Supervisor:
        return Supervisor(
            joint,
            lambda: self._start_order(joint),
            self.config.environment(),
            self.worker_policy,
            health=self._health,
            ready=self._ready,
            python=self.python,
        )

    async def ready(self) -> None:
        """Return when the worker has imported its SDK and looked into the journal."""
        await self._ready.wait()

    def statistics(self) -> ConsumerStatistics:
        """Return what the workers did since the subscription, for all buses together."""
        return self._statistics(self._health.since_start())

    def statistics_of(self, feed: Feed) -> ConsumerStatistics:
        """Return the same for the records of one bus's journal; failures, restarts and the state are the worker's."""
        account = self._accounts.get(feed)
        if account is None:
            return ConsumerStatistics()
        now = part_of(self._health.counts, account.label)
        counts = {key: value - account.before[key] for key, value in now.items()}
        return self._statistics(counts, {"", *_of_kind(counts, "delivered")})

    def _statistics(
        self, counts: Mapping[tuple[str, str], int], sites: Container[str] | None = None
    ) -> ConsumerStatistics:
        runs = self._health.runs.copy().items()  # in one step: the supervisor's thread adds to it
        return ConsumerStatistics(
            delivered=sum(_of_kind(counts, "delivered").values()),
            values=sum(_of_kind(counts, "values").values()),
            dropped=_of_kind(counts, "dropped"),
            altered=_of_kind(counts, "altered"),
            by_site=_of_kind(counts, "delivered"),
            dropped_by_site=_by_site(_of_kind(counts, DROPPED_OF)),
            failed=dict(self._health.failures),
            runs={"/".join(filter(None, key)): run for key, run in runs if sites is None or key[0] in sites},
            restarts=self._health.restarts,
            state=self._health.state,
        )

    def look(self, feed: Feed) -> str:
        """Return the command with which a person looks at the result."""
        return self._settled.look(self._home or _folders(feed, self.name)[0])

    def _start_order(self, joint: Joint) -> Start:
        home = self._home or Path()
        place = place_of(home)
        return Start(
            journal=self._journal,
            again=self._again,
            beside=str(place.journal if self._again else home / "dead" / self.name),
            sources=[member.source for member in joint.members()],
            cursors=str(place.cursors),
            name=self.name,
            selectors=[
                (
                    one.pattern,
                    import_path(one.event_type) if one.event_type else "",
                    one.only and one.only.value,
                    one.sites,
                    one.runs,
                )
                for one in self._selectors
            ],
            search_path=self._search_path,
            sink=self.config.sink,
            config_type=import_path(type(self.config)),
            config=self._settled.model_dump_json(),
            workspace=str(home),
            layout=self.layout,
            max_items=self.flush_policy.max_items,
            max_bytes=self.flush_policy.max_bytes,
            max_delay=self.flush_policy.max_delay,
            process_timeout=self.worker_policy.process_timeout,
            orphan_timeout=self.worker_policy.orphan_timeout,
        )


@dataclass(frozen=True, slots=True)
class _Account:
    """Which part of the counts is a bus's, and what it was when the receiver was subscribed on it."""

    label: str
    before: Counter[tuple[str, str]]


def _folders(feed: Feed, name: str) -> tuple[Path, Path]:
    """Return the workspace of a bus and the folder of its journal."""
    if feed.workspace is None or feed.journal.folder is None:
        msg = (
            f"the receiver {name} reads the journal from its own process, and this bus keeps it in memory; "
            "give the bus a workspace, and another strength than 'live': EventBus('runs/exp1')"
        )
        raise SubscriptionError(msg)
    return feed.workspace, feed.journal.folder


def import_path(kind: type) -> str:
    """Return by what another process finds a class: `module:Class`."""
    return f"{kind.__module__}:{kind.__qualname__}"


def check_importable(kind: type, name: str) -> None:
    """Refuse a class that the worker of the receiver `name` can't import, and say what to do.

    Raises:
        SubscriptionError: It is the script's own, or made within a function.
    """
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise SubscriptionError(
            f"the receiver {name} works in a process of its own, which can't import {import_path(kind)}; "
            "move the class to the top level of a module beside the script"
        )


def _own_folders(kinds: Iterable[type]) -> list[str]:
    """Return where the trainer finds its own modules, now: the script's folder and those of some classes.

    No environment's: another interpreter has its own.
    """
    environments = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    folders = [Path(folder or ".").absolute() for folder in sys.path]
    folders += [folder for kind in kinds if (folder := _folder_of(kind.__module__)) is not None]
    return [folder for folder in dict.fromkeys(map(str, folders)) if not folder.startswith(environments)]


def _folder_of(module: str) -> Path | None:
    """Return the folder in which a module was found; the working directory may be another one since."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    depth = module.count(".") + (Path(file).name == "__init__.py")
    return Path(file).absolute().parents[depth]


def _by_site(counts: Mapping[str, int]) -> dict[str, int]:
    sites: Counter[str] = Counter()
    for partition, count in counts.items():
        sites[partition.partition("/")[0]] += count
    return dict(sites)


def _of_kind(counts: Mapping[tuple[str, str], int], kind: str) -> dict[str, int]:
    return {name: value for (one, name), value in counts.items() if one == kind and value > 0}
