"""The light twins of W&B's data types, logged, and read back from the journal and the blob store."""

import io
import json
import wave
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from eventbus import Envelope, EventBus
from eventbus.blobs import Blob
from eventbus.errors import BadInputError
from eventbus.media import (
    AudioLogged,
    FigureLogged,
    HistogramLogged,
    HtmlLogged,
    ImagesLogged,
    MoleculeLogged,
    Object3DLogged,
    PlotlyLogged,
    TableLogged,
    TensorLogged,
    VideoLogged,
)
from eventbus.tracking import MetricsLogged, TextLogged
from writers import WandBWriter
from writers import wandb as ours
from writers._writer import LEFT_OUT

StoredOn = Callable[..., list[Envelope[Any]]]
Logged = Callable[..., Any]

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[EventBus]:
    with EventBus(tmp_path / "workspace", job="hello", run="run-1").background() as bus:
        yield bus


@pytest.fixture
def logged(bus: EventBus, stored_on: StoredOn) -> Logged:
    """Log one value and return its event."""

    def log(value: object, kind: type[Any]) -> Any:
        WandBWriter().log({"key": value}, step=3)
        [found] = stored_on(bus, kind)
        assert (found.event.key, found.event.step) == ("key", 3)
        return found.event

    return log


def content(bus: EventBus, blob: Blob | None) -> bytes:
    assert blob is not None
    return bus.blobs.read(blob)


def pixels(bus: EventBus, blob: Blob) -> Any:
    return np.asarray(Pillow.open(io.BytesIO(content(bus, blob))))


# ------------------------------------------------------------------------------------------------------- pictures
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS.astype(float) + 0.7, PIXELS),
        (PIXELS[:, :, 0], PIXELS[:, :, 0]),
        (PIXELS[:, :, :1], PIXELS[:, :, 0]),
        (PIXELS[None], PIXELS),
        (torch.from_numpy(PIXELS).permute(2, 0, 1), PIXELS),
        (torch.from_numpy(PIXELS[:, :, 0]), PIXELS[:, :, 0]),
        (Pillow.fromarray(PIXELS), PIXELS),
        (ours.Image(PIXELS, caption="other", masks={"m": {"mask_data": PIXELS[:, :, 0]}}), PIXELS),
    ],
)
def test_pixels_are_kept_as_they_are(bus: EventBus, logged: Logged, given: Any, expected: Any) -> None:
    [file] = logged(ours.Image(given), ImagesLogged).files

    assert np.array_equal(pixels(bus, file.blob), expected)
    channels = 1 if expected.ndim == 2 else 3
    sizes = {"width": 5, "height": 4, "channels": channels}
    assert (file.media_type, file.caption, file.details) == (
        "image/png",
        None,
        {"kind": "image", "extension": "png", **sizes},
    )


@pytest.mark.parametrize(
    ("mode", "file_type", "form"), [("L", None, "PNG"), ("RGB", "bmp", "BMP"), (None, "jpg", "JPEG")]
)
def test_pixels_are_stored_as_asked(bus: EventBus, logged: Logged, mode: Any, file_type: Any, form: str) -> None:
    rgba = np.dstack([PIXELS, PIXELS[:, :, 0]])

    [file] = logged(ours.Image(rgba, mode=mode, file_type=file_type), ImagesLogged).files

    found = Pillow.open(io.BytesIO(content(bus, file.blob)))
    assert (found.format, found.mode) == (form, mode or "RGB")
    assert file.details["extension"] == (file_type or "png")


