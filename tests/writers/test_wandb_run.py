"""The run of a W&B look-alike: what it logs beside numbers and media, and how it starts and ends."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eventbus import Envelope, EventBus
from eventbus.artifacts import ArtifactLogged, ModelLogged
from eventbus.blobs import BlobQuota
from eventbus.errors import BadInputError, NoBusError
from eventbus.media import HistogramLogged, ImagesLogged
from eventbus.tracking import (
    AlertRaised,
    ConfigUpdated,
    MetricDefined,
    MetricsLogged,
    RunFinished,
    RunStarted,
    SummaryUpdated,
    TagsDeleted,
    TagsSet,
    TextLogged,
)
from writers import WandBWriter, wandb
from writers._runs import runs_of
from writers._writer import LEFT_OUT

StoredOn = Callable[..., list[Envelope[Any]]]
Events = Callable[[type[Any]], list[Any]]


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventBus]:
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path / "files")
    with EventBus(tmp_path / "workspace", job="hello", run="run-1").background() as bus:
        yield bus


@pytest.fixture
def events(bus: EventBus, stored_on: StoredOn) -> Events:
    return lambda kind: [one.event for one in stored_on(bus, kind)]


def contents(bus: EventBus, event: ArtifactLogged) -> dict[str, bytes | str]:
    return {one.path: bus.blobs.read(one.blob) if one.blob else one.reference for one in event.files}


def write(path: str, text: str) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


# ------------------------------------------------------------------------------------------ summary, metrics, alerts
def test_the_summary_is_what_was_logged_last_and_what_was_set(bus: EventBus, events: Events) -> None:
    run = WandBWriter()

    run.log({"loss": 2.0})
    run.log({"loss": 1.0, "deep": {"acc": 0.5}})
    run.summary["best"] = 0.5
    run.summary.test = {"acc": 1}
    run.summary.update({"test": {"f1": 2}, "loss": 0.25})
    run.summary["classes"] = [0.5, 0.75]
    run.summary["picture"] = wandb.Image([[0, 255]])

    assert dict(run.summary.items()) == {
        "loss": 0.25,
        "deep.acc": 0.5,
        "best": 0.5,
        "test": {"acc": 1, "f1": 2},
        "classes": [0.5, 0.75],
    }
    assert [one.values for one in events(SummaryUpdated)] == [
        {"best": 0.5},
        {"test": {"acc": 1}},
        {"test": {"acc": 1, "f1": 2}, "loss": 0.25},
        {"classes": [0.5, 0.75]},
    ]
    [picture] = events(ImagesLogged)
    assert (picture.key, picture.step) == ("picture", None)
    with pytest.raises(AttributeError, match=r"the summary has no 'worst'; set it first: summary\.worst = \.\.\."):
        _ = run.summary.worst
    with pytest.raises(BadInputError, match="values by key are logged, not list"):
        run.summary.update([1])  # type: ignore[arg-type] - on purpose


def test_a_picture_without_room_takes_nothing_along(tmp_path: Path, stored_on: StoredOn) -> None:
    with EventBus(tmp_path / "small", blob_quota=BlobQuota(one=10)).background() as bus:
        run = WandBWriter()
        receipts = [
            run.log({"loss": 1.0, "picture": wandb.Image([[0, 255]])}),
            run.summary.update({"best": 0.5, "picture": wandb.Image([[0, 255]])}),
        ]

        assert all(receipt.refused and "BlobQuota" in receipt.refused for receipt in receipts)
        found = [[one.event.values for one in stored_on(bus, kind)] for kind in (MetricsLogged, SummaryUpdated)]
    assert found == [[{"loss": 1.0}], [{"best": 0.5}]]


def test_metrics_are_defined(bus: EventBus, events: Events) -> None:
    run = WandBWriter()

    epoch = run.define_metric("epoch", hidden=True)
    run.define_metric("val/*", step_metric=epoch, step_sync=True, summary="min, Max", overwrite=True)

    assert events(MetricDefined) == [
        MetricDefined(name="epoch", hidden=True),
        MetricDefined(name="val/*", step_metric="epoch", step_sync=True, summary=["min", "max"], overwrite=True),
    ]
    with pytest.raises(BadInputError, match=r"a '\*' stands at the end only"):
        run.define_metric("*/loss")
    with pytest.raises(BadInputError, match="summary 'median' is not known"):
        run.define_metric("loss", summary="median")


def test_alerts_are_raised(bus: EventBus, events: Events) -> None:
    run = WandBWriter()

    run.alert("Diverged", "loss is NaN")
    run.alert("Slow", "batches", wandb.AlertLevel.WARN, timedelta(minutes=5))
    run.alert("Dead", "gone", "error", 0.5)

    assert events(AlertRaised) == [
        AlertRaised(title="Diverged", text="loss is NaN"),
        AlertRaised(title="Slow", text="batches", level="WARN", wait_seconds=300),
        AlertRaised(title="Dead", text="gone", level="ERROR", wait_seconds=0.5),
    ]
    with pytest.raises(BadInputError, match="level 'LOUD' is not known: use one of INFO, WARN, ERROR"):
        run.alert("Loud", "text", "LOUD")
    with pytest.raises(BadInputError, match="'wait_duration' is of type str, not a number"):
        run.alert("Loud", "text", wait_duration="long")  # type: ignore[arg-type] - on purpose


# ----------------------------------------------------------------------------------------------------------- files
def test_an_artifact_is_what_was_added_even_if_it_changed_since(bus: EventBus, events: Events) -> None:
    run, data = WandBWriter(), wandb.Artifact("data", "dataset", "all of it", {"rows": 3})
    file = write("one.txt", "one")
    write("folder/deep/two.txt", "two")

    data.add_file(file)
    data.add_file(file, name="again/1.txt")
    data.add_dir("folder", name="under")
    data.add_reference("s3://bucket/three.bin", name="three.bin")
    with data.new_file("four.json") as new:
        json.dump([4], new)
    file.unlink()
    Path("folder/deep/two.txt").write_text("changed")
    data.metadata["rows"] = 4
    logged = run.log_artifact(data, aliases=["best"], tags=["t"])

    [event] = events(ArtifactLogged)
    assert contents(bus, event) == {
        "one.txt": b"one",
        "again/1.txt": b"one",
        "under/deep/two.txt": b"two",
        "three.bin": "s3://bucket/three.bin",
        "four.json": b"[4]",
    }
    assert event == ArtifactLogged(
        key="data",
        files=event.files,
        kind="dataset",
        aliases=["best"],
        tags=["t"],
        metadata={"rows": 4},
        description="all of it",
    )
    assert logged is data
    assert (data.wait(), data.is_draft()) == (data, False)


def test_an_artifact_that_was_made_before_the_bus_is_read_when_it_is_logged(
    tmp_path: Path, stored_on: StoredOn
) -> None:
    file = write(str(tmp_path / "one.txt"), "before")
    data = wandb.Artifact("data", "dataset")
    data.add_file(file)
    file.write_text("logged")

    with EventBus(tmp_path / "workspace").background() as bus:
        WandBWriter().log_artifact(data)
        [event] = stored_on(bus, ArtifactLogged)
        assert contents(bus, event.event) == {"one.txt": b"logged"}


def test_files_that_the_bus_let_go_meanwhile_are_read_again(bus: EventBus, events: Events) -> None:
    data = wandb.Artifact("data", "dataset")
    data.add_file(write("one.txt", "one"))
    with data.new_file("two.bin", "wb") as new:
        new.write(b"two")
    for blob in [*bus.blobs.folder.glob("*/*")]:  # type: ignore[union-attr] - what no record names is removed after an hour
        blob.unlink()

    WandBWriter().log_artifact(data)

    [event] = events(ArtifactLogged)
    assert contents(bus, event) == {"one.txt": b"one", "two.bin": b"two"}


def test_paths_models_and_code_are_logged(bus: EventBus, events: Events) -> None:
    run = WandBWriter()
    model = write("model/weights.bin", "w").parent
    write("src/train.py", "print()")
    write("src/data.csv", "1,2")
    write("src/.venv/lib.py", "not ours")

    run.log_artifact(model, type="checkpoint")
    run.use_artifact(str(model), type="dataset")
    run.log_model(model, name="net", aliases=["latest"])
    run.link_model(model, "registry/net")
    run.log_code("src")

    used = [one for one in events(ArtifactLogged) if type(one) is ArtifactLogged]
    assert [(one.key, one.kind, one.is_input, contents(bus, one)) for one in used] == [
        ("run-run-1-model", "checkpoint", False, {"weights.bin": b"w"}),
        ("run-run-1-model", "dataset", True, {"weights.bin": b"w"}),
        ("source-run-1", "code", False, {"train.py": b"print()"}),
    ]
    net, linked = events(ModelLogged)
    assert (net.key, net.kind, net.aliases, net.registered_name, contents(bus, net)) == (
        "net",
        "model",
        ["latest"],
        "",
        {"weights.bin": b"w"},
    )
    assert (linked.key, linked.registered_name) == ("run-run-1-model", "registry/net")


def test_saved_files_are_saved_again_at_the_end_if_they_changed(bus: EventBus, events: Events) -> None:
    run = WandBWriter()
    log, other, once = write("out/log.txt", "1"), write("out/other.txt", "same"), write("once.txt", "once")

    saved = run.save("out/*.txt")
    run.save(str(log), base_path=log.absolute().parent, policy="end")
    run.save("once.txt", policy="now")
    assert saved == [str(log.absolute()), str(other.absolute())]
    assert saved.wait(5) is saved
    os.utime(log, ns=(1, 1))
    log.write_text("1 and 2")
    once.write_text("changed")
    run.finish()

    os.utime(log, ns=(2, 2))  # of the next run, which has the same files
    runs_of(bus).end(None)

    found = events(ArtifactLogged)
    assert [(one.key, one.kind) for one in found] == [("files", "")] * 4
    assert [contents(bus, one) for one in found] == [
        {"out/log.txt": b"1", "out/other.txt": b"same"},
        {"log.txt": b"1"},
        {"once.txt": b"once"},
        {"log.txt": b"1 and 2"},
    ]


@pytest.mark.parametrize("is_finished", [True, False])
def test_what_lies_in_the_folder_of_a_run_is_logged_when_it_ends(
    tmp_path: Path, stored_on: StoredOn, *, is_finished: bool
) -> None:
    with EventBus(tmp_path, job="hello", run="run-1").background() as bus:
        run = WandBWriter()
        folder = Path(run.dir)
        write(str(folder / "best.txt"), "1")
        run.save(str(folder / "*.txt"))
        write(str(folder / "deep/late.txt"), "2")
        if is_finished:
            run.finish()
    found = [contents(bus, one.event) for one in stored_on(bus, ArtifactLogged)]
    assert folder == tmp_path / "files" / "run-1"
    assert found == [{"best.txt": b"1"}, {"deep/late.txt": b"2"}]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.log_artifact("nowhere"), "'nowhere' is no file, no folder and no address"),
        (lambda run: run.log_artifact(3), "3 is no path"),
        (lambda run: run.use_artifact("team/project/data:v3"), "what lies at the server can't be fetched"),
        (lambda run: run.link_artifact(None, "registry/x"), "link_artifact is not supported: link it at the server"),
        (lambda run: run.use_model("net:latest"), "use_model is not supported"),
        (lambda run: run.restore("weights.bin"), "restore is not supported"),
        (lambda run: run.upsert_artifact("data"), "upsert_artifact is not supported"),
        (lambda run: run.save("x", policy="sometimes"), "policy='sometimes' is not known"),
        (lambda run: run.save("/etc/hosts", base_path="/usr"), "lies outside of '/usr'"),
        (lambda run: run.save("nowhere[1]", glob=False), "is no file"),
        (lambda run: run.log_artifact("x" * 300), "is no file, no folder"),
        (lambda run: run.log_artifact(__file__, aliases=3), "aliases=3 is no list of texts"),
        (lambda run: run.define_metric("loss", summary=["min"]), "use a str such as 'min,max'"),
        (lambda run: setattr(run, "tags", 3), "tags=3 are no list of texts"),
        (lambda run: run.add_tags("text"), "tags='text' are no list of texts"),
        (lambda run: run.add_tags(None), "tags=None are no list of texts"),
        (lambda run: run.log_code(5), "5 is no path"),
        (lambda run: run.log_code(__file__.rpartition("/")[0], name="a b"), "artifact name 'a b'"),
        (lambda run: run.alert("t", "x", wait_duration=float("inf")), "wait_duration is inf: use seconds"),
        (lambda run: run.alert("t", "x", wait_duration=float("nan")), "wait_duration is nan: use seconds"),
        (lambda run: run.watch(torch.nn.Linear(1, 1), idx="x"), "idx='x': use the number"),
        (lambda run: run.watch(3), "'int' is no model of torch"),
        (lambda run: run.watch(torch.nn.Linear(1, 1), log="everything"), "log='everything' is not known"),
        (lambda run: run.watch(torch.nn.Linear(1, 1), log_freq=0), "log_freq=0: use a number of batches"),
    ],
)
def test_what_can_not_be_is_refused_by_name_or_counted(
    bus: EventBus, events: Events, call: Callable[[WandBWriter], object], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        call(WandBWriter())

    writer = WandBWriter(on_bad_input="count")
    call(writer)
    assert sum(writer.bad_inputs.values()) == 1
    assert events(ArtifactLogged) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: wandb.Artifact("a b", "t"), "artifact name 'a b'"),
        (lambda: wandb.Artifact("a", "t", incremental=True), "are not supported"),
        (lambda: wandb.Artifact("a", "t", metadata=[1]), r"metadata=\[1\] of artifact 'a': pass a dict"),  # type: ignore[arg-type] - on purpose
        (lambda: wandb.Artifact("a", "t").add_file("nowhere"), "'nowhere' is no file: add folders with add_dir"),
        (lambda: wandb.Artifact("a", "t").add_dir("nowhere"), "'nowhere' is no folder"),
        (lambda: wandb.Artifact("a", "t").add_file(__file__, name="../up"), "leads out of the artifact"),
        (lambda: wandb.Artifact("a", "t").add_reference("file"), "'file' is no address"),
        (lambda: wandb.Artifact("a", "t").add(wandb.Table(), "t"), "Table 't' is no file: log it with run.log"),
        (lambda: wandb.Artifact("a", "t").wait(), "was not logged"),
    ],
)
def test_an_artifact_refuses_what_it_can_not_hold(make: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        make()


def test_two_files_at_one_path_are_refused_unless_one_replaces_the_other(bus: EventBus, events: Events) -> None:
    run = WandBWriter()
    twice = wandb.Artifact("twice", "t")
    for name in ("a/x.txt", "b/x.txt"):
        twice.add_file(write(name, name))

    with pytest.raises(BadInputError, match=r"two files lie at 'x\.txt' of 'twice'"):
        run.log_artifact(twice)
    twice.add_file("b/x.txt", name="y.txt")
    replaced = wandb.Artifact("replaced", "t")
    replaced.add_file("a/x.txt")
    replaced.add_file("b/x.txt", overwrite=True)
    run.log_artifact(replaced)

    [event] = events(ArtifactLogged)
    assert contents(bus, event) == {"x.txt": b"b/x.txt"}


def test_the_same_file_added_twice_is_one_file(bus: EventBus, events: Events) -> None:
    data = wandb.Artifact("data", "dataset")
    data.add_dir(write("folder/a.txt", "a").parent)
    data.add_file("folder/a.txt")
    for _ in range(2):
        data.add_reference("s3://bucket/b.bin")

    WandBWriter().log_artifact(data)

    [event] = events(ArtifactLogged)
    assert contents(bus, event) == {"a.txt": b"a", "b.bin": "s3://bucket/b.bin"}


# ----------------------------------------------------------------------------------------------------------- watch
def test_a_watched_model_logs_its_gradients_and_parameters(bus: EventBus, events: Events) -> None:
    run, model = WandBWriter(), torch.nn.Linear(3, 2)

    run.watch(model, log="all", log_freq=2, log_graph=True)
    for step in range(5):
        model(torch.ones(4, 3)).sum().backward()
        run.log({"loss": float(step)})
    run.unwatch(model)
    model(torch.ones(4, 3)).sum().backward()
    model(torch.ones(4, 3)).sum().backward()

    found = [(one.key, one.step) for one in events(HistogramLogged)]
    assert sorted(found) == [
        *(("gradients/bias", step) for step in (1, 3)),
        *(("gradients/weight", step) for step in (1, 3)),
        *(("parameters/bias", step) for step in (1, 3)),
        *(("parameters/weight", step) for step in (1, 3)),
    ]
    weights = [one for one in events(HistogramLogged) if one.key == "parameters/weight"]
    counts = torch.histc(model.weight.detach(), 64)
    assert weights[0].counts == counts.tolist()
    assert (weights[0].low, weights[0].limits[-1]) == (model.weight.min().item(), model.weight.max().item())
    assert [(one.key, one.text) for one in events(TextLogged)] == [("graph_0", repr(model))]


def test_what_fails_in_a_hook_is_counted_and_never_raised(bus: EventBus, events: Events) -> None:
    run, model = WandBWriter(), torch.nn.Linear(1, 1)
    run.watch([model, torch.nn.Linear(1, 1)], log_freq=1, idx=2)

    (model(torch.ones(1, 1)) * float("nan")).backward()
    assert run.bad_inputs == {"gradients/graph_2weight": 1, "gradients/graph_2bias": 1}
    assert events(HistogramLogged) == []
    run.tracking.publish = lambda *given: 1 / 0  # type: ignore[method-assign] - what breaks must not reach the training
    model(torch.ones(1, 1)).backward()
    assert run.bad_inputs == {"gradients/graph_2weight": 2, "gradients/graph_2bias": 2}


def test_a_model_that_is_watched_again_is_watched_once(bus: EventBus, events: Events) -> None:
    run, model = WandBWriter(), torch.nn.Linear(2, 1, bias=False)

    for frequency in (1000, 1):  # a notebook's cell that is run again
        run.watch(model, log_freq=frequency)
    run.watch(second := torch.nn.Linear(2, 1, bias=False), log_freq=1)
    second(model(torch.ones(1, 2)).expand(1, 2)).sum().backward()

    assert sorted(one.key for one in events(HistogramLogged)) == ["gradients/graph_1weight", "gradients/weight"]


def test_sparse_gradients_count_their_zeros(bus: EventBus, events: Events) -> None:
    run, table = WandBWriter(), torch.nn.Embedding(10, 2, sparse=True)
    run.watch(table, log_freq=1)

    (table(torch.tensor([1])) * torch.tensor([1.0, -1.0])).sum().backward()

    [gradient] = events(HistogramLogged)
    assert (gradient.num, gradient.counts[0], gradient.counts[32], gradient.counts[63]) == (20.0, 1.0, 18.0, 1.0)


def test_complex_parameters_are_counted_as_left_out(bus: EventBus, events: Events) -> None:
    run, model = WandBWriter(), torch.nn.Linear(1, 1, dtype=torch.complex64)
    run.watch(model, log="parameters", log_freq=1)

    model(torch.ones(1, 1, dtype=torch.complex64))

    assert run.bad_inputs == {"parameters/weight": 1, "parameters/bias": 1}
    assert events(HistogramLogged) == []


# ------------------------------------------------------------------------------------------------------ init, module
def test_a_script_logs_to_the_run_that_init_started(bus: EventBus, events: Events) -> None:
    assert wandb.login(key="secret") is True
    run = wandb.init(
        "team",
        "vision",
        name="first try",
        notes="n",
        tags=["baseline", "v1"],
        config={"lr": 0.1, "seed": 1, "path": "x"},
        config_exclude_keys=["path"],
        group="g",
        job_type="train",
        settings=wandb.Settings(quiet=True),
    )
    wandb.config.epochs = 3
    wandb.log({"loss": 1.0})
    wandb.summary["best"] = 1.0
    wandb.define_metric("loss", summary="min")
    run.tags = ("v1", "v2")

    assert wandb.run is run is wandb.init()
    assert (run.id, run.name, run.path, run.group, run.job_type) == (
        "run-1",
        "first try",
        "team/vision/run-1",
        "g",
        "train",
    )
    assert (run.tags, run.notes, run.step, run.project, run.entity) == (("v1", "v2"), "n", 1, "vision", "team")
    run.name = "second try"
    assert (run.url, run.disabled, run.offline, run.starting_step) == (None, False, False, 0)
    assert Path(run.dir).is_dir()
    assert [(one.name, one.group) for one in events(RunStarted)] == [("first try", "hello"), ("second try", "hello")]
    assert [one.values for one in events(ConfigUpdated)] == [{"lr": 0.1, "seed": 1}, {"epochs": 3}]
    assert [one.values for one in events(TagsSet)] == [
        {
            "wandb.entity": "team",
            "wandb.project": "vision",
            "wandb.notes": "n",
            "wandb.group": "g",
            "wandb.job_type": "train",
        },
        {"baseline": "", "v1": ""},
        {"v2": ""},
    ]
    assert events(TagsDeleted) == [TagsDeleted(keys=["baseline"])]
    wandb.finish(3)

    assert wandb.run is None
    assert run.status().sync_items_total == bus.journal.last_seq
    with pytest.raises(BadInputError, match=r"call writers\.wandb\.init\(\) before wandb\.log\(\)"):
        wandb.log({"loss": 1.0})
    with pytest.raises(AttributeError, match=r"call writers\.wandb\.init\(\) before wandb\.config"):
        _ = wandb.config
    with pytest.raises(AttributeError, match=r"writers\.wandb has no 'Api'"):
        _ = wandb.Api


def test_a_run_that_goes_on_counts_on_and_ends_anew(tmp_path: Path, stored_on: StoredOn) -> None:
    def run_it() -> None:
        with EventBus(tmp_path, job="hello", run="run-1").background() as bus:
            opened.append(bus)
            wandb.finish()  # nothing, as W&B has it
            for loss in (1.0, 2.0):
                wandb.init(id="mine", resume="allow").log({"loss": loss})
                if loss == 1.0:
                    wandb.finish(0)
                    wandb.finish()
            raise ValueError("the second part fails")

    opened: list[EventBus] = []
    with pytest.raises(ValueError, match="the second part"):
        run_it()
    found = [one.event for one in stored_on(opened[0], (MetricsLogged, RunFinished))]
    assert found == [
        MetricsLogged(values={"loss": 1.0}, step=0),
        RunFinished(status="FINISHED"),
        MetricsLogged(values={"loss": 2.0}, step=1),
        RunFinished(status="FAILED", reason="ValueError: the second part fails"),
    ]


def test_the_failure_of_one_run_is_not_that_of_those_before(tmp_path: Path, stored_on: StoredOn) -> None:
    def sweep() -> None:
        with EventBus(tmp_path, job="hello", run="run-1").background() as bus:
            opened.append(bus)
            for number in range(4):
                try:
                    wandb.init().log({"loss": 1.0})
                    if number == 3:
                        raise ValueError("no data")
                finally:
                    wandb.finish()

    opened: list[EventBus] = []
    with pytest.raises(ValueError, match="no data"):
        sweep()
    ends = {one.run: one.event.status for one in stored_on(opened[0], RunFinished)}
    assert ends == {"run-1-2": "FINISHED", "run-1-3": "FINISHED", "run-1": "FINISHED", "run-1-4": "FAILED"}
    starts = [one.run for one in stored_on(opened[0], (RunStarted, RunFinished))]
    assert starts == ["run-1", "run-1-2", "run-1-2", "run-1-3", "run-1-3", "run-1-4", "run-1", "run-1-4"]


def test_a_run_after_the_first_is_one_of_its_own(tmp_path: Path, stored_on: StoredOn) -> None:
    with EventBus(tmp_path, job="hello", run="run-1").background() as bus:
        for loss in (1.0, 2.0):
            with wandb.init(name="try") as run:
                run.log({"loss": loss})
        named = wandb.init(id="mine", resume="must")
        other = wandb.init(reinit="create_new")
        assert wandb.run is named
        again = wandb.init(reinit="finish_previous")
        assert (named.is_finished, other.id, again.id, wandb.run) == (True, "run-1-3", "run-1-4", again)
        again.finish(1)

    runs = [(one.run, one.event.values) for one in stored_on(bus, MetricsLogged)]
    assert runs == [("run-1", {"loss": 1.0}), ("run-1-2", {"loss": 2.0})]
    ended = {one.run: one.event.status for one in stored_on(bus, RunFinished)}
    assert ended == {
        "run-1": "FINISHED",
        "run-1-2": "FINISHED",
        "mine": "FINISHED",
        "run-1-3": "FINISHED",
        "run-1-4": "FAILED",
    }


def test_a_run_that_goes_on_is_not_told_otherwise(
    bus: EventBus, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    run = wandb.init(project="p", name="first", config={"lr": 0.1}, tags=["a"])

    for _ in range(2):
        assert wandb.init(project="p", name="second", config={"lr": 0.2}, tags="b") is run
    assert wandb.init(project="p", reinit="return_previous") is run

    assert (run.name, run.tags, run.config.as_dict()) == ("first", ("a",), {"lr": 0.1})
    assert [one.values for one in events(ConfigUpdated)] == [{"lr": 0.1}]
    assert run.bad_inputs == {"init": 2}
    [warning] = caplog.messages
    assert "init(name=..., tags=..., config=...), since run 'run-1' goes on as it is" in warning


class ZMQInteractiveShell:
    """The shell of a notebook."""


def test_a_notebooks_cell_that_is_run_again_starts_a_run_of_its_own(
    bus: EventBus, stored_on: StoredOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=ZMQInteractiveShell))

    runs = [wandb.init(name=f"try {lr}", config={"lr": lr}) for lr in (0.1, 0.2)]
    assert wandb.init(reinit="return_previous") is runs[1]

    found = [(one.run, one.event.values) for one in stored_on(bus, ConfigUpdated)]
    assert found == [("run-1", {"lr": 0.1}), ("run-1-2", {"lr": 0.2})]
    assert [run.is_finished for run in runs] == [True, False]


def test_a_disabled_run_records_nothing_and_needs_no_bus(tmp_path: Path) -> None:
    with wandb.init(mode="disabled") as run:
        run.log({"loss": 1.0})
        run.log_artifact(write(str(tmp_path / "x.txt"), "x"))
        assert run.disabled

    with pytest.raises(NoBusError):
        wandb.init()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume_from": "x?_step=3"}, r"init\(resume_from=\.\.\.\) is not supported: a run goes on under its id"),
        ({"fork_from": "x?_step=3"}, r"init\(fork_from=\.\.\.\) is not supported"),
        ({"sync_tensorboard": True}, r"init\(tensorboard=\.\.\.\) is not supported: log with writers\.SummaryWriter"),
        ({"monitor_gym": True}, r"init\(monitor_gym=\.\.\.\) is not supported"),
        ({"mode": "dryrun"}, "mode='dryrun' is not known"),
        ({"reinit": "maybe"}, "reinit='maybe' is not known"),
        ({"resume": "perhaps"}, "resume='perhaps' is not known"),
        ({"resume": "must"}, "needs the id of the run"),
        ({"config": "config.yaml"}, "is the name of a file: read it"),
        ({"config": [1]}, "config is of type list"),
        ({"config": {"a": 1}, "config_include_keys": ["a"], "config_exclude_keys": ["b"]}, "exclude each other"),
    ],
)
def test_options_that_can_not_be_honoured_are_refused(bus: EventBus, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        wandb.init(**options)


def test_what_is_left_out_is_told(bus: EventBus) -> None:
    writer = WandBWriter(on_bad_input="count")

    assert writer.alert("x", "y", "LOUD").refused == LEFT_OUT
    assert writer.define_metric("a*b") is None
    assert writer.log_artifact("nowhere").is_draft() is False
    assert writer.bad_inputs == {"alert": 1, "a*b": 1, "artifact": 1}
