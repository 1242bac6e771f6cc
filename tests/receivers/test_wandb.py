"""W&B's sink with the real SDK: what it wrote is read back from the files, or from a server on the loopback."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf, isnan, nan
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import wandb
from readback import WandbRun, read_wandb_runs
from servers.wandb_server import WandBServer
from waiting import wait_until

from eventbus import Envelope, Event, Origin, Scope
from eventbus.errors import ConfigurationError, MissingExtraError
from eventbus.tracking import (
    AlertRaised,
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    RunStatus,
    TagsSet,
    TextLogged,
)
from receivers import _wandb_args, _wandb_login, _wandb_server
from receivers._wandb_args import run_id
from receivers._wandb_file import WandBLog, recover, run_files
from receivers._wandb_rows import changes
from receivers._wandb_share import Held, share_of
from receivers.abc import NotAuthorisedError, Position, Row, RunInfo, TrackerRun, TrackerUnavailableError
from receivers.testing import check_sink
from receivers.wandb import WandBConfig, WandBSink

ORIGIN = Origin(site="site-1", rank=0, incarnation="i1", job="job")
START_NS = 1_790_000_000_000_000_000


class Unknown(Event):
    """An event of somebody's own."""

    value: int = 0


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a worker's environment holds, and nobody's own login."""
    for name, value in WandBConfig().environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    yield
    wandb.teardown()  # the next test's environment counts from the start


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandBServer]:
    with WandBServer() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
        running.heal()
        wandb.teardown()


def info(name: str = "exp", site: str = "site-1") -> RunInfo:
    return RunInfo(id=name, site=site, name=name, group="job", started_ns=START_NS)


def plan(events: Sequence[Event], first: int = 1) -> list[Row]:
    """Rows as a worker numbers them, a second apart."""
    return [
        Row(number, Envelope(event, "t", Scope.LOCAL, "exp", START_NS + number * 10**9, ORIGIN, number))
        for number, event in enumerate(events, first)
    ]


def metric(value: float, step: int | None = None, key: str = "loss") -> MetricsLogged:
    return MetricsLogged(values={key: value}, step=step)


def opened(workspace: Path, *, row: int = 0, run: RunInfo | None = None, **config: Any) -> WandBSink:
    sink = WandBSink(WandBConfig(**config), workspace)
    sink.open(run or info(), Position(row))
    return sink


def store(workspace: Path, events: Sequence[Event], status: RunStatus | None = RunStatus.FINISHED) -> WandbRun:
    """One run from its beginning to its end, read back."""
    sink = opened(workspace)
    sink.write(plan(events))
    assert sink.close(status) == Position(len(events))
    return read_wandb_runs(workspace)[-1]


def lines(run: WandbRun) -> list[dict[str, Any]]:
    """The history without what W&B adds."""
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in run.history]


# ------------------------------------------------------------------------------------------------ what it stores
def test_a_row_has_our_number_the_users_step_and_the_time_it_was_logged(tmp_path: Path) -> None:
    run = store(tmp_path, [RunStarted(name="exp"), metric(0.5, 7), MetricsLogged(values={"a": 1.0}, main_tag="m")])

    assert lines(run) == [{"loss": 0.5, "global_step": 7}, {"m/a": 1}]
    assert [(row["_step"], row["_timestamp"]) for row in run.history] == [(2, 1790000002.0), (3, 1790000003.0)]
    assert (run.name, run.group, run.project, run.run_id) == ("site-1-exp", "job", "job", "exp.site-1")
    assert (run.exit_code, run.config["trackbus"]) == (0, {"status": "FINISHED"})


def test_late_and_repeated_steps_are_kept(tmp_path: Path) -> None:
    steps = [5, 3, 3, 9, 0, 2**62 + 1]

    run = store(tmp_path, [metric(float(n), step) for n, step in enumerate(steps)])

    assert [(row["loss"], row["global_step"]) for row in run.history] == list(enumerate(steps))


def test_metrics_of_one_step_share_a_row_unless_a_key_comes_twice(tmp_path: Path) -> None:
    events = [
        metric(1.0, 1, "a"), metric(2.0, 1, "b"), metric(3.0, 1, "a"), metric(4.0, 2, "b"),
        metric(5.0, None, "a"), metric(6.0, None, "b"), TextLogged(key="t", text="x", step=2), metric(7.0, 2, "c"),
    ]  # fmt: skip

    run = store(tmp_path, events)

    assert lines(run) == [
        {"a": 1, "b": 2, "global_step": 1},
        {"a": 3, "global_step": 1},
        {"b": 4, "global_step": 2},
        {"a": 5},
        {"b": 6},
        {"t": "x", "global_step": 2},
        {"c": 7, "global_step": 2},
    ]
    assert [row["_step"] for row in run.history] == [2, 3, 4, 5, 6, 7, 8]


def test_rows_are_not_merged_across_batches(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    sink.write(plan([metric(1.0, 1, "a")]))
    sink.write(plan([metric(2.0, 1, "b")], first=2))
    sink.close(RunStatus.FINISHED)

    assert [row["_step"] for row in read_wandb_runs(tmp_path)[0].history] == [1, 2]


def test_nan_and_infinities_come_back(tmp_path: Path) -> None:
    run = store(tmp_path, [MetricsLogged(values={"a": nan, "b": inf, "c": -inf}), ParamsLogged(values={"p": -inf})])

    assert isnan(run.history[0]["a"])
    assert (run.history[0]["b"], run.history[0]["c"], run.config["p"]) == (inf, -inf, "-Infinity")


def test_params_config_and_tags_merge_into_the_config(tmp_path: Path) -> None:
    events = [
        ParamsLogged(values={"lr": 0.1, "name": "net", "flag": True}),
        ConfigUpdated(values={"net": {"depth": 2, "act": {"kind": "relu"}}, "list": [1, {"a": None}]}),
        ConfigUpdated(values={"net": {"act": {"slope": 0.1}}, "lr": 0.2}),
        TagsSet(values={"stage": "draft", "long": "x" * 80}),
        TagsSet(values={"stage": "final"}),
    ]

    run = store(tmp_path, events)

    config = {key: value for key, value in run.config.items() if key != "_wandb"}
    assert config == {
        "lr": 0.2,
        "name": "net",
        "flag": True,
        "net": {"depth": 2, "act": {"kind": "relu", "slope": 0.1}},
        "list": [1, {"a": None}],
        "trackbus": {"tags": {"stage": "final", "long": "x" * 80}, "status": "FINISHED"},
    }
    assert run.tags == ("stage=final",)


def test_what_the_user_gave_for_wandb_init_arrives(tmp_path: Path) -> None:
    given = {"project": "p", "name": "n", "group": "g", "job_type": "train", "tags": ["t"], "config": {"seed": 1}}
    sink = opened(tmp_path, wandb_args={**given, "dir": "elsewhere"})
    sink.write(plan([TagsSet(values={"k": "v"})]))
    sink.close(RunStatus.FINISHED)

    (run,) = read_wandb_runs(tmp_path / "elsewhere" / "wandb")
    assert (run.project, run.name, run.group, run.job_type) == ("p", "site-1-n", "g", "train")
    assert (run.tags, run.config["seed"]) == (("t", "k=v"), 1)


def test_texts_are_fields_of_the_history(tmp_path: Path) -> None:
    text = 'žluťoučký "kůň"\n\x00' + "x" * 100_000

    run = store(tmp_path, [TextLogged(key="note", text=text, step=3), TextLogged(key="a/b.txt", text="", is_file=True)])

    assert lines(run) == [{"note": text, "global_step": 3}, {"a/b.txt": ""}]


def test_names_that_wandb_uses_itself_are_changed_and_counted(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    events = [
        MetricsLogged(values={"_step": 1.0, "user_step": 2.0, "global_step": 3.0}, step=8),
        MetricsLogged(values={"global_step": 4.0}),
        ParamsLogged(values={"_wandb": 1, "trackbus": 2, "--": 3, "-a": 4, "a": 5}),
    ]
    sink.write(plan(events))
    sink.close(RunStatus.FINISHED)

    (run,) = read_wandb_runs(tmp_path)
    assert lines(run) == [
        {"user_step": 1, "user_user_step": 2, "user_global_step": 3, "global_step": 8},
        {"global_step": 4},
    ]
    assert {key: value for key, value in run.config.items() if key != "_wandb"} == {
        "user_wandb": 1, "user_trackbus": 2, "user_": 3, "user_a": 4, "a": 5, "trackbus": {"status": "FINISHED"},
    }  # fmt: skip
    assert sink.counts == {"renamed key": 7}


def test_what_looks_like_a_link_to_an_artifact_is_not_followed(tmp_path: Path) -> None:
    values = {
        "link": "wandb-artifact://a/b/c:v0",
        "deep": {"_type": "artifactVersion", "id": "x", "l": ["wandb-artifact:"]},
    }

    run = store(tmp_path, [ConfigUpdated(values=values)])

    assert run.config["link"] == "artifact://a/b/c:v0"
    assert run.config["deep"] == {"user_type": "artifactVersion", "id": "x", "l": ["artifact:"]}


def test_unknown_events_are_counted_and_passed(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    sink.write(plan([metric(1.0), Unknown(), Unknown(), RunFinished(status="FINISHED")]))

    assert sink.close(RunStatus.FINISHED) == Position(4)
    assert sink.counts == {"unsupported Unknown": 2}


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(RunStatus.FINISHED, 0), (RunStatus.FAILED, 1), (RunStatus.KILLED, 255)],
)
def test_the_end_of_a_run_is_told(tmp_path: Path, status: RunStatus, exit_code: int) -> None:
    sink = opened(tmp_path)
    sink.write(plan([metric(1.0)]))
    sink.close(status, "why")

    (run,) = read_wandb_runs(tmp_path)
    assert run.exit_code == exit_code
    assert run.config["trackbus"] == {"status": status.value, "reason": "why"}


def test_a_machine_leaves_no_trace_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/somebody/of-this-machine/train.py"])

    store(tmp_path, [metric(1.0)])

    written = b"".join(file.read_bytes() for file in (tmp_path / "wandb").rglob("*") if file.is_file())
    assert b"of-this-machine" not in written
    assert sys.executable.encode() not in written


# --------------------------------------------------------------------------------------------- positions, resuming
@pytest.mark.parametrize(
    "events",
    [
        [ParamsLogged(values={"a": 1})] * 3,
        [TagsSet(values={"a": "b"}), RunStarted(name="x"), Unknown()],
        [RunStarted(name="x"), Unknown()],
        [metric(1.0), metric(2.0), ConfigUpdated(values={"a": {"b": 1}}), RunFinished(status="FAILED")],
    ],
)
def test_flush_reaches_the_last_row_whatever_it_holds(tmp_path: Path, events: list[Event]) -> None:
    sink = opened(tmp_path)
    sink.write(plan(events))

    wait_until(lambda: sink.flush() == Position(len(events)))
    sink.close(RunStatus.FINISHED)


def test_a_run_that_was_left_goes_on_with_all_it_had(tmp_path: Path) -> None:
    sink = opened(tmp_path, wandb_args={"tags": ["base"]})
    sink.write(
        plan([ParamsLogged(values={"lr": 1}), TagsSet(values={"k": "v"}), metric(1.0, 1, "early"), metric(2.0, 2)])
    )
    sink.close(None)
    sink = WandBSink(WandBConfig(wandb_args={"tags": ["base"]}), tmp_path)
    assert sink.open(info(), Position(0)) == 4
    sink.write(plan([metric(2.0, 2), metric(3.0, 3)], first=4))
    sink.close(RunStatus.KILLED)

    first, second = read_wandb_runs(tmp_path)
    assert (first.run_id, first.exit_code, "trackbus.status" in first.config) == (second.run_id, 1, False)
    assert [row["_step"] for row in first.history + second.history] == [3, 4, 5]
    assert (second.config["lr"], second.config["trackbus"]) == (1, {"tags": {"k": "v"}, "status": "KILLED"})
    assert (second.tags, second.summary["early"], second.summary["loss"]) == (("base", "k=v"), 1, 3)


def test_a_run_opened_after_its_end_has_no_status_until_it_ends_again(tmp_path: Path) -> None:
    store(tmp_path, [metric(1.0)], RunStatus.KILLED)
    opened(tmp_path).close(None)

    assert "trackbus" not in read_wandb_runs(tmp_path)[1].config


def test_the_committed_position_counts_where_the_files_are_gone(tmp_path: Path) -> None:
    sink = WandBSink(WandBConfig(), tmp_path)

    assert sink.open(info(), Position(10)) == 10
    sink.write(plan([metric(1.0), metric(2.0)], first=10))
    sink.close(RunStatus.FINISHED)
    assert [row["_step"] for row in read_wandb_runs(tmp_path)[0].history] == [11]


def test_twenty_runs_live_in_one_process(tmp_path: Path) -> None:
    sinks = [opened(tmp_path, run=info(site=f"site-{n}")) for n in range(20)]
    for first in range(1, 51, 10):
        for n, sink in enumerate(sinks):
            sink.write(plan([metric(float(n), step) for step in range(first, first + 10)], first))
    for sink in sinks:
        assert sink.close(RunStatus.FINISHED) == Position(50)

    runs = read_wandb_runs(tmp_path)
    assert {run.name for run in runs} == {f"site-{n}-exp" for n in range(20)}
    for run in runs:
        assert [row["global_step"] for row in run.history] == list(range(1, 51))
        assert {f"site-{row['loss']}-exp" for row in run.history} == {run.name}


def test_ten_thousand_rows_are_all_kept(tmp_path: Path) -> None:
    rows = plan([metric(float(step), step) for step in range(10_000)])
    sink = opened(tmp_path)
    for first in range(0, 10_000, 500):
        sink.write(rows[first : first + 500])
        sink.flush()
    sink.close(RunStatus.FINISHED)

    assert [row["loss"] for row in read_wandb_runs(tmp_path)[0].history] == list(range(10_000))


def test_a_worker_that_ends_without_closing_is_no_success(tmp_path: Path) -> None:
    child = (
        "import sys; from pathlib import Path; from receivers.abc import Position, RunInfo\n"
        "from receivers.wandb import WandBConfig, WandBSink\n"
        "WandBSink(WandBConfig(), Path(sys.argv[1])).open(RunInfo('exp', 'site-1', 'exp', '', 0), Position(0))\n"
    )
    subprocess.run([sys.executable, "-P", "-c", child, str(tmp_path)], env=child_environment(), check=True, timeout=60)

    wait_until(lambda: read_wandb_runs(tmp_path)[0].exit_code == 1)


def content(workspace: Path, run: RunInfo) -> list[object]:
    """All that the files hold of a run, less the columns of W&B's own and how the run ended."""
    runs = [found for found in read_wandb_runs(workspace) if found.run_id == run_id(run)]
    rows = [sorted(line.items()) for found in runs for line in lines(found)]
    config = {key: value for key, value in runs[-1].config.items() if key != "_wandb"} if runs else {}
    ours = config.pop("trackbus", {})
    return [*rows, json.dumps([config, ours.get("tags", {})], sort_keys=True)]


