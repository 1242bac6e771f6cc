"""W&B's sink with everything that is more than numbers: what the SDK writes for a user, it writes for our events."""

import json
import os
import shutil
import subprocess
import sys
import wave
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image
from readback import WandbRun, read_wandb_runs
from servers.wandb_server import WandBServer
from waiting import wait_until
from wandb.errors import CommError
from wandb.sdk.artifacts.artifact_manifests.artifact_manifest_v1 import ArtifactManifestV1

from eventbus import Envelope, Event, EventBus, Origin, Scope
from eventbus.artifacts import ArtifactFile, ArtifactLogged, DatasetLogged, ModelLogged
from eventbus.blobs import Blob, BlobStore
from eventbus.media import (
    Array,
    AudioLogged,
    EmbeddingLogged,
    FigureLogged,
    GraphLogged,
    HistogramLogged,
    HtmlLogged,
    ImagesLogged,
    MediaFile,
    MeshLogged,
    MoleculeLogged,
    Object3DLogged,
    PlotlyLogged,
    PrCurveLogged,
    TableLogged,
    TensorLogged,
    VideoLogged,
)
from eventbus.tracking import (
    TRACKING,
    AlertRaised,
    Chart,
    ChartsArranged,
    HParamsLogged,
    LinkedMetricsLogged,
    MetricDefined,
    MetricsLogged,
    RunStarted,
    RunStatus,
    StyledMetricsLogged,
    SummaryUpdated,
    TagsDeleted,
    TagsSet,
)
from receivers import WandBReceiver, _wandb_args
from receivers._wandb_media import binned
from receivers._wandb_resend import unsent
from receivers.abc import Position, Row, RunInfo, TrackerUnavailableError
from receivers.wandb import WandBConfig, WandBSink
from writers import wandb as look_alike

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
        workspace.mkdir(exist_ok=True)
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


def log_everything(api: Any, run: Any, folder: Path) -> None:
    """What a user calls, of the SDK or of its look-alike."""
    folder.mkdir(exist_ok=True)
    run.define_metric("acc", step_metric="epoch", summary="max,min")
    run.define_metric("val/*", step_metric="epoch", step_sync=False, hidden=True)
    (folder / "s.wav").write_bytes(wav())
    (folder / "v.gif").write_bytes(gif())
    (folder / "c.obj").write_text(OBJ)
    (folder / "w.pdb").write_text(PDB)
    classes = {1: "cat", 2: "dog"}
    picture = api.Image(
        PIXELS,
        caption="a caption",
        grouping=3,
        boxes={"found": {"box_data": [BOX], "class_labels": classes}},
        masks={"areas": {"mask_data": MASK, "class_labels": classes}},
    )
    values: dict[str, Any] = {
        "loss": 0.5,
        "picture": picture,
        "pictures": [api.Image(PIXELS, caption="one"), api.Image(PIXELS[::-1].copy())],
        "histogram": api.Histogram(np_histogram=(np.array([1, 2, 3]), np.array([0.0, 0.5, 1.0, 2.0]))),
        "sound": api.Audio(str(folder / "s.wav"), caption="a tone"),
        "film": api.Video(str(folder / "v.gif"), caption="moving"),
        "page": api.Html("<h1>x</h1>"),
        "bare": api.Html("<h1>y</h1>", inject=False),
        "points": api.Object3D(np.array(POINTS)),
        "scene": api.Object3D(str(folder / "c.obj"), caption="a triangle"),
        "water": api.Molecule(str(folder / "w.pdb"), caption="wet"),
    }
    run.log(values)
    cells = [[1, "a", api.Image(PIXELS, caption="in a cell")], [2, None, "a text"]]
    run.log({"mixed": api.Table(columns=["n", "t", "x"], data=cells, allow_mixed_types=True)})
    run.summary.update({"best": {"acc": 0.9}, "note": "x"})
    run.alert("slow", "a step took 9 s", level="WARN", wait_duration=5)
    artifact = api.Artifact("data", "dataset", description="what it is", metadata={"rows": 3})
    (folder / "a.bin").write_bytes(bytes(1000))
    (folder / "b.txt").write_bytes(b"text")
    artifact.add_file(str(folder / "a.bin"), "deep/a.bin")
    artifact.add_file(str(folder / "b.txt"))
    run.log_artifact(artifact, aliases=["best"], tags=["t1"])
    run.log_model(str(folder / "a.bin"), name="net", aliases=["v"])
    run.save(str(folder / "b.txt"), base_path=str(folder), policy="now")
    run.tags = ("plain",)
    run.finish()


def theirs(folder: Path) -> WandbRun:
    """The run of somebody who calls the SDK."""
    folder.mkdir()
    run = wandb.init(mode="offline", project="p", dir=str(folder), reinit="create_new", notes="n", settings=LEAN)
    log_everything(wandb, run, folder)
    wait_until(lambda: read_wandb_runs(folder / "wandb")[0].exit_code == 0)  # the SDK's process writes on for a moment
    return read_wandb_runs(folder / "wandb")[0]


