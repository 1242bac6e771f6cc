"""A job runs: scripts get tasks, the server their answers, the trackers what was logged."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from jobs.plain import ECHO, Ask, job, site
from readback import read_jsonl

from receivers import JsonlReceiver
from training.abc import Outcome, RoundStarted, Server, ServerEvent
from training.engines import prepare, processes, run_job
from training.engines.gpus import gpu_groups
from training.errors import JobError
from training.fl_model import FLModel
from training.plan import JobPlan, JobResult

LOGGING = """
import plain_client
from writers import TrackingWriter

link, writer = plain_client.Link(), TrackingWriter()
for task, payload in link.tasks():
    writer.log({"loss": task.model.current_round + 0.5}, step=task.model.current_round)
    link.answer(task, payload, metrics={"round": task.model.current_round})
"""


def run(plan: JobPlan, folder: Path, **options: object) -> JobResult:
    return anyio.run(partial(run_job, plan, folder, **options))


def losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What the server's tracker holds, by site."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_jsonl(folder):
        event = line.value.get("event", {})
        if "values" in event:
            found.setdefault(line.value["site"], []).append((event["step"], event["values"]["loss"]))
    return found


def statuses(folder: Path) -> dict[str, str]:
    """How the runs ended, by site."""
    return {line.value["site"]: line.value["status"] for line in read_jsonl(folder) if "status" in line.value}


@pytest.mark.parametrize("command", [(), ("python3", "-u")])
def test_two_sites_answer_and_what_they_log_is_stored_at_the_server(tmp_path: Path, command: tuple[str, ...]) -> None:
    workflow = Ask(times=2)
    sites = [site(tmp_path, name, LOGGING, command=command) for name in ("site-1", "site-2")]
    result = run(job(tmp_path, sites, workflow, receivers=(JsonlReceiver(),)), tmp_path / "ws")
    assert (result.error, dict(result.problems), result.exit_code) == ("", {}, 0)
    assert [sorted(outcome.accepted) for outcome in workflow.outcomes] == [["site-1", "site-2"]] * 2
    assert [answer.model.metrics for answer in workflow.answers] == [{"round": 0}] * 2 + [{"round": 1}] * 2
    expected = [(0, 0.5), (1, 1.5)]
    assert losses(tmp_path / "ws/jsonl") == {"site-1": expected, "site-2": expected}
    assert statuses(tmp_path / "ws/jsonl") == {"site-1": "FINISHED", "site-2": "FINISHED"}


def test_whoever_looks_on_does_not_end_the_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def tell(_: ServerEvent) -> None:
        raise OSError("the screen is gone")

    workflow = Ask(times=1, before=lambda number, server: server.tell(RoundStarted(number, 1)))
    result = run(job(tmp_path, [site(tmp_path, "site-1", ECHO)], workflow), tmp_path / "ws", tell=tell)
    assert (result.error, result.exit_code, len(workflow.answers)) == ("", 0, 1)
    assert "an event of the job could not be shown: RoundStarted" in caplog.text


def test_a_job_runs_where_nothing_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKBUS_MODE", "disabled")
    workflow = Ask(times=1)
    plan = job(tmp_path, [site(tmp_path, "site-1", LOGGING)], workflow, receivers=(JsonlReceiver(),))
    result = run(plan, tmp_path / "ws")
    assert (result.error, dict(result.problems), len(workflow.answers)) == ("", {}, 1)
    assert [path.name for path in (tmp_path / "ws").rglob("*") if path.is_file()] == ["log.txt"]


def test_a_script_that_is_killed_by_a_signal_without_a_name_is_named(tmp_path: Path) -> None:
    result = run(
        job(tmp_path, [site(tmp_path, "site-1", "import os; os.kill(os.getpid(), 40)")], Ask()), tmp_path / "ws"
    )
    assert "its script was killed by signal 40; its log: " in result.problems["site-1"][0]


# ------------------------------------------------------------------------------------------------ what a script finds
TELLS = """
import os, random, sys, threading
import numpy
import plain_client

def facts():
    return {
        "argv": sys.argv[1:],
        "name": __name__,
        "folder": os.getcwd(),
        "seed": os.environ["TRACKBUS_SEED"],
        "draws": [random.random(), float(numpy.random.rand())],
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "torch": "torch" in sys.modules,
        "rank": os.environ.get("RANK", ""),
        "threads": threading.active_count(),
        "pid": os.getpid(),
        "config": link.welcome.config,
    }