def test_a_file_is_kept_byte_by_byte_and_may_be_deleted(bus: EventBus, logged: Logged, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpeg"
    Pillow.fromarray(PIXELS).save(path)
    expected = path.read_bytes()

    [file] = logged(ours.Image(str(path), caption="a cat"), ImagesLogged).files
    path.unlink()

    assert content(bus, file.blob) == expected
    assert (file.media_type, file.caption, file.details["width"]) == ("image/jpeg", "a cat", 5)


def test_boxes_masks_classes_and_groups_travel(bus: EventBus, logged: Logged) -> None:
    mask = np.array([[0, 1, 2, 3, 255]] * 4)
    box = {
        "position": {"minX": 0.1, "maxX": np.float32(0.5), "minY": 0.3, "maxY": 0.4},
        "class_id": 1,
        "scores": {"acc": 0.5},
        "box_caption": "cat",
    }
    middle = {"position": {"middle": torch.tensor([1.0, 2.0]), "width": 3, "height": 4}, "domain": "pixel"}
    image = ours.Image(
        PIXELS,
        caption="two",
        grouping=7,
        classes=[{"id": 1, "name": "cat"}],
        boxes={"truth": {"box_data": [box], "class_labels": {1: "cat"}}, "guess": {"box_data": [middle, box]}},
        masks={"truth": {"mask_data": mask, "class_labels": {1: "cat"}}, "guess": {"mask_data": torch.tensor(mask)}},
    )

    event = logged([ours.Image(PIXELS, caption="one"), image], ImagesLogged)

    plain_box = {**box, "position": {"minX": 0.1, "maxX": 0.5, "minY": 0.3, "maxY": 0.4}}
    plain_middle = {**middle, "position": {"middle": [1.0, 2.0], "width": 3, "height": 4}}
    found = event.files[1].details
    assert [file.caption for file in event.files] == ["one", "two", "truth", "guess"]
    assert [bool(file.details.get("is_mask")) for file in event.files] == [False, False, True, True]
    assert (found["grouping"], found["classes"]) == (7, [{"id": 1, "name": "cat"}])
    assert found["boxes"] == {
        "truth": {"box_data": [plain_box], "class_labels": {"1": "cat"}},
        "guess": {"box_data": [plain_middle, plain_box], "class_labels": {"1": "class_1"}},
    }
    named = {str(one): f"class_{one}" for one in (0, 1, 2, 3, 255)}
    assert found["masks"] == {
        "truth": {"file": 2, "class_labels": {"1": "cat"}},
        "guess": {"file": 3, "class_labels": named},
    }
    assert all(np.array_equal(pixels(bus, event.files[at].blob), mask) for at in (2, 3))


def test_drawings_and_charts_are_taken_as_they_are(bus: EventBus, stored_on: StoredOn) -> None:
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), dpi=50)
    [line] = figure.add_subplot().plot([1, 2])
    chart = go.Figure(go.Scatter(y=[1, 2]))

    WandBWriter().log({"figure": figure, "line": line, "chart": chart, "wrapped": ours.Plotly(chart)})

    figures, charts = stored_on(bus, FigureLogged), stored_on(bus, PlotlyLogged)
    assert [one.event.key for one in figures] == ["figure", "line"]
    assert all(pixels(bus, one.event.files[0].blob).shape == (50, 100, 4) for one in figures)
    assert [one.event.key for one in charts] == ["chart", "wrapped"]
    assert all(json.loads(content(bus, one.event.files[0].blob)) == json.loads(str(chart.to_json())) for one in charts)
    assert charts[0].event.files[0].details == {"kind": "plotly", "extension": "plotly.json"}


# ------------------------------------------------------------------------------------------- sounds, videos, pages
def test_sounds_are_encoded_or_kept(bus: EventBus, stored_on: StoredOn, tmp_path: Path) -> None:
    samples = np.array([[0.0, 0.5], [1.0, -1.0], [0.25, 0.0]])
    (tmp_path / "song.mp3").write_bytes(b"ID3 song")

    WandBWriter().log({"both": [ours.Audio(samples, 8000, "a"), ours.Audio(tmp_path / "song.mp3")]})

    [[encoded, kept]] = [one.event.files for one in stored_on(bus, AudioLogged)]
    with wave.open(io.BytesIO(content(bus, encoded.blob))) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (8000, 2, 3)
        assert np.allclose(np.frombuffer(sound.readframes(3), "<i2").reshape(3, 2) / 32768, samples, atol=1e-4)
    assert encoded.details == {"kind": "audio", "extension": "wav", "sample_rate": 8000, "channels": 2, "frames": 3}
    assert (content(bus, kept.blob), kept.media_type, kept.details["extension"]) == (b"ID3 song", "audio/mpeg", "mp3")


