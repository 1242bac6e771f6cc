"""What MLflowWriter makes of runs, files, pictures, tables and models, and what it refuses."""

import io
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from eventbus import Envelope, Event, EventBus
from eventbus.artifacts import ArtifactLogged, ModelLogged
from eventbus.errors import BadInputError, MissingExtraError
from eventbus.media import HtmlLogged, ImagesLogged, TableLogged
from eventbus.tracking import MetricsLogged, RunFinished, RunStarted, TagsSet, TextLogged, TrackingEvent
from writers import MLflowWriter
from writers._writer import LEFT_OUT

Stored = Callable[[type[Event]], list[Envelope[Any]]]
StoredOn = Callable[..., list[Envelope[Any]]]


# -------------------------------------------------------------------------------------------------------- runs
def test_runs_are_nested_and_end_when_they_end(bus: EventBus, stored: Stored) -> None:
    writer = MLflowWriter()
    with writer.start_run(run_name="top") as top:
        child = writer.start_run(nested=True)
        with pytest.raises(KeyError), child:
            raise KeyError("x")
        assert writer.active_run() is top

    assert (top.info.run_id, child.parent, writer.active_run(), writer.last_active_run()) == (
        "run-1",
        "run-1",
        None,
        child,
    )
    starts = [(one.run, one.event.name, one.event.parent) for one in stored(RunStarted)]
    assert starts == [("run-1", "run-1", ""), ("run-1", "top", ""), (child.info.run_id, child.info.run_id, "run-1")]
    assert [(one.run, one.event.status, one.event.reason) for one in stored(RunFinished)] == [
        (child.info.run_id, "FAILED", "KeyError: 'x'")  # the bus's own ends with the bus
    ]
    assert [run.info.status for run in (top, child)] == ["FINISHED", "FAILED"]


def test_only_the_first_run_is_the_writers_own(bus: EventBus, stored: Stored) -> None:
    writer = MLflowWriter()
    first = writer.start_run()
    writer.end_run()
    second = writer.start_run(tags={"a": 1}, description="again")
    writer.log_metric("x", 1)
    writer.end_run("KILLED")
    with writer.start_run(run_id=second.info.run_id) as again:
        assert again is second

    assert (first.info.run_id, second.info.run_id != "run-1") == ("run-1", True)
    assert {one.run for one in stored(MetricsLogged)} == {second.info.run_id}
    assert [one.event.values for one in stored(TagsSet)] == [{"a": "1", "mlflow.note.content": "again"}]
    assert [one.event.status for one in stored(RunFinished)] == ["KILLED", "FINISHED"]


def test_writers_of_one_bus_share_the_active_run(bus: EventBus, stored: Stored) -> None:
    train, helpers = MLflowWriter(), MLflowWriter()
    teacher = MLflowWriter(run="teacher")

    for fold, writer in enumerate((train, helpers)):
        with writer.start_run(run_name=f"fold {fold}") as run:
            train.log_metric("loss", fold)
            helpers.log_metric("acc", fold)
            teacher.log_metric("t", fold)
            assert (train.active_run(), helpers.active_run()) == (run, run)
            assert teacher.active_run() == teacher.get_run("teacher")
            assert helpers.get_run(run.info.run_id) is run
    last = helpers.last_active_run()
    assert last is not None
    own, fold_1 = "run-1", last.info.run_id
    helpers.log_metric("late", 1, run_id=fold_1)

    assert [(one.run, *one.event.values) for one in stored(MetricsLogged)] == [
        (own, "loss"),
        (own, "acc"),
        ("teacher", "t"),
        (fold_1, "loss"),
        (fold_1, "acc"),
        ("teacher", "t"),
        (fold_1, "late"),
    ]
    assert [one.event.name for one in stored(RunStarted) if one.run == fold_1] == ["fold 1", "fold 1"]