link = plain_client.Link()
for task, payload in link.tasks():
    link.answer(task, payload, meta=facts())
"""


def told(workflow: Ask) -> dict[str, list[dict[str, Any]]]:
    """What the scripts told, by site."""
    found: dict[str, list[dict[str, Any]]] = {}
    for answer in workflow.answers:
        found.setdefault(answer.site, []).append(answer.model.meta)
    return found


def run_telling(folder: Path, count: int, **options: object) -> dict[str, list[dict[str, Any]]]:
    workflow = Ask(times=1)
    sites = [site(folder, f"site-{number}", TELLS, args=("--lr", "1")) for number in range(count)]
    result = run(job(folder, sites, workflow, seed=7), folder / "ws", **options)
    assert (result.error, dict(result.problems)) == ("", {})
    return told(workflow)


def test_ten_scripts_find_what_they_expect_and_draw_numbers_of_their_own_that_a_seed_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")  # the server's own
    first = run_telling(tmp_path / "first", 10, gpu="[0,1],[2]")
    assert len(first) == 10
    for number in range(10):
        (facts,) = first[f"site-{number}"]
        assert facts["argv"] == ["--lr", "1"]
        assert (facts["name"], facts["seed"], facts["threads"]) == ("__main__", "7", 1)
        assert facts["folder"] == str(tmp_path / f"first/ws/sites/site-{number}")
        assert facts["gpu"] == ("0,1", "2")[number % 2]
        assert (facts["torch"], facts["rank"]) == (False, "")
    again = run_telling(tmp_path / "again", 2)
    draws = {name: facts["draws"] for name, (facts,) in first.items()}
    assert all(facts["draws"] == draws[name] for name, (facts,) in again.items())
    assert len({number for pair in draws.values() for number in pair}) == 20
    assert {facts["gpu"] for (facts,) in again.values()} == {""}


def test_a_script_that_serves_one_task_is_started_for_each(tmp_path: Path) -> None:
    workflow = Ask(times=3)
    sites = [
        site(tmp_path, "each", TELLS, command=("python3",), launch_once=False),
        site(tmp_path, "once", TELLS, command=("python3",)),
    ]
    result = run(job(tmp_path, sites, workflow), tmp_path / "ws")
    assert (result.error, dict(result.problems)) == ("", {})
    pids = {name: len({facts["pid"] for facts in all_facts}) for name, all_facts in told(workflow).items()}
    assert pids == {"each": 3, "once": 1}


def test_a_task_that_a_script_does_not_serve_is_not_sent_to_it(tmp_path: Path) -> None:
    workflow = Ask(times=1, name="validate")
    sites = [site(tmp_path, "trains", task_names=("train",)), site(tmp_path, "all")]
    run(job(tmp_path, sites, workflow), tmp_path / "ws")
    assert workflow.outcomes == [Outcome(("all",), {"trains": "its script serves train only"})]


LAST_WORDS = """
import atexit, sys, threading, time
import plain_client
from pathlib import Path
from writers import TrackingWriter

atexit.register(lambda: Path("atexit").touch())
link = plain_client.Link()
for task, payload in link.tasks():
    TrackingWriter().log({"loss": 1.0}, step=0)
    link.answer(task, payload)
main, open_file = threading.main_thread(), open("left-open", "w")
open_file.write("x")
threading.Thread(target=lambda: (main.join(), Path("thread").touch())).start()
"""


@pytest.mark.parametrize(
    ("last_line", "status", "problem"),
    [
        ("", "FINISHED", ""),
        ("sys.exit(0)", "FINISHED", ""),
        ("raise SystemExit(3)", "FAILED", "exit code 3"),
        ("raise ValueError('no more')", "FAILED", "exit code 1"),
    ],
)
def test_a_script_ends_as_a_program_does(tmp_path: Path, last_line: str, status: str, problem: str) -> None:
    sites = [site(tmp_path, "site-1", LAST_WORDS + last_line)]
    result = run(job(tmp_path, sites, Ask(times=1), receivers=(JsonlReceiver(),)), tmp_path / "ws")
    assert result.error == ""
    problems = result.problems.get("site-1", ())
    assert len(problems) == bool(problem)
    assert all(problem in reason for reason in problems)
    assert statuses(tmp_path / "ws/jsonl")["site-1"] == status
    folder = tmp_path / "ws/sites/site-1"
    assert (folder / "atexit").exists()
    assert (folder / "thread").exists()
    assert (folder / "left-open").read_text() == "x"
    log = (folder / "log.txt").read_text()
    assert ("ValueError: no more" in log) == ("ValueError" in last_line)
    assert "stage.py" not in log  # the traceback begins in the script


# --------------------------------------------------------------------------------------------------- turns and tensors
TURNS = """
import time
import plain_client

