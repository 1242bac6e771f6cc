"""Where a journal's damaged files go while its bus runs: they are put aside and mended in a thread of their own."""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from eventbus._fork import call_in_child, held_by_forks
from eventbus.health import JournalQuarantined
from eventbus.journals import _partition as files
from eventbus.journals._quarantine import (
    examine,
    examine_all,
    is_torn,
    mend,
    partition_key,
    put_aside,
    read_damaged,
    rolls_of,
    show,
)
from eventbus.journals.consumer import known_ends

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from eventbus._event import Event
    from eventbus.abc import PartitionHeader

CLOSE_SECONDS = 5.0
"""How long the closing of a journal waits for what is being mended: a file of 64 MiB takes about a second."""

_logger = logging.getLogger("trackbus.journal")


class GivenUp(Protocol):
    """A partition of this process to which nothing more is appended."""

    header: PartitionHeader
    end: int

    @property
    def path(self) -> Path:
        """The file that was appended to."""
        ...

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that appended to it."""
        ...

    def close(self, *, ended: bool = True) -> None:
        """Let go of its files and its lock."""
        ...


def is_at(path: Path, inode: int) -> bool:
    """Tell whether a file is still where it was made."""
    try:
        return path.stat().st_ino == inode
    except FileNotFoundError:
        return False


def _count(given_up: GivenUp) -> int:
    return given_up.connection.execute("SELECT count(*) FROM records").fetchone()[0]


def _save(given_up: GivenUp) -> Path | None:
    """Save a deleted file: the connection to it still reads everything."""
    saved = given_up.path.with_suffix(".salvaged")
    unfinished = given_up.path.with_suffix(".salvaging")
    try:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        given_up.connection.execute("VACUUM INTO ?", (str(unfinished),))
        return unfinished.rename(saved)
    except (OSError, sqlite3.Error) as error:
        _logger.warning("%s was deleted and can't be saved: %s", given_up.path, error)
        return None


class Infirmary:
    """Looks after one journal's damaged files.

    Args:
        folder: The journal.
        cursors: Folder of the consumers' files: they know of records that a file may have lost.

    Attributes:
        notes: What was found, for people.
    """

    def __init__(self, folder: Path, cursors: Path) -> None:
        self._folder = folder
        self._cursors = cursors
        self._tell: Callable[[Event], None] | None = None
        self._appending: Callable[[], AbstractContextManager[object]] = nullcontext
        self._untold: list[Event] = []
        self._visited: dict[Path, int] = {}
        self._begin()
        call_in_child(self._begin)

    def _begin(self) -> None:
        """Begin with nothing to do, as a forked child does."""
        self.notes: list[str] = []
        self._at_work = held_by_forks(threading.Lock())
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def look_around(self) -> None:
        """Look at all files that nobody writes: a journal is opened."""
        for event in examine_all(self._folder, known_ends(self._cursors)):
            self._say(event)

    def listen(self, tell: Callable[[Event], None], appending: Callable[[], AbstractContextManager[object]]) -> None:
        """Tell what happens from now on, and what has happened; `appending` gives the lock of the appends."""
        self._tell, self._appending = tell, appending
        for event in self._untold:
            tell(event)
        self._untold.clear()

    def _say(self, event: JournalQuarantined) -> None:
        self.notes.append(f"{event.path}: {event.reason}; {event.salvaged} records salvaged, {event.lost} lost")
        self.tell(event)

    def tell(self, event: Event) -> None:
        """Tell now, or once somebody listens."""
        if self._tell is None:
            self._untold.append(event)
        else:
            self._tell(event)

    def visit(self, path: Path, let_go: Callable[[Path], None]) -> None:
        """Look at a file that a consumer could not read, once as long as it is the same."""
        with suppress(OSError):
            inode = path.stat().st_ino
            if self._visited.get(path) != inode:
                self._visited[path] = inode
                self._call(lambda: self._mend(path, let_go))

    def _mend(self, path: Path, let_go: Callable[[Path], None]) -> None:
        let_go(path)
        event = mend(path, known_ends(self._cursors).get(partition_key(path), 0))
        if event is not None:
            self._say(event)

    def visit_own(self, path: Path, give_up: Callable[[], None]) -> None:
        """Look at the file that is written; `give_up` is called if it is damaged, while nothing is appended."""
        self._call(lambda: self._visit_own(path, give_up))

    def _visit_own(self, path: Path, give_up: Callable[[], None]) -> None:
        if is_torn(path):
            with self._appending():
                give_up()

    def take_in(self, given_up: GivenUp, reason: str) -> None:
        """Put a partition aside that this process has written until now."""
        self._call(lambda: self._take_in(given_up, reason))

    def _take_in(self, given_up: GivenUp, reason: str) -> None:
        path, end = given_up.path, given_up.end
        saved, count = (None, 0) if path.exists() else (_save(given_up), _count(given_up))
        left = read_damaged(path, end, given_up.header)  # before its connection is closed, which tidies up its log
        given_up.close(ended=False)
        lock = files.PartitionLock(files.lock_path(path))
        try:
            if saved is None:
                self._say(put_aside(path, left, reason))
            else:
                show(saved, path)
                self._say(JournalQuarantined(path=str(path), reason=reason, salvaged=count, lost=0))
            for earlier in rolls_of(path):  # the fault may be in one that was full
                if earlier != path and (fault := examine(earlier)):
                    self._say(put_aside(earlier, read_damaged(earlier), fault))
        finally:
            lock.release()

    # --- the thread -----------------------------------------------------------------------------------------------

    def _call(self, call: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="trackbus-infirmary", daemon=True)
            self._thread.start()
        self._calls.put(call)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                with self._at_work:
                    call()
            except (OSError, sqlite3.Error) as error:
                _logger.warning("a damaged file can't be put aside: %s", error)

    def close(self) -> None:
        """Wait for what is under way, as long as it may take."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(CLOSE_SECONDS)
            self._thread = None
