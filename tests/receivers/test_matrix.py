"""Every event in every tracker: one run that logs one of each, and one row per (event type, receiver) pair."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from one_of_each import (
    MLMODEL,
    NOTES,
    OBJ,
    PAGE,
    PDB,
    PLOTLY,
    PNG_SIZE,
    RATE,
    WEIGHTS,
    MoodSeen,
    one_of_each,
    without_payloads,
)
from readback import read_jsonl
from tracker_views import MlflowView, TensorBoardView, WandbView, array, picture_size, sample_rate

from eventbus import EventBus
from eventbus.abc import ConsumerStatistics
from eventbus.tracking import TRACKING, TRACKING_EVENTS, TrackingEvent
from receivers import JsonlReceiver, MLflowReceiver, TensorBoardReceiver, WandBReceiver
from receivers.matrix import KINDS, MATRIX, Kind

RUN = "everything"
BARE_RUN = "bare"
"""A run with the same events, whose payloads nobody can find."""

RUNS = 2
NS = 1_000_000_000
TIME_NS = 1_700_000_000_000_000_000
NAMES = [cls.__name__ for cls in TRACKING_EVENTS]
SQUARE = (PNG_SIZE, PNG_SIZE)
GRID = [[0, 1, 2], [3, 4, 5]]

KEPT_TOO = {("tensorboard", "TableLogged")}
"""Cells of events that are converted, and kept as well for what the other form can't hold."""

LINK = "link of metrics left out"
LEFT_OUT: dict[Kind, tuple[str, ...]] = {
    "jsonl": (),
    "tensorboard": (LINK,),
    "mlflow": (),
    "wandb": (LINK, "camera and light of a mesh left out", "goal of a metric left out"),
}

pytestmark = pytest.mark.timeout(300)


class JsonlView:
    """The run's file of JSON lines, and the events as they were logged."""

    def __init__(self, workspace: Path, events: Mapping[str, TrackingEvent]) -> None:
        self._folder = workspace / "jsonl" / RUN
        self._lines = [line.value for line in read_jsonl(self._folder)]
        self._events = events

    def has(self, name: str) -> bool:
        """Whether there is one line of an event, with all its fields, and a file of the right size per payload."""
        (line,) = (line for line in self._lines if line["type"] == name)
        assert line["event"] == json.loads(self._events[name].model_dump_json())
        sizes = {blob: (self._folder / line["files"][blob]).stat().st_size for blob, _ in blobs_in(line["event"])}
        return sizes == dict(blobs_in(line["event"]))


def blobs_in(value: Any) -> Iterator[tuple[str, int]]:
    """Name and size of every blob that a line names."""
    if isinstance(value, dict) and set(value) == {"name", "size"}:
        yield value["name"], value["size"]
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from blobs_in(inner)


@dataclass
class Stored:
    """What the trackers hold of the run, and what their receivers say of it."""

    events: dict[str, TrackingEvent]
    views: dict[Kind, Any]
    statistics: dict[Kind, ConsumerStatistics]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("matrix")
    events, statistics = anyio.run(log_everything, folder)
    return Stored(
        events=events,
        views={
            "jsonl": JsonlView(folder, events),
            "tensorboard": TensorBoardView(folder / "tensorboard" / RUN),
            "mlflow": MlflowView(folder, RUN),
            "wandb": WandbView(folder, RUN),
        },
        statistics=statistics,
    )


async def log_everything(folder: Path) -> tuple[dict[str, TrackingEvent], dict[Kind, ConsumerStatistics]]:
    receivers = {
        "jsonl": JsonlReceiver(),
        "tensorboard": TensorBoardReceiver(),
        "mlflow": MLflowReceiver(),
        "wandb": WandBReceiver(mode="offline"),
    }
    async with EventBus(folder, site="site-1", job="matrix") as bus:
        for receiver in receivers.values():
            bus.subscribe(TRACKING, receiver)
        events = one_of_each(bus.blobs)
        *before, last = events.values()
        for at, event in enumerate([*before, MoodSeen(mood="good"), last]):
            bus.publish(event, run=RUN, time_ns=TIME_NS + at * NS)
        for at, event in enumerate(events.values()):
            bus.publish(without_payloads(event), run=BARE_RUN, time_ns=TIME_NS + at * NS)
    return events, {kind: receivers[kind].statistics() for kind in KINDS}