def helper_is_gone(pid: int) -> bool:
    """Whether the SDK's helper of a process has ended; its command line names the process."""
    return not any(f"--pid\0{pid}\0" in _read(entry / "cmdline") for entry in Path("/proc").glob("[0-9]*"))


@pytest.mark.slow
def test_the_contract_of_a_sink_is_kept(tmp_path: Path) -> None:
    check_sink(
        lambda: WandBSink(WandBConfig(), tmp_path),
        lambda run: content(tmp_path, run),
        after_kill=lambda pid: wait_until(lambda: helper_is_gone(pid)),
    )


# ------------------------------------------------------------------------------------------------------ kill -9
UNIT = 5  # rows
FAST = {"settings": {"x_file_stream_transmit_interval": 0.2}}


def kill_plan(units: int) -> list[list[Row]]:
    """Batches of 20 units; each unit fills three rows of the history and updates the config."""
    events = [event for unit in range(1, units + 1) for event in _unit(unit)]
    rows = plan(events)
    return [rows[start : start + 20 * UNIT] for start in range(0, len(rows), 20 * UNIT)]


def _unit(unit: int) -> list[Event]:
    return [
        metric(unit, unit),
        metric(-unit, unit, "acc"),
        metric(unit, 0, "late"),
        ParamsLogged(values={f"p{unit % 7}": unit}),
        TextLogged(key="note", text=str(unit), step=unit),
    ]


