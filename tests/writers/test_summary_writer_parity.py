"""Each method of `SummaryWriter`, called alike on torch's and on ours, leaves the same in TensorBoard's files."""

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from readback import TensorBoardRecord, read_tensorboard_records
from tensorboard.plugins.projector import projector_config_pb2
from torch.utils.tensorboard import SummaryWriter as Real
from torch.utils.tensorboard._utils import _prepare_video

from eventbus import EventBus, Receipt
from eventbus.tracking import TRACKING
from receivers import TensorBoardReceiver
from writers import SummaryWriter

TIME = 1_700_000_000.25
"""A walltime that a float holds exactly."""

RANDOM = np.random.default_rng(11)
PIXELS = RANDOM.random((3, 8, 6), dtype=np.float32)
BATCH = RANDOM.integers(0, 256, (11, 3, 4, 5), dtype=np.uint8)
FILM = np.array([0, 85, 170, 255], dtype=np.uint8)[RANDOM.integers(0, 4, (3, 4, 3, 6, 8))]
VALUES = RANDOM.normal(size=2000).astype(np.float32)
LABELS, PREDICTIONS, WEIGHTS = RANDOM.integers(0, 2, 200), RANDOM.random(200), RANDOM.random(200)
POINTS, LABEL_IMAGES = RANDOM.normal(size=(5, 3)).astype(np.float32), torch.rand(5, 3, 6, 4)
COUNTS = ("true_positive_counts", "false_positive_counts", "true_negative_counts", "false_negative_counts")
RAW = {name: np.linspace(0, index, 5, dtype=np.float32) for index, name in enumerate((*COUNTS, "precision", "recall"))}

# The SDK's own helper traces with it, and so do we.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")


def figure(height: int = 1) -> Figure:
    drawn = plt.figure(figsize=(2, height), dpi=40)
    drawn.gca().plot([0, 1, 4])
    return drawn


def mesh(writer: Any) -> Any:
    vertices = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(1))
    colors = torch.tensor([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 255]]], dtype=torch.int)
    faces = torch.tensor([[[0, 2, 3], [0, 3, 1]]], dtype=torch.int)
    config = {"material": {"cls": "PointsMaterial", "size": 0.5}, "lights": [1, 2]}
    writer.add_mesh("add_mesh/bare", vertices, walltime=TIME)
    return writer.add_mesh("add_mesh", vertices, colors, faces, config, 3, TIME)


def tensors(writer: Any) -> Any:
    for dtype in (torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool):
        writer.add_tensor(f"add_tensor/{dtype}", torch.arange(6).reshape(2, 3).to(dtype), 1, TIME)
    writer.add_tensor("add_tensor/complex", torch.tensor([1 + 2j, 3 - 4j, 5j]), 1, TIME)
    writer.add_tensor("add_tensor/nan", torch.tensor([math.nan, math.inf, 1.5]), 1, TIME)
    return writer.add_tensor("add_tensor/one", torch.tensor(0.5), 1, TIME)


def scalars(writer: Any) -> Any:
    writer.add_scalar("add_scalar/plain", 0.1, 3, TIME)
    writer.add_scalar("add_scalar/tensor", torch.tensor([[0.1]]), 3, TIME)
    writer.add_scalar("add_scalar/double only", 0.1, 3, TIME, double_precision=True)
    writer.add_scalar("add_scalar/new", 0.1, 3, TIME, new_style=True)
    writer.add_scalar("add_scalar/infinite", math.inf, 3, TIME)
    return writer.add_scalar("add_scalar/precise", 0.1, 3, TIME, new_style=True, double_precision=True)


def histograms(writer: Any) -> Any:
    writer.add_histogram("add_histogram/auto", VALUES, 1, "auto", TIME)
    writer.add_histogram("add_histogram/edges", VALUES, 1, [-1.0, 0.0, 2.0], TIME)
    writer.add_histogram("add_histogram/few", torch.as_tensor(VALUES), 1, walltime=TIME, max_bins=50)
    writer.add_histogram("add_histogram/ints", np.arange(-3, 40), 1, walltime=TIME)
    return writer.add_histogram("add_histogram", VALUES, 1, walltime=TIME)


def images(writer: Any) -> Any:
    writer.add_image("add_image/CHW", PIXELS, 1, TIME)
    writer.add_image("add_image/HWC", torch.as_tensor(PIXELS.transpose(1, 2, 0)), 1, TIME, "HWC")
    writer.add_image("add_image/HW", PIXELS[0], 1, TIME, "HW")
    writer.add_image("add_image/out of range", PIXELS * 3 - 1, 1, TIME)
    writer.add_image("add_image/grey", PIXELS[:1], 1, TIME)
    return writer.add_image("add_image/RGBA", BATCH[0, [0, 1, 2, 0]], 1, TIME)


def batches(writer: Any) -> Any:
    writer.add_images("add_images/grey", BATCH[:, :1], 1, TIME)
    writer.add_images("add_images/NHWC", BATCH.transpose(0, 2, 3, 1), 1, TIME, "NHWC")
    return writer.add_images("add_images", BATCH, 1, TIME)