def through_the_bus(folder: Path) -> WandbRun:
    """The run of somebody who calls the look-alike instead, and has a receiver."""
    with EventBus(folder, site="site-1").background() as bus:
        bus.subscribe(TRACKING, WandBReceiver(mode="offline"))
        run = look_alike.init(project="p", notes="n")
        log_everything(look_alike, run, folder / "data")
    assert bus.report().complete
    (run,) = read_wandb_runs(folder / "wandb")
    return run


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


def decoded(value: Any) -> Any:
    """A value with its pictures as pixels and its JSON read: two encoders may write the same in other bytes."""
    if isinstance(value, dict):
        return {key: decoded(inner) for key, inner in value.items() if key not in ("sha256", "size")}
    if isinstance(value, list):
        return [decoded(inner) for inner in value]
    if isinstance(value, bytes) and value.startswith(b"\x89PNG"):
        return Image.open(BytesIO(value)).tobytes()
    return json.loads(value) if isinstance(value, bytes) and value[:1] in b"[{" else value


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


def test_the_same_calls_of_the_look_alike_give_the_same_run(
    both: tuple[WandbRun, WandbRun], tmp_path_factory: pytest.TempPathFactory
) -> None:
    real, _ = both
    mine = through_the_bus(tmp_path_factory.mktemp("bus"))

    assert [decoded(row) for row in rows(mine)] == [decoded(row) for row in rows(real)]
    assert artifacts(mine) == artifacts(real)
    assert (mine.alerts, mine.summary["best"], mine.summary["note"]) == (real.alerts, {"acc": 0.9}, "x")
    assert {name: mine.metrics[name] for name in real.metrics} == real.metrics
    assert (mine.tags, mine.notes, mine.exit_code, mine.files["b.txt"]) == (real.tags, "n", 0, b"text")
    assert real.notes == "n"


# ------------------------------------------------------------------------------------------ what comes again
def singles(first: int, given: Given) -> list[Event]:
    """Rows of every kind, with alerts and artifacts that can't be told apart by what they say."""
    return [
        AlertRaised(title="same", text="same"),
        given.artifact(),
        MetricsLogged(values={"loss": float(first)}, step=first),
        AlertRaised(title="same", text="same"),
        SummaryUpdated(values={"best": first}),
        ImagesLogged(key="picture", step=first, files=given.masked()),
        given.artifact(),
        AlertRaised(title="same", text="same"),
    ]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row], list[Position]]:
    """A run of which 11 of 16 rows are stored, and what its positions were after each."""
    workspace = tmp_path_factory.mktemp("left")
    given = Given(workspace)
    batch = plan(singles(1, given) + singles(2, given))
    sink = WandBSink(WandBConfig(), workspace)
    sink.open(INFO, Position(0))
    positions = [Position(0)]
    for row in batch[:11]:
        sink.write([row])
        wait_until(lambda: sink.flush().row == len(positions))
        positions.append(sink.flush())
    sink.close(None)
    return workspace, batch, positions


@pytest.mark.parametrize("moved", [0, 1, 4, 7], ids=lambda row: f"position {row}")
def test_rows_that_come_again_are_not_doubled(
    tmp_path: Path, left: tuple[Path, list[Row], list[Position]], moved: int
) -> None:
    """The position of the cursor lags behind what the files have: by any part of a batch."""
    workspace, batch, positions = left
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    sink = WandBSink(WandBConfig(), tmp_path)
    sink.open(INFO, positions[moved])
    sink.write(batch[moved:] if moved % 2 else batch)
    assert sink.close(RunStatus.FINISHED) == Position(len(batch), "10")

    runs = read_wandb_runs(tmp_path / "wandb")
    assert [row["loss"] for run in runs for row in run.rows if "loss" in row] == [1, 2]
    assert [row["global_step"] for run in runs for row in run.rows if "picture" in row] == [1, 2]
    assert [len([one for run in runs for one in kind(run)]) for kind in (lambda run: run.alerts, artifacts)] == [6, 4]
    assert runs[-1].summary["best"] == 2


