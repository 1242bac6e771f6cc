"""Federated averaging over sites that are plain functions: what is averaged, refused, waited for, kept and told."""

import math
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_sites import GoneError, LocalSites, Site, make_server
from safetensors.torch import load_file

from eventbus import EventBus
from eventbus.errors import WorkspaceError
from eventbus.testing import recording
from eventbus.tracking import MetricsLogged, ParamsLogged
from training import (
    FedAvg,
    FLModel,
    JobError,
    ModelAggregator,
    ModelPersistor,
    ParamsType,
    PTFileModelPersistor,
    RoundFailedError,
    Server,
)
from training.abc import (
    ComponentProblem,
    Outcome,
    RoundAggregated,
    RoundStarted,
    ServerEvent,
    SiteProblem,
    StoppedEarly,
    Task,
)
from training.fl_model import MetaKey
from writers import TrackingWriter

ZERO = {"w": torch.zeros(2), "b": torch.zeros(1)}


def answer(value: float, steps: object = None, **given: Any) -> FLModel:
    """An update whose weights are all the same."""
    meta = {} if steps is None else {MetaKey.NUM_STEPS_CURRENT_ROUND: steps}
    params = {"w": torch.full((2,), float(value)), "b": torch.full((1,), float(value))}
    return FLModel(**{"params": params, "meta": meta, **given})


def site(*models: FLModel | Exception) -> Site:
    """A site that answers with these, round by round, the last of them for ever."""
    left = list(models)

    async def serve(task: Task) -> FLModel:
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        return found

    return serve


async def silent(task: Task) -> FLModel:
    await anyio.sleep_forever()
    raise AssertionError


def train(folder: Path, sites: Mapping[str, Site] | LocalSites, workflow: FedAvg, **server: Any) -> list[ServerEvent]:
    made, told = make_server(folder, sites, **server)
    anyio.run(workflow.run, made)
    return told


def fed_avg(**given: Any) -> FedAvg:
    return FedAvg(**{"num_clients": 2, "num_rounds": 1, "model": ZERO, **given})


def rounds(told: list[ServerEvent]) -> list[RoundAggregated]:
    return [event for event in told if isinstance(event, RoundAggregated)]


def problems(told: list[ServerEvent]) -> dict[str, str]:
    return {event.site: event.reason for event in told if isinstance(event, SiteProblem)}


def kept(folder: Path, name: str = "FL_global_model") -> dict[str, list[float]]:
    return {key: tensor.tolist() for key, tensor in load_file(folder / "models" / f"{name}.safetensors").items()}


# --- the average ------------------------------------------------------------------------------------------------------


def test_updates_weigh_by_their_steps_and_their_sites_weight(tmp_path: Path) -> None:
    sites = {"a": site(answer(1, steps=10)), "b": site(answer(4, steps=5)), "c": site(answer(7))}
    told = train(tmp_path, sites, fed_avg(num_clients=3, aggregation_weights={"b": 2.0}))

    mean = (10 * 1 + 2 * 5 * 4 + 1 * 7) / 21
    assert kept(tmp_path) == {"w": [pytest.approx(mean)] * 2, "b": [pytest.approx(mean)]}
    (done,) = rounds(told)
    assert {one.site: (one.weight, one.steps) for one in done.contributions} == {
        "a": (10, 10),
        "b": (10, 5),
        "c": (1, 1),
    }


def test_each_round_begins_with_the_model_of_the_one_before(tmp_path: Path) -> None:
    async def add_one(task: Task) -> FLModel:
        assert task.model.params is not None
        return FLModel(params={name: tensor + 1 for name, tensor in task.model.params.items()})

    sites = LocalSites({"a": add_one, "b": add_one})
    told = train(tmp_path, sites, fed_avg(num_rounds=3, start_round=4, task_name="fit"))

    assert kept(tmp_path)["b"] == [3.0]
    assert [event for event in told if isinstance(event, RoundStarted)] == [RoundStarted(n, 3) for n in (4, 5, 6)]
    seen = [
        (task.name, task.model.start_round, task.model.current_round, task.model.total_rounds)
        for task, _ in sites.asked
    ]
    assert seen == [("fit", 4, number, 3) for number in (4, 5, 6)]


