"""Cross-site evaluation over sites that are plain functions."""

import gc
import json
import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from local_sites import GoneError, LocalSites, Site, make_server
from safetensors.torch import load_file

from training import (
    CrossSiteModelEval,
    FedAvg,
    FLModel,
    IntimeModelSelector,
    JobError,
    ParamsType,
    PTFileModelLocator,
    PTFileModelPersistor,
    RoundFailedError,
    Server,
    ServerEvent,
    ValidationJsonGenerator,
)
from training.abc import SUBMIT_MODEL, VALIDATE, ModelLocator, ModelValidated, SiteProblem, Task


def weigh(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2,), float(value))}


def site(own: float, *, knows: tuple[str, ...] = ("train", VALIDATE, SUBMIT_MODEL)) -> Site:
    """A site with a model of its own, whose measure of a model is how far that is from its own."""

    async def serve(task: Task) -> FLModel:
        if task.name not in knows:
            await anyio.sleep_forever()
        if task.name == SUBMIT_MODEL:
            return FLModel(params=weigh(own))
        assert task.model.params is not None
        metrics = {"distance": float((task.model.params["w"] - own).abs().max())}
        return FLModel(metrics=metrics) if task.name == VALIDATE else FLModel(params=weigh(own), metrics=metrics)

    return serve


def evaluate(
    folder: Path, sites: Mapping[str, Site] | LocalSites, workflow: CrossSiteModelEval, **server: Any
) -> list[ServerEvent]:
    made, told = make_server(folder, sites, **server)
    anyio.run(workflow.run, made)
    return told


def cells(told: list[ServerEvent]) -> dict[tuple[str, str], Any]:
    found = [event for event in told if isinstance(event, ModelValidated)]
    return {(event.site, event.model_owner): event.metrics.get("distance") for event in found}


def problems(told: list[ServerEvent]) -> list[tuple[str, str, str]]:
    return [(event.site, event.task, event.reason) for event in told if isinstance(event, SiteProblem)]


def test_every_site_measures_every_model(tmp_path: Path) -> None:
    sites = LocalSites({"a": site(1), "b": site(3)})
    components = {
        "persistor": PTFileModelPersistor(model=weigh(0)),
        "selector": IntimeModelSelector(key_metric="distance", negate_key_metric=True),
        "locator": PTFileModelLocator("persistor"),
        "json_generator": ValidationJsonGenerator(),
    }
    server, told = make_server(tmp_path, sites, **components)

    async def run() -> None:
        await FedAvg(num_clients=2, num_rounds=1).run(server)
        await CrossSiteModelEval(model_locator_id="locator").run(server)

    anyio.run(run)

    assert cells(told) == {
        ("a", "a"): 0.0,
        ("a", "b"): 2.0,
        ("a", "SRV_FL_global_model.pt"): 1.0,
        ("a", "SRV_best_FL_global_model.pt"): 1.0,
        ("b", "a"): 2.0,
        ("b", "b"): 0.0,
        ("b", "SRV_FL_global_model.pt"): 1.0,
        ("b", "SRV_best_FL_global_model.pt"): 3.0,
    }
    written = json.loads((tmp_path / "cross_site_val" / "cross_val_results.json").read_text())
    assert {(name, owner): metrics["distance"] for name, row in written.items() for owner, metrics in row.items()} == (
        cells(told)
    )
    assert [(task.name, task.model.meta) for task, _ in sites.asked[1:]] == [
        ("submit_model", {"submit_model_name": "best_model"}),
        ("validate", {"validate_type": "a"}),
        ("validate", {"validate_type": "b"}),
        ("validate", {"validate_type": "SRV_FL_global_model.pt"}),
        ("validate", {"validate_type": "SRV_best_FL_global_model.pt"}),
    ]
    assert load_file(tmp_path / "cross_site_val" / "models" / "b.safetensors")["w"].tolist() == [3.0, 3.0]


def test_a_script_that_does_not_know_the_task_costs_its_timeout_alone(tmp_path: Path) -> None:
    sites = {"a": site(1), "old": site(3, knows=("train", VALIDATE))}
    told = evaluate(tmp_path, sites, CrossSiteModelEval(submit_model_timeout=0.2))
    assert cells(told) == {("a", "a"): 0.0, ("old", "a"): 2.0}
    assert problems(told) == [("old", "submit_model", "no model of it: it did not answer in time")]


def test_no_time_limit_means_as_long_as_they_live(tmp_path: Path) -> None:
    async def slow(task: Task) -> FLModel:
        await anyio.sleep(0.05)
        return await site(1)(task)

    told = evaluate(tmp_path, {"a": slow}, CrossSiteModelEval(submit_model_timeout=0, validation_timeout=0))
    assert (cells(told), problems(told)) == ({("a", "a"): 0.0}, [])


