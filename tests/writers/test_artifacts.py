from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus import Envelope, Event, EventBus
from eventbus.abc import RefusedError
from eventbus.artifacts import ArtifactLogged
from eventbus.blobs import Blob, BlobStore
from eventbus.errors import BadInputError
from writers import TrackingWriter
from writers import _artifacts as artifacts
from writers._artifacts import artifact_path, files_of

Stored = Callable[[type[Event]], list[Envelope[Any]]]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "b.bin").write_bytes(b"b")
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "deep" / "c.txt").write_text("c")
    return folder


def contents(store: BlobStore, files: list[artifacts.ArtifactFile]) -> dict[str, bytes]:
    return {file.path: store.read(file.blob) for file in files if file.blob is not None}


def test_a_file_keeps_its_name_and_a_folder_its_shape(store: BlobStore, folder: Path) -> None:
    assert contents(store, files_of(store, folder / "a.txt")) == {"a.txt": b"a"}
    assert contents(store, files_of(store, str(folder / "a.txt"), "x/y/")) == {"x/y/a.txt": b"a"}
    files = files_of(store, folder, "top")
    assert [file.path for file in files] == ["top/a.txt", "top/b.bin", "top/sub/deep/c.txt"]
    assert contents(store, files)["top/sub/deep/c.txt"] == b"c"


def test_a_link_that_stays_inside_counts_as_what_it_points_to(store: BlobStore, folder: Path) -> None:
    (folder / "latest").symlink_to("sub")
    (folder / "alias.txt").symlink_to("sub/deep/c.txt")
    kept = contents(store, files_of(store, folder))
    assert kept["alias.txt"] == kept["latest/deep/c.txt"] == b"c"


@pytest.mark.parametrize("target", ["../secret", "/etc/hostname", "sub/../../secret"])
def test_a_link_that_leads_out_is_refused_by_name(store: BlobStore, folder: Path, target: str) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "sub" / "escape").symlink_to(target if target.startswith("/") else f"../{target}")
    with pytest.raises(BadInputError, match=r"escape.*leads out"):
        files_of(store, folder)