# ------------------------------------------------------------------------------------------------------ the rows
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_event_is_in_every_tracker_as_the_matrix_says(stored: Stored, kind: Kind, name: str) -> None:
    (cell,) = (cell for event, cell in MATRIX[kind].items() if event.__name__ == name)
    counts = stored.statistics[kind].altered

    assert CHECKS[kind][name](stored.views[kind])
    kept = counts.get(f"kept as a file: {name}", 0)
    assert bool(kept) == (cell.how == "kept" or (kind, name) in KEPT_TOO)
    assert f"unsupported {name}" not in counts


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_that_is_missing_is_counted_by_its_event_and_stops_nothing(stored: Stored, kind: Kind) -> None:
    counts = stored.statistics[kind].altered

    missing = {cause.rpartition(" ")[2] for cause in counts if cause.startswith("payload missing: ")}
    assert missing == {name for name, event in stored.events.items() if [*blobs_in(event.model_dump())]}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_conversion_leaves_out_is_counted(stored: Stored, kind: Kind) -> None:
    counts = stored.statistics[kind].altered

    assert {cause: count for cause, count in counts.items() if "left out" in cause} == dict.fromkeys(
        LEFT_OUT[kind], RUNS
    )


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_dropped_but_an_event_that_no_worker_knows_and_it_is_counted(stored: Stored, kind: Kind) -> None:
    statistics = stored.statistics[kind]

    assert (statistics.delivered, statistics.failed, statistics.lag) == (RUNS * len(TRACKING_EVENTS), {}, 0)
    assert statistics.dropped == {"unreadable record": 1}


def test_there_is_a_check_for_every_cell() -> None:
    assert {kind: set(checks) for kind, checks in CHECKS.items()} == {kind: set(NAMES) for kind in KINDS}


# -------------------------------------------------------------------------------------------------- TensorBoard
def has_hparams(tb: TensorBoardView) -> bool:
    tags = {tag for plugin, tag in tb.plugins() if plugin == "hparams"}
    return {"_hparams_/experiment", "_hparams_/session_start_info"} <= tags and tb.scalar("hp/loss") == 0.5