def test_differences_and_whole_weights_may_come_together(tmp_path: Path) -> None:
    first = {"w": torch.full((2,), 10.0), "b": torch.full((1,), 10.0)}
    sites = {"whole": site(answer(12)), "difference": site(answer(4, params_type=ParamsType.DIFF))}
    train(tmp_path, sites, fed_avg(model=first))
    assert kept(tmp_path)["w"] == [13.0, 13.0]  # of 12 and 10 + 4


def test_excluded_variables_stay_whatever_the_sites_send(tmp_path: Path) -> None:
    first = {"head.w": torch.ones(1), "body.w": torch.zeros(1)}
    sites = {
        "leaves it out": site(FLModel(params={"body.w": torch.full((1,), 2.0)})),
        "other shape": site(FLModel(params={"body.w": torch.full((1,), 4.0), "head.w": torch.full((3,), math.nan)})),
    }
    train(tmp_path, sites, fed_avg(model=first, exclude_vars=r"^head\."))
    assert kept(tmp_path) == {"head.w": [1.0], "body.w": [3.0]}


@settings(deadline=None)  # the first example imports torch
@given(
    values=st.lists(
        st.tuples(
            st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3),
            st.floats(1e-3, 1e6),
            st.floats(1e-3, 1e3),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    ),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
)
def test_the_average_is_the_weighted_mean_in_float64(
    values: list[tuple[list[float], float, float, bool]], dtype: torch.dtype
) -> None:
    from training.abc import Answer
    from training.workflows._updates import RoundUpdates

    sent = torch.tensor([0.5, -1.0, 2.0], dtype=dtype)
    names = [f"site-{index}" for index in range(len(values))]
    updates = RoundUpdates(
        FLModel(params={"w": sent}, current_round=3),
        {name: weight for name, (_, _, weight, _) in zip(names, values, strict=True)},
    )
    total, weighed = torch.zeros(3, dtype=torch.float64), 0.0
    for name, (raw, steps, weight, is_diff) in zip(names, values, strict=True):
        given_tensor = torch.tensor(raw, dtype=torch.float64).clamp(-6e4, 6e4).to(dtype)
        kind = ParamsType.DIFF if is_diff else ParamsType.FULL
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: steps}
        updates.accept(Answer(name, FLModel(params_type=kind, params={"w": given_tensor}, meta=meta)))
        total += steps * weight * (given_tensor.double() + (sent.double() if is_diff else 0))
        weighed += steps * weight
    params = updates.result().params
    assert params is not None
    assert params["w"].dtype is dtype
    torch.testing.assert_close(params["w"], (total / weighed).to(dtype), rtol=1e-6, atol=1e-6)


def test_who_comes_first_does_not_matter(tmp_path: Path) -> None:
    values = {"a": 0.1, "b": 1e8, "c": -1e8, "d": 1 / 3}
    files = []
    for order in ("abcd", "dcba", "bdac"):
        sites = {name: site(answer(values[name], steps=7)) for name in order}
        train(tmp_path / order, sites, fed_avg(num_clients=4))
        files.append((tmp_path / order / "models" / "FL_global_model.safetensors").read_bytes())
    assert len(set(files)) == 1


