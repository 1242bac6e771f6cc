"""Federations of two real sites: what is logged, what is learnt, and what becomes of the runs when one fails."""

import math
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from pydantic import ValidationError
from readback import JsonLine, read_jsonl

from eventbus.errors import ConfigurationError
from receivers import JsonlReceiver, Receiver
from training.average import ModelUpdate
from training.checkpoint import load_state_file
from training.data import DataSpec
from training.federation import (
    DataDealt,
    Federation,
    FederationConfig,
    FederationResult,
    Progress,
    RoundDone,
    Site,
    SiteFailedError,
    SiteMaker,
    SiteReady,
    SiteWorker,
    StepDone,
    TrainingDone,
    make_local_site,
    run_federation,
)
from training.loop import evaluate
from training.model import State, build_model, load_state
from training.trackers import Account, parse_trackers

STEPS = math.ceil(750 / 16)  # half of the digits' 1500, in batches of the default size


def train(config: FederationConfig, receivers: Sequence[Receiver] = (), *, tracking: bool = True) -> FederationResult:
    async def run() -> FederationResult:
        return await run_federation(config, receivers=receivers, tracking=tracking)

    return anyio.run(run)


def lines_by_site(workspace: Path) -> dict[str, list[JsonLine]]:
    """The lines of each site, in the order in which they are stored."""
    found: dict[str, list[JsonLine]] = {}
    for line in read_jsonl(workspace / "jsonl"):
        assert line.torn is None
        found.setdefault(line.value["site"], []).append(line)
    return found


def metrics(lines: Sequence[JsonLine]) -> list[tuple[str, int]]:
    """Key and step of every number, in the order in which they are stored."""
    events = [line.value["event"] for line in lines if line.value["type"] == "MetricsLogged"]
    return [(key, event["step"]) for event in events for key in event["values"]]


def statuses(workspace: Path) -> dict[str, str]:
    return {site: lines[-1].value["status"] for site, lines in lines_by_site(workspace).items()}


def both(name: str, *steps: int) -> list[tuple[str, int]]:
    return [(f"{name}/{what}", step) for step in steps for what in ("loss", "accuracy")]


# ------------------------------------------------------------------------------------------------ what is logged
def test_every_number_of_every_site_is_stored_once_and_in_order(tmp_path: Path) -> None:
    config = FederationConfig(workspace=tmp_path, name="digits", run="run-1", rounds=2, log_every=20)

    result = train(config, [JsonlReceiver()])

    found = lines_by_site(tmp_path)
    assert list(found) == ["server", "site-1", "site-2"]
    a_site = [
        *both("train", 0, 20, 40, STEPS - 1),
        *both("epoch", 0),
        *both("validation", 0),
        *both("train", STEPS, STEPS + 20, STEPS + 40, 2 * STEPS - 1),
        *both("epoch", 1),
        *both("validation", 1),
    ]
    assert metrics(found["site-1"]) == metrics(found["site-2"]) == a_site
    assert metrics(found["server"]) == both("global", 0, 1)
    assert {(line.value["run"], line.file) for line in found["site-1"]} == {("run-1", "run-1/site-1.jsonl")}
    assert set(statuses(tmp_path).values()) == {"FINISHED"}
    assert result.run == "run-1"


def test_a_run_says_how_it_was_trained(tmp_path: Path) -> None:
    train(FederationConfig(workspace=tmp_path, rounds=1, learning_rate=0.125), [JsonlReceiver()])

    for site, lines in lines_by_site(tmp_path).items():
        events = [line.value for line in lines]
        params: dict[str, object] = {}
        for event in events:
            params |= event["event"]["values"] if event["type"] == "ParamsLogged" else {}
        assert (params["learning_rate"], params["sites"], params["log_every"]) == (0.125, 2, 5)
        assert params.get("samples") == (None if site == "server" else 750)
        assert "workspace" not in params


def test_the_accounts_say_what_each_tracker_has_of_each_site(tmp_path: Path) -> None:
    result = train(FederationConfig(workspace=tmp_path, rounds=1), [JsonlReceiver()])

    published = {site: report.published for site, report in result.reports.items()}
    assert result.accounts == tuple(Account(site, "jsonl", count, count, 0, 0) for site, count in published.items())
    stored = {site: len(lines) - 1 for site, lines in lines_by_site(tmp_path).items()}  # one line is the run's status
    assert stored == published
    assert all(report.complete for report in result.reports.values())


