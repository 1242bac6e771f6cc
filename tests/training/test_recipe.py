"""Recipes: what they put into a job, where trackers are, and that they run."""

import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from readback import read_jsonl

from receivers import JsonlReceiver, Receiver
from training.errors import JobError, JobFailedError
from training.job import load_job
from training.jobs._env import COMPLETED
from training.recipe import (
    FedAvgRecipe,
    Recipe,
    SimEnv,
    add_cross_site_evaluation,
    add_experiment_tracking,
    set_per_site_config,
    set_recipe_meta,
)

CUSTOM = Path(__file__).parent / "jobs" / "hello-pt" / "app" / "custom"
STEPS = 3
LOSSES = 2 * STEPS
"""Metrics that a site logs in two rounds."""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's project as the working folder: the example's script and model."""
    for name in ("client.py", "model.py"):
        (tmp_path / name).write_bytes((CUSTOM / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "model", raising=False)
    return tmp_path


def recipe(**options: Any) -> FedAvgRecipe:
    given: dict[str, Any] = {
        "name": "hello",
        "model": {"class_path": "model.SimpleNetwork", "args": {"features": 3}},
        "min_clients": 2,
        "train_script": "client.py",
        "train_args": f"--steps {STEPS}",
    }
    return FedAvgRecipe(**{**given, **options})


def exported(made: Recipe, tmp_path: Path, name: str = "app/config/config_fed_server.json") -> Any:
    folder = made.export(tmp_path / "exported")
    return json.loads((folder / name).read_text(encoding="utf-8"))


def receivers(config: Any) -> dict[str, Any]:
    entries = [entry for entry in config["components"] if entry["path"].startswith("receivers.")]
    return {entry["id"]: (entry["path"].rpartition(".")[2], entry["args"]) for entry in entries}


# --------------------------------------------------------------------------------------------------- what is written
def test_its_arguments_stand_in_the_job(tmp_path: Path) -> None:
    made = recipe(
        num_rounds=5,
        stop_cond="loss <= 0.1",
        key_metric="loss",
        patience=2,
        exclude_vars="bn",
        aggregation_weights={"site-1": 2.0},
        best_model_filename="best.pt",
        launch_external_process=True,
        command="python3 -u -X dev",
        params_transfer_type="DIFF",
    )
    add_cross_site_evaluation(made, participating_clients=["site-1"])
    config = exported(made, tmp_path)

    assert [(entry["id"], entry["args"]) for entry in config["workflows"]] == [
        (
            "controller",
            {
                "num_clients": 2,
                "stop_cond": "loss <= 0.1",
                "patience": 2,
                "exclude_vars": "bn",
                "aggregation_weights": {"site-1": 2.0},
            },
        ),
        ("controller1", {"model_locator_id": "locator", "participating_clients": ["site-1"]}),
    ]
    components = {entry["id"]: entry["args"] for entry in config["components"]}
    assert components["model_selector"] == {"key_metric": "loss", "negate_key_metric": True}
    assert components["persistor"] == {
        "model": {"path": "model.SimpleNetwork", "args": {"features": 3}},
        "best_global_model_file_name": "best.pt",
    }
    script = load_job(tmp_path / "exported" / "hello").plan(["site-1", "site-2"], trust_custom=True).sites[0].script
    assert (script.command, script.transfer) == (("python3", "-u", "-X", "dev"), "DIFF")


def test_arguments_that_mean_nothing_here_are_accepted(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="enable_tensor_disk_offload has no effect"):
        made = recipe(enable_tensor_disk_offload=True, aggregator_data_kind="WEIGHT_DIFF")

    assert exported(made, tmp_path) == exported(recipe(), tmp_path)


def test_sites_are_configured_one_by_one(tmp_path: Path) -> None:
    made = recipe()
    set_per_site_config(made, {"site-1": {"train_args": "--steps 7"}, "hospital": {"launch_external_process": True}})
    made.add_client_config({"rate": 1})
    made.add_client_config({"rate": 2}, clients=["hospital"])
    made.add_server_config({"hint": "x"})
    folder = made.export(tmp_path / "exported")

    plan = load_job(folder).plan(trust_custom=True)

    assert made.configured_sites() == ["site-1", "hospital"]
    assert [(site.name, site.script.args, len(site.script.command), site.config) for site in plan.sites] == [
        ("site-1", ("--steps", "7"), 0, {"rate": 1}),
        ("hospital", ("--steps", "3"), 2, {"rate": 2}),
    ]


def test_params_of_one_export_are_gone_in_the_next(tmp_path: Path) -> None:
    made = recipe()
    made.export(tmp_path / "one", server_exec_params={"a": 1}, client_exec_params={"b": 2})
    made.export(tmp_path / "other")

    for name, key in (("server", "a"), ("client", "b")):
        one, other = (
            json.loads((tmp_path / folder / "hello" / "app" / "config" / f"config_fed_{name}.json").read_text())
            for folder in ("one", "other")
        )
        assert key in one
        assert key not in other


def test_meta_is_set(tmp_path: Path) -> None:
    made = recipe()
    set_recipe_meta(made, "resource_spec", {"site-1": {"num_of_gpus": 1}})

    assert exported(made, tmp_path, "meta.json")["resource_spec"] == {"site-1": {"num_of_gpus": 1}}


def test_a_program_that_is_told_to_export_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["job.py", "--epochs", "3", "--export", "--export-dir", "there"])

    with pytest.raises(SystemExit) as ended:
        recipe().execute(SimEnv(num_clients=2))

    assert ended.value.code == 0
    assert load_job(tmp_path / "there" / "hello").name == "hello"
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------------------------------------------- tracking
def test_mlflows_experiment_and_runs_are_named_after_the_recipe(tmp_path: Path) -> None:
    made = recipe()
    given = {"tracking_uri": "http://tracker", "kw_args": {"run_name": "mine"}, "events": ["analytix_log_stats"]}
    add_experiment_tracking(made, "mlflow", given, client_side=True)
    add_experiment_tracking(made, "mlflow")

    assert receivers(exported(made, tmp_path)) == {
        "receiver": (
            "MLflowReceiver",
            {
                "tracking_uri": "http://tracker",
                "kw_args": {"experiment_name": "hello-experiment", "run_name": "mine"},
            },
        ),
        "receiver1": (
            "MLflowReceiver",
            {"kw_args": {"experiment_name": "hello-experiment", "run_name": "hello-Server"}},
        ),
    }
    assert list(receivers(exported(made, tmp_path, "app/config/config_fed_client.json"))) == ["client_receiver"]
    assert given["kw_args"] == {"run_name": "mine"}
    assert "events" in given


@pytest.mark.parametrize("kind", [JsonlReceiver, JsonlReceiver("lines"), "jsonl"])
def test_a_tracker_is_a_name_a_class_or_a_receiver(kind: Any, tmp_path: Path) -> None:
    made = recipe()
    add_experiment_tracking(made, kind, None if isinstance(kind, Receiver) else {"path": "lines"})

    assert receivers(exported(made, tmp_path)) == {"receiver": ("JsonlReceiver", {"path": "lines"})}


@pytest.mark.parametrize("wanted", [True, False])
def test_the_server_logs_a_run_of_its_own_where_that_is_wanted(wanted: bool, tmp_path: Path) -> None:
    made = recipe()
    add_experiment_tracking(made, "jsonl", global_metrics=wanted)

    plan = load_job(made.export(tmp_path / "exported")).plan(["site-1", "site-2"], trust_custom=True)

    assert plan.global_metrics is wanted


@pytest.mark.parametrize(("wanted", "seconds"), [(True, 10.0), (0.5, 0.5), (False, 0.0)])
def test_what_the_machines_do_is_sampled_where_that_is_wanted(wanted: bool, seconds: float, tmp_path: Path) -> None:
    made = recipe()
    add_experiment_tracking(made, "jsonl", system_metrics=wanted)

    plan = load_job(made.export(tmp_path / "exported")).plan(["site-1", "site-2"], trust_custom=True)

    assert plan.system_metrics == seconds


def test_an_interval_that_is_none_is_refused_by_its_file(tmp_path: Path) -> None:
    made = recipe()
    add_experiment_tracking(made, "jsonl", system_metrics=-1)

    with pytest.raises(JobError, match=r"config_fed_server.json: system_metrics is -1: write true, or seconds"):
        load_job(made.export(tmp_path / "exported")).plan(["site-1", "site-2"], trust_custom=True)


def test_a_site_can_have_a_tracker_of_its_own(tmp_path: Path) -> None:
    made = recipe()
    for site in ("site-1", "site-2"):
        add_experiment_tracking(made, "jsonl", {"path": site}, client_side=True, server_side=False, clients=[site])
    made.job.to(JsonlReceiver(name="third"), "site-2", id="third")
    plan = load_job(made.export(tmp_path / "exported")).plan(["site-1", "site-2"], trust_custom=True)

    found = [[getattr(receiver.config, "path", "") for receiver in site.receivers] for site in plan.sites]
    assert found == [["site-1"], ["site-2", None]]
    assert plan.receivers == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tracking_type": "tensorbord"}, "unknown tracker 'tensorbord': did you mean 'tensorboard'"),
        ({"server_side": False}, "both False"),
        ({"clients": ["site-1"]}, "set client_side=True too"),
        ({"global_metrics": True, "server_side": False, "client_side": True}, "needs a tracker at the server"),
        ({"clients": [], "client_side": True}, "clients is empty"),
        ({"tracking_config": {"uri": "x"}}, "JsonlReceiver takes no 'uri'"),
        ({"tracking_type": "mlflow", "tracking_config": {"kw_args": 3}}, "kw_args must be a dict"),
        ({"tracking_type": JsonlReceiver(), "tracking_config": {"path": "x"}}, "has its own"),
        ({"clients": ["site-7"], "client_side": True, "per_site": True}, "there is no site 'site-7'"),
    ],
)
def test_a_tracker_without_place_or_sense_is_refused(options: dict[str, Any], message: str) -> None:
    made = recipe()
    if options.pop("per_site", False):
        set_per_site_config(made, {"site-1": {}, "site-2": {}})
    with pytest.raises(JobError, match=message):
        add_experiment_tracking(**{"recipe": made, "tracking_type": "jsonl", **options})


# ------------------------------------------------------------------------------------------------------ what is wrong
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: recipe(model=None), "the training starts from nothing"),
        (lambda: recipe(initial_model={"path": "model.SimpleNetwork"}), "model and initial_model are the same"),
        (lambda: recipe(num_rounds=0), "num_rounds"),
        (lambda: recipe(min_clients=0), "min_clients"),
        (lambda: recipe(stop_cond="accuracy"), "stop_cond='accuracy' is not a condition"),
        (lambda: recipe(stop_cond="accuracy < 1", key_metric_mode="max"), "contradict each other"),
        (lambda: recipe(framework="tensorflow"), "framework='tensorflow' is not supported"),
        (lambda: recipe(per_site_config={"site-1": {}}), "for 1 sites, and min_clients is 2"),
        (lambda: recipe(per_site_config={"site-1": {"epochs": 1}, "b": {}}), "site-1: unknown 'epochs'; .*train_args"),
        (lambda: recipe(per_site_config={"server": {}, "b": {}}), "'server' and '@ALL' are none"),
        (lambda: recipe().add_client_input_filter(object()), "filters .* are not supported"),
        (lambda: recipe().add_client_config("x"), "config must be a dict"),  # type: ignore[arg-type]
        (lambda: set_recipe_meta(recipe(), "min_clients", 3), "'min_clients' can't be set"),
        (lambda: [add_cross_site_evaluation(one) for one in [recipe()] * 2], "evaluates across sites already"),
        (SimEnv, "there are no sites"),
        (lambda: SimEnv(num_clients=3, clients=["a"]), "3 sites, and 1 names"),
        (lambda: recipe(train_script="nowhere.py").run(), "'nowhere.py' does not exist"),
    ],
)
def test_what_cant_work_is_refused(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


# ------------------------------------------------------------------------------------------------------------ running
def stored(folder: Path) -> dict[str, int]:
    """How many losses each site's file has."""
    lines = read_jsonl(folder) if folder.exists() else []
    values = [line.value for line in lines if "loss" in line.value.get("event", {}).get("values", {})]
    return {site: sum(value["site"] == site for value in values) for site in {value["site"] for value in values}}