def test_the_arguments_stand_in_nvflares_order(tmp_path: Path) -> None:
    workflow = CrossSiteModelEval(0.5, "out", 60, 600, "locator", "formatter", "submit", "check", True, ["a"], 300)
    assert (workflow.cross_val_dir, workflow.submit_model_timeout, workflow.validation_timeout) == ("out", 60, 600)
    assert (workflow.model_locator_id, workflow.submit_model_task_name) == ("locator", "submit")
    assert (workflow.validation_task_name, workflow.cleanup_models) == ("check", True)
    assert workflow.participating_clients == ["a"]
    named = CrossSiteModelEval(task_check_period=0.1, formatter_id="formatter", wait_for_clients_timeout=1)
    assert cells(evaluate(tmp_path, {"a": site(1)}, named)) == {("a", "a"): 0.0}


def test_what_an_earlier_run_left_is_no_model_and_no_result_of_this_one(tmp_path: Path) -> None:
    def run(value: float, metric: str) -> set[str]:
        components = {
            "persistor": PTFileModelPersistor(model=weigh(0)),
            "selector": IntimeModelSelector(key_metric=metric),
            "locator": PTFileModelLocator("persistor"),
            "json_generator": ValidationJsonGenerator(),
        }
        server, told = make_server(tmp_path, {"a": site(value)}, **components)

        async def work() -> None:
            await FedAvg(num_clients=1, num_rounds=2).run(server)
            await CrossSiteModelEval(model_locator_id="locator").run(server)

        anyio.run(work)
        return {owner for _, owner in cells(told)}

    assert run(1, "distance") == {"a", "SRV_FL_global_model.pt", "SRV_best_FL_global_model.pt"}
    assert run(3, "accuracy") == {"a", "SRV_FL_global_model.pt"}
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        "FL_global_model.safetensors",
        "FL_global_model.safetensors.earlier",
        "best_FL_global_model.safetensors.earlier",
    }
    assert load_file(tmp_path / "models" / "FL_global_model.safetensors.earlier")["w"].tolist() == [1.0, 1.0]


def test_without_a_task_for_it_no_model_is_asked_for(tmp_path: Path) -> None:
    sites = LocalSites({"a": site(1)})
    persistor = PTFileModelPersistor()
    server, told = make_server(tmp_path, sites, persistor=persistor, locator=PTFileModelLocator("persistor"))
    persistor.save_model(FLModel(params=weigh(5)), server)
    anyio.run(CrossSiteModelEval(submit_model_task_name="", model_locator_id="locator").run, server)
    assert cells(told) == {("a", "SRV_FL_global_model.pt"): 4.0}
    assert [task.name for task, _ in sites.asked] == [VALIDATE]


def raising(error: Exception, *, at: str) -> Site:
    async def serve(task: Task) -> FLModel:
        if task.name == at:
            raise error
        return await site(1)(task)

    return serve


def answering(model: FLModel, *, at: str) -> Site:
    async def serve(task: Task) -> FLModel:
        return model if task.name == at else await site(1)(task)

    return serve


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (raising(RuntimeError("out of memory"), at=VALIDATE), "out of memory"),
        (answering(FLModel(params=weigh(1)), at=VALIDATE), "it holds no metrics"),
        (answering(FLModel(metrics={}), at=VALIDATE), "it holds no metrics"),
    ],
)
def test_a_site_that_cannot_evaluate_lacks_its_cells(tmp_path: Path, bad: Site, reason: str) -> None:
    told = evaluate(tmp_path, {"good": site(4), "bad": bad}, CrossSiteModelEval())
    assert cells(told) == {("good", "good"): 0.0, ("good", "bad"): 3.0}
    assert [(name, task) for name, task, _ in problems(told)] == [("bad", VALIDATE)] * 2
    assert ["model of good" in problems(told)[0][2], reason in problems(told)[1][2]] == [True, True]


@pytest.mark.parametrize(
    "model",
    [
        FLModel(metrics={"accuracy": 1.0}),
        FLModel(params={}),
        FLModel(params_type=ParamsType.DIFF, params=weigh(1)),
    ],
)
def test_a_site_without_a_model_still_evaluates(tmp_path: Path, model: FLModel) -> None:
    told = evaluate(tmp_path, {"good": site(4), "bare": answering(model, at=SUBMIT_MODEL)}, CrossSiteModelEval())
    assert cells(told) == {("good", "good"): 0.0, ("bare", "good"): 3.0}
    assert [(name, task) for name, task, _ in problems(told)] == [("bare", SUBMIT_MODEL)]


def test_a_site_that_leaves_is_asked_no_more(tmp_path: Path) -> None:
    sites = LocalSites({"a": site(1), "b": raising(GoneError("it was killed"), at=VALIDATE)})
    told = evaluate(tmp_path, sites, CrossSiteModelEval())
    assert cells(told) == {("a", "a"): 0.0, ("a", "b"): 0.0}
    assert [targets for _, targets in sites.asked] == [("a", "b"), ("a", "b"), ("a",)]