def planned(units: int) -> list[dict[str, Any]]:
    return [
        line
        for unit in range(1, units + 1)
        for line in (
            {"loss": unit, "acc": -unit, "global_step": unit},
            {"late": unit, "global_step": 0},
            {"note": str(unit), "global_step": unit},
        )
    ]


def work(workspace: Path, mode: str, units: int) -> None:
    """What a worker does: writes the batches after its cursor, and moves it to what is stored."""
    cursor = workspace / "cursor"
    committed = int(cursor.read_text()) if cursor.exists() else 0
    sink = WandBSink(WandBConfig(mode=mode, wandb_args=FAST), workspace)
    sink.open(info(), Position(committed))
    batches = [batch for batch in kill_plan(units) if batch[-1].number > committed]

    def commit() -> int:
        stored = sink.flush().row
        done = max([committed, *(batch[-1].number for batch in batches if batch[-1].number <= stored)])
        new = cursor.with_suffix(".new")
        new.write_text(str(done))
        new.replace(cursor)
        return done

    for batch in batches:
        sink.write(batch)
        commit()
    if batches:
        wait_until(lambda: commit() == batches[-1][-1].number)  # what is written is in the file some time later
    sys.stdin.read()  # one that is to be killed waits for it
    sink.close(RunStatus.FINISHED)


class Worker:
    """A child that runs `work`, with a mark in its environment that its helpers inherit."""

    def __init__(self, workspace: Path, mode: str, units: int, *, stays: bool = False) -> None:
        self.workspace = workspace
        self.mark = uuid4().hex
        here = Path(__file__).resolve().parent
        code = "import sys; from pathlib import Path; from test_wandb import work; "
        code += "work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(workspace), mode, str(units)],
            stdin=subprocess.PIPE if stays else subprocess.DEVNULL,
            env=child_environment(here) | {"TEST_MARK": self.mark},
        )

    def committed(self) -> int:
        cursor = self.workspace / "cursor"
        return int(cursor.read_text()) if cursor.exists() else 0

    def processes(self) -> list[int]:
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self.mark in _read(entry / "environ")]

    def kill(self, *, everything: bool = False) -> None:
        """Kill the worker, and wait for the helpers as a supervisor does: they write on for a while."""
        for pid in self.processes() if everything else [self.process.pid]:
            os.kill(pid, signal.SIGKILL)
        assert self.process.wait() == -signal.SIGKILL
        if self.process.stdin is not None:
            self.process.stdin.close()
        wait_until(lambda: not self.processes())


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""  # it has ended, or is another user's


