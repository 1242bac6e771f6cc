"""What TensorBoard's sink makes of events that are no numbers and no texts; the parity tests hold it to the SDK's."""

import json
import math
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from one_of_each import one_of_each
from PIL import Image
from pydantic import JsonValue
from readback import Row, TensorBoardRecord, read_tensorboard, read_tensorboard_records
from tensorboard.compat.tensorflow_stub import dtypes
from tensorboard.plugins.projector import projector_config_pb2

from eventbus import Event
from eventbus.artifacts import ArtifactFile, ArtifactLogged
from eventbus.blobs import BlobStore
from eventbus.media import (
    Array,
    AudioLogged,
    EmbeddingLogged,
    FigureLogged,
    GraphLogged,
    HistogramLogged,
    ImagesLogged,
    MediaFile,
    MeshLogged,
    TableLogged,
    TensorLogged,
    default_edges,
)
from eventbus.tracking import (
    HParamsLogged,
    LinkedMetricsLogged,
    MetricDefined,
    MetricsLogged,
    RunStarted,
    RunStatus,
    TextLogged,
)
from receivers.abc import Position
from receivers.tensorboard import TensorBoardConfig, TensorBoardSink
from receivers.testing import make_rows, make_run

RUN = make_run("run")
RUN_FOLDER = Path("tensorboard/check-run/site-1")
LAST = TextLogged(key="last", text="still here")
RATES = ("sample_rate", "channels", "frames")


def sink(workspace: Path) -> TensorBoardSink:
    return TensorBoardSink(TensorBoardConfig(), workspace)


def write(workspace: Path, events: Sequence[Event]) -> TensorBoardSink:
    opened = sink(workspace)
    opened.open(RUN, Position(0))
    opened.write(make_rows(events))
    opened.close(None)
    return opened


def rows(workspace: Path) -> dict[str, Row]:
    return {row.key: row for row in read_tensorboard(workspace / RUN_FOLDER)}


def records(workspace: Path) -> dict[str, TensorBoardRecord]:
    return {record.tag: record for record in read_tensorboard_records(workspace / RUN_FOLDER)}


def store_of(workspace: Path) -> BlobStore:
    workspace.mkdir(exist_ok=True)
    return BlobStore(workspace / "blobs")


def kept(workspace: Path) -> dict[str, bytes]:
    folder = workspace / RUN_FOLDER / "_files"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def file(store: BlobStore, media_type: str, data: bytes = b"abc") -> MediaFile:
    return MediaFile(blob=store.put(data), media_type=media_type)


def picture(format_name: str) -> bytes:
    data = BytesIO()
    Image.new("RGB", (2, 1)).save(data, format_name)
    return data.getvalue()


def floats(store: BlobStore, shape: list[int], data: bytes) -> Array:
    return Array(blob=store.put(data), dtype="float32", shape=shape)


# --------------------------------------------------------------------------------------------- redelivery
def content(workspace: Path) -> tuple[list[TensorBoardRecord], dict[str, bytes]]:
    folder = workspace / RUN_FOLDER
    others = [path for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name]
    found = sorted(read_tensorboard_records(folder), key=lambda one: (one.run, one.wall_time, one.tag))
    return found, {path.relative_to(folder).as_posix(): path.read_bytes() for path in others}


