"""One instance of every event of the vocabulary, with payloads that programs of the trade can open."""

import io
import json
import re
import struct
import wave
import zlib
from collections.abc import Iterable, Iterator, Mapping
from math import pi, sin

from PIL import Image

from eventbus.artifacts import ArtifactFile, ArtifactLogged, DatasetLogged, ModelLogged
from eventbus.blobs import BlobStore
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
    AlertRaised,
    Chart,
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

PNG_SIZE = 32
RATE = 8000
PDB = "HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00  0.00           O\nEND\n"
OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
PLOTLY = {"data": [{"type": "scatter", "x": [1, 2, 3], "y": [4, 1, 2]}], "layout": {"title": {"text": "a chart"}}}
PAGE = "<!doctype html><h1>A page</h1>"
MLMODEL = """\
flavors:
  python_function:
    loader_module: mlflow.sklearn
    python_version: 3.11.7
utc_time_created: '2026-01-01 00:00:00.000000'
"""
NOTES = b"plain notes\n"
WEIGHTS = bytes(range(256)) * 64


class MoodSeen(TrackingEvent):
    """An event type of a user's own, which no worker knows that is subscribed to the vocabulary alone."""

    mood: str


def one_of_each(store: BlobStore) -> dict[str, TrackingEvent]:
    """Every event by the name of its class, in an order in which a run could log them."""
    events: list[TrackingEvent] = [
        RunStarted(name="everything", group="matrix"),
        *_files(store),
        *_values(),
        *_numbers(store),
        *_media(store),
        RunFinished(status="FINISHED"),
    ]
    return {type(event).__name__: event for event in events}


def without_payloads(event: TrackingEvent) -> TrackingEvent:
    """The same event, naming blobs that nobody has."""
    changed = re.sub(r'"name":"([0-9a-f]{64})"', lambda found: f'"name":"{found[1][::-1]}"', event.model_dump_json())
    return type(event).model_validate_json(changed)


def _values() -> Iterator[TrackingEvent]:
    yield MetricsLogged(values={"loss": 0.5, "acc": 0.75}, step=1)
    yield StyledMetricsLogged(values={"precise": 0.1}, step=1, new_style=True, double_precision=True)
    yield LinkedMetricsLogged(
        values={"linked": 0.25}, step=1, model="net", dataset_name="digits", dataset_digest="d1g3st"
    )
    yield MetricDefined(name="val/*", step_metric="epoch", summary=["min"], goal="minimize")
    yield SummaryUpdated(values={"best": {"loss": 0.125, "epoch": 3}})
    yield HParamsLogged(params={"rate": 0.01, "kind": "adam", "nesterov": True}, metrics={"hp/loss": 0.5}, step=1)
    yield ChartsArranged(charts=[Chart(title="both", category="training", tags=["loss", "acc"])])
    yield ParamsLogged(values={"batch": 32, "optimizer": "adam"})
    yield ConfigUpdated(values={"model": {"depth": 2, "width": [8, 16]}})
    yield TagsSet(values={"team": "red", "stale": "yes"})
    yield TagsDeleted(keys=["stale"])
    yield AlertRaised(title="too slow", text="a step took 9 s", level="WARN")
    yield TextLogged(key="note", text="hello *world*", step=1)