TENSORBOARD: dict[str, Callable[[TensorBoardView], object]] = {
    "RunStarted": lambda tb: "RUNNING: everything (matrix)" in tb.text("run/status"),
    "RunFinished": lambda tb: tb.text("run/status").endswith("FINISHED"),
    "MetricsLogged": lambda tb: (tb.scalar("loss"), tb.scalar("acc")) == (0.5, 0.75),
    "StyledMetricsLogged": lambda tb: tb.tensor("precise", "scalars").item() == 0.1,
    "LinkedMetricsLogged": lambda tb: tb.scalar("linked") == 0.25,
    "MetricDefined": lambda tb: {"val/*", "epoch", "minimize"} <= tb.words("metrics"),
    "SummaryUpdated": lambda tb: {"best.loss", "0.125", "best.epoch", "3"} <= tb.words("summary"),
    "HParamsLogged": has_hparams,
    "ChartsArranged": lambda tb: b"both" in tb.value("custom_scalars__config__", "custom_scalars").tensor.string_val[0],
    "ParamsLogged": lambda tb: {"batch", "32", "optimizer", "adam"} <= tb.words("params"),
    "ConfigUpdated": lambda tb: {"model.depth", "2", "model.width"} <= tb.words("config"),
    "TagsSet": lambda tb: {"team", "red"} <= tb.words("tags"),
    "TagsDeleted": lambda tb: {"stale", "(deleted)"} <= tb.words("tags"),
    "AlertRaised": lambda tb: {"slow", "WARN", "9"} <= tb.words("alerts"),
    "TextLogged": lambda tb: tb.text("note") == "hello *world*",
    "HistogramLogged": lambda tb: list(tb.value("weights", "histo").histo.bucket) == [0, 1, 3, 2],
    "PrCurveLogged": lambda tb: tb.tensor("pr", "pr_curves").shape == (6, 4),
    "TensorLogged": lambda tb: tb.tensor("grid", "tensor").tolist() == GRID,
    "MeshLogged": lambda tb: tb.tensor("triangle_VERTEX", "mesh").shape == (1, 3, 3),
    "EmbeddingLogged": lambda tb: b"tensors.tsv" in tb.file("", "projector_config.pbtxt"),
    "GraphLogged": lambda tb: [b"MatMul" in graph for graph in tb.graphs()] == [True],
    "TableLogged": lambda tb: {"number", "word", "one", "two"} <= tb.words("rows"),
    "ImagesLogged": lambda tb: [picture_size(data) for data in tb.images("pictures")] == [SQUARE, SQUARE],
    "FigureLogged": lambda tb: [picture_size(data) for data in tb.images("figure")] == [SQUARE],
    "AudioLogged": lambda tb: sample_rate(tb.value("sound", "audio").audio.encoded_audio_string) == RATE,
    "VideoLogged": lambda tb: [data[:3] for data in tb.images("film")] == [b"GIF"],
    "HtmlLogged": lambda tb: tb.file("media/page/", ".html") == PAGE.encode(),
    "PlotlyLogged": lambda tb: tb.json("media/chart/") == PLOTLY,
    "Object3DLogged": lambda tb: tb.file("media/scene/", ".obj") == OBJ.encode(),
    "MoleculeLogged": lambda tb: tb.file("media/water/", ".pdb") == PDB.encode(),
    "ArtifactLogged": lambda tb: (
        (tb.file("artifacts/checkpoint/", "notes.txt"), "notes.txt" in tb.text("artifacts/checkpoint")) == (NOTES, True)
    ),
    "ModelLogged": lambda tb: (
        (tb.file("models/net/", "MLmodel"), "MLmodel" in tb.text("models/net")) == (MLMODEL.encode(), True)
    ),
    "DatasetLogged": lambda tb: {"digits", "d1g3st", "training"} <= tb.words("datasets"),
}


# ------------------------------------------------------------------------------------------------------- MLflow
def has_link(ml: MlflowView) -> bool:
    """Whether the metric of the model names it and its dataset."""
    (model,) = ml.rows("logged_models")
    linked = [row for row in ml.rows("logged_model_metrics") if row["metric_name"] == "linked"]
    named = [(row["model_id"], row["dataset_name"], row["dataset_digest"]) for row in linked]
    return ml.metric("linked")["value"] == 0.25 and named == [(model["model_id"], "digits", "d1g3st")]


def has_model(ml: MlflowView) -> bool:
    (model,) = ml.rows("logged_models")
    place = Path(model["artifact_location"].removeprefix("file://"))
    described = yaml.safe_load((place / "MLmodel").read_text())  # it says now which model of which run it is
    return model["name"] == "net" and described | yaml.safe_load(MLMODEL) == described