def test_videos_are_encoded_or_kept(bus: EventBus, stored_on: StoredOn, tmp_path: Path) -> None:
    frames = np.zeros((3, 3, 4, 8), np.uint8)
    frames[1, 0] = 255
    (tmp_path / "film.mp4").write_bytes(b"film")

    WandBWriter().log({"encoded": ours.Video(frames, "c", fps=10, format="gif")})
    WandBWriter().log({"kept": [ours.Video(tmp_path / "film.mp4"), ours.Video(io.BytesIO(b"raw"), format="webm")]})

    [encoded, *kept] = [file for one in stored_on(bus, VideoLogged) for file in one.event.files]
    film: Any = Pillow.open(io.BytesIO(content(bus, encoded.blob)))
    assert (film.n_frames, film.size, film.info["duration"]) == (3, (8, 4), 100)
    film.seek(1)
    assert film.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert encoded.details == {"kind": "video", "extension": "gif", "fps": 10, "width": 8, "height": 4}
    assert [(content(bus, one.blob), one.media_type) for one in kept] == [
        (b"film", "video/mp4"),
        (b"raw", "video/webm"),
    ]


def test_pages_scenes_and_molecules(bus: EventBus, stored_on: StoredOn, tmp_path: Path) -> None:
    page, cube, water = tmp_path / "page.html", tmp_path / "cube.obj", tmp_path / "water.pdb"
    page.write_text("<p>file</p>")
    cube.write_text("v 0 0 0")
    water.write_text("HETATM")
    points = np.array([[1.0, 2.0, 3.0]])
    scene = {"type": "lidar/beta", "points": points, "boxes": np.array([{"label": "a"}])}

    WandBWriter().log(
        {
            "pages": [ours.Html(page), ours.Html("<p>text</p>", inject=False), ours.Html(io.StringIO("<p>stream</p>"))],
            "scenes": [ours.Object3D(cube), ours.Object3D(points, "c"), ours.Object3D(scene)],
            "molecules": [ours.Molecule(water), ours.Molecule(io.StringIO("ATOM"), file_type="pdb")],
        }
    )

    [pages], [scenes], [molecules] = (stored_on(bus, kind) for kind in (HtmlLogged, Object3DLogged, MoleculeLogged))
    assert [(content(bus, one.blob), one.details["inject"]) for one in pages.event.files] == [
        (b"<p>file</p>", True),
        (b"<p>text</p>", False),
        (b"<p>stream</p>", True),
    ]
    assert [one.media_type for one in scenes.event.files] == ["model/obj", "application/json", "application/json"]
    assert content(bus, scenes.event.files[0].blob) == b"v 0 0 0"
    assert json.loads(content(bus, scenes.event.files[1].blob)) == [[1.0, 2.0, 3.0]]
    assert json.loads(content(bus, scenes.event.files[2].blob)) == {
        "type": "lidar/beta",
        "vectors": [],
        "points": [[1.0, 2.0, 3.0]],
        "boxes": [{"label": "a"}],
    }
    assert [(content(bus, one.blob), one.media_type) for one in molecules.event.files] == [
        (b"HETATM", "chemical/x-pdb"),
        (b"ATOM", "chemical/x-pdb"),
    ]


# ------------------------------------------------------------------------------------------------- numbers of arrays
def test_values_are_counted_as_numpy_counts_them(bus: EventBus, logged: Logged) -> None:
    values = np.array([1.0, 2.0, 2.5, 4.0])
    counts, edges = np.histogram(values, bins=4)

    event = logged(ours.Histogram(values, num_bins=4), HistogramLogged)

    assert (event.counts, [event.low, *event.limits]) == (counts.tolist(), edges.tolist())
    assert (event.min, event.max, event.num, event.sum, event.sum_squares) == (1.0, 4.0, 4.0, 9.5, 27.25)


def test_a_histogram_that_was_counted_is_taken_as_it_is(bus: EventBus, logged: Logged) -> None:
    event = logged(ours.Histogram(np_histogram=([1, 0, 3], [0.0, 1.0, 2.0, 3.0])), HistogramLogged)

    assert (event.counts, event.low, event.limits, event.num) == ([1.0, 0.0, 3.0], 0.0, [1.0, 2.0, 3.0], 4.0)


