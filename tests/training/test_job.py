"""Jobs in Python: what is put to server and sites stands in the exported folder, as NVFLARE has it."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from receivers import FlushPolicy, JsonlReceiver, MLflowReceiver, TensorBoardReceiver, WandBReceiver
from training import CrossSiteModelEval, FedAvg, IntimeModelSelector, PTFileModelPersistor, ValidationJsonGenerator
from training.errors import JobError
from training.job import (
    BaseFedJob,
    ConvertToFedEvent,
    FedAvgJob,
    FedJob,
    FrameworkType,
    PTModel,
    ScriptRunner,
    TransferType,
    load_job,
)
from training.jobs._custom import CustomFolder
from training.jobs._describe import describe

SERVER = "app_server/config/config_fed_server.json"
ALL_SERVER, ALL_CLIENT = "app/config/config_fed_server.json", "app/config/config_fed_client.json"

MODEL = """
    import torch
    from job_helpers.layers import WIDTH

    class Network(torch.nn.Module):
        def __init__(self, features=3):
            super().__init__()
            self.layer = torch.nn.Linear(features, WIDTH)

    class Wide(torch.nn.Module):
        def __init__(self, features=3, classes=2):
            super().__init__()
            self.classes = classes
            self.layer = torch.nn.Linear(features, classes)
