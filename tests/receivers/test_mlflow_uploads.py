"""Files, pictures, tables, models and nested runs in MLflow: once, however often they come, and whatever breaks off."""

import io
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from mlflow_content import content_of
from mlflow_stores import put_mlflow_store
from msgspec.structs import replace
from one_of_each import MLMODEL, one_of_each
from PIL import Image
from readback import raw_mlflow

from eventbus.artifacts import ArtifactFile, ArtifactLogged, DatasetLogged, ModelLogged
from eventbus.blobs import FOLDER, Blob, BlobStore
from eventbus.media import Array, ImagesLogged, MediaFile, TableLogged, TensorLogged
from eventbus.tracking import (
    LinkedMetricsLogged,
    MetricsLogged,
    RunStarted,
    RunStatus,
    TagsDeleted,
    TagsSet,
    TextLogged,
)
from receivers._mlflow_draft import MAX_TAG_LENGTH
from receivers._mlflow_files import SLOWEST, YOUNG_SECONDS, _held, lay
from receivers._mlflow_tables import Mark
from receivers._mlflow_uri import MLflowError, is_refusal
from receivers.abc import Position, Row, RunInfo, TrackerUnavailableError
from receivers.mlflow import MLflowConfig, MLflowSink
from receivers.testing import make_rows, make_run