def test_arrays_become_histograms_and_single_values_numbers(bus: EventBus, stored_on: StoredOn) -> None:
    tensor = torch.linspace(0, 1, 100, requires_grad=True)

    WandBWriter().log({"array": np.arange(50), "tensor": tensor, "one": np.array([[2.0]]), "zero": torch.tensor(3)})

    array, counted = (one.event for one in stored_on(bus, HistogramLogged))
    assert (array.key, array.counts) == ("array", np.histogram(np.arange(50), bins=32)[0].tolist())
    assert (counted.key, counted.num, counted.min, counted.max) == ("tensor", 100.0, 0.0, 1.0)
    [numbers] = [one.event for one in stored_on(bus, MetricsLogged)]
    assert numbers == MetricsLogged(values={"one": 2.0, "zero": 3.0}, step=0)


def test_lists_and_short_arrays_keep_their_order(bus: EventBus, stored_on: StoredOn) -> None:
    WandBWriter().log(
        {"list": [3, 1, 2], "nested": [[0.5, 1.5]], "array": np.array([2.0, 1.0]), "zero": [torch.tensor(1)]}
    )

    found = {one.event.key: one.event.tensor for one in stored_on(bus, TensorLogged)}
    arrays = {key: np.frombuffer(content(bus, one.blob), one.dtype).reshape(one.shape) for key, one in found.items()}
    assert {key: one.tolist() for key, one in arrays.items()} == {
        "list": [3, 1, 2],
        "nested": [[0.5, 1.5]],
        "array": [2.0, 1.0],
        "zero": [1],
    }


def test_what_is_not_finite_is_in_no_bin_and_is_counted(bus: EventBus, logged: Logged) -> None:
    event = logged(ours.Histogram([1.0, float("nan"), 2.0, float("inf")], num_bins=2), HistogramLogged)

    assert (event.counts, event.num, event.sum) == ([1.0, 1.0], 4.0, 3.0)


# ---------------------------------------------------------------------------------------------------------- tables
def test_cells_of_every_kind(bus: EventBus, logged: Logged) -> None:
    table = ours.Table(columns=["n", "thing"], data=[[1, "text"], [float("nan"), None]])
    table.add_data(np.int64(3), ours.Image(PIXELS, caption="cell", masks={"m": {"mask_data": PIXELS[:, :, 0]}}))
    table.add_data(True, ours.Histogram([1.0, 2.0], num_bins=1))
    table.add_row(datetime(2026, 1, 2), np.array([1, 2]))  # noqa: DTZ001 - as users write it
    table.add_data({"a": [1]}, ours.Html("<p>"))

    event = logged(table, TableLogged)

    rows = json.loads(content(bus, event.rows))
    assert (event.columns, event.num_rows, event.appends) == (["n", "thing"], 6, False)
    assert (rows[0], rows[1][1]) == ([1, "text"], None)
    assert np.isnan(rows[1][0])
    assert rows[2:] == [
        [3, {"file": 0}],
        [True, {"histogram": {"values": [2.0], "bins": [1.0, 2.0]}}],
        ["2026-01-02T00:00:00", [1, 2]],
        [{"a": [1]}, {"file": 2}],
    ]
    assert [one.details["kind"] for one in event.files] == ["image", "image", "html"]
    assert event.files[0].details["masks"]["m"]["file"] == 1
    assert np.array_equal(pixels(bus, event.files[0].blob), PIXELS)


def test_a_table_is_read_and_extended_as_wandbs(bus: EventBus, logged: Logged) -> None:
    import pandas as pd

    table = ours.Table(dataframe=pd.DataFrame({"x": [1, 2], "y": ["a", "b"]}))
    table.add_column("z", np.array([0.5, 1.5]))
    table.add_computed_columns(lambda index, row: {"double": row["x"] * 2, "at": index})

    assert (table.get_column("x"), table.get_column("z", convert_to="numpy").tolist()) == ([1, 2], [0.5, 1.5])
    assert list(table.get_dataframe().columns) == table.columns == ["x", "y", "z", "double", "at"]
    event = logged(table, TableLogged)
    assert json.loads(content(bus, event.rows)) == [[1, "a", 0.5, 2, 0], [2, "b", 1.5, 4, 1]]


def test_an_incremental_table_logs_what_was_added_since(bus: EventBus, stored_on: StoredOn) -> None:
    writer, table = WandBWriter(), ours.Table(["a"], log_mode="INCREMENTAL")

    for value in (1, 2):
        table.add_data(value)
        writer.log({"t": table})

    events = [one.event for one in stored_on(bus, TableLogged)]
    assert [(json.loads(content(bus, one.rows)), one.appends) for one in events] == [([[1]], False), ([[2]], True)]


