import http.server
import json
import math
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from mlflow_content import content_of
from one_of_each import one_of_each
from readback import MlflowRun, read_mlflow, read_mlflow_runs
from servers.mlflow_server import MLflowServer, free_port

from eventbus import Event
from eventbus.artifacts import ModelLogged
from eventbus.blobs import FOLDER, BlobStore
from eventbus.errors import ConfigurationError, MissingExtraError, WorkspaceError
from eventbus.media import TableLogged
from eventbus.tracking import (
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    RunStatus,
    TagsSet,
    TextLogged,
)
from receivers._mlflow_config import TIMEOUT
from receivers._mlflow_draft import chunks
from receivers._mlflow_uri import MLflowError, redacting
from receivers.abc import NotAuthorisedError, Position, Row, RunInfo, TrackerUnavailableError
from receivers.mlflow import MLflowConfig, MLflowReceiver, MLflowSink
from receivers.testing import SAMPLES, START_NS, check_sink, make_rows, make_run

MAX_FLOAT = 1.7976931348623157e308
PASSWORD = "s3cret/pass"


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    """What a worker's environment has."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in MLflowConfig().environment().items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests, each with a run of its own: a new store takes seconds."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture
def run(request: pytest.FixtureRequest) -> RunInfo:
    return make_run(re.sub(r"\W+", "-", request.node.name))


def sink(workspace: Path, **settings: Any) -> MLflowSink:
    return MLflowSink(MLflowConfig(**settings), workspace)


def write(workspace: Path, run: RunInfo, rows: Sequence[Event | Row], **settings: Any) -> MLflowSink:
    """Write one batch and leave."""
    opened = sink(workspace, **settings)
    opened.open(run, Position(0))
    opened.write([row for row in rows if isinstance(row, Row)] or make_rows(rows))  # type: ignore[arg-type]
    opened.close(None)
    return opened


def stored(store: Path, run: RunInfo) -> MlflowRun:
    (found,) = [one for one in read_mlflow_runs(store) if one.tags["trackbus.run"] == f"{run.id}@{run.site}"]
    return found


def points(store: Path, run: RunInfo) -> list[tuple[str, int | None, float]]:
    name = stored(store, run).name
    found = [row for row in read_mlflow(store) if row.kind == "metric" and row.run == name]
    return [(row.key, row.step, float(row.value)) for row in found]


def artifacts(store: Path, run: RunInfo) -> dict[str, str]:
    uri = urlsplit(stored(store, run).artifact_uri)
    path = unquote(uri.path).lstrip("/")
    folder = store.parent / "artifacts" / path if uri.scheme == "mlflow-artifacts" else Path("/", path)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files}


def content(store: Path, run: RunInfo) -> list[object]:
    """All that the store holds of a run, but for what names it."""
    found = stored(store, run)
    rows = [
        (row.kind, row.key, row.step, row.value, row.wall_time_ns)
        for row in read_mlflow(store)
        if row.run == found.name and row.key not in {"mlflow.runName", "trackbus.run"}
    ]
    return [*rows, *artifacts(store, run).items()]


@pytest.mark.slow
def test_it_keeps_the_contract(workspace: Path) -> None:
    check_sink(lambda: sink(workspace), lambda run: content(workspace / "mlflow.db", run))


# ---------------------------------------------------------------------------------------------------- metrics
def test_a_metric_keeps_its_step_and_the_callers_time(workspace: Path, run: RunInfo) -> None:
    events = [
        MetricsLogged(values={"loss": 0.1, "train/acc": 2.0}, step=30),
        MetricsLogged(values={"loss": 0.2}, step=3),
        MetricsLogged(values={"x": 1.0}),
        MetricsLogged(values={"a": 1.0, "b": 2.0}, step=4, main_tag="chart"),
    ]
    write(workspace, run, events)

    name = stored(workspace / "mlflow.db", run).name
    rows = [r for r in read_mlflow(workspace / "mlflow.db") if r.kind == "metric" and r.run == name]
    assert [(row.key, row.step, row.value) for row in rows] == [
        ("loss", 30, 0.1),
        ("train/acc", 30, 2.0),
        ("loss", 3, 0.2),
        ("x", 0, 1.0),
        ("chart/a", 4, 1.0),
        ("chart/b", 4, 2.0),
    ]
    assert [row.wall_time_ns for row in rows] == [START_NS + n * 7_000_000 for n in (1, 1, 2, 3, 4, 4)]


def test_numbers_that_are_not_finite_harm_no_other(workspace: Path, run: RunInfo) -> None:
    values = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "ok": 1.0}
    written = write(workspace, run, [MetricsLogged(values=values, step=0)])

    found = {key: value for key, _, value in points(workspace / "mlflow.db", run)}
    assert math.isnan(found.pop("nan"))
    assert found == {"inf": MAX_FLOAT, "minus": -MAX_FLOAT, "ok": 1.0}
    assert written.counts == {"infinite metric clamped": 2}


def at(rows: Sequence[Row], time_ns: int) -> list[Row]:
    """The same rows, all logged at one time."""
    return [Row(row.number, msgspec.structs.replace(row.envelope, time_ns=time_ns)) for row in rows]


def test_points_that_mlflow_cant_tell_apart_are_counted(workspace: Path, run: RunInfo) -> None:
    twice = [MetricsLogged(values={"loss": 1.0, "nan": math.nan}, step=1)] * 2
    other = [MetricsLogged(values={"loss": 1.5, "nan": math.nan}, step=2)]
    rows = at(make_rows([*twice, *other, *twice]), START_NS)
    opened = sink(workspace)
    opened.open(run, Position(0))

    for row in rows[:3]:  # across batches too
        opened.write([row])
    opened.write(rows[3:])
    opened.close(None)

    assert opened.counts == {"merged": 6}
    assert len(points(workspace / "mlflow.db", run)) == 4


def test_points_of_different_milliseconds_stay_apart(workspace: Path, run: RunInfo) -> None:
    written = write(workspace, run, [MetricsLogged(values={"loss": 1.0}, step=1)] * 3)

    assert not written.counts
    assert points(workspace / "mlflow.db", run) == [("loss", 1, 1.0)] * 3


def test_a_time_before_1970_takes_no_batch_with_it(workspace: Path, run: RunInfo) -> None:
    rows = make_rows([MetricsLogged(values={"loss": 1.0}, step=1), MetricsLogged(values={"ok": 1.0}, step=2)])
    write(workspace, run, [*at(rows[:1], -5_000_000_000), rows[1]])

    assert len(points(workspace / "mlflow.db", run)) == 2


def test_a_large_batch_is_split(workspace: Path, run: RunInfo) -> None:
    events: list[Event] = [
        MetricsLogged(values={f"k{number}": float(step) for number in range(500)}, step=step) for step in range(5)
    ]
    events.append(ParamsLogged(values={f"p{number}": "\u20ac" * 6000 for number in range(210)}))
    events.append(TagsSet(values={f"t{number}": "\u20ac" * 8000 for number in range(110)}))
    written = write(workspace, run, events)

    found = stored(workspace / "mlflow.db", run)
    assert not written.counts
    assert len(points(workspace / "mlflow.db", run)) == 2500
    assert sum(len(value) for value in found.params.values()) == 210 * 6000
    assert found.tags["t109"] == "\u20ac" * 8000


def test_a_request_stays_within_its_bounds() -> None:
    entries = [("k", "\u20ac" * 6000)] * 100
    parts = list(chunks(entries, 100))

    assert [entry for part in parts for entry in part] == entries
    assert max(len(json.dumps(part)) for part in parts) < 1_000_000
    assert [len(part) for part in chunks(range(250), 100)] == [100, 100, 50]
    assert list(chunks([], 100)) == []


# ----------------------------------------------------------------------------------------------- other events
def test_params_and_config_are_params(workspace: Path, run: RunInfo) -> None:
    events = [
        ParamsLogged(values={"lr": 0.1, "layers": 3, "flag": True, "name": "", "nan": math.nan}),
        ConfigUpdated(values={"model": {"depth": 2, "sizes": [1, "a"]}, "seed": None, "empty": {}}),
    ]
    written = write(workspace, run, events)

    assert stored(workspace / "mlflow.db", run).params == {
        "lr": "0.1",
        "layers": "3",
        "flag": "True",
        "name": "",
        "nan": "nan",
        "model.depth": "2",
        "model.sizes": '[1, "a"]',
        "seed": "None",
        "empty": "{}",
    }
    assert not written.counts


def test_a_param_that_changes_keeps_its_first_value_and_tells_the_last(workspace: Path, run: RunInfo) -> None:
    events = [
        ParamsLogged(values={"lr": 0.1, "same": 1}),
        ConfigUpdated(values={"lr": 0.2, "same": 1}),
        ParamsLogged(values={"lr": 0.3}),
    ]
    written = write(workspace, run, events)
    store = workspace / "mlflow.db"

    assert stored(store, run).params == {"lr": "0.1", "same": "1"}
    assert {key: value for key, value in stored(store, run).tags.items() if "param" in key} == {
        "trackbus.param.lr": "0.3"
    }
    assert written.counts == {"param changed": 2}

    opened = sink(workspace)  # a later worker knows the first value, and that there is a tag
    opened.open(run, Position(3))
    opened.write(make_rows([ParamsLogged(values={"lr": 0.1, "new": 5})], first=4))
    opened.close(None)
    assert stored(store, run).params == {"lr": "0.1", "same": "1", "new": "5"}
    assert stored(store, run).tags["trackbus.param.lr"] == "0.1"
    assert not opened.counts


def test_what_is_too_long_is_cut_and_counted(workspace: Path, run: RunInfo) -> None:
    events = [ParamsLogged(values={"p": "a" * 6001}), TagsSet(values={"t": "b" * 9000})]
    written = write(workspace, run, events)

    found = stored(workspace / "mlflow.db", run)
    assert (found.params["p"], found.tags["t"]) == ("a" * 6000, "b" * 8000)
    assert written.counts == {"cut param": 1, "cut tag": 1}


HARD_KEYS = ["top@5", "a%b", "../../x", "/abs", "a//b", "a/./b", ".", "..x", "a/", "_x25_", "\u20ac", "é" * 250]


def test_a_key_that_mlflow_refuses_is_renamed_and_noted(workspace: Path, run: RunInfo) -> None:
    events = [
        MetricsLogged(values={key: float(number) for number, key in enumerate(HARD_KEYS)}, step=0),
        ParamsLogged(values=dict.fromkeys(HARD_KEYS, "p")),
        TagsSet(values=dict.fromkeys(HARD_KEYS, "t")),
    ]
    written = write(workspace, run, events)

    found = stored(workspace / "mlflow.db", run)
    noted = {key.removeprefix("trackbus.key."): value for key, value in found.tags.items() if ".key." in key}
    keys = {key: number for key, _, number in points(workspace / "mlflow.db", run)}
    assert {noted.get(key, key): number for key, number in keys.items()} == {
        key: float(number) for number, key in enumerate(HARD_KEYS)
    }
    assert {noted.get(key, key) for key in found.params} == set(HARD_KEYS)
    assert noted["top_x40_5"] == "top@5"
    assert written.counts == {"renamed key": 3 * (len(HARD_KEYS) - 1)}  # letters of any language stay


def test_a_user_cant_take_the_sinks_own_tags(workspace: Path, run: RunInfo) -> None:
    written = write(
        workspace, run, [TagsSet(values={"trackbus.run": "mine"}), MetricsLogged(values={"trackbus.run": 1.0})]
    )

    assert stored(workspace / "mlflow.db", run).tags["trackbus_x2e_run"] == "mine"
    assert points(workspace / "mlflow.db", run) == [("trackbus.run", 0, 1.0)]
    assert written.counts == {"renamed key": 1}


def test_a_long_config_path_is_shortened(workspace: Path, run: RunInfo) -> None:
    events = [ConfigUpdated(values={"a" * 200: {"b" * 200: 1, "c" * 200: 2}})] * 2
    written = write(workspace, run, events)

    params = stored(workspace / "mlflow.db", run).params
    assert sorted(params.values()) == ["1", "2"]
    assert all(len(key) <= 250 for key in params)
    assert written.counts == {"renamed key": 4}


def test_tags_take_the_last_value(workspace: Path, run: RunInfo) -> None:
    write(
        workspace,
        run,
        [
            RunStarted(name="exp", group="job"),
            TagsSet(values={"stage": "one", "mlflow.note.content": "a note"}),
            TagsSet(values={"stage": "two"}),
        ],
    )

    tags = stored(workspace / "mlflow.db", run).tags
    assert {key: tags[key] for key in ("stage", "mlflow.note.content", "trackbus.name", "trackbus.group")} == {
        "stage": "two",
        "mlflow.note.content": "a note",
        "trackbus.name": "exp",
        "trackbus.group": "job",
    }


def test_texts_are_artifacts_and_none_replaces_another(workspace: Path, run: RunInfo) -> None:
    events = [
        TextLogged(key="notes", text="one", step=4),
        TextLogged(key="notes", text="two", step=4),
        TextLogged(key="eval/notes", text="three"),
        TextLogged(key="report/sum.txt", text="all\n", is_file=True),
        TextLogged(key="report/sum.txt", text="new\n", is_file=True),
    ]
    written = write(workspace, run, events)

    assert artifacts(workspace / "mlflow.db", run) == {
        "text/notes/4-c0ffee-1.txt": "one",
        "text/notes/4-c0ffee-2.txt": "two",
        "text/eval/notes/0-c0ffee-3.txt": "three",
        "report/sum.txt": "new\n",
    }
    assert not written.counts


def test_no_text_leaves_the_run(workspace: Path, run: RunInfo) -> None:
    before = {file for file in workspace.parent.rglob("*") if workspace not in file.parents}
    names = ["../../x.txt", "/etc/x.txt", "..", "a/../../../b", "\u20ac" * 250, "a#b%2e"]
    events = [TextLogged(key=name, text=name, is_file=flag) for name in names for flag in (True, False)]
    written = write(workspace, run, events)

    assert sorted(artifacts(workspace / "mlflow.db", run).values()) == sorted([*names, *names])
    assert {file for file in workspace.parent.rglob("*") if workspace not in file.parents} == before
    assert written.counts == {"renamed key": 12}


def test_a_text_whose_path_is_taken_is_stored_elsewhere(workspace: Path, run: RunInfo) -> None:
    events = [
        TextLogged(key="a", text="one", is_file=True),
        TextLogged(key="a/b", text="two", is_file=True),
        TextLogged(key="c/d", text="three", is_file=True),
        TextLogged(key="c", text="four", is_file=True),
    ]
    written = write(workspace, run, events)

    assert sorted(artifacts(workspace / "mlflow.db", run).values()) == ["four", "one", "three", "two"]
    assert written.counts["artifact path taken"] >= 1


class UnheardByMLflow(Event):
    size: int


def test_an_unknown_event_is_counted(workspace: Path, run: RunInfo) -> None:
    assert write(workspace, run, [UnheardByMLflow(size=1)]).counts == {"unsupported UnheardByMLflow": 1}


# -------------------------------------------------------------------------------------------------------- runs
@pytest.mark.parametrize("status", list(RunStatus))
def test_a_run_ends_as_it_ended(workspace: Path, run: RunInfo, status: RunStatus) -> None:
    store = workspace / "mlflow.db"
    opened = sink(workspace)
    opened.open(run, Position(0))
    opened.write(make_rows([MetricsLogged(values={"a": 1.0}), RunFinished(status=status.value)]))
    assert stored(store, run).status == "RUNNING"
    opened.close(status, "a reason")

    found = stored(store, run)
    assert (found.status, found.tags["trackbus.reason"]) == (status.value, "a reason")
    assert (found.start_time_ms, found.end_time_ms) == (START_NS // 10**6, START_NS // 10**6 + 14)


def test_a_run_that_ended_goes_on_with_its_next_row(workspace: Path, run: RunInfo) -> None:
    store = workspace / "mlflow.db"
    opened = sink(workspace)
    opened.open(run, Position(0))
    opened.write(make_rows(SAMPLES[:2]))
    committed = opened.close(RunStatus.FAILED, "lost")

    opened = sink(workspace)
    assert opened.open(run, committed) == 2
    assert stored(store, run).status == "FAILED"  # nothing new yet
    opened.write(make_rows([MetricsLogged(values={"a": 1.0})], first=3))
    assert stored(store, run).status == "RUNNING"
    assert "trackbus.reason" not in stored(store, run).tags
    opened.close(RunStatus.FINISHED)
    assert stored(store, run).status == "FINISHED"


def test_a_run_that_somebody_deleted_comes_back(workspace: Path, run: RunInfo) -> None:
    from mlflow.tracking import MlflowClient

    opened = write(workspace, run, [MetricsLogged(values={"a": 1.0})])
    store = workspace / "mlflow.db"
    MlflowClient(opened.config.uri(workspace)).delete_run(stored(store, run).run_id)
    assert stored(store, run).lifecycle_stage == "deleted"

    write(workspace, run, [MetricsLogged(values={"b": 1.0})])

    assert stored(store, run).lifecycle_stage == "active"
    assert [key for key, _, _ in points(store, run)] == ["a", "b"]


def test_a_store_that_lost_the_run_is_an_error(workspace: Path, run: RunInfo) -> None:
    with pytest.raises(WorkspaceError, match=f"no run {run.title} any more, but 7 rows of it were stored: restore"):
        sink(workspace).open(run, Position(7, "0" * 32))


def test_a_run_that_was_made_twice_is_one_run_in_the_end(workspace: Path, run: RunInfo) -> None:
    opened = write(workspace, run, [MetricsLogged(values={"a": 1.0})])
    committed = opened.flush()
    made = stored(workspace / "mlflow.db", run)
    opened._create_run(opened._found.info.experiment_id, run)  # the server was slow: the request was given up
    again = sink(workspace)
    again.open(run, committed)
    again.write(make_rows([MetricsLogged(values={"a": 2.0})], first=2))
    again.close(RunStatus.FINISHED)

    both = [one for one in read_mlflow_runs(workspace / "mlflow.db") if one.tags["trackbus.run"] == f"{run.id}@site-1"]
    assert [one.run_id for one in both if one.lifecycle_stage == "active"] == [made.run_id]
    assert sorted(one.lifecycle_stage for one in both) == ["active", "deleted"]
    rows = [row for row in read_mlflow(workspace / "mlflow.db") if row.kind == "metric" and row.run == made.name]
    assert [row.value for row in rows] == [1.0, 2.0]
    assert again.counts == {"twin removed": 1}


def test_an_experiment_that_somebody_deleted_comes_back(workspace: Path, run: RunInfo) -> None:
    from mlflow.tracking import MlflowClient

    write(workspace, run, [], kw_args={"experiment_name": "gone"})
    client = MlflowClient(MLflowConfig().uri(workspace))
    experiment = client.get_experiment_by_name("gone")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)

    write(workspace, run, [MetricsLogged(values={"a": 1.0})], kw_args={"experiment_name": "gone"})

    assert points(workspace / "mlflow.db", run) == [("a", 0, 1.0)]


def test_a_run_goes_on_in_an_experiment_that_somebody_renamed(workspace: Path, run: RunInfo) -> None:
    from mlflow.tracking import MlflowClient

    committed = write(workspace, run, [MetricsLogged(values={"a": 1.0})], kw_args={"experiment_name": "old"}).flush()
    client = MlflowClient(MLflowConfig().uri(workspace))
    experiment = client.get_experiment_by_name("old")
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, "new")

    again = sink(workspace, kw_args={"experiment_name": "old"})
    again.open(run, committed)
    again.write(make_rows([MetricsLogged(values={"a": 2.0})], first=2))
    again.close(RunStatus.FINISHED)

    assert stored(workspace / "mlflow.db", run).experiment == "new"
    assert [value for *_, value in points(workspace / "mlflow.db", run)] == [1.0, 2.0]
    assert client.get_experiment_by_name("old") is None


def test_names_and_tags_are_as_configured(workspace: Path, run: RunInfo) -> None:
    options = {
        "experiment_name": "my study",
        "run_name": "first",
        "experiment_tags": {"mlflow.note.content": "## Study"},
        "run_tags": {"owner": "me", "bad@key": 3},
    }
    opened = write(workspace, run, [], kw_args=options)

    found = stored(workspace / "mlflow.db", run)
    assert (found.name, found.experiment) == ("site-1-first", "my study")
    assert {key: value for key, value in found.tags.items() if not key.startswith("mlflow.")} == {
        "owner": "me",
        "bad_x40_key": "3",
        "trackbus.run": f"{run.id}@site-1",
        "trackbus.site": "site-1",
        "trackbus.group": "check",
    }
    from mlflow.tracking import MlflowClient

    experiment = MlflowClient(opened.config.uri(workspace)).get_experiment_by_name("my study")
    assert experiment is not None
    assert experiment.tags["mlflow.note.content"] == "## Study"


def test_names_come_from_the_run_by_default(workspace: Path, run: RunInfo) -> None:
    write(workspace, run, [])
    write(workspace, RunInfo("solo", "site-2", "alone", "", 0), [])

    found = stored(workspace / "mlflow.db", run)
    assert (found.name, found.experiment) == (run.title, "check")
    assert found.artifact_uri.startswith((workspace / "mlartifacts").as_uri())
    solo = [one for one in read_mlflow_runs(workspace / "mlflow.db") if one.name == "site-2-alone"]
    assert [one.experiment for one in solo] == ["trackbus"]


def open_at_once(workspace: Path, run: RunInfo, environment: Mapping[str, str], barrier: Any) -> None:
    os.environ.update(environment)
    opened = sink(workspace)
    barrier.wait(60)
    opened.open(run, Position(0))
    opened.write(make_rows([MetricsLogged(values={"a": 1.0})]))
    opened.close(RunStatus.FINISHED)


@pytest.mark.slow
def test_three_processes_may_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    runs = [make_run("same-study", site=f"site-{number}") for number in range(3)]
    environment = dict(MLflowConfig().environment())
    children = [spawn.Process(target=open_at_once, args=(tmp_path, run, environment, barrier)) for run in runs]
    for child in children:
        child.start()
    for child in children:
        child.join(100)

    assert [child.exitcode for child in children] == [0, 0, 0]
    found = read_mlflow_runs(tmp_path / "mlflow.db")
    assert sorted(one.name for one in found) == sorted(run.title for run in runs)
    assert {one.experiment for one in found} == {"check"}


def has_begun(folder: Path) -> bool:
    """Tell whether tables are being created, under whichever name."""
    with suppress(FileNotFoundError):  # a journal of SQLite's comes and goes
        return any(file.stat().st_size > 100_000 for file in folder.glob("*mlflow.db*"))
    return False


@pytest.mark.slow
def test_a_worker_that_is_killed_amid_creating_the_store_leaves_none_that_is_broken(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    environment = dict(MLflowConfig().environment())
    arguments = (tmp_path, make_run("killed"), environment, spawn.Barrier(1))
    child = spawn.Process(target=open_at_once, args=arguments)
    child.start()
    deadline = time.monotonic() + 60
    while not has_begun(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.kill()
    child.join(10)
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()

    write(tmp_path, make_run("next"), [MetricsLogged(values={"a": 1.0})])

    assert [one.name for one in read_mlflow_runs(tmp_path / "mlflow.db")] == ["site-1-next"]
    assert points(tmp_path / "mlflow.db", make_run("next")) == [("a", 0, 1.0)]


@pytest.mark.parametrize("name", ["lr%3d1 #2?", "100%"])
def test_a_workspace_may_be_called_anything(tmp_path: Path, run: RunInfo, name: str) -> None:
    workspace = tmp_path / name
    workspace.mkdir()

    write(workspace, run, [TextLogged(key="a/notes.txt", text="hello", is_file=True), MetricsLogged(values={"a": 1.0})])

    assert points(workspace / "mlflow.db", run) == [("a", 0, 1.0)]
    assert artifacts(workspace / "mlflow.db", run) == {"a/notes.txt": "hello"}
    assert [one for one in tmp_path.rglob("*.db") if one.parent != workspace] == []


# ------------------------------------------------------------------------------------------------------ config
@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kw_args": {"experiment": "x"}}, "unknown experiment; known are experiment_name, run_name"),
        ({"kw_args": {"run_tags": ["a"]}}, "run_tags must be a dict"),
        ({"tracking_uri": "file:///tmp/x"}, "neither a database"),
        ({"tracking_uri": "./mlruns"}, "neither a database"),
        ({"tracking_uri": "ftp://u:p@host/x"}, r"tracking_uri='ftp://\*\*\*@host/x' is neither"),
        ({"tracking_uri": "sqlite://"}, "gone when the worker ends"),
        ({"tracking_uri": "sqlite:///:memory:"}, "gone when the worker ends"),
        ({"tracking_uri": "http://[::1"}, "can't be read"),
    ],
)
def test_what_cant_work_is_refused(tmp_path: Path, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        MLflowConfig(**settings).check(tmp_path)


@pytest.mark.parametrize(
    "uri",
    [None, "sqlite:///x.db", "postgresql+psycopg2://u@host/db", "http://host:5000", "https://h/x", "databricks"],
)
def test_what_can_work_is_taken(tmp_path: Path, uri: str | None) -> None:
    MLflowConfig(tracking_uri=uri, kw_args={"run_tags": {"a": "b"}}).check(tmp_path)


@pytest.mark.parametrize(
    ("uri", "store"),
    [
        ("sqlite:///my.db", "sqlite:///{here}/my.db"),
        ("sqlite+pysqlite:///a%3Fb/my.db?timeout=5", "sqlite+pysqlite:///{here}/a%3Fb/my.db?timeout=5"),
        ("sqlite:////data/my.db", "sqlite:////data/my.db"),
        ("sqlite:///file:my.db?uri=true", "sqlite:///file:my.db?uri=true"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_a_relative_store_is_where_the_receiver_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, store: str
) -> None:
    """Its workers start later, in whatever folder the script is by then."""
    made, later = tmp_path / "50%", tmp_path / "later"
    made.mkdir()
    later.mkdir()
    monkeypatch.chdir(made)
    config = MLflowReceiver(tracking_uri=uri).config
    assert isinstance(config, MLflowConfig)
    monkeypatch.chdir(later)
    in_worker = MLflowConfig.model_validate_json(config.model_dump_json())

    expected = store.format(here=f"{tmp_path}/50%25")
    assert (config.uri(tmp_path), in_worker.uri(tmp_path)) == (expected, expected)
    assert config.destination(tmp_path) == f"mlflow:{expected}"
    assert config.tracking_uri == uri  # a job that is exported says what the script said


def test_a_missing_sdk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'trackbus\[mlflow\]'"):
        MLflowConfig().check(tmp_path)


def test_the_config_loads_no_sdk(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from receivers.mlflow import MLflowConfig\n"
        f"MLflowConfig().check(Path({str(tmp_path)!r}))\n"
        "print('mlflow' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert child.stdout.strip() == "False"


def test_one_looks_at_the_store_or_at_the_server(tmp_path: Path) -> None:
    assert MLflowConfig().look(tmp_path) == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    assert MLflowConfig(tracking_uri="http://u:p@host:1/x").look(tmp_path) == "http://***@host:1/x"
    assert MLflowConfig().destination(tmp_path) == f"mlflow:sqlite:///{tmp_path}/mlflow.db"


def test_a_users_choice_about_telemetry_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("DO_NOT_TRACK", "0")

    environment = MLflowConfig().environment()

    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "DO_NOT_TRACK" not in environment
    assert environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


def test_a_password_travels_by_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://me:{PASSWORD.replace('/', '%2F')}@127.0.0.1:9/x?token=abc"
    config = MLflowConfig(tracking_uri=uri)

    shown = [config.model_dump_json(), repr(config), config.destination(tmp_path), config.look(tmp_path)]
    assert not [text for text in shown if "s3cret" in text or "abc" in text or "me:" in text]
    for name, value in config.environment().items():
        monkeypatch.setenv(name, value)
    assert MLflowConfig.model_validate_json(config.model_dump_json()).uri(tmp_path) == uri
    assert MLflowConfig(tracking_uri="http://127.0.0.1:9/x").uri(tmp_path) == "http://127.0.0.1:9/x"


def test_a_dead_server_is_an_error_in_seconds_and_no_password_shows(tmp_path: Path, run: RunInfo) -> None:
    uri = f"http://me:{PASSWORD.replace('/', '%2F')}@127.0.0.1:{free_port()}"
    start = time.monotonic()

    with pytest.raises(TrackerUnavailableError, match="refused") as caught:
        sink(tmp_path, tracking_uri=uri).open(run, Position(0))

    assert time.monotonic() - start < 10
    text = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__suppress_context__}"
    assert "s3cret" not in text
    assert text.endswith("None True")


# ------------------------------------------------------------------------------------------- what an error means
class Answers(http.server.BaseHTTPRequestHandler):
    """Gives every request the answer of its server, or none."""

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined] - set by the fixture
        if status is None:
            self.server.silence.wait()  # type: ignore[attr-defined] - the same
            return
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def answering() -> Iterator[Callable[[int | None, bytes], str]]:
    """Start a server that always gives one answer, and return its URI."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.silence = threading.Event()
    serving = threading.Thread(target=server.serve_forever, args=(0.02,))  # how soon it sees that it is to end

    def answer(status: int | None, body: bytes) -> str:
        server.answer = status, body
        serving.start()
        return f"http://me:{PASSWORD.replace('/', '%2F')}@127.0.0.1:{server.server_address[1]}"

    yield answer
    server.silence.set()
    server.shutdown()
    serving.join()
    server.server_close()


