"""What the environment does to the blob store: kills, full disks, failing syncs. Nothing raises out of a log call."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus import _blob_files as files
from eventbus.abc import RefusedError
from eventbus.blobs import SMALL_BYTES, BlobQuota, BlobStore
from writers import TrackingWriter

pytestmark = pytest.mark.anyio

KILLED = """
import os, signal, sys
from pathlib import Path
from eventbus import _blob_copy as copying
from eventbus import blobs

def copy_and_die(source, target, count, done):
    os.copy_file_range(source, target, count, done, done)
    os.kill(os.getpid(), signal.SIGKILL)

copying._WAYS = (copy_and_die,)
copying.CHUNK_BYTES = 1 << 20
blobs.clone = lambda *_: False
blobs.BlobStore(Path(sys.argv[1])).put_file(Path(sys.argv[2]))
"""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(SMALL_BYTES + 1))
    return path


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def blob_files(store: BlobStore) -> list[Path]:
    assert store.folder is not None
    return [path for path in store.folder.rglob("*") if path.is_file()]


def test_a_process_killed_while_it_copies_leaves_a_draft_that_the_next_one_removes(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(tmp_path / "run" / "blobs")
    (tmp_path / "run").mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(store.folder), str(large)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    (draft,) = blob_files(store)
    assert draft.name.startswith(".draft-")
    assert draft.stat().st_size == 1 << 20
    monkeypatch.setattr(files, "DRAFT_SECONDS", -1.0)
    assert store.folder is not None
    files.clean(store.folder)
    assert not blob_files(store)


def test_a_full_disk_refuses_and_leaves_nothing_behind(tiny_disk: Path, large: Path) -> None:
    store = BlobStore(tiny_disk / "blobs")
    with pytest.raises(RefusedError, match="the disk is full"):
        store.put(bytes(3 << 20))
    with pytest.raises(RefusedError, match="no room for a file"):
        store.put_file(large)
    assert not blob_files(store)
    assert store.read(store.put(b"small")) == b"small"


def test_a_disk_that_fills_up_while_a_file_is_copied_leaves_nothing_behind(
    tiny_disk: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus.blobs.RESERVE_BYTES", -(1 << 40))
    store = BlobStore(tiny_disk / "blobs")
    with pytest.raises(RefusedError, match="the disk is full"):
        store.put_file(large)
    assert not blob_files(store)


def test_a_refused_payload_is_counted_and_raises_nothing(tmp_path: Path, large: Path) -> None:
    with EventBus(tmp_path / "run", blob_quota=BlobQuota(one=100)).background() as bus:
        receipt = TrackingWriter().log_artifact(large)
        assert receipt.refused is not None
        assert "100 bytes" in receipt.refused
        shutil.rmtree(tmp_path / "run" / "blobs", ignore_errors=True)
        (tmp_path / "run" / "blobs").write_text("in the way")
        small = tmp_path / "small.bin"
        small.write_bytes(b"1")
        assert TrackingWriter().log_artifact(small).refused
    assert sorted(bus.report().refused.values()) == [1, 1]
    assert not bus.report().complete


async def test_an_awaited_receipt_means_that_its_payload_is_on_the_disk(tmp_path: Path, large: Path) -> None:
    async with EventBus(tmp_path / "run", strength="durable"):
        synced: list[set[str]] = []
        sync = files.sync

        def note_and_sync(paths: list[Path], known: set[Path]) -> None:
            sync(paths, known)
            synced.append({path.name for path in paths})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "sync", note_and_sync)
            receipt = await TrackingWriter().log_artifact(large)
        assert receipt.refused is None
        ((name,),) = synced
        assert name.startswith("late-")


async def test_a_payload_that_could_not_be_synced_is_said_in_the_receipt(tmp_path: Path, large: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    async with EventBus(tmp_path / "run", strength="durable") as bus:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "sync", fail)
            receipt = await TrackingWriter().log_artifact(large)
        assert receipt.refused is not None
        assert "failed a sync of the blob store" in receipt.refused
        assert (await TrackingWriter().log({"loss": 1.0})).refused is None
    assert any("blob store" in cause for cause in bus.report().lost)


def test_at_the_default_strength_it_comes_to_the_disk_beside_the_caller(tmp_path: Path, large: Path) -> None:
    with EventBus(tmp_path / "run").background() as bus:
        blob = bus.blobs.put_file(large)
    assert bus.blobs.sync() == ""
    assert not bus.blobs._unsynced
    assert bus.blobs.digest(blob)