def test_a_run_that_goes_on_knows_its_summary_metrics_and_labels(tmp_path: Path) -> None:
    given = Given(tmp_path)
    events = [
        MetricDefined(name="acc", summary=["max"]),
        SummaryUpdated(values={"best": {"acc": 1}}),
        ImagesLogged(key="picture", step=1, files=given.masked()),
        ChartsArranged(charts=[Chart(title="c", tags=["a", "b"])]),
    ]
    first, _ = store(tmp_path, events, None)
    second, _ = store(tmp_path, events, RunStatus.FINISHED)

    assert second.path != first.path
    assert (second.rows, second.summary["best"]) == ([], {"acc": 1})
    assert second.metrics["acc"] == {
        "step_metric": "global_step", "step_sync": False, "hidden": False, "summary": {"max"},
    }  # fmt: skip
    assert second.config["_wandb"]["mask/class_labels"] == first.config["_wandb"]["mask/class_labels"]
    assert second.config["trackbus"]["charts"] == first.config["trackbus"]["charts"]
    assert second.summary["picture"]["path"] == first.rows[0]["picture"]["path"]


KEYS = [f"val/{number}" for number in range(12)]


def epoch(number: int, value: float) -> list[Event]:
    """One epoch's row, with its number as a metric and one value under many keys."""
    return [MetricsLogged(values={"epoch": float(number), **dict.fromkeys(KEYS, value)}, step=number)]


def test_a_glob_of_the_users_wins_over_the_axis_of_all_charts(tmp_path: Path) -> None:
    """Key by key: W&B's core takes the first glob that it comes across, in no order."""
    given = Given(tmp_path)
    picture = ImagesLogged(key="val/picture", files=[given.file("image/png", png(PIXELS))])
    define = MetricDefined(name="val/*", step_metric="epoch", summary=["max"])
    special = MetricDefined(name="val/1*", summary=["min"])  # the longer one, and without an axis of its own
    named = MetricDefined(name="val/0", summary=["mean"])
    store(tmp_path, [*epoch(0, 3.0), define, special, named, *epoch(1, 5.0), picture], None)
    run, counts = store(tmp_path, [*epoch(0, 3.0), define, special, named, *epoch(1, 5.0), picture, *epoch(2, 4.0)])

    assert counts == {}
    first, again = (found.metrics for found in read_wandb_runs(tmp_path / "wandb"))
    assert {key: again.get(key) for key in first} == first
    by_key = {key: (first[key]["step_metric"], *first[key]["summary"]) for key in KEYS}
    ends = {"0": ("global_step", "mean"), **dict.fromkeys(("1", "10", "11"), ("global_step", "min"))}
    assert by_key == {key: ends.get(key.removeprefix("val/"), ("epoch", "max")) for key in KEYS}
    assert run.rows[0]["epoch"] == 2
    assert [run.summary[key] for key in KEYS] == [{one: 4} for _, one in by_key.values()]


def test_pictures_under_a_glob_have_its_axis(tmp_path: Path) -> None:
    given = Given(tmp_path)
    pictures = [
        ImagesLogged(key=f"val/{number}", step=number, files=[given.file("image/png", png(PIXELS))])
        for number in range(8)
    ]
    define = MetricDefined(name="val/*", step_metric="epoch")
    run, _ = store(tmp_path, [define, MetricsLogged(values={"epoch": 7.0}, step=None), *pictures])

    assert [row["epoch"] for row in run.rows] == [7] * 9


def test_definitions_without_an_axis_leave_the_one_that_was_named(tmp_path: Path) -> None:
    defined = [
        MetricDefined(name="val/*", step_metric="epoch"),
        MetricDefined(name="val/*", summary=["max"]),
        MetricDefined(name="val/*", summary=["max"]),
        MetricDefined(name="acc", step_metric="epoch"),
        MetricDefined(name="acc", hidden=True),
        MetricDefined(name="err", step_metric="epoch"),
        MetricDefined(name="err", overwrite=True),
    ]
    run, _ = store(tmp_path, [*defined, *epoch(0, 3.0), *epoch(1, 2.0)])

    assert [run.rows[1].get(key) for key in ("epoch", *KEYS[:2])] == [1, 2, 2]
    assert [run.summary[key] for key in KEYS] == [{"max": 3}] * len(KEYS)
    assert (run.metrics["err"]["step_metric"], run.metrics["acc"]["hidden"]) == ("global_step", True)


