import io
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard.summary import image as torchs

from eventbus import EventBus
from eventbus.errors import BadInputError
from writers import SummaryWriter, wandb
from writers._pixels import Picture, figure_picture, picture_of, tiled

RANDOM = np.random.default_rng(7)


def decoded(picture: Picture) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(picture.png)) as opened:
        opened.load()
        assert opened.size == (picture.width, picture.height)
        return np.asarray(opened)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (148, 148)])
def test_pixels_come_back_as_they_were(channels: int, size: tuple[int, int]) -> None:
    pixels = RANDOM.integers(0, 256, (*size, channels), dtype=np.uint8)

    picture = picture_of("image", pixels)

    assert np.array_equal(decoded(picture), pixels)
    assert (picture.height, picture.width, picture.channels) == (*size, channels)


@pytest.mark.parametrize(
    ("data", "dataformats"),
    [
        (RANDOM.random((3, 8, 5), dtype=np.float32), "CHW"),
        (RANDOM.normal(0.5, 1, (3, 8, 5)), "CHW"),  # some of it out of range
        (RANDOM.integers(0, 256, (8, 5, 4), dtype=np.uint8), "HWC"),
        (RANDOM.integers(0, 256, (5, 8), dtype=np.uint8), "WH"),
        (RANDOM.integers(0, 2, (1, 8, 5)), "chw"),
        (RANDOM.random((1, 8, 5)) > 0.5, "CHW"),
        (RANDOM.random((11, 3, 4, 6)), "NCHW"),
        (RANDOM.random((3, 4, 6, 1)), "NHWC"),
        (torch.rand(3, 4, 6, requires_grad=True), "CHW"),
    ],
)
def test_they_are_converted_as_the_sdk_does(data: Any, dataformats: str) -> None:
    given = data.detach() if isinstance(data, torch.Tensor) else data
    theirs = torchs("image", given, dataformats=dataformats).value[0].image

    picture = picture_of("image", data, dataformats)

    with Image.open(io.BytesIO(theirs.encoded_image_string)) as opened, Image.open(io.BytesIO(picture.png)) as ours:
        assert np.array_equal(np.asarray(ours.convert("RGBA")), np.asarray(opened.convert("RGBA")))
    assert picture[1:3] == (theirs.width, theirs.height)
    assert picture.channels in (theirs.colorspace, 1)  # the SDK makes grey ones coloured: three times the bytes


def test_nan_is_black_and_infinities_are_cut() -> None:
    picture = picture_of("image", [[np.nan, np.inf, -np.inf, 0.5, 1e300]], "HW")

    assert decoded(picture).tolist() == [[0, 255, 0, 127, 255]]


def test_pictures_of_pillow_and_files_are_taken(tmp_path: Path) -> None:
    pixels = RANDOM.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.jpeg")
    with Image.open(tmp_path / "a.jpeg") as opened:
        lossy = np.asarray(opened)

    assert np.array_equal(decoded(picture_of("image", Image.fromarray(pixels))), pixels)
    assert picture_of("image", Image.new("LA", (3, 2))).channels == 4
    assert np.array_equal(decoded(picture_of("image", tmp_path / "a.png")), pixels)
    assert np.array_equal(decoded(picture_of("image", str(tmp_path / "a.jpeg"))), lossy)


def test_figures_are_drawn_and_closed() -> None:
    figure = plt.figure(figsize=(2, 1), dpi=50)
    figure.gca().plot([1, 2])
    kept = Figure(figsize=(2, 1), dpi=50)
    canvas = kept.canvas

    assert figure_picture("plot", figure)[1:] == (100, 50, 3)
    assert not plt.fignum_exists(figure.number)
    assert figure_picture("plot", [kept, kept], close=False)[1:] == (200, 50, 3)
    assert kept.canvas is canvas


@pytest.mark.parametrize(
    ("data", "dataformats", "message"),
    [
        (np.zeros((3, 4)), "CHW", r"shape \(3, 4\), which is not dataformats='CHW'"),
        (np.zeros((3, 4, 4)), "CHH", "no order of axes"),
        (np.zeros((3, 4, 4)), "", "no order of axes"),
        (np.zeros((4, 4, 5)), "HWC", "with 5 channels"),
        (np.zeros((2, 5, 4, 4)), "NCHW", "batch of pictures of 5 channels"),
        (np.zeros((0, 4, 3)), "HWC", "is empty"),
        (np.zeros((4, 4, 3), complex), "HWC", "complex"),
        (np.array([["a"]]), "HW", "not of numbers"),
        (None, "HW", "is None, not of numbers"),
        ([[1.0], [1.0, 2.0]], "HW", "gives no array"),
        (b"bytes", "HW", "not of numbers"),
        ("no/such.png", "HWC", "no file with a picture"),
    ],
)
def test_what_is_no_picture_is_refused(data: Any, dataformats: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        picture_of("image", data, dataformats)


def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(path := tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    with pytest.raises(BadInputError, match="decompression bomb"):
        picture_of("image", path, "HWC")
    with pytest.raises(BadInputError, match="decompression bomb"):
        wandb.Image(path)


def test_what_is_no_figure_is_refused() -> None:
    sizes = [Figure(figsize=(1, 1)), Figure(figsize=(2, 1))]

    with pytest.raises(BadInputError, match="not a figure"):
        figure_picture("plot", np.zeros((3, 3)))
    with pytest.raises(BadInputError, match="2 figures of different sizes"):
        figure_picture("plot", sizes)


def test_a_batch_is_tiled_by_eight() -> None:
    assert tiled("images", np.zeros((11, 3, 4, 6)))[1:] == (48, 8, 3)


@pytest.mark.parametrize("shape", [(148, 148, 3), (256, 256, 1)])
def test_a_picture_costs_the_caller_at_most_two_milliseconds(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """64 KiB of noise, the worst there is, encoded, kept and published: the best tenth says what it costs."""
    spent: list[float] = []
    frames = RANDOM.integers(0, 256, (60, *shape), dtype=np.uint8)
    with EventBus(tmp_path / "bus", site="site-1").background() as bus:
        writer = SummaryWriter(bus=bus)
        for step, frame in enumerate(frames):
            began = time.thread_time()
            writer.add_image("noise", frame, step, dataformats="HWC")
            spent.append(time.thread_time() - began)

    assert statistics.quantiles(spent, n=10)[0] < 0.002, [round(one * 1000, 2) for one in spent]


def test_nothing_is_imported_before_it_is_needed() -> None:
    import subprocess

    program = (
        "import sys, eventbus, writers\n"
        "import writers._pixels, writers._arrays, writers._sounds, writers._histogram\n"
        "print([name for name in ('numpy', 'PIL', 'matplotlib', 'torch', 'tensorboard') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert child.stdout.strip() == "[]"
