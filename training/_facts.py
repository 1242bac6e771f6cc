"""What can be seen of a workspace from outside, while its processes work or after they died. Only reads."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from eventbus._blob_files import blobs_of, kept
from eventbus._codec import read_frame
from eventbus._place import place_of
from eventbus._statistics import file_sizes
from eventbus.errors import DecodeError, WorkspaceError
from eventbus.health import HEALTH, CircuitClosed, CircuitOpened, WorkerLost, WorkerRecovered
from eventbus.journals._look import count_after, holder, look_at_consumer, open_unchanged
from eventbus.journals._partition_reader import PartitionReader
from eventbus.journals._reader import JournalReader
from receivers._processes import marked_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from eventbus.abc import StoredRecord

T = TypeVar("T")

RATE_SECONDS = 10.0
"""Events per second are those of so many last seconds."""

RATE_RECORDS = 1000
"""So many last records of a partition are looked at for its rate."""

HEALTH_RECORDS = 20_000
"""Words of health are looked for in so many last records of a partition: looking at all would take too long."""

HEALTH_PARTITIONS = 8
"""... of so many newest partitions."""

LOG_BYTES = 4096
"""The last line of a worker's log is looked for in so many last bytes."""

_MENTIONS = "SELECT body FROM records WHERE seq > ? AND instr(body, ?) ORDER BY seq"

FILES_OF_A_JOURNAL = (".db", ".db-wal", ".db-shm", ".lock", ".new")


class PartitionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One partition.

    Attributes:
        key: What names it.
        site: Who wrote it.
        events: How many it holds.
        state: How its writer stands: `being written`, `ended`, `broken off`; a relayed one also `waits for more`, and
            one that can't be read is `damaged`.
        pid: The process that writes it, 0 where the system does not say; None if nobody does.
        per_second: Events of the last seconds, per second.
    """

    key: str
    site: str
    events: int
    state: str
    pid: int | None
    per_second: float


class HealthWord(msgspec.Struct, frozen=True, kw_only=True):
    """What the bus or a receiver said of its health.

    Attributes:
        time_ns: When.
        type: Which health event.
        fields: What it says.
    """

    time_ns: int
    type: str
    fields: dict[str, object]

    def __str__(self) -> str:
        return f"{self.type} " + " ".join(f"{key}={value}" for key, value in self.fields.items())


class ConsumerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer: a receiver, a replay or a relay.

    Attributes:
        name: Its name.
        destination: Where its data go; empty for a relay.
        stored: Events stored, by site. A relay's file tells only where it is: this is empty then, as is `dropped`.
        waiting: Records that it has not stored yet.
        oldest_seconds: Age of the oldest of them, in seconds.
        dropped: Events given up, by cause.
        dead: Events that were put aside since the tracker can't store them.
        unfinished: Batches that were begun, but are not known to be stored.
        worker: pid of its worker; 0 where the system does not say, None if there is none.
        starting: pids of workers that start or stand by.
        restarts: How often its worker was lost since the bus was entered, as far as recent events tell.
        trouble: What it last said of its health, if that was bad.
        log: Last line of its worker's log.
    """

    name: str
    destination: str
    stored: dict[str, int]
    waiting: int
    oldest_seconds: float
    dropped: dict[str, int]
    dead: int
    unfinished: int
    worker: int | None
    starting: list[int]
    restarts: int
    trouble: str
    log: str


class WorkspaceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace as it stands.

    Attributes:
        workspace: Its folder.
        bytes: Room that the journal takes.
        files: How many files it has.
        blobs: How many files its events name, in the store beside it.
        blob_bytes: Room that these take.
        partitions: One per process that wrote to it.
        consumers: Who reads it.
        damaged: Why a file can't be read, by its path.
        put_aside: Files in the journal's folder that are not part of it: quarantined ones.
        health: The newest words of health, oldest first.
    """

    workspace: str
    bytes: int
    files: int
    blobs: int
    blob_bytes: int
    partitions: list[PartitionStatus]
    consumers: list[ConsumerStatus]
    damaged: dict[str, str]
    put_aside: list[str]
    health: list[HealthWord]

    @property
    def events(self) -> int:
        """Events in the journal."""
        return sum(one.events for one in self.partitions)


def workspaces(path: Path) -> list[Path]:
    """Return a workspace and those of the sites in it.

    Raises:
        WorkspaceError: It is none.
    """
    if not (path.is_dir() and place_of(path).journal.is_dir()):
        raise WorkspaceError(f"{path} is not a workspace: it has no journal; name a folder such as runs/demo")
    return [path, *sorted(one for one in (path / "sites").glob("*") if place_of(one).journal.is_dir())]


def look_at(workspace: Path) -> WorkspaceStatus:
    """Look at one workspace; a consumer's file that can't be read is damaged, and keeps nobody from seeing the rest."""
    folder = place_of(workspace).journal
    sizes = dict(file_sizes(folder))
    blobs = [found.st_size for _, found in kept(blobs_of(folder))]
    with closing(JournalReader(folder, open_unchanged)) as reader:
        health = sorted(_health(reader.partitions()), key=lambda word: word.time_ns)
        consumers, unreadable = list[ConsumerStatus](), dict[str, str]()
        for path in _consumer_files(workspace):
            try:
                consumers.append(_consumer(workspace, path, reader, health))
            except WorkspaceError as error:
                unreadable[str(path)] = str(error.__cause__)
        return WorkspaceStatus(
            workspace=str(workspace),
            bytes=sum(sizes.values()),
            files=len(sizes),
            blobs=len(blobs),
            blob_bytes=sum(blobs),
            partitions=[_partition(one) for one in reader.partitions()],
            consumers=consumers,
            damaged={str(path): cause for path, cause in reader.unreadable.items()} | unreadable,
            put_aside=[str(path) for path in sorted(sizes) if not path.name.endswith(FILES_OF_A_JOURNAL)],
            health=health,
        )


# --- the journal ----------------------------------------------------------------------------------------------------


def _unless_damaged(question: Callable[[], T], otherwise: T) -> T:
    """Ask a partition; one that is damaged, or vanishes meanwhile, must not keep a person from seeing the others."""
    try:
        return question()
    except sqlite3.DatabaseError:
        return otherwise


def _partition(partition: PartitionReader) -> PartitionStatus:
    header = partition.header
    pid = holder(partition.lock)
    is_idle = pid is None
    return PartitionStatus(
        key=header.key,
        site=header.origin.site,
        events=_unless_damaged(lambda: count_after(partition, 0), 0),
        state=_unless_damaged(lambda: _state(partition, pid), "damaged"),
        pid=pid,
        per_second=0.0 if is_idle else _unless_damaged(lambda: _rate(partition, header.created_ns), 0.0),
    )


def _state(partition: PartitionReader, pid: int | None) -> str:
    if partition.is_left_out:
        return "damaged"
    if partition.closed_in_order():
        return "ended"
    if pid is not None:
        return "being written"
    return "broken off" if partition.mark() is None or partition.succeeded else "waits for more"


def _rate(partition: PartitionReader, created_ns: int) -> float:
    now, end = time.time_ns(), partition.end()
    times = [when for record in partition.between(end - RATE_RECORDS + 1, end) if (when := _time_of(record.body))]
    seconds = max(0.1, min(RATE_SECONDS, (now - created_ns) / 1e9))
    recent = [when for when in times if now - when < seconds * 1e9]
    if len(recent) == RATE_RECORDS:
        seconds = max(0.1, (now - min(recent)) / 1e9)
    return len(recent) / seconds


def _time_of(body: bytes) -> int:
    try:
        return read_frame(body).time_ns
    except DecodeError:
        return 0


def _health(partitions: Sequence[PartitionReader]) -> Iterator[HealthWord]:
    """Yield the words of health among the last records of the newest partitions; they never leave their own."""
    own = [one for one in partitions if _unless_damaged(one.mark, 0) is None]
    for partition in own[-HEALTH_PARTITIONS:]:
        for body in _unless_damaged(lambda one=partition: _health_bodies(one), []):
            if word := _health_word(body):
                yield word


def _health_bodies(partition: PartitionReader) -> list[bytes]:
    return partition.ask(_MENTIONS, partition.end() - HEALTH_RECORDS, HEALTH.name.encode())


def _health_word(body: bytes) -> HealthWord | None:
    try:
        frame = read_frame(body)
        fields = msgspec.msgpack.decode(frame.fields, type=dict[str, object])
    except (DecodeError, msgspec.MsgspecError):
        return None
    if frame.topic != HEALTH.name:
        return None
    return HealthWord(time_ns=frame.time_ns, type=frame.type, fields=fields)


# --- consumers ------------------------------------------------------------------------------------------------------


def _consumer_files(workspace: Path) -> list[Path]:
    return sorted(place_of(workspace).cursors.glob("*.db"))


def _consumer(workspace: Path, path: Path, reader: JournalReader, health: Iterable[HealthWord]) -> ConsumerStatus:
    facts = look_at_consumer(path)
    positions = [(one, facts.cursor.get(one.header.key, 0)) for one in reader.partitions()]
    waiting = [_unless_damaged(partial(count_after, *one), 0) for one in positions]
    oldest = [_unless_damaged(partial(one.after, seq, 1), []) for one, seq in positions]
    own_words = [word for word in health if word.fields.get("receiver") == facts.name]
    worker = holder(path.with_suffix(".lock"))
    return ConsumerStatus(
        name=facts.name,
        destination=facts.destination,
        stored=facts.of_kind("delivered"),
        waiting=sum(waiting),
        oldest_seconds=_oldest_seconds(oldest),
        dropped=facts.of_kind("dropped"),
        dead=_count_dead(workspace / "dead" / facts.name),
        unfinished=facts.unfinished,
        worker=worker,
        starting=[pid for pid in _workers(path) if pid != worker] if facts.destination else [],
        restarts=_restarts(own_words),
        trouble=_trouble(own_words),
        log=_last_line(workspace / "workers" / f"{facts.name}.log"),
    )


def _workers(path: Path) -> list[int]:
    """Return the pids of a consumer's workers: they lead their sessions, what an SDK starts does not."""
    return [pid for pid in marked_processes(str(path.resolve())) if _leads_session(pid)]


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def _oldest_seconds(firsts: Iterable[Sequence[StoredRecord]]) -> float:
    times = [when for records in firsts if records and (when := _time_of(records[0].body))]
    return max(0.0, (time.time_ns() - min(times)) / 1e9) if times else 0.0


def _count_dead(folder: Path) -> int:
    with closing(JournalReader(folder, open_unchanged)) as reader:
        return sum(count_after(one, 0) for one in reader.partitions())


def _restarts(words: Sequence[HealthWord]) -> int:
    lost = [word for word in words if word.type == WorkerLost.event_name]
    return int(str(lost[-1].fields.get("restarts", 0))) if lost else 0


def _trouble(words: Sequence[HealthWord]) -> str:
    """Return why a receiver stores nothing, by the last it said, or nothing if that was good."""
    bad, good = (WorkerLost, CircuitOpened), (WorkerRecovered, CircuitClosed)
    told = [word for word in words if word.type in {one.event_name for one in (*bad, *good)}]
    if not told or told[-1].type in {one.event_name for one in good}:
        return ""
    return f"{told[-1].type}: {told[-1].fields.get('reason', '')}"


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