def test_a_second_run_in_a_workspace_is_accounted_for_alone(tmp_path: Path) -> None:
    config = FederationConfig(workspace=tmp_path, rounds=1)
    first, second = train(config, [JsonlReceiver()]), train(config, [JsonlReceiver()])

    assert first.run != second.run
    for result in (first, second):
        stored = {one.site: (one.stored, one.late) for one in result.accounts}
        assert stored == {site: (report.published, 0) for site, report in result.reports.items()}
    assert len(list((tmp_path / "jsonl").iterdir())) == 2


def test_the_first_step_may_wait_until_the_trackers_are_ready(tmp_path: Path) -> None:
    config = FederationConfig(workspace=tmp_path, rounds=1, ready_timeout=60)
    facts: list[Progress] = []

    async def run() -> FederationResult:
        def note(fact: Progress) -> None:
            if isinstance(fact, StepDone) and not any(isinstance(one, StepDone) for one in facts):
                stored.extend(read_jsonl(tmp_path / "jsonl"))
            facts.append(fact)

        return await run_federation(config, receivers=[JsonlReceiver()], on_progress=note)

    stored: list[JsonLine] = []
    result = anyio.run(run)

    assert result.ready_seconds > 0
    assert "server" in {line.value["site"] for line in stored}


def test_training_without_tracking_leaves_only_the_model(tmp_path: Path) -> None:
    result = train(FederationConfig(workspace=tmp_path, rounds=1), tracking=False)

    assert (result.run, result.reports, result.accounts) == ("", {}, ())
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


# ----------------------------------------------------------------------------------------------- what is learnt
def test_the_global_model_gets_better_and_the_best_is_kept(tmp_path: Path) -> None:
    config = FederationConfig(workspace=tmp_path)

    result = train(config, tracking=False)

    accuracies = [one.accuracy for one in result.rounds]
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] > 0.85
    assert result.best is not None
    assert (result.best.round, result.best.value, result.best_is_new) == (2, accuracies[-1], True)
    model = build_model(seed=1)
    load_state(model, load_state_file(result.best_path))
    assert evaluate(model, DataSpec(0, 1).load().test).accuracy == pytest.approx(accuracies[-1])


def test_a_worse_run_leaves_the_best_of_an_earlier_one(tmp_path: Path) -> None:
    best = train(FederationConfig(workspace=tmp_path, rounds=2), tracking=False).best

    worse = train(FederationConfig(workspace=tmp_path, rounds=1, learning_rate=1e-6), tracking=False)

    assert (worse.best, worse.best_is_new) == (best, False)


def test_a_seed_trains_the_same_with_and_without_tracking(tmp_path: Path) -> None:
    config = FederationConfig(workspace=tmp_path / "a", rounds=1, seed=3)
    tracked = train(config)
    plain = train(config.model_copy(update={"workspace": tmp_path / "b"}), tracking=False)
    other = train(config.model_copy(update={"workspace": tmp_path / "c", "seed": 4}), tracking=False)

    assert tracked.rounds == plain.rounds
    assert other.rounds != plain.rounds


def test_each_site_trains_its_own_samples(tmp_path: Path) -> None:
    (only,) = train(FederationConfig(workspace=tmp_path, sites=3, rounds=1), tracking=False).rounds

    assert list(only.sites) == ["site-1", "site-2", "site-3"]
    assert len({one["loss"] for one in only.sites.values()}) == 3


def test_progress_is_told(tmp_path: Path) -> None:
    facts: list[Progress] = []

    async def run() -> FederationResult:
        return await run_federation(
            FederationConfig(workspace=tmp_path, rounds=2, local_epochs=2), tracking=False, on_progress=facts.append
        )

    result = anyio.run(run)

    assert isinstance(facts[0], DataDealt)
    assert {site: sum(counts) for site, counts in facts[0].classes.items()} == {"site-1": 750, "site-2": 750}
    total = 2 * 2 * STEPS
    assert {fact.steps for fact in facts if isinstance(fact, SiteReady)} == {total}
    done = [fact.done for fact in facts if isinstance(fact, StepDone) and fact.site == "site-2"]
    assert done == sorted(set(done))
    assert done[-1] == total
    assert [fact.metrics for fact in facts if isinstance(fact, RoundDone)] == list(result.rounds)
    assert facts[-1] == TrainingDone(result.training_seconds)


# ---------------------------------------------------------------------------------------------- when it goes wrong
class Failing:
    """A site that trains until a round in which it fails."""

    def __init__(self, worker: SiteWorker, at_round: int) -> None:
        self._worker = worker
        self._at_round = at_round

    async def train(self, state: State, round_number: int) -> ModelUpdate:
        if round_number == self._at_round:
            message = "out of data"
            raise ValueError(message)
        return await self._worker.train(state, round_number)