@pytest.mark.parametrize("is_own", [True, False])
def test_a_run_that_goes_on_ends_anew(tmp_path: Path, stored_on: StoredOn, *, is_own: bool) -> None:
    def run_it() -> None:
        with EventBus(tmp_path, job="hello", run="run-1").background() as bus:
            opened.append(bus)
            writer = MLflowWriter()
            if not is_own:
                writer.start_run()
                writer.end_run()
            with writer.start_run() as run:
                writer.log_metric("loss", 1.0)
            run_ids.append(writer.start_run(run_id=run.info.run_id).info.run_id)
            writer.log_metric("loss", 2.0)
            raise ValueError("the second part fails")

    opened: list[EventBus] = []
    run_ids: list[str] = []
    with pytest.raises(ValueError, match="the second part"):
        run_it()
    ends = [one.event for one in stored_on(opened[0], RunFinished) if one.run == run_ids[0]]
    assert ends[-1] == RunFinished(status="FAILED", reason="ValueError: the second part fails")
    assert [one.status for one in ends[:-1]] == ([] if is_own else ["FINISHED"])


def test_writers_that_come_and_go_in_threads_have_runs_of_their_own(bus: EventBus, stored: Stored) -> None:
    def train(fold: int) -> None:
        writer = MLflowWriter()
        with writer.start_run(run_name=f"fold {fold}"):
            writer.log_metric("fold", fold)

    for fold in range(3):
        thread = threading.Thread(target=train, args=(fold,))
        thread.start()
        thread.join()

    assert len({one.run for one in stored(MetricsLogged)}) == 3


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_logging_began_ends_as_it_is_said(tmp_path: Path, stored_on: StoredOn, status: str) -> None:
    with EventBus(tmp_path, job="hello", run="run-1").background() as bus:
        writer = MLflowWriter()
        assert writer.active_run() is None
        writer.log_metric("loss", 1.0)
        run = writer.active_run()
        assert run is not None
        assert (run.info.run_id, run.is_active) == ("run-1", True)
        writer.end_run(status)
        assert (writer.active_run(), run.info.status) == (None, status)
    assert [one.event.status for one in stored_on(bus, RunFinished)] == [status]


