"""Looking at a workspace: nothing is created or changed, whether its processes live, have ended, or were killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus.errors import WorkspaceError
from eventbus.journals import _partition as files
from eventbus.journals._look import count_after, holder, look_at_consumer, open_unchanged, records_after
from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import ConsumerFile
from eventbus.tracking import MetricsLogged

WRITER = """
import sys
from eventbus import EventBus
from eventbus.journals.consumer import ConsumerFile
from eventbus.tracking import MetricsLogged
from pathlib import Path

workspace = Path(sys.argv[1])
bus = EventBus(workspace, site="site-1")
bus.open()
for step in range(int(sys.argv[2])):
    bus.publish(MetricsLogged(values={"loss": 1.0}, step=step))
file = ConsumerFile(workspace / "cursors", "one")
file.move({bus.origin.partition: 2})
print("written", flush=True)
sys.stdin.read()
"""

Spawn = Callable[..., "subprocess.Popen[str]"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; SQLite's shared memory is where its locks live, so only that it is there counts."""
    return {
        str(path.relative_to(folder)): b"" if path.name.endswith("-shm") else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def written(spawn: Spawn, workspace: Path, count: int = 5) -> subprocess.Popen[str]:
    child = spawn(WRITER, workspace, count)
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    return child


def counts(workspace: Path) -> tuple[list[int], dict[str, int]]:
    with closing(JournalReader(workspace / "journal", open_unchanged)) as reader:
        found = [record.seq for one in reader.partitions() for record in records_after(one, 0)]
    return found, look_at_consumer(workspace / "cursors" / "one.db").cursor


def test_a_living_workspace_is_seen_up_to_now_and_stays_as_it_is(tmp_path: Path, spawn: Spawn) -> None:
    child = written(spawn, tmp_path)
    before = contents(tmp_path).keys()
    found, cursor = counts(tmp_path)
    assert contents(tmp_path).keys() == before  # what is in them its writer may change
    assert (found, list(cursor.values())) == ([1, 2, 3, 4, 5], [2])
    (lock,) = (tmp_path / "journal").rglob("*.lock")
    assert holder(lock) == child.pid


def test_so_is_one_whose_writer_was_killed(tmp_path: Path, spawn: Spawn) -> None:
    child = written(spawn, tmp_path)
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    before = contents(tmp_path)
    assert any(name.endswith("-wal") and data for name, data in before.items())  # the control: it left its log
    found, cursor = counts(tmp_path)
    assert contents(tmp_path) == before
    assert (found, list(cursor.values())) == ([1, 2, 3, 4, 5], [2])
    (lock,) = (tmp_path / "journal").rglob("*.lock")
    assert holder(lock) is None


def test_so_is_one_at_rest(tmp_path: Path) -> None:
    bus = EventBus(tmp_path, site="site-1")
    bus.open()
    bus.publish(MetricsLogged(values={"loss": 1.0}, step=0))
    bus.close()
    with ConsumerFile(tmp_path / "cursors", "one") as file:
        file.move({bus.origin.partition: 1})
    before = contents(tmp_path)
    assert not any(name.endswith(("-wal", "-shm")) for name in before)
    assert counts(tmp_path)[0] == [1]
    assert contents(tmp_path) == before
    with closing(JournalReader(tmp_path / "journal")) as reader:  # the control: an ordinary reader leaves files
        reader.ends()
    assert contents(tmp_path) != before


def test_who_looks_at_its_own_lock_does_not_let_go_of_it(tmp_path: Path, run_program: Callable[..., str]) -> None:
    lock = tmp_path / "0-a1.lock"
    held = files.PartitionLock(lock)
    assert holder(lock) == os.getpid()
    ask = """
import sys
from pathlib import Path
from eventbus.journals._look import holder
print(holder(Path(sys.argv[1])))
"""
    assert run_program(ask, lock).strip() == str(os.getpid())
    held.release()
    assert run_program(ask, lock).strip() == "None"
    assert holder(tmp_path / "none.lock") is None


@pytest.mark.parametrize("after", [0, 2, 5, 9])
def test_records_are_counted_without_reading_them(tmp_path: Path, after: int) -> None:
    bus = EventBus(tmp_path, site="site-1")
    bus.open()
    for step in range(5):
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=step))
    with closing(JournalReader(tmp_path / "journal", open_unchanged)) as reader:
        (partition,) = reader.partitions()
        assert count_after(partition, after) == len(list(records_after(partition, after)))
    bus.close()


def test_an_empty_partition_has_no_records(tmp_path: Path) -> None:
    bus = EventBus(tmp_path, site="site-1")
    bus.open()
    bus.close()
    with closing(JournalReader(tmp_path / "journal", open_unchanged)) as reader:
        assert [count_after(one, 0) for one in reader.partitions()] == [0]


def test_a_consumer_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"missing\.db can't be read"):
        look_at_consumer(tmp_path / "missing.db")
    (tmp_path / "other.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(WorkspaceError, match=r"other\.db can't be read"):
        look_at_consumer(tmp_path / "other.db")
    with closing(sqlite3.connect(tmp_path / "empty.db")) as connection:
        connection.execute("CREATE TABLE something (name)")
    with pytest.raises(WorkspaceError, match="no such table"):
        look_at_consumer(tmp_path / "empty.db")
