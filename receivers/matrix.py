"""What becomes of every kind of event in every tracker: the table that `docs/matrix.md` shows and the tests run over.

Any writer's events fill any tracker. A cell is `native` where the tracker has a form of its own for the event,
`converted` where it is stored in another form that holds the same, and `kept` where it is stored as a file of the run:
that is counted as `kept as a file: <event>`. A conversion is counted only where something of the event is lost by it.
Nothing is dropped.

Write the page with `python -m receivers.matrix > docs/matrix.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from eventbus.artifacts import ArtifactLogged, DatasetLogged, ModelLogged
from eventbus.media import (
    AudioLogged,
    EmbeddingLogged,
    FigureLogged,
    GraphLogged,
    HistogramLogged,
    HtmlLogged,
    ImagesLogged,
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
    TRACKING_EVENTS,
    AlertRaised,
    ChartsArranged,
    ConfigUpdated,
    HParamsLogged,
    LinkedMetricsLogged,
    MetricDefined,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    StyledMetricsLogged,
    SummaryUpdated,
    TagsDeleted,
    TagsSet,
    TextLogged,
    TrackingEvent,
)

How = Literal["native", "converted", "kept"]

Kind = Literal["jsonl", "tensorboard", "mlflow", "wandb"]

KINDS: Mapping[Kind, str] = {
    "jsonl": "JSON lines",
    "tensorboard": "TensorBoard",
    "mlflow": "MLflow",
    "wandb": "Weights & Biases",
}
"""The receivers by their kind, and what people call them."""


class Cell(NamedTuple):
    """What becomes of one kind of event in one tracker.

    Attributes:
        how: Whether the tracker has a form of its own for it.
        words: Which form, and where it is found.
    """

    how: How
    words: str


def _native(words: str) -> Cell:
    return Cell("native", words)


def _conv(words: str) -> Cell:
    return Cell("converted", words)


def _kept(words: str) -> Cell:
    return Cell("kept", words)


_AS_METRICS = _native("as MetricsLogged")

_ROWS: Mapping[type[TrackingEvent], tuple[Cell, Cell, Cell]] = {
    RunStarted: (
        _conv("text `run/status`, with its group and parent"),
        _native("run in the experiment of its group; tag `mlflow.parentRunId` where it is nested"),
        _native("run in its group; config `trackbus.parent` where it is nested"),
    ),
    RunFinished: (
        _conv("text `run/status`, with the reason"),
        _native("status and end time; tag for the reason"),
        _native("exit code; config `trackbus.status` and `.reason`"),
    ),
    MetricsLogged: (
        _native("scalars, one run per key where they share a chart"),
        _native("metrics, `main_tag/key` where they share a chart"),
        _native("a row of the history"),
    ),
    StyledMetricsLogged: (_native("scalars in the style and precision that was asked for"), _AS_METRICS, _AS_METRICS),
    LinkedMetricsLogged: (
        _conv("as MetricsLogged; their link is left out, and counted"),
        _native("metrics linked to their model and dataset"),
        _conv("as MetricsLogged; their link is left out, and counted"),
    ),
    MetricDefined: (
        _conv("text `metrics`: a table"),
        _conv("tag `trackbus.metric.<name>`: JSON"),
        _native("`define_metric`; a goal is left out, and counted"),
    ),
    SummaryUpdated: (
        _conv("text `summary`: a table"),
        _conv("tags `trackbus.summary.<dotted key>`"),
        _native("the run's summary"),
    ),
    HParamsLogged: (
        _native("HParams: a session in a run of its own"),
        _conv("params and metrics"),
        _conv("config, and a row of the history"),
    ),
    ChartsArranged: (
        _native("layout of Custom Scalars"),
        _kept("`charts/<site>.json`"),
        _conv("config `trackbus.charts`"),
    ),
    ParamsLogged: (_conv("text `params`: a table"), _native("params"), _native("config")),
    ConfigUpdated: (
        _conv("text `config`: a table of dotted keys"),
        _conv("params of dotted keys"),
        _native("config"),
    ),
    TagsSet: (
        _conv("text `tags`: a table"),
        _native("tags"),
        _native("config `trackbus.tags`; the run's tags where they are short enough"),
    ),
    TagsDeleted: (
        _conv("text `tags`: a table with `(deleted)`"),
        _native("tags"),
        _native("gone from config and tags"),
    ),
    AlertRaised: (
        _conv("text `alerts`"),
        _conv("artifact `alerts/...`, and tag `trackbus.alert.<title>`"),
        _native("alert"),
    ),
    TextLogged: (
        _native("text"),
        _native("text artifact: its path, or `text/...`"),
        _native("a field of the history"),
    ),
    HistogramLogged: (_native("histogram"), _conv("artifact `histograms/...`: JSON"), _native("histogram")),
    PrCurveLogged: (
        _native("PR curve"),
        _conv("artifact `curves/...`: JSON"),
        _conv("table of threshold, precision and recall"),
    ),
    TensorLogged: (_native("tensor"), _kept("`tensors/...npy`"), _kept("`tensors/...npy`")),
    MeshLogged: (
        _native("mesh"),
        _kept("`meshes/...obj`"),
        _conv("3D object; camera and light are left out, and counted"),
    ),
    EmbeddingLogged: (
        _native("files of the projector"),
        _kept("`embeddings/...`: `.tsv` and the sprite"),
        _conv("table, and the sprite as an image"),
    ),
    GraphLogged: (
        _native("graph; ONNX is converted where the package onnx is there, else kept"),
        _kept("`graphs/...pb` or `.onnx`"),
        _kept("`graphs/...pb` or `.onnx`"),
    ),
    TableLogged: (
        _conv("text: the first 100 rows; a longer one, or one with files in it, is kept too"),
        _native("table: its path, or `tables/<key>/...json`"),
        _native("table"),
    ),
    ImagesLogged: (
        _native("images; what is no PNG, JPEG, GIF or BMP is kept"),
        _native("images by key and step, or by path"),
        _native("images"),
    ),
    FigureLogged: (
        _native("images; what is no PNG, JPEG, GIF or BMP is kept"),
        _native("images by key and step, or by path"),
        _native("images"),
    ),
    AudioLogged: (_native("audio; what is no WAV is kept"), _conv("artifact `audio/...`"), _native("audio")),
    VideoLogged: (
        _native("images that move; what is no GIF is kept"),
        _conv("artifact `video/...`"),
        _native("video"),
    ),
    HtmlLogged: (_kept("`media/...html`"), _conv("artifact `media/...html`"), _native("HTML")),
    PlotlyLogged: (_kept("`media/...plotly.json`"), _conv("artifact `media/...plotly.json`"), _native("Plotly")),
    Object3DLogged: (_kept("`media/...`"), _conv("artifact `media/...`"), _native("3D object")),
    MoleculeLogged: (_kept("`media/...`"), _conv("artifact `media/...`"), _native("molecule")),
    ArtifactLogged: (
        _kept("its files, and a text `artifacts/<key>` that lists them"),
        _native("artifacts at their paths; versions of one with a type lie apart, in `artifacts/<key>/...`"),
        _native("artifact; plain files among the run's files, in `kept/` where the SDK has a file of that name"),
    ),
    ModelLogged: (
        _kept("its files, and a text `models/<key>` that lists them"),
        _native("logged model, registered where that was asked for"),
        _native("artifact of type `model`"),
    ),
    DatasetLogged: (_conv("text `datasets`"), _native("dataset of the run"), _conv("config `trackbus.datasets`")),
}

_LINE = _native("a line; its payloads are files beside it")

MATRIX: Mapping[Kind, Mapping[type[TrackingEvent], Cell]] = {
    "jsonl": dict.fromkeys(_ROWS, _LINE),
    "tensorboard": {event: cells[0] for event, cells in _ROWS.items()},
    "mlflow": {event: cells[1] for event, cells in _ROWS.items()},
    "wandb": {event: cells[2] for event, cells in _ROWS.items()},
}
"""What becomes of every kind of event, by kind of receiver."""

_FRAME = """\
# Every event in every tracker