def test_an_update_is_forgotten_once_it_is_added(tmp_path: Path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    async def serve(task: Task) -> FLModel:
        nonlocal most
        most = max(most, sum(one() is not None for one in alive))
        model = answer(1.0)
        assert model.params is not None
        alive.append(weakref.ref(model.params["w"]))
        return model

    class OneByOne(LocalSites):
        async def ask(self, task: Task, targets: Any, accept: Any, patience: Any) -> Any:
            for name in targets:
                assert (await super().ask(task, [name], accept, patience)).accepted
            return Outcome(tuple(targets))

    train(tmp_path, OneByOne({f"s{index}": serve for index in range(20)}), fed_avg(num_clients=20))
    assert len(alive) == 20
    assert most <= 1


# --- updates that don't count -----------------------------------------------------------------------------------------

BAD_UPDATES = {
    "NaN": (answer(math.nan), "w holds a NaN or an infinity"),
    "infinity": (answer(math.inf), "w holds a NaN or an infinity"),
    "shape": (FLModel(params={"w": torch.ones(3), "b": torch.ones(1)}), r"w is (3,), not (2,)"),
    "dtype": (FLModel(params={"w": torch.ones(2) + 1j, "b": torch.ones(1)}), "w is torch.complex64, not"),
    "missing": (FLModel(params={"w": torch.ones(2)}), "missing: b"),
    "unknown": (FLModel(params={**ZERO, "v": torch.ones(1)}), "unknown: v"),
    "empty": (FLModel(params={}), "it holds no weights"),
    "metrics only": (FLModel(metrics={"accuracy": 1.0}), "it holds no weights"),
    "round": (answer(1, current_round=7), "it is of round 7, and this is round "),
    "no steps": (answer(1, steps=0), "is 0: it stands for no steps"),
    "fewer than no steps": (answer(1, steps=-3), "is -3: it stands for no steps"),
    "NaN steps": (answer(1, steps=math.nan), "it stands for no steps"),
    "endless steps": (answer(1, steps=math.inf), "it stands for no steps"),
    "steps in words": (answer(1, steps="many"), "is 'many': it stands for no steps"),
    "a well of metrics": (answer(1, metrics=eval("{'a':" * 12 + "1" + "}" * 12)), "metrics are nested too deep"),
}


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_a_bad_update_is_its_sites_problem_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    bad, reason = BAD_UPDATES[name]
    sites = {"bad": site(bad), "good": site(answer(2)), "better": site(answer(4))}
    told = train(tmp_path, sites, fed_avg(num_clients=3, min_responses=2, num_rounds=2))

    assert kept(tmp_path)["w"] == [3.0, 3.0]
    assert reason in problems(told)["bad"]
    assert [len(event.contributions) for event in rounds(told)] == [2, 2]


def test_too_few_updates_end_the_job_and_say_why(tmp_path: Path) -> None:
    sites = {"bad": site(answer(math.nan)), "dead": site(GoneError("it was killed")), "good": site(answer(1))}
    with pytest.raises(RoundFailedError) as failed:
        train(tmp_path, sites, fed_avg(num_clients=3, min_responses=2))
    assert "round 1: 1 of the 2 answers needed came" in str(failed.value)
    assert "w holds a NaN" in failed.value.problems["bad"]
    assert failed.value.problems["dead"] == "it was killed"


def test_the_model_of_the_round_before_is_kept_when_one_fails(tmp_path: Path) -> None:
    with pytest.raises(RoundFailedError, match="round 2"):
        train(tmp_path, {"a": site(answer(5), GoneError("out of power"))}, fed_avg(num_clients=1, num_rounds=2))
    assert kept(tmp_path)["w"] == [5.0, 5.0]


# --- waiting, choosing ------------------------------------------------------------------------------------------------


def test_a_silent_site_costs_a_round_no_more_than_its_timeout(tmp_path: Path) -> None:
    told = train(tmp_path, {"a": site(answer(1)), "b": silent}, fed_avg(min_responses=1, round_timeout=0.3))
    assert problems(told) == {"b": "it did not answer in time"}


def test_with_enough_updates_the_others_have_the_grace_alone(tmp_path: Path) -> None:
    told = train(tmp_path, {"a": site(answer(1)), "b": silent}, fed_avg(min_responses=1, round_timeout=60, grace=0.1))
    assert problems(told) == {"b": "it did not answer in time"}


def test_a_round_does_not_begin_with_fewer_sites_than_it_needs(tmp_path: Path) -> None:
    sites = LocalSites({"a": site(answer(1)), "b": site(answer(1))}, left={"b": "its script could not be started"})
    with pytest.raises(RoundFailedError) as failed:
        train(tmp_path, sites, fed_avg())
    assert "can't begin with 1 sites" in str(failed.value)
    assert "b: its script could not be started" in str(failed.value)
    assert sites.asked == []


def test_the_sites_of_a_round_are_drawn_from_the_seed(tmp_path: Path) -> None:
    def drawn(seed: int) -> list[tuple[str, ...]]:
        sites = LocalSites({f"s{index}": site(answer(1)) for index in range(6)})
        train(tmp_path, sites, fed_avg(num_clients=3, num_rounds=5), seed=seed)
        return [targets for _, targets in sites.asked]

    first = drawn(1)
    assert first == drawn(1)
    assert first != drawn(2)
    assert len(set(first)) > 1
    assert all(len(set(targets)) == 3 and list(targets) == sorted(targets) for targets in first)


def test_a_site_that_was_not_drawn_stands_in_for_one_that_fails(tmp_path: Path) -> None:
    sites = LocalSites({"good": site(answer(1)), "bad": site(answer(math.nan)), "better": site(answer(3))})
    told = train(tmp_path, sites, fed_avg(num_rounds=8))
    assert {event.site for event in told if isinstance(event, SiteProblem)} == {"bad"}
    assert [{one.site for one in event.contributions} for event in rounds(told)] == [{"good", "better"}] * 8
    assert {len(targets) for _, targets in sites.asked} == {1, 2}


# --- stopping ---------------------------------------------------------------------------------------------------------


def stop(tmp_path: Path, values: list[float | None], **given: Any) -> tuple[int, str]:
    """How many rounds were trained with these accuracies, and why no more."""
    models = [answer(1, metrics={} if value is None else {"accuracy": value}) for value in values]
    told = train(tmp_path, {"a": site(*models)}, fed_avg(num_clients=1, num_rounds=len(values), **given))
    reason = next((event.reason for event in told if isinstance(event, StoppedEarly)), "")
    return len(rounds(told)), reason


@pytest.mark.parametrize(
    ("condition", "values", "trained"),
    [
        ("accuracy >= 80", [10, 79.9, 80, 90], 3),
        ("accuracy > 80", [80, 80.1, 90], 2),
        ("accuracy <= 0.5", [0.9, 0.6, 0.5, 0.1], 3),
        ("accuracy<0.5", [0.5, 0.4, 0.1], 2),
        ("accuracy == 1", [0.5, 1, 0.1], 2),
        ("accuracy = 1", [0.5, 1, 0.1], 2),
        ("accuracy != 1", [1, 1, 0.1, 1], 3),
        ("accuracy >= -1e3", [0.5, 1], 1),
        ("accuracy >= 80", [10, None, math.nan, 80, 1], 4),
        ("accuracy >= 80", [10, 20], 2),
    ],
)
def test_a_condition_stops_the_training(
    tmp_path: Path, condition: str, values: list[float | None], trained: int
) -> None:
    count, reason = stop(tmp_path, values, stop_cond=condition)
    assert count == trained
    assert bool(reason) == (trained < len(values))


@pytest.mark.parametrize(
    ("condition", "patience", "values", "trained"),
    [
        ("accuracy >= 80", 2, [10, 20, 20, 19, 30], 4),
        ("accuracy >= 80", 2, [10, 9, 11, 10, 12, 11], 6),
        ("accuracy >= 80", 1, [10, 10, 20], 2),
        ("accuracy < 0.1", 2, [0.9, 0.5, 0.6, 0.7, 0.2], 4),
        ("accuracy >= 80", 2, [10, math.nan, math.nan, 20], 3),
        ("accuracy >= 80", 1, [10, None, None, 20], 4),  # what nobody measured is no step back
    ],
)
def test_patience_ends_where_nothing_gets_better(
    tmp_path: Path, condition: str, patience: int, values: list[float | None], trained: int
) -> None:
    count, reason = stop(tmp_path, values, stop_cond=condition, patience=patience)
    assert count == trained
    assert ("has not become better" in reason) == (trained < len(values))


def test_a_condition_on_a_metric_that_nobody_sends_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert stop(tmp_path, [1, 2, 3], stop_cond="acuracy >= 2") == (3, "")
    warnings = [record.message for record in caplog.records if "acuracy" in record.message]
    assert warnings == ["stop_cond asks for the metric 'acuracy', which no site gave; given: accuracy"]


def test_the_arguments_stand_in_nvflares_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    workflow = FedAvg(
        "keeper",
        False,
        True,
        0.1,
        num_clients=1,
        num_rounds=1,
        memory_gc_rounds=2,
        enable_tensor_disk_offload=True,
        fedprox_mu=0.0,
    )
    assert [record.message.partition(" ")[0] for record in caplog.records] == [
        "ignore_result_error",
        "allow_empty_global_weights",
    ]
    told = train(tmp_path, {"a": site(answer(2))}, workflow, keeper=PTFileModelPersistor(model=ZERO))
    assert (len(rounds(told)), kept(tmp_path)["b"]) == (1, [2.0])


@pytest.mark.parametrize("order", ["abc", "cab"])
def test_a_rounds_metrics_do_not_depend_on_who_was_first(order: str) -> None:
    from training.abc import Answer
    from training.workflows._updates import RoundUpdates

    given = {
        "a": {"loss": 1.0, "per_class": {"cat": {"f1": 0.1, "support": 0.1}}},
        "b": {"per_class": {"cat": {"f1": 0.2, "support": 0.2}}},
        "c": {"accuracy": 0.5, "per_class": {"cat": {"f1": 0.3, "support": 0.3}}},
    }
    updates = RoundUpdates(FLModel(params=ZERO), {})
    for name in order:
        updates.accept(Answer(name, answer(1, metrics=given[name])))
    metrics = updates.result().metrics or {}
    assert list(metrics) == ["loss", "per_class", "accuracy"]
    assert metrics["per_class"]["cat"]["support"] == 0.1 + 0.2 + 0.3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stop_cond": "accuracy"}, "is not a condition"),
        ({"stop_cond": "accuracy >= high"}, "is not a condition"),
        ({"stop_cond": "accuracy => 80"}, "is not a condition"),
        ({"stop_cond": ">= 80"}, "is not a condition"),
        ({"stop_cond": "accuracy >= nan"}, "is not a condition"),
        ({"patience": 2}, "patience needs stop_cond"),
        ({"patience": 0, "stop_cond": "a > 1"}, "patience=0 won't do"),
        ({"num_clients": 0}, "num_clients=0 won't do"),
        ({"num_rounds": True}, "num_rounds=True won't do"),
        ({"start_round": -1}, "start_round=-1 won't do"),
        ({"min_responses": 3}, "from 1 to 2"),
        ({"round_timeout": 0}, "round_timeout=0 won't do"),
        ({"exclude_vars": "("}, "exclude_vars='\\(' is not a regular expression"),
        ({"fedprox_mu": 0.1}, "fedprox_mu=0.1 is not supported"),
        ({"fedprox_mu": math.nan}, "fedprox_mu=nan is not supported"),
        ({"aggregation_weights": {"a": 0}}, "aggregation_weights of 'a' is 0"),
        ({"aggregation_weights": {"a": "much"}}, "aggregation_weights of 'a' is 'much'"),
    ],
)
def test_an_argument_that_cannot_work_is_refused_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        fed_avg(**given)


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_are_weighted_means_over_the_sites_that_gave_them(tmp_path: Path) -> None:
    sites = {
        "a": site(answer(1, steps=1, metrics={"accuracy": 0.2, "note": "fine", "ok": True, "loss": math.nan})),
        "b": site(answer(1, steps=3, metrics={"accuracy": 0.6, "loss": 2.0})),
        "c": site(answer(1, steps=9)),
    }
    (done,) = rounds(train(tmp_path, sites, fed_avg(num_clients=3)))
    assert done.aggregated.metrics == {"accuracy": pytest.approx(0.5), "loss": 2.0}


