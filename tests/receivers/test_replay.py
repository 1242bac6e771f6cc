"""Replays: a tracker filled from the journal holds what a live one would, and dead letters join their runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import anyio
import pytest
from mlflow_stores import put_mlflow_store
from readback import read_jsonl, read_mlflow, read_mlflow_runs, read_tensorboard, read_wandb, read_wandb_runs

from eventbus import EventBus, Origin, Scope
from eventbus.abc import RelayedBatch
from eventbus.errors import ConfigurationError, SubscriptionError, WorkspaceError
from eventbus.health import WorkerLost
from eventbus.journals import SqliteJournal
from eventbus.journals._look import look_at_consumer, open_unchanged
from eventbus.journals._reader import JournalReader
from eventbus.tracking import TRACKING, MetricsLogged, ParamsLogged, RunFinished, RunStarted, TagsSet, TextLogged
from receivers import FlushPolicy, JsonlReceiver, MLflowReceiver, Receiver, TensorBoardReceiver, WandBReceiver
from receivers.replay import Part, Progress, count_refused_again, find_source, replay
from receivers.testing import CrashingConfig

ROOT = Path(__file__).resolve().parents[2]
SMALL_BATCHES = FlushPolicy(max_items=4, max_delay=0.05)

pytestmark = pytest.mark.anyio

KILLED = """
import os, signal, sys
from eventbus import EventBus
from eventbus.tracking import MetricsLogged, RunStarted

bus = EventBus(sys.argv[1], site="site-2")
bus.open()
bus.publish(RunStarted(name="broken", group="job"), run="broken")
for step in range(5):
    bus.publish(MetricsLogged(values={"train/loss": step / 2}, step=step), run="broken")
