"""Files, pictures, tables, models and nested runs in MLflow: once, however often they come, and whatever breaks off."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow_content import content_of
from one_of_each import MLMODEL, one_of_each
from readback import raw_mlflow

from eventbus.artifacts import ArtifactFile, ArtifactLogged, ModelLogged
from eventbus.blobs import FOLDER, Blob, BlobStore
from eventbus.media import ImagesLogged, MediaFile, TableLogged
from eventbus.tracking import (
    LinkedMetricsLogged,
    MetricsLogged,
    RunStarted,
    RunStatus,
    TagsDeleted,
    TagsSet,
    TextLogged,
)
from receivers._mlflow_files import SLOWEST
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
    return tmp_path_factory.mktemp("workspace")


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
        ArtifactLogged(key="a", files=[lost, whole]),
        ModelLogged(key="m", files=[lost, *model(blobs).files]),
        TextLogged(key="after.txt", text="after", is_file=True),
    ]
    sink = write(workspace, run, make_rows(events))

    found = content(workspace, run)
    kinds = ("ImagesLogged", "TableLogged", "ArtifactLogged", "ModelLogged")
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
