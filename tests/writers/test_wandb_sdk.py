"""Our light twins beside the SDK's own types: the same arguments, the same files, and its objects are taken."""

import inspect
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from eventbus import Envelope, EventBus
from eventbus.artifacts import ArtifactLogged
from eventbus.errors import BadInputError
from eventbus.media import (
    AudioLogged,
    HistogramLogged,
    HtmlLogged,
    ImagesLogged,
    MediaLogged,
    MoleculeLogged,
    Object3DLogged,
    PlotlyLogged,
    TableLogged,
    VideoLogged,
)
from writers import WandBWriter
from writers import wandb as ours

pytestmark = pytest.mark.filterwarnings("default")

StoredOn = Callable[..., list[Envelope[Any]]]

RUN_METHODS = (
    "alert",
    "define_metric",
    "finish_artifact",
    "link_artifact",
    "link_model",
    "log_artifact",
    "log_model",
    "mark_preempting",
    "restore",
    "save",
    "status",
    "unwatch",
    "upsert_artifact",
    "use_artifact",
    "use_model",
    "watch",
    "write_logs",
)
RUN_FACTS = (
    "config",
    "dir",
    "disabled",
    "entity",
    "group",
    "id",
    "job_type",
    "name",
    "notes",
    "offline",
    "path",
    "project",
    "project_url",
    "resumed",
    "settings",
    "start_time",
    "starting_step",
    "step",
    "sweep_id",
    "sweep_url",
    "tags",
    "url",
)
TYPES = ("Artifact", "Audio", "Histogram", "Html", "Image", "Molecule", "Object3D", "Plotly", "Table", "Video")
METHODS = (
    "Artifact.add",
    "Artifact.add_dir",
    "Artifact.add_file",
    "Artifact.add_reference",
    "Artifact.new_file",
    "Artifact.is_draft",
    "Artifact.wait",
    "Object3D.from_file",
    "Object3D.from_numpy",
    "Object3D.from_point_cloud",
    "Table.add_column",
    "Table.add_computed_columns",
    "Table.add_data",
    "Table.add_row",
    "Table.get_column",
    "Table.get_dataframe",
    "Table.iterrows",
)
PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@pytest.fixture(scope="module")
def sdk() -> Any:
    import wandb

    return wandb


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[EventBus]:
    with EventBus(tmp_path / "workspace").background() as bus:
        yield bus


def arguments(function: Callable[..., object], left_out: tuple[str, ...] = ()) -> list[tuple[str, object]]:
    found = inspect.signature(function).parameters.values()
    return [(one.name, one.default) for one in found if one.name not in left_out]


# ------------------------------------------------------------------------------------------------------ signatures
def test_init_is_called_as_wandbs(sdk: Any) -> None:
    assert arguments(ours.init, ("bus", "anonymous")) == arguments(sdk.init, ("anonymous",))


@pytest.mark.parametrize("method", RUN_METHODS)
def test_a_method_of_the_run_is_called_as_wandbs(sdk: Any, method: str) -> None:
    assert arguments(getattr(ours.Run, method)) == arguments(getattr(sdk.Run, method))


def test_log_code_is_called_as_wandbs(sdk: Any) -> None:
    choices = ("include_fn", "exclude_fn")
    assert arguments(ours.Run.log_code, choices) == arguments(sdk.Run.log_code, choices)
    assert list(inspect.signature(ours.Run.log_code).parameters) == list(inspect.signature(sdk.Run.log_code).parameters)


@pytest.mark.parametrize("fact", RUN_FACTS)
def test_a_run_says_what_wandbs_says(sdk: Any, bus: EventBus, fact: str) -> None:
    assert hasattr(sdk.Run, fact) or fact in sdk.Run.__annotations__
    assert hasattr(WandBWriter(), fact)


@pytest.mark.parametrize("name", TYPES)
def test_a_type_is_made_as_wandbs(sdk: Any, name: str) -> None:
    assert arguments(getattr(ours, name)) == arguments(getattr(sdk, name))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_a_type_is_called_as_wandbs(sdk: Any, method: str) -> None:
    name, _, function = method.partition(".")
    assert arguments(getattr(getattr(ours, name), function)) == arguments(getattr(getattr(sdk, name), function))


def test_levels_of_alerts_are_wandbs(sdk: Any) -> None:
    assert {one.name: one.value for one in ours.AlertLevel} == {one.name: one.value for one in sdk.AlertLevel}