def _numbers(store: BlobStore) -> Iterator[TrackingEvent]:
    counts, limits = [1.0, 3.0, 2.0], [0.5, 1.0, 1.5]
    yield HistogramLogged(
        key="weights", step=1, limits=limits, counts=counts, low=0.0, min=0.1, max=1.4, num=6, sum=5.0, sum_squares=5.5
    )
    falling = [1.0, 0.75, 0.5, 0.25]
    curve = [[4.0, 3.0, 2.0, 1.0], [4.0, 2.0, 1.0, 0.0], [0.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0]]
    yield PrCurveLogged(key="pr", step=1, curve=[*curve, [0.5, 0.6, 2 / 3, 1.0], falling])
    yield TensorLogged(key="grid", step=1, tensor=_array(store, "f", "float32", [2, 3], range(6)))
    yield MeshLogged(
        key="triangle",
        step=1,
        vertices=_array(store, "f", "float32", [1, 3, 3], [0, 0, 0, 1, 0, 0, 0, 1, 0]),
        colors=_array(store, "B", "uint8", [1, 3, 3], [255, 0, 0, 0, 255, 0, 0, 0, 255]),
        faces=_array(store, "i", "int32", [1, 1, 3], [0, 1, 2]),
        config={"camera": {"cls": "PerspectiveCamera", "fov": 75}},
    )
    yield EmbeddingLogged(
        key="points",
        step=1,
        matrix=_array(store, "f", "float32", [4, 3], [1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1]),
        labels=store.put(json.dumps(["a", "b", "c", "d"]).encode()),
        sprite=_png(store),
        sprite_size=[PNG_SIZE // 2, PNG_SIZE // 2],
    )
    yield GraphLogged(key="graph", graph=store.put(_graph()))


def _media(store: BlobStore) -> Iterator[TrackingEvent]:
    cells = [[1, "one", {"file": 0}], [2, "two", None]]
    rows = store.put(json.dumps(cells).encode())
    yield TableLogged(
        key="rows", step=1, columns=["number", "word", "picture"], rows=rows, num_rows=2, files=[_png(store)]
    )
    yield ImagesLogged(key="pictures", step=1, files=[_png(store, "the first"), _png(store, "the second", shade=90)])
    yield FigureLogged(key="figure", step=1, files=[_png(store)])
    sound = {"sample_rate": RATE, "channels": 1, "frames": RATE // 4}
    yield AudioLogged(key="sound", step=1, files=[_file(store, "audio/wav", _wav(), sound)])
    film = {"fps": 4, "width": PNG_SIZE, "height": PNG_SIZE}
    yield VideoLogged(key="film", step=1, files=[_file(store, "image/gif", _gif(), film)])
    yield HtmlLogged(key="page", step=1, files=[_file(store, "text/html", PAGE.encode())])
    yield PlotlyLogged(
        key="chart", step=1, files=[_file(store, "application/vnd.plotly+json", json.dumps(PLOTLY).encode())]
    )
    yield Object3DLogged(key="scene", step=1, files=[_file(store, "model/obj", OBJ.encode())])
    yield MoleculeLogged(key="water", step=1, files=[_file(store, "chemical/x-pdb", PDB.encode())])


def _files(store: BlobStore) -> Iterator[TrackingEvent]:
    files = [
        ArtifactFile(path="notes.txt", blob=store.put(NOTES)),
        ArtifactFile(path="weights/w.bin", blob=store.put(WEIGHTS)),
        ArtifactFile(path="big.tar", reference="s3://bucket/big.tar"),
    ]
    yield ArtifactLogged(
        key="checkpoint", step=1, kind="checkpoint", files=files, aliases=["best"], metadata={"epoch": 3}
    )
    model = [ArtifactFile(path="MLmodel", blob=store.put(MLMODEL.encode())), files[1]]
    yield ModelLogged(key="net", step=1, flavor="python_function", files=model, params={"depth": "2"})
    yield DatasetLogged(
        key="digits",
        digest="d1g3st",
        source_type="local",
        source=json.dumps({"uri": "/data/digits.csv"}),
        data_schema=json.dumps({"mlflow_colspec": [{"type": "double", "name": "x", "required": True}]}),
        profile=json.dumps({"num_rows": 10}),
        context="training",
        tags={"split": "first"},
    )


def _file(store: BlobStore, media_type: str, data: bytes, details: Mapping[str, object] | None = None) -> MediaFile:
    return MediaFile.model_validate({"blob": store.put(data), "media_type": media_type, "details": details or {}})


def _array(store: BlobStore, code: str, dtype: str, shape: list[int], values: Iterable[float]) -> Array:
    numbers = [*values]
    return Array(blob=store.put(struct.pack(f"<{len(numbers)}{code}", *numbers)), dtype=dtype, shape=shape)


def _png(store: BlobStore, caption: str | None = None, shade: int = 200) -> MediaFile:
    """A square of colours, made byte by byte."""
    side = range(PNG_SIZE)
    pixels = b"".join(b"\0" + bytes(value for x in side for value in (x * 8, y * 8, shade)) for y in side)
    head = struct.pack(">IIBBBBB", PNG_SIZE, PNG_SIZE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return MediaFile(
        blob=store.put(b"\x89PNG\r\n\x1a\n" + body),
        media_type="image/png",
        caption=caption,
        details={"width": PNG_SIZE, "height": PNG_SIZE, "channels": 3},
    )


def _wav() -> bytes:
    """A quarter of a second of a tone."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        tone = (int(12000 * sin(2 * pi * 440 * at / RATE)) for at in range(RATE // 4))
        file.writeframes(b"".join(struct.pack("<h", value) for value in tone))
    return target.getvalue()


def _gif() -> bytes:
    """A square that changes its colour twice."""
    target = io.BytesIO()
    frames = [Image.new("RGB", (PNG_SIZE, PNG_SIZE), color) for color in ("red", "green", "blue")]
    frames[0].save(target, "GIF", save_all=True, append_images=frames[1:], duration=250, loop=0)
    return target.getvalue()


def _graph() -> bytes:
    from tensorboard.compat.proto import graph_pb2, node_def_pb2

    node = node_def_pb2.NodeDef  # pyright: ignore[reportAttributeAccessIssue]
    nodes = [node(name="input", op="Placeholder"), node(name="layer", op="MatMul", input=["input"])]
    return graph_pb2.GraphDef(node=nodes).SerializeToString()  # pyright: ignore[reportAttributeAccessIssue]