# -------------------------------------------------------------------------------------------- what is converted
@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[WandbRun, Counter[str]]:
    """One run with all that W&B has another form for, or none."""
    workspace = tmp_path_factory.mktemp("converted")
    given = Given(workspace)
    missing = Blob(name="0" * 64, size=7)
    corners = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]]], "float32")
    picture = given.file("image/png", png(PIXELS))
    chart = given.file("application/vnd.plotly.v1+json", json.dumps(CHART).encode())
    parts = [ArtifactFile(path="x", blob=missing), ArtifactFile(path="y", reference="s3://b/y")]
    many = {str(n): n for n in range(101)}
    unread = given.file("image/png", b"no picture")
    lost = picture.model_copy(update={"blob": missing})
    rows = [[1, "x"], ["two", None], [{"histogram": {"values": [1], "bins": [0, 1]}}, inf]]
    table = given.blob(json.dumps(rows).encode())
    events: list[Event] = [
        RunStarted(name="exp", parent="above"),
        StyledMetricsLogged(values={"styled": 1.5}, step=1, new_style=True, double_precision=True),
        LinkedMetricsLogged(values={"linked": 2.5}, step=1, model="net", dataset_name="d", dataset_digest="1"),
        HParamsLogged(params={"lr": 0.1}, metrics={"hp/acc": 0.5}, domain={"lr": [0.1, 0.2]}, step=1),
        PrCurveLogged(key="pr", step=2, curve=[[1.0] * 3] * 4 + [[0.5, 0.75, 1.0], [1.0, 0.5, 0.0]]),
        EmbeddingLogged(
            key="points", step=2, matrix=given.array(np.arange(6, dtype="float32").reshape(2, 3)),
            labels=given.blob(b'[["a", "1"], ["b", "2"]]'), header=["name", "id"], sprite=picture, sprite_size=[4, 4],
        ),
        MeshLogged(
            key="solid", step=2, vertices=given.array(corners), faces=given.array(np.array([[[0, 1, 2]]], "int32")),
            config={"camera": {}},
        ),
        MeshLogged(
            key="cloud", step=2, vertices=given.array(np.concatenate([corners, corners])),
            colors=given.array(np.full((2, 3, 3), 255, "uint8")),
        ),
        HistogramLogged(
            key="wide", step=2, limits=[float(n) for n in range(1000)], counts=[0.0] + [1.0] * 999,
            min=0.5, max=998.5, num=999, sum=0.0, sum_squares=0.0,
        ),
        TensorLogged(key="grid", tensor=given.array(np.arange(4, dtype="int16"))),
        GraphLogged(key="net", graph=given.blob(b"graph")),
        ImagesLogged(key="many", step=3, files=[picture] * 109),
        ImagesLogged(key="partly", step=3, files=[picture, lost, picture]),
        ImagesLogged(key="gone", step=3, files=[lost]),
        ImagesLogged(key="broken", step=3, files=[unread]),
        VideoLogged(key="film", step=3, files=[given.file("video/x-matroska", b"film")]),
        PlotlyLogged(key="chart", step=3, files=[chart]),
        TableLogged(key="odd", step=3, columns=["a", "b"], rows=table, num_rows=3, appends=True),
        TableLogged(key="no table", step=3, columns=["a"], rows=missing, num_rows=3),
        TensorLogged(key="no tensor", tensor=Array(blob=missing, dtype="int16", shape=[1])),
        DatasetLogged(key="digits", digest="d1", source_type="local", context="training", tags={"a": "b"}),
        DatasetLogged(key="digits", digest="d2"),
        ChartsArranged(charts=[Chart(title="c", tags=["a", "b"])]),
        MetricDefined(name="loss", summary=["best"], goal="minimize"),
        MetricDefined(name="_hidden", hidden=True),
        SummaryUpdated(values={"_private": inf}),
        given.artifact(key="a/b", kind="wandb-x", aliases=["v/1"], tags=["a.b"], metadata=many),
        given.artifact(kind="", is_input=True),
        given.artifact(is_input=True, files=parts),
        ModelLogged(key="m", files=[], flavor="pytorch", params={"depth": "2"}, registered_name="best"),
    ]  # fmt: skip
    return store(workspace, events)


def test_numbers_with_a_style_or_a_link_are_metrics(converted: tuple[WandbRun, Counter[str]]) -> None:
    run, counts = converted

    assert counts["link of metrics left out"] == 1
    assert run.rows[0] | {"_runtime": 0} == {
        "styled": 1.5, "linked": 2.5, "global_step": 1, "_step": 3, "_timestamp": 1790000003.0, "_runtime": 0,
    }  # fmt: skip
    assert (run.rows[1]["hp/acc"], run.rows[1]["global_step"], run.config["lr"]) == (0.5, 1, 0.1)
    assert run.config["trackbus"]["hparam_domain"] == {"lr": [0.1, 0.2]}


def table_of(run: WandbRun, key: str) -> Any:
    row = next(row for row in run.rows if key in row)
    return json.loads(run.files[row[key]["path"]])


def test_curves_points_and_meshes_are_tables_and_scenes(converted: tuple[WandbRun, Counter[str]]) -> None:
    run, _ = converted
    row = next(row for row in run.rows if "pr" in row)

    assert table_of(run, "pr") == {
        "columns": ["threshold", "precision", "recall"], "data": [[0, 0.5, 1], [0.5, 0.75, 0.5], [1, 1, 0]],
    }  # fmt: skip
    assert table_of(run, "points") == {
        "columns": ["name", "id", "dim_0", "dim_1", "dim_2"], "data": [["a", "1", 0, 1, 2], ["b", "2", 3, 4, 5]],
    }  # fmt: skip
    assert run.files[row["points/sprite"]["path"]] == png(PIXELS)
    assert b"\nf 1 2 3\n" in run.files[row["solid"]["path"]]
    assert [json.loads(run.files[one["path"]])[1] for one in row["cloud"]["objects"]] == [[1, 0, 0, 255, 255, 255]] * 2