MLFLOW: dict[str, Callable[[MlflowView], object]] = {
    "RunStarted": lambda ml: (ml.run.name, ml.run.experiment) == ("site-1-everything", "matrix"),
    "RunFinished": lambda ml: ml.run.status == "FINISHED" and ml.run.end_time_ms,
    "MetricsLogged": lambda ml: (ml.metric("loss")["value"], ml.metric("acc")["value"]) == (0.5, 0.75),
    "StyledMetricsLogged": lambda ml: ml.metric("precise")["value"] == 0.1,
    "LinkedMetricsLogged": has_link,
    "MetricDefined": lambda ml: "epoch" in ml.tag("trackbus.metric.val"),
    "SummaryUpdated": lambda ml: ml.run.tags["trackbus.summary.best.loss"] == "0.125",
    "HParamsLogged": lambda ml: (ml.run.params["rate"], ml.metric("hp/loss")["value"]) == ("0.01", 0.5),
    "ChartsArranged": lambda ml: ml.json("charts/site-1.json")[0]["title"] == "both",
    "ParamsLogged": lambda ml: (ml.run.params["batch"], ml.run.params["optimizer"]) == ("32", "adam"),
    "ConfigUpdated": lambda ml: ml.run.params["model.width"] == "[8, 16]",
    "TagsSet": lambda ml: ml.run.tags["team"] == "red",
    "TagsDeleted": lambda ml: "stale" not in ml.run.tags,
    "AlertRaised": lambda ml: b"9 s" in ml.file("alerts/too slow/") and "9 s" in ml.tag("trackbus.alert.too slow"),
    "TextLogged": lambda ml: ml.file("text/note/") == b"hello *world*",
    "HistogramLogged": lambda ml: ml.json("histograms/weights/")["counts"] == [1, 3, 2],
    "PrCurveLogged": lambda ml: ml.json("curves/pr/")["recall"] == [1, 0.75, 0.5, 0.25],
    "TensorLogged": lambda ml: array(ml.file("tensors/grid/", ".npy")) == GRID,
    "MeshLogged": lambda ml: ml.file("meshes/triangle/", ".obj").count(b"v ") == 3,
    "EmbeddingLogged": lambda ml: ml.file("embeddings/points/", "metadata.tsv").split() == [b"a", b"b", b"c", b"d"],
    "GraphLogged": lambda ml: b"MatMul" in ml.file("graphs/graph/", ".pb"),
    "TableLogged": lambda ml: ml.json("tables/rows")["columns"] == ["number", "word", "picture"],
    "ImagesLogged": lambda ml: [picture_size(data) for data in ml.found("images/pictures", ".png")] == [SQUARE] * 2,
    "FigureLogged": lambda ml: [picture_size(data) for data in ml.found("images/figure", ".png")] == [SQUARE],
    "AudioLogged": lambda ml: sample_rate(ml.file("audio/sound/", ".wav")) == RATE,
    "VideoLogged": lambda ml: ml.file("video/film/", ".gif")[:3] == b"GIF",
    "HtmlLogged": lambda ml: ml.file("media/page/", ".html") == PAGE.encode(),
    "PlotlyLogged": lambda ml: ml.json("media/chart/") == PLOTLY,
    "Object3DLogged": lambda ml: ml.file("media/scene/", ".obj") == OBJ.encode(),
    "MoleculeLogged": lambda ml: ml.file("media/water/", ".pdb") == PDB.encode(),
    "ArtifactLogged": lambda ml: (ml.file("", "notes.txt"), ml.file("", "weights/w.bin")) == (NOTES, WEIGHTS),
    "ModelLogged": has_model,
    "DatasetLogged": lambda ml: [(row["name"], row["digest"]) for row in ml.rows("datasets")] == [("digits", "d1g3st")],
}


# --------------------------------------------------------------------------------------------------------- W&B
def is_kept(wb: WandbView, start: str, suffix: str) -> bytes:
    """The content of a file of the run, which the run's record of files names."""
    named = {item.path for record in wb.records("files") for item in record.files}
    assert any(path.startswith(start) and path.endswith(suffix) for path in named), (start, named)
    return wb.file(f"files/{start}", suffix)


def definitions(wb: WandbView) -> set[tuple[str, str]]:
    """(Metric, its x-axis) of all that were defined."""
    return {(record.name or record.glob_name, record.step_metric) for record in wb.records("metric")}