HTML = b"<html>log in</html>"


@pytest.mark.parametrize(
    "case",
    [
        (401, b"", NotAuthorisedError),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', NotAuthorisedError),
        (404, HTML, TrackerUnavailableError),
        (429, b"", TrackerUnavailableError),
        (429, b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slowly"}', TrackerUnavailableError),
        (500, b'{"error_code": "INTERNAL_ERROR", "message": "oh"}', TrackerUnavailableError),
        (502, HTML, TrackerUnavailableError),
        (503, b"", TrackerUnavailableError),
        (200, HTML, TrackerUnavailableError),
        (200, b'{"experiment": {"cut', TrackerUnavailableError),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "that one"}', MLflowError),
    ],
    ids=str,
)
def test_row_45_an_answer_says_whose_fault_it_is(
    tmp_path: Path,
    run: RunInfo,
    answering: Callable[[int | None, bytes], str],
    case: tuple[int, bytes, type[Exception]],
) -> None:
    status, body, kind = case
    with pytest.raises(kind) as caught:
        sink(tmp_path, tracking_uri=answering(status, body)).open(run, Position(0))
    assert type(caught.value) is kind
    assert "s3cret" not in str(caught.value)


def test_row_45_a_silent_server_is_given_more_time_each_time(
    tmp_path: Path, run: RunInfo, answering: Callable[[int | None, bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT, "1")
    uri, given = answering(None, b""), list[str]()
    for _ in range(3):
        opening = sink(tmp_path, tracking_uri=uri)
        opening.batch_seconds = 4.0
        given.append(os.environ[TIMEOUT])
        with pytest.raises(TrackerUnavailableError):
            opening.open(run, Position(0))
    assert given == ["1", "2", "3"]
    assert os.environ[TIMEOUT] == "3"  # shorter than a batch's own deadline


def test_a_locked_database_is_no_events_fault(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as one,
        closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None, timeout=0)) as other,
    ):
        one.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackerUnavailableError, match="locked"), redacting(f"sqlite:///{tmp_path}/a.db"):
            other.execute("CREATE TABLE t (a)")
        with pytest.raises(MLflowError, match="syntax"), redacting(f"sqlite:///{tmp_path}/a.db"):
            other.execute("no SQL")


