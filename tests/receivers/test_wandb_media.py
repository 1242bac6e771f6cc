"""W&B's sink with everything that is more than numbers: what the SDK writes for a user, it writes for our events."""

import json
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image
from readback import WandbRun, read_wandb_runs

from eventbus import Envelope, Event, Origin, Scope
from eventbus.artifacts import ArtifactFile, ArtifactLogged, ModelLogged
from eventbus.blobs import Blob, BlobStore
from eventbus.media import (
    Array,
    AudioLogged,
    FigureLogged,
    HistogramLogged,
    HtmlLogged,
    ImagesLogged,
    MediaFile,
    MoleculeLogged,
    Object3DLogged,
    TableLogged,
    VideoLogged,
)
from eventbus.tracking import (
    AlertRaised,
    MetricDefined,
    MetricsLogged,
    RunStatus,
    SummaryUpdated,
    TagsDeleted,
    TagsSet,
)
from receivers.abc import Position, Row, RunInfo
from receivers.wandb import WandBConfig, WandBSink

ORIGIN = Origin(site="site-1", rank=0, incarnation="i1", job="job")
START_NS = 1_790_000_000_000_000_000
INFO = RunInfo(id="exp", site="site-1", name="exp", group="job", started_ns=START_NS)
PIXELS = (np.arange(6 * 8 * 3) * 5 % 256).astype("uint8").reshape(6, 8, 3)
MASK = (np.arange(48) % 3).astype("uint8").reshape(6, 8)
BOX = {"position": {"minX": 0.1, "maxX": 0.2, "minY": 0.1, "maxY": 0.3}, "class_id": 1, "scores": {"s": 0.5}}
CHART = {"data": [{"type": "bar", "y": [1, 3, 2]}], "layout": {}}
POINTS = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.5]]
OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
LEAN = wandb.Settings(x_save_requirements=False, x_disable_meta=True, x_disable_stats=True, disable_job_creation=True)
PDB = "HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00  0.00           O\nEND\n"


def png(pixels: Any) -> bytes:
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def wav() -> bytes:
    data = BytesIO()
    with wave.open(data, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(200))
    return data.getvalue()


def gif() -> bytes:
    data = BytesIO()
    frames = [Image.fromarray(PIXELS), Image.fromarray(PIXELS[::-1].copy())]
    frames[0].save(data, "GIF", save_all=True, append_images=frames[1:])
    return data.getvalue()