def test_a_link_to_a_folder_around_it_is_refused(store: BlobStore, folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to("..")
    with pytest.raises(BadInputError, match="leads back"):
        files_of(store, folder)


def test_links_that_lead_in_a_circle_are_refused(store: BlobStore, folder: Path) -> None:
    (folder / "x").symlink_to("x")
    with pytest.raises(BadInputError, match="circle"):
        files_of(store, folder)
    (folder / "x").unlink()
    (folder / "other").mkdir()
    (folder / "other" / "to_sub").symlink_to("../sub")
    (folder / "sub" / "to_other").symlink_to("../other")
    with pytest.raises(BadInputError, match=r"circle|leads back"):
        files_of(store, folder)


def test_two_files_of_one_path_are_refused(store: BlobStore, folder: Path) -> None:
    (folder / "sub\\deep").mkdir()
    (folder / "sub\\deep" / "c.txt").write_text("another")
    with pytest.raises(BadInputError, match="two files"):
        files_of(store, folder)


def test_what_is_no_file_is_refused_without_waiting_for_it(
    store: BlobStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(BadInputError, match=r"pipe.*neither"):
        files_of(store, folder)
    with pytest.raises(BadInputError, match=r"pipe.*neither"):
        files_of(store, folder / "pipe")
    (folder / "pipe").unlink()
    monkeypatch.chdir(folder)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        with pytest.raises(BadInputError, match=r"socket.*neither"):
            files_of(store, folder)


def test_what_is_not_there_is_the_callers_mistake(store: BlobStore, folder: Path) -> None:
    with pytest.raises(BadInputError, match=r"nothing\.pt.*No such file"):
        files_of(store, folder / "nothing.pt")
    (folder / "dangling").symlink_to("nothing.pt")
    with pytest.raises(BadInputError, match="No such file"):
        files_of(store, folder)


def test_a_disk_that_fails_is_not_the_callers_mistake(
    store: BlobStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(RefusedError, match="Input/output error"):
        files_of(store, folder)


def test_what_vanishes_before_it_is_copied_is_refused(
    store: BlobStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = store.put_file

    def put_and_remove_the_next(path: Path, *, immutable: bool = False) -> Blob:
        (folder / "b.bin").unlink(missing_ok=True)
        return put_file(path, immutable=immutable)

    monkeypatch.setattr(store, "put_file", put_and_remove_the_next)
    with pytest.raises(RefusedError, match="can't be read: No such file"):
        files_of(store, folder)


def test_too_many_files_are_refused_before_any_is_kept(
    store: BlobStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "MAX_FILES", 2)
    with pytest.raises(BadInputError, match="more than 2 files"):
        files_of(store, folder)
    assert not (folder.parent / "blobs").exists()


@pytest.mark.parametrize("path", ["../up", "a/../../b", "/etc/passwd", "C:\\x", "a\\..\\b", "a\nb", "x" * 1001])
def test_a_path_that_leads_out_of_the_artifact_is_refused(path: str) -> None:
    with pytest.raises(BadInputError):
        artifact_path(path)


def test_a_path_is_brought_into_one_form() -> None:
    assert artifact_path("./a//b\\c/") == "a/b/c"
    assert not artifact_path("")


def test_an_artifact_says_what_it_is_and_names_its_files(bus: EventBus, stored: Stored, folder: Path) -> None:
    writer = TrackingWriter()
    receipt = writer.log_artifact(
        folder, path="weights", kind="checkpoint", aliases=["best"], metadata={"epoch": 3}, description="the third"
    )
    assert receipt.refused is None
    (logged,) = [one.event for one in stored(ArtifactLogged)]
    assert logged.key == "model"
    assert [file.path for file in logged.files] == ["weights/a.txt", "weights/b.bin", "weights/sub/deep/c.txt"]
    assert (logged.kind, logged.aliases, logged.metadata) == ("checkpoint", ["best"], {"epoch": 3})
    assert logged.description == "the third"


def test_a_path_that_is_wrong_raises_or_is_counted(bus: EventBus, stored: Stored, tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        TrackingWriter().log_artifact(tmp_path / "nothing.pt")
    with pytest.raises(BadInputError, match="no path"):
        TrackingWriter().log_artifact(5)  # pyright: ignore[reportArgumentType]
    counting = TrackingWriter(on_bad_input="count")
    assert counting.log_artifact(tmp_path / "nothing.pt", "model").refused is not None
    assert counting.bad_inputs == {"model": 1}
    assert not stored(ArtifactLogged)


@pytest.mark.parametrize(
    "wrong", [{"aliases": [1]}, {"aliases": 5}, {"kind": None}, {"metadata": [1]}, {"path": None}, {"description": 3}]
)
def test_wrong_arguments_raise_or_are_counted_and_copy_nothing(
    bus: EventBus, stored: Stored, folder: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(BadInputError):
        TrackingWriter().log_artifact(folder, **wrong)
    counting = TrackingWriter(on_bad_input="count")
    assert counting.log_artifact(folder, "model", **wrong).refused is not None
    assert counting.bad_inputs == {"model": 1}
    assert not stored(ArtifactLogged)
    assert not bus.statistics().blobs


def test_one_alias_is_one(bus: EventBus, stored: Stored, folder: Path) -> None:
    TrackingWriter().log_artifact(folder, aliases="best")
    assert stored(ArtifactLogged)[0].event.aliases == ["best"]


def test_what_does_not_fit_into_a_record_is_counted_too(tmp_path: Path, folder: Path) -> None:
    metadata = {str(n): "x" * 900 for n in range(1200)}
    with EventBus(tmp_path / "run").background() as bus:
        with pytest.raises(BadInputError, match="at most"):
            TrackingWriter(bus=bus).log_artifact(folder, metadata=metadata)
        counting = TrackingWriter(bus=bus, on_bad_input="count")
        assert counting.log_artifact(folder, "model", metadata=metadata).refused is not None
        assert counting.bad_inputs == {"model": 1}


def test_an_empty_folder_is_the_callers_mistake(bus: EventBus, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="without files"):
        TrackingWriter().log_artifact(tmp_path / "empty")


def test_nothing_is_kept_where_writers_are_off(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKBUS_MODE", "disabled")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    TrackingWriter().log_artifact(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
