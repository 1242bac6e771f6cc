"""What goes from the blob store, and what stays: only what no record names, an hour after it came."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from waiting import wait_until

from eventbus import EventBus, Origin, Scope
from eventbus import _blob_files as files
from eventbus.artifacts import ArtifactFile, ArtifactLogged
from eventbus.blobs import SMALL_BYTES, Blob, BlobQuota, BlobStore
from eventbus.journals import SqliteJournal, _blob_garbage
from eventbus.journals import _partition as partitions
from eventbus.journals._blob_care import BlobCare
from eventbus.journals._blob_garbage import collect
from eventbus.journals.consumer import ConsumerFile
from eventbus.tracking import MetricsLogged

ORIGIN = Origin(site="s", rank=0, incarnation="a1", job="job")


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def all_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all that is there had come more than an hour ago."""
    monkeypatch.setattr(_blob_garbage, "KEEP_SECONDS", -10.0)


def logged(*blobs: Blob) -> ArtifactLogged:
    return ArtifactLogged(key="a", files=[ArtifactFile(path=f"{n}", blob=blob) for n, blob in enumerate(blobs)])


def append(workspace: Path, *blobs: Blob, origin: Origin = ORIGIN) -> Path:
    with closing(SqliteJournal(workspace / "journal", origin)) as journal:
        journal.append_nowait(MetricsLogged(values={"a": 1.0}), "t", Scope.LOCAL, "run", 1)
        journal.append_nowait(logged(*blobs), "t", Scope.LOCAL, "run", 1)
    return partitions.roll_path(workspace / "journal", origin, 0)


def names(store: BlobStore) -> set[str]:
    assert store.folder is not None
    return {path.name for path, _ in files.kept(store.folder)}


def collected(store: BlobStore) -> int:
    assert store.folder is not None
    return collect(store.folder, store.folder.parent / "journal").count


def test_what_is_younger_than_an_hour_stays(store: BlobStore) -> None:
    store.put(b"one")
    assert collected(store) == 0
    assert len(names(store)) == 1


@pytest.mark.usefixtures("all_old")
def test_what_no_record_names_goes(store: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(SMALL_BYTES + 1))
    named, late, other, other_late = store.put(b"1"), store.put_file(path), store.put(b"2"), store.put_file(path)
    store.look_after()
    append(tmp_path, named, late)
    assert collected(store) == 2
    assert names(store) == {named.name, late.name}
    assert not list(tmp_path.rglob(f"{other_late.name}*"))
    assert not list(tmp_path.rglob(f"{other.name}*"))
    assert collected(store) == 0
    assert store.digest(late)


@pytest.mark.usefixtures("all_old")
def test_what_was_found_is_known_the_next_time_and_what_came_since_is_found(store: BlobStore, tmp_path: Path) -> None:
    first, second, third = (store.put(data) for data in (b"1", b"2", b"3"))
    with closing(SqliteJournal(tmp_path / "journal", ORIGIN)) as journal:
        journal.append_nowait(logged(first), "t", Scope.LOCAL, "run", 1)
        assert collected(store) == 2
        second = store.put(b"2")
        journal.append_nowait(logged(second), "t", Scope.LOCAL, "run", 1)
        assert collected(store) == 0
    (note,) = (tmp_path / "blobs" / ".names").iterdir()
    assert first.name.encode() in note.read_bytes()
    assert names(store) == {first.name, second.name} != {third.name}


@pytest.mark.usefixtures("all_old")
def test_with_its_partition_the_blob_goes_and_what_another_one_names_stays(store: BlobStore, tmp_path: Path) -> None:
    own, shared = store.put(b"own"), store.put(b"shared")
    path = append(tmp_path, own, shared)
    append(tmp_path, shared, origin=Origin(site="other", rank=0, incarnation="b1", job="job"))
    assert collected(store) == 0
    path.unlink()
    assert collected(store) == 1
    assert names(store) == {shared.name}
    assert len(list((tmp_path / "blobs" / ".names").iterdir())) == 1