def test_classes_weigh_by_their_support_which_is_summed(tmp_path: Path) -> None:
    def by_class(cat: float, support: int, **more: Any) -> dict[str, Any]:
        return {"per_class": {"cat": {"f1": cat, "support": support}, **more}}

    sites = {
        "a": site(answer(1, steps=100, metrics=by_class(0.9, 12, dog={"f1": 0.5, "support": 0}))),
        "b": site(answer(1, steps=1, metrics=by_class(0.3, 36, cow={"f1": 0.7, "support": 5}))),
    }
    (done,) = rounds(train(tmp_path, sites, fed_avg()))
    assert done.aggregated.metrics == {
        "per_class": {
            "cat": {"f1": pytest.approx((12 * 0.9 + 36 * 0.3) / 48), "support": 48},
            "dog": {"support": 0},
            "cow": {"f1": pytest.approx(0.7), "support": 5},
        }
    }


def test_the_server_logs_each_round_and_what_it_was_told_to_do(tmp_path: Path) -> None:
    async def run() -> tuple[list[MetricsLogged], list[ParamsLogged], Mapping[str, int]]:
        async with EventBus(tmp_path / "bus", site="server", job="job") as bus:
            with recording(bus, MetricsLogged) as metrics, recording(bus, ParamsLogged) as params:
                writer = TrackingWriter(bus=bus, on_bad_input="count")
                server, _ = make_server(tmp_path, sites, writer=writer, seed=7)
                await fed_avg(num_rounds=2, start_round=1).run(server)
                return await metrics.wait_for(2), await params.wait_for(1), writer.bad_inputs

    by_class = {"cat": {"f1": 0.5, "support": 4}}
    sites = {
        "a": site(answer(1, metrics={"accuracy": 0.25, "../loss": 1.0, "per_class": by_class})),
        "b": site(answer(1, metrics={"accuracy": 0.75, "contributions": 7.0})),
    }
    logged, params, bad = anyio.run(run)
    expected = {
        "global/contributions": 2,
        "global/accuracy": 0.5,
        "global/per_class/cat/f1": 0.5,
        "global/per_class/cat/support": 4,
        "sites/a/accuracy": 0.25,
        "sites/b/accuracy": 0.75,
        "sites/b/contributions": 7.0,
    }
    assert [(event.step, event.values) for event in logged] == [(1, expected), (2, expected)]
    assert {key: params[0].values[key] for key in ("num_clients", "seed")} == {"num_clients": 2, "seed": 7}
    assert dict(bad) == {"global/../loss": 2, "sites/a/../loss": 2}


