"""Fills trackers from a journal that lies on disk: one that was not there at the time, or one that is late.

The ordinary workers do it, from cursors of their own, so a tracker's content is what a live receiver would have
stored, and running a replay again goes on where the one before it stopped. The journal is only read.

What a tracker refused lies in `<workspace>/dead/<receiver>`, a journal of its own. Replaying that, once the cause is
mended, is the work of the receiver itself, under its own name and beside its own position, so the records go into the
runs that have the others, as further rows:

| Tracker | Where they go |
| --- | --- |
| MLflow | into the same run, found by its tag |
| TensorBoard | a further event file in the run's folder |
| W&B | offline a further folder of the same run id, which `wandb sync` appends; online the same run |
| JSON lines | behind the lines of the run's file; their `partition` ends with `-again` |

A run that had ended ends again as it ended. A record that is refused once more is counted as dropped, and no later
replay tries it again: `count_refused_again` says how many there are.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec

from eventbus import Report
from eventbus._codec import read_frame
from eventbus._drain import DrainPolicy, drain
from eventbus._event import AGAIN
from eventbus._feed import COUNT_RECORDS, ConsumerFeed
from eventbus._place import place_of
from eventbus._report import Line
from eventbus._topic import Selector
from eventbus.errors import ConfigurationError, DecodeError, WorkspaceError
from eventbus.journals._partition import partition_files
from eventbus.journals.consumer import ConsumerFile
from eventbus.journals.read_only import ReadOnlyJournal
from eventbus.tracking import TRACKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventbus.abc import Cursor, StoredRecord
    from receivers._receiver import Receiver

PREFIX = "replay-"
"""What the name of a replay's cursor begins with, unless it goes on with a receiver's own."""

IDLE_SECONDS = 60.0
"""A replay ends after so long without progress: a fresh MLflow store alone takes up to 20 s to create."""

LOOK_SECONDS = 0.2
"""How often progress is told."""

_SHOWN = "shown"
_ALL = msgspec.json.encode(((), ()))


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a journal a replay stores; all of it by default. A part needs a cursor of its own.

    Attributes:
        sites: Names of sites, or none for all.
        runs: Ids of runs, or none for all.
        after: Where a new cursor begins, by partition; one that is not named is read from its start.
    """

    sites: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    after: Mapping[str, int] | None = None

    @property
    def is_all(self) -> bool:
        """Whether nothing is left out."""
        return not (self.sites or self.runs or self.after)