def test_a_histogram_has_as_many_bins_as_the_sdk_takes(converted: tuple[WandbRun, Counter[str]]) -> None:
    run, counts = converted
    wide = next(row["wide"] for row in run.rows if "wide" in row)

    assert (wide["values"], len(wide["bins"]), wide["bins"][:2], wide["bins"][-1]) == (
        [2] * 499 + [1],
        501,
        [0, 2],
        999,
    )
    assert counts["bins of a histogram merged"] == 1


@settings(max_examples=50)
@drawn(
    st.lists(st.floats(0, 9), min_size=1, max_size=30).map(lambda few: few * 40),
    st.one_of(st.none(), st.just(-1.0)),
    st.booleans(),
)
def test_binned_keeps_every_count(counts: list[float], low: float | None, endless: bool) -> None:
    limits = [float(n) for n in range(len(counts) - 1)] + [inf if endless else len(counts)]
    event = HistogramLogged(
        key="h", limits=limits, counts=counts, low=low, min=-0.5, max=9e9, num=1, sum=1, sum_squares=1
    )

    values, edges = binned(event)

    assert (len(edges), len(values) <= 512) == (len(values) + 1, True)
    assert sum(values) == pytest.approx(sum(counts))
    assert all(isfinite(edge) for edge in edges)
    assert edges == sorted(edges)


def test_what_wandb_has_no_form_for_is_kept_as_files_of_the_run(converted: tuple[WandbRun, Counter[str]]) -> None:
    run, counts = converted

    assert np.load(BytesIO(run.files["tensors/grid/0-i1-10.npy"])).tolist() == [0, 1, 2, 3]
    assert run.files["graphs/net/0-i1-11.pb"] == b"graph"
    assert run.files["video/film/3-i1-16.matroska"] == b"film"
    assert b"no picture" in run.files.values()
    assert [counts[f"kept as a file: {name}Logged"] for name in ("Tensor", "Graph", "Video", "Images")] == [1, 1, 1, 1]
    assert [counts[f"refused by W&B: {name}Logged"] for name in ("Video", "Images")] == [1, 1]


def test_a_missing_payload_costs_its_own_value_alone(converted: tuple[WandbRun, Counter[str]]) -> None:
    run, counts = converted
    row = next(row for row in run.rows if "many" in row)

    assert (row["many"]["count"], row["partly"]["count"], counts["pictures left out"]) == (108, 2, 1)
    assert row.keys().isdisjoint({"gone", "broken", "film", "no table"})
    assert [counts[f"payload missing: {name}Logged"] for name in ("Images", "Table", "Tensor", "Artifact")] == [
        2,
        1,
        1,
        1,
    ]
    assert json.loads(run.files[row["chart"]["path"]]) == CHART


def test_a_table_may_mix_types(converted: tuple[WandbRun, Counter[str]]) -> None:
    run, counts = converted

    assert table_of(run, "odd")["data"][1] == ["two", None]
    assert table_of(run, "odd")["data"][2][0] == {"_type": "histogram", "values": [1], "bins": [0, 1]}
    assert counts["appended rows as a table of their own"] == 1


def test_the_configuration_holds_datasets_charts_and_the_run_above(converted: tuple[WandbRun, Counter[str]]) -> None:
    run, _ = converted
    ours = run.config["trackbus"]

    assert ours["datasets"]["digits"] == {
        "d1": {"source_type": "local", "context": "training", "tags": {"a": "b"}}, "d2": {},
    }  # fmt: skip
    assert ours["charts"] == [{"title": "c", "category": "", "kind": "Multiline", "tags": ["a", "b"]}]
    assert (ours["parent"], ours["status"]) == ("above", "FINISHED")


def test_definitions_have_the_users_step_as_their_axis(converted: tuple[WandbRun, Counter[str]]) -> None:
    run, counts = converted

    assert run.metrics["loss"] == {
        "step_metric": "global_step", "step_sync": False, "hidden": False, "summary": {"min"},
    }  # fmt: skip
    assert run.metrics["user_hidden"]["hidden"]
    assert (counts["goal of a metric left out"], run.summary["user_private"]) == (1, "Infinity")