# ------------------------------------------------------------------------------------------------------ server
@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A real tracking server; its URI and its folder."""
    with MLflowServer(tmp_path_factory.mktemp("server")) as running:
        yield running.uri, running.folder


@pytest.mark.slow
def test_a_server_stores_what_a_database_stores(server: tuple[str, Path], workspace: Path, run: RunInfo) -> None:
    uri, folder = server
    hard: list[Event] = [
        *SAMPLES,
        MetricsLogged(values=dict.fromkeys(HARD_KEYS, 1.0), step=2**63 - 1),
        MetricsLogged(values={f"k{number}": math.inf for number in range(1000)}, step=1),
        ParamsLogged(values={"empty": "", "lr": 0.5, **{f"p{n}": "\u20ac" * 6000 for n in range(60)}}),
        TagsSet(values={"empty": "", "\u20ac": "b" * 9000}),
        TextLogged(key="a/\u20ac b.txt", text="x\ny", is_file=True),
        TextLogged(key="empty", text=""),
    ]
    by_server = write(folder, run, hard, tracking_uri=uri)
    by_database = write(workspace, run, hard)

    assert by_server.counts == by_database.counts
    assert by_server.flush().row == len(hard)
    assert [repr(one) for one in content(folder / "mlflow.db", run)] == [
        repr(one) for one in content(workspace / "mlflow.db", run)
    ]


def test_a_server_stores_files_pictures_tables_and_models_as_a_database_does(
    server: tuple[str, Path], workspace: Path, run: RunInfo
) -> None:
    uri, folder = server
    found = []
    for place, options in ((workspace, {}), (folder, {"tracking_uri": uri})):
        events = list(one_of_each(BlobStore(place / FOLDER)).values())
        (model,) = (event for event in events if isinstance(event, ModelLogged))
        (table,) = (event for event in events if isinstance(event, TableLogged))
        appended = table.model_copy(update={"key": "t.json", "is_file": True, "appends": True})
        registered = model.model_copy(update={"registered_name": "registered"})
        rows = make_rows([*events[1:-1], appended, appended, registered])
        for _ in range(2):
            write(place, run, rows, **options)
        found.append(content_of(place / "mlflow.db", folder / "artifacts")[run.name])

    assert found[0]["models"] == found[1]["models"]
    assert found[0] == found[1]
    assert len(found[0]["files"]["t.json"]["data"]) == 4
    assert [one["status"] for one in found[0]["models"]] == [2, 2]
    assert len(found[0]["files"]) > 20


@pytest.mark.slow
def test_a_sink_keeps_the_contract_at_a_server(server: tuple[str, Path]) -> None:
    uri, folder = server

    check_sink(lambda: sink(folder, tracking_uri=uri), lambda run: content(folder / "mlflow.db", run))