@pytest.fixture(autouse=True, scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a worker's environment holds, and nobody's own login."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WandBConfig().environment().items():
            patch.setenv(name, value)
        patch.setenv("NETRC", str(tmp_path_factory.mktemp("netrc") / "netrc"))
        patch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        patch.setenv("WANDB_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
            patch.delenv(name, raising=False)
        yield
        wandb.teardown()


class Given:
    """Puts payloads into a store, and names them."""

    def __init__(self, workspace: Path) -> None:
        self.store = BlobStore(workspace / "blobs")

    def blob(self, data: bytes) -> Blob:
        return self.store.put(data)

    def file(self, media_type: str, data: bytes, caption: str | None = None, **details: Any) -> MediaFile:
        return MediaFile(blob=self.blob(data), media_type=media_type, caption=caption, details=details)

    def array(self, values: Any) -> Array:
        return Array(blob=self.blob(values.tobytes()), dtype=str(values.dtype), shape=list(values.shape))

    def masked(self) -> list[MediaFile]:
        classes = {"1": "cat", "2": "dog"}
        details = {
            "grouping": 3,
            "boxes": {"found": {"box_data": [BOX], "class_labels": classes}},
            "masks": {"areas": {"file": 1, "class_labels": classes}},
        }
        picture = self.file("image/png", png(PIXELS), "a caption", extension="png", kind="image", **details)
        return [picture, self.file("image/png", png(MASK), "areas", is_mask=True)]

    def table(self) -> TableLogged:
        rows = [[1, "a", {"file": 0}], [2, None, "a text"]]
        return TableLogged(
            key="mixed",
            step=2,
            columns=["n", "t", "x"],
            rows=self.blob(json.dumps(rows).encode()),
            num_rows=2,
            files=[self.file("image/png", png(PIXELS), "in a cell", kind="image")],
        )

    def artifact(self, **more: Any) -> ArtifactLogged:
        files = [
            ArtifactFile(path="deep/a.bin", blob=self.blob(bytes(1000))),
            ArtifactFile(path="b.txt", blob=self.blob(b"text")),
            ArtifactFile(path="far", reference="s3://bucket/far"),
        ]
        return ArtifactLogged(**{
            "key": "data", "kind": "dataset", "files": files, "aliases": ["best"], "tags": ["t1"],
            "metadata": {"rows": 3}, "description": "what it is", **more,
        })  # fmt: skip


def plan(events: Sequence[Event], first: int = 1) -> list[Row]:
    return [
        Row(number, Envelope(event, "t", Scope.LOCAL, "exp", START_NS + number * 10**9, ORIGIN, number))
        for number, event in enumerate(events, first)
    ]


def store(
    workspace: Path, events: Sequence[Event], status: RunStatus | None = RunStatus.FINISHED
) -> tuple[WandbRun, Counter[str]]:
    sink = WandBSink(WandBConfig(), workspace)
    sink.open(INFO, Position(0))
    sink.write(plan(events))
    assert sink.close(status).row == len(events)
    return read_wandb_runs(workspace / "wandb")[-1], sink.counts


def until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def theirs(folder: Path) -> WandbRun:
    """The run of somebody who calls the SDK."""
    folder.mkdir()
    run = wandb.init(mode="offline", project="p", dir=str(folder), reinit="create_new", settings=LEAN)
    run.define_metric("acc", step_metric="epoch", summary="max,min")
    run.define_metric("val/*", step_metric="epoch", step_sync=False, hidden=True)
    (folder / "s.wav").write_bytes(wav())
    (folder / "v.gif").write_bytes(gif())
    (folder / "c.obj").write_text(OBJ)
    (folder / "w.pdb").write_text(PDB)
    classes = {1: "cat", 2: "dog"}
    picture = wandb.Image(
        PIXELS,
        caption="a caption",
        grouping=3,
        boxes={"found": {"box_data": [BOX], "class_labels": classes}},
        masks={"areas": {"mask_data": MASK, "class_labels": classes}},
    )
    values: dict[str, Any] = {
        "loss": 0.5,
        "picture": picture,
        "pictures": [wandb.Image(PIXELS, caption="one"), wandb.Image(PIXELS[::-1].copy())],
        "histogram": wandb.Histogram(np_histogram=(np.array([1, 2, 3]), np.array([0.0, 0.5, 1.0, 2.0]))),
        "sound": wandb.Audio(str(folder / "s.wav"), caption="a tone"),
        "film": wandb.Video(str(folder / "v.gif"), caption="moving"),
        "page": wandb.Html("<h1>x</h1>"),
        "bare": wandb.Html("<h1>y</h1>", inject=False),
        "points": wandb.Object3D(np.array(POINTS)),
        "scene": wandb.Object3D(str(folder / "c.obj"), caption="a triangle"),
        "water": wandb.Molecule(str(folder / "w.pdb"), caption="wet"),
    }
    run.log(values)
    cells: list[Any] = [
        [1, "a", wandb.Image(PIXELS, caption="in a cell")],
        [2, None, "a text"],
    ]
    run.log({"mixed": wandb.Table(columns=["n", "t", "x"], data=cells, allow_mixed_types=True)})
    run.summary.update({"best": {"acc": 0.9}, "note": "x"})
    run.alert("slow", "a step took 9 s", level="WARN", wait_duration=5)
    artifact = wandb.Artifact("data", "dataset", description="what it is", metadata={"rows": 3})
    (folder / "a.bin").write_bytes(bytes(1000))
    (folder / "b.txt").write_bytes(b"text")
    artifact.add_file(str(folder / "a.bin"), "deep/a.bin")
    artifact.add_file(str(folder / "b.txt"))
    run.log_artifact(artifact, aliases=["best"], tags=["t1"])
    run.log_model(str(folder / "a.bin"), name="net", aliases=["v"])
    run.save(str(folder / "b.txt"), base_path=str(folder), policy="now")
    run.tags = ("plain",)
    run.finish()
    until(lambda: read_wandb_runs(folder / "wandb")[0].exit_code == 0)  # the SDK's process writes on for a moment
    return read_wandb_runs(folder / "wandb")[0]


def ours(workspace: Path) -> WandbRun:
    """The run of somebody who logs the same by events."""
    given = Given(workspace)
    two = [given.file("image/png", png(PIXELS), "one"), given.file("image/png", png(PIXELS[::-1].copy()))]
    cloud = json.dumps(POINTS, separators=(",", ":")).encode()
    artifact = given.artifact()
    events: list[Event] = [
        MetricDefined(name="acc", step_metric="epoch", summary=["max", "min"]),
        MetricDefined(name="val/*", step_metric="epoch", step_sync=False, hidden=True),
        MetricsLogged(values={"loss": 0.5}, step=1),
        ImagesLogged(key="picture", step=1, files=given.masked()),
        FigureLogged(key="pictures", step=1, files=two),
        HistogramLogged(
            key="histogram", step=1, low=0.0, limits=[0.5, 1.0, 2.0], counts=[1, 2, 3],
            min=0.1, max=1.9, num=6, sum=5.0, sum_squares=6.0,
        ),
        AudioLogged(key="sound", step=1, files=[given.file("audio/wav", wav(), "a tone")]),
        VideoLogged(key="film", step=1, files=[given.file("image/gif", gif(), "moving")]),
        HtmlLogged(key="page", step=1, files=[given.file("text/html", b"<h1>x</h1>", inject=True)]),
        HtmlLogged(key="bare", step=1, files=[given.file("text/html", b"<h1>y</h1>", inject=False)]),
        Object3DLogged(key="points", step=1, files=[given.file("application/json", cloud, extension="pts.json")]),
        Object3DLogged(key="scene", step=1, files=[given.file("model/obj", OBJ.encode(), "a triangle")]),
        MoleculeLogged(key="water", step=1, files=[given.file("chemical/x-pdb", PDB.encode(), "wet")]),
        given.table(),
        SummaryUpdated(values={"best": {"acc": 0.9}, "note": "x"}),
        AlertRaised(title="slow", text="a step took 9 s", level="WARN", wait_seconds=5),
        artifact.model_copy(update={"files": artifact.files[:2]}),
        ModelLogged(key="net", files=[ArtifactFile(path="a.bin", blob=given.blob(bytes(1000)))], aliases=["v"]),
        ArtifactLogged(key="files", files=artifact.files[1:2]),
        TagsSet(values={"plain": "", "gone": "1"}),
        TagsDeleted(keys=["gone"]),
    ]  # fmt: skip
    run, counts = store(workspace, events)
    assert counts == {}
    return run


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[WandbRun, WandbRun]:
    folder = tmp_path_factory.mktemp("both")
    return theirs(folder / "theirs"), ours(folder / "ours")


def plain(run: WandbRun, value: Any) -> Any:
    """A value without what says where and when it was logged; a file by its bytes, an artifact by its files'."""
    if isinstance(value, list):
        return [plain(run, inner) for inner in value]
    if not isinstance(value, dict):
        return run.files.get(value, value) if isinstance(value, str) else value
    if value.get("_type") == "images/separated":
        value = {**value, "filenames": [run.files[path] for path in value["filenames"]]}
    away = ("artifact_path", "_latest_artifact_path")
    return {key: plain(run, inner) for key, inner in value.items() if key not in away}


def rows(run: WandbRun) -> list[dict[str, Any]]:
    away = ("_step", "_timestamp", "_runtime", "global_step", "epoch")
    return [{key: plain(run, value) for key, value in row.items() if key not in away} for row in run.rows]


def artifacts(run: WandbRun) -> list[Any]:
    found: list[Any] = []
    for one in run.artifacts:
        name = one.name.replace(run.run_id, "RUN")
        sizes = {path: len(data) for path, data in one.files.items()}
        files = sizes if one.kind != "run_table" else len(sizes)  # the digests below tell the rest
        found.append((name, one.kind, one.aliases, one.tags, one.description, one.metadata, one.is_input, files))
    return found


# ---------------------------------------------------------------------------------------------- as the SDK has it
def test_rows_hold_what_the_sdk_makes_of_the_same_values(both: tuple[WandbRun, WandbRun]) -> None:
    real, mine = both

    assert [sorted(row) for row in rows(mine)] == [sorted(row) for row in rows(real)]
    for one, other in zip(rows(mine), rows(real), strict=True):
        for key, value in other.items():
            assert one[key] == value, key


def test_files_stand_where_the_rows_say(both: tuple[WandbRun, WandbRun]) -> None:
    real, mine = both

    assert sorted(mine.files.values()) == sorted(real.files.values())
    assert {Path(path).suffix for path in mine.files} == {Path(path).suffix for path in real.files}
    names = [path for path in mine.files if path.startswith("media/images/picture_")]
    assert names[0].startswith("media/images/picture_13_")  # our row's number, whichever process logs it


def test_artifacts_models_and_files_are_the_same(both: tuple[WandbRun, WandbRun]) -> None:
    real, mine = both

    assert artifacts(mine) == artifacts(real)
    assert [one.digest for one in mine.artifacts[1:]] == [one.digest for one in real.artifacts[1:]]
    assert mine.files["b.txt"] == real.files["b.txt"] == b"text"


def test_metrics_summary_alerts_and_tags_are_the_same(both: tuple[WandbRun, WandbRun]) -> None:
    real, mine = both

    assert {name: mine.metrics[name] for name in real.metrics} == real.metrics
    assert mine.alerts == real.alerts == [("slow", "a step took 9 s", "WARN", 5000)]
    assert (mine.summary["best"], mine.summary["note"]) == (real.summary["best"], real.summary["note"])
    assert mine.tags == real.tags == ("plain",)
    assert {"mask/class_labels", "bounding_box/class_labels"} <= mine.config["_wandb"].keys()
    assert mine.config["trackbus"]["tags"] == {"plain": ""}