def test_artifacts_get_names_that_wandb_takes(converted: tuple[WandbRun, Counter[str]]) -> None:
    run, counts = converted
    first, used, model = (one for one in run.artifacts if one.kind != "run_table")

    assert (first.name, first.kind, first.aliases, first.tags) == (
        "a_x2f_b",
        "user-wandb-x",
        ("latest", "v-1"),
        ("a-b",),
    )
    assert (len(first.metadata["metadata"]), first.files["far"]) == (101, "s3://bucket/far")
    assert (used.is_input, used.files) == (True, {"y": "s3://b/y"})
    assert (model.kind, model.metadata) == (
        "model", {"trackbus": {"flavor": "pytorch", "params": {"depth": "2"}, "registered_name": "best"}},
    )  # fmt: skip
    assert (run.files["deep/a.bin"], run.files["b.txt"]) == (bytes(1000), b"text")
    assert counts["model not registered"] == 1  # nothing is registered offline
    assert counts["renamed in an artifact"] == 4


def test_what_the_sdk_refuses_of_one_record_stops_none(tmp_path: Path) -> None:
    """A definition and a picture that it refuses are files; an alert that waits for ever, and odd paths, it gets."""
    given = Given(tmp_path)
    paths = ("a", "a", "../x", "/x", "C:x", "deep/b")
    files = [ArtifactFile(path=path, blob=given.blob(str(index).encode())) for index, path in enumerate(paths)]
    image = given.file("image/png", png(PIXELS))
    run, counts = store(
        tmp_path,
        [
            MetricDefined(name="a*b"),
            *(AlertRaised(title=f"wait {wait}", text="x", wait_seconds=wait) for wait in (inf, -inf, nan, 0.0, 5.0)),
            given.artifact(files=files),
            MetricsLogged(values={"loss": 1.0}, step=1),
            ImagesLogged(key="k" * 250, step=1, files=[image]),
            MetricsLogged(values={"loss": 2.0}, step=2),
        ],
    )

    assert [row["loss"] for row in run.rows if "loss" in row] == [1.0, 2.0]
    assert [title for title, *_ in run.alerts] == ["wait inf", "wait -inf", "wait nan", "wait 0.0", "wait 5.0"]
    assert sorted(run.artifacts[-1].files) == ["C-x", "_x2e__x2e__x2f_x", "_x2f_x", "a", "deep/b"]
    assert json.dumps("a*b") in next(str(body) for path, body in run.files.items() if "MetricDefined" in path)
    assert png(PIXELS) in run.files.values()
    assert counts == {
        "refused by W&B: MetricDefined": 1, "kept as a file: MetricDefined": 1, "artifact path taken": 1,
        "renamed in an artifact": 3, "refused by W&B: ImagesLogged": 1, "kept as a file: ImagesLogged": 1,
    }  # fmt: skip


def test_a_refused_artifact_keeps_its_place_when_rows_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may not come twice is counted in the files: so a refused artifact stands there as an empty one."""
    monkeypatch.setattr(ArtifactManifestV1, "add_entry", _refuse)
    rows = plan([Given(tmp_path).artifact(), AlertRaised(title="once", text="x")])
    for again in (True, False):
        sink = WandBSink(WandBConfig(), tmp_path)
        sink.open(INFO, Position(0))
        sink.write(rows)
        assert sink.close(None if again else RunStatus.FINISHED) == Position(2, "2")

    runs = read_wandb_runs(tmp_path / "wandb")
    assert [title for run in runs for title, *_ in run.alerts] == ["once"]
    assert [one.name for run in runs for one in run.artifacts] == ["refused-1"]
    assert b"text" in runs[0].files.values()


def test_a_server_that_is_away_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = WandBSink(WandBConfig(), tmp_path)
    sink.open(INFO, Position(0))
    with monkeypatch.context() as patch:
        patch.setattr(wandb.Run, "define_metric", _away)
        with pytest.raises(CommError):
            sink.write(plan([MetricDefined(name="loss")]))
    sink.write(plan([MetricDefined(name="loss")]))

    assert (sink.close(RunStatus.FINISHED).row, sink.counts) == (1, Counter())


def _refuse(*_: object) -> None:
    raise ValueError("no such path")


def _away(*_: object, **__: object) -> None:
    raise CommError("no connection")


def test_code_is_an_artifact_as_the_sdk_logs_it(tmp_path: Path) -> None:
    given = Given(tmp_path)
    run, counts = store(tmp_path, [given.artifact(key="source-vision", kind="code", aliases=[], tags=[])])

    (found,) = run.artifacts
    assert (found.name, found.kind, counts) == ("source-vision", "code", {})


def test_files_of_the_run_leave_the_sdks_names_alone(tmp_path: Path) -> None:
    given = Given(tmp_path)
    names = ("config.yaml/x", "media", "output.log", "deep/media")
    files = [ArtifactFile(path=name, blob=given.blob(name.encode())) for name in names]
    picture = ImagesLogged(key="p", step=1, files=[given.file("image/png", png(PIXELS))])
    run, counts = store(tmp_path, [ArtifactLogged(key="files", files=files), picture])

    placed = ("kept/config.yaml/x", "kept/media", "kept/output.log", "deep/media")
    assert [run.files[path] for path in placed] == [name.encode() for name in names]
    assert (run.rows[-1]["p"]["_type"], counts) == ("image-file", {"renamed file": 3})
    (folder,) = tmp_path.glob("wandb/offline-run-*/files")
    assert {path.stat().st_nlink for path in folder.rglob("*") if path.is_file()} == {1}  # no links into the store


UNITS = 24


def work(workspace: Path) -> None:
    """What a worker does: writes the batches after its cursor, and moves it to what is stored."""
    cursor = workspace / "cursor"
    committed = Position(*json.loads(cursor.read_text())) if cursor.exists() else Position(0)
    given = Given(workspace)
    rows = plan([event for unit in range(UNITS) for event in [*singles(unit, given), given.table()]])
    sink = WandBSink(WandBConfig(), workspace)
    sink.open(INFO, committed)
    for first in range(0, len(rows), 27):
        batch = rows[first : first + 27]
        if batch[-1].number > committed.row:
            sink.write(batch)
            cursor.with_suffix(".new").write_text(json.dumps(sink.flush()))
            cursor.with_suffix(".new").replace(cursor)
    sys.stdin.read()  # one that is to be killed waits for it
    assert sink.close(RunStatus.FINISHED).row == len(rows)


def helper_is_gone(pid: int) -> bool:
    """Whether the SDK's helper of a process has ended: it writes on for a while after its parent was killed."""
    commands: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            commands.append(entry.read_text(errors="replace"))
    return not any(f"--pid\0{pid}\0" in command for command in commands)