"""

OWN = """
    from training import Component, ModelAggregator
    from receivers import JsonlReceiver

    class Listener(Component):
        def __init__(self, level, names=("a",), forgotten=None):
            self.level = level
            self._names = names

    class Forgetful(Component):
        def __init__(self, level):
            pass

    class Keeper(Component):
        def __init__(self, api_key):
            self.api_key = api_key

    class Holder(Component):
        def __init__(self, inner=None):
            self.inner = inner

    class OwnReceiver(JsonlReceiver):
        def __init__(self, prefix, path=None):
            super().__init__(path, name=f"{prefix}-lines")
            self.prefix = prefix
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project, as the working folder and on the path."""
    folder = tmp_path / "project"
    files = {
        "job_model.py": MODEL,
        "job_own.py": OWN,
        "job_helpers/__init__.py": "",
        "job_helpers/layers.py": "WIDTH = 2",
        "job_helpers/unused.py": "",
        "job_utilities.py": "",
        "train.py": "from job_model import Network\nimport job_utilities\nimport json",
        "scripts/other.py": "import beside, eventbus\nfrom job_package import inner\nfrom . import nothing",
        "job_package/__init__.py": "",
        "job_package/inner.py": "from .deeper import x",
        "job_package/deeper.py": "x = 1",
        "scripts/beside.py": "",
        "data/labels.csv": "a,b",
        "training/client.py": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.startswith("job_")]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def network(name: str = "Network", *args: object) -> nn.Module:
    import importlib

    return getattr(importlib.import_module("job_model"), name)(*args)


def own(name: str, *args: object, **kwargs: object) -> Any:
    import importlib

    return getattr(importlib.import_module("job_own"), name)(*args, **kwargs)


def small_job(**options: Any) -> FedJob:
    job = FedJob("small", **options)
    job.to_server(FedAvg(num_clients=2, num_rounds=1))
    job.to_clients(ScriptRunner("train.py"))
    return job


def exported(job: FedJob, tmp_path: Path) -> Path:
    return job.export_job(tmp_path / "exported")


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_putting_a_job_together_loads_neither_torch_nor_a_tracker() -> None:
    program = "import sys, training.job, training.recipe; print([name for name in sys.argv[1:] if name in sys.modules])"
    root = Path(__file__).resolve().parents[2]

    done = subprocess.run(
        [sys.executable, "-c", program, "torch", "rich", "typer", "wandb", "mlflow", "tensorboard"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.strip() == "[]"


# --------------------------------------------------------------------------------------------------- what is written
def test_a_job_for_all_sites_is_written_as_nvflare_writes_it(tmp_path: Path) -> None:
    job = FedAvgJob(network(), 2, 3, name="hello", min_clients=2)
    job.to_clients(ScriptRunner("train.py", "--epochs 2"))
    job.to_server(TensorBoardReceiver(), id="receiver")
    job.to_server(MLflowReceiver(kw_args={"experiment_name": "e"}), id="receiver")
    folder = exported(job, tmp_path)

    assert folder == tmp_path / "exported" / "hello"
    assert read(folder, "meta.json") == {
        "name": "hello",
        "resource_spec": {},
        "min_clients": 2,
        "deploy_map": {"app": ["@ALL"]},
    }
    assert read(folder, ALL_CLIENT) == {
        "format_version": 2,
        "executors": [
            {
                "tasks": ["*"],
                "executor": {
                    "path": "training.job.ScriptRunner",
                    "args": {"script": "train.py", "script_args": "--epochs 2"},
                },
            }
        ],
        "components": [],
        "task_data_filters": [],
        "task_result_filters": [],
    }
    model = {"path": "job_model.Network", "args": {}}
    assert read(folder, ALL_SERVER) == {
        "format_version": 2,
        "workflows": [{"id": "controller", "path": "training.FedAvg", "args": {"num_clients": 2, "num_rounds": 3}}],
        "components": [
            {"id": "json_generator", "path": "training.ValidationJsonGenerator", "args": {}},
            {"id": "model_selector", "path": "training.IntimeModelSelector", "args": {"key_metric": "accuracy"}},
            {"id": "metrics_artifact_writer", "path": "training.RoundResultsWriter", "args": {}},
            {
                "id": "persistor",
                "path": "training.PTFileModelPersistor",
                "args": {"model": model, "source_ckpt_file_full_name": "initial_model.safetensors"},
            },
            {"id": "locator", "path": "training.PTFileModelLocator", "args": {"pt_persistor_id": "persistor"}},
            {"id": "receiver", "path": "receivers.TensorBoardReceiver", "args": {}},
            {"id": "receiver1", "path": "receivers.MLflowReceiver", "args": {"kw_args": {"experiment_name": "e"}}},
        ],
        "task_data_filters": [],
        "task_result_filters": [],
    }


def test_a_job_for_named_sites_has_an_app_for_each(tmp_path: Path) -> None:
    job = FedJob("apart", min_clients=2, mandatory_clients=["site-1"], meta_props={"scope": "lab"})
    job.to_server(FedAvg(num_clients=2))
    for number in (1, 2):
        job.to(ScriptRunner("train.py", f"--site {number}"), f"site-{number}")
    job.to({"batch": 4}, "site-2")
    folder = exported(job, tmp_path)

    assert job.clients == ["site-1", "site-2"]
    assert read(folder, "meta.json") == {
        "name": "apart",
        "resource_spec": {},
        "min_clients": 2,
        "deploy_map": {"app_server": ["server"], "app_site-1": ["site-1"], "app_site-2": ["site-2"]},
        "mandatory_clients": ["site-1"],
        "scope": "lab",
    }
    assert read(folder, "app_site-2/config/config_fed_client.json")["batch"] == 4
    assert [site.script.args for site in load_job(folder).plan().sites] == [("--site", "1"), ("--site", "2")]


def test_what_one_site_has_besides_is_joined_with_what_all_have(tmp_path: Path) -> None:
    job = small_job()
    job.to_clients({"batch": 4, "rate": 1})
    job.to_clients(JsonlReceiver(), id="all")
    job.to(TensorBoardReceiver(), "site-2", id="more")
    job.to({"batch": 8}, "site-2")
    plan = load_job(exported(job, tmp_path)).plan(["site-1", "site-2"])

    one, other = plan.sites
    assert ([receiver.name for receiver in one.receivers], one.config) == (["jsonl"], {"batch": 4, "rate": 1})
    assert [receiver.name for receiver in other.receivers] == ["jsonl", "tensorboard"]
    assert other.config == {"batch": 8, "rate": 1}
    assert one.script.args == other.script.args


def test_the_run_starts_from_exactly_the_models_weights(tmp_path: Path) -> None:
    model = network("Network", 5)
    job = FedAvgJob(model, 2, 1, name="weights")
    job.to_clients(ScriptRunner("train.py"))
    folder = exported(job, tmp_path)

    stored = load_file(folder / "app" / "custom" / "initial_model.safetensors")

    assert stored.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(stored[name], tensor)


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 2), lambda: nn.Sequential(nn.Linear(4, 2), nn.ReLU())])
def test_a_librarys_model_goes_by_its_weights(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    job = FedAvgJob(model, 2, 1, name="library")
    job.to_clients(ScriptRunner("train.py"))
    folder = exported(job, tmp_path)

    persistor: Any = load_job(folder).plan(["site-1"], trust_custom=False).components["persistor"]

    assert (persistor.model, persistor.source_ckpt_file_full_name) == (None, "initial_model.safetensors")
    stored = load_file(folder / "app" / "custom" / "initial_model.safetensors")
    assert stored.keys() == model.state_dict().keys()


def test_a_checkpoint_is_preferred_to_the_models_weights(tmp_path: Path) -> None:
    job = small_job()
    job.to_server(PTModel(network(), initial_ckpt="/models/first.pt", best_model_filename="best.pt"))
    folder = exported(job, tmp_path)

    persistor = read(folder, ALL_SERVER)["components"][0]["args"]
    assert persistor["source_ckpt_file_full_name"] == "/models/first.pt"
    assert persistor["best_global_model_file_name"] == "best.pt"
    assert not (folder / "app" / "custom" / "initial_model.safetensors").exists()


def test_a_checkpoint_of_the_project_travels_with_the_job(tmp_path: Path, project: Path) -> None:
    torch.save(network().state_dict(), project / "first.pt")
    job = small_job()
    job.to_server(PTModel({"path": "job_model.Network"}, initial_ckpt="first.pt"))
    folder = exported(job, tmp_path)

    assert read(folder, ALL_SERVER)["components"][0]["args"]["source_ckpt_file_full_name"] == "first.pt"
    assert (folder / "app" / "custom" / "first.pt").is_file()


def test_a_scripts_own_modules_travel_with_it_and_nothing_else(tmp_path: Path) -> None:
    folder = exported(small_job(), tmp_path)

    assert files(folder / "app" / "custom") == [
        "job_helpers/__init__.py",
        "job_helpers/layers.py",
        "job_model.py",
        "job_utilities.py",
        "train.py",
    ]


def test_a_script_in_a_folder_may_import_from_where_its_path_begins(tmp_path: Path, project: Path) -> None:
    (project / "scripts" / "other.py").write_text("import scripts.beside\nfrom job_helpers import layers")
    job = FedJob("files")
    job.to_server(FedAvg(num_clients=1))
    job.to_clients(ScriptRunner("scripts/other.py"))

    assert files(exported(job, tmp_path) / "app" / "custom") == [
        "job_helpers/__init__.py",
        "job_helpers/layers.py",
        "scripts/beside.py",
        "scripts/other.py",
    ]


def test_scripts_and_folders_are_copied(tmp_path: Path, project: Path) -> None:
    job = FedJob("files")
    job.to_server(FedAvg(num_clients=1))
    job.to_clients(ScriptRunner("scripts/other.py"))
    job.to_clients("data")
    job.add_file_to_clients(str(project / "job_utilities.py"), dest_dir="more", app_folder_type="custom")
    folder = exported(job, tmp_path)

    package = ["job_package/__init__.py", "job_package/deeper.py", "job_package/inner.py"]
    rest = ["labels.csv", "more/job_utilities.py", "scripts/beside.py", "scripts/other.py"]
    assert files(folder / "app" / "custom") == [*package, *rest]
    site = load_job(folder).plan(["site-1"]).sites[0]
    assert site.script.script == folder / "app" / "custom" / "scripts" / "other.py"
    assert site.search_path == (folder / "app" / "custom" / "scripts", folder / "app" / "custom")


def test_a_users_own_component_goes_into_the_job(tmp_path: Path) -> None:
    job = small_job()
    job.to_server(own("Listener", 3, names=("b", "c")), id="mine")
    folder = exported(job, tmp_path)

    assert read(folder, ALL_SERVER)["components"] == [
        {"id": "mine", "path": "job_own.Listener", "args": {"level": 3, "names": ["b", "c"]}}
    ]
    loaded = load_job(folder)
    with loaded.importing():
        made: Any = loaded.plan(["site-1"], trust_custom=True).components["mine"]
    assert made.level == 3
    assert type(made) is not type(own("Listener", 3))


def test_a_component_in_a_components_argument_is_written_within_it(tmp_path: Path) -> None:
    job = small_job()
    job.to_server(own("Holder", own("Listener", 2)), id="outer")
    folder = exported(job, tmp_path)

    entry = read(folder, ALL_SERVER)["components"][0]
    assert entry["args"] == {"inner": {"path": "job_own.Listener", "args": {"level": 2}}}
    loaded = load_job(folder)
    with loaded.importing():
        made: Any = loaded.plan(["site-1"], trust_custom=True).components["outer"]
    assert made.inner.level == 2


def test_a_users_own_receiver_goes_into_the_job(tmp_path: Path) -> None:
    job = small_job()
    job.to_clients(own("OwnReceiver", "my"))
    loaded = load_job(exported(job, tmp_path))

    with loaded.importing():
        receivers = loaded.plan(["site-1"], trust_custom=True).sites[0].receivers

    assert [receiver.name for receiver in receivers] == ["my-lines"]


def test_an_object_is_put_beside_the_one_that_names_its_id(tmp_path: Path) -> None:
    job = small_job()
    reference = job.as_id(PTFileModelPersistor(model={"path": "job_model.Network"}))
    job.to_server(CrossSiteModelEval(model_locator_id=reference))
    folder = exported(job, tmp_path)

    config = read(folder, ALL_SERVER)
    assert [entry["id"] for entry in config["components"]] == [reference]
    assert config["workflows"][1]["args"] == {"model_locator_id": reference}


def test_an_export_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    first = small_job()
    first.to_clients("data")
    exported(first, tmp_path)
    folder = exported(small_job(), tmp_path)

    assert not (folder / "app" / "custom" / "labels.csv").exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]
    (folder / "meta.json").unlink()
    with pytest.raises(JobError, match="is there already, and is no job"):
        exported(small_job(), tmp_path)


def test_a_failed_export_leaves_the_one_before(tmp_path: Path) -> None:
    folder = exported(small_job(), tmp_path)
    broken = small_job()
    broken.to_server(own("Forgetful", 1))

    with pytest.raises(JobError, match="doesn't keep its argument 'level'"):
        exported(broken, tmp_path)

    assert (folder / "meta.json").is_file()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]


def test_an_export_that_cant_take_its_place_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(small_job(), tmp_path)
    rename = Path.rename

    def fail_once(source: Path, target: Path) -> Path:
        if target == folder and not source.name.endswith(".before"):
            raise OSError("the disk is gone")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OSError, match="the disk is gone"):
        exported(small_job(), tmp_path)

    assert (folder / "meta.json").is_file()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]


def test_an_export_goes_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "exported" / "small").symlink_to(tmp_path / "there")
    folder = exported(small_job(), tmp_path)

    assert folder.is_symlink()
    assert (tmp_path / "there" / "meta.json").is_file()


def test_arguments_of_base_jobs_are_in_nvflares_order(tmp_path: Path) -> None:
    convert, receiver = ConvertToFedEvent(["analytix_log_stats"]), TensorBoardReceiver()
    job = BaseFedJob(None, "ordered", 2, None, "loss", None, None, convert, receiver)
    job.to_server(FedAvg(num_clients=2))
    job.to_clients(ScriptRunner("train.py"))

    components = {entry["id"]: entry for entry in read(exported(job, tmp_path), ALL_SERVER)["components"]}
    assert components["receiver"]["path"] == "receivers.TensorBoardReceiver"
    assert components["model_selector"]["args"]["key_metric"] == "loss"


# --------------------------------------------------------------------------------------------------------- round trip
THINGS: Mapping[str, Callable[[], object]] = {
    "FedAvg": lambda: FedAvg(num_clients=4, num_rounds=7, stop_cond="accuracy >= 0.9", patience=2, exclude_vars="bn"),
    "FedAvg with weights": lambda: FedAvg(num_clients=2, aggregation_weights={"site-1": 2.0}, start_round=3),
    "CrossSiteModelEval": lambda: CrossSiteModelEval(model_locator_id="x", participating_clients=["site-1"]),
    "IntimeModelSelector": lambda: IntimeModelSelector(key_metric="loss", negate_key_metric=True),
    "ValidationJsonGenerator": lambda: ValidationJsonGenerator(results_dir="elsewhere"),
    "PTFileModelPersistor": lambda: PTFileModelPersistor(exclude_vars="bn", source_ckpt_file_full_name="/a.pt"),
    "WandBReceiver": lambda: WandBReceiver("offline", {"project": "p", "tags": ["a"]}, name="mine", layout="combined"),
    "MLflowReceiver": lambda: MLflowReceiver("sqlite:///a.db", {"run_name": "r"}, flush=FlushPolicy(max_items=7)),
    "TensorBoardReceiver": lambda: TensorBoardReceiver("there"),
    "JsonlReceiver": lambda: JsonlReceiver(python="/usr/bin/other"),
    "ScriptRunner": lambda: ScriptRunner(
        "train.py",
        ["--a", "b c"],
        launch_external_process=True,
        command="torchrun --nproc 2",
        framework=FrameworkType.NUMPY,
        params_transfer_type=TransferType.DIFF,
        launch_once=False,
        launch_timeout=None,
        shutdown_timeout=5.0,
    ),
}


@pytest.mark.parametrize("name", THINGS)
def test_what_is_written_reads_back_as_the_same(name: str, tmp_path: Path) -> None:
    from training.jobs._build import Builder

    custom = CustomFolder(tmp_path / "custom")
    written = describe(THINGS[name](), "here", custom)
    made = Builder(tmp_path, trust_custom=True).build(written["path"], json.loads(json.dumps(written["args"])), "here")

    assert describe(made, "here", custom) == written
    assert written["args"]
    assert not custom.folder.exists()


def test_a_loaded_job_is_exported_as_it_was(tmp_path: Path) -> None:
    job = FedAvgJob(network("Wide", 4, 3), 2, 3, name="again", key_metric="loss", key_metric_mode="min")
    job.to_clients(ScriptRunner("train.py", launch_external_process=True))
    job.to_server(WandBReceiver(wandb_args={"project": "p"}), id="receiver")
    folder = exported(job, tmp_path)
    loaded = load_job(folder)
    with loaded.importing():
        plan = loaded.plan(["site-1", "site-2"], trust_custom=True)

    again = FedJob("again")
    for workflow in plan.workflows:
        again.to_server(workflow)
    for key, component in plan.components.items():
        again.to_server(component, id=key)
    again.to_server(plan.receivers[0], id="receiver")
    again.to_clients(ScriptRunner("train.py", launch_external_process=True))
    other = again.export_job(tmp_path / "other")

    first, second = (read(one, ALL_SERVER) for one in (folder, other))
    model = first["components"][3]["args"].pop("model")  # what stands for it in a run are its weights
    assert model == {"path": "job_model.Wide", "args": {"classes": 3}}
    assert second == first
    assert read(other, ALL_CLIENT) == read(folder, ALL_CLIENT)


# -------------------------------------------------------------------------------------------------------- what is wrong
def in_function() -> object:
    class Inner(ValidationJsonGenerator):
        pass

    return Inner()


def unwritable(**args: Any) -> Callable[[], FedJob]:
    def make() -> FedJob:
        job = small_job()
        job.to_server(own("Listener", **args), id="mine")
        return job

    return make


def with_server(thing: Callable[[], object]) -> Callable[[], FedJob]:
    def make() -> FedJob:
        job = small_job()
        job.to_server(thing())
        return job

    return make


def without(target: str) -> Callable[[], FedJob]:
    def make() -> FedJob:
        job = small_job()
        del job.drafts[target]
        return job

    return make


WRONG: Mapping[str, tuple[Callable[[], FedJob], str]] = {
    "no server": (without("server"), "the server has nothing to do"),
    "no site": (without("@ALL"), "the sites have nothing to run"),
    "a class in a function": (with_server(in_function), "move the class to the top level of a module beside"),
    "an object that is no JSON": (unwritable(level=object()), r"server: mine: level: .*nothing for a builtins.object"),
    "bytes": (unwritable(level=b"abc"), "nothing for a builtins.bytes"),
    "an array": (unwritable(level=torch.zeros(2)), "nothing for a torch.Tensor|arguments"),
    "NaN": (unwritable(level=float("nan")), "a number is NaN or infinite"),
    "a secret": (unwritable(level={"api_key": "abc"}), "level: api_key is a secret"),
    "a secret as an argument": (with_server(lambda: own("Keeper", "sk-123")), "server: component: api_key is a secret"),
    "a script in a folder named as a package of ours": (
        lambda: [job := small_job(), job.to("training/client.py", "@ALL")][0],
        "app/custom/training: scripts that import training would get this in place of the training that they need",
    ),
    "a password in a URI": (
        with_server(lambda: MLflowReceiver("http://me:pw@host")),
        "tracking_uri holds a password.*MLFLOW_TRACKING_PASSWORD",
    ),
    "a script that is not there": (
        lambda: [job := small_job(), job.to_clients("nowhere.py")][0],
        "'nowhere.py' does not exist, neither in .*project nor beside the program",
    ),
    "two models": (
        lambda: [job := small_job(), job.to_server(PTModel(network())), job.to_server(PTModel(network()))][0],
        "two components of the job hold a model",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_job_that_cant_be_written_says_why(name: str, tmp_path: Path) -> None:
    make, message = WRONG[name]
    with pytest.raises(JobError, match=message) as raised:
        make().export_job(tmp_path / "exported")
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (lambda job: job.to_clients(FedAvg()), "FedAvg is for the server"),
        (lambda job: job.to_server(ScriptRunner("train.py")), "ScriptRunner is for sites"),
        (lambda job: job.to_clients(ValidationJsonGenerator()), "can't run at a site"),
        (lambda job: job.to_server(network()), "a model is no component: give it to FedAvgJob"),
        (lambda job: job.to_server(ValidationJsonGenerator(), filter_type="x"), "filters .* are not supported"),
        (lambda job: job.to_server(ValidationJsonGenerator(), tasks=["x"]), "takes no tasks"),
        (lambda job: job.to(ScriptRunner("train.py"), "not a site"), "site 'not a site' is not a name"),
        (lambda job: job.to_server(None), "there is nothing to put to server"),
        (lambda job: ScriptRunner("a.py", command="", launch_external_process=True), "command is empty"),
        (lambda job: ScriptRunner("a.py", script_args="'"), "can't be read as a command line"),
        (lambda job: ScriptRunner("a.py", framework="jax"), "framework='jax' is not known"),
        (lambda job: ScriptRunner("a.py", framework="tensorflow"), "framework='tensorflow' is not supported"),
        (lambda job: ScriptRunner("a.py", execution_mode="attach"), "execution_mode='attach' is not known"),
        (lambda job: FedJob("no name!"), "job 'no name!' is not a name"),
        (lambda job: FedJob(min_clients=0), "min_clients=0"),
        (
            lambda job: job.add_file_to_server("data", app_folder_type="config"),
            "app_folder_type='config': only files in",
        ),
        (lambda job: BaseFedJob(key_metric_mode="most"), "key_metric_mode='most' is not known"),
    ],
)
def test_what_has_no_business_there_is_refused_at_once(put: Callable[[FedJob], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        put(small_job())


def test_arguments_that_look_like_secrets_are_warned_of(tmp_path: Path) -> None:
    job = FedJob("warned")
    job.to_server(FedAvg())
    job.to_clients(ScriptRunner("train.py", "--wandb_api_key=abc"))

    with pytest.warns(UserWarning, match="script_args looks as if it held a secret"):
        exported(job, tmp_path)
