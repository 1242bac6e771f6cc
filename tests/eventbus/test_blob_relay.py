"""From a site's blob store to the server's: what federated events name, before they come, and nothing else."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventbus import Event, EventBus, Part, Relay, Scope
from eventbus import _blob_carrier as carrying
from eventbus import _blob_files as files
from eventbus._blob_carrier import CHUNK_BYTES, BlobCarrier
from eventbus._blob_intake import BlobIntake
from eventbus._blob_names import blobs_named, may_name_blobs
from eventbus._codec import encode
from eventbus.abc import RefusedError, RelayedBatch
from eventbus.artifacts import ArtifactFile, ArtifactLogged
from eventbus.blobs import SMALL_BYTES, Blob, BlobQuota, BlobReader, BlobStore
from eventbus.errors import BlobError
from eventbus.testing import recording
from eventbus.tracking import TRACKING, TRACKING_EVENTS, ConfigUpdated, MetricsLogged

pytestmark = pytest.mark.anyio

LARGE = os.urandom(SMALL_BYTES + 3 * CHUNK_BYTES + 17)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "model.bin"
    path.write_bytes(LARGE)
    return path


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if both stores were on file systems of their own."""
    monkeypatch.setattr(files, "linked", lambda *_: False)


@asynccontextmanager
async def site_and_server(
    folder: Path | None, quota: BlobQuota | None = None
) -> AsyncIterator[tuple[EventBus, EventBus, Relay]]:
    homes = [folder and folder / name for name in ("server", "site-1")]
    with anyio.fail_after(30):
        async with (
            EventBus(homes[0], site="server", blob_quota=quota) as server,
            EventBus(homes[1], site="site-1") as site,
        ):
            relay = Relay(server)
            site.subscribe(TRACKING.federated, relay)
            yield site, server, relay


def artifact(*blobs: Blob, key: str = "model") -> ArtifactLogged:
    return ArtifactLogged(key=key, files=[ArtifactFile(path=f"{n}.bin", blob=blob) for n, blob in enumerate(blobs)])


# ------------------------------------------------------------------------------------------- what a record names
def test_blobs_are_found_in_the_bytes_of_events_that_hold_some() -> None:
    blobs = [Blob(name="a" * 64, size=3), Blob(name="late-" + "b" * 32, size=1 << 40)]
    body = encode(artifact(*blobs), "t", Scope.LOCAL, "run", 1)
    assert blobs_named(body) == ("ArtifactLogged", blobs)


def test_what_only_looks_like_a_blob_is_none() -> None:
    config = ConfigUpdated(values={"file": {"name": "a" * 64, "size": 3}})
    assert blobs_named(encode(config, "t", Scope.LOCAL, "run", 1))[1] == []
    assert blobs_named(b"no record") == ("", [])
    assert blobs_named(encode(MetricsLogged(values={"a": 1.0}), "t", Scope.LOCAL, "", 1)) == ("MetricsLogged", [])


@pytest.mark.parametrize("size", [-1, 5, 2**70, True])
def test_what_stands_in_free_metadata_is_no_blob(size: int) -> None:
    blob = Blob(name="c" * 64, size=1)
    event = artifact(blob).model_copy(update={"metadata": {"file": {"name": "d" * 64, "size": size % 2**63}}})
    assert blobs_named(encode(event, "t", Scope.LOCAL, "run", 1)) == ("ArtifactLogged", [blob])
    negative = event.model_copy(update={"metadata": {"file": {"name": "d" * 64, "size": -1}}})
    body = encode(negative, "t", Scope.LOCAL, "run", 1)
    assert blobs_named(body) == ("ArtifactLogged", [blob])
    assert blobs_named(body.replace(b"ArtifactLogged", b"ArtifactUnknow"))[1] == [blob]


def test_an_event_of_a_type_that_nobody_knows_here_may_name_some() -> None:
    blob = Blob(name="c" * 64, size=1)
    body = encode(artifact(blob), "t", Scope.LOCAL, "run", 1).replace(b"ArtifactLogged", b"ArtifactUnknow")
    assert blobs_named(body) == ("ArtifactUnknow", [blob])