def test_a_table_of_many_pictures_travels_in_parts(bus: EventBus, stored_on: StoredOn) -> None:
    picture = ours.Image(PIXELS)

    WandBWriter().log({"t": ours.Table(["a", "b"], data=[[index, picture] for index in range(1100)])})

    events = [one.event for one in stored_on(bus, TableLogged)]
    assert [(one.num_rows, one.appends) for one in events] == [(500, False), (500, True), (100, True)]
    rows = [row for one in events for row in json.loads(content(bus, one.rows))]
    assert [row[0] for row in rows] == list(range(1100))
    assert [row[1] for row in rows[498:502]] == [{"file": 498}, {"file": 499}, {"file": 0}, {"file": 1}]


# --------------------------------------------------------------------------------------------------- in one call
def test_everything_of_a_call_shares_its_step(bus: EventBus, stored_on: StoredOn) -> None:
    writer = WandBWriter()

    writer.log({"loss": 1.0, "note": "n", "deep": {"page": ours.Html("<p>")}})
    receipt = writer.log({"page": ours.Html("<p>")})

    events = [one.event for one in stored_on(bus, (MetricsLogged, TextLogged, HtmlLogged))]
    assert [(type(one), getattr(one, "key", "loss"), one.step) for one in events] == [
        (MetricsLogged, "loss", 0),
        (TextLogged, "note", 0),
        (HtmlLogged, "deep.page", 0),
        (HtmlLogged, "page", 1),
    ]
    assert receipt.refused is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ours.Image(np.zeros((4, 5, 2))), "a picture is height x width"),
        (lambda: ours.Image("nowhere.png"), "'nowhere.png' is no file"),
        (lambda: ours.Image("s3://bucket/picture.png"), "is an address"),
        (lambda: ours.Image(__file__), "no picture that Pillow can read"),
        (lambda: ours.Image(PIXELS, mode="rgb"), "mode='rgb' is none that Pillow makes of RGB"),
        (lambda: ours.Image("x" * 300), "is no file: does it exist"),
        (lambda: ours.Image(PIXELS, file_type="tiff"), "file_type is 'tiff': use one of png, jpg, jpeg, bmp"),
        (
            lambda: ours.Image(PIXELS, boxes={"b": {"box_data": [{"position": {"minX": 1}}]}}),
            "a box of 'b' stands nowhere",
        ),
        (lambda: ours.Image(PIXELS, masks={"m": {"mask_data": np.full((2, 2), 300)}}), "classes outside of 0 to 255"),
        (lambda: ours.Image(PIXELS, masks={"m": [1]}), "mask 'm' is no dict"),
        (lambda: ours.Image(PIXELS, caption=3), "caption=3 is of type int"),  # type: ignore[arg-type] - on purpose
        (lambda: ours.Audio([0.0]), "samples have no rate"),
        (lambda: ours.Audio([0, 1000, -1000], 8000), "samples of int64 have no full scale"),
        (lambda: ours.Video(np.zeros((3, 3, 4, 8)), format="mp4"), "pixels are encoded as GIF, not as mp4"),
        (lambda: ours.Video(np.zeros((3, 3, 4, 8))), "format is None"),
        (lambda: ours.Object3D(np.zeros((3, 5))), "points are n x 3, n x 4 or n x 6"),
        (lambda: ours.Object3D(io.StringIO("v")), "file_type of Object3D is None"),
        (lambda: ours.Molecule(3), r"Molecule\(int\) is no path"),
        (lambda: ours.Html(3), r"Html\(int\) is no text"),
        (lambda: ours.Plotly({"data": []}), r"Plotly\(dict\) is no figure"),
        (lambda: ours.Histogram([float("nan")]), "no finite value"),
        (lambda: ours.Histogram(range(600), num_bins=600), "600 bins, W&B takes 512"),
        (lambda: ours.Histogram([1.0], num_bins=10**15), "1000000000000000 bins, W&B takes 512"),
        (lambda: ours.Histogram([1.0], num_bins=0), "num_bins=0 of Histogram"),
        (lambda: ours.Histogram([1.0], num_bins="x"), "num_bins='x' of Histogram"),  # type: ignore[arg-type] - on purpose
        (lambda: ours.Object3D({"type": "lidar/beta", "points": ENDLESS}), "'points' is nested deeper than 20 levels"),
        (lambda: ours.Table(["a"], data=[[1, 2]]), "a row of 2 cells does not fit"),
        (lambda: ours.Table(log_mode="SOMETIMES"), "log_mode='SOMETIMES' is not known"),
    ],
)
def test_what_can_not_be_is_refused_where_it_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        make()