def start(workspace: Path, **pipes: Any) -> subprocess.Popen[str]:
    code = "import sys; from pathlib import Path; from test_wandb_media import work; work(Path(sys.argv[1]))"
    path = os.pathsep.join([str(Path(__file__).resolve().parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(workspace)], env={**os.environ, "PYTHONPATH": path}, text=True, **pipes
    )


@pytest.mark.slow
def test_killed_twice_everything_stands_once(tmp_path: Path) -> None:
    cursor = tmp_path / "cursor"
    for row in (1, 100):
        worker = start(tmp_path, stdin=subprocess.PIPE)
        wait_until(lambda least=row: cursor.exists() and json.loads(cursor.read_text())[0] >= least)
        worker.kill()
        worker.communicate()
        wait_until(lambda pid=worker.pid: helper_is_gone(pid))
    assert start(tmp_path, stdin=subprocess.DEVNULL).wait(90) == 0

    runs = read_wandb_runs(tmp_path / "wandb")
    lines = [row for run in runs for row in run.rows]
    assert [row["loss"] for row in lines if "loss" in row] == list(range(UNITS))
    assert [row["global_step"] for row in lines if "picture" in row] == list(range(UNITS))
    assert len([row for row in lines if "mixed" in row]) == UNITS
    assert len([alert for run in runs for alert in run.alerts]) == 3 * UNITS
    assert len([one for run in runs for one in run.artifacts if one.name == "data"]) == 2 * UNITS
    assert all(run.files[row["picture"]["path"]] == png(PIXELS) for run in runs for row in run.rows if "picture" in row)
    assert (runs[-1].summary["best"], len(runs) > 1) == (UNITS - 1, True)


@pytest.mark.slow
def test_a_large_artifact_costs_little_memory(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from test_wandb_media import *
workspace = Path(sys.argv[1])
given = Given(workspace)
(workspace / "large").write_bytes(b"")
with (workspace / "large").open("r+b") as file:
    file.truncate(200 << 20)
sink = WandBSink(WandBConfig(), workspace)
sink.open(INFO, Position(0))
sink.write(plan([given.artifact(), given.artifact(kind="")]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
blob = given.store.put_file(workspace / "large")
files = [ArtifactFile(path="large", blob=blob)]
sink.write(plan([given.artifact(files=files), given.artifact(kind="", files=files)], 3))
assert sink.close(RunStatus.FINISHED).row == 4
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    path = os.pathsep.join([str(Path(__file__).resolve().parent), *sys.path])
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    said = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, text=True, check=True, timeout=100, stdout=subprocess.PIPE
    )

    assert int(said.stdout.split()[-1]) < 64 << 10  # KiB
    (run,) = read_wandb_runs(tmp_path / "wandb")
    assert len(run.artifacts[1].files["large"]) == len(run.files["large"]) == 200 << 20


# ---------------------------------------------------------------------------------------------- at a server
@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandBServer]:
    wandb.teardown()  # the SDK's process has read its environment
    with WandBServer() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
        running.heal()
        wandb.teardown()


ONLINE = WandBConfig(mode="online", wandb_args={"settings": {"x_file_stream_transmit_interval": 0.2}})


def test_online_everything_stands_at_the_server(tmp_path: Path, server: WandBServer) -> None:
    given = Given(tmp_path)
    sink = WandBSink(ONLINE, tmp_path)
    sink.open(INFO, Position(0))
    used, files = given.artifact(key="in", is_input=True), given.artifact(kind="")
    model = ModelLogged(key="net", files=files.files[:1], aliases=["v"], registered_name="best-net")
    sink.write(plan([*singles(1, given), given.table(), used, files, model]))
    assert sink.close(RunStatus.FINISHED) == Position(12, "7")
    assert sink.counts == {}

    run = server.runs["exp.site-1"]
    loss, picture, table = run.rows()
    assert (loss["loss"], run.summary()["best"], run.files["deep/a.bin"]) == (1, 1, bytes(1000))
    assert run.files[picture["picture"]["path"]] == png(PIXELS)
    assert run.files[picture["picture"]["masks"]["areas"]["path"]]
    assert json.loads(run.files[table["mixed"]["path"]])["data"][0][1] == "a"
    assert [(alert["title"], alert["severity"]) for alert in server.alerts] == [("same", "INFO")] * 3
    assert {(one.name, one.type, one.committed, one.used) for one in server.artifacts} == {
        ("data", "dataset", True, False),
        ("run-exp.site-1-mixed", "run_table", True, False),
        ("in", "dataset", True, True),
        ("net", "model", True, False),
    }
    assert [one.models for one in server.artifacts if one.type == "model"] == [["tester/model-registry/best-net"]]
    data = next(one for one in server.artifacts if one.name == "data")
    assert data.files == {"deep/a.bin": bytes(1000), "b.txt": b"text"}
    assert data.manifest["contents"]["far"]["ref"] == "s3://bucket/far"
    assert (data.aliases, data.tags, data.metadata, data.description) == (
        ["best", "latest"], ["t1"], {"rows": 3}, "what it is",
    )  # fmt: skip
    assert not list((tmp_path / "wandb").glob("run-*/artifacts"))


def test_online_what_a_dead_server_lacks_is_sent_when_the_run_goes_on(
    tmp_path: Path, server: WandBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting in ("init_timeout", "finish_timeout"):
        monkeypatch.setitem(_wandb_args._SETTINGS, setting, 2.0)
    given = Given(tmp_path)
    sink = WandBSink(ONLINE, tmp_path)
    sink.open(INFO, Position(0))
    for endpoint in ("file_stream", "CreateArtifact", "upload"):
        server.fault(endpoint, hang=True)
    model = ModelLogged(key="net", files=[], registered_name="best-net")
    sink.write(plan([*singles(1, given), given.table(), given.artifact(kind=""), model]))
    wait_until(lambda: sink.flush().row == 11)
    position = sink.flush()
    with pytest.raises(TrackerUnavailableError):
        sink.close(RunStatus.FINISHED)
    wandb.teardown()
    assert not server.artifacts
    server.heal()
    server.fault("LinkModel", status=403)
    shutil.rmtree(tmp_path / "blobs")  # they have been acknowledged

    sink = WandBSink(ONLINE, tmp_path)
    sink.open(INFO, position)
    assert sink.close(RunStatus.FINISHED) == Position(11, "6")

    run = server.runs["exp.site-1"]
    assert (run.rows()[0]["loss"], run.summary()["best"], run.files["b.txt"]) == (1, 1, b"text")
    assert run.files[run.rows()[1]["picture"]["path"]] == png(PIXELS)
    assert {(one.name, one.committed) for one in server.artifacts} == {
        ("data", True), ("run-exp.site-1-mixed", True), ("net", True),
    }  # fmt: skip
    assert sink.counts == {"alerts that may not have been sent": 3, "model not registered": 1}
    assert all((file.parent / f"{file.name}.synced").exists() for file in tmp_path.glob("wandb/run-*/*.wandb"))


def test_what_was_recorded_offline_is_synced_whole(tmp_path: Path, server: WandBServer) -> None:
    given = Given(tmp_path)
    store(tmp_path, [*singles(1, given), given.table(), given.artifact(kind="")])
    shutil.rmtree(tmp_path / "blobs")

    command = [sys.executable, "-P", "-m", "wandb", "sync", str(tmp_path / "wandb")]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)

    run = server.runs["exp.site-1"]
    assert (run.rows()[0]["loss"], run.summary()["best"], run.files["b.txt"]) == (1, 1, b"text")
    assert run.files[run.rows()[1]["picture"]["path"]] == png(PIXELS)
    assert {one.name: one.committed for one in server.artifacts} == {"data": True, "run-exp.site-1-mixed": True}
    assert server.artifacts[0].files == {"deep/a.bin": bytes(1000), "b.txt": b"text"}
    assert len(server.alerts) == 3
    (file,) = (tmp_path / "wandb").glob("*/*.wandb")
    assert unsent([file]) == []