# --- aggregators and persistors of one's own --------------------------------------------------------------------------


class Median(ModelAggregator):
    def __init__(
        self, make: Callable[[dict[str, torch.Tensor]], FLModel] = lambda params: FLModel(params=params)
    ) -> None:
        self.make = make
        self.taken: list[FLModel] = []
        self.sites: list[list[str]] = []

    def accept_model(self, model: FLModel) -> None:
        self.warning(f"{model.meta['client_name']} is taken")  # as aggregators written for NVFLARE ask and say it
        self.taken.append(model)

    def aggregate_model(self) -> FLModel:
        self.sites.append(sorted(model.meta["site_name"] for model in self.taken))
        stacks = {name: torch.stack([(model.params or {})[name] for model in self.taken]) for name in ZERO}
        return self.make({name: stack.median(dim=0).values.double() for name, stack in stacks.items()})

    def reset_stats(self) -> None:
        self.taken = []


def test_an_aggregator_of_ones_own_makes_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    aggregator = Median()
    sites = {"a": site(answer(1)), "b": site(answer(2)), "c": site(answer(90, metrics={"accuracy": 0.5}))}
    told = train(tmp_path, sites, fed_avg(num_clients=3, num_rounds=2, aggregator=aggregator))
    assert kept(tmp_path) == {"w": [2.0, 2.0], "b": [2.0]}
    assert aggregator.sites == [["a", "b", "c"]] * 2
    assert sorted(record.message for record in caplog.records) == [f"{name} is taken" for name in "aabbcc"]
    assert rounds(told)[0].aggregated.metrics == {"accuracy": 0.5}