def child_environment(*folders: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), *sys.path])}


def kill_at_a_random_moment(workspace: Path, mode: str, units: int, *, everything: bool) -> None:
    worker = Worker(workspace, mode, units, stays=True)
    last = units * UNIT
    moment = random.randint(worker.committed(), (worker.committed() + last) // 2)
    wait_until(lambda: worker.committed() > moment)
    worker.kill(everything=everything)


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True])
def test_killed_thrice_every_row_stands_once_and_in_order(tmp_path: Path, everything: bool) -> None:
    units = 800
    for _ in range(3):
        kill_at_a_random_moment(tmp_path, "offline", units, everything=everything)
    assert Worker(tmp_path, "offline", units).process.wait(60) == 0

    runs = read_wandb_runs(tmp_path)
    assert [line for run in runs for line in lines(run)] == planned(units)
    assert {run.run_id for run in runs} == {"exp.site-1"}
    assert 1 < len(runs) <= 4  # one that was killed before it stored anything leaves no folder
    assert [run.exit_code for run in runs] == [None] * (len(runs) - 1) + [0]
    assert [runs[-1].config[f"p{n}"] for n in range(7)] == [max(range(n, units + 1, 7)) for n in range(7)]


def test_what_kills_left_is_synced_once_and_in_order(tmp_path: Path, server: WandBServer) -> None:
    units = 600
    kill_at_a_random_moment(tmp_path, "offline", units, everything=False)
    (torn,) = (tmp_path / "wandb").glob("*/*.wandb")
    os.truncate(torn, torn.stat().st_size - 3)
    assert Worker(tmp_path, "offline", units).process.wait(60) == 0
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))

    subprocess.run([sys.executable, "-P", "-m", "wandb", "sync", *folders], cwd=tmp_path, check=True, timeout=60)

    run = server.runs["exp.site-1"]
    assert [_own(row) for row in run.rows()] == planned(units)
    assert (run.exit_code, run.values()["p0"], run.values()["trackbus"]) == (0, 595, {"status": "FINISHED"})


def sync(workspace: Path, *arguments: str) -> None:
    """The command that `WandBConfig.look` names, of the real SDK."""
    command = [sys.executable, "-P", "-m", "wandb", "sync", *arguments, str(workspace / "wandb")]
    subprocess.run(command, cwd=workspace, check=True, timeout=60)


def open_write_close(workspace: Path, first: int, status: RunStatus | None) -> None:
    sink = opened(workspace, row=first - 1)
    sink.write(plan([ParamsLogged(values={"part": first}), metric(first, first), metric(-first, first)], first))
    assert sink.close(status) == Position(first + 2)


@pytest.mark.parametrize(
    "each", [pytest.param(True, id="one by one", marks=pytest.mark.faults), pytest.param(False, id="all at once")]
)
def test_the_folders_of_a_run_are_synced_to_one_history(tmp_path: Path, server: WandBServer, *, each: bool) -> None:
    """Each restart of a worker makes another folder; syncing again, or between two restarts, changes nothing."""
    for first, status in ((1, None), (4, None), (7, RunStatus.FAILED)):
        open_write_close(tmp_path, first, status)
        if each:
            sync(tmp_path)
    sync(tmp_path)
    sync(tmp_path)

    run = server.runs["exp.site-1"]
    assert [(row["_step"], row["loss"]) for row in run.rows()] == [
        (2, 1), (3, -1), (5, 4), (6, -4), (8, 7), (9, -7),
    ]  # fmt: skip
    assert (run.values(), run.exit_code) == ({"part": 7, "trackbus": {"status": "FAILED"}}, 1)
    assert (run.summary()["loss"], run.summary()["global_step"], run.rewritten) == (-7, 7, [])


@pytest.mark.faults
def test_to_sync_what_is_synced_doubles_it(tmp_path: Path, server: WandBServer) -> None:
    """What the guide warns of: the SDK remembers what it has synced in a file beside, unless told not to."""
    open_write_close(tmp_path, 1, RunStatus.FINISHED)
    sync(tmp_path)
    sync(tmp_path, "--include-synced")

    assert [row["loss"] for row in server.runs["exp.site-1"].rows()] == [1, -1, 1, -1]


def _own(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("_")}


def test_a_lost_helper_process_is_an_error_and_no_silence(tmp_path: Path) -> None:
    worker = Worker(tmp_path, "offline", 4000)
    wait_until(lambda: worker.committed() > 0)
    for pid in worker.processes():
        if pid != worker.process.pid:
            os.kill(pid, signal.SIGKILL)

    assert worker.process.wait(30) == 1
    assert worker.committed() < 4000 * UNIT


# ------------------------------------------------------------------------------------------------------- online
def test_online_a_run_stands_at_the_server(tmp_path: Path, server: WandBServer) -> None:
    sink = opened(tmp_path, mode="online", wandb_args={"entity": "tester", "notes": "n"})
    sink.write(plan([ParamsLogged(values={"lr": 1}), metric(nan, 3), metric(2.0, 1), TagsSet(values={"k": "v"})]))
    wait_until(lambda: sink.flush() == Position(4))
    sink.close(RunStatus.FAILED, "why")

    assert sink.tracker_run == TrackerRun("exp.site-1", f"{server.url}/tester/job/runs/exp.site-1")
    run = server.runs["exp.site-1"]
    assert (run.name, run.group, run.project, run.notes) == ("site-1-exp", "job", "job", "n")
    assert [(row["_step"], row["global_step"]) for row in run.rows()] == [(2, 3), (3, 1)]
    assert isnan(run.rows()[0]["loss"])
    assert run.values() == {"lr": 1, "trackbus": {"tags": {"k": "v"}, "status": "FAILED", "reason": "why"}}
    assert (run.complete, run.exit_code, run.tags) == (True, 1, ["k=v"])


