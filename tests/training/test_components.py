"""What listens at the server: the model selector, the model files, and the files of results."""

import json
import math
import resource
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from local_sites import make_server
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from training import (
    Component,
    FLModel,
    IntimeModelSelector,
    JobError,
    PTFileModelLocator,
    PTFileModelPersistor,
    RoundResultsWriter,
    Server,
    ServerEvent,
    ValidationJsonGenerator,
)
from training.abc import (
    BestModelFound,
    ComponentProblem,
    Contribution,
    ModelValidated,
    RoundAggregated,
    RoundStarted,
    SiteProblem,
)
from training.checkpoint import NAMES


class Tiny(nn.Module):
    """A model that a job names by its path."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 1)


def contribution(site: str, metrics: dict[str, Any], steps: float = 1.0) -> Contribution:
    return Contribution(site, steps, metrics, steps)


def aggregated(number: int, *contributions: Contribution, value: float = 0.0) -> RoundAggregated:
    """A round that began with a model of this value."""
    sent = FLModel(params={"w": torch.full((1,), value)}, current_round=number)
    return RoundAggregated(number, sent, FLModel(params={"w": torch.full((1,), value + 1)}), contributions)


def hear(server: Server, *events: ServerEvent) -> None:
    for event in events:
        server.hear(event)


def best(told: list[ServerEvent]) -> list[tuple[int, float]]:
    return [(event.round, event.value) for event in told if isinstance(event, BestModelFound)]


def accuracies(tmp_path: Path, values: list[float | None], **given: Any) -> list[tuple[int, float]]:
    server, told = make_server(tmp_path, {}, selector=IntimeModelSelector(**{"key_metric": "accuracy", **given}))
    rounds = [{} if value is None else {"accuracy": value} for value in values]
    hear(server, *(aggregated(number, contribution("a", metrics)) for number, metrics in enumerate(rounds)))
    return best(told)


# --- the selector -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "negate", "found"),
    [
        ([0.1, 0.5, 0.4, 0.6], False, [(0, 0.1), (1, 0.5), (3, 0.6)]),
        ([0.9, 0.5, 0.6, 0.4], True, [(0, 0.9), (1, 0.5), (3, 0.4)]),
        ([0.5, 0.5], False, [(0, 0.5)]),
        ([math.nan, 0.1, math.inf, None, 0.2], False, [(1, 0.1), (4, 0.2)]),
        ([-math.inf, 0.1], True, [(1, 0.1)]),
        ([None], False, []),
    ],
)
def test_the_best_model_is_the_one_that_a_round_began_with(
    tmp_path: Path, values: list[float | None], negate: bool, found: list[tuple[int, float]]
) -> None:
    assert accuracies(tmp_path, values, negate_key_metric=negate) == found


def test_the_selector_tells_of_the_model_that_was_sent(tmp_path: Path) -> None:
    server, told = make_server(tmp_path, {}, selector=IntimeModelSelector(key_metric="loss", negate_key_metric=True))
    event = aggregated(3, contribution("a", {"loss": 0.5}), value=7.0)
    server.hear(event)
    found = told[-1]
    assert isinstance(found, BestModelFound)
    assert (found.model, found.metric, found.mode) == (event.sent, "loss", "min")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({}, (0.2 + 0.8) / 2),
        ({"weigh_by_local_iter": True}, (0.2 * 30 + 0.8 * 10) / 40),
        ({"aggregation_weights": {"b": 3}}, (0.2 + 3 * 0.8) / 4),
        ({"weigh_by_local_iter": True, "aggregation_weights": {"b": 3}}, (0.2 * 30 + 0.8 * 30) / 60),
    ],
)
def test_sites_weigh_as_the_selector_says(tmp_path: Path, given: dict[str, Any], value: float) -> None:
    server, told = make_server(tmp_path, {}, selector=IntimeModelSelector(key_metric="accuracy", **given))
    parts = [
        contribution("a", {"accuracy": 0.2}, steps=30),
        contribution("b", {"accuracy": 0.8}, steps=10),
        contribution("c", {"loss": 1.0}),
        contribution("d", {"accuracy": math.nan}),
    ]
    server.hear(aggregated(0, *parts))
    assert best(told) == [(0, pytest.approx(value))]


def test_a_metric_of_a_class_can_decide(tmp_path: Path) -> None:
    server, told = make_server(tmp_path, {}, selector=IntimeModelSelector(key_metric="per_class/cat/f1"))
    server.hear(aggregated(0, contribution("a", {"per_class": {"cat": {"f1": 0.25, "support": 3}}})))
    assert best(told) == [(0, 0.25)]


def test_a_key_metric_that_nobody_gives_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server, told = make_server(tmp_path, {}, selector=IntimeModelSelector())
    hear(server, *(aggregated(number, contribution("a", {"accuracy": 1.0, "loss": 0.0})) for number in range(3)))
    assert best(told) == []
    assert [record.message for record in caplog.records] == [
        "no site gave the metric 'val_accuracy', so there is no best model; given: accuracy, loss"
    ]


@pytest.mark.parametrize(
    ("metric", "warns"),
    [
        ("val_loss", True),
        ("error_rate", True),
        ("RMSE", True),
        ("val_ce", True),
        ("accuracy", False),
        ("dice", False),
        ("neg_loss", False),
        ("negative_class_loss", True),
        ("precision", False),
    ],
)
def test_a_loss_that_is_maximised_is_warned_about(metric: str, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    IntimeModelSelector(key_metric=metric, negate_key_metric=True)
    assert caplog.records == []
    IntimeModelSelector(key_metric=metric)
    assert ["negate_key_metric=True" in record.message for record in caplog.records] == [True] * warns


# --- the model files --------------------------------------------------------------------------------------------------


def metadata(path: Path) -> dict[str, str]:
    """What a model file tells, but for the order of its tensors."""
    with safe_open(str(path), framework="pt") as file:
        return {key: value for key, value in file.metadata().items() if key != NAMES}


def test_the_best_model_is_kept_with_what_it_is_best_by(tmp_path: Path) -> None:
    selector, persistor = IntimeModelSelector(key_metric="accuracy"), PTFileModelPersistor()
    # The selector comes last: what it finds is heard by those before it, too.
    server, _ = make_server(tmp_path, {}, persistor=persistor, selector=selector)
    for number, accuracy in enumerate([0.5, 0.9, 0.7]):
        server.hear(aggregated(number, contribution("a", {"accuracy": accuracy}), value=number * 10.0))
    path = tmp_path / "models" / "best_FL_global_model.safetensors"
    assert load_file(path)["w"].tolist() == [10.0]
    assert metadata(path) == {"round": "1", "metric": "accuracy", "mode": "max", "value": "0.9"}


def test_the_global_model_tells_its_round_and_the_locator_finds_both(tmp_path: Path) -> None:
    persistor = PTFileModelPersistor(global_model_file_name="last.pth", best_global_model_file_name="best.v2")
    server, _ = make_server(tmp_path, {}, persistor=persistor)
    locator = PTFileModelLocator("persistor")
    assert locator.get_model_names(server) == []
    persistor.save_model(FLModel(params={"w": torch.ones(1)}, current_round=6), server)
    server.hear(BestModelFound(2, FLModel(params={"w": torch.zeros(1)}), "loss", 0.25, "min"))

    assert metadata(tmp_path / "models" / "last.safetensors") == {"round": "6"}
    assert locator.get_model_names(server) == ["last.pth", "best.v2"]
    assert {
        name: (locator.locate_model(name, server).params or {})["w"].item() for name in ("last.pth", "best.v2")
    } == {
        "last.pth": 1.0,
        "best.v2": 0.0,
    }
    assert (tmp_path / "models" / "best.v2.safetensors").exists()
    with pytest.raises(JobError, match=r"there is no model 'other.pt'; there are: last.pth, best.v2"):
        locator.locate_model("other.pt", server)


def test_where_nothing_was_trained_the_checkpoint_is_the_servers_model(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    persistor = PTFileModelPersistor(source_ckpt_file_full_name="pretrained.pt")
    server, _ = make_server(tmp_path, {}, persistor=persistor)
    locator = PTFileModelLocator("persistor")
    assert locator.get_model_names(server) == []
    torch.save({"w": torch.ones(1)}, tmp_path / "app" / "pretrained.pt")
    assert locator.get_model_names(server) == ["pretrained.pt"]
    assert (locator.locate_model("pretrained.pt", server).params or {})["w"].item() == 1.0
    persistor.save_model(persistor.load_model(server), server)
    assert locator.get_model_names(server) == ["FL_global_model.pt"]


def load(tmp_path: Path, persistor: PTFileModelPersistor, **server: Any) -> dict[str, torch.Tensor]:
    made, _ = make_server(tmp_path, {}, **server)
    return persistor.load_model(made).params or {}


WEIGHTS = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain.pt", WEIGHTS),
        ("wrapped.pth", {"model": WEIGHTS, "train_conf": {"train": {"model": "Net"}}}),
        ("lightning.ckpt", {"state_dict": WEIGHTS, "epoch": 3}),
        ("tutorial.pt", {"model_state_dict": WEIGHTS, "loss": 0.1}),
        ("model.safetensors", WEIGHTS),
    ],
)
@pytest.mark.parametrize("folder", ["app", "app/custom", ""])
def test_a_checkpoint_is_found_and_read(tmp_path: Path, name: str, data: dict[str, Any], folder: str) -> None:
    path = tmp_path / (folder or "elsewhere") / name
    path.parent.mkdir(parents=True)
    if name.endswith(".safetensors"):
        save_file(data, path)
    else:
        torch.save(data, path)
    params = load(tmp_path, PTFileModelPersistor(source_ckpt_file_full_name=name if folder else str(path)))
    assert {key: tensor.tolist() for key, tensor in params.items()} == {"w": [1.0, 2.0], "n": 3}


class Touch:
    """What runs code when a pickle is read that trusts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    torch.save({"w": Touch(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(JobError) as refused:
        load(tmp_path, PTFileModelPersistor(source_ckpt_file_full_name=str(tmp_path / "evil.pt")))
    assert str(refused.value) == (
        f"cannot read the checkpoint {tmp_path / 'evil.pt'}: it holds more than weights and plain values: "
        "write it with torch.save(model.state_dict(), ...)"
    )
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"cannot read the checkpoint .*/none.pt: No such file or directory$"):
        load(tmp_path, PTFileModelPersistor(source_ckpt_file_full_name="none.pt"))
    with pytest.raises(JobError, match="load_weights_only=False would run code"):
        PTFileModelPersistor(load_weights_only=False)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no checkpoint at all"])
@pytest.mark.parametrize("name", ["damaged.pt", "damaged.safetensors"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError, match=name):
        load(tmp_path, PTFileModelPersistor(source_ckpt_file_full_name=str(tmp_path / name)))


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"app/gone.pt"):
        load(tmp_path, PTFileModelPersistor(source_ckpt_file_full_name="gone.pt"))


def test_a_checkpoint_must_be_of_the_model(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "other.safetensors")
    persistor = PTFileModelPersistor(model=Tiny(), source_ckpt_file_full_name=str(tmp_path / "other.safetensors"))
    with pytest.raises(JobError, match=r"is not of this model: missing: layer.bias, layer.weight"):
        load(tmp_path, persistor)


def test_a_class_is_made_from_the_seed_and_leaves_torchs_generator_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_net.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, width=1):\n        super().__init__()\n"
        "        self.layer = nn.Linear(width, 2)\nclass Broken(nn.Module):\n    def __init__(self):\n        1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def make(seed: int) -> list[float]:
        persistor = PTFileModelPersistor(model={"path": "their_net.Net", "args": {"width": 4}})
        return load(tmp_path, persistor, seed=seed)["layer.weight"].flatten().tolist()

    before = torch.get_rng_state()
    assert make(1) == make(1)
    assert make(1) != make(2)
    assert len(make(1)) == 8
    assert torch.equal(torch.get_rng_state(), before)

    for path, message in {
        "their_net.Broken": "can't be made: ZeroDivisionError",
        "their_net.Missing": "can't be imported: AttributeError",
        "no_such_module.Net": "can't be imported: ModuleNotFoundError",
        "Net": "can't be imported: ValueError",
    }.items():
        with pytest.raises(JobError, match=f"the model {path} {message}"):
            load(tmp_path, PTFileModelPersistor(model={"path": path}))


def test_a_model_may_be_a_component_or_tensors(tmp_path: Path) -> None:
    tiny = Tiny()
    assert set(load(tmp_path, PTFileModelPersistor(model="net"), net=tiny)) == {"layer.weight", "layer.bias"}
    weights = load(tmp_path, PTFileModelPersistor(model={"w": torch.ones(1).numpy()}))["w"]
    assert weights.tolist() == [1.0]
    with pytest.raises(JobError, match=r"no torch.nn.Module among the server's components with the id 'net'"):
        load(tmp_path, PTFileModelPersistor(model="net"))
    with pytest.raises(JobError, match="holds a float as 'w': expected are tensors"):
        load(tmp_path, PTFileModelPersistor(model={"w": 1.0}))
    with pytest.raises(JobError, match="the model is a int"):
        load(tmp_path, PTFileModelPersistor(model=3))


def test_training_does_not_change_the_module_that_was_given(tmp_path: Path) -> None:
    tiny = Tiny()
    load(tmp_path, PTFileModelPersistor(model=tiny))["layer.bias"].fill_(9.0)
    assert tiny.layer.bias.item() != 9.0


def test_excluded_variables_stay_at_the_server_and_in_its_files(tmp_path: Path) -> None:
    persistor = PTFileModelPersistor("^head", model={"head.w": torch.ones(1), "body.w": torch.zeros(1)})
    server, _ = make_server(tmp_path, {}, persistor=persistor)
    model = persistor.load_model(server)
    assert list(model.params or {}) == ["body.w"]
    persistor.save_model(model, server)
    assert set(load_file(tmp_path / "models" / "FL_global_model.safetensors")) == {"head.w", "body.w"}
    assert list(PTFileModelLocator("persistor").locate_model("FL_global_model.pt", server).params or {}) == ["body.w"]


def test_the_persistors_arguments_stand_in_nvflares_order(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    persistor = PTFileModelPersistor("^head", None, "last.pt", "best.pt", "first.pt", "filter", True, False, "cuda:0")
    assert (persistor.global_model_file_name, persistor.best_global_model_file_name) == ("last.pt", "best.pt")
    assert (persistor.source_ckpt_file_full_name, persistor.allow_numpy_conversion) == ("first.pt", False)
    assert [record.message for record in caplog.records] == [
        "filter_id='filter' has no effect: models are kept as they are"
    ]


def keep(tmp_path: Path, **values: float) -> None:
    """Write models as an earlier run has left them."""
    (tmp_path / "models").mkdir(exist_ok=True)
    for name, value in values.items():
        save_file({"w": torch.full((1,), value)}, tmp_path / "models" / f"{name}.safetensors")


def test_a_training_sets_the_models_of_an_earlier_run_aside_once(tmp_path: Path) -> None:
    keep(tmp_path, FL_global_model=1.0, best_FL_global_model=2.0)
    persistor = PTFileModelPersistor()
    server, _ = make_server(tmp_path, {}, persistor=persistor)
    locator = PTFileModelLocator("persistor")
    hear(server, ModelValidated("a", "a", {"accuracy": 1}))
    assert locator.get_model_names(server) == ["FL_global_model.pt", "best_FL_global_model.pt"]

    hear(server, RoundStarted(0, 2))
    assert locator.get_model_names(server) == []
    assert load_file(tmp_path / "models" / "best_FL_global_model.safetensors.earlier")["w"].item() == 2.0

    hear(server, BestModelFound(0, FLModel(params={"w": torch.zeros(1)}), "accuracy", 0.5, "max"), RoundStarted(1, 2))
    assert locator.get_model_names(server) == ["best_FL_global_model.pt"]


def test_a_training_leaves_the_checkpoint_that_it_begins_with(tmp_path: Path) -> None:
    keep(tmp_path, FL_global_model=1.0, best_FL_global_model=2.0)
    source = tmp_path / "models" / "FL_global_model.safetensors"
    persistor = PTFileModelPersistor(source_ckpt_file_full_name=str(source))
    server, _ = make_server(tmp_path, {}, persistor=persistor)
    hear(server, RoundStarted(0, 1))
    assert {path.name for path in source.parent.iterdir()} == {source.name, "best_FL_global_model.safetensors.earlier"}


@pytest.mark.parametrize("name", ["", "../model.pt", "/tmp/model.pt", "a/b.pt"])
def test_a_model_file_stays_in_its_folder(name: str) -> None:
    with pytest.raises(JobError, match="is not the name of a file"):
        PTFileModelPersistor(global_model_file_name=name)


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_are_written_as_they_come(tmp_path: Path) -> None:
    server, _ = make_server(tmp_path, {}, json_generator=ValidationJsonGenerator())
    path = tmp_path / "cross_site_val" / "cross_val_results.json"
    by_class = {"accuracy": 0.5, "per_class": {"cat": {"f1": 0.9, "support": 12}}}
    server.hear(ModelValidated("site-1", "SRV_FL_global_model.pt", by_class))
    assert json.loads(path.read_text()) == {"site-1": {"SRV_FL_global_model.pt": by_class}}
    hear(server, ModelValidated("site-1", "site-2", {"accuracy": 0.1}), ModelValidated("site-2", "site-2", {"a": 1}))
    assert json.loads(path.read_text()) == {
        "site-1": {"SRV_FL_global_model.pt": by_class, "site-2": {"accuracy": 0.1}},
        "site-2": {"site-2": {"a": 1}},
    }
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("event", [RoundStarted(0, 1), SiteProblem("a", "validate", None, "it died")])
def test_results_of_an_earlier_run_are_set_aside_though_this_one_has_none(tmp_path: Path, event: ServerEvent) -> None:
    folder = tmp_path / "cross_site_val"
    folder.mkdir()
    (folder / "cross_val_results.json").write_text("of an earlier run")
    (tmp_path / "round_results.jsonl").write_text("of an earlier run, too")
    components = {"json_generator": ValidationJsonGenerator(), "results": RoundResultsWriter()}
    server, told = make_server(tmp_path, {}, **components)
    hear(server, event, RoundStarted(1, 2))
    assert {path.name: path.read_text() for path in (*folder.iterdir(), *tmp_path.glob("round*"))} == {
        "cross_val_results.json.earlier": "of an earlier run",
        "round_results.jsonl.earlier": "of an earlier run, too",
    }
    assert [one for one in told if isinstance(one, ComponentProblem)] == []


@contextmanager
def full_disk(size: int) -> Generator[None]:
    """No file grows beyond this size, as on a disk that is full; Python ignores the signal of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_was_full_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    server, told = make_server(tmp_path, {}, results=RoundResultsWriter())
    path = tmp_path / "round_results.jsonl"
    hear(server, aggregated(0, contribution("a", {"accuracy": 1.0})))
    with full_disk(path.stat().st_size + 10):
        hear(server, *(aggregated(number, contribution("a", {"accuracy": 1.0})) for number in (1, 2)))
    assert not path.read_bytes().endswith(b"\n")
    hear(server, aggregated(3, contribution("a", {"accuracy": 1.0})))
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [0, 3]
    assert sum(isinstance(one, ComponentProblem) for one in told) == 2


def test_the_round_writer_takes_nvflares_arguments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    writer = RoundResultsWriter("metrics", "summary.json", "rounds.jsonl", {"max_sites_per_round": 3})
    assert len(caplog.records) == 1
    server, _ = make_server(tmp_path, {}, results=writer)
    server.hear(aggregated(0, *(contribution(site, {"accuracy": 1.0}) for site in "abcd")))
    (line,) = (tmp_path / "metrics" / "rounds.jsonl").read_text().splitlines()
    assert list(json.loads(line)["sites"]) == ["a", "b", "c", "d"]


def test_rounds_are_written_by_site_and_by_class(tmp_path: Path) -> None:
    (tmp_path / "round_results.jsonl").write_text("of an earlier run\n")
    server, _ = make_server(tmp_path, {}, results=RoundResultsWriter())
    by_class = {"per_class": {"cat": {"f1": 0.9, "support": 12}}}
    hear(server, RoundStarted(0, 2), SiteProblem("b", "train", 0, "it died"))
    hear(server, aggregated(0, contribution("a", by_class, steps=3)))
    hear(server, RoundStarted(1, 2), aggregated(1, contribution("a", {"accuracy": 1})))
    lines = [json.loads(line) for line in (tmp_path / "round_results.jsonl").read_text().splitlines()]
    assert lines == [
        {
            "round": 0,
            "global": {},
            "sites": {"a": {"weight": 3, "steps": 3, "metrics": by_class}},
            "problems": {"b": "it died"},
        },
        {
            "round": 1,
            "global": {},
            "sites": {"a": {"weight": 1, "steps": 1, "metrics": {"accuracy": 1}}},
            "problems": {},
        },
    ]


@pytest.mark.parametrize("name", ["", "../out", "/tmp/out", "a/../../b"])
def test_results_stay_in_the_runs_folder(name: str) -> None:
    with pytest.raises(JobError, match="leads out of the run's folder"):
        ValidationJsonGenerator(results_dir=name)
    with pytest.raises(JobError, match="leads out of the run's folder"):
        RoundResultsWriter(round_file_name=name)


def test_a_disk_that_can_not_be_written_ends_no_job(tmp_path: Path) -> None:
    (tmp_path / "cross_site_val").write_text("a file where the folder should be")
    heard: list[ServerEvent] = []

    class Listener(Component):
        def handle(self, event: ServerEvent, server: Server) -> None:
            heard.append(event)

    server, told = make_server(tmp_path, {}, json_generator=ValidationJsonGenerator(), last=Listener())
    event = ModelValidated("site-1", "site-1", {"a": 1})
    server.hear(event)
    (problem,) = [one for one in told if isinstance(one, ComponentProblem)]
    assert problem.component == "json_generator"
    assert heard == [event]


# --- the shop window --------------------------------------------------------------------------------------------------


def test_the_window_loads_no_torch() -> None:
    program = (
        "import sys, training\nfrom training import FedAvg, PTFileModelPersistor, IntimeModelSelector\n"
        "FedAvg(), PTFileModelPersistor(), IntimeModelSelector()\n"
        "print([name for name in ('torch', 'numpy', 'safetensors', 'typer') if name in sys.modules])"
    )
    child = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (child.stdout.strip(), child.stderr) == ("[]", "")