def test_an_aggregator_may_return_a_difference_of_some_variables(tmp_path: Path) -> None:
    def difference(params: dict[str, torch.Tensor]) -> FLModel:
        return FLModel(params_type=ParamsType.DIFF, params={"w": params["w"]}, metrics={"own": 1})

    first = {"w": torch.full((2,), 10.0), "b": torch.full((1,), 10.0)}
    aggregator = Median(difference)
    told = train(tmp_path, {"a": site(answer(1))}, fed_avg(num_clients=1, model=first, aggregator=aggregator))
    assert kept(tmp_path) == {"w": [11.0, 11.0], "b": [10.0]}
    assert rounds(told)[0].aggregated.metrics == {"own": 1}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (None, "returned no params"),
        ({"w": torch.ones(5)}, "does not fit the model: w is"),
        ({"v": torch.ones(5)}, "does not fit the model: unknown: v"),
        ({"w": torch.full((2,), math.nan)}, "does not fit the model: w holds a NaN"),
    ],
)
def test_what_an_aggregator_returns_must_fit(tmp_path: Path, params: Any, message: str) -> None:
    aggregator = Median(lambda _: FLModel(params=params))
    with pytest.raises(JobError, match=message):
        train(tmp_path, {"a": site(answer(1))}, fed_avg(num_clients=1, aggregator=aggregator))