@pytest.mark.usefixtures("all_old")
@pytest.mark.parametrize("damage", ["no database", "being mended"])
def test_a_journal_that_can_not_be_read_whole_keeps_all(store: BlobStore, tmp_path: Path, damage: str) -> None:
    store.put(b"1")
    path = append(tmp_path, store.put(b"2"))
    if damage == "no database":
        path.write_bytes(b"?" * 5000)
    else:
        path.rename(path.with_suffix(".salvaged"))
    assert collected(store) == 0
    assert len(names(store)) == 2


@pytest.mark.usefixtures("all_old")
def test_what_is_kept_again_while_it_is_removed_stays(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = store.put(b"1")
    path, rename = store.path(blob), Path.rename

    def rename_late(one: Path, target: Path) -> Path:
        if one == path:
            os.utime(path, ns=(5, 5))  # another process has kept the same bytes
        return rename(one, target)

    monkeypatch.setattr(Path, "rename", rename_late)
    assert collected(store) == 0
    assert store.read(blob) == b"1"


@pytest.mark.usefixtures("all_old")
def test_what_is_asked_for_while_it_is_looked_at_stays(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(SMALL_BYTES + 1))
    late, needed = store.put_file(path), _blob_garbage._needed
    monkeypatch.setattr(files, "RENEW_SECONDS", -1.0)

    def look_while_it_is_asked_for(notes: Path, journal: Path) -> set[str]:
        assert store.has(late)
        return needed(notes, journal)

    monkeypatch.setattr(_blob_garbage, "_needed", look_while_it_is_asked_for)
    assert collected(store) == 0
    assert store.has(late)


def test_a_forked_child_removes_nothing(tmp_path: Path) -> None:
    removed: list[int] = []
    store = BlobStore(tmp_path / "blobs", BlobQuota(count=1))
    store.put(b"1")
    care = BlobCare(store, tmp_path / "journal", removed.append)
    pid = os.fork()
    if not pid:
        care._round()
        os._exit(len(removed))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    care._round()
    assert removed == [1]
    care.close()


def test_one_that_was_being_removed_when_its_remover_died_comes_back(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.put(b"1")
    path = store.path(blob)
    path.rename(files.aside_of(path))
    monkeypatch.setattr(files, "DRAFT_SECONDS", -1.0)
    files.clean(path.parent.parent)
    assert store.read(blob) == b"1"


# --- on a bus -----------------------------------------------------------------------------------------------------
def stored_by_all(workspace: Path) -> None:
    """As a receiver leaves it that has stored everything."""
    with closing(SqliteJournal(workspace / "journal", Origin(site="s", rank=9, incarnation="f1", job="job"))) as one:
        ends = anyio.run(one.ends)
    with ConsumerFile(workspace / "cursors", "tracker") as file:
        file.move({**ends, "s/9-f1": 0})


@pytest.mark.usefixtures("all_old")
@pytest.mark.parametrize("delivered", [True, False])
def test_a_trimmed_partition_takes_its_blobs_along_but_no_undelivered_events(
    tmp_path: Path, *, delivered: bool
) -> None:
    store = BlobStore(tmp_path / "blobs")
    old = store.put(b"old")
    append(tmp_path, old)
    if delivered:
        stored_by_all(tmp_path)
    with EventBus(tmp_path, site="s").background() as bus:
        wait_until((tmp_path / "blobs" / ".names").exists)  # what is done at the opening
        assert isinstance(bus.journal, SqliteJournal)
        bus.journal.make_room(1 << 40)
        if delivered:
            wait_until(lambda: not names(store))
        fresh = bus.blobs.put(b"fresh")
        bus.publish(logged(fresh))
        assert collected(store) == 0
    assert names(store) == ({fresh.name} if delivered else {fresh.name, old.name})


@pytest.mark.usefixtures("all_old")
def test_near_its_bound_what_is_delivered_makes_room(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    append(tmp_path, *(store.put(b"%d" % number) for number in range(10)))
    stored_by_all(tmp_path)
    with EventBus(tmp_path, site="s", blob_quota=BlobQuota(count=10)).background() as bus:
        wait_until(lambda: not names(store) and not bus.statistics().blobs)
        assert not bus.blobs.is_crowded