link = plain_client.Link()
for task, payload in link.tasks():
    begin = time.monotonic_ns()
    if "together" in plain_client.sys.argv:
        plain_client.meet(3)
    link.answer(task, payload, meta={"begin": begin, "end": time.monotonic_ns()})
"""


def spans(workflow: Ask) -> list[tuple[int, int]]:
    return sorted((answer.model.meta["begin"], answer.model.meta["end"]) for answer in workflow.answers)


def test_no_more_sites_work_at_a_time_than_there_are_threads(tmp_path: Path) -> None:
    workflow = Ask(times=1)
    sites = [site(tmp_path, f"site-{number}", TURNS) for number in range(3)]
    assert run(job(tmp_path, sites, workflow), tmp_path / "ws", threads=1).error == ""
    ends_and_begins = [(end, begin) for (_, end), (begin, _) in pairwise(spans(workflow))]
    assert len(ends_and_begins) == 2
    assert all(end < begin for end, begin in ends_and_begins)


def test_without_a_bound_all_sites_work_at_the_same_time(tmp_path: Path) -> None:
    workflow = Ask(times=1)
    sites = [site(tmp_path, f"site-{number}", TURNS, args=("together",)) for number in range(3)]
    assert run(job(tmp_path, sites, workflow), tmp_path / "ws").error == ""
    assert len(workflow.answers) == 3  # each has waited for the others before it answered


def test_tensors_arrive_as_they_were_sent(tmp_path: Path) -> None:
    weights = {"w": torch.arange(300_000, dtype=torch.float32).reshape(3, -1), "n": torch.tensor(5)}
    workflow = Ask(times=1, make=lambda number: FLModel(params=weights, current_round=number))
    run(job(tmp_path, [site(tmp_path, "site-1"), site(tmp_path, "site-2")], workflow), tmp_path / "ws")
    assert len(workflow.answers) == 2
    for answer in workflow.answers:
        params = answer.model.params or {}
        assert list(params) == ["w", "n"]
        assert all(torch.equal(params[name], value) for name, value in weights.items())
        assert answer.model.meta["site_name"] == answer.site


# ------------------------------------------------------------------------------------------------ what stays at a site
def test_where_the_server_tracks_nothing_nothing_leaves_the_site(tmp_path: Path) -> None:
    plans = [site(tmp_path, "tracks", LOGGING), site(tmp_path, "does-not", LOGGING)]
    plans[0] = replace(plans[0], receivers=(JsonlReceiver(),))
    result = run(job(tmp_path, plans, Ask()), tmp_path / "ws")
    assert result.error == ""
    assert losses(tmp_path / "ws/sites/tracks/jsonl") == {"tracks": [(0, 0.5), (1, 1.5)]}
    assert {path.name for path in (tmp_path / "ws/journal").iterdir()} == {"server"}
    assert not (tmp_path / "ws/jsonl").exists()
    assert [line.name for line in result.reports["does-not"].lines] == []


STRANGER = """
import socket
import plain_client

stranger = socket.socket(socket.AF_UNIX)
stranger.connect(plain_client.address.socket)
stranger.sendall(plain_client.pack(plain_client.Hello(token="0" * 64)))
turned_away = stranger.recv(1) == b""
link = plain_client.Link()
for task, payload in link.tasks():
    second = socket.socket(socket.AF_UNIX)
    second.connect(plain_client.address.socket)
    second.sendall(plain_client.pack(plain_client.Hello(token=plain_client.address.token)))
    link.answer(task, payload, metrics={"turned_away": turned_away, "shown_twice": second.recv(1) == b""})