@dataclass(frozen=True, slots=True)
class Source:
    """What is replayed.

    Attributes:
        journal: The folder of its partitions.
        workspace: The workspace that it belongs to; None for a folder that is in none.
        receiver: For dead letters: the receiver that they are of.
    """

    journal: Path
    workspace: Path | None
    receiver: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one receiver is.

    Attributes:
        name: The receiver.
        stored: Events that it stored.
        done: Records that it is done with, by their numbers.
        total: How many that will be.
    """

    name: str
    stored: int
    done: int
    total: int


def find_source(path: Path | str) -> Source:
    """Return the journal that a path means: a workspace, a journal's folder, or a receiver's dead letters.

    Raises:
        WorkspaceError: There is none.
    """
    path = Path(path).resolve()
    if (journal := place_of(path).journal).is_dir():
        return Source(journal, path)
    if not (path.name == "journal" and path.is_dir()) and not any(partition_files(path)):
        raise WorkspaceError(
            f"{path} holds no journal; name a workspace, such as runs/demo, or dead letters: runs/demo/dead/mlflow"
        )
    if path.parent.name == "dead" and place_of(path.parent.parent).journal.is_dir():
        return Source(path, path.parent.parent, path.name)
    return Source(path, path.parent if path.name == "journal" else None)


async def replay(
    path: Path | str,
    receivers: Sequence[Receiver],
    *,
    workspace: Path | None = None,
    part: Part | None = None,
    idle_timeout: float = IDLE_SECONDS,
    on_progress: Callable[[Progress], object] = lambda _: None,
) -> Report:
    """Store what a journal holds in trackers, and return when all is stored or nothing moves any more.

    Args:
        path: A workspace, a journal's folder, or a receiver's dead letters.
        receivers: What to fill. Their names are those of their cursors: one of an earlier replay goes on, and so does
            one of a receiver of the workspace, which has no worker meanwhile.
        workspace: Where cursors, logs and by default the trackers' files go; that of the journal by default.
        part: Which part of the journal; all of it by default.
        idle_timeout: Seconds without progress after which it ends.
        on_progress: Told how far each receiver is, some times a second; it must be quick, and not raise.

    Returns:
        What became of the events; `published` is what the journal holds, `left` what is not stored.

    Raises:
        WorkspaceError: There is no journal, or the workspace can't be written.
        ConfigurationError: The names, the workspace or the part don't go together, the journal holds nothing of a site
            or run, or a tracker's settings can't work.
        SubscriptionError: The destination is filled by another receiver, or a cursor belongs to another one.
    """
    source, part = find_source(path), part or Part()
    target = (workspace or source.workspace or Path()).resolve()
    _check(source, receivers, workspace, part)
    selector = Selector(TRACKING.name, TRACKING.event_type, sites=part.sites, runs=part.runs)
    with closing(ReadOnlyJournal(source.journal, again=bool(source.receiver))) as journal:
        await _refuse_unknown(journal, part)
        feeds = [ConsumerFeed((selector,), one, journal, target, lambda _: None) for one in receivers]
        for feed, receiver in zip(feeds, receivers, strict=True):
            receiver.check(feed)
            feed.moved(await anyio.to_thread.run_sync(_begin, place_of(target).cursors, receiver.name, part))
        return await _run(feeds, receivers, journal, DrainPolicy(idle_timeout, float("inf")), on_progress)


def _check(source: Source, receivers: Sequence[Receiver], workspace: Path | None, part: Part) -> None:
    if source.workspace is None and workspace is None:
        raise ConfigurationError(f"{source.journal} is in no workspace: say where the trackers' files go (workspace=)")
    for one in receivers:
        if source.receiver and one.name != source.receiver:
            raise ConfigurationError(
                f"these are dead letters of the receiver {source.receiver!r}, and go into the runs that it fills: "
                f"name={source.receiver!r}, not {one.name!r}"
            )
        if source.receiver and not part.is_all:
            raise ConfigurationError("dead letters are replayed as a whole")
        if not part.is_all and not one.name.startswith(PREFIX):
            raise ConfigurationError(
                f"a cursor that leaves events out is no receiver's: name={PREFIX + one.name!r}, not {one.name!r}"
            )
    if source.receiver and workspace is not None and workspace.resolve() != source.workspace:
        raise ConfigurationError("dead letters go into the runs that lack them: leave the workspace as it is")


async def _refuse_unknown(journal: ReadOnlyJournal, part: Part) -> None:
    """Refuse a site or a run that the journal does not hold: a cursor that was begun for it would be of no use."""
    if not (part.sites or part.runs):
        return
    sites, runs, cursor = set[str](), set[str](), dict[str, int]()
    while not (sites.issuperset(part.sites) and runs.issuperset(part.runs)):
        records = await journal.read(cursor, COUNT_RECORDS)
        if not records:
            missing = [one for one in (*part.sites, *part.runs) if one not in sites | runs]
            raise ConfigurationError(
                f"the journal holds nothing of {', '.join(missing)}; its sites are {', '.join(sorted(sites))}"
            )
        sites.update(record.header.origin.site for record in records)
        runs.update(one for one in map(_run_of, records) if one in part.runs)
        cursor.update({record.header.key: record.seq for record in records})


def _run_of(record: StoredRecord) -> str:
    with suppress(DecodeError):
        return read_frame(record.body).run or record.header.origin.own_run
    return ""


def _begin(cursors: Path, name: str, part: Part) -> Cursor:
    """Set a new cursor to its start, and return where it stands; one that was begun never shows something else."""
    shown = msgspec.json.encode((part.sites, part.runs))
    with ConsumerFile(cursors, name) as file:
        if not file.cursor() and file.noted(_SHOWN) is None:
            file.note(_SHOWN, shown)
            file.move(part.after or {})
        if (known := file.noted(_SHOWN) or _ALL) != shown:
            raise ConfigurationError(
                f"the cursor {name!r} was begun for other sites or runs ({known.decode()}): replay these under another "
                "name and into another destination"
            )
        return file.cursor()


def count_refused_again(source: Source) -> int:
    """Count the dead letters that were refused once more when they were replayed; 0 for any other journal."""
    if source.workspace is None or not source.receiver:
        return 0
    with ConsumerFile(source.workspace / "cursors", source.receiver) as file:
        return sum(partition.endswith(AGAIN) for partition, _ in file.dead())


async def _run(
    feeds: Sequence[ConsumerFeed],
    receivers: Sequence[Receiver],
    journal: ReadOnlyJournal,
    policy: DrainPolicy,
    on_progress: Callable[[Progress], object],
) -> Report:
    ends = await journal.ends()
    drained, lines = False, dict[str, Line]()
    async with anyio.create_task_group() as tasks:
        for feed in feeds:
            feed.begin_drain()
            tasks.start_soon(feed.run)
        tasks.start_soon(_tell, feeds, ends, on_progress)
        drained, lines = await drain((), feeds, policy)
        tasks.cancel_scope.cancel()
    return Report(await journal.count(), {}, tuple(lines[one.name] for one in receivers), drained)


async def _tell(feeds: Sequence[ConsumerFeed], ends: Cursor, on_progress: Callable[[Progress], object]) -> None:
    totals: dict[str, int] = {}
    while True:
        for feed in feeds:
            lag = feed.lag(ends)
            total = totals.setdefault(feed.name, lag)
            on_progress(Progress(feed.name, feed.statistics().delivered, total - lag, total))
        await anyio.sleep(LOOK_SECONDS)