# ------------------------------------------------------------------------------------------------------- same files
def read(media: Any, bus: EventBus, kind: type[MediaLogged], stored_on: StoredOn) -> bytes:
    WandBWriter().log({"key": media})
    return bus.blobs.read(stored_on(bus, kind)[-1].event.files[0].blob)


@pytest.mark.parametrize(
    "options",
    [
        {"data_or_path": PIXELS},
        {"data_or_path": PIXELS / 255.0},
        {"data_or_path": PIXELS[:, :, 0].astype(float)},
        {"data_or_path": np.dstack([PIXELS, PIXELS[:, :, 0]])},
        {"data_or_path": PIXELS, "mode": "L"},
        {"data_or_path": PIXELS, "file_type": "jpg"},
        {"data_or_path": PIXELS, "file_type": "bmp"},
        {"data_or_path": torch.from_numpy(PIXELS).permute(2, 0, 1)},
        {"data_or_path": torch.from_numpy(PIXELS[:, :, :1]).permute(2, 0, 1).float()},
        {"data_or_path": Pillow.fromarray(PIXELS).convert("P")},
    ],
)
def test_a_picture_has_the_pixels_that_wandb_stores(
    sdk: Any, bus: EventBus, stored_on: StoredOn, options: dict[str, Any]
) -> None:
    theirs = Pillow.open(sdk.Image(**options)._path)
    found = Pillow.open(io.BytesIO(read(ours.Image(**options), bus, ImagesLogged, stored_on)))

    assert (found.format, found.mode, found.size) == (theirs.format, theirs.mode, theirs.size)
    assert np.array_equal(np.asarray(found), np.asarray(theirs))


def test_histograms_scenes_and_charts_are_what_wandb_stores(sdk: Any, bus: EventBus, stored_on: StoredOn) -> None:
    import plotly.graph_objects as go

    values, points, chart = np.random.default_rng(0).normal(size=1000), np.ones((2, 6)), go.Figure(go.Bar(y=[1, 2]))

    WandBWriter().log({"h": ours.Histogram(values)})
    [counted] = [one.event for one in stored_on(bus, HistogramLogged)]
    theirs = sdk.Histogram(values)
    assert (counted.counts, [counted.low, *counted.limits]) == (theirs.histogram, theirs.bins)
    pairs: list[tuple[type[MediaLogged], Any, Any]] = [
        (Object3DLogged, ours.Object3D(points), sdk.Object3D(points)),
        (PlotlyLogged, ours.Plotly(chart), sdk.Plotly(chart)),
    ]
    for kind, mine, real in pairs:
        assert json.loads(read(mine, bus, kind, stored_on)) == json.loads(Path(real._path).read_text())


@pytest.mark.parametrize(("dtype", "loudest"), [("f8", 1.1), ("f4", 0.5), ("i2", 30_000), ("i4", 2**30)])
def test_a_sound_is_what_wandb_stores(sdk: Any, bus: EventBus, stored_on: StoredOn, dtype: str, loudest: float) -> None:
    import soundfile

    samples = (loudest * np.sin(np.linspace(0, 20, 400))).reshape(200, 2).astype(dtype)

    theirs, rate = soundfile.read(sdk.Audio(samples, 8000)._path, dtype="int16")
    found, same = soundfile.read(
        io.BytesIO(read(ours.Audio(samples, 8000), bus, AudioLogged, stored_on)), dtype="int16"
    )

    assert rate == same == 8000
    assert np.array_equal(found, theirs)