def test_what_can_not_be_logged_is_refused_or_counted(bus: EventBus, stored_on: StoredOn, tmp_path: Path) -> None:
    path = tmp_path / "page.txt"
    path.write_text("x")
    gone = ours.Audio(path)
    path.unlink()
    mixed = [ours.Html("<p>"), ours.Image(PIXELS)]

    with pytest.raises(BadInputError, match="media of different kinds"):
        WandBWriter().log({"mixed": mixed, "loss": 1.0})
    with pytest.raises(BadInputError, match="is gone: log it before it is deleted"):
        WandBWriter().log({"gone": gone, "loss": 1.0})
    assert stored_on(bus, MetricsLogged) == []

    class Broken:
        __module__ = "plotly.figure"

        def to_json(self) -> str:
            raise RuntimeError("half a figure")

    with pytest.raises(BadInputError, match="'chart': RuntimeError: half a figure"):
        WandBWriter().log({"chart": Broken()})

    writer = WandBWriter(on_bad_input="count")
    writer.log({"mixed": mixed, "gone": gone, "object": object(), "": ours.Html("<p>"), "loss": 1.0})
    assert writer.log({"mixed": mixed}).refused == LEFT_OUT
    assert writer.bad_inputs == {"mixed": 2, "gone": 1, "object": 1, "": 1}
    assert [one.event for one in stored_on(bus, MetricsLogged)] == [MetricsLogged(values={"loss": 1.0}, step=0)]


def test_what_contains_itself_is_refused_or_counted(bus: EventBus, stored_on: StoredOn) -> None:
    data = {"table": ours.Table(["a"], data=[[ENDLESS]]), "list": ENDLESS}

    for key, value in data.items():
        with pytest.raises(BadInputError, match=key if key == "list" else "'cell' is nested deeper than 20 levels"):
            WandBWriter().log({key: value})

    writer = WandBWriter(on_bad_input="count")
    writer.log({"loss": 1.0, **data})
    writer.summary.update({"summed": ENDLESS})
    assert writer.bad_inputs == {"table": 1, "list": 1, "summed": 1}
    assert len(stored_on(bus, MetricsLogged)) == 1


def test_numbers_are_recorded_where_there_is_no_room_for_a_picture(bus: EventBus, stored_on: StoredOn) -> None:
    assert bus.blobs.folder is not None
    bus.blobs.folder.write_text("no folder: nothing can be kept in it")

    receipt = WandBWriter().log({"picture": ours.Image(PIXELS), "loss": 1.0, "note": "n"})

    assert receipt.refused is not None
    assert [type(one.event) for one in stored_on(bus, (MetricsLogged, TextLogged, ImagesLogged))] == [
        MetricsLogged,
        TextLogged,
    ]


def test_what_is_too_large_for_a_record_is_refused_before_anything_is_published(
    bus: EventBus, stored_on: StoredOn
) -> None:
    boxes = [{"position": {"minX": 0.1, "maxX": 0.2, "minY": 0.3, "maxY": 0.4}, "class_id": 1}] * 20_000
    data = {"many": ours.Image(PIXELS, boxes={"b": {"box_data": boxes}}), "wide": ours.Table(list(range(10_001)))}

    with pytest.raises(BadInputError, match=r"ImagesLogged takes .* bytes; at most 1048576 fit in a record"):
        WandBWriter().log({"loss": 1.0, **data})
    assert stored_on(bus, MetricsLogged) == []

    writer = WandBWriter(on_bad_input="count")
    assert writer.log({"loss": 1.0, **data}).refused is None
    assert writer.bad_inputs == {"many": 1, "wide": 1}
    assert len(stored_on(bus, MetricsLogged)) == 1
