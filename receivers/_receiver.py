"""A receiver: fills one tracker from a bus's journal, in a supervised worker process."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypedDict

import anyio
import anyio.to_thread

from eventbus._place import place_of
from eventbus.abc import Consumer, ConsumerStatistics
from eventbus.errors import ConfigurationError, MissingExtraError, SubscriptionError, WorkspaceError
from eventbus.journals.consumer import DROPPED_OF, ConsumerFile, check_free
from eventbus.workspace import check_name
from receivers._batch import FlushPolicy
from receivers._control import Start
from receivers._layout import LAYOUTS, Layout
from receivers._supervisor import Supervisor
from receivers._watch import Health, WorkerPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventbus.abc import Cursor, Feed
    from receivers.abc import SinkConfig


class ReceiverOptions(TypedDict, total=False):
    """What every receiver takes beside its backend's settings: see `Receiver`."""

    name: str | None
    layout: Layout
    flush: FlushPolicy | None
    worker: WorkerPolicy | None
    python: str | None


class Receiver(Consumer):
    """Base of all receivers.

    Args:
        config: Settings of the backend.
        name: Its name on the bus and the name of its cursor; by default the kind of the backend.
        layout: `per_site` gives every site a run of its own in the tracker, called `<site>-<name>`. `combined` puts all
            sites of a run into one, called `<name>`: the keys of metrics, params, tags, configuration and texts begin
            with `<site>/`, and it ends, as badly as the worst of its sites, with the last of them.
        flush: When batches are written.
        worker: Deadlines of the worker process.
        python: Interpreter of the worker, for an SDK that lives in an environment of its own.

    Raises:
        ConfigurationError: The name is not legal, or there is no such layout.
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
    ) -> None:
        self.config = config
        self.name = check_name("receiver name", name or config.kind)
        if layout not in LAYOUTS:
            raise ConfigurationError(f"layout={layout!r} is not known: use one of {', '.join(LAYOUTS)}")
        self.layout: Layout = layout
        self.flush_policy = flush or self.default_flush
        self.worker_policy = worker or WorkerPolicy()
        self._settled = config
        self._python = python or sys.executable
        self._health = Health()
        self._ready = anyio.Event()

    def check(self, feed: Feed) -> None:
        """Refuse what can't work: a journal in memory, settings that are wrong, a cursor of another destination.

        A cursor that is damaged or gone keeps no training from starting: `consume` fails of it, and the report says so.
        """
        workspace = _workspace(feed, self.name)
        try:
            self.config.check(workspace)
        except MissingExtraError:
            if self._python == sys.executable:  # another interpreter may well have what this one lacks
                raise
        kinds = {one.event_type for one in feed.selectors if one.event_type} | {type(self.config)}
        for kind in kinds:
            _check_importable(kind, self.name)
        if self._ready.is_set():  # it was subscribed on an earlier bus
            self._ready = anyio.Event()
        check_free(place_of(workspace).cursors, self.name, self._destination(workspace))  # before there is a file
        with suppress(WorkspaceError), ConsumerFile(place_of(workspace).cursors, self.name) as file:
            file.claim(self._destination(workspace))

    def _destination(self, workspace: Path) -> str:
        destination = self.config.destination(workspace)
        return destination if self.layout == "per_site" else f"{destination} (combined)"

    async def consume(self, feed: Feed) -> None:
        """Supervise workers until the bus drains.

        Raises:
            WorkspaceError: The cursor is damaged or gone.
        """
        try:
            await self._supervise(feed)
        finally:
            self._ready.set()  # whoever waits for a receiver that has failed would wait for ever

    async def _supervise(self, feed: Feed) -> None:
        self._settled = await anyio.to_thread.run_sync(self.config.settle)
        cursor, counts = await anyio.to_thread.run_sync(self._stored, _workspace(feed, self.name))
        self._health = Health(counts=counts, baseline=dict(counts))
        feed.moved(cursor)
        supervisor = Supervisor(
            feed,
            lambda: self._start_order(feed),
            self.config.environment(),
            self.worker_policy,
            health=self._health,
            ready=self._ready,
            python=self._python,
        )
        await supervisor.run()

    def _stored(self, workspace: Path) -> tuple[Cursor, dict[tuple[str, str], int]]:
        with ConsumerFile(place_of(workspace).cursors, self.name) as file:
            return file.cursor(), file.counts()

    async def ready(self) -> None:
        """Return when the worker has imported its SDK and looked into the journal."""
        await self._ready.wait()

    def statistics(self) -> ConsumerStatistics:
        """Return what the workers did since the subscription."""
        counts = self._health.since_start()
        return ConsumerStatistics(
            delivered=sum(_of_kind(counts, "delivered").values()),
            values=sum(_of_kind(counts, "values").values()),
            dropped=_of_kind(counts, "dropped"),
            altered=_of_kind(counts, "altered"),
            by_site=_of_kind(counts, "delivered"),
            dropped_by_site=_by_site(_of_kind(counts, DROPPED_OF)),
            failed=dict(self._health.failures),
            restarts=self._health.restarts,
            state=self._health.state,
        )

    def look(self, feed: Feed) -> str:
        """Return the command with which a person looks at the result."""
        return self._settled.look(_workspace(feed, self.name))

    def _start_order(self, feed: Feed) -> Start:
        workspace = _workspace(feed, self.name)
        return Start(
            journal=str(feed.journal.folder),
            again=feed.journal.again,
            beside=str(place_of(workspace).journal if feed.journal.again else workspace / "dead" / self.name),
            cursors=str(place_of(workspace).cursors),
            name=self.name,
            partition=feed.journal.origin.partition,
            selectors=[
                (
                    one.pattern,
                    _import_path(one.event_type) if one.event_type else "",
                    one.only and one.only.value,
                    one.sites,
                    one.runs,
                )
                for one in feed.selectors
            ],
            search_path=_own_folders(),
            sink=self.config.sink,
            config_type=_import_path(type(self.config)),
            config=self._settled.model_dump_json(),
            workspace=str(workspace),
            layout=self.layout,
            max_items=self.flush_policy.max_items,
            max_bytes=self.flush_policy.max_bytes,
            max_delay=self.flush_policy.max_delay,
            process_timeout=self.worker_policy.process_timeout,
            orphan_timeout=self.worker_policy.orphan_timeout,
        )


def _workspace(feed: Feed, name: str) -> Path:
    if feed.workspace is None or feed.journal.folder is None:
        msg = (
            f"the receiver {name} reads the journal from its own process, and this bus keeps it in memory; "
            "give the bus a workspace: EventBus('runs/exp1')"
        )
        raise SubscriptionError(msg)
    return feed.workspace


def _import_path(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _check_importable(kind: type, name: str) -> None:
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise SubscriptionError(
            f"the receiver {name} works in a process of its own, which can't import {_import_path(kind)}; "
            "move the class to the top level of a module beside the script"
        )


def _own_folders() -> list[str]:
    """Return where the trainer finds its own modules: the script's folder, no environment's."""
    environments = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    folders = (str(Path(folder or ".").absolute()) for folder in sys.path)
    return [folder for folder in folders if not folder.startswith(environments)]


def _by_site(counts: Mapping[str, int]) -> dict[str, int]:
    sites: Counter[str] = Counter()
    for partition, count in counts.items():
        sites[partition.partition("/")[0]] += count
    return dict(sites)


def _of_kind(counts: dict[tuple[str, str], int], kind: str) -> dict[str, int]:
    return {name: value for (one, name), value in counts.items() if one == kind and value}