# ----------------------------------------------------------------------------------------------- the SDK's own objects
def test_objects_of_the_sdk_are_taken(sdk: Any, bus: EventBus, stored_on: StoredOn, tmp_path: Path) -> None:
    for name in ("cube.obj", "water.pdb", "film.mp4"):
        (tmp_path / name).write_text(name)
    image = sdk.Image(
        PIXELS,
        caption="c",
        grouping=2,
        classes=[{"id": 1, "name": "cat"}],
        boxes={"b": {"box_data": [{"position": {"middle": [1, 2], "width": 3, "height": 4}, "class_id": 1}]}},
        masks={"m": {"mask_data": PIXELS[:, :, 0], "class_labels": {1: "cat"}}},
    )

    WandBWriter().log(
        {
            "image": image,
            "images": [sdk.Image(PIXELS), sdk.Image(PIXELS)],
            "audio": sdk.Audio(np.zeros(10), 8000, "a"),
            "video": sdk.Video(str(tmp_path / "film.mp4"), "v"),
            "html": sdk.Html("<p>"),
            "object": sdk.Object3D(str(tmp_path / "cube.obj"), "o"),
            "molecule": sdk.Molecule(str(tmp_path / "water.pdb"), "m"),
            "histogram": sdk.Histogram(np_histogram=([1, 2], [0.0, 1.0, 2.0])),
            "table": sdk.Table(columns=["a", "b"], data=[[1, sdk.Image(PIXELS)]]),
        }
    )

    found = {one.event.key: one.event for one in stored_on(bus, (MediaLogged, HistogramLogged, TableLogged))}
    kinds = (ImagesLogged, ImagesLogged, AudioLogged, VideoLogged, HtmlLogged, Object3DLogged, MoleculeLogged)
    assert [type(one) for one in found.values()] == [*kinds, HistogramLogged, TableLogged]
    picture, mask = found["image"].files
    details = picture.details
    assert bus.blobs.read(picture.blob) == Path(image._path).read_bytes()
    assert (picture.caption, details["grouping"], details["width"], details["masks"]) == (
        "c",
        2,
        5,
        {"m": {"file": 1, "class_labels": {"1": "cat"}}},
    )
    assert {"id": 1, "name": "cat"} in details["classes"]
    assert details["boxes"]["b"]["class_labels"] == {"1": "class_1"}
    assert np.array_equal(np.asarray(Pillow.open(io.BytesIO(bus.blobs.read(mask.blob)))), PIXELS[:, :, 0])
    assert len(found["images"].files) == 2
    files = {key: found[key].files[0] for key in ("audio", "video", "html", "object", "molecule")}
    assert {key: (one.caption, one.details["extension"]) for key, one in files.items()} == {
        "audio": ("a", "wav"),
        "video": ("v", "mp4"),
        "html": (None, "html"),
        "object": ("o", "obj"),
        "molecule": ("m", "pdb"),
    }
    assert bus.blobs.read(files["video"].blob) == b"film.mp4"
    assert (bus.blobs.read(files["html"].blob).endswith(b"<p>"), files["html"].details["inject"]) == (True, False)
    assert (found["histogram"].counts, found["histogram"].limits) == ([1.0, 2.0], [1.0, 2.0])
    assert json.loads(bus.blobs.read(found["table"].rows)) == [[1, {"file": 0}]]


def test_charts_and_incremental_tables_of_the_sdk(sdk: Any, bus: EventBus, stored_on: StoredOn) -> None:
    import plotly.graph_objects as go

    writer, table = WandBWriter(), sdk.Table(columns=["a"], log_mode="INCREMENTAL")

    for value in (1, 2):
        table.add_data(value)
        writer.log({"table": table, "chart": sdk.Plotly(go.Figure())})

    tables = [one.event for one in stored_on(bus, TableLogged)]
    assert [(json.loads(bus.blobs.read(one.rows)), one.appends) for one in tables] == [([[1]], False), ([[2]], True)]
    assert [one.event.files[0].details["extension"] for one in stored_on(bus, PlotlyLogged)] == ["plotly.json"] * 2


def test_an_artifact_of_the_sdk_is_taken(sdk: Any, bus: EventBus, stored_on: StoredOn, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one")
    data = sdk.Artifact("data", "dataset", "all of it", {"rows": 3})
    data.add_file(str(tmp_path / "one.txt"), name="under/1.txt")
    data.add_reference("https://127.0.0.1:1/two.bin", name="two.bin", checksum=False)

    WandBWriter().log_artifact(data, aliases=["best"])

    [event] = [one.event for one in stored_on(bus, ArtifactLogged)]
    assert (event.key, event.kind, event.description, event.metadata) == ("data", "dataset", "all of it", {"rows": 3})
    assert {one.path: one.reference or bus.blobs.read(one.blob) for one in event.files} == {
        "under/1.txt": b"one",
        "two.bin": "https://127.0.0.1:1/two.bin",
    }


def test_what_can_not_be_carried_is_refused_by_name(sdk: Any, bus: EventBus) -> None:
    chart = sdk.plot.line(sdk.Table(columns=["x", "y"], data=[[1, 2]]), "x", "y")

    with pytest.raises(BadInputError, match="'chart': wandb's CustomChart can't be carried: log its data as a Table"):
        WandBWriter().log({"chart": chart})
    with pytest.raises(BadInputError, match="wandb's JoinedTable can't be carried: log the two Tables"):
        WandBWriter().log({"joined": sdk.JoinedTable(sdk.Table(), sdk.Table(), "Input")})