MISSING = Blob(name="0" * 64, size=3)
LARGE = 200_000_000
ROOM = 64_000_000


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in MLflowConfig().environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_mlflow_store(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def blobs(workspace: Path) -> BlobStore:
    return BlobStore(workspace / FOLDER)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> RunInfo:
    return make_run(re.sub(r"\W+", "-", request.node.name))


def opened(workspace: Path, run: RunInfo) -> MLflowSink:
    sink = MLflowSink(MLflowConfig(), workspace)
    sink.open(run, Position(0))
    return sink


def write(workspace: Path, run: RunInfo, rows: Sequence[Row], *, one_by_one: bool = False) -> MLflowSink:
    """Write what nobody knows to be stored, in one batch or in many."""
    sink = opened(workspace, run)
    for part in [[row] for row in rows] if one_by_one else [rows]:
        sink.write(part)
    sink.close(None)
    return sink


def content(workspace: Path, run: RunInfo) -> dict[str, Any]:
    return content_of(workspace / "mlflow.db")[run.name]


def breaking(sink: MLflowSink, call: str, at: int) -> MLflowSink:
    """Have one of the tracker's answers not come: what was asked has not been done."""
    client: Any = sink._client  # the SDK's
    ask, calls = getattr(client, call), iter(range(1, at + 1))

    def answer(*args: Any, **options: Any) -> Any:
        if next(calls, None) == at:
            raise ConnectionResetError("the tracker is gone")
        return ask(*args, **options)

    setattr(client, call, answer)
    return sink


def table(blobs: BlobStore, *numbers: int, **options: Any) -> TableLogged:
    rows = blobs.put(json.dumps([[number] for number in numbers]).encode())
    given = {"key": "t.json", "columns": ["n"], "num_rows": len(numbers), "is_file": True, "appends": True}
    return TableLogged(rows=rows, **{**given, **options})


def model(blobs: BlobStore, key: str = "net", **options: Any) -> ModelLogged:
    weights = ArtifactFile(path="data/weights", blob=blobs.put(key.encode()))
    return ModelLogged(
        key=key, files=[ArtifactFile(path="MLmodel", blob=blobs.put(MLMODEL.encode())), weights], **options
    )


# ------------------------------------------------------------------------------------------------------- again
@pytest.mark.parametrize("one_by_one", [False, True])
def test_whatever_comes_again_is_there_once(
    workspace: Path, blobs: BlobStore, run: RunInfo, *, one_by_one: bool
) -> None:
    events = [
        *one_of_each(blobs).values(),
        table(blobs, 1, 2),
        table(blobs, 3),
        model(blobs, "second", registered_name=f"registered-{one_by_one}", step=4),
    ]
    rows = make_rows(events[1:-4] + events[-3:])  # neither its start nor its end
    write(workspace, run, rows)
    once = content(workspace, run)

    write(workspace, run, rows, one_by_one=one_by_one)

    assert content(workspace, run) == once
    assert once["files"]["t.json"] == {"columns": ["n"], "data": [[1], [2], [3]]}
    assert [(one["name"], len(one["versions"]), one["is signed"]) for one in once["models"]] == [
        ("net", 0, True),
        ("second", 1, True),
    ]


@pytest.mark.parametrize(
    ("call", "at"),
    [("set_tag", 1), ("set_tag", 2), ("log_artifact", 1), ("log_artifact", 2), ("download_artifacts", 1)],
)
def test_rows_of_a_table_are_there_once_wherever_appending_broke_off(
    workspace: Path, blobs: BlobStore, run: RunInfo, call: str, at: int
) -> None:
    rows = make_rows([table(blobs, 1, 2), table(blobs, 3), table(blobs, 4, columns=["m"])])
    first = opened(workspace, run)
    first.write(rows[:1])
    with pytest.raises(TrackerUnavailableError):
        breaking(opened(workspace, run), call, at).write(rows)

    write(workspace, run, rows[1:], one_by_one=True)

    expected = {"columns": ["n", "m"], "data": [[1, None], [2, None], [3, None], [None, 4]]}
    assert content(workspace, run)["files"]["t.json"] == expected


def test_rows_from_another_journal_stand_behind_those_that_are_there(
    workspace: Path, blobs: BlobStore, run: RunInfo
) -> None:
    """A run that goes on in a fresh workspace, whose rows are numbered anew; and what comes again of both."""
    first = make_rows([table(blobs, 1), table(blobs, 2)])
    second = [of_partition(row, "beef") for row in make_rows([table(blobs, 3), table(blobs, 4)])]
    write(workspace, run, first)
    write(workspace, run, second)
    once = content(workspace, run)["files"]["t.json"]

    write(workspace, run, [second[1]])
    write(workspace, run, [first[1], *second])

    assert once == {"columns": ["n"], "data": [[1], [2], [3], [4]]}
    assert content(workspace, run)["files"]["t.json"] == once


def of_partition(row: Row, incarnation: str) -> Row:
    origin = replace(row.envelope.origin, incarnation=incarnation)
    return row._replace(envelope=replace(row.envelope, origin=origin))


def test_a_table_of_very_many_processes_remembers_the_latest() -> None:
    mark = Mark()
    for number in range(1000):
        mark = mark.then((f"site-1/0-{number:08x}", 7), number)

    assert len(mark.text()) <= MAX_TAG_LENGTH
    assert mark.before == 999
    assert len(mark.added) > 200
    assert mark.has(f"site-1/0-{999:08x}", 7)


@pytest.mark.parametrize(
    "call", ["log_outputs", "log_model_artifacts", "finalize_logged_model", "create_model_version"]
)
def test_a_model_is_there_once_wherever_making_it_broke_off(
    workspace: Path, blobs: BlobStore, run: RunInfo, call: str
) -> None:
    rows = make_rows([model(blobs, registered_name=f"of-{call}", params={"depth": "2"}, step=3)])
    with pytest.raises(TrackerUnavailableError):
        breaking(opened(workspace, run), call, 1).write(rows)

    write(workspace, run, rows)

    (found,) = content(workspace, run)["models"]
    assert (found["status"], found["links"], found["params"]) == (2, [("RUN_OUTPUT", 3)], {"depth": "2"})
    assert [version[1] for version in found["versions"]] == [1]
    assert found["files"] == ["data/weights"]


def test_a_tag_that_was_taken_away_may_be_taken_away_again(workspace: Path, run: RunInfo) -> None:
    rows = make_rows([TagsSet(values={"a": "1", "b": "1"}), TagsDeleted(keys=["a", "never"])])
    write(workspace, run, rows, one_by_one=True)
    write(workspace, run, [*rows, *make_rows([TagsDeleted(keys=["b"]), TagsSet(values={"b": "2"})], first=3)])

    assert content(workspace, run)["tags"] == {"b": "2"}


# ----------------------------------------------------------------------------------------------------- missing
def test_a_payload_that_is_missing_is_counted_and_stops_nothing(
    workspace: Path, blobs: BlobStore, run: RunInfo
) -> None:
    whole = ArtifactFile(path="there", blob=blobs.put(b"there"))
    lost = ArtifactFile(path="lost", blob=MISSING)
    events = [
        ImagesLogged(key="i", files=[MediaFile(blob=MISSING, media_type="image/png")]),
        TableLogged(key="t", columns=["n"], rows=MISSING, num_rows=1),
        TensorLogged(key="x", tensor=Array(blob=MISSING, dtype="float32", shape=[1])),
        ArtifactLogged(key="a", files=[lost, whole]),
        ModelLogged(key="m", files=[lost, *model(blobs).files]),
        TextLogged(key="after.txt", text="after", is_file=True),
    ]
    sink = write(workspace, run, make_rows(events))

    found = content(workspace, run)
    kinds = ("ImagesLogged", "TableLogged", "TensorLogged", "ArtifactLogged", "ModelLogged")
    assert sink.counts == {f"payload missing: {kind}": 1 for kind in kinds}
    assert (found["files"]["there"], found["files"]["after.txt"]) == (b"there", b"after")
    assert [(one["status"], one["files"]) for one in found["models"]] == [(3, ["data/weights"])]  # FAILED


def test_a_picture_that_nobody_can_read_is_kept_without_a_small_one(
    workspace: Path, blobs: BlobStore, run: RunInfo
) -> None:
    file = MediaFile(blob=blobs.put(b"no picture"), media_type="image/svg+xml")
    sink = write(workspace, run, make_rows([ImagesLogged(key="i", files=[file], step=1)]))

    assert sink.counts == {"no small picture": 1}
    folder = Path(raw_mlflow(workspace / "mlflow.db", "runs")[-1]["artifact_uri"].removeprefix("file://"))
    assert [(path.suffix, path.read_bytes()) for path in (folder / "images").iterdir()] == [(".svg", b"no picture")]


def test_numbers_of_a_model_that_never_comes_are_stored_and_counted(
    workspace: Path, blobs: BlobStore, run: RunInfo
) -> None:
    events = [
        LinkedMetricsLogged(values={"a": 1.0}, model="late"),
        LinkedMetricsLogged(values={"b": 1.0}, model="never"),
        LinkedMetricsLogged(values={"c": 1.0}, model="m-" + "0" * 32),
        MetricsLogged(values={"d": 1.0}, step=5),
        model(blobs, "late", step=5),
    ]
    sink = write(workspace, run, make_rows(events), one_by_one=True)

    found = content(workspace, run)
    assert sink.counts == {"unknown model": 2}
    assert [metric[0] for metric in found["metrics"]] == ["a", "b", "c", "d"]
    assert [metric[0] for metric in found["models"][0]["metrics"]] == ["a", "d"]


# ----------------------------------------------------------------------------------------------------- refused
def registered(workspace: Path) -> dict[str, list[str]]:
    """Names of registered models and the keys of their versions' tags."""
    found: dict[str, list[str]] = {row["name"]: [] for row in raw_mlflow(workspace / "mlflow.db", "registered_models")}
    for row in raw_mlflow(workspace / "mlflow.db", "model_version_tags"):
        found[row["name"]].append(row["key"])
    return found


def test_a_description_that_is_none_leaves_the_model_as_it_is(tmp_path: Path, run: RunInfo) -> None:
    workspace = put_mlflow_store(tmp_path)
    blobs = BlobStore(workspace / FOLDER)
    odd = ArtifactFile(path="MLmodel", blob=blobs.put(b"[5, \xff"))
    weights = ArtifactFile(path="w", blob=blobs.put(b"weights"))
    sink = write(workspace, run, make_rows([ModelLogged(key="odd", files=[odd, weights])]))

    assert sink.counts == {"unreadable MLmodel": 1}
    (found,) = raw_mlflow(workspace / "mlflow.db", "logged_models")
    assert (found["name"], found["status"]) == ("odd", 2)  # READY
    folder = Path(found["artifact_location"].removeprefix("file://"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"MLmodel": b"[5, \xff", "w": b"weights"}


def test_equal_numbers_of_two_models_are_two(tmp_path: Path, run: RunInfo) -> None:
    workspace = put_mlflow_store(tmp_path)
    blobs = BlobStore(workspace / FOLDER)
    linked = [LinkedMetricsLogged(values={"acc": 1.0}, model=name) for name in ("one", "two")]
    rows = make_rows([model(blobs, "one"), model(blobs, "two"), *linked])
    moment = rows[0].envelope.time_ns
    sink = write(workspace, run, [row._replace(envelope=replace(row.envelope, time_ns=moment)) for row in rows])

    assert sink.counts == {}
    names = {row["model_id"]: row["name"] for row in raw_mlflow(workspace / "mlflow.db", "logged_models")}
    points = raw_mlflow(workspace / "mlflow.db", "logged_model_metrics")
    assert sorted((names[row["model_id"]], row["metric_name"]) for row in points) == [("one", "acc"), ("two", "acc")]


def test_models_are_stored_whatever_they_say_of_themselves(workspace: Path, blobs: BlobStore, run: RunInfo) -> None:
    weights = ArtifactFile(path="w", blob=blobs.put(b"first"))
    described = model(blobs).files
    events = [
        model(blobs, "listed", registered_name="registry/a:b", metadata={"tags": ["x"], "model_type": 5}),
        model(blobs, "tagged", registered_name="tagged", metadata={"tags": {"b!": 1}}),
        ModelLogged(key="far", files=[*described, ArtifactFile(path="w", reference="s3://bucket/w")]),
        ModelLogged(key="twice", files=[*described, weights, ArtifactFile(path="w", blob=blobs.put(b"second"))]),
        model(blobs, "unnamed", registered_name=" "),
        TextLogged(key="after.txt", text="after", is_file=True),
    ]
    sink = write(workspace, run, make_rows(events))

    assert sink.counts == {"renamed key": 1, "artifact path taken": 1, "refused by MLflow: ModelLogged": 1}
    found = content(workspace, run)
    assert {one["name"]: (one["status"], one["files"]) for one in found["models"]} == {
        "listed": (2, ["data/weights"]),
        "tagged": (2, ["data/weights"]),
        "far": (2, ["data/weights", "trackbus.references.json"]),
        "twice": (3, ["data/weights", "w"]),  # FAILED
        "unnamed": (2, ["data/weights"]),
    }
    assert found["files"]["after.txt"] == b"after"
    names = registered(workspace)
    assert (names["registry_x2f_a_x3a_b"], sorted(names["tagged"])) == (
        ["trackbus.model"],
        ["b_x21_", "trackbus.model"],
    )
    assert blobs.read(weights.blob or MISSING) == b"first"


def test_a_dataset_is_cut_to_what_mlflow_takes_and_counted(workspace: Path, run: RunInfo) -> None:
    digest, long = "0" * 64, "x" * 70_000
    events = [
        DatasetLogged(key="d", digest=digest, source=long, data_schema="{}", profile="p", tags={"k" * 300: "v" * 600}),
        LinkedMetricsLogged(values={"a": 1.0}, dataset_name="d", dataset_digest=digest),
    ]
    sink = write(workspace, run, make_rows(events))

    assert sink.counts == {"cut dataset": 1}
    ((told, tags),) = content(workspace, run)["datasets"]
    assert (told["name"], told["digest"][:16], len(told["digest"])) == ("d", digest[:16], 36)
    assert (told["dataset_source"], told["dataset_schema"], told["dataset_profile"]) == ("{}", "{}", "p")
    assert [(len(key), value) for key, value in tags.items()] == [(255, "v" * 500)]


def test_pictures_that_pillow_refuses_are_kept_without_a_small_one(
    workspace: Path, blobs: BlobStore, run: RunInfo
) -> None:
    large = io.BytesIO()
    Image.new("1", (5000, 4000)).save(large, format="PNG")
    header = b"IHDR" + b"\0\0\xff\xff" * 2 + large.getvalue()[24:29]
    bomb = large.getvalue()[:12] + header + crc32(header).to_bytes(4) + large.getvalue()[33:]
    broken = large.getvalue()[:8] + b"\0" * 30
    files = [MediaFile(blob=blobs.put(data), media_type="image/odd") for data in (large.getvalue(), bomb, broken)]
    sink = write(workspace, run, make_rows([ImagesLogged(key="i", files=files, step=1)]))

    assert sink.counts == {"no small picture": 3}
    assert len([path for path in content_paths(workspace, run) if path.startswith("images/")]) == 3


def content_paths(workspace: Path, run: RunInfo) -> list[str]:
    (uri,) = (row["artifact_uri"] for row in raw_mlflow(workspace / "mlflow.db", "runs") if run.name in row["name"])
    top = Path(uri.removeprefix("file://"))
    return [path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()]


def test_tables_are_stored_whatever_is_in_them_and_beside_them(
    workspace: Path, blobs: BlobStore, run: RunInfo, caplog: pytest.LogCaptureFixture
) -> None:
    cells = blobs.put(b'[[{"file": -1}], [{"file": 1}]]')
    file = MediaFile(blob=blobs.put(b"f"), media_type="text/plain")
    write(workspace, run, make_rows([TagsSet(values={"mlflow.loggedArtifacts": "x"})]))
    rows = [
        TableLogged(key="cells.json", columns=["f"], rows=cells, num_rows=2, files=[file], is_file=True),
        TableLogged(key="bad.json", columns=["f"], rows=blobs.put(b"no JSON"), num_rows=2, is_file=True),
        TextLogged(key="t", text="t", is_file=True),
        table(blobs, 1, key="t/t.json"),
        table(blobs, 9, key="other.json"),
        table(blobs, 2, key="t/t.json"),
    ]
    with caplog.at_level(logging.WARNING, "trackbus.worker"):
        sink = write(workspace, run, make_rows(rows, first=2))

    assert sink.counts == {"artifact path taken": 2, "refused by MLflow: TableLogged": 1}
    assert caplog.messages[0].startswith("MLflow refuses a TableLogged: JSONDecodeError: ")
    files = content(workspace, run)["files"]
    (refused,) = [body for path, body in files.items() if path.startswith("refused/TableLogged/")]
    assert refused["key"] == "bad.json"
    assert files["cells.json"] == {"columns": ["f"], "data": [[{"file": -1}], [{"file": 1}]]}
    assert files["taken/t_x2f_t.json"] == {"columns": ["n"], "data": [[1], [2]]}


def test_a_run_that_is_deleted_refuses_no_event(workspace: Path, blobs: BlobStore, run: RunInfo) -> None:
    rows = make_rows([DatasetLogged(key="d", digest="1"), model(blobs, "late", registered_name=" ")])
    sink = opened(workspace, run)
    sink.write(rows[:1])
    sink._client.delete_run(sink.flush().token)

    with pytest.raises(MLflowError):
        sink.write(rows)

    assert sink.counts == {}
    assert write(workspace, run, rows).counts == {"refused by MLflow: ModelLogged": 1}  # it is restored


@pytest.mark.parametrize("at", ["log_inputs", "log_artifact", "create_registered_model"])
def test_an_event_is_sent_again_while_the_tracker_is_away(
    workspace: Path, blobs: BlobStore, run: RunInfo, at: str
) -> None:
    text = TextLogged(key="t", text="t", is_file=True)
    rows = make_rows([DatasetLogged(key="d", digest="1"), text, model(blobs, registered_name="away")])
    sink = breaking(opened(workspace, run), at, 1)

    with pytest.raises(TrackerUnavailableError):
        sink.write(rows)

    assert sink.counts == {}


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (ValueError("a cell"), True),
        (OSError("not a picture"), True),
        (OSError(36, "the path is too long"), True),
        (PermissionError(13, "not yours"), False),
        (OSError(28, "the disk is full"), False),
        (ConnectionResetError("gone"), False),
        (ImportError("no pandas"), False),
        (TrackerUnavailableError("away"), False),
    ],
)
@pytest.mark.parametrize("uri", ["sqlite:///a.db", "http://tracker"])
def test_a_refusal_is_what_another_try_would_not_change(error: Exception, uri: str, *, refused: bool) -> None:
    assert is_refusal(error, uri) is refused


