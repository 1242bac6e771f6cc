from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus import _blob_copy as copying
from eventbus import _blob_files as files
from eventbus.abc import RefusedError
from eventbus.blobs import SMALL_BYTES, Blob, BlobQuota, BlobReader, BlobStore, blobs_of
from eventbus.errors import BlobError
from writers import TrackingWriter


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "model.bin"
    path.write_bytes(os.urandom(SMALL_BYTES + 12345))
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def everything(store: BlobStore) -> list[str]:
    assert store.folder is not None
    return sorted(path.name for path in store.folder.rglob("*") if path.is_file())


def test_bytes_are_called_by_their_digest_and_kept_once(store: BlobStore) -> None:
    blob = store.put(b"pixels")
    assert (blob.name, blob.size) == (sha256(b"pixels"), 6)
    assert store.put(bytearray(b"pixels")) == store.put(memoryview(b"pixels")) == blob
    assert everything(store) == [blob.name]
    assert (store.usage.count, store.usage.bytes) == (1, 6)
    assert store.read(blob) == b"pixels"
    assert store.digest(blob) == blob.name


def test_a_small_file_is_kept_by_its_bytes(store: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"")
    assert store.read(store.put_file(path)) == b""
    path.write_bytes(b"x" * SMALL_BYTES)
    blob = store.put_file(path)
    assert blob.name == sha256(b"x" * SMALL_BYTES)
    path.write_bytes(b"changed")
    assert store.read(blob) == b"x" * SMALL_BYTES


def test_a_large_file_gets_its_digest_later(store: BlobStore, large: Path) -> None:
    blob = store.put_file(large)
    assert blob.name.startswith("late-")
    assert blob.size == large.stat().st_size
    assert everything(store) == [blob.name]
    assert store.digest(blob) == sha256(large.read_bytes())
    store.look_after()
    assert everything(store) == [blob.name, f"{blob.name}.sha256"]
    assert store.digest(blob) == sha256(large.read_bytes())
    assert store.path(blob).stat().st_ino != large.stat().st_ino