def test_tasks_have_active_runs_of_their_own(bus: EventBus, stored: Stored) -> None:
    writer = MLflowWriter()

    async def train(name: str) -> None:
        with writer.start_run(run_name=name, nested=True):
            for _ in range(3):
                writer.log_metric(name, 1.0)
                await anyio.lowlevel.checkpoint()

    async def both() -> None:
        with writer.start_run():
            async with anyio.create_task_group() as group:
                group.start_soon(train, "a")
                group.start_soon(train, "b")

    anyio.run(both)

    keys = {(one.run, *one.event.values) for one in stored(MetricsLogged)}
    assert len(keys) == len({run for run, _ in keys}) == 2


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda writer: writer.start_run(), "run run-1 is active: end it first, or pass nested=True"),
        (lambda writer: writer.start_run(run_id="f00", nested=True), "'f00' is no run of this writer"),
        (lambda writer: writer.start_run(parent_run_id="f00", nested=True), "'f00' is no run of this writer"),
        (lambda writer: writer.get_run("f00"), "'f00' is no run of this writer"),
        (lambda writer: writer.client.log_param("f00", "a", 1), "'f00' is no run of this writer"),
        (lambda writer: writer.end_run("DONE"), "'DONE' is not known: use FINISHED, FAILED, KILLED"),
        (lambda writer: writer.log_image(np.zeros((2, 2))), "either artifact_file=, or key="),
        (lambda writer: writer.log_image(np.zeros((2, 2)), "a.png", step=1), "either artifact_file=, or key="),
        (lambda writer: writer.log_image("x", "a.png"), "pass an array, or a picture of Pillow"),
        (lambda writer: writer.log_image(np.full((2, 2), 300), "a.png"), "pixels from 300 to 300"),
        (lambda writer: writer.log_image(np.zeros((2, 2, 7)), "a.png"), "'a.png' of shape"),
        (lambda writer: writer.log_figure("x", "a.png"), "pass a figure of matplotlib or Plotly"),
        (lambda writer: writer.log_table({"a": [1]}, "t.csv"), "its name ends with .json or .parquet"),
        (lambda writer: writer.log_table([1], "t.json"), "pass a dict of columns or a DataFrame"),
        (lambda writer: writer.log_dict({(1, 2): 3}, "d.json"), "keys must be str"),
        (lambda writer: writer.log_artifact("/no/such/file"), "can't be read"),
        (lambda writer: writer.log_artifacts(__file__), "is no folder"),
        (lambda writer: writer.log_artifact(__file__, "../up"), "has a part '..'"),
        (lambda writer: writer.log_stream("text", "a.bin"), "is no stream"),
        (lambda writer: writer.log_input("x"), "is no dataset"),
        (lambda writer: writer.log_inputs([1], [], []), "different lengths"),
        (lambda writer: writer.log_model(object(), flavor="tracking"), "is no flavor that can save a model"),
        (lambda writer: writer.pytorch.log_model(object(), model_id="m"), "model_id= is not supported"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_what_cant_be_recorded_is_refused_or_counted(
    call: Callable[[MLflowWriter], object], fault: str, bus: EventBus, stored: Stored
) -> None:
    strict = MLflowWriter()
    strict.start_run()
    before = len(stored(TrackingEvent))

    with pytest.raises(BadInputError) as raised:
        call(strict)

    assert fault in str(raised.value)
    assert len(stored(TrackingEvent)) == before


def test_where_bad_input_is_counted_nothing_raises(bus: EventBus, stored: Stored) -> None:
    writer: Any = MLflowWriter(on_bad_input="count")

    receipts = [
        writer.log_artifact("/no/such/file"),
        writer.log_image(np.zeros((2, 2, 7)), key="k"),
        writer.log_dict({(1,): 1}, "d.json"),
        writer.client.delete_tag("f00", "a"),
    ]

    assert {one.refused for one in receipts} == {LEFT_OUT}
    assert writer.bad_inputs == {"/no/such/file": 1, "k": 1, "d.json": 1, "run_id": 1}


LOOP: list[Any] = []
LOOP.append(LOOP)


class Drawing:
    """What a package draws: it raises what it likes."""

    def savefig(self, file: io.BytesIO, **options: Any) -> None:
        raise ZeroDivisionError("an axis of no length")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda writer: writer.log_figure(Drawing(), "f.png"), "f.png"),
        (lambda writer: writer.log_table({"a": [LOOP]}, "t.json"), "t.json"),
        (lambda writer: writer.client.log_batch("run-1", metrics=[("a",)]), "metric"),
        (lambda writer: writer.client.log_batch("run-1", params=[("a",)], tags=[("b", 1, 2)]), "param"),
        (lambda writer: writer.client.log_inputs("run-1", [5]), "dataset"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_whatever_a_package_or_an_object_raises_is_bad_input(
    call: Callable[[Any], Any], name: str, bus: EventBus, stored: Stored
) -> None:
    with pytest.raises(BadInputError):
        call(MLflowWriter())
    counting = MLflowWriter(on_bad_input="count")

    assert call(counting).refused == LEFT_OUT
    assert counting.bad_inputs[name] == 1


def test_a_batch_that_raises_has_logged_nothing(bus: EventBus, stored: Stored) -> None:
    client: Any = MLflowWriter().client
    for batch in (
        {"metrics": [("a", 1.0), ("b", "no number")]},
        {"metrics": [("a", 1.0)], "tags": [("t" * 1000, 1)]},
        {"metrics": [("a", 1.0), ("b", 1.0, None, -1)]},
    ):
        with pytest.raises(BadInputError):
            client.log_batch("run-1", **batch)

    assert stored(MetricsLogged) == []


def test_a_full_or_missing_folder_for_temporary_files_raises_nothing(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow.sklearn")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    writer = MLflowWriter()

    receipts = [writer.log_stream(io.BytesIO(b"abc"), "a.bin"), writer.log_model(object(), "net", flavor="sklearn")]

    assert {one.refused for one in receipts} == {"a payload can't be written: No such file or directory"}


def test_an_experiment_is_the_job_and_the_wish_is_kept(bus: EventBus, stored: Stored) -> None:
    assert MLflowWriter().set_experiment("mine").name == "hello"
    assert [one.event.values for one in stored(TagsSet)] == [{"experiment": "mine"}]


def test_an_experiment_is_that_of_the_runs_that_are_started_after_it(bus: EventBus, stored: Stored) -> None:
    train, helpers, ids = MLflowWriter(), MLflowWriter(), list[str]()

    for name in ("a", "b", "hello"):
        train.set_experiment(name)
        assert train.active_run() is None
        with helpers.start_run(run_name=name) as run:
            ids.append(run.info.run_id)
    train.set_experiment("c")
    with helpers.start_run(run_id=ids[1]):
        pass
    with helpers.start_run(tags={"x": 1}) as last:
        train.set_experiment("d")

    assert [(one.run, one.event.values) for one in stored(TagsSet)] == [
        (ids[0], {"experiment": "a"}),
        (ids[1], {"experiment": "b"}),
        (last.info.run_id, {"x": "1", "experiment": "c"}),
        (last.info.run_id, {"experiment": "d"}),
    ]


# ------------------------------------------------------------------------------------------------------- files
def test_long_texts_and_streams_are_kept_as_files(bus: EventBus, stored: Stored, tmp_path: Path) -> None:
    writer = MLflowWriter()
    writer.log_text("short", "a.txt")
    writer.log_text("x" * 1_000_000, "b.txt")
    writer.log_stream(io.BytesIO(b"abc"), "c/d.bin")

    assert [one.event.key for one in stored(TextLogged)] == ["a.txt"]
    files = [(file.path, file.blob.size) for one in stored(ArtifactLogged) for file in one.event.files]
    assert files == [("b.txt", 1_000_000), ("c/d.bin", 3)]


def test_yaml_needs_its_package(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(MissingExtraError, match=r"'d\.yml' is YAML, which needs PyYAML: pip install pyyaml"):
        MLflowWriter().log_dict({}, "d.yml")


def test_figures_of_plotly_are_pages(bus: EventBus, stored: Stored) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    MLflowWriter().log_figure(graph_objects.Figure(), "f.html")

    (one,) = stored(HtmlLogged)
    assert (one.event.key, one.event.is_file, one.event.files[0].media_type) == ("f.html", True, "text/html")


def test_cells_are_json(stored_on: Callable[..., list[Envelope[Any]]], tmp_path: Path) -> None:
    columns = {"n": [np.float32(0.5), float("inf")], "v": [{"a": np.arange(2)}, None], "s": "same"}
    with EventBus(tmp_path, site="s").background() as bus:
        MLflowWriter(bus=bus).log_table(columns, "t.json")
        (one,) = stored_on(bus, TableLogged)
        rows = json.loads(bus.blobs.read(one.event.rows))

    assert (one.event.columns, rows) == (["n", "v", "s"], [[0.5, {"a": [0, 1]}, "same"], ["inf", None, "same"]])


def test_pictures_over_steps_keep_the_callers_time(bus: EventBus, stored: Stored) -> None:
    MLflowWriter().log_image(np.zeros((4, 6, 3)), key="k", step=3, timestamp=1_700_000_000_123)

    (one,) = stored(ImagesLogged)
    assert (one.time_ns, one.event.step, one.event.is_file) == (1_700_000_000_123_000_000, 3, False)
    assert one.event.files[0].details == {"width": 6, "height": 4, "channels": 3}


# ------------------------------------------------------------------------------------------------------ models
def test_a_folder_that_holds_a_model_is_logged_as_it_is(bus: EventBus, stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "MLmodel").write_text("flavors: {}")
    (tmp_path / "data" / "w").write_bytes(b"w")

    receipt = MLflowWriter().log_model(tmp_path, "net", registered_model_name="r", params={"d": 1}, step=4)

    (one,) = stored(ModelLogged)
    assert (receipt.model_id, receipt.seq) == ("net", one.seq)
    assert [file.path for file in one.event.files] == ["MLmodel", "data/w"]
    assert (one.event.registered_name, one.event.params, one.event.step) == ("r", {"d": "1"}, 4)


def test_a_missing_mlflow_is_named_and_nothing_is_left_behind(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlflow.pytorch", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'trackbus\[mlflow\]'"):
        MLflowWriter().pytorch.log_model(object(), name="net")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default")
def test_a_model_that_cant_be_saved_is_the_callers_fault(
    bus: EventBus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    with pytest.raises(BadInputError, match=r"'object' can't be saved by mlflow\.pytorch: "):
        MLflowWriter().pytorch.log_model(object(), name="net", pip_requirements=["torch"])

    assert list(tmp_path.glob("trackbus-*")) == []  # torch makes a folder of its own


def test_neither_an_sdk_nor_numpy_is_loaded_by_plain_calls() -> None:
    script = (
        "import sys; from eventbus import EventBus; from writers import MLflowWriter\n"
        "with EventBus(job='j').background():\n"
        "    w = MLflowWriter()\n"
        "    with w.start_run(): w.log_metric('a', 1); w.log_dict({}, 'a.json'); w.log_text('a', 'b')\n"
        "print([m for m in ('mlflow', 'numpy', 'PIL', 'pandas', 'torch', 'psutil', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