"""


def test_who_shows_no_valid_token_is_turned_away(tmp_path: Path) -> None:
    workflow = Ask(times=1)
    assert run(job(tmp_path, [site(tmp_path, "site-1", STRANGER)], workflow), tmp_path / "ws").error == ""
    assert [answer.model.metrics for answer in workflow.answers] == [{"turned_away": True, "shown_twice": True}]


@pytest.mark.parametrize(
    ("names", "word"), [((), "must be one"), (("a", "a"), "each once"), (("server",), "'server'"), (("a b",), "a b")]
)
def test_sites_that_can_not_be_are_named(tmp_path: Path, names: tuple[str, ...], word: str) -> None:
    result = run(job(tmp_path, [site(tmp_path, name) for name in names], Ask()), tmp_path / "ws")
    assert word in result.error
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(
    ("text", "groups"),
    [("0", ("0",)), ("0,1", ("0", "1")), ("[0,1],[2]", ("0,1", "2")), ("0, [1, 2]", ("0", "1,2")), (None, ())],
)
def test_graphics_cards_are_given_in_turn(text: str | None, groups: tuple[str, ...]) -> None:
    assert gpu_groups(text) == groups


@pytest.mark.parametrize("text", ["[0", "0]", "[]", ",", "0,,1", "[0]1", "[[0]]"])
def test_graphics_cards_that_nobody_can_read_are_refused(text: str) -> None:
    with pytest.raises(JobError, match="brackets"):
        gpu_groups(text)


def test_what_was_prepared_is_used_by_a_job_on_torch_and_ended_by_another(tmp_path: Path) -> None:
    prepare()
    (started,) = processes._ahead
    workflow = Ask(times=1)
    sites = [site(tmp_path, "site-1", TELLS, params_format="pytorch")]
    assert run(job(tmp_path, sites, workflow), tmp_path / "ws").error == ""
    assert told(workflow)["site-1"][0]["torch"]
    assert started.process.returncode == 0
    prepare()
    (started,) = processes._ahead
    assert run(job(tmp_path, [site(tmp_path, "site-1")], Ask()), tmp_path / "ws").error == ""
    assert started.process.returncode == -signal.SIGKILL


# -------------------------------------------------------------------------------------- the server's run, and goodbyes
class Measures(Ask):
    """Logs at the server, if it may."""

    async def run(self, server: Server) -> None:
        await super().run(server)
        if server.writer is not None:
            server.writer.log({"loss": 0.25, "\n": 1.0}, step=0)


@pytest.mark.parametrize("global_metrics", [False, True])
def test_the_server_has_a_run_of_its_own_where_the_job_wants_one(tmp_path: Path, global_metrics: bool) -> None:
    plan = job(
        tmp_path,
        [site(tmp_path, "site-1", LOGGING)],
        Measures(times=1),
        receivers=(JsonlReceiver(),),
        global_metrics=global_metrics,
    )
    assert run(plan, tmp_path / "ws").error == ""
    expected = {"site-1": [(0, 0.5)]} | ({"server": [(0, 0.25)]} if global_metrics else {})
    assert losses(tmp_path / "ws/jsonl") == expected
    assert statuses(tmp_path / "ws/jsonl") == dict.fromkeys(expected, "FINISHED")


GOODBYE = """
import sys
import plain_client

link = plain_client.Link()
for task, payload in link.tasks():
    link.answer(task, payload)
    if sys.argv[1] == "leave":
        link.send(plain_client.Leave())
    raise SystemExit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("how", "code", "problem"),
    [("leave", 0, ""), ("end", 0, ""), ("leave", 3, "exit code 3"), ("end", 3, "exit code 3")],
)
def test_a_site_that_has_done_what_it_was_asked_may_go(tmp_path: Path, how: str, code: int, problem: str) -> None:
    class WaitsForItsEnd(Ask):
        async def run(self, server: Server) -> None:
            await super().run(server)
            while server.sites.names:  # noqa: ASYNC110 - nothing is awaited that tells of it; the test is bounded
                await anyio.sleep(0.01)

    sites = [site(tmp_path, "site-1", GOODBYE, args=(how, str(code)))]
    result = run(job(tmp_path, sites, WaitsForItsEnd(times=1)), tmp_path / "ws")
    assert result.error == ""
    problems = "\n".join(result.problems.get("site-1", ()))
    assert problem in problems
    assert bool(problems) == bool(problem)


def test_a_launcher_beside_the_interpreter_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    workflow = Ask(times=1)
    command = ("torchrun", "--nnodes=1", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0")
    sites = [site(tmp_path, "site-1", TELLS, args=("--lr", "1"), command=command)]
    result = run(job(tmp_path, sites, workflow), tmp_path / "ws")
    assert (result.error, dict(result.problems)) == ("", {})
    assert told(workflow)["site-1"][0]["argv"] == ["--lr", "1"]