def boxes(writer: Any) -> Any:
    found = np.array([[2, 3, 20, 24], [10, 8, 50, 30]])
    sheet = np.full((3, 40, 60), 0.25)
    writer.add_image_with_boxes("add_image_with_boxes/bare", sheet, found, 1, TIME)
    writer.add_image_with_boxes("add_image_with_boxes/grey", sheet[0], found, 1, TIME, dataformats="HW")
    writer.add_image_with_boxes("add_image_with_boxes/odd", sheet, found, 1, TIME, labels=["one"])
    return writer.add_image_with_boxes("add_image_with_boxes", sheet, found, 1, TIME, labels=["cat", "dog"])


def figures(writer: Any) -> Any:
    writer.add_figure("add_figure/list", [figure(), figure()], 1, walltime=TIME)
    return writer.add_figure("add_figure", figure(), 1, walltime=TIME)


def curves(writer: Any) -> Any:
    writer.add_pr_curve("add_pr_curve/few", LABELS, PREDICTIONS, 1, 5, WEIGHTS, TIME)
    writer.add_pr_curve("add_pr_curve/many", LABELS, PREDICTIONS, 1, 1000, walltime=TIME)
    return writer.add_pr_curve("add_pr_curve", torch.as_tensor(LABELS), torch.as_tensor(PREDICTIONS), 1, walltime=TIME)


def layout(writer: Any) -> Any:
    charts = {"all": {"both": ["Multiline", ["a", "b"]]}, "band": {"one": ["Margin", ["a", "b", "c"]]}}
    return writer.add_custom_scalars(charts)


def hparams(writer: Any) -> Any:
    params = {"rate": 0.1, "layers": 3, "kind": "adam", "flag": True, "none": None, "tensor": torch.tensor([0.5])}
    domain = {"kind": ["adam", "sgd"], "layers": [1, 3]}
    return writer.add_hparams(params, {"hp/loss": 0.25}, domain, "session", 2)


def embeddings(writer: Any) -> Any:
    writer.add_embedding(POINTS, tag="bare/slash")
    writer.add_embedding((POINTS * 9).astype(np.int16), tag="ints")
    rows = [["a", 1], ["b", 2], ["c", 3], ["d", 4], ["e", 5]]
    writer.add_embedding(torch.as_tensor(POINTS), rows, LABEL_IMAGES, 7, "all", ["name", "number"])
    return writer.add_embedding(POINTS, list("abcde"), global_step=7)


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))


def onnx_file(folder: Path) -> Path:
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in ("in", "out")]
    node = helper.make_node("LeakyRelu", ["in"], ["out"], alpha=0.5)
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:])).SerializeToString())
    return path


CALLS: Mapping[str, Callable[[Any], Any]] = {
    "add_scalar": scalars,
    "add_scalars": lambda writer: writer.add_scalars("add/scalars", {"x": 0.5, "y": torch.tensor([2.0])}, 4, TIME),
    "add_text": lambda writer: writer.add_text("add_text", "some *text* äöü", 5, TIME),
    "add_histogram": histograms,
    "add_histogram_raw": lambda writer: writer.add_histogram_raw(
        "add_histogram_raw", 0.0, 1.0, 3, 1.5, 1.25, [0.5, 1.0], np.array([1, 2]), 1, TIME
    ),
    "add_image": images,
    "add_images": batches,
    "add_image_with_boxes": boxes,
    "add_figure": figures,
    "add_audio": lambda writer: writer.add_audio("add_audio", torch.as_tensor(VALUES[None] / 9), 1, 8000, TIME),
    "add_pr_curve": curves,
    "add_pr_curve_raw": lambda writer: writer.add_pr_curve_raw(
        "add_pr_curve_raw", **RAW, global_step=1, num_thresholds=5, walltime=TIME
    ),
    "add_tensor": tensors,
    "add_mesh": mesh,
    "add_hparams": hparams,
    "add_custom_scalars": layout,
    "add_custom_scalars_multilinechart": lambda writer: writer.add_custom_scalars_multilinechart(["a", "b"]),
    "add_custom_scalars_marginchart": lambda writer: writer.add_custom_scalars_marginchart(
        ["a", "b", "c"], "band", "it"
    ),
    "add_graph": lambda writer: writer.add_graph(model(), torch.zeros(1, 4)),
}

PLACES: Mapping[str, Callable[[TensorBoardRecord], bool]] = {
    "add_scalars": lambda record: record.run.startswith("add_scalars_"),
    "add_hparams": lambda record: record.run == "session",
    "add_graph": lambda record: record.tag in ("graph_def", "run_metadata"),
    "onnx": lambda record: record.tag == "graph_def" and "LeakyRelu" in str(record.content),
}