def test_online_a_run_is_resumed_where_the_server_has_it(tmp_path: Path, server: WandBServer) -> None:
    sink = opened(tmp_path / "a", mode="online")
    sink.write(plan([ParamsLogged(values={"lr": 1}), metric(1.0), metric(2.0)]))
    sink.close(None)
    sink = WandBSink(WandBConfig(mode="online"), tmp_path / "b")
    assert sink.open(info(), Position(0)) == 3  # known from the server alone: this is another machine
    sink.write(plan([metric(2.0), metric(3.0)], first=3))
    sink.close(RunStatus.FINISHED)

    run = server.runs["exp.site-1"]
    assert [(row["_step"], row["loss"]) for row in run.rows()] == [(2, 1), (3, 2), (4, 3)]
    assert (run.values()["lr"], run.exit_code) == (1, 0)


def share(workspace: Path, journal: int, row: int, values: Sequence[float], **config: Any) -> WandBSink:
    """Fill the run from a journal whose first record is so old; its rows are numbered from 1."""
    sink = WandBSink(WandBConfig(**config), workspace)
    assert sink.open(replace(info(), started_ns=journal), Position(row)) >= row
    sink.write(plan([metric(value) for value in values]))
    assert sink.close(None) == Position(len(values))
    return sink


def test_online_rows_of_another_journal_are_not_taken_for_this_ones(tmp_path: Path, server: WandBServer) -> None:
    """The workspace is lost, the run's name is not: its rows stay, and the new ones go behind them, each once."""
    first = [float(value) for value in range(6)]
    second = [1000.0 + value for value in range(8)]
    share(tmp_path / "lost", 1, 0, first, mode="online")
    share(tmp_path / "new", 2, 0, second[:5], mode="online")
    share(tmp_path / "new", 2, 3, second[:7], mode="online")  # two rows come again
    shutil.rmtree(tmp_path / "new")
    share(tmp_path / "new", 2, 3, second, mode="online")  # known from the server alone

    rows = server.runs["exp.site-1"].rows()
    assert [row["loss"] for row in rows] == first + second
    assert [row["_step"] for row in rows] == list(range(1, 15))


def test_online_a_journal_that_comes_back_leaves_out_only_its_own(tmp_path: Path, server: WandBServer) -> None:
    quick = {"mode": "online", "wandb_args": FAST}
    share(tmp_path / "a", 1, 0, [1.0, 2.0], **quick)
    share(tmp_path / "b", 2, 0, [11.0, 12.0, 13.0], **quick)
    back = share(tmp_path / "a", 1, 2, [1.0, 2.0, 3.0, 4.0], **quick)
    again = share(tmp_path / "b", 2, 3, [11.0, 12.0, 13.0, 14.0], **quick)

    assert [row["loss"] for row in server.runs["exp.site-1"].rows()] == [1, 2, 11, 12, 13, 3, 4, 14]
    assert (back.counts, again.counts) == ({}, {})


@pytest.mark.usefixtures("impatient")
def test_online_rows_that_were_not_sent_before_another_journals_are_counted(
    tmp_path: Path, server: WandBServer
) -> None:
    server.fault("file_stream", hang=True)
    sink = opened(tmp_path / "a", mode="online")
    sink.write(plan([metric(1.0), metric(2.0)]))
    with pytest.raises(TrackerUnavailableError):
        sink.close(None)
    server.heal()
    share(tmp_path / "b", 2, 0, [11.0, 12.0, 13.0], mode="online")
    sink = opened(tmp_path / "a", mode="online", row=2)
    assert sink.counts == {"rows that may not have been sent": 2}
    sink.write(plan([metric(3.0)], first=3))
    sink.close(None)

    assert [row["loss"] for row in server.runs["exp.site-1"].rows()] == [11, 12, 13, 3]


def test_files_that_two_journals_share_hold_the_rows_alerts_and_artifacts_of_both(
    tmp_path: Path, server: WandBServer
) -> None:
    """Offline, below one `dir`; each of the second journal's openings comes after a crash that lost its position."""
    config = WandBConfig(wandb_args={"dir": str(tmp_path / "shared")})
    for journal, times in ((1, 1), (2, 3)):
        alert = AlertRaised(title=f"alert {journal}", text="x")
        rows = plan([alert, *(metric(10.0 * journal + value) for value in range(4)), alert])
        for _ in range(times):
            sink = WandBSink(config, tmp_path / str(journal))
            sink.open(replace(info(), started_ns=journal), Position(0))
            sink.write(rows)
            assert sink.close(None) == Position(6, "2")
    sync(tmp_path / "shared")

    run = server.runs["exp.site-1"]
    assert [row["loss"] for row in run.rows()] == [10, 11, 12, 13, 20, 21, 22, 23]
    alerts = [title for found in read_wandb_runs(tmp_path / "shared") for title, *_ in found.alerts]
    assert alerts == ["alert 1", "alert 1", "alert 2", "alert 2"]


def test_whose_the_last_rows_are() -> None:
    """By what the files say and what the server says; a server hears of a share some time after the files."""
    mine = share_of("1", Position(0), Held(0, 0, "", ""))
    theirs = share_of("2", Position(0), Held(9, 3, "", mine.text))
    back = share_of("1", Position(4, "1"), Held(12, 3, mine.text, theirs.text))

    assert (mine[:3], theirs[:3], back[:3]) == (("1", 0, 0), ("2", 9, 3), ("1", 8, 2))
    for in_files, at_server in (("", back.text), (back.text, ""), (back.text, back.text), (back.text, theirs.text)):
        assert share_of("1", Position(4, "1"), Held(20, 3, in_files, at_server)) == back
    for in_files, at_server in ((mine.text, theirs.text), ("", ""), ("what?", ""), ("", "1:x:0:")):
        assert share_of("1", Position(0), Held(20, 0, in_files, at_server)).offset == 20


@pytest.mark.slow
def test_online_killed_while_the_server_hangs_every_row_arrives_once(tmp_path: Path, server: WandBServer) -> None:
    units = 800
    kill_at_a_random_moment(tmp_path, "online", units, everything=False)
    server.fault("file_stream", hang=True)
    kill_at_a_random_moment(tmp_path, "online", units, everything=False)
    server.heal()
    assert Worker(tmp_path, "online", units).process.wait(60) == 0

    run = server.runs["exp.site-1"]
    assert [_own(row) for row in run.rows()] == planned(units)
    assert (run.complete, run.exit_code) == (True, 0)
    assert [run.values()[f"p{n}"] for n in range(7)] == [max(range(n, units + 1, 7)) for n in range(7)]


