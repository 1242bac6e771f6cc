"""What an event names reaches the worker from whichever bus logged it, whole or counted as missing."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from eventbus import EventBus, Origin, Relay, Scope
from eventbus._codec import encode
from eventbus._report import Report
from eventbus.abc import PartitionHeader, StoredRecord
from eventbus.artifacts import ArtifactFile, ArtifactLogged
from eventbus.blobs import SMALL_BYTES, BlobReader, BlobStore, blobs_of
from eventbus.journals._reader import JournalReader
from eventbus.tracking import TRACKING
from receivers import JsonlReceiver
from receivers._dead import put_aside
from receivers.replay import replay
from writers import TrackingWriter

LARGE = os.urandom(SMALL_BYTES + 1)


def kept(workspace: Path) -> set[bytes]:
    return {path.read_bytes() for path in workspace.rglob("*.files/*")}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server whose one receiver is subscribed at a site too; the site has its journal elsewhere."""
    folder = tmp_path_factory.mktemp("run")
    anyio.run(log, folder)
    return folder


async def log(folder: Path) -> None:
    (folder / "large.bin").write_bytes(LARGE)
    (folder / "small.bin").write_bytes(b"small")
    receiver = JsonlReceiver()
    async with (
        EventBus(folder / "server", site="server") as server,
        EventBus(folder / "site", site="site-1", journal_dir=folder / "disk") as site,
    ):
        writer = TrackingWriter(bus=site, scope=Scope.FEDERATED)
        writer.log_artifact(folder / "large.bin", immutable=True)
        TrackingWriter(bus=site).log_artifact(folder / "small.bin")
        (folder / "small.bin").write_bytes(b"damaged later")
        TrackingWriter(bus=server).log_artifact(folder / "small.bin")
        (damaged,) = (folder / "server" / "blobs").glob("*/[0-9a-f]*")
        damaged.write_bytes(b"DAMAGED later")
        for bus in (server, site):
            bus.subscribe(TRACKING, receiver)
        server.subscribe(TRACKING, JsonlReceiver(name="combined", layout="combined", path="combined"))
        site.subscribe(TRACKING.federated, Relay(server))
    for bus in (server, site):
        assert bus.report().complete, str(bus.report())
    (folder / "report").write_text(str(server.report()))


def test_payloads_of_all_buses_are_found_and_a_damaged_one_is_counted(workspace: Path) -> None:
    assert kept(workspace / "server" / "jsonl") == {LARGE, b"small"}
    assert "1 payload missing: ArtifactLogged" in (workspace / "report").read_text()


def test_what_crossed_is_found_at_the_server_alone_and_nothing_else_is_there(workspace: Path) -> None:
    assert kept(workspace / "server" / "combined") == {LARGE}


def test_a_replay_finds_them_too(workspace: Path) -> None:
    async def again() -> Report:
        return await replay(workspace / "site", [JsonlReceiver(name="replay-jsonl", path="again")])

    report = anyio.run(again)
    assert report.complete, str(report)
    assert kept(workspace / "site" / "again") == {LARGE, b"small"}


def test_dead_letters_keep_their_payloads(tmp_path: Path) -> None:
    source = BlobStore(tmp_path / "blobs")
    (tmp_path / "large.bin").write_bytes(LARGE)
    small, late, gone = source.put(b"small"), source.put_file(tmp_path / "large.bin"), source.put(b"gone")
    source.path(gone).unlink()
    event = ArtifactLogged(key="a", files=[ArtifactFile(path="p", blob=blob) for blob in (small, late, gone)])
    header = PartitionHeader(origin=Origin(site="s", rank=0, incarnation="a1", job="j"), created_ns=1)
    record = StoredRecord(header, 1, encode(event, TRACKING.name, Scope.LOCAL, "run", 1))
    dead = tmp_path / "dead" / "tracker"
    for _ in range(2):
        put_aside(dead, record, "tracker", "refused", source)
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    reader = BlobReader([blobs_of(dead)])
    assert reader.read(small) == b"small"
    assert reader.read(late) == LARGE
    (record,) = JournalReader(dead).read({}, 10)
    assert record.seq == 1