def fails_at(name: str, at_round: int) -> SiteMaker:
    async def make(site: Site) -> SiteWorker:
        worker = await make_local_site(site)
        return Failing(worker, at_round) if site.name == name else worker

    return make


def test_a_site_that_fails_ends_the_federation_and_says_so(tmp_path: Path) -> None:
    config = FederationConfig(workspace=tmp_path, rounds=3, log_every=20)
    federation = Federation(config, receivers=[JsonlReceiver()], make_site=fails_at("site-2", 1))

    with pytest.raises(SiteFailedError, match=r"^site-2 failed: ValueError: out of data$") as caught:
        anyio.run(federation.run)

    assert caught.value.site == "site-2"
    assert isinstance(caught.value.__cause__, ValueError)
    assert statuses(tmp_path) == {"server": "FAILED", "site-1": "KILLED", "site-2": "FAILED"}
    found = lines_by_site(tmp_path)
    assert found["site-2"][-1].value["reason"] == "ValueError: out of data"
    assert metrics(found["server"]) == both("global", 0)
    assert [one.late for one in federation.accounts()] == [0, 0, 0]


def test_a_site_that_can_not_begin_is_named(tmp_path: Path) -> None:
    async def make(site: Site) -> SiteWorker:
        if site.name == "site-1":
            raise OSError(2, "No such file or directory", "/data")
        return await make_local_site(site)

    async def run() -> FederationResult:
        return await run_federation(FederationConfig(workspace=tmp_path), make_site=make)

    with pytest.raises(SiteFailedError, match=r"site-1 failed: FileNotFoundError: .*/data"):
        anyio.run(run)


def test_a_model_that_is_no_number_is_refused(tmp_path: Path) -> None:
    class Diverged:
        def __init__(self, worker: SiteWorker) -> None:
            self._worker = worker

        async def train(self, state: State, round_number: int) -> ModelUpdate:
            update = await self._worker.train(state, round_number)
            next(iter(update.state.values())).fill_(math.nan)
            return update

    async def make(site: Site) -> SiteWorker:
        return Diverged(await make_local_site(site))

    federation = Federation(FederationConfig(workspace=tmp_path, rounds=1), receivers=[JsonlReceiver()], make_site=make)

    with pytest.raises(ValueError, match=r"'site-1' is refused: .* NaN"):
        anyio.run(federation.run)

    assert statuses(tmp_path) == {"server": "FAILED", "site-1": "KILLED", "site-2": "KILLED"}


def test_a_cancelled_federation_stores_what_was_logged_and_its_runs_are_killed(tmp_path: Path) -> None:
    config = FederationConfig(workspace=tmp_path, rounds=1000, run="killed")

    async def run() -> Federation:
        scope = anyio.CancelScope()
        federation = Federation(
            config,
            receivers=[JsonlReceiver()],
            on_progress=lambda fact: isinstance(fact, RoundDone) and scope.cancel(),
        )
        with scope:
            await federation.run()
        return federation

    federation = anyio.run(run)

    assert statuses(tmp_path) == {"server": "KILLED", "site-1": "KILLED", "site-2": "KILLED"}
    assert [one.late for one in federation.accounts()] == [0, 0, 0]
    assert metrics(lines_by_site(tmp_path)["site-1"])[-2:] >= both("validation", 0)


# ------------------------------------------------------------------------------------------------- what it is told
@pytest.mark.parametrize(
    "settings",
    [
        {"sites": 0},
        {"sites": 51},
        {"rounds": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"momentum": 1.0},
        {"name": "a/b"},
        {"run": ""},
        {"dataset": "cats"},
        {"epochs": 3},
    ],
)
def test_settings_that_can_not_work_are_refused(settings: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        FederationConfig.model_validate({"workspace": tmp_path, **settings})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("wandb", ("wandb",)),
        (" MLflow, jsonl,mlflow", ("mlflow", "jsonl")),
        ("none", ()),
    ],
)
def test_trackers_are_named_in_a_list(text: str, names: tuple[str, ...]) -> None:
    assert parse_trackers(text) == names


@pytest.mark.parametrize("text", ["", "tensorbord", "wandb,,mlflow", "none,wandb", "wandb mlflow"])
def test_an_unknown_tracker_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="known are jsonl, mlflow, tensorboard, wandb, or 'none' alone"):
        parse_trackers(text)
