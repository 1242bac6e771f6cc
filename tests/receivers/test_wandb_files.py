from pathlib import Path

from readback import raw_wandb

from eventbus.artifacts import ArtifactFile, ArtifactLogged
from eventbus.blobs import BlobStore
from eventbus.tracking import RunStatus
from receivers.abc import Position
from receivers.testing import make_rows, make_run
from receivers.wandb import WandBConfig, WandBSink


def test_files_with_names_of_the_sdks_own_lie_beside_them(tmp_path: Path) -> None:
    names = ("config.yaml", "wandb-summary.json", "sub/config.yaml", "notes.txt")
    store = BlobStore(tmp_path / "blobs")
    files = [ArtifactFile(path=name, blob=store.put(name.encode())) for name in names]
    sink = WandBSink(WandBConfig(mode="offline"), tmp_path)
    sink.open(make_run("names"), Position(0))
    sink.write(make_rows([ArtifactLogged(key="files", files=files)]))
    sink.close(RunStatus.FINISHED)

    (folder,) = tmp_path.glob("wandb/offline-run-*/files")
    placed = ("kept/config.yaml", "kept/wandb-summary.json", "sub/config.yaml", "notes.txt")
    assert [(folder / path).read_bytes() for path in placed] == [name.encode() for name in names]
    named = {item.path for kind, record in raw_wandb(tmp_path / "wandb") if kind == "files" for item in record.files}
    assert named >= set(placed)
    assert sink.counts == {"renamed file": 2}
