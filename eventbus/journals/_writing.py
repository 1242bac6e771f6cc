"""The writing end of a partition: one record or one batch at a time, in one file after the other."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

from eventbus._fork import held_by_forks
from eventbus.journals import _partition as files
from eventbus.journals._caretaker import FileCare, syncing, upkeep
from eventbus.journals._infirmary import is_at
from eventbus.journals._quarantine import rolls_of
from eventbus.journals._synced import SyncMark

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventbus.abc import PartitionHeader, RelayedBatch

ROLL_BYTES = 64 << 20
"""From this size on a partition goes on in another file: what is delivered can be trimmed away in files of this size,
and a reader that keeps a file's log from starting over can't make it longer than this."""

INSERT_ATTEMPTS = 100
"""Only a signal that strikes within the append makes a second one necessary."""

CLOSED = "the journal is closed"


def nothing_failed() -> str:
    """Sync nothing: the records name no files, or these are not waited for."""
    return ""


class Roll:
    """One file of a partition, open for appending.

    Attributes:
        path: Where it is.
        inode: What it is: something else may take its place.
        connection: Appends to it.
        first_end: Last sequence in it, or the one before it, when it was opened.
        care: Syncs and checkpoints it.
        base: Last sequence before its first record.
        last: Last sequence in it, once there is a later file.
        sealed: Whether all of it went to the disk, or will never.
        trouble: Why a sync of it failed: from then on nothing in it counts as synced. A later sync that succeeds says
            nothing, and a record behind a torn one in the log is not read again.
    """

    def __init__(self, path: Path, base: int) -> None:
        self.path = path
        self.inode = path.stat().st_ino
        self.base = self.last = base
        self.sealed = False
        self.trouble = ""
        with contextlib.ExitStack() as undo:
            self.connection = files.open_writer(path)
            undo.callback(self.connection.close)
            self.care = FileCare(path)
            undo.callback(self.care.close)
            self.first_end = self.end()  # makes the log and warms up, off the caller's path
            undo.pop_all()

    def end(self) -> int:
        """Return the last sequence in it, or the one before it."""
        return self.connection.execute("SELECT ifnull(max(seq), ?) FROM records", (self.base,)).fetchone()[0]

    def close(self) -> None:
        """Let go of it; the last one to do so tidies up its log."""
        self.care.close()
        self.connection.close()


class Partition:
    """The writing end of one partition. Its owner serialises the appends.

    Args:
        folder: The journal's.
        header: What stands once in the partition.
        roll_bytes: Size from which on the next file is begun.
        synced: The mark of the partition that this one goes on for.
        sync_first: Brings to the disk what the records name, and returns why it could not, empty if it could.

    Attributes:
        end: Number of the last record.
        refusal: Why it takes no more, or None.
        damage: Why it had to be given up: its owner goes on in another partition.
        synced: How much of it is on the disk.
    """

    def __init__(
        self,
        folder: Path,
        header: PartitionHeader,
        roll_bytes: int = ROLL_BYTES,
        synced: SyncMark | None = None,
        sync_first: Callable[[], str] | None = None,
    ) -> None:
        self.header = header
        self._folder = folder
        self._roll_bytes = roll_bytes
        first = files.roll_path(folder, header.origin, 0)
        first.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            self._lock = files.PartitionLock(files.lock_path(first))
            undo.callback(self._lock.release)
            self._roll = self._latest = self._open_last()
            undo.pop_all()
        self.end = self._roll.first_end
        self._rolls = [self._roll]  # all that are open, oldest first
        self._appending = False
        self.refusal: str | None = None
        self.damage = ""
        self.synced = synced or SyncMark(self.end, syncing.ring)
        self.sync_first = sync_first or nothing_failed
        self._checkpointed = self.end
        self._care_lock = held_by_forks(threading.Lock())
        self._sync_lock = threading.Lock()
        syncing.watch(self.sync)
        upkeep.watch(self.upkeep)

    # --- files --------------------------------------------------------------------------------------------------

    def _open_last(self) -> Roll:
        """Open the file to append to: a partition that is appended in batches may have some already."""
        paths = rolls_of(files.roll_path(self._folder, self.header.origin, 0))
        self._number = files.roll_number(paths[-1]) if paths else 0
        if not paths:
            paths = [self._create(0)]
        return Roll(paths[-1], files.last_seq(paths[:-1]) or self.header.first - 1)

    def _create(self, number: int) -> Path:
        path = files.roll_path(self._folder, self.header.origin, number)
        files.create_file(path, self.header, roll=number, **self._first_values())
        return path

    @property
    def path(self) -> Path:
        """The file that is appended to."""
        return self._roll.path

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that appends to it."""
        return self._roll.connection

    def _first_values(self) -> dict[str, int]:
        """Return what stands in the header of a new file, beside the partition's own."""
        return {}

    @property
    def roll(self) -> Roll:
        """The file to append to: the next one as soon as the caretaker has prepared it."""
        if self._latest is not self._roll:
            self._switch()
        return self._roll

    def _switch(self) -> None:
        """Go on in the file that is prepared.

        The file says where the old one ends: an interrupt may have struck between an insert and its count. A signal
        handler that logs right here appends to the old one, too; handlers run at calls, and there is none behind.
        """
        old, new = self._roll, self._latest
        try:
            stored = old.end()
        except sqlite3.Error:
            stored = 0
        self.end = stored if stored > self.end else self.end  # noqa: FURB136 - max() is a call
        old.last = new.base = self.end
        self._roll = new

    # --- appending ----------------------------------------------------------------------------------------------

    def insert(self, body: bytes) -> int:
        """Append one record in a transaction of its own and return its number.

        An interrupt, or a signal handler that logs, may strike between the insert and the count: then the number is
        taken, and the file says what comes next. The file is not changed while an insert into it is under way.
        """
        nested = self._appending
        try:
            self._appending = True
            if self._latest is not self._roll and not nested:
                self._switch()
            for _ in range(INSERT_ATTEMPTS):
                seq = self.end + 1
                try:
                    row = (seq, body, files.checksum(seq, body))
                    self._roll.connection.execute("INSERT INTO records VALUES (?, ?, ?)", row)
                except sqlite3.IntegrityError:
                    self.end = self._roll.end()
                else:
                    self.end = seq if seq > self.end else self.end  # noqa: FURB136 - in a call, a handler may log
                    return seq
        finally:
            self._appending = nested
        msg = f"record {self.end + 1} is there already"
        raise sqlite3.IntegrityError(msg)

    # --- upkeep, in threads of its own --------------------------------------------------------------------------

    def sync(self) -> None:
        """Bring to the disk what was appended so far."""
        with self._sync_lock:
            if self.refusal is None:
                self._sync()
            elif self.damage:  # an append that was under way when it was given up
                self.synced.advance(self.end, f"the file was given up: {self.damage}")

    def give_up(self, damage: str) -> None:
        """Take no more records: it is damaged, or deleted. What is not on the disk by now may be lost."""
        with self._sync_lock:
            self.damage = self.refusal = damage
            self.synced.advance(self.end, f"the file was given up: {damage}")

    def _sync(self) -> None:
        end, current = self.end, self._roll
        trouble = self.sync_first() if end > self.synced.reached else ""
        for roll in tuple(self._rolls):
            if roll is current:
                break
            self._sync_roll(roll, min(end, roll.last), trouble)
            roll.sealed = True
        if end > self.synced.reached:
            self._sync_roll(current, end, trouble)

    def _sync_roll(self, roll: Roll, last: int, trouble: str) -> None:
        if roll.sealed:
            return
        if not roll.trouble:
            try:
                roll.care.sync()
            except OSError as error:
                roll.trouble = f"the disk failed a sync: {error.strerror or error}"
                upkeep.ring()  # for another file
        self.synced.advance(last, roll.trouble or trouble)

    def upkeep(self) -> None:
        """Prepare the next file if this one is full or failed, and checkpoint."""
        with self._care_lock:
            if self.refusal is not None:
                return
            roll, end = self._roll, self.end
            if not is_at(roll.path, roll.inode):
                self.give_up("it was deleted")
                return
            self._look_after(roll)
            for old in tuple(self._rolls):
                if old is roll:
                    break
                self._finish(old)
            if end != self._checkpointed:
                roll.care.checkpoint()
                self._checkpointed = end

    def _look_after(self, roll: Roll) -> None:
        is_full = roll.care.size() > self._roll_bytes and self.end > roll.base
        if roll is self._latest and (is_full or roll.trouble):
            prepared = Roll(self._create(self._number + 1), self.end)
            self._number += 1
            self._rolls.append(prepared)
            self._latest = prepared

    def _finish(self, old: Roll) -> None:
        """Close a file of which nothing more is written, as soon as all of it is synced and no reader is in the way."""
        if old.sealed and old.care.empty_log():
            self._rolls.remove(old)
            old.close()

    def close(self, *, ended: bool = True) -> None:
        """Let go of the partition's files; `ended` says that its writer has said everything."""
        syncing.forget(self.sync)
        upkeep.forget(self.upkeep)
        with self._care_lock:
            if self.refusal == CLOSED:
                return
            self.refusal = CLOSED
            roll = self.roll  # a file that was prepared for nothing is the last one, and says what the last one says
            with self._sync_lock:
                self._sync()
            with contextlib.suppress(sqlite3.Error):  # a full disk: the free lock says nearly the same
                if ended:
                    roll.connection.execute("INSERT OR REPLACE INTO header VALUES ('closed', 1)")
            for one in self._rolls:
                one.close()
            self._lock.release()


class Mirror(Partition):
    """A partition that is appended in batches; its mark moves together with the records."""

    mark = 0

    def __init__(self, folder: Path, header: PartitionHeader, roll_bytes: int = ROLL_BYTES) -> None:
        self.mark = files.last_mark(rolls_of(files.roll_path(folder, header.origin, 0)))
        super().__init__(folder, header, roll_bytes)

    def _first_values(self) -> dict[str, int]:
        """From the start, readers can tell it from a writer's own; the highest mark of all files counts."""
        return {"mark": self.mark, "count": 0}

    def append(self, batch: RelayedBatch) -> int:
        """Store the records beyond the mark and move it, in one transaction."""
        fresh = [record for record in batch.records if record[0] > self.mark]
        mark = max(self.mark, batch.last)
        connection = self.roll.connection
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            files.insert(connection, fresh)
            connection.execute("INSERT OR REPLACE INTO header VALUES ('mark', ?)", (mark,))
            connection.execute("UPDATE header SET value = value + ? WHERE name = 'count'", (len(fresh),))
            if batch.vanished:
                connection.execute("INSERT OR IGNORE INTO header VALUES ('closed', 0)")
        self.mark = mark
        self.end = fresh[-1][0] if fresh else self.end
        return mark
