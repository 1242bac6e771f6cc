"""What `SummaryWriter` does with calls that can't be recorded; what it makes of others is in the parity tests."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from eventbus import Envelope, Event, EventBus
from eventbus.errors import BadInputError
from eventbus.media import HistogramLogged, MeshLogged, TensorLogged
from eventbus.tracking import HParamsLogged, MetricsLogged, StyledMetricsLogged, TrackingEvent
from writers import SummaryWriter

Stored = Callable[[type[Event]], list[Envelope[Any]]]

PIXELS = np.zeros((3, 4, 5))
POINTS = np.zeros((4, 2))
CURVE = [0.0, 0.5]
BOX = {"tag": "x", "img_tensor": PIXELS, "box_tensor": [[1, 2, 3, 4]]}
BAD_LABEL = Figure(figsize=(1, 1))
BAD_LABEL.text(0.5, 0.5, r"$\frac{$")
RAW = {"tag": "x", **dict.fromkeys(("min", "max", "num", "sum", "sum_squares"), 1)}

BAD_CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("add_scalar", {"tag": "x", "scalar_value": torch.ones(2)}, r"shape \(2,\)"),
    ("add_scalar", {"tag": "x", "scalar_value": "0.5", "new_style": True}, "not a number"),
    ("add_scalars", {"main_tag": "x", "tag_scalar_dict": 3}, "pass a dict"),
    ("add_text", {"tag": "x", "text_string": 3}, "not a text"),
    ("add_histogram", {"tag": "x", "values": []}, "is empty"),
    ("add_histogram", {"tag": "x", "values": [math.nan]}, "NaN or infinite"),
    ("add_histogram", {"tag": "..", "values": [1.0]}, "leads out of a folder"),
    ("add_histogram", {"tag": "x", "values": [1.0], "walltime": -1}, "'walltime' is out of range"),
    ("add_histogram", {"tag": "x", "values": ["a"]}, "not of numbers"),
    ("add_histogram_raw", RAW | {"bucket_limits": [1, 2], "bucket_counts": [1]}, "2 limits and 1 counts"),
    ("add_image", {"tag": "x", "img_tensor": PIXELS[0]}, "is not dataformats='CHW'"),
    ("add_image", {"tag": "x", "img_tensor": None}, "not of numbers"),
    ("add_image", {"tag": "x" * 251, "img_tensor": PIXELS}, "longer than 250"),
    ("add_images", {"tag": "x", "img_tensor": PIXELS}, "is not dataformats='NCHW'"),
    ("add_image_with_boxes", {"tag": "x", "img_tensor": PIXELS, "box_tensor": [1, 2, 3, 4]}, "boxes of shape"),
    (
        "add_image_with_boxes",
        {"tag": "x", "img_tensor": PIXELS, "box_tensor": [[1, 2, 3, 4]], "rescale": 0},
        "no pixels left",
    ),
    ("add_figure", {"tag": "x", "figure": PIXELS}, "not a figure"),
    ("add_figure", {"tag": "x", "figure": [Figure(figsize=(1, 1)), Figure(figsize=(2, 1))]}, "different sizes"),
    ("add_image_with_boxes", BOX | {"rescale": 1e9}, "can't be recorded"),
    ("add_figure", {"tag": "x", "figure": BAD_LABEL}, "can't be recorded: ValueError"),
    ("add_video", {"tag": "x", "vid_tensor": np.zeros((1, 2, 1, 2, 2)), "fps": 0.001}, "can't be recorded"),
    ("add_video", {"tag": "x", "vid_tensor": np.zeros((1, 1, 1, 1, 70_000))}, "can't be recorded"),
    ("add_video", {"tag": "x", "vid_tensor": PIXELS}, "a video is batch x frames"),
    ("add_audio", {"tag": "x", "snd_tensor": np.zeros((2, 9))}, "one row of frames"),
    ("add_audio", {"tag": "x", "snd_tensor": []}, "is empty"),
    ("add_pr_curve", {"tag": "x", "labels": [1, 0], "predictions": [0.5]}, "of one shape"),
    ("add_pr_curve", {"tag": "x", "labels": [1], "predictions": [1.5]}, "outside 0 to 1"),
    ("add_pr_curve", {"tag": "x", "labels": [1], "predictions": [math.nan]}, "outside 0 to 1"),
    ("add_pr_curve", {"tag": "x", "labels": [1], "predictions": [0.5], "num_thresholds": 1}, "num_thresholds=1"),
    (
        "add_pr_curve_raw",
        {"tag": "x", "true_positive_counts": [1.0], "false_positive_counts": CURVE, "true_negative_counts": CURVE}
        | {"false_negative_counts": CURVE, "precision": CURVE, "recall": CURVE},
        "are of one length",
    ),
    ("add_tensor", {"tag": "x", "tensor": np.array(["a"])}, "not of numbers"),
    ("add_mesh", {"tag": "x", "vertices": POINTS}, "batch x number x 3"),
    (
        "add_mesh",
        {"tag": "x", "vertices": np.zeros((1, 3, 3)), "faces": np.full((1, 1, 3), 0.5)},
        "none of int32",
    ),
    ("add_mesh", {"tag": "x", "vertices": np.zeros((1, 3, 3)), "colors": np.full((1, 3, 3), 256)}, "none of uint8"),
    ("add_embedding", {"mat": PIXELS, "tag": "x"}, "number of points x dimensions"),
    ("add_embedding", {"mat": POINTS, "metadata": ["a"], "tag": "x"}, "4 points and 1 labels"),
    ("add_embedding", {"mat": POINTS, "label_img": np.zeros((3, 3, 2, 2)), "tag": "x"}, "4 points and 3 pictures"),
    (
        "add_embedding",
        {"mat": POINTS, "metadata": [["a"]] * 4, "metadata_header": ["one", "two"], "tag": "x"},
        "not of 2 fields",
    ),
    ("add_embedding", {"mat": POINTS, "metadata": 4, "tag": "x"}, "not iterable"),
    ("add_embedding", {"mat": POINTS, "metadata": [1, 2, 3, 4], "metadata_header": ["n"], "tag": "x"}, "not iterable"),
    (
        "add_embedding",
        {"mat": POINTS, "metadata": [["a", "b"]] * 4, "metadata_header": np.array(["m", "n"]), "tag": "x"},
        "can't be recorded",
    ),
    ("add_mesh", {"tag": "x", "vertices": np.zeros((1, 3, 3)), "config_dict": 3}, "not iterable"),
    ("add_custom_scalars_multilinechart", {"tags": ["a"] * 1001}, "at most 1000"),
    ("add_custom_scalars_multilinechart", {"tags": ["a"], "title": 3}, "valid string"),
    ("add_histogram_raw", RAW | {"bucket_limits": range(20_000), "bucket_counts": range(20_000)}, "at most 10000"),
    ("add_hparams", {"hparam_dict": [], "metric_dict": {}, "run_name": "x"}, "hparam_dict is a list"),
    ("add_hparams", {"hparam_dict": {}, "metric_dict": None, "run_name": "x"}, "metric_dict is a NoneType"),
    (
        "add_hparams",
        {"hparam_dict": {"a": 1}, "metric_dict": {}, "hparam_domain_discrete": {"a": ["one"]}, "run_name": "x"},
        "values of its type",
    ),
    ("add_custom_scalars", {"layout": []}, "a layout is"),
    ("add_custom_scalars", {"layout": {"a": {"b": 3}}}, r"is not \[kind, tags\]"),
    ("add_custom_scalars_marginchart", {"tags": ["a", "b"]}, "has 2 tags"),
    ("add_onnx_graph", {"prototxt": "no/such.onnx"}, "can't be read"),
]


@pytest.mark.parametrize(("method", "arguments", "message"), BAD_CALLS)
def test_what_can_not_be_recorded_is_refused_at_the_call(
    bus: EventBus, stored: Stored, method: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        getattr(SummaryWriter(), method)(**arguments)

    assert len(stored(TrackingEvent)) == 1  # RunStarted


def test_or_it_is_left_out_and_counted(bus: EventBus, stored: Stored) -> None:
    writer = SummaryWriter(on_bad_input="count")

    receipts = [getattr(writer, method)(**arguments) for method, arguments, _ in BAD_CALLS]
    writer.add_tensor("good", [1.0], -1)  # only its step is bad

    silent = [call[0] for call, receipt in zip(BAD_CALLS, receipts, strict=True) if receipt.refused is None]
    assert silent == ["add_histogram"]  # a bad time is now: the values stay
    assert sum(writer.bad_inputs.values()) == len(BAD_CALLS) + 1
    assert [one.event.key for one in stored(TensorLogged)] == ["good"]


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_model_that_can_not_be_traced_is_refused(bus: EventBus, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInputError, match="can't be traced with this input"):
        SummaryWriter().add_graph(torch.nn.Linear(3, 1), torch.zeros(1, 4))

    assert "No graph saved" in capsys.readouterr().out  # torch's own helper says so


def test_the_plain_path_is_a_plain_event(bus: EventBus, stored: Stored) -> None:
    writer = SummaryWriter()

    writer.add_scalar("plain", torch.tensor([0.5]), 1)
    writer.add_scalar("styled", 0.5, 1, new_style=True)

    assert [one.event for one in stored(MetricsLogged)] == [
        MetricsLogged(values={"plain": 0.5}, step=1),
        StyledMetricsLogged(values={"styled": 0.5}, step=1, new_style=True),
    ]


def test_hyperparameters_keep_their_types(bus: EventBus, stored: Stored) -> None:
    params = {"rate": np.float32(0.5), "layers": 3, "flag": True, "kind": "adam", "sizes": [1, 2], "none": None}

    SummaryWriter().add_hparams(params, {"loss": torch.tensor([0.25])}, global_step=4)

    [one] = stored(HParamsLogged)
    assert one.event.params == {"rate": 0.5, "layers": 3, "flag": True, "kind": "adam", "sizes": "[1, 2]"}
    assert (one.event.metrics, one.event.step, one.event.run_name) == ({"loss": 0.25}, 4, "")


def test_a_histogram_of_gradients_with_nan_is_kept(bus: EventBus, stored: Stored) -> None:
    SummaryWriter().add_histogram("grad", [1.0, math.nan, 2.0])

    [one] = stored(HistogramLogged)
    assert (sum(one.event.counts), one.event.num, math.isnan(one.event.sum)) == (2, 3, True)


def test_colours_from_0_to_1_are_made_whole(tmp_path: Path) -> None:
    with EventBus(tmp_path / "bus", site="site-1").background() as bus:
        events: list[MeshLogged] = []
        bus.subscribe(MeshLogged, events.append)
        SummaryWriter(bus=bus).add_mesh("m", np.zeros((1, 1, 3)), np.array([[[0.0, 0.5, 1.0]]]))

    colors = events[0].colors
    assert colors is not None
    assert (colors.dtype, list(bus.blobs.read(colors.blob))) == ("uint8", [0, 128, 255])


class Breaks:
    """An array that can't be read."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __array__(self) -> None:
        raise self.error


def test_neither_an_interrupt_nor_a_broken_disk_is_bad_input(bus: EventBus) -> None:
    writer = SummaryWriter()

    with pytest.raises(KeyboardInterrupt):
        writer.add_tensor("x", Breaks(KeyboardInterrupt()))
    receipt = writer.add_tensor("x", Breaks(OSError(5, "the disk is broken")))

    assert "the disk is broken" in str(receipt.refused)


def test_a_store_that_can_not_be_written_never_raises(tmp_path: Path) -> None:
    (tmp_path / "bus").mkdir()
    (tmp_path / "bus" / "blobs").write_text("in the way")

    with EventBus(tmp_path / "bus", site="site-1").background() as bus:
        writer = SummaryWriter(bus=bus)
        receipt = writer.add_image("x", PIXELS)
        assert writer.add_scalar("x", 0.5).refused is None

    assert "blob store" in str(receipt.refused)
    assert sum(bus.report().refused.values()) == 1