os.kill(os.getpid(), signal.SIGKILL)
"""


def log(bus: EventBus, run: str, steps: Sequence[int]) -> None:
    bus.publish(RunStarted(name=run, group="job"), run=run)
    bus.publish(ParamsLogged(values={"lr": 0.1, "layers": 3}), run=run)
    bus.publish(TagsSet(values={"role": "trainer"}), run=run)
    for step in steps:
        bus.publish(MetricsLogged(values={"train/loss": 1 / (step + 1), "odd": float("nan")}, step=step), run=run)
    bus.publish(TextLogged(key="note", text="done\nwell", step=1), run=run)
    bus.tell(WorkerLost(receiver="mlflow", reason="died", restarts=1))
    bus.publish(RunFinished(status="FAILED", reason="it fell"), run=run)


def steps(folder: Path, run: str) -> list[int]:
    lines = [line.value for line in read_jsonl(folder / run)]
    return [line["event"]["step"] for line in lines if line["type"] == "MetricsLogged"]


def statuses(folder: Path, run: str) -> list[str]:
    return [line.value["status"] for line in read_jsonl(folder / run) if line.value["type"] == "RunStatus"]


def contents(workspace: Path) -> dict[Path, bytes]:
    """Every database below a folder."""
    return {path: path.read_bytes() for path in workspace.rglob("*.db")}


def cursors(workspace: Path) -> list[str]:
    return sorted(path.stem for path in (workspace / "cursors").glob("*.db"))


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """A workspace with three runs and no tracker: one failed, one finished, one whose writer was killed."""
    workspace = tmp_path / "exp"
    subprocess.run([sys.executable, "-c", KILLED, str(workspace)], env={"PYTHONPATH": str(ROOT)}, check=False)
    bus = EventBus(workspace, site="site-1", job="job")
    bus.open()
    log(bus, "failed", range(6))
    for step in range(3):
        bus.publish(MetricsLogged(values={"train/loss": 0.5}, step=step), run="silent")
    bus.close()
    return workspace


def four() -> list[Receiver]:
    return [
        JsonlReceiver(),
        TensorBoardReceiver(),
        MLflowReceiver(),
        WandBReceiver("offline", {"project": "job"}),
    ]


def stores(workspace: Path) -> dict[str, object]:
    """What the four trackers hold, without what differs from store to store: paths, ids, times of the storing."""
    runs = {
        run.name: (run.experiment, run.status, run.start_time_ms, run.end_time_ms, run.params, run.tags)
        for run in read_mlflow_runs(workspace / "mlflow.db")
    }
    wandb = {
        run.run_id: (run.name, run.exit_code, run.torn, {k: v for k, v in run.config.items() if k != "_wandb"})
        for run in read_wandb_runs(workspace / "wandb")
    }
    return {
        "jsonl": [(line.file, line.value) for line in read_jsonl(workspace / "jsonl")],
        "tensorboard": sorted(
            str((row.run, row.kind, row.key, row.step, row.value, row.wall_time_ns))
            for row in read_tensorboard(workspace / "tensorboard")
        ),
        "mlflow": sorted(
            str((row.run, row.kind, row.key, row.step, row.value, row.wall_time_ns))
            for row in read_mlflow(workspace / "mlflow.db")
        ),
        "mlflow runs": runs,
        "wandb": [  # run by run, as folders lie in the order of their opening; a row's keys come in any order
            str((row.run, row.kind, row.key, row.step, row.value))
            for row in sorted(read_wandb(workspace / "wandb"), key=lambda row: (row.run, row.order, row.key))
            if row.kind != "internal"
        ],
        "wandb runs": wandb,
    }


@pytest.mark.slow  # two times four SDKs
async def test_a_replayed_tracker_holds_what_a_live_one_does(logged: Path, tmp_path: Path) -> None:
    with anyio.fail_after(110):
        put_mlflow_store(logged)
        report = await replay(logged, four(), workspace=put_mlflow_store(tmp_path / "replayed"))
        async with EventBus(logged, site="late", drain_idle_timeout=60, drain_timeout=60) as bus:
            for receiver in four():
                bus.subscribe(TRACKING, receiver)
    assert report.complete, str(report)
    live, replayed = stores(logged), stores(tmp_path / "replayed")
    for store, content in live.items():
        assert content, store
        assert replayed[store] == content, store
    assert {run.name: run.status for run in read_mlflow_runs(logged / "mlflow.db")} == {
        "site-1-failed": "FAILED",
        "site-1-silent": "FINISHED",
        "site-2-broken": "KILLED",
    }


async def test_the_journal_is_only_read(logged: Path, tmp_path: Path) -> None:
    before = contents(logged)
    report = await replay(logged, [JsonlReceiver(name="replay-jsonl")], workspace=tmp_path / "to")
    assert report.line("replay-jsonl").delivered == 20
    assert contents(logged) == before
    assert statuses(tmp_path / "to" / "jsonl", "broken") == ["KILLED"]


async def test_no_word_of_health_reaches_a_tracker(logged: Path) -> None:
    report = await replay(logged, [JsonlReceiver()])
    types = {line.value["type"] for line in read_jsonl(logged / "jsonl")}
    assert "WorkerLost" not in types
    assert "MetricsLogged" in types  # the control
    assert (report.published, report.line("jsonl").delivered, report.complete) == (21, 20, True)


async def test_a_second_replay_finds_that_all_is_there_and_a_third_what_came_since(logged: Path) -> None:
    told: list[Progress] = []
    await replay(logged, [JsonlReceiver(name="replay-jsonl")], on_progress=told.append)
    second = await replay(logged, [JsonlReceiver(name="replay-jsonl")])
    bus = EventBus(logged, site="site-1")
    bus.open()
    bus.publish(MetricsLogged(values={"train/loss": 0.1}, step=3), run="silent")
    bus.close()
    third = await replay(logged, [JsonlReceiver(name="replay-jsonl")])
    assert [second.line("replay-jsonl").delivered, third.line("replay-jsonl").delivered] == [0, 1]
    assert steps(logged / "jsonl", "silent") == [0, 1, 2, 3]
    assert (told[0].done, told[0].total) == (0, 21)


async def test_a_late_receiver_goes_on_under_its_own_name(tmp_path: Path) -> None:
    workspace = tmp_path / "exp"
    async with EventBus(workspace, site="site-1", drain_idle_timeout=0.5) as bus:
        bus.subscribe(TRACKING, JsonlReceiver(python="/nowhere/python"))
        log(bus, "run", range(4))
    left = bus.report().line("jsonl").left
    report = await replay(workspace, [JsonlReceiver()])
    assert (left, report.line("jsonl").delivered, report.complete) == (9, 9, True)
    assert steps(workspace / "jsonl", "run") == [0, 1, 2, 3]


async def test_a_part_of_a_journal(logged: Path, tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    await replay(logged, [JsonlReceiver(name="replay-a")], workspace=sites, part=Part(sites=("site-2",)))
    assert {line.value["site"] for line in read_jsonl(sites / "jsonl")} == {"site-2"}

    runs = tmp_path / "runs"
    report = await replay(logged, [JsonlReceiver(name="replay-a")], workspace=runs, part=Part(runs=("silent",)))
    assert {line.value["run"] for line in read_jsonl(runs / "jsonl")} == {"silent"}
    assert report.line("replay-a").left == 0

    (key,) = [
        one.header.key
        for one in JournalReader(logged / "journal", open_unchanged).partitions()
        if "site-1" in one.header.key
    ]
    later = tmp_path / "later"
    await replay(logged, [JsonlReceiver(name="replay-a")], workspace=later, part=Part(after={key: 7}))
    assert steps(later / "jsonl", "failed") == [4, 5]
    assert len(steps(later / "jsonl", "broken")) == 5


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("jsonl", Part(sites=("site-1",)), "a cursor that leaves events out is no receiver's"),
        ("jsonl", Part(after={"site-1/0-a1": 3}), "a cursor that leaves events out is no receiver's"),
        ("replay-jsonl", Part(sites=("site-1",)), "was begun for other sites or runs"),
    ],
)
async def test_a_part_never_passes_for_the_whole(logged: Path, name: str, part: Part, message: str) -> None:
    await replay(logged, [JsonlReceiver(name="replay-jsonl")])
    with pytest.raises(ConfigurationError, match=message):
        await replay(logged, [JsonlReceiver(name=name)], part=part)


async def test_a_destination_of_another_receiver_is_refused_and_nothing_is_left_behind(logged: Path) -> None:
    await replay(logged, [JsonlReceiver()])
    with pytest.raises(SubscriptionError, match="is filled by the receiver 'jsonl'"):
        await replay(logged, [JsonlReceiver(name="replay-jsonl")])
    assert cursors(logged) == ["jsonl"]


async def test_what_is_no_journal_is_refused(tmp_path: Path, logged: Path) -> None:
    with pytest.raises(WorkspaceError, match="holds no journal"):
        await replay(tmp_path / "nothing", [JsonlReceiver()])
    elsewhere = tmp_path / "copied"
    (logged / "journal").rename(elsewhere)
    with pytest.raises(ConfigurationError, match="say where the trackers' files go"):
        await replay(elsewhere, [JsonlReceiver()])
    report = await replay(elsewhere, [JsonlReceiver()], workspace=tmp_path / "to")
    assert report.line("jsonl").delivered == 20


async def test_a_dead_tracker_ends_a_replay_in_time_and_the_next_one_goes_on(logged: Path) -> None:
    with anyio.fail_after(30):
        report = await replay(logged, [JsonlReceiver(python="/nowhere/python")], idle_timeout=1)
    assert (report.drained, report.complete, report.line("jsonl").left) == (False, False, 20)
    assert (await replay(logged, [JsonlReceiver()])).complete


# --- dead letters ---------------------------------------------------------------------------------------------------


async def put_aside(workspace: Path, receiver: str) -> None:
    """Make dead letters of the local records of a workspace: what a receiver of federated ones has not stored."""
    reader = JournalReader(workspace / "journal", open_unchanged)
    dead = SqliteJournal(workspace / "dead" / receiver, Origin(site="nobody", rank=0, incarnation="a1", job="job"))
    for record in reader.read({}, 1000):
        if b"local" in record.body:
            batch = RelayedBatch(
                header=record.header, first=record.seq, last=record.seq, records=((record.seq, record.body),)
            )
            await dead.append(batch)
    dead.close()
    reader.close()


def log_some(bus: EventBus, steps: Sequence[int], dead: Sequence[int]) -> None:
    bus.publish(RunStarted(name="run", group="job"), run="run", scope=Scope.FEDERATED)
    for step in steps:
        scope, mark = (Scope.LOCAL, "local") if step in dead else (Scope.FEDERATED, "loss")
        bus.publish(MetricsLogged(values={mark: float(step)}, step=step), run="run", scope=scope)
    bus.publish(RunFinished(status="FAILED", reason="it fell"), run="run", scope=Scope.FEDERATED)


async def with_dead_letters(workspace: Path, receiver: Receiver) -> None:
    """Let a receiver store a run but for steps 3 and 6, which it put aside."""
    async with EventBus(workspace, site="site-1", job="job") as bus:
        bus.subscribe(TRACKING.federated, receiver)
        log_some(bus, range(8), dead=(3, 6))
    assert bus.report().complete, str(bus.report())
    await put_aside(workspace, receiver.name)


def crashing(times: int, at: Literal["open", "flush"] = "flush") -> Receiver:
    """A JSON lines receiver whose worker dies so often behind row 8, which the run has without its dead letters."""
    config = CrashingConfig(path="jsonl", at=at, after_rows=8 if at == "open" else 9, times=times)
    return Receiver(config, name="tested", flush=SMALL_BATCHES)


async def test_dead_letters_go_into_the_file_of_their_run(tmp_path: Path) -> None:
    await with_dead_letters(tmp_path, JsonlReceiver())
    folder = tmp_path / "jsonl"
    assert steps(folder, "run") == [0, 1, 2, 4, 5, 7]  # the control
    first = await replay(tmp_path / "dead" / "jsonl", [JsonlReceiver()])
    second = await replay(tmp_path / "dead" / "jsonl", [JsonlReceiver()])
    assert (first.line("jsonl").delivered, second.line("jsonl").delivered) == (2, 0)
    assert steps(folder, "run") == [0, 1, 2, 4, 5, 7, 3, 6]
    lines = [line.value for line in read_jsonl(folder / "run")]
    assert (lines[-1]["type"], lines[-1]["status"], lines[-1]["reason"]) == ("RunStatus", "FAILED", "it fell")
    assert [line["number"] for line in lines if "number" in line] == list(range(1, 11))

    async with EventBus(tmp_path, site="site-1", job="job") as bus:  # the receiver goes on in the same file
        bus.subscribe(TRACKING.federated, JsonlReceiver())
        log_some(bus, [8], dead=())
    assert steps(folder, "run") == [0, 1, 2, 4, 5, 7, 3, 6, 8]


async def test_a_replay_of_dead_letters_that_crashes_doubles_nothing(tmp_path: Path) -> None:
    await with_dead_letters(tmp_path, crashing(0))
    report = await replay(tmp_path / "dead" / "tested", [crashing(1)])
    assert report.line("tested").failed == 1
    assert steps(tmp_path / "jsonl", "run") == [0, 1, 2, 4, 5, 7, 3, 6]


async def test_the_receiver_ends_what_a_replay_of_its_dead_letters_began(tmp_path: Path) -> None:
    await with_dead_letters(tmp_path, crashing(0))
    report = await replay(tmp_path / "dead" / "tested", [crashing(1000, "open")], idle_timeout=2)  # no event's fault
    assert not report.drained
    assert look_at_consumer(tmp_path / "cursors" / "tested.db").unfinished == 1  # the control
    async with EventBus(tmp_path, site="site-1", job="job") as bus:
        bus.subscribe(TRACKING, crashing(0))
    assert bus.report().complete, str(bus.report())
    assert steps(tmp_path / "jsonl", "run") == [0, 1, 2, 4, 5, 7, 3, 6]
    assert (await replay(tmp_path / "dead" / "tested", [crashing(0)])).line("tested").delivered == 0


async def test_what_is_refused_once_more_is_counted(tmp_path: Path) -> None:
    await with_dead_letters(tmp_path, crashing(0))
    source = find_source(tmp_path / "dead" / "tested")
    before = count_refused_again(source)
    report = await replay(source.journal, [crashing(1000)])
    assert (before, count_refused_again(source)) == (0, 2)
    assert (report.line("tested").dropped, report.complete) == (2, False)
    assert steps(tmp_path / "jsonl", "run") == [0, 1, 2, 4, 5, 7]


@pytest.mark.slow  # three workers that import MLflow
async def test_dead_letters_go_into_the_same_run_of_mlflow(tmp_path: Path) -> None:
    with anyio.fail_after(110):
        await with_dead_letters(put_mlflow_store(tmp_path), MLflowReceiver())
        (before,) = read_mlflow_runs(tmp_path / "mlflow.db")
        await replay(tmp_path / "dead" / "mlflow", [MLflowReceiver()])
        await replay(tmp_path / "dead" / "mlflow", [MLflowReceiver()])
    (after,) = read_mlflow_runs(tmp_path / "mlflow.db")
    points = [(row.key, row.step) for row in read_mlflow(tmp_path / "mlflow.db") if row.kind == "metric"]
    assert sorted(points) == [("local", 3), ("local", 6), *(("loss", step) for step in (0, 1, 2, 4, 5, 7))]
    assert (after.run_id, after.status, after.tags["trackbus.reason"]) == (before.run_id, "FAILED", "it fell")


async def test_dead_letters_go_nowhere_else(tmp_path: Path) -> None:
    await with_dead_letters(tmp_path, JsonlReceiver())
    dead = tmp_path / "dead" / "jsonl"
    with pytest.raises(ConfigurationError, match="these are dead letters of the receiver 'jsonl'"):
        await replay(dead, [JsonlReceiver(name="replay-jsonl")])
    with pytest.raises(ConfigurationError, match="leave the workspace as it is"):
        await replay(dead, [JsonlReceiver()], workspace=tmp_path / "other")
    with pytest.raises(ConfigurationError, match="as a whole"):
        await replay(dead, [JsonlReceiver()], part=Part(sites=("site-1",)))
    with pytest.raises(SubscriptionError, match="belongs to"):
        await replay(dead, [TensorBoardReceiver(name="jsonl")])
