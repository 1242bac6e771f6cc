"""A receiver: fills one tracker from a bus's journal, in a supervised worker process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ClassVar

import anyio

from eventbus.abc import Consumer, ConsumerStatistics
from eventbus.errors import MissingExtraError, SubscriptionError
from eventbus.journals.consumer import ConsumerFile
from eventbus.workspace import check_name
from receivers._batch import FlushPolicy
from receivers._control import Start
from receivers._supervisor import Health, Supervisor, WorkerPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from eventbus.abc import Feed
    from receivers.abc import SinkConfig


class Receiver(Consumer):
    """Base of all receivers.

    Args:
        config: Settings of the backend.
        name: Its name on the bus and the name of its cursor; by default the kind of the backend.
        flush: When batches are written.
        worker: Deadlines of the worker process.
        python: Interpreter of the worker, for an SDK that lives in an environment of its own.

    Raises:
        ConfigurationError: The name is not legal.
    """

    default_flush: ClassVar[FlushPolicy] = FlushPolicy()

    def __init__(
        self,
        config: SinkConfig,
        *,
        name: str | None = None,
        flush: FlushPolicy | None = None,
        worker: WorkerPolicy | None = None,
        python: str | None = None,
    ) -> None:
        self.config = config
        self.name = check_name("receiver name", name or config.kind)
        self.flush_policy = flush or self.default_flush
        self.worker_policy = worker or WorkerPolicy()
        self._python = python or sys.executable
        self._health = Health()
        self._ready = anyio.Event()

    def check(self, feed: Feed) -> None:
        """Refuse what can't work: a journal in memory, settings that are wrong, a cursor of another destination."""
        workspace = _workspace(feed, self.name)
        try:
            self.config.check(workspace)
        except MissingExtraError:
            if self._python == sys.executable:  # another interpreter may well have what this one lacks
                raise
        with ConsumerFile(workspace / "cursors", self.name) as file:
            file.claim(self.config.destination(workspace))

    async def consume(self, feed: Feed) -> None:
        """Supervise workers until the bus drains."""
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
            failed=dict(self._health.failures),
            restarts=self._health.restarts,
            state=self._health.state,
        )

    def look(self, feed: Feed) -> str:
        """Return the command with which a person looks at the result."""
        return self.config.look(_workspace(feed, self.name))

    def _start_order(self, feed: Feed) -> Start:
        workspace = _workspace(feed, self.name)
        return Start(
            journal=str(feed.journal.folder),
            cursors=str(workspace / "cursors"),
            name=self.name,
            partition=feed.journal.origin.partition,
            selectors=[
                (
                    one.pattern,
                    one.event_type.event_name if one.event_type else "",
                    one.only and one.only.value,
                )
                for one in feed.selectors
            ],
            sink=self.config.sink,
            config_type=f"{type(self.config).__module__}:{type(self.config).__qualname__}",
            config=self.config.model_dump_json(),
            workspace=str(workspace),
            max_items=self.flush_policy.max_items,
            max_bytes=self.flush_policy.max_bytes,
            max_delay=self.flush_policy.max_delay,
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


def _of_kind(counts: dict[tuple[str, str], int], kind: str) -> dict[str, int]:
    return {name: value for (one, name), value in counts.items() if one == kind and value}