def test_every_kind_that_holds_blobs_is_known_to_hold_some() -> None:
    holding = {kind.__name__ for kind in TRACKING_EVENTS if may_name_blobs(kind.event_name)}
    assert {"ImagesLogged", "TableLogged", "TensorLogged", "MeshLogged", "EmbeddingLogged", "GraphLogged"} <= holding
    assert {"ArtifactLogged", "ModelLogged", "HtmlLogged"} <= holding
    assert not {"MetricsLogged", "TextLogged", "ConfigUpdated", "HistogramLogged", "DatasetLogged"} & holding


def test_a_kind_of_blob_of_ones_own_is_one() -> None:
    class Labelled(Blob):
        pass

    class Page(Part):
        scans: dict[str, list[Labelled | None]]

    class PagesScanned(Event, topic="pages"):
        pages: list[Page]

    blob = Labelled(name="c" * 64, size=1)
    event = PagesScanned(pages=[Page(scans={"front": [None, blob]})])
    assert may_name_blobs(PagesScanned.event_name)
    assert blobs_named(encode(event, "pages", Scope.LOCAL, "run", 1))[1] == [blob]


# ---------------------------------------------------------------------------------------------------- what crosses
@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("linked", [True, False])
async def test_blobs_are_there_before_their_events(
    tmp_path: Path, large: Path, *, in_memory: bool, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not linked:
        monkeypatch.setattr(files, "linked", lambda *_: False)
    found: list[list[bytes]] = []
    async with site_and_server(None if in_memory else tmp_path) as (site, server, relay):

        def read(event: ArtifactLogged) -> None:
            found.append([server.blobs.read(file.blob) for file in event.files if file.blob])

        server.subscribe(ArtifactLogged, read)
        small, late = site.blobs.put(b"pixels"), site.blobs.put_file(large)
        site.publish(artifact(small, late), scope=Scope.FEDERATED)
        receipt = site.publish(artifact(small), scope=Scope.FEDERATED)
        await receipt.delivered(10)
        assert (server.blobs.path(late).stat().st_ino == site.blobs.path(late).stat().st_ino) is linked
        if not linked:
            assert files.noted_digest(server.blobs.path(late)) == hashlib.sha256(LARGE).hexdigest()
        assert not relay.statistics().failed
        assert not relay.statistics().altered
    assert found == [[b"pixels", LARGE], [b"pixels"]]


async def test_what_local_events_name_never_leaves(tmp_path: Path) -> None:
    async with site_and_server(tmp_path) as (site, server, _):
        secret, shared = site.blobs.put(b"secret"), site.blobs.put(b"shared")
        site.publish(artifact(secret), scope=Scope.LOCAL)
        await site.publish(artifact(shared), scope=Scope.FEDERATED).delivered(10)
        assert server.blobs.read(shared) == b"shared"
        assert [path.name for path, _ in files.kept(tmp_path / "server" / "blobs")] == [shared.name]
    assert not [path for path in (tmp_path / "server").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]


async def test_a_blob_that_is_gone_keeps_no_event_from_crossing(tmp_path: Path, apart: None) -> None:
    async with site_and_server(tmp_path) as (site, server, relay):
        with recording(server, ArtifactLogged) as recorder:
            gone, damaged, whole = (site.blobs.put(data) for data in (b"gone", b"damaged", b"whole"))
            site.blobs.path(gone).unlink()
            site.blobs.path(damaged).write_bytes(b"DAMAGED")
            site.publish(artifact(gone, whole), scope=Scope.FEDERATED)
            site.publish(artifact(whole, damaged), scope=Scope.FEDERATED)
            await site.publish(artifact(whole), scope=Scope.FEDERATED).delivered(10)
            await recorder.wait_for(3)
        assert server.blobs.read(whole) == b"whole"
        with pytest.raises(BlobError):
            server.blobs.path(damaged)
        assert relay.statistics().altered == {"payload missing: ArtifactLogged": 2}


async def test_a_store_that_is_full_holds_nothing_up_for_ever(
    tmp_path: Path, apart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "PATIENCE_SECONDS", 0.0)
    async with site_and_server(tmp_path, BlobQuota(count=1)) as (site, server, relay):
        blobs = [site.blobs.put(b"%d" % number) for number in range(5)]
        receipts = [site.publish(artifact(blob), scope=Scope.FEDERATED) for blob in blobs]
        await receipts[-1].delivered(10)
        assert server.blobs.read(blobs[0]) == b"0"
        assert relay.statistics().altered == {"payload missing: ArtifactLogged": 4}
        (cause,) = relay.statistics().failed
        assert "bound of 1 files" in cause


# ------------------------------------------------------------------------------------------- chunks and their target
class Wire(BlobIntake):
    """A target that fails now and then, as one across a network may."""

    def __init__(self, store: BlobStore, *, damage: int = 0, cut_after: int = 1000) -> None:
        super().__init__(store)
        self.offsets: list[int] = []
        self._damage = damage
        self._cut_after = cut_after

    async def missing(self, blobs: Sequence[Blob], source: BlobReader) -> list[Blob]:
        return [blob for blob in blobs if not self._store.has(blob)]

    async def append(self, blob: Blob, offset: int, data: bytes) -> None:
        if len(self.offsets) == self._cut_after:
            raise ConnectionResetError
        self.offsets.append(offset)
        if self._damage:
            self._damage -= 1
            data = b"?" + data[1:]
        await super().append(blob, offset, data)


def carrier(source: BlobStore, wire: Wire, failed: list[str]) -> BlobCarrier:
    return BlobCarrier(source, wire, lambda: None, failed.append)


async def test_what_arrives_damaged_is_fetched_again(tmp_path: Path, large: Path) -> None:
    source, target = BlobStore(tmp_path / "site"), BlobStore(tmp_path / "server")
    blob, failed = source.put_file(large), list[str]()
    assert await carrier(source, Wire(target, damage=1), failed).bring([blob]) == {}
    assert failed == ["a payload arrived damaged"]
    assert target.read(blob) == LARGE


async def test_what_arrives_damaged_every_time_is_given_up(tmp_path: Path, large: Path) -> None:
    source, target = BlobStore(tmp_path / "site"), BlobStore(tmp_path / "server")
    blob, failed = source.put_file(large), list[str]()
    reasons = await carrier(source, Wire(target, damage=1000), failed).bring([blob])
    assert reasons == {blob.name: "it arrived damaged 3 times"}
    assert not list(files.kept(tmp_path / "server"))


async def test_a_transfer_that_was_cut_goes_on_where_it_was(tmp_path: Path, large: Path) -> None:
    source, target = BlobStore(tmp_path / "site"), BlobStore(tmp_path / "server")
    blob = source.put_file(large)
    with pytest.raises(ConnectionResetError):
        await carrier(source, Wire(target, cut_after=2), []).bring([blob])
    wire = Wire(target)
    assert await carrier(source, wire, []).bring([blob]) == {}
    assert wire.offsets[0] == 2 * CHUNK_BYTES
    assert target.read(blob) == LARGE


async def test_what_can_never_be_taken_holds_nothing_up(
    tmp_path: Path, apart: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "RETRY_SECONDS", 1e9)
    async with site_and_server(tmp_path, BlobQuota(one=3)) as (site, server, relay):
        large, small = site.blobs.put(b"large"), site.blobs.put(b"1")
        site.publish(artifact(large), scope=Scope.FEDERATED)
        await site.publish(artifact(small), scope=Scope.FEDERATED).delivered(10)
        assert server.blobs.read(small) == b"1"
        assert relay.statistics().altered == {"payload missing: ArtifactLogged": 1}


async def test_what_a_far_side_has_lost_while_it_refused_is_brought_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus.relay.RETRY_SECONDS", 0.01)
    async with site_and_server(tmp_path) as (site, server, relay):
        blob, accept, refused = site.blobs.put(b"pixels"), server.accept, list[int]()

        async def refuse_once(batch: RelayedBatch, touch: Callable[[], None]) -> int:
            if batch.records and not refused:
                server.blobs.path(blob).unlink()
                refused.append(1)
                raise RefusedError("full")
            return await accept(batch, touch)

        monkeypatch.setattr(server, "accept", refuse_once)
        await site.publish(artifact(blob), scope=Scope.FEDERATED).delivered(10)
        assert server.blobs.read(blob) == b"pixels"
        assert refused
        assert not relay.statistics().altered


async def test_who_leaves_waits_for_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_for_ever(_: Path, check: Callable[[], None]) -> str:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            check()
        raise AssertionError

    store = BlobStore(tmp_path / "server")
    intake, blob = BlobIntake(store), Blob(name="late-" + "a" * 32, size=1)
    await intake.offset(blob)
    await intake.append(blob, 0, b"1")
    monkeypatch.setattr(files, "hashed", hash_for_ever)
    with anyio.move_on_after(0.05) as scope:
        await intake.finish(blob, "0" * 64)
    assert scope.cancelled_caught


async def test_bytes_under_another_content_s_name_are_refused(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "server")
    intake, blob = BlobIntake(store), Blob(name="a" * 64, size=1)
    await intake.offset(blob)
    await intake.append(blob, 0, b"1")
    assert not await intake.finish(blob, hashlib.sha256(b"1").hexdigest())
    assert not list(files.kept(tmp_path / "server"))


async def test_a_blob_can_not_get_longer_than_its_event_says(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "server")
    intake, blob = BlobIntake(store), Blob(name="a" * 64, size=10)
    assert await intake.offset(blob) == 0
    with pytest.raises(RefusedError, match="longer"):
        await intake.append(blob, 8, b"123")
    assert await intake.offset(blob) == 0


SITE = """
import os, signal, sys
from pathlib import Path
import anyio
from eventbus import EventBus, Relay, Scope
from eventbus import _blob_files as files
from eventbus._blob_intake import BlobIntake
from eventbus.artifacts import ArtifactFile, ArtifactLogged
from eventbus.tracking import TRACKING

files.linked = lambda *_: False
append, chunks = BlobIntake.append, 0

async def append_and_die(self, blob, offset, data):
    global chunks
    await append(self, blob, offset, data)
    chunks += 1
    if chunks == 3:
        os.kill(os.getpid(), signal.SIGKILL)

async def main(folder, large):
    async with EventBus(folder / "server", site="server") as server, EventBus(folder / "site-1", site="site-1") as site:
        if large is not None:
            BlobIntake.append = append_and_die
            blob = site.blobs.put_file(large)
            site.publish(ArtifactLogged(key="m", files=[ArtifactFile(path="m", blob=blob)]), scope=Scope.FEDERATED)
        site.subscribe(TRACKING.federated, Relay(server))
        await anyio.sleep(20 if large else 0)

anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
"""


async def test_a_process_killed_amid_a_transfer_is_gone_on_with(tmp_path: Path, large: Path) -> None:
    command = [sys.executable, "-P", "-c", SITE, str(tmp_path)]
    killed = await anyio.to_thread.run_sync(lambda: subprocess.run([*command, str(large)], timeout=60, check=False))
    assert killed.returncode == -signal.SIGKILL
    (part,) = (tmp_path / "server" / "blobs").rglob(".part-*")
    begun = part.stat()
    assert begun.st_size == 3 * CHUNK_BYTES
    await anyio.to_thread.run_sync(lambda: subprocess.run(command, timeout=60, check=True))
    ((path, found),) = files.kept(tmp_path / "server" / "blobs")
    assert path.read_bytes() == LARGE
    assert found.st_ino == begun.st_ino  # the part itself was gone on with
    async with EventBus(tmp_path / "server", site="server") as server:
        records = await server.journal.read({}, 1000)
    assert [blobs_named(record.body)[0] for record in records].count("ArtifactLogged") == 1