def test_online_errors_of_the_server_are_ridden_out(tmp_path: Path, server: WandBServer) -> None:
    server.fault("file_stream", status=500, times=2)
    quick = {"settings": {"x_file_stream_retry_wait_min_seconds": 0.1}}
    sink = opened(tmp_path, mode="online", wandb_args=quick)
    sink.write(plan([metric(1.0)]))
    sink.close(RunStatus.FINISHED)

    assert [row["loss"] for row in server.runs["exp.site-1"].rows()] == [1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK gives up, and we look at the server, after seconds."""
    for setting in ("init_timeout", "finish_timeout"):
        monkeypatch.setitem(_wandb_args._SETTINGS, setting, 2.0)
    monkeypatch.setattr(_wandb_server, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(_wandb_server, "CONFIRM_SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
def test_online_a_hanging_server_bounds_the_end_and_loses_nothing(tmp_path: Path, server: WandBServer) -> None:
    sink = opened(tmp_path, mode="online")
    server.fault("file_stream", hang=True)
    sink.write(plan([metric(1.0), metric(2.0)]))
    start = time.monotonic()
    with pytest.raises(TrackerUnavailableError, match="has not taken all"):
        sink.close(RunStatus.FINISHED)
    assert time.monotonic() - start < 10.0
    server.heal()
    sink = WandBSink(WandBConfig(mode="online"), tmp_path)
    assert sink.open(info(), Position(0)) == 2
    sink.close(RunStatus.FINISHED)

    assert [row["loss"] for row in server.runs["exp.site-1"].rows()] == [1, 2]


@pytest.mark.usefixtures("impatient")
def test_online_a_run_has_not_ended_before_the_server_says_so(tmp_path: Path, server: WandBServer) -> None:
    """One answer of this kind, and the SDK sends nothing any more, and says that all is well."""
    sink = opened(tmp_path, mode="online", wandb_args=FAST)
    server.fault("file_stream", status=403, times=1)
    sink.write(plan([metric(1.0), metric(2.0)]))
    with pytest.raises(TrackerUnavailableError, match="lacks rows after 0 of 2"):
        sink.close(RunStatus.FINISHED)
    assert server.runs["exp.site-1"].rows() == []

    sink = opened(tmp_path, mode="online", wandb_args=FAST)
    sink.close(RunStatus.FINISHED)
    assert [row["loss"] for row in server.runs["exp.site-1"].rows()] == [1, 2]


@pytest.mark.usefixtures("impatient")
def test_online_a_status_that_the_server_lacks_is_no_end(tmp_path: Path, server: WandBServer) -> None:
    sink = opened(tmp_path, mode="online", wandb_args=FAST)
    server.fault("UpsertBucket", status=400)
    sink.write(plan([metric(1.0)]))
    with pytest.raises(TrackerUnavailableError, match="has the status 'running' for 'KILLED'"):
        sink.close(RunStatus.KILLED)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("endpoint", "status", "said"),
    [
        ("file_stream", 403, "has taken no row after 0"),
        ("*", 401, "says 401"),
        ("RunPosition", 500, "does not answer"),
    ],
)
def test_online_a_server_that_takes_nothing_is_noticed(
    tmp_path: Path, server: WandBServer, endpoint: str, status: int, said: str
) -> None:
    sink = opened(tmp_path, mode="online", wandb_args=FAST)
    server.fault(endpoint, status=status)
    sink.write(plan([metric(1.0)]))

    with pytest.raises(TrackerUnavailableError, match=said):
        wait_until(lambda: sink.flush() is None)
    server.heal()
    with suppress(TrackerUnavailableError):
        sink.close(None)


@pytest.mark.usefixtures("impatient")
def test_online_a_server_that_is_down_is_unavailable_and_leaves_no_folders(tmp_path: Path, server: WandBServer) -> None:
    server.fault("*", drop=True)
    for _ in range(2):
        with pytest.raises(TrackerUnavailableError):
            opened(tmp_path, mode="online", wandb_args=FAST)
        wandb.teardown()
    server.heal()
    opened(tmp_path, mode="online", wandb_args=FAST).close(RunStatus.FINISHED)

    assert len(list((tmp_path / "wandb").glob("run-*"))) == 1


@pytest.mark.usefixtures("impatient")
def test_online_a_key_that_is_refused_needs_a_person(tmp_path: Path, server: WandBServer) -> None:
    server.fault("*", status=401)
    with pytest.raises(NotAuthorisedError, match="says 401"):
        opened(tmp_path, mode="online", wandb_args=FAST)


def test_online_a_run_that_was_deleted_is_counted_and_no_new_one_is(tmp_path: Path, server: WandBServer) -> None:
    sink = opened(tmp_path, mode="online", wandb_args=FAST)
    sink.write(plan([metric(1.0)]))
    sink.close(None)
    server.delete("exp.site-1")

    sink = opened(tmp_path, mode="online", wandb_args=FAST)
    sink.write(plan([metric(2.0), metric(3.0)], first=2))
    assert (sink.flush(), sink.counts) == (Position(3), {"run deleted at the server": 2})
    server.fault("UpsertBucket", status=403)
    with pytest.raises(TrackerUnavailableError):  # one that never was there is refused for another reason
        opened(tmp_path, mode="online", run=info("new"), wandb_args=FAST)


@pytest.mark.usefixtures("impatient")
def test_online_rows_are_sent_whatever_the_order_of_the_files(tmp_path: Path, server: WandBServer) -> None:
    """A clock that went back gives the later folder the earlier name."""
    server.fault("file_stream", status=403)
    for first in (1, 3):
        sink = opened(tmp_path, mode="online", row=first - 1, wandb_args=FAST)
        sink.write(plan([metric(float(first)), metric(first + 1.0)], first=first))
        with pytest.raises(TrackerUnavailableError):
            sink.close(None)
    server.heal()
    folders = sorted((tmp_path / "wandb").glob("run-*"))
    folders[-1].rename(tmp_path / "wandb" / f"run-19990101_000000-{folders[-1].name[20:]}")
    opened(tmp_path, mode="online", wandb_args=FAST).close(RunStatus.FINISHED)

    assert [row["loss"] for row in server.runs["exp.site-1"].rows()] == [1, 2, 3, 4]


# ------------------------------------------------------------------------------------------------------ the fallback
def settled(**config: Any) -> WandBConfig:
    return WandBConfig(mode="online", fallback="offline", **config).settle()


def test_the_fallback_is_taken_without_a_key_or_a_server(
    tmp_path: Path, server: WandBServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = WandBConfig(mode="online", fallback="offline")
    config.check(tmp_path)
    assert settled().mode == "online"

    with monkeypatch.context() as no_key:
        no_key.delenv("WANDB_API_KEY")
        config.check(tmp_path)
        assert settled().mode == "offline"
        assert "needs an API key" in caplog.records[-1].getMessage()

    server.fault("*", hang=True)
    monkeypatch.setattr(_wandb_login, "REACH_SECONDS", 0.2)
    assert settled().mode == "offline"
    assert "gives no sign of life" in caplog.records[-1].getMessage()
    server.fault("*", status=503)
    assert settled().mode == "offline"
    server.fault("*", status=404)
    monkeypatch.setattr(_wandb_login, "REACH_SECONDS", 4.0)
    assert settled().mode == "online"


def test_what_the_fallback_recorded_is_counted_and_sent_when_the_run_goes_on(
    tmp_path: Path, server: WandBServer
) -> None:
    offline = WandBConfig(mode="offline", fallback="offline", wandb_args=FAST)
    sink = WandBSink(offline, tmp_path)
    sink.open(info(), Position(0))
    sink.write(plan([ParamsLogged(values={"lr": 1}), metric(1.0), metric(2.0)]))
    sink.close(None)
    assert sink.counts == {"recorded offline, for `wandb sync`": 3}
    assert "wandb sync" in offline.look(tmp_path)

    sink = WandBSink(WandBConfig(mode="online", fallback="offline", wandb_args=FAST), tmp_path)
    assert sink.open(info(), Position(0)) == 3
    sink.write(plan([metric(2.0), metric(3.0)], first=3))
    sink.close(RunStatus.FINISHED)

    run = server.runs["exp.site-1"]
    assert ([row["loss"] for row in run.rows()], run.values()["lr"]) == ([1, 2, 3], 1)


def test_a_fallback_of_what_is_not_online_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="for mode='online'"):
        WandBConfig(fallback="offline").check(tmp_path)


# -------------------------------------------------------------------------------------------------------- settings
def refusal(tmp_path: Path, mode: str = "offline", **wandb_args: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        WandBConfig(mode=mode, wandb_args=wandb_args).check(tmp_path)
    return str(raised.value)


def test_online_without_a_key_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "wandb login" in refusal(tmp_path, "online")
    assert "mode='offline'" in refusal(tmp_path, "online")
    monkeypatch.setenv("WANDB_BASE_URL", "https://user:secret@wandb.example:8443")
    assert "for wandb.example:8443:" in refusal(tmp_path, "online")


@pytest.mark.parametrize(
    ("key", "problem"),
    [("abc", "has 3 characters"), ("local-" + "a" * 39, "has 39 characters"), ("a b" * 20, "may only contain")],
)
def test_a_key_that_can_be_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, problem: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", key)

    message = refusal(tmp_path, "online")

    assert problem in message
    assert key not in message


@pytest.mark.parametrize("machine", ["api.wandb.ai", "api.forge.coreweave.com", "wandb.example:8443"])
def test_a_login_of_the_sdk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    (tmp_path / "netrc").write_text(f"machine {machine}\n  login user\n  password {'a' * 40}\n")
    if ":" in machine:
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "settings").write_text(f"[default]\nbase_url = https://{machine}\n")

    WandBConfig(mode="online").check(tmp_path)

    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example")
    assert "other.example" in refusal(tmp_path, "online")


@pytest.mark.parametrize(
    ("wandb_args", "problem"),
    [
        ({"id": "x", "resume": True}, "id, resume can't be set"),
        ({"projct": "x"}, "known are config, dir"),
        ({"project": "a/b"}, "none of /"),
        ({"project": "x" * 129}, "up to 128 characters"),
        ({"name": 3}, "name must be a text"),
        ({"tags": "one"}, "must be a list"),
        ({"tags": ["x" * 65]}, "1 to 64 characters"),
        ({"config": [1]}, "config must be a dict"),
        ({"config": {"a": object()}}, "as JSON"),
        ({"settings": {"api_key": "x"}}, "WANDB_API_KEY"),
        ({"settings": {"mode": "online", "symlink": True}}, "settings mode, symlink"),
        ({"settings": "x"}, "must be a dict"),
        ({"settings": {"base_url": 1}}, "base_url must be a text"),
        ({"dir": "file"}, "is a file"),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path: Path, wandb_args: dict[str, Any], problem: str) -> None:
    (tmp_path / "file").touch()

    assert problem in refusal(tmp_path, **wandb_args)


def test_without_the_sdk_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)

    assert "pip install 'trackbus[wandb]'" in refusal(tmp_path)
    with pytest.raises(MissingExtraError):
        opened(tmp_path)


def test_the_config_loads_no_sdk() -> None:
    code = "import sys; from receivers.wandb import WandBConfig; WandBConfig().check; print('wandb' in sys.modules)"
    command = [sys.executable, "-P", "-c", code]

    assert subprocess.check_output(command, env=child_environment(), text=True, timeout=60) == "False\n"


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "shared") == "unknown mode 'shared': use one of online, offline, disabled"


def test_an_address_without_a_scheme_is_refused(tmp_path: Path) -> None:
    assert "https://host" in refusal(tmp_path, "online", settings={"base_url": "localhost:8080"})


def test_settings_travel_as_json() -> None:
    config = WandBConfig(wandb_args={"tags": ("a",), "config": {"x": inf}, "dir": Path("d")})

    back = WandBConfig.model_validate_json(config.model_dump_json())

    assert back.wandb_args == {"tags": ["a"], "config": {"x": inf}, "dir": "d"}


def test_the_destination_and_the_way_to_look_name_no_secret(tmp_path: Path) -> None:
    online = WandBConfig(
        mode="online",
        wandb_args={"entity": "e", "project": "p", "settings": {"base_url": "http://user:secret@host:1"}},
    )
    spaced = tmp_path / "a b"

    assert online.destination(tmp_path) == "wandb:online:host:1/e/p"
    assert online.look(tmp_path) == "http://host:1/e/p"
    assert WandBConfig(mode="online").look(tmp_path) == "https://wandb.ai"
    assert WandBConfig().look(spaced) == f"wandb sync '{spaced}/wandb'/offline-run-*"
    assert WandBConfig().destination(tmp_path) == f"wandb:offline:{tmp_path}"
    assert WandBConfig(mode="disabled").look(tmp_path) == ""


def test_disabled_stores_nothing_and_says_so(tmp_path: Path) -> None:
    sink = opened(tmp_path, mode="disabled", row=2)
    sink.write(plan([metric(1.0), metric(2.0)], first=3))

    assert (sink.flush(), sink.close(RunStatus.FINISHED), sink.counts) == (Position(4), Position(4), {"disabled": 2})
    assert not (tmp_path / "wandb").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "wandb").touch()

    with pytest.raises((OSError, wandb.Error)):
        opened(tmp_path)


def test_the_trainers_own_session_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/nowhere")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    monkeypatch.setenv("WANDB_MODE", "disabled")

    assert store(tmp_path, [metric(1.0)]).run_id == "exp.site-1"


# ---------------------------------------------------------------------------------------------------- pure parts
def test_ids_of_runs_are_valid_short_and_distinct() -> None:
    names = ["exp", "exp.site-1", "Exp", "a" * 63, "a" * 62 + "b", "é/:?", "e"]
    runs = [info(name, site) for name in names for site in ("site-1", "site-1-exp", "")]

    ids = [run_id(run) for run in runs]

    assert len(set(ids)) == len(ids) == len({*ids} & {run_id(run) for run in runs})
    assert all(0 < len(id_) <= 64 and set(id_) <= {*map(chr, range(45, 47)), *"_", *_ALNUM} for id_ in ids)
    assert run_id(info()) == "exp.site-1"


_ALNUM = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def test_changes_are_a_function_of_the_batch_alone() -> None:
    batch = kill_plan(20)[0]

    assert changes(batch, Counter()) == changes(batch, Counter())


def whole_file(workspace: Path) -> bytes:
    """A file of several blocks, with records that cross them."""
    store(workspace, [TextLogged(key="t", text=f"{n}" * (700 * n), step=n) for n in range(60)])
    return read_wandb_runs(workspace)[0].path.read_bytes()


def read_steps(log: WandBLog) -> list[int]:
    return [record.step for record in log.read() if record.kind == "history"]


def record_class() -> Any:
    from wandb.proto import wandb_internal_pb2

    return wandb_internal_pb2.Record  # pyright: ignore[reportAttributeAccessIssue]


def test_a_growing_file_is_read_on_where_it_was_left(tmp_path: Path) -> None:
    data = whole_file(tmp_path / "whole")
    growing = tmp_path / "growing.wandb"
    log = WandBLog(growing, record_class())
    assert read_steps(log) == []  # there is no file yet

    seen: list[int] = []
    cuts = sorted({*random.Random(1).sample(range(len(data)), 100), *range(12), len(data)})
    for cut in cuts:
        growing.write_bytes(data[:cut])
        seen += read_steps(log)

    assert seen == list(range(1, 61))


def test_padding_is_passed_and_damage_ends_the_reading(tmp_path: Path) -> None:
    data = whole_file(tmp_path / "whole")
    file = tmp_path / "other.wandb"
    start = 5 * 32768
    file.write_bytes(data[:7] + bytes(32768 - 7) + chunk(2, b"torn") + chunk(1, b""))
    assert [record.kind for record in WandBLog(file, record_class()).read()] == ["other"]

    file.write_bytes(data[: start + 500] + bytes([data[start + 500] ^ 1]) + data[start + 501 :])
    steps = read_steps(WandBLog(file, record_class()))
    assert steps == list(range(1, len(steps) + 1))
    assert 0 < len(steps) < 60


def chunk(kind: int, body: bytes) -> bytes:
    head = zlib.crc32(body, zlib.crc32(bytes([kind]))).to_bytes(4, "little") + len(body).to_bytes(2, "little")
    return head + bytes([kind]) + body


def test_only_the_files_of_the_run_itself_are_found(tmp_path: Path) -> None:
    for folder, run in [
        ("offline-run-2-a", "a"),
        ("offline-run-1-a", "a"),
        ("offline-run-1-ab", "ab"),
        ("run-1-a", "a"),
    ]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"run-{run}.wandb").touch()
    (tmp_path / "offline-run-3-link").symlink_to(tmp_path / "offline-run-2-a")

    files = run_files(tmp_path, "a", ["offline"])

    assert [file.parent.name for file in files] == ["offline-run-1-a", "offline-run-2-a"]


def test_what_a_kill_left_is_mended_for_wandb_sync(tmp_path: Path) -> None:
    data = whole_file(tmp_path / "whole")
    for number, end in enumerate([0, 7, 90, 3000, 32768, 5 * 32768 - 20]):
        (tmp_path / f"offline-run-{number}-a").mkdir()
        (tmp_path / f"offline-run-{number}-a" / "run-a.wandb").write_bytes(data[:end])
    damaged = tmp_path / "offline-run-9-a"
    damaged.mkdir()
    (damaged / "run-a.wandb").write_bytes(data[:70_000] + b"damage" + data[70_006:])

    found = recover(run_files(tmp_path, "a", ["offline"]), record_class())

    runs = read_wandb_runs(tmp_path)
    mended = [run for run in runs if run.path.parent.name.startswith("offline-run-") and tmp_path in run.path.parents]
    kept = {run.path.parent.name: run for run in mended if run.path.parent.parent == tmp_path}
    assert list(kept) == [f"offline-run-{number}-a" for number in (3, 4, 5, 9)]
    assert [run.torn for run in kept.values()][:3] == [None] * 3
    assert (found.damaged, found.row) == (1, len(kept["offline-run-5-a"].history))
    assert kept["offline-run-9-a"].path.stat().st_size == len(data)