def test_a_payload_is_never_written_to(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    lay(tmp_path / "laid", tmp_path / "a")

    with pytest.raises(FileExistsError):
        lay(tmp_path / "laid", tmp_path / "b")
    with pytest.raises(FileExistsError):
        lay(tmp_path / "laid", b"c")

    assert (tmp_path / "a").read_text() == "a"


def test_folders_of_workers_that_were_killed_are_removed(workspace: Path, run: RunInfo) -> None:
    dead, held, young = (workspace / f".mlflow-{name}" for name in ("dead", "held", "young"))
    for folder in (dead, held, young):
        folder.mkdir()
        (folder / "file").touch()
    for folder in (dead, held):
        os.utime(folder, (0, young.stat().st_mtime - 2 * YOUNG_SECONDS))

    with _held(held):
        opened(workspace, run).close(None)

    assert [folder.is_dir() for folder in (dead, held, young)] == [False, True, True]


# ---------------------------------------------------------------------------------------------------- the rest
def test_a_nested_run_stands_below_its_parent_even_if_that_comes_later(workspace: Path, run: RunInfo) -> None:
    child = opened(workspace, RunInfo("child-of-it", run.site, "child-of-it", run.group, run.started_ns))
    child.write(make_rows([RunStarted(name="child-of-it", parent=run.id)]))
    write(workspace, run, make_rows([MetricsLogged(values={"a": 1.0})]))
    child.close(RunStatus.FINISHED)

    assert content_of(workspace / "mlflow.db")["child-of-it"]["tags"] == {"mlflow.parentRunId": run.name}


def test_a_file_whose_path_mlflow_refuses_is_renamed_and_counted(
    workspace: Path, blobs: BlobStore, run: RunInfo
) -> None:
    files = [ArtifactFile(path=path, blob=blobs.put(path.encode())) for path in ("a#b%20c?.txt", "plain (1)+~.txt")]
    sink = write(workspace, run, make_rows([ArtifactLogged(key="odd", files=files)]))

    assert sink.counts == {"renamed file": 1}
    assert sorted(content(workspace, run)["files"]) == ["a_x23_b_x25_20c_x3f_.txt", "plain (1)+~.txt"]


def test_a_large_file_takes_time_by_its_size_and_little_memory(
    workspace: Path, blobs: BlobStore, run: RunInfo, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(LARGE)
    event = ArtifactLogged(key="large.bin", files=[ArtifactFile(path="large.bin", blob=blobs.put_file(large))])
    sink = opened(workspace, run)
    taken: list[float] = []
    sink.take_time = taken.append
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmHWM")

    sink.write(make_rows([event]))

    assert memory("VmHWM") - before < ROOM
    assert taken == [LARGE / SLOWEST]
    sink.close(None)
    assert len(content(workspace, run)["files"]["large.bin"]) == LARGE


def memory(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024