WANDB: dict[str, Callable[[WandbView], object]] = {
    "RunStarted": lambda wb: (wb.run.name, wb.run.group) == ("site-1-everything", "matrix"),
    "RunFinished": lambda wb: wb.run.exit_code == 0 and wb.run.config["trackbus"]["status"] == "FINISHED",
    "MetricsLogged": lambda wb: (wb.history("loss"), wb.history("acc")) == (0.5, 0.75),
    "StyledMetricsLogged": lambda wb: wb.history("precise") == 0.1,
    "LinkedMetricsLogged": lambda wb: wb.history("linked") == 0.25,
    "MetricDefined": lambda wb: ("val/*", "epoch") in definitions(wb),
    "SummaryUpdated": lambda wb: wb.run.summary["best"] == {"loss": 0.125, "epoch": 3},
    "HParamsLogged": lambda wb: (wb.run.config["rate"], wb.history("hp/loss")) == (0.01, 0.5),
    "ChartsArranged": lambda wb: wb.run.config["trackbus"]["charts"][0]["title"] == "both",
    "ParamsLogged": lambda wb: (wb.run.config["batch"], wb.run.config["optimizer"]) == (32, "adam"),
    "ConfigUpdated": lambda wb: wb.run.config["model"] == {"depth": 2, "width": [8, 16]},
    "TagsSet": lambda wb: wb.run.config["trackbus"]["tags"]["team"] == "red" and "team=red" in wb.run.tags,
    "TagsDeleted": lambda wb: "stale" not in wb.run.config["trackbus"]["tags"] and "stale=yes" not in wb.run.tags,
    "AlertRaised": lambda wb: (
        [(one.title, one.text, one.level) for one in wb.records("alert")] == [("too slow", "a step took 9 s", "WARN")]
    ),
    "TextLogged": lambda wb: wb.history("note") == "hello *world*",
    "HistogramLogged": lambda wb: (
        (wb.history("weights")["_type"], wb.history("weights")["values"]) == ("histogram", [1, 3, 2])
    ),
    "PrCurveLogged": lambda wb: wb.table("pr")["columns"] == ["threshold", "precision", "recall"],
    "TensorLogged": lambda wb: array(is_kept(wb, "tensors/grid/", ".npy")) == GRID,
    "MeshLogged": lambda wb: wb.history("triangle")["_type"] == "object3D-file" and wb.media("triangle"),
    "EmbeddingLogged": lambda wb: len(wb.table("points")["data"]) == 4,
    "GraphLogged": lambda wb: b"MatMul" in is_kept(wb, "graphs/graph/", ".pb"),
    "TableLogged": lambda wb: wb.table("rows")["columns"] == ["number", "word", "picture"],
    "ImagesLogged": lambda wb: [picture_size(data) for data in wb.media("pictures")] == [SQUARE, SQUARE],
    "FigureLogged": lambda wb: [picture_size(data) for data in wb.media("figure")] == [SQUARE],
    "AudioLogged": lambda wb: [sample_rate(data) for data in wb.media("sound")] == [RATE],
    "VideoLogged": lambda wb: [data[:3] for data in wb.media("film")] == [b"GIF"],
    "HtmlLogged": lambda wb: [b"A page" in data for data in wb.media("page")] == [True],
    "PlotlyLogged": lambda wb: [json.loads(data)["data"][0]["y"] for data in wb.media("chart")] == [[4, 1, 2]],
    "Object3DLogged": lambda wb: wb.media("scene") == [OBJ.encode()],
    "MoleculeLogged": lambda wb: wb.media("water") == [PDB.encode()],
    "ArtifactLogged": lambda wb: (
        wb.artifact("checkpoint") == {"notes.txt": NOTES, "weights/w.bin": WEIGHTS, "big.tar": "s3://bucket/big.tar"}
    ),
    "ModelLogged": lambda wb: wb.artifact("model")["MLmodel"] == MLMODEL.encode(),
    "DatasetLogged": lambda wb: "d1g3st" in json.dumps(wb.run.config["trackbus"]["datasets"]),
}

JSONL: dict[str, Callable[[JsonlView], object]] = {name: lambda lines, name=name: lines.has(name) for name in NAMES}

CHECKS: dict[Kind, Mapping[str, Callable[[Any], object]]] = {
    "jsonl": JSONL,
    "tensorboard": TENSORBOARD,
    "mlflow": MLFLOW,
    "wandb": WANDB,
}