@pytest.mark.parametrize(
    ("server_side", "client_side"), [(True, False), (False, True)], ids=["the server", "the sites"]
)
def test_trackers_on_one_side_have_what_is_theirs(server_side: bool, client_side: bool, tmp_path: Path) -> None:
    made = recipe(num_rounds=2)
    add_experiment_tracking(made, "jsonl", server_side=server_side, client_side=client_side)

    run = made.run(SimEnv(num_clients=2))

    folder = tmp_path / "runs" / "hello"
    sites = ("site-1", "site-2")
    assert Path(run.get_result()) == folder
    assert run.get_status() == "FINISHED:COMPLETED"
    assert stored(folder / "jsonl") == (dict.fromkeys(sites, LOSSES) if server_side else {})
    for site in sites:
        assert stored(folder / "sites" / site / "jsonl") == ({site: LOSSES} if client_side else {})
        assert (folder / "journal" / site).exists() == server_side
    assert sorted(file.stem for file in folder.glob("jsonl/*/*.jsonl")) == (list(sites) if server_side else [])


def test_scripts_in_processes_of_their_own_are_tracked_on_both_sides(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = recipe(num_rounds=2, launch_external_process=True)
    add_experiment_tracking(made, "jsonl", client_side=True)
    add_cross_site_evaluation(made)

    made.execute(SimEnv(clients=["north", "south"], workspace_root="elsewhere"))

    folder = tmp_path / "elsewhere" / "hello"
    assert stored(folder / "jsonl") == {"north": LOSSES, "south": LOSSES}
    for site in ("north", "south"):
        assert stored(folder / "sites" / site / "jsonl") == {site: LOSSES}
    results = json.loads((folder / "cross_site_val" / "cross_val_results.json").read_text(encoding="utf-8"))
    assert set(results) >= {"north", "south"}
    out = capfd.readouterr().out
    assert out.startswith("hello: north, south -> jsonl at the server, jsonl at the sites in elsewhere/hello")
    assert "round 1/2" in out
    assert "FL_global_model.safetensors" in out


def test_a_job_goes_on_while_enough_sites_are_left(project: Path) -> None:
    answers = """
        import training.client as flare
        flare.init()
        while flare.is_running():
            flare.send(flare.FLModel(params=flare.receive().params))
    """
    (project / "answers.py").write_text(textwrap.dedent(answers), encoding="utf-8")
    (project / "dies.py").write_text("raise ValueError('no such data')", encoding="utf-8")
    made = recipe(train_script="answers.py", train_args="", framework="numpy", min_responses=1)
    made.set_per_site_config({"site-1": {}, "site-2": {"train_script": "dies.py"}})

    run = made.run()

    assert run.get_status() == COMPLETED
    assert "no such data" in run.result.problems["site-2"][0]


def test_a_job_that_fails_ends_its_program(capfd: pytest.CaptureFixture[str], project: Path) -> None:
    (project / "client.py").write_text("raise ValueError('no such data')", encoding="utf-8")

    with pytest.raises(JobFailedError) as failed:
        recipe().run()

    assert failed.value.result.error
    assert "no such data" in capfd.readouterr().err
