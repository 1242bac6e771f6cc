"""A consumer's own file: its cursor, the plans it has not finished, how far each run is stored, its counts.

They move together, in one transaction: that is what makes redelivery harmless.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import msgspec

from eventbus.abc import Cursor, TrackerRun
from eventbus.errors import WorkspaceError
from eventbus.journals._destination import check_free, open_for_reading, remember
from eventbus.journals._partition import PartitionLock

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from types import TracebackType

    from eventbus.journals._destination import Destination

RunKey = tuple[str, str]
"""What names a run of a tracker: (site, run id); the site is empty where one run holds all sites."""

DROPPED_OF = "dropped of"
"""Kind of the counts of what was dropped by partition; those of kind `dropped` have the same by cause."""

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursor (partition TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS plans (batch INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS runs (site TEXT, run TEXT, body BLOB NOT NULL, PRIMARY KEY (site, run)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (kind TEXT, name TEXT, value INTEGER, PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (partition TEXT, seq INTEGER, reason TEXT, PRIMARY KEY (partition, seq)) WITHOUT ROWID;
"""


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of one partition, both ends included."""

    partition: str
    first: int
    last: int


class Plan(msgspec.Struct, frozen=True):
    """A batch as it will be written: which records are its rows, in which order, and where each run's rows begin.

    Attributes:
        batch: Number of the batch, from 1.
        segments: The stretches whose every record is a row, in delivery order.
        starts: Per run (site, run id): number of its first row in the batch.
        ends: Per run: number of its last row.
        reached: Where the cursor moves beyond the segments: behind them came what nobody asked for.
        passed_over: What was given up when it was planned, as (kind, name, count).
    """

    batch: int
    segments: list[Segment]
    starts: list[tuple[str, str, int]]
    ends: list[tuple[str, str, int]]
    reached: Cursor = {}
    passed_over: list[tuple[str, str, int]] = []

    def cursor(self) -> Cursor:
        """Return where the cursor stands once the batch is stored."""
        return {**{segment.partition: segment.last for segment in self.segments}, **self.reached}

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return sum(last for *_, last in self.ends) - sum(first for *_, first in self.starts) + len(self.ends)


class Part(msgspec.Struct, kw_only=True):
    """One site's part in a run.

    Attributes:
        writers: Keys of the partitions that write to it, and have not said that it ends.
        status: How it ended, or None while it goes on.
        reason: Why.
    """

    writers: list[str] = []
    status: str | None = None
    reason: str = ""


class RunState(msgspec.Struct, kw_only=True):
    """What a consumer knows of one run.

    Attributes:
        name: How people call it.
        group: What its sibling runs share.
        started_ns: Wall time of its first record.
        parts: The part of each site that wrote to it.
        rows: Number of its last planned row.
        position: Number of its last stored row.
        token: What the sink needs to find that position again.
        status: How it ended, or None while it goes on.
        tracker: What the tracker calls it, once it was opened.
        failed_ends: How often a worker was lost while it ended the run.
    """

    name: str
    group: str = ""
    started_ns: int = 0
    parts: dict[str, Part] = {}
    rows: int = 0
    position: int = 0
    token: str = ""
    status: str | None = None
    tracker: TrackerRun | None = None
    failed_ends: int = 0


_encode = msgspec.msgpack.encode
_decode_plan = msgspec.msgpack.Decoder(Plan).decode
_decode_run = msgspec.msgpack.Decoder(RunState).decode


class _Connection(sqlite3.Connection):
    """A connection whose failures say which file they are about, and are ours."""

    path: Path | None = None  # unknown until it has been prepared

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        with self._explained():
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        with self._explained():
            return super().executemany(*arguments)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        with self._explained():
            return super().__exit__(kind, error, traceback)

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self.path is None:
                raise
            msg = f"the cursor file {self.path} can't be used: {error}; free the disk, or make the folder writable"
            raise WorkspaceError(msg) from error


class ConsumerFile:
    """Opens `<folder>/<name>.db`, creating it if needed. One owner at a time writes it: see `ConsumerLock`.

    A file that is gone although its consumer has worked is not made anew: everything would be delivered again.

    Raises:
        WorkspaceError: The folder can't be written, its disk is full, or the file is damaged or gone; every method may
            raise it.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.db"
        lock = _lock_path(folder, name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if lock.exists() and not (self.path.exists() and self.path.stat().st_size):
                raise sqlite3.DatabaseError("it is gone")
            self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=10, factory=_Connection)
            self._prepare()
            self._connection.path = self.path
        except (OSError, sqlite3.Error) as error:
            msg = (
                f"the cursor file {self.path} can't be opened: {error}; put it back as it was, or remove it together "
                f"with {lock.name}: then all that the journal holds is delivered again"
            )
            raise WorkspaceError(msg) from error

    def _prepare(self) -> None:
        self._connection.executescript(_SCHEMA)
        (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            self._connection.close()
            raise sqlite3.DatabaseError(verdict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def claim(self, destination: Destination) -> None:
        """Remember where this consumer's data go: one name has one destination, and one destination one name.

        Raises:
            SubscriptionError: The file belongs to another destination, or another consumer fills this one.
        """
        check_free(self.path.parent, self.path.stem, destination)
        remember(self._connection, self.path.stem, destination)

    def cursor(self) -> Cursor:
        """Return the position up to which everything is stored."""
        return dict(self._connection.execute("SELECT partition, seq FROM cursor"))

    def move(self, cursor: Mapping[str, int]) -> None:
        """Move the cursor, all partitions as one, in a transaction of its own."""
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            self._move(cursor)

    def _move(self, cursor: Mapping[str, int]) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO cursor VALUES (?, ?)", cursor.items())

    def plans(self) -> list[Plan]:
        """Return the batches that are planned but not known to be stored, in order."""
        return [_decode_plan(body) for (body,) in self._connection.execute("SELECT body FROM plans ORDER BY batch")]

    def runs(self) -> dict[RunKey, RunState]:
        """Return all runs."""
        rows = self._connection.execute("SELECT site, run, body FROM runs")
        return {(site, run): _decode_run(body) for site, run, body in rows}

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the counts by (kind, name)."""
        return {(kind, name): value for kind, name, value in self._connection.execute("SELECT * FROM counts")}

    def note(self, name: str, value: bytes | None) -> None:
        """Keep a worker's note for the worker after it; None takes it away."""
        if value is None:
            self._connection.execute("DELETE FROM meta WHERE name = ?", (name,))
        else:
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> bytes | None:
        """Return a note, or None if there is none."""
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def dead(self) -> dict[tuple[str, int], str]:
        """Return why records were put aside, by (partition, sequence)."""
        rows = self._connection.execute("SELECT partition, seq, reason FROM dead")
        return {(partition, seq): reason for partition, seq, reason in rows}

    def add_dead(self, partition: str, seq: int, reason: str, **notes: bytes | None) -> None:
        """Remember that a record was put aside, and change notes with it."""
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            self._connection.execute("INSERT OR IGNORE INTO dead VALUES (?, ?, ?)", (partition, seq, reason))
            for name, value in notes.items():
                self.note(name, value)

    def add_plan(self, plan: Plan, runs: Mapping[RunKey, RunState]) -> None:
        """Commit a plan and the numbering of its runs before anything of it is written."""
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            self._connection.execute("INSERT INTO plans VALUES (?, ?)", (plan.batch, _encode(plan)))
            self._save_runs(runs)

    def settle(
        self, plans: Iterable[Plan], runs: Mapping[RunKey, RunState], counts: Mapping[tuple[str, str], int]
    ) -> None:
        """Commit that batches are stored: the cursor, the runs' positions and the counts move as one."""
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            for plan in plans:
                self._move(plan.cursor())
                self._connection.execute("DELETE FROM plans WHERE batch = ?", (plan.batch,))
            self._save_runs(runs)
            self._connection.executemany(
                "INSERT INTO counts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
                [(kind, name, value) for (kind, name), value in counts.items()],
            )

    def save_run(self, key: RunKey, state: RunState) -> None:
        """Save what is known of one run."""
        self._save_runs({key: state})

    def _save_runs(self, runs: Mapping[RunKey, RunState]) -> None:
        rows = [(site, run, _encode(state)) for (site, run), state in runs.items()]
        self._connection.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", rows)


class Standing(NamedTuple):
    """What a consumer still needs of a journal.

    Attributes:
        cursor: Position up to which everything is stored.
        planned: Stretches that are written, perhaps, but not known to be stored.
        unfinished: Partitions of the runs whose end is not known yet.
    """

    cursor: Cursor
    planned: list[Segment]
    unfinished: set[str]


def standings(folder: Path) -> Iterator[Standing]:
    """Yield what each consumer of a folder still needs.

    Raises:
        sqlite3.Error: A file can't be read.
    """
    for path in sorted(folder.glob("*.db")):
        with closing(open_for_reading(path)) as connection:
            plans = [_decode_plan(body) for (body,) in connection.execute("SELECT body FROM plans")]
            runs = [_decode_run(body) for (body,) in connection.execute("SELECT body FROM runs")]
            yield Standing(
                dict(connection.execute("SELECT partition, seq FROM cursor")),
                [segment for plan in plans for segment in plan.segments],
                {key for run in runs for part in run.parts.values() if part.status is None for key in part.writers},
            )


def known_ends(folder: Path) -> Cursor:
    """Return per partition the last record that some consumer has stored or planned, as far as it can be read."""
    known: Cursor = {}
    with suppress(sqlite3.Error, msgspec.MsgspecError):
        for one in standings(folder):
            for key, seq in [*one.cursor.items(), *((part.partition, part.last) for part in one.planned)]:
                known[key] = max(seq, known.get(key, 0))
    return known


class ConsumerLock:
    """Held by the one owner that works on a consumer's file; a second one, in this process or another, stands by."""

    _one_at_a_time: ClassVar = threading.Lock()

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = _lock_path(folder, name)
        self._lock: PartitionLock | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        with self._one_at_a_time:
            try:
                self._lock = self._lock or PartitionLock(self._path)
            except BlockingIOError:
                return False
        return True

    def close(self) -> None:
        """Let go. Legal twice, and without having it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _lock_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"
