"""Job folders, as NVFLARE and we write them, become plans; what is wrong with one is said by file and place."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from receivers import MLflowReceiver, TensorBoardReceiver
from training import (
    CrossSiteModelEval,
    FedAvg,
    IntimeModelSelector,
    PTFileModelPersistor,
    RoundResultsWriter,
    ValidationJsonGenerator,
)
from training.errors import JobError
from training.job import load_job
from training.plan import JobPlan

EXAMPLE = Path(__file__).parent / "jobs" / "hello-pt"
SITES = ("site-1", "site-2")

Change = Callable[[Path], None]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A copy of the example, to be changed."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "hello-pt"))


def plan_of(folder: Path, sites: tuple[str, ...] = SITES, *, trust: bool = True) -> JobPlan:
    loaded = load_job(folder)
    with loaded.importing():
        return loaded.plan(sites, trust_custom=trust)


def notes_of(folder: Path) -> list[str]:
    loaded = load_job(folder)
    with loaded.importing():
        loaded.plan(SITES, trust_custom=True)
    return [note.removeprefix(f"{folder}/") for note in loaded.notes]


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        file = folder / name
        content = json.loads(file.read_text(encoding="utf-8"))
        change(content)
        file.write_text(json.dumps(content), encoding="utf-8")

    return apply


def write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def server(change: Callable[[dict[str, Any]], object]) -> Change:
    return edit("app/config/config_fed_server.json", change)


def client(change: Callable[[dict[str, Any]], object]) -> Change:
    return edit("app/config/config_fed_client.json", change)


def executor(**args: object) -> Change:
    return client(lambda content: content["executors"][0]["executor"]["args"].update(args))


def component(path: str, **args: object) -> Change:
    return server(lambda content: content["components"].append({"id": "mine", "path": path, "args": args}))


# ------------------------------------------------------------------------------------------------ what is made of it
def test_nvflares_workflows_and_components_become_ours() -> None:
    plan = plan_of(EXAMPLE)

    fedavg, evaluation = plan.workflows
    assert isinstance(fedavg, FedAvg)
    assert (fedavg.num_clients, fedavg.num_rounds, fedavg.aggregation_weights) == (2, 2, {})
    assert isinstance(evaluation, CrossSiteModelEval)
    assert evaluation.model_locator_id == "locator"
    assert list(plan.components) == [
        "json_generator",
        "model_selector",
        "metrics_artifact_writer",
        "persistor",
        "locator",
    ]
    selector, persistor = plan.components["model_selector"], plan.components["persistor"]
    assert isinstance(selector, IntimeModelSelector)
    assert selector.key_metric == "accuracy"
    assert isinstance(persistor, PTFileModelPersistor)
    assert persistor.model == {"path": "model.SimpleNetwork", "args": {}}
    assert isinstance(plan.components["metrics_artifact_writer"], RoundResultsWriter)
    assert (plan.name, plan.min_sites, plan.app_folder) == ("hello-pt", 2, EXAMPLE / "app" / "custom")


def test_nvflares_receivers_become_ours() -> None:
    tensorboard, mlflow = plan_of(EXAMPLE).receivers

    assert isinstance(tensorboard, TensorBoardReceiver)
    assert isinstance(mlflow, MLflowReceiver)
    assert mlflow.config.model_dump(exclude_none=True, exclude={"folder"}) == {
        "kw_args": {"experiment_name": "hello-pt-experiment", "run_name": "hello-pt-Server"},
        "artifact_location": "artifacts",
    }


def test_sites_run_the_script_from_the_jobs_own_folder() -> None:
    sites = plan_of(EXAMPLE, ("site-1", "hospital-b")).sites

    custom = EXAMPLE / "app" / "custom"
    assert [site.name for site in sites] == ["site-1", "hospital-b"]
    for site in sites:
        script = site.script
        assert (script.script, script.args, script.command) == (custom / "client.py", ("--steps", "3"), ())
        assert (script.params_format, script.transfer, script.task_names) == ("pytorch", "FULL", ("*",))
        assert site.search_path == (custom,)


def test_what_has_no_effect_is_said() -> None:
    unused, left_out = notes_of(EXAMPLE)

    assert unused == (
        "app/config/config_fed_server.json: workflows[0] (controller): FedAvg: memory_gc_rounds=1 has no effect here"
    )
    assert left_out == (
        "app/config/config_fed_client.json: components[0] (event_to_fed): ConvertToFedEvent is left out: records are "
        "federated as soon as a tracker at the server wants them"
    )


def test_an_external_process_is_parted_into_command_script_and_arguments(job: Path) -> None:
    command = ["python3", "-u", "-X", "dev", "custom/client.py", "--steps", "a b"]
    executor(
        execution_mode="external_process",
        command=command,
        task_script_path=None,
        task_script_args=None,
        params_transfer_type="DIFF",
        launch_once=False,
        shutdown_timeout=3.0,
    )(job)
    client(lambda content: [content["executors"][0]["executor"]["args"].pop(f"task_script_{key}") for key in _SCRIPT])(
        job
    )

    script = plan_of(job).sites[0].script

    assert script.command == ("python3", "-u", "-X", "dev")
    assert (script.script, script.args) == (job / "app" / "custom" / "client.py", ("--steps", "a b"))
    assert (script.transfer, script.launch_once, script.shutdown_timeout) == ("DIFF", False, 3.0)


_SCRIPT = ("path", "args")


def test_a_launcher_component_starts_the_script_as_older_versions_have_it(job: Path) -> None:
    launcher = "nvflare.app_common.launchers.subprocess_launcher.SubprocessLauncher"
    parts = [
        {
            "id": "launcher",
            "path": launcher,
            "args": {"script": "python3 custom/client.py --steps 2", "launch_once": False},
        },
        {"id": "pipe", "path": "nvflare.fuel.utils.pipe.cell_pipe.CellPipe", "args": {"mode": "PASSIVE"}},
    ]
    starts = {
        "path": "nvflare.app_opt.pt.client_api_launcher_executor.PTClientAPILauncherExecutor",
        "args": {"launcher_id": "launcher", "pipe_id": "pipe", "params_transfer_type": "DIFF"},
    }

    def change(content: dict[str, Any]) -> None:
        content["executors"][0]["executor"] = starts
        content["components"] += parts

    client(change)(job)
    script = plan_of(job).sites[0].script

    assert (script.command, script.args, script.launch_once) == (("python3",), ("--steps", "2"), False)
    assert (script.script, script.transfer) == (job / "app" / "custom" / "client.py", "DIFF")
    assert any("SubprocessLauncher is left out" in note for note in notes_of(job))


def test_further_entries_are_the_scripts_configuration(job: Path) -> None:
    client(lambda content: content.update(batch_size=4))(job)

    assert plan_of(job).sites[0].config == {"batch_size": 4}


def test_each_site_has_receivers_of_its_own(job: Path) -> None:
    path = "nvflare.app_opt.tracking.mlflow.mlflow_receiver.MLflowReceiver"
    entry = {"id": "r", "path": path, "args": {"events": ["analytix_log_stats"]}}
    client(lambda content: content["components"].append(entry))(job)

    one, other = (site.receivers for site in plan_of(job).sites)

    assert [receiver.name for receiver in (*one, *other)] == ["mlflow", "mlflow"]
    assert one[0] is not other[0]


def test_a_second_receiver_of_a_kind_is_named_by_its_id(job: Path) -> None:
    component("receivers.TensorBoardReceiver", tb_folder="other")(job)

    assert [receiver.name for receiver in plan_of(job).receivers] == ["tensorboard", "mlflow", "mine"]


def test_an_app_of_its_own_wins_over_the_one_for_all(job: Path) -> None:
    shutil.copytree(job / "app", job / "app_site-2")
    edit("meta.json", lambda meta: meta["deploy_map"].update({"app_site-2": ["site-2"]}))(job)

    scripts = [site.script.script for site in plan_of(job).sites]

    assert scripts == [job / "app" / "custom" / "client.py", job / "app_site-2" / "custom" / "client.py"]


def test_sites_that_dont_take_part_are_named(job: Path) -> None:
    shutil.copytree(job / "app", job / "app_site-9")
    edit("meta.json", lambda meta: meta["deploy_map"].update({"app_site-9": ["site-9"]}))(job)

    assert notes_of(job)[0] == "meta.json: site-9 doesn't take part"


# ----------------------------------------------------------------------------------------------------- the job's code
OWN = "from training.abc import Component\nclass Listener(Component):\n    def __init__(self, level=1):\n"


@pytest.fixture
def own(job: Path) -> Path:
    """A job with a component of its own."""
    (job / "app" / "custom" / "listening.py").write_text(f"{OWN}        self.level = level\n", encoding="utf-8")
    component("listening.Listener", level=3)(job)
    return job


def test_a_trusted_jobs_own_class_is_made(own: Path) -> None:
    made: Any = plan_of(own).components["mine"]

    assert (type(made).__name__, made.level) == ("Listener", 3)
    assert "listening" not in sys.modules


def test_code_that_is_not_trusted_is_not_imported(own: Path) -> None:
    (own / "app" / "custom" / "listening.py").write_text("raise SystemExit('imported')", encoding="utf-8")

    with pytest.raises(JobError, match=r"is the job's own code, and this job's code is not trusted"):
        plan_of(own, trust=False)


def test_a_model_of_untrusted_code_is_refused() -> None:
    with pytest.raises(JobError, match=r"\(persistor\), argument 'model': 'model.SimpleNetwork' is the job's own code"):
        plan_of(EXAMPLE, trust=False)


def test_the_jobs_module_is_taken_whatever_this_process_has_of_that_name(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "listening", sys.modules[__name__])

    assert type(plan_of(own).components["mine"]).__name__ == "Listener"
    assert sys.modules["listening"] is sys.modules[__name__]


def model(**more: object) -> Change:
    given = {"path": "subprocess.call", "args": {"args": ["true"]}, **more}
    return server(lambda content: content["components"][3]["args"].update(model=given))


PERSISTOR = "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"
UNTRUSTED: list[tuple[str, Change, str]] = [
    ("a model", model(), "unknown component 'subprocess.call'"),
    ("a model by class_path", model(path=None, class_path="subprocess.call"), "unknown component 'subprocess.call'"),
    ("a model that says more", model(name="x"), "unknown component 'subprocess.call'"),
    ("a model that says what no model has", model(x=1), "a model has a path and args, and no x"),
    ("a tracker's program", component("receivers.JsonlReceiver", python="/tmp/evil.sh"), "python='/tmp/evil.sh' names"),
    (
        "a script's program",
        executor(execution_mode="external_process", command="bash -c id custom/client.py"),
        r"executors\[0\]: command=.* names a program to start, and this job is not trusted",
    ),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in UNTRUSTED], ids=[case[0] for case in UNTRUSTED])
def test_a_job_that_is_not_trusted_starts_no_program_of_its_choice(job: Path, change: Change, message: str) -> None:
    server(lambda content: content["components"][3].update(path=PERSISTOR, args={}))(job)
    change(job)

    with pytest.raises(JobError, match=message):
        plan_of(job, trust=False)


def test_a_job_that_is_not_trusted_may_start_the_interpreter(job: Path) -> None:
    server(lambda content: content["components"][3].update(path=PERSISTOR, args={}))(job)
    executor(launch_external_process=True, execution_mode="external_process", command="python3 -u")(job)

    assert plan_of(job, trust=False).sites[0].script.command == ("python3", "-u")


def test_a_module_of_the_process_that_is_installed_stays_itself(job: Path) -> None:
    for name in ("receivers", "numpy"):
        (job / "app" / "custom" / name).mkdir()
        (job / "app" / "custom" / name / "data.csv").touch()
    import numpy as np

    loaded = load_job(job)
    with loaded.importing():
        assert sys.modules["numpy"] is np
        assert sys.modules["receivers"].TensorBoardReceiver is TensorBoardReceiver


def test_null_in_meta_is_the_default(job: Path) -> None:
    edit("meta.json", lambda meta: meta.update(min_clients=None, mandatory_clients=None))(job)

    assert plan_of(job).min_sites == 1


def test_a_component_may_go_by_the_name_of_its_class(job: Path) -> None:
    server(lambda content: content["components"].append({"id": "more", "name": "ValidationJsonGenerator"}))(job)

    assert isinstance(plan_of(job).components["more"], ValidationJsonGenerator)


def test_an_argument_of_averaging_that_means_nothing_here_is_said(job: Path) -> None:
    given = {"task_check_period": 0.1, "ignore_result_error": True, "allow_empty_global_weights": True}
    server(lambda content: content["workflows"][0]["args"].update(given, fedprox_mu=None))(job)

    said = " ".join(notes_of(job))
    assert all(f"FedAvg: {name}={value!r} has no effect here" in said for name, value in given.items())


# ------------------------------------------------------------------------------------------------------ what is wrong
def own_module(name: str, text: str = "") -> Change:
    def apply(folder: Path) -> None:
        file = folder / "app" / "custom" / name
        file.parent.mkdir(exist_ok=True)
        write(file, text)

    return apply


def app_elsewhere(folder: Path) -> None:
    shutil.copytree(folder / "app", folder.parent / "elsewhere")
    edit("meta.json", lambda meta: meta.update(deploy_map={"../elsewhere": ["@ALL"]}))(folder)


def script_elsewhere(folder: Path) -> None:
    write(folder / "evil.py", "")
    executor(task_script_path="../../evil.py")(folder)


WRONG: list[tuple[str, Change, str]] = [
    (
        "unknown component of NVFLARE's",
        component("nvflare.app_opt.pt.file_model_persistr.PTFileModelPersistr"),
        r"config_fed_server.json: components\[7\] \(mine\): there is no counterpart of .*did you mean 'PTFileModelPers",
    ),
    (
        "unknown component",
        component("training.FedAvgg"),
        r"components\[7\] \(mine\): training has no class 'FedAvgg'; did you mean 'training.FedAvg'\? known are",
    ),
    ("a function", component("os.system"), r"os has no class 'system'"),
    ("a module that is not there", component("nowhere.System"), r"unknown component 'nowhere.System'"),
    ("code without a module", component("system"), r"unknown component 'system'"),
    (
        "a class that its module lacks",
        component("model.Network"),
        r"model has no class 'Network'",
    ),
    (
        "wrong argument",
        server(lambda content: content["workflows"][0]["args"].update(num_round=3)),
        r"workflows\[0\] \(controller\): FedAvg has no argument 'num_round'; did you mean 'num_rounds'\?",
    ),
    (
        "argument that can't work",
        server(lambda content: content["workflows"][0]["args"].update(num_rounds=0)),
        r"workflows\[0\] \(controller\): .*num_rounds",
    ),
    (
        "a component as workflow",
        server(lambda content: content["workflows"].append({"id": "x", "path": "training.ValidationJsonGenerator"})),
        r"workflows\[2\] \(x\): training.ValidationJsonGenerator is no workflow",
    ),
    (
        "no workflow",
        server(lambda content: content.update(workflows=[])),
        r"config_fed_server.json: there is no workflow",
    ),
    (
        "workflows of another form",
        server(lambda content: content.update(workflows={"id": "controller"})),
        r"config_fed_server.json: Expected `array`, got `object` - at `\$.workflows`",
    ),
    (
        "filters",
        server(lambda content: content.update(task_data_filters=[{"tasks": ["*"]}])),
        "filters of tasks and results are not supported",
    ),
    ("no executor", client(lambda content: content.update(executors=[])), "a site runs one executor, a script"),
    ("script missing", executor(task_script_path="train.py"), r"the script 'train.py' is not in .*app/custom"),
    (
        "no script at all",
        client(lambda content: content["executors"][0]["executor"].update(args={})),
        r"executors\[0\]: ScriptRunner: TypeError: .*'script'",
    ),
    ("attach mode", executor(execution_mode="attach"), r"executors\[0\]: execution_mode='attach'"),
    ("tensorflow", executor(params_exchange_format="tensorflow"), "framework='tensorflow' is not supported"),
    (
        "a component at a site",
        client(lambda content: content["components"].append({"id": "x", "path": "training.ValidationJsonGenerator"})),
        "config_fed_client.json: 'x' is a ValidationJsonGenerator: at sites only receivers can run",
    ),
    (
        "broken JSON",
        lambda folder: write(folder / "app" / "config" / "config_fed_client.json", "{"),
        r"config_fed_client.json is not JSON: .*line 1 column 2",
    ),
    (
        "JSON that is a list",
        lambda folder: write(folder / "meta.json", "[]"),
        "meta.json: an object is expected, not list",
    ),
    (
        "a file missing",
        lambda folder: (folder / "app" / "config" / "config_fed_server.json").unlink(),
        "config_fed_server.json can't be read: No such file",
    ),
    ("no deploy map", edit("meta.json", lambda meta: meta.pop("deploy_map")), "meta.json: .*`deploy_map`"),
    (
        "no app for the server",
        edit("meta.json", lambda meta: meta.update(deploy_map={"app": ["site-1"]})),
        "deploy_map has no app for the server",
    ),
    (
        "no app for a site",
        edit("meta.json", lambda meta: meta.update(deploy_map={"app": ["server", "site-1"]})),
        "deploy_map has no app for site-2; it has some for site-1",
    ),
    ("too few sites", edit("meta.json", lambda meta: meta.update(min_clients=3)), "min_clients is 3, and there are 2"),
    (
        "a site that must be there",
        edit("meta.json", lambda meta: meta.update(mandatory_clients=["site-3"])),
        "site-3 must take part",
    ),
    (
        "two components of one id",
        server(lambda content: content["components"].append(dict(content["components"][0], args={}))),
        r"components\[7\] \(json_generator\): there are two components with the id 'json_generator'",
    ),
    ("an app elsewhere", app_elsewhere, r"meta.json: deploy_map: '../elsewhere' is no folder in the job's"),
    ("a script elsewhere", script_elsewhere, r"the script '../../evil.py' leads out of .*custom: put it there"),
    ("an absolute script", executor(task_script_path="/bin/sh"), "the script '/bin/sh' leads out of .*custom"),
    ("a module of Python's", own_module("random.py"), "app/custom/random.py: scripts that import random would get"),
    ("a package of Python's", own_module("json/__init__.py"), "rename json where the job is made"),
    ("a module of ours", own_module("training/net.py"), "app/custom/training: scripts that import training"),
    ("torch", own_module("torch.py"), "app/custom/torch.py: scripts that import torch"),
    (
        "FedProx",
        server(lambda content: content["workflows"][0]["args"].update(fedprox_mu=0.1)),
        r"workflows\[0\] \(controller\): fedprox_mu=0.1 is not sent to the sites: let the script add",
    ),
    (
        "two receivers of one name",
        component("receivers.TensorBoardReceiver", name="tensorboard"),
        "there are two receivers named 'tensorboard'",
    ),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong_is_said_by_file_and_place(job: Path, change: Change, message: str) -> None:
    change(job)

    with pytest.raises(JobError, match=message):
        plan_of(job)


def test_a_folder_that_is_no_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"meta.json can't be read: No such file"):
        load_job(tmp_path)
    with pytest.raises(JobError, match=r"nowhere is not a folder"):
        load_job(tmp_path / "nowhere")


@pytest.mark.parametrize("sites", [("server",), ("site-1", "site-1"), ("no name!",), ()])
def test_sites_that_cant_be_are_refused(sites: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="site"):
        plan_of(EXAMPLE, sites)