def test_the_persistor_has_the_first_model_and_keeps_the_last(tmp_path: Path) -> None:
    persistor = PTFileModelPersistor(model=ZERO)
    sites = LocalSites({"a": site(answer(3, params_type=ParamsType.DIFF))})
    train(tmp_path, sites, fed_avg(num_clients=1, num_rounds=2, model=None), persistor=persistor)
    assert kept(tmp_path)["w"] == [6.0, 6.0]


def test_without_a_first_model_the_job_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no ModelPersistor with the id 'persistor' at the server"):
        train(tmp_path, {"a": site(answer(3))}, fed_avg(num_clients=1, model=None))
    with pytest.raises(JobError, match="the first model has no weights"):
        train(tmp_path, {"a": site(answer(3))}, fed_avg(num_clients=1, model={}))


class FullDisk(ModelPersistor):
    """Has room for some models only."""

    def __init__(self, *fits: bool) -> None:
        self.fits = list(fits)

    def load_model(self, server: Server) -> FLModel:
        return FLModel(params=dict(ZERO))

    def save_model(self, model: FLModel, server: Server) -> None:
        if not self.fits.pop(0):
            raise OSError(28, "No space left on device")


def test_a_disk_that_is_full_for_a_while_ends_nothing(tmp_path: Path) -> None:
    disk = FullDisk(False, True)
    told = train(tmp_path, {"a": site(answer(3))}, fed_avg(num_clients=1, num_rounds=2, model=None), persistor=disk)
    lost = [event for event in told if isinstance(event, ComponentProblem)]
    assert [(event.component, "No space left" in event.reason) for event in lost] == [("persistor", True)]


def test_the_last_model_must_be_kept(tmp_path: Path) -> None:
    disk = FullDisk(True, False)
    with pytest.raises(WorkspaceError, match=r"the last global model could not be kept: .*No space left"):
        train(tmp_path, {"a": site(answer(3))}, fed_avg(num_clients=1, num_rounds=2, model=None), persistor=disk)