class Stores(NamedTuple):
    """What both left."""

    theirs: Path
    ours: Path
    receipts: dict[str, Any]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """One run of the bus for all methods; TensorBoard has charts and graphs once per run, so those come in turn."""
    folder = tmp_path_factory.mktemp("parity")
    path = onnx_file(folder)
    real = Real(str(folder / "real"))
    with EventBus(folder / "bus", site="site-1", run="run-1").background() as bus:
        bus.subscribe(TRACKING, TensorBoardReceiver())
        receipts: dict[str, Any] = {}
        for writer in (real, SummaryWriter(bus=bus)):
            receipts = {name: call(writer) for name, call in CALLS.items()}
            receipts |= {"add_embedding": embeddings(writer), "add_onnx_graph": writer.add_onnx_graph(str(path))}
        ours = SummaryWriter(bus=bus)
        receipts["add_video"] = ours.add_video("add_video", FILM, 1, 5, TIME)
        receipts["flush"] = ours.flush()
        receipts["flush"].wait_delivered(60)
    real.close()
    plt.close("all")
    return Stores(folder / "real", folder / "bus" / "tensorboard" / "run-1" / "site-1", receipts)


def records(folder: Path, name: str) -> list[tuple[object, ...]]:
    """What a method left, in order of its runs; its time where the method is given one."""
    belongs = PLACES.get(name, lambda record: record.tag == name or record.tag.startswith((f"{name}/", f"{name}_")))
    found = [record for record in read_tensorboard_records(folder) if belongs(record)]
    shown = [(one.run, one.tag, one.step, one.wall_time if one.wall_time == TIME else 0, one.content) for one in found]
    return sorted(shown, key=lambda one: one[:2])


@pytest.mark.parametrize("name", [name for name in CALLS if not name.startswith("add_custom")])
def test_a_method_leaves_what_torchs_leaves(stores: Stores, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = records(stores.theirs, name)

    ours = records(stores.ours, name)

    assert [one[:4] for one in ours] == [one[:4] for one in theirs]
    assert ours == theirs
    assert len(theirs) > 0
    timed = "walltime" in inspect.signature(getattr(Real, name)).parameters
    assert {one[3] for one in ours} == {TIME if timed else 0}


def test_charts_are_arranged_as_by_torchs(stores: Stores) -> None:
    def layouts(folder: Path) -> list[object]:
        return [one.content for one in read_tensorboard_records(folder) if one.tag == "custom_scalars__config__"]

    assert layouts(stores.ours) == layouts(stores.theirs)
    assert len(layouts(stores.ours)) == 3


def test_a_graph_of_onnx_is_torchs(stores: Stores) -> None:
    assert records(stores.ours, "onnx") == records(stores.theirs, "onnx")
    assert len(records(stores.ours, "onnx")) == 1


def test_the_projectors_files_are_torchs(stores: Stores) -> None:
    def files(folder: Path) -> dict[str, object]:
        found = [path for path in folder.rglob("*") if path.suffix in (".tsv", ".png", ".pbtxt")]
        return {path.relative_to(folder).as_posix(): projected(path) for path in found if "_files" not in path.parts}

    assert files(stores.ours) == files(stores.theirs)
    assert len(files(stores.ours)) == 8


def projected(path: Path) -> object:
    if path.suffix == ".png":
        with Image.open(path) as opened:
            return opened.size, opened.convert("RGB").tobytes()
    text, config = path.read_text(), projector_config_pb2.ProjectorConfig()  # pyright: ignore[reportAttributeAccessIssue]
    return str(text_format.Parse(text, config)) if path.suffix == ".pbtxt" else text


def test_a_video_is_what_torchs_shows_where_moviepy_is(stores: Stores) -> None:
    [(_, _, step, time, content)] = records(stores.ours, "add_video")
    expected = (_prepare_video(FILM) * 255).round().astype(np.uint8)

    assert (step, time, content["format"], content["duration"]) == (1, TIME, "GIF", 200)  # pyright: ignore[reportIndexIssue]
    assert (content["height"], content["width"]) == expected.shape[1:3]  # pyright: ignore[reportIndexIssue]
    shown = [np.frombuffer(frame, np.uint8).reshape(*expected.shape[1:3], 4)[:, :, :3] for frame in content["frames"]]  # pyright: ignore[reportIndexIssue]
    assert np.array_equal(shown, expected)


def test_every_method_was_called_and_returned_a_receipt(stores: Stores) -> None:
    public = {name for name in dir(Real) if name.startswith("add_")}

    assert set(stores.receipts) == public | {"flush"}
    assert all(isinstance(receipt, Receipt) and receipt.refused is None for receipt in stores.receipts.values())


@pytest.mark.parametrize("name", ["__init__", *(name for name in dir(Real) if not name.startswith("_"))])
def test_a_method_is_called_as_torchs(name: str) -> None:
    """Fails by name where a release of torch changes one."""
    ours = inspect.signature(getattr(SummaryWriter, name)).parameters.values()
    theirs = inspect.signature(getattr(Real, name)).parameters.values()

    assert [(one.name, one.default) for one in ours if one.kind is not one.KEYWORD_ONLY] == [
        (one.name, one.default) for one in theirs
    ]
