"""What a bus does at this moment, cheap enough to ask at any time from any thread."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from eventbus._report import Report, align
from eventbus._subscription import HandlerStatistics
from eventbus.abc import ConsumerStatistics
from eventbus.blobs import BlobQuota

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventbus._report import Line
    from eventbus._routing import Router
    from eventbus.abc import Cursor, LocalJournal
    from eventbus.blobs import BlobStore

SIZE_SECONDS = 1.0
"""How long a folder's size is believed: adding it up costs a look at every file."""


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """What a bus does at this moment. `str(statistics)` is a table.

    Attributes:
        published: Events taken by the journal, words of health included.
        refused: Events that the journal could not take, by cause.
        journal_bytes: Room that the journal's files take, at most a second ago; 0 in memory.
        blobs: Files that the events name, in the store beside the journal; others' are counted once a minute.
        blob_bytes: Room that these take.
        journal_max_bytes: What the journal may take; 0 in memory, where it is bounded by its records.
        blob_quota: What the store may hold.
        handlers: Counts of each handler, by name.
        consumers: Counts of each receiver and relay, by name.
    """

    published: int
    refused: dict[str, int]
    journal_bytes: int
    blobs: int = 0
    blob_bytes: int = 0
    journal_max_bytes: int = 0
    blob_quota: BlobQuota = field(default_factory=BlobQuota)
    handlers: dict[str, HandlerStatistics] = field(default_factory=dict[str, HandlerStatistics])
    consumers: dict[str, ConsumerStatistics] = field(default_factory=dict[str, ConsumerStatistics])

    def __str__(self) -> str:
        refused = "".join(f", {count} refused ({cause})" for cause, count in self.refused.items())
        head = f"{self.published} events published{refused}; {self.journal_bytes} bytes of journal"
        head += f" (at most {self.journal_max_bytes})" if self.journal_max_bytes else ""
        head += f", {self.blob_bytes} of {self.blobs} payloads (at most {self.blob_quota.bytes})" if self.blobs else ""
        rows = [("subscription", "delivered", "waiting", "dropped", "failed", "")]
        rows += [_consumer_row(name, one) for name, one in self.consumers.items()]
        rows += [_handler_row(name, one) for name, one in self.handlers.items()]
        return "\n".join([head, *align(rows)])


def _consumer_row(name: str, one: ConsumerStatistics) -> tuple[str, ...]:
    causes = [f"{count} {cause}" for cause, count in {**one.dropped, **one.altered}.items()]
    restarts = [f"{one.restarts} restarts"] if one.restarts else []
    figures = (one.delivered, one.lag, sum(one.dropped.values()), sum(one.failed.values()))
    return name, *map(str, figures), "; ".join([one.state, *restarts, *causes])


def _handler_row(name: str, one: HandlerStatistics) -> tuple[str, ...]:
    return name, *map(str, (one.delivered, one.queued, one.dropped, one.failed)), "handler"


class Observer:
    """Looks at a bus from outside: at its journal and its subscriptions."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._size = FolderSize()

    def report(
        self,
        journal: LocalJournal | None,
        refused: Mapping[str, int],
        finals: Mapping[str, Line],
        *,
        drained: bool,
        told: int,
    ) -> Report:
        """Return what became of the events; `finals` are the lines of consumers that have ended.

        What the others have not stored yet is `left`, by its numbers: also what nobody wants of it.
        """
        ends = self._ends(journal)
        handlers = (one.line() for one in self._router.subscriptions)
        consumers = (finals.get(feed.name) or feed.line(left=feed.lag(ends)) for feed in self._router.feeds)
        published = journal.last_seq if journal else 0
        notes = tuple(journal.notes) if journal else ()
        lost = journal.lost if journal else {}
        return Report(published, dict(refused), (*consumers, *handlers), drained, told, notes, lost)

    def look(self, journal: LocalJournal | None, refused: Mapping[str, int], store: BlobStore) -> BusStatistics:
        """Return the counts of this moment."""
        ends = self._ends(journal)
        return BusStatistics(
            published=journal.last_seq if journal else 0,
            refused=dict(refused),
            journal_bytes=self._size.of(journal.folder) if journal else 0,
            blobs=store.usage.count,
            blob_bytes=store.usage.bytes,
            journal_max_bytes=journal.max_bytes if journal else 0,
            blob_quota=store.quota,
            handlers={one.name: one.statistics() for one in self._router.subscriptions},
            consumers={feed.name: replace(feed.statistics(), lag=feed.lag(ends)) for feed in self._router.feeds},
        )

    def _ends(self, journal: LocalJournal | None) -> Cursor:
        """Return the last sequences of what was published and relayed here."""
        ends = dict(self._router.relayed)
        if journal is not None and journal.last_seq:
            ends[journal.header.key] = journal.last_seq
        return ends


class FolderSize:
    """Adds up the sizes of a folder's files, once per `SIZE_SECONDS` at most; legal from any thread."""

    def __init__(self) -> None:
        self._bytes = 0
        self._until = 0.0

    def of(self, folder: Path | None) -> int:
        """Return the bytes below a folder, 0 for none; always ask about the same one."""
        now = time.monotonic()
        if folder is not None and now >= self._until:
            self._until = now + SIZE_SECONDS
            self._bytes = sum(size for _, size in file_sizes(folder))
        return self._bytes


def file_sizes(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield all files below a folder with their bytes; what vanishes meanwhile is left out."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from file_sizes(path)
                continue
            with suppress(OSError):
                yield path, entry.stat(follow_symlinks=False).st_size