def test_a_model_that_the_server_has_no_room_for_is_not_evaluated(tmp_path: Path) -> None:
    folder = tmp_path / "cross_site_val" / "models"
    (folder / ".a.safetensors.tmp").mkdir(parents=True)  # what is written beside its place finds it taken
    told = evaluate(tmp_path, {"a": site(1), "b": site(3)}, CrossSiteModelEval())
    assert cells(told) == {("a", "b"): 2.0, ("b", "b"): 0.0}
    assert "the server could not keep it" in problems(told)[0][2]


def test_what_a_site_submitted_is_evaluated_when_it_is_gone(tmp_path: Path) -> None:
    sites = LocalSites({"a": site(1), "b": site(3)})

    class Leaving(LocalSites):
        async def ask(self, task: Task, targets: Any, accept: Any, patience: Any) -> Any:
            outcome = await super().ask(task, targets, accept, patience)
            self.left["a"] = "it was killed"
            return outcome

    told = evaluate(tmp_path, Leaving(sites.sites), CrossSiteModelEval())
    assert cells(told) == {("b", "a"): 2.0, ("b", "b"): 0.0}


def test_without_any_result_the_evaluation_has_failed(tmp_path: Path) -> None:
    with pytest.raises(RoundFailedError, match=r"cross-site evaluation: 0 of the 1 answers needed came .*no power"):
        evaluate(tmp_path, {"a": raising(RuntimeError("no power"), at=VALIDATE)}, CrossSiteModelEval())


def test_without_any_model_the_evaluation_has_failed(tmp_path: Path) -> None:
    server, _ = make_server(
        tmp_path,
        {"a": answering(FLModel(), at=SUBMIT_MODEL)},
        persistor=PTFileModelPersistor(),
        locator=PTFileModelLocator("persistor"),
    )
    with pytest.raises(RoundFailedError, match=r"a: no model of it: .*; server: it keeps no model yet"):
        anyio.run(CrossSiteModelEval(model_locator_id="locator").run, server)


def test_when_all_who_take_part_are_gone_nobody_is_asked(tmp_path: Path) -> None:
    sites = LocalSites({"a": site(1), "b": site(2)}, left={"a": "it was killed"})
    with pytest.raises(RoundFailedError, match=r"\(a: it was killed\)"):
        evaluate(tmp_path, sites, CrossSiteModelEval(participating_clients=["a"]))
    assert sites.asked == []


def test_only_those_who_take_part_are_asked(tmp_path: Path) -> None:
    sites = LocalSites({"a": site(1), "b": site(2), "c": site(3)})
    told = evaluate(tmp_path, sites, CrossSiteModelEval(participating_clients=["c", "a"]))
    assert {name for pair in cells(told) for name in pair} == {"a", "c"}
    with pytest.raises(JobError, match="participating_clients names x, but the sites are: a, b, c"):
        evaluate(tmp_path, sites, CrossSiteModelEval(participating_clients=["a", "x"]))


def test_submitted_models_can_be_cleaned_up(tmp_path: Path) -> None:
    evaluate(tmp_path, {"a": site(1)}, CrossSiteModelEval(cleanup_models=True))
    assert not (tmp_path / "cross_site_val" / "models").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cross_val_dir": "../x"}, "leads out of the run's folder"),
        ({"submit_model_timeout": -1}, "submit_model_timeout=-1 won't do"),
        ({"validation_timeout": math.nan}, "validation_timeout=nan won't do"),
        ({"validation_timeout": "1h"}, "validation_timeout='1h' won't do"),
        ({"submit_model_task_name": ""}, "there is nothing to evaluate"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        CrossSiteModelEval(**given)


def test_a_locator_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no ModelLocator with the id 'locator'"):
        evaluate(tmp_path, {"a": site(1)}, CrossSiteModelEval(model_locator_id="locator"))


class Many(ModelLocator):
    """Has many models, and knows how many of them are in memory."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[FLModel]] = []
        self.most = 0

    def get_model_names(self, server: Server) -> list[str]:
        return [f"m{index}" for index in range(5)]

    def locate_model(self, model_name: str, server: Server) -> FLModel:
        gc.collect()
        self.most = max(self.most, sum(one() is not None for one in self.made))
        model = FLModel(params=weigh(1))
        self.made.append(weakref.ref(model))
        return model


def test_one_model_at_a_time_is_in_memory(tmp_path: Path) -> None:
    class Forgetful(LocalSites):
        async def ask(self, task: Task, targets: Any, accept: Any, patience: Any) -> Any:
            try:
                return await super().ask(task, targets, accept, patience)
            finally:
                self.asked.clear()

    many = Many()
    evaluate(tmp_path, Forgetful({"a": site(1)}), CrossSiteModelEval(model_locator_id="many"), many=many)
    assert (len(many.made), many.most) == (5, 0)