def test_what_is_delivered_again_leaves_what_one_delivery_leaves(tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    one_of_each(store_of(twice))
    numbered = make_rows(list(one_of_each(store_of(once)).values()))
    undisturbed = sink(once)
    undisturbed.open(RUN, Position(0))
    undisturbed.write(numbered)
    undisturbed.close(RunStatus.FINISHED)

    committed = Position(0)
    for acknowledged in (5, 18, 24, len(numbered)):
        killed = sink(twice)
        killed.open(RUN, committed)
        killed.write(numbered[committed.row :])
        killed.flush()  # nobody heard of it
        again = sink(twice)
        again.open(RUN, committed)
        again.write(numbered[committed.row : acknowledged])
        committed = again.close(RunStatus.FINISHED if acknowledged == len(numbered) else None)

    assert content(twice) == content(once)
    assert len(content(once)[0]) > 30
    assert len(content(once)[1]) > 12


def test_event_files_that_were_logged_as_files_stay(tmp_path: Path) -> None:
    store, name = store_of(tmp_path), "events.out.tfevents.1.host.2.trackbus"
    logged = ArtifactLogged(key="old", files=[ArtifactFile(path=name, blob=store.put(b"old"))])
    session = HParamsLogged(params={"a": 1}, metrics={}, run_name="_files")
    opened = sink(tmp_path)
    opened.open(RUN, Position(0))
    opened.write(make_rows([logged, session]))
    opened.flush()

    sink(tmp_path).open(RUN, Position(0))

    assert kept(tmp_path) == {name: b"old"}
    assert [path.name for path in tmp_path.rglob("*tfevents*")] == [name]
    assert opened.counts == {"kept as a file: ArtifactLogged": 1, "renamed folder": 1}


def test_folders_called_like_event_files_do_not_keep_a_run_from_opening(tmp_path: Path) -> None:
    name = "events.out.tfevents.1.host.2.trackbus"
    chart = MetricsLogged(values={"host.2.trackbus": 1.0}, main_tag="events.out.tfevents.1")
    session = HParamsLogged(params={"a": 1}, metrics={}, run_name=f"a/{name}")
    write(tmp_path, [chart, session, embedding(store_of(tmp_path), name)])
    made_before = tmp_path / RUN_FOLDER / "events.out.tfevents.0.trackbus"
    made_before.mkdir()

    opened = sink(tmp_path)
    opened.open(RUN, Position(0))

    assert made_before.is_dir()
    assert [path for path in tmp_path.rglob("*tfevents*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["projector_config.pbtxt", "00003/points/tensors.tsv", "_taken", "_files/a"])
def test_sessions_and_charts_take_no_name_of_the_projectors_files(tmp_path: Path, name: str) -> None:
    store = store_of(tmp_path)
    session = HParamsLogged(params={"a": 1}, metrics={"loss": 0.5}, run_name=name)

    written = write(tmp_path, [session, embedding(store, "points"), session, LAST])

    assert written.counts == {"renamed folder": 2}
    assert config(tmp_path) == ["points:00003"]
    assert sum(row.key == "loss" for row in read_tensorboard(tmp_path / RUN_FOLDER)) == 2
    assert (tmp_path / RUN_FOLDER / "00003/points/tensors.tsv").is_file()


# ----------------------------------------------------------------------------------------------- payloads
def test_payloads_that_are_missing_stop_nothing(tmp_path: Path) -> None:
    events = one_of_each(BlobStore(None))  # names what nobody keeps

    written = write(tmp_path, [*events.values(), LAST])

    missing = {cause.removeprefix("payload missing: ") for cause in written.counts if cause.startswith("payload")}
    assert missing == {name for name, event in events.items() if '"blob"' in event.model_dump_json()} | {
        "GraphLogged",
        "TableLogged",
        "EmbeddingLogged",
    }
    found = rows(tmp_path)
    assert found["last/text_summary"].value == "still here"
    assert "notes.txt" in str(found["artifacts/checkpoint/text_summary"].value)
    assert "| number | word | picture |" in str(found["rows/text_summary"].value)


def test_payloads_that_are_not_what_they_should_be_stop_nothing(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    matrix = floats(store, [1, 1], b"\0\0\0\0")
    damaged = [
        TensorLogged(key="t", tensor=floats(store, [2, 2], b"\0\0\0\0")),
        TensorLogged(key="t", tensor=Array(blob=store.put(b"ab"), dtype="bfloat16", shape=[1])),
        EmbeddingLogged(key="e", matrix=floats(store, [3], b"\0\0\0\0")),
        EmbeddingLogged(key="e", matrix=matrix, labels=store.put(b"no JSON")),
        TableLogged(key="r", columns=["a"], rows=store.put(b"no JSON"), num_rows=1),
        MeshLogged(key="m", vertices=floats(store, [1, 1, 3], bytes(12)), faces=floats(store, [1, 1, 3], b"")),
    ]

    written = write(tmp_path, [*damaged, LAST])

    assert written.counts == {
        "payload missing: TensorLogged": 2,
        "payload missing: EmbeddingLogged": 2,
        "payload missing: TableLogged": 1,
        "payload missing: MeshLogged": 1,
    }
    assert {"r/text_summary", "m_VERTEX", "last/text_summary"} == rows(tmp_path).keys()
    assert config(tmp_path) == ["e:00000"]


@pytest.mark.parametrize("data", [b"5", b"null", b"[5]", b'{"a": 1}', b"[" * 100_000], ids=lambda data: data[:9])
def test_json_that_is_no_table_stops_nothing(tmp_path: Path, data: bytes) -> None:
    store = store_of(tmp_path)
    matrix = floats(store, [1, 1], bytes(4))
    labelled = EmbeddingLogged(key="e", matrix=matrix, labels=store.put(data), header=["name"])
    table = TableLogged(key="r", columns=["a"], rows=store.put(data), num_rows=1)

    written = write(tmp_path, [labelled, table, LAST])

    assert written.counts == {"payload missing: EmbeddingLogged": 1, "payload missing: TableLogged": 1}
    assert config(tmp_path) == ["e:00000"]
    assert {"r/text_summary", "last/text_summary"} == rows(tmp_path).keys()


def test_half_a_character_stops_nothing(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    half = store.put(b'[["\\ud800"]]')
    labelled = EmbeddingLogged(key="e", matrix=floats(store, [1, 1], bytes(4)), labels=half, header=["name"])

    write(tmp_path, [labelled, TableLogged(key="r", columns=["a"], rows=half, num_rows=1)])

    assert "| ? |" in str(rows(tmp_path)["r/text_summary"].value)
    assert (tmp_path / RUN_FOLDER / "00000/e/metadata.tsv").read_text() == "name\n?\n"


def test_a_cell_names_no_file_from_the_end(tmp_path: Path) -> None:
    data = store_of(tmp_path).put(b'[[{"file": -1}], [{"file": 1}]]')

    write(tmp_path, [TableLogged(key="r", columns=["a"], rows=data, num_rows=2)])

    assert "| {'file': -1} |\n| {'file': 1} |" in str(rows(tmp_path)["r/text_summary"].value)


def test_sizes_that_nothing_has_stop_nothing(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    sizes: dict[str, JsonValue] = {"width": 1 << 40, "height": -1, "channels": 1 << 70}
    picture = MediaFile(blob=store.put(b"p"), media_type="image/png", details=sizes)
    sound = MediaFile(blob=store.put(b"s"), media_type="audio/wav", details=dict.fromkeys(RATES, 1 << 70))
    odd = [
        TensorLogged(key="t", tensor=floats(store, [1 << 62, 4], b"\0\0\0\0")),
        TensorLogged(key="t", tensor=floats(store, [1 << 63, 0], b"")),
        MeshLogged(key="m", vertices=floats(store, [1 << 40, 0, 3], b"")),
        ImagesLogged(key="p", files=[picture]),
        AudioLogged(key="s", files=[sound]),
    ]

    written = write(tmp_path, [*odd, LAST])

    assert written.counts == {"payload missing: TensorLogged": 2, "payload missing: MeshLogged": 1}
    assert {"p", "s", "last/text_summary"} == rows(tmp_path).keys()


def test_a_shape_that_no_mesh_has_is_kept_and_counted(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    made = write(
        tmp_path,
        [
            MeshLogged(key="flat", vertices=floats(store, [6], np.zeros(6, "<f4").tobytes())),
            MetricsLogged(values={"after": 1.0}),
        ],
    )

    assert made.counts["refused by TensorBoard: MeshLogged"] == 1
    assert made.counts["kept as a file: MeshLogged"] == 1
    assert [name for name in kept(tmp_path) if "flat" in name]
    assert "after" in rows(tmp_path)


def test_of_several_pictures_those_that_are_there_are_shown(tmp_path: Path) -> None:
    events = one_of_each(store_of(tmp_path))
    pictures = events["ImagesLogged"]
    assert isinstance(pictures, ImagesLogged)
    gone = MediaFile(blob=BlobStore(None).put(b"gone"), media_type="image/png", details={"boxes": {}})

    written = write(tmp_path, [pictures.model_copy(update={"files": [gone, *pictures.files]})])

    assert list(records(tmp_path)) == ["pictures/1", "pictures/2"]
    assert written.counts == {"payload missing: ImagesLogged": 1, "boxes left out": 1}


# -------------------------------------------------------------------------------------------- kept as files
def test_a_sound_that_is_no_wav_is_kept(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    wav = one_of_each(store)["AudioLogged"]
    assert isinstance(wav, AudioLogged)
    bare = MediaFile(blob=wav.files[0].blob, media_type="audio/wav")  # what it says of itself is in the file

    written = write(tmp_path, [wav.model_copy(update={"files": [bare, file(store, "audio/mpeg", b"mp3")]})])

    assert written.counts == {"kept as a file: AudioLogged": 1}
    assert records(tmp_path)["sound/0"].content["value"] | {"encodedAudioString": ""} == {
        "sampleRate": 8000.0,
        "numChannels": "1",
        "lengthFrames": "2000",
        "encodedAudioString": "",
        "contentType": "audio/wav",
    }
    assert kept(tmp_path)["audio/sound/1-c0ffee-1-1.mp3"] == b"mp3"


def test_a_long_table_is_kept_too(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    data = [[number, f"a|{number}"] for number in range(101)]
    table = TableLogged(
        key="long", step=2, columns=["n", "word"], rows=store.put(json.dumps(data).encode()), num_rows=101
    )

    written = write(tmp_path, [table])

    text = str(rows(tmp_path)["long/text_summary"].value)
    assert text.startswith("| n | word |\n| --- | --- |\n| 0 | a\\|0 |\n")
    assert text.endswith("| 99 | a\\|99 |\n\nThe first 100 of 101 rows.")
    assert json.loads(kept(tmp_path)["tables/long/2-c0ffee-1.json"])["data"] == data
    assert written.counts == {"kept as a file: TableLogged": 1}


def test_pictures_that_tensorboard_does_not_show_are_kept(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    shown = [file(store, f"image/{name}", picture(name)) for name in ("png", "jpeg", "gif", "bmp")]
    drawn = FigureLogged(key="loss", files=[file(store, "application/pdf", b"%PDF")])

    written = write(tmp_path, [drawn, ImagesLogged(key="all", files=[*shown, file(store, "image/tiff", b"II*")])])

    assert records(tmp_path).keys() == {"all/0", "all/1", "all/2", "all/3"}
    assert {b"%PDF", b"II*"} <= set(kept(tmp_path).values())
    assert written.counts == {"kept as a file: FigureLogged": 1, "kept as a file: ImagesLogged": 1}


def test_an_operation_of_onnx_without_a_result_is_kept(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.GraphProto(node=[onnx.NodeProto(op_type="Print", input=["x"])])
    model = onnx.ModelProto(graph=graph).SerializeToString()

    written = write(tmp_path, [GraphLogged(key="graph", kind="onnx", graph=store_of(tmp_path).put(model))])

    assert kept(tmp_path) == {"graphs/graph/0-c0ffee-1.onnx": model}
    assert written.counts == {"kept as a file: GraphLogged": 1}


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_model_of_onnx_that_can_not_be_read_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_installed: bool
) -> None:
    if not is_installed:
        monkeypatch.setitem(sys.modules, "onnx", None)
    model = GraphLogged(key="graph", kind="onnx", graph=store_of(tmp_path).put(b"\xff\xff"))

    written = write(tmp_path, [model])

    assert kept(tmp_path) == {"graphs/graph/0-c0ffee-1.onnx": b"\xff\xff"}
    assert written.counts == {"kept as a file: GraphLogged": 1}


# -------------------------------------------------------------------------------------------------- projector
def embedding(store: BlobStore, key: str, labels: object = None) -> EmbeddingLogged:
    told = None if labels is None else store.put(json.dumps(labels).encode())
    return EmbeddingLogged(key=key, step=3, matrix=floats(store, [1, 2], b"\0\0\x80?\0\0\0@"), labels=told)


def config(workspace: Path) -> list[str]:
    message = projector_config_pb2.ProjectorConfig()  # pyright: ignore[reportAttributeAccessIssue]
    text = (workspace / RUN_FOLDER / "projector_config.pbtxt").read_text()
    return [one.tensor_name for one in text_format.Parse(text, message).embeddings]


def test_embeddings_are_named_once_whatever_was_there(tmp_path: Path) -> None:
    store = store_of(tmp_path)

    write(tmp_path, [embedding(store, "a"), embedding(store, "b")])
    write(tmp_path, [embedding(store, "a"), embedding(store, "b")])

    assert config(tmp_path) == ["a:00003", "b:00003"]


def test_a_configuration_that_can_not_be_read_is_counted(tmp_path: Path) -> None:
    path = tmp_path / RUN_FOLDER / "projector_config.pbtxt"
    path.parent.mkdir(parents=True)
    path.write_text("no { such")

    written = write(tmp_path, [embedding(store_of(tmp_path), "a")])

    assert written.counts == {"unreadable projector configuration": 1}
    assert config(tmp_path) == ["a:00003"]


@pytest.mark.parametrize("key", ["..", "a/../../b", "é" * 200, "\\"])
def test_no_tag_leaves_the_run_and_no_label_breaks_its_line(tmp_path: Path, key: str) -> None:
    write(tmp_path, [embedding(store_of(tmp_path), key, ["one\ttwo\nthree"])])

    [matrix], [labels] = tmp_path.rglob("tensors.tsv"), tmp_path.rglob("metadata.tsv")
    assert matrix.parent.parent == tmp_path / RUN_FOLDER / "00003"
    assert (matrix.read_text(), labels.read_text()) == ("1.0\t2.0\n", "one two three\n")


# ------------------------------------------------------------------------------------------------------ others
def histogram(limits: list[float], counts: list[float], low: float | None = None) -> HistogramLogged:
    return HistogramLogged(
        key="h", limits=limits, counts=counts, low=low, min=0.0, max=1.0, num=3.0, sum=1.0, sum_squares=1.0
    )


EDGES = default_edges()[700:710]


@pytest.mark.parametrize(
    ("event", "limits", "counts"),
    [
        (histogram([EDGES[0], EDGES[1], EDGES[8], EDGES[9]], [0, 1, 0, 2]), EDGES, [0, 1, 0, 0, 0, 0, 0, 0, 0, 2]),
        (histogram([EDGES[0], EDGES[4], EDGES[8]], [0, 1, 2]), [EDGES[0], EDGES[4], EDGES[8]], [0, 1, 2]),
        (histogram([0.5, 1.5], [1, 2]), [0.5, 1.5], [1, 2]),
        (histogram([0.5, 1.5], [1, 2], low=-0.5), [-0.5, 0.5, 1.5], [0, 1, 2]),
    ],
    ids=["put together", "coarse", "others", "low"],
)
def test_bins_are_those_that_were_counted(
    tmp_path: Path, event: HistogramLogged, limits: list[float], counts: list[float]
) -> None:
    write(tmp_path, [event])

    found = records(tmp_path)["h"].content["value"]
    assert (found["bucketLimit"], found["bucket"]) == (limits, counts)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        *((dtype, (2, 3)) for dtype in ("float16", "uint8", "uint16", "uint32", "uint64", "bool", "complex128")),
        ("int64", ()),
        ("float32", (0, 3)),
        ("float64", (400, 400)),  # large: as plain bytes
    ],
)
def test_a_tensor_of_any_type_is_read_by_tensorboard(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    told = Array(blob=store_of(tmp_path).put(array.tobytes()), dtype=dtype, shape=list(shape))

    write(tmp_path, [TensorLogged(key="t", tensor=told)])

    found = records(tmp_path)["t"].content
    assert (found["shape"], found["numbers"]) == (shape, str(array.tolist()))
    assert dtypes.as_dtype(found["dtype"]).as_numpy_dtype == array.dtype


def test_texts_say_what_has_no_other_form(tmp_path: Path) -> None:
    written = write(
        tmp_path,
        [
            RunStarted(name="exp", group="job", parent="outer"),
            MetricDefined(name="val/*", step_metric="epoch", summary=["min", "max"], hidden=True),
            LinkedMetricsLogged(values={"acc": 0.5}, model="net"),
        ],
    )

    found = rows(tmp_path)
    assert found["run/status/text_summary"].value == "RUNNING: exp (job), nested in outer"
    assert found["metrics/text_summary"].value == (
        "| metric | step_metric | hidden | summary |\n| --- | --- | --- | --- |\n| val/* | epoch | True | min, max |"
    )
    assert found["acc"].value == 0.5
    assert written.counts == {"link of metrics left out": 1}


def test_an_artifact_without_more_is_a_list_of_its_files(tmp_path: Path) -> None:
    blob = store_of(tmp_path).put(b"abc")

    write(tmp_path, [ArtifactLogged(key="bare", files=[ArtifactFile(path="a.txt", blob=blob)], description="Notes.")])

    text = rows(tmp_path)["artifacts/bare/text_summary"].value
    assert text == "Notes.\n\n| file | bytes |\n| --- | --- |\n| a.txt | 3 |"


def test_a_session_without_a_name_is_named_by_its_time(tmp_path: Path) -> None:
    write(tmp_path, [HParamsLogged(params={"big": 2**60}, metrics={"loss": 0.5}), LAST])

    runs = {record.run for record in read_tensorboard_records(tmp_path / RUN_FOLDER)}
    assert runs == {".", "1700000000.007"}