@pytest.mark.parametrize("way", ["_in_kernel", "_by_sendfile", "_plainly"])
def test_every_way_to_copy_copies_everything(
    store: BlobStore, large: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_WAYS", (getattr(copying, way),))
    monkeypatch.setattr(copying, "CHUNK_BYTES", 1_000_003)
    monkeypatch.setattr("eventbus.blobs.clone", lambda *_: False)
    assert store.read(store.put_file(large)) == large.read_bytes()


def test_only_what_never_changes_is_linked(store: BlobStore, large: Path, tmp_path: Path) -> None:
    blob = store.put_file(large, immutable=True)
    assert store.path(blob).stat().st_ino == large.stat().st_ino
    link = tmp_path / "link"
    link.symlink_to(large)
    assert store.path(store.put_file(link, immutable=True)).stat().st_ino == large.stat().st_ino


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_on_another_file_system_it_is_copied_after_all(large: Path) -> None:
    folder = Path(f"/dev/shm/trackbus-test-{os.getpid()}")
    store = BlobStore(folder)
    try:
        if Path("/dev/shm").stat().st_dev == large.stat().st_dev:
            pytest.skip("/dev/shm is on the same file system")
        blob = store.put_file(large, immutable=True)
        assert store.path(blob).stat().st_ino != large.stat().st_ino
        assert store.digest(blob) == sha256(large.read_bytes())
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        folder.rmdir()


def test_a_file_that_is_changed_or_cut_while_it_is_copied_is_refused(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"

    def after(change: object) -> None:
        path.write_bytes(b"x" * (SMALL_BYTES + 1000))

        def copy_and_change(source: int, target: int, count: int, done: int) -> int:
            copied = os.copy_file_range(source, target, count, done, done)
            assert callable(change)
            change()
            return copied

        monkeypatch.setattr(copying, "_WAYS", (copy_and_change,))
        monkeypatch.setattr(copying, "CHUNK_BYTES", 1 << 20)
        monkeypatch.setattr("eventbus.blobs.clone", lambda *_: False)

    after(lambda: os.utime(path, ns=(1, 1)))
    with pytest.raises(RefusedError, match="was changed while it was copied"):
        store.put_file(path)
    after(lambda: os.truncate(path, 1 << 20))
    with pytest.raises(RefusedError, match="was changed while it was copied"):
        store.put_file(path)
    assert not everything(store)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such files")
def test_a_file_without_a_true_length_is_refused_with_the_way_out(store: BlobStore) -> None:
    with pytest.raises(RefusedError, match=r"another length than it says.* log a copy"):
        store.put_file(Path("/proc/version"))
    assert not everything(store)


def test_what_is_no_file_is_an_error_at_once(store: BlobStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no file"):
        store.put_file(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        store.put_file(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("quota", "reason"),
    [(BlobQuota(bytes=10), "10 bytes"), (BlobQuota(count=1), "1 files"), (BlobQuota(one=5), "larger than")],
)
def test_a_reached_quota_refuses_and_counts(tmp_path: Path, quota: BlobQuota, reason: str) -> None:
    store = BlobStore(tmp_path / "blobs", quota)
    first = store.put(b"12345")
    with pytest.raises(RefusedError, match=reason):
        store.put(b"123456")
    assert store.put(b"12345") == first  # it is there already
    assert everything(store) == [first.name]


def test_a_quota_counts_what_others_have_put_there(tmp_path: Path) -> None:
    BlobStore(tmp_path / "blobs").put(b"12345")
    store = BlobStore(tmp_path / "blobs", BlobQuota(count=1))
    store.measure()
    assert (store.usage.count, store.usage.bytes) == (1, 5)
    with pytest.raises(RefusedError):
        store.put(b"another")


def test_a_folder_that_is_gone_does_not_come_back(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "gone" / "blobs")
    with pytest.raises(RefusedError, match="No such file or directory"):
        store.put(b"12345")
    assert not (tmp_path / "gone").exists()
    (tmp_path / "gone").mkdir()
    assert store.read(store.put(b"12345")) == b"12345"


def test_a_store_that_can_not_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file in its place")
    with pytest.raises(RefusedError, match="can't be written"):
        BlobStore(tmp_path / "blobs").put(b"12345")


def test_drafts_of_dead_writers_are_removed_and_those_of_living_ones_stay(store: BlobStore, tmp_path: Path) -> None:
    assert store.folder is not None
    blob = store.put(b"12345")
    path = files.place(store.folder, blob.name)
    abandoned = path.with_name(".draft-1-abc")
    abandoned.write_bytes(b"half")
    with files.draft(path) as fd:
        (half,) = {*path.parent.glob(".draft-*")} - {abandoned}
        files.write_at(fd, b"12345", 0)
        files.clean(store.folder)
        assert abandoned.exists()  # too young: its writer may not have locked it yet
        files.DRAFT_SECONDS, seconds = -1.0, files.DRAFT_SECONDS
        try:
            files.clean(store.folder)
        finally:
            files.DRAFT_SECONDS = seconds
        assert half.exists()
        assert not abandoned.exists()
    assert everything(store) == [blob.name]
    assert store.read(blob) == b"12345"


@pytest.mark.parametrize("damage", [b"1234X", b"1234", b"123456"])
def test_a_damaged_blob_is_found_by_whoever_reads_it_first(store: BlobStore, damage: bytes) -> None:
    blob = store.put(b"12345")
    store.path(blob).write_bytes(damage)
    with pytest.raises(BlobError, match="bytes"):
        BlobReader([store.folder or Path()]).read(blob)


def test_a_damaged_large_blob_is_found_by_its_note(store: BlobStore, large: Path) -> None:
    blob = store.put_file(large)
    store.look_after()
    with store.path(blob).open("r+b") as file:
        file.write(b"damaged")
    with pytest.raises(BlobError, match="not those"):
        BlobReader([store.folder or Path()]).path(blob)


def test_a_reader_takes_the_first_store_that_has_it_whole(tmp_path: Path) -> None:
    one, other = BlobStore(tmp_path / "one"), BlobStore(tmp_path / "other")
    blob = one.put(b"12345")
    other.put(b"12345")
    one.path(blob).write_bytes(b"1")
    reader = BlobReader([tmp_path / "none", tmp_path / "one"])
    with pytest.raises(BlobError, match="it has 1 bytes"):
        reader.read(blob)
    reader.add(tmp_path / "other")
    assert reader.read(blob) == b"12345"
    with pytest.raises(BlobError, match="none of 3 stores"):
        reader.path(Blob(name="0" * 64, size=1))


def test_what_is_asked_for_counts_as_new_and_its_owner_sees_nothing_of_it(
    store: BlobStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.put_file(large, immutable=True)
    before = large.stat()
    assert store.has(blob)
    assert large.stat().st_ctime_ns == before.st_ctime_ns  # it is new anyway
    monkeypatch.setattr(files, "RENEW_SECONDS", -1.0)
    assert store.has(blob)
    after = large.stat()
    assert after.st_ctime_ns > before.st_ctime_ns
    assert (after.st_mtime_ns, after.st_nlink) == (before.st_mtime_ns, before.st_nlink)
    store.path(blob).unlink()
    assert not store.has(blob)


def test_what_comes_while_a_large_file_is_hashed_is_synced_meanwhile(
    store: BlobStore, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus.blobs.FLUSH_SECONDS", 0.0)
    store.put_file(large)
    hashed, left = files.hashed, list[int]()

    def hash_and_look(path: Path, check: Callable[[], object]) -> str:
        store.put(b"meanwhile")
        digest = hashed(path, check)
        left.append(len(store._unsynced))
        return digest

    monkeypatch.setattr(files, "hashed", hash_and_look)
    store.look_after()
    assert left == [0]


def test_what_another_process_has_put_there_is_synced_too(tmp_path: Path) -> None:
    BlobStore(tmp_path / "blobs").put(b"1")
    store = BlobStore(tmp_path / "blobs")
    store.put(b"1")
    assert len(store._unsynced) == 1
    assert store.usage.count == 0  # it is counted when the store is measured


def test_a_fork_amid_a_sync_hangs_no_child(store: BlobStore) -> None:
    with store._syncing:
        pid = os.fork()
        if not pid:
            store.put(b"child")
            os._exit(len(store.sync()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_many_threads_keep_the_same_and_different_bytes(store: BlobStore) -> None:
    def put(number: int) -> None:
        for index in range(50):
            assert store.read(store.put(b"%d" % (index * (number % 2)))) is not None

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(everything(store)) == 50


# --- on a bus -----------------------------------------------------------------------------------------------------


def test_a_bus_keeps_its_blobs_beside_its_journal_and_shows_them(tmp_path: Path, large: Path) -> None:
    with EventBus(tmp_path / "run", max_bytes=1_000_000).background() as bus:
        blob, late = bus.blobs.put(b"12345"), bus.blobs.put_file(large)
        assert bus.journal.folder is not None
        assert BlobReader([blobs_of(bus.journal.folder)]).read(blob) == b"12345"
        statistics = bus.statistics()
        assert (statistics.blobs, statistics.blob_bytes) == (2, 5 + late.size)
        assert f"{5 + late.size} of 2 payloads (at most {100 << 30})" in str(statistics)
        assert "bytes of journal (at most 1000000)" in str(statistics)
    assert (tmp_path / "run" / "blobs").is_dir()


def test_a_bus_in_memory_keeps_them_until_it_closes(large: Path) -> None:
    with EventBus().background() as bus:
        blob, late = bus.blobs.put(b"12345"), bus.blobs.put_file(large)
        assert bus.blobs.read(blob) == b"12345"
        folder = bus.blobs.path(late).parent.parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_a_machine_without_temporary_files_refuses_payloads_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("tempfile.gettempdir", find_none)
    with EventBus().background() as bus:
        with pytest.raises(RefusedError, match="can't be written"):
            bus.blobs.put(b"12345")
        (tmp_path / "small.bin").write_bytes(b"1")
        assert TrackingWriter().log_artifact(tmp_path / "small.bin").refused
        assert TrackingWriter().log({"loss": 1.0}).refused is None


def test_in_memory_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus.blobs.MEMORY_BYTES", 1000)
    store = BlobStore.temporary()
    try:
        blobs = [store.put(bytes([number]) * 100) for number in range(30)]
        assert store.usage.bytes <= 1000
        assert store.read(blobs[-1]) == bytes([29]) * 100
        with pytest.raises(BlobError):
            store.read(blobs[0])
    finally:
        store.close()


def test_in_memory_the_oldest_make_room_for_many_too(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", BlobQuota(count=10), evicts=True)
    blobs = [store.put(b"%d" % number) for number in range(11)]
    assert store.usage.count == 9
    assert store.read(blobs[-1]) == b"10"
    assert store.read(blobs[5]) == b"5"


def test_nothing_is_kept_where_recording_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: Path) -> None:
    monkeypatch.setenv("TRACKBUS_MODE", "disabled")
    with EventBus(tmp_path / "run").background() as bus:
        blob = bus.blobs.put(b"12345")
        assert bus.blobs.put_file(large).size == large.stat().st_size
        with pytest.raises(BlobError):
            bus.blobs.read(blob)
    assert not (tmp_path / "run").exists()


def test_a_forked_child_shares_the_store_and_looks_after_its_own_blobs(tmp_path: Path, large: Path) -> None:
    with EventBus(tmp_path / "run").background() as bus:
        bus.blobs.put_file(large)
        pid = os.fork()
        if not pid:
            bus.blobs.put(b"child")
            own = len(bus.blobs._unsynced)
            bus.close()
            os._exit(own)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) <= 1  # not its parent's
        assert bus.blobs.read(Blob(name=sha256(b"child"), size=5)) == b"child"