Any writer's events fill any tracker. `native`: the tracker has a form of its own for it. `converted`: it is stored in
another form that holds the same; what is lost by it is counted. `kept`: it is stored as a file of the run, and counted
as `kept as a file: <event>`; TensorBoard's lie in `_files` below the run's folder. Nothing is dropped.
JSON lines hold every event as it is, and its payloads lie beside them.

{table}

A payload that is missing or damaged where the tracker's worker looks for it, or holds something else than its event
says, stops nothing: the event is stored as far as it can be, and counted as `payload missing: <event>`. Where arrays,
tables and meshes are kept, those of more than 8 MiB of numbers are arrays rather than text, and payloads of more than
64 MiB stay as they are, with what is known of them in a file beside them.

An event type of your own is read by a receiver that is subscribed to it by its class: `bus.subscribe(MoodSeen,
JsonlReceiver(name="moods"))`. In JSON lines it is a line like any other, with its payloads; elsewhere it is counted as
`unsupported <event>`, unless it is a subclass of one of these: then it is stored as its base is. A receiver that is
subscribed to `TRACKING` alone has not imported its class, and counts it as dropped: `unreadable record`.

This page is made from `receivers/matrix.py`, and the tests log every event to every tracker and read it back.
"""


def make_page() -> str:
    """Return the page of the documentation that shows the table."""
    return _FRAME.format(table="\n".join(_lines()))


def _lines() -> Iterator[str]:
    kinds: list[Kind] = [kind for kind in KINDS if kind != "jsonl"]
    yield f"| Event | {' | '.join(KINDS[kind] for kind in kinds)} |"
    yield "| --- " * (1 + len(kinds)) + "|"
    for event in TRACKING_EVENTS:
        cells = (MATRIX[kind][event] for kind in kinds)
        yield f"| {event.__name__} | {' | '.join(f'{cell.how}: {cell.words}' for cell in cells)} |"


if __name__ == "__main__":
    print(make_page(), end="")  # noqa: T201 - that is what it is called for
