"""What goes wrong at sites: each fault has a clear reason, the other sites go on, and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pytest
import torch
from jobs.plain import ECHO, WITH_CHILDREN, Ask, job, script, site
from readback import read_jsonl
from waiting import wait_until

from receivers import JsonlReceiver
from training.abc import Answer, Outcome, Patience, Server, Task, Workflow
from training.engines import run_job
from training.engines.processes import TERMINATE_SECONDS
from training.engines.sites import SiteGroup
from training.errors import JobError, UpdateRefusedError
from training.fl_model import FLModel
from training.plan import JobPlan, JobResult

WITH_TASK = """
import os, signal, time
import plain_client
from writers import TrackingWriter

print("about to begin")
link = plain_client.Link()
for number, (task, payload) in enumerate(link.tasks()):
    TrackingWriter().log({{"number": number}}, step=number)
    {fault}
    link.answer(task, payload)
"""

SCRIPTS = {
    "fails-to-import": "import no_such_module",
    "has-a-typo": "def (:",
    "ends-at-once": "print('nothing to do')",
    "is-killed": WITH_TASK.format(fault="os.kill(os.getpid(), signal.SIGKILL)"),
    "raises-later": WITH_TASK.format(fault="assert number == 0, 'no luck today'"),
    "leaves": WITH_TASK.format(fault="link.send(plain_client.Leave(error='no data')); break"),
    "hangs-up": WITH_TASK.format(fault="link.socket.close(); time.sleep(1000)"),
    "talks-rubbish": WITH_TASK.format(fault="link.socket.sendall(b'GET / HTTP/1.1' * 9); time.sleep(1000)"),
    "sends-too-much": WITH_TASK.format(fault="link.send(plain_client.Hello(token='')); time.sleep(1000)"),
    "answers-another": WITH_TASK.format(
        fault="link.send(plain_client.Result(task=99, model=plain_client.ModelHead())); time.sleep(1000)"
    ),
    "announces-a-terabyte": WITH_TASK.format(
        fault="link.socket.sendall(plain_client.pack(plain_client.Result(task=task.task,"
        " model=plain_client.ModelHead()), 1 << 40)); time.sleep(1000)"
    ),
    "says-no-text": WITH_TASK.format(
        fault="link.socket.sendall(plain_client.PREFIX.pack(21, 0) +"
        " b'\\x82\\xa4type\\xa5leave\\xa5error\\xa2\\xff\\xfe'); time.sleep(1000)"
    ),
    "sends-no-tensors": WITH_TASK.format(fault="payload = b'no safetensors'"),
    "sends-deep-tensors": WITH_TASK.format(
        fault="payload = (400006).to_bytes(8, 'little') + b'{\"x\":' + b'[' * 200000 + b']' * 200000 + b'}'"
    ),
    "is-refused": ECHO,
}

REASONS = {
    "is-missing": ["its script", "is-missing.py does not exist"],
    "fails-to-import": [
        "exit code 1",
        "ModuleNotFoundError: No module named 'no_such_module'",
        "before it called init",
    ],
    "has-a-typo": ["exit code 1", "SyntaxError", "before it called init"],
    "ends-at-once": ["exit code 0", "nothing to do", "before it called init"],
    "hangs-at-start": ["did not call init within 6 s", "about to hang"],
    "has-no-command": ["exit code 127", "no-such-launcher: No such file"],
    "is-killed": ["was killed by SIGKILL", "about to begin", "before the job was over"],
    "raises-later": ["exit code 1", "AssertionError: no luck today"],
    "leaves": ["has left: no data"],
    "hangs-up": ["has hung up"],
    "talks-rubbish": ["sent what can't be read", "a header of"],
    "sends-too-much": ["sent what can't be read", "a Hello where none was due"],
    "answers-another": ["sent what can't be read", "a Result where none was due"],
    "announces-a-terabyte": ["sent what can't be read", "an answer of 1099511627776 bytes; 67108864 may come"],
    "says-no-text": ["sent what can't be read", "not a message", "utf-8"],
    "sends-no-tensors": ["its answer can't be read", "safetensors"],
    "sends-deep-tensors": ["its answer can't be read", "400014 bytes are not a safetensors file"],
    "is-refused": ["its weights are odd"],
}
GO_ON = {"sends-no-tensors", "sends-deep-tensors", "is-refused"}
"""Sites that are asked again, for all that."""


def run(plan: JobPlan, folder: Path) -> JobResult:
    return anyio.run(partial(run_job, plan, folder))


def statuses(folder: Path) -> dict[str, str]:
    """How the runs ended, by site."""
    return {line.value["site"]: line.value["status"] for line in read_jsonl(folder) if "status" in line.value}


class Picky(Ask):
    """Refuses what one site sends."""

    async def run(self, server: Server) -> None:
        for number in range(self.times):
            self.targets = server.sites.names
            task = Task("train", FLModel(current_round=number))
            self.outcomes.append(await server.sites.ask(task, self.targets, self.take, self.patience))

    def take(self, answer: Answer) -> None:
        if answer.site == "is-refused":
            raise UpdateRefusedError(answer.site, "its weights are odd")
        self.answers.append(answer)


@pytest.fixture(scope="module")
def fate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobResult, Picky]:
    """One job with a site for each fault, and two that are well."""
    folder = tmp_path_factory.mktemp("faults")
    sites = [site(folder, name, text, shutdown_timeout=1.0) for name, text in SCRIPTS.items()]
    sites += [
        site(folder, "is-missing"),
        site(folder, "has-no-command", command=("no-such-launcher",)),
        site(folder, "hangs-at-start", "import time\nprint('about to hang')\ntime.sleep(1000)", launch_timeout=6.0),
        site(folder, "well-inside"),
        site(folder, "well-outside", command=("python3",)),
    ]
    sites[-5].script.script.unlink()
    workflow = Picky(patience=Patience(min_answers=2))
    plan = job(folder, sites, workflow, receivers=(JsonlReceiver(),))
    return folder / "ws", run(plan, folder / "ws"), workflow


@pytest.mark.parametrize("name", REASONS)
def test_a_site_that_fails_has_a_clear_reason(fate: tuple[Path, JobResult, Picky], name: str) -> None:
    _, result, _ = fate
    reasons = "\n".join(result.problems[name])
    assert all(part in reasons for part in REASONS[name]), reasons


def test_the_other_sites_go_on(fate: tuple[Path, JobResult, Picky]) -> None:
    _, result, workflow = fate
    assert result.error == ""
    assert [sorted(one.accepted) for one in workflow.outcomes] == [
        ["raises-later", "well-inside", "well-outside"],
        ["well-inside", "well-outside"],
    ]
    assert set(workflow.targets or ()) >= GO_ON | {"well-inside", "well-outside"}
    assert not {"well-inside", "well-outside"} & set(result.problems)


def test_the_runs_of_scripts_end_as_the_scripts_did(fate: tuple[Path, JobResult, Picky]) -> None:
    folder, _, _ = fate
    ends = statuses(folder / "jsonl")
    assert ends["is-killed"] == ends["talks-rubbish"] == ends["hangs-up"] == "KILLED"
    assert ends["raises-later"] == "FAILED"
    assert ends["leaves"] == "FINISHED"
    lines = [line.value for line in read_jsonl(folder / "jsonl") if line.value.get("type") == "MetricsLogged"]
    logged = [line["event"]["values"] for line in lines if line["site"] == "is-killed"]
    assert logged == [{"number": 0.0}]


# ------------------------------------------------------------------------------------------- the end of the whole job
def test_too_few_sites_end_the_job_at_once(tmp_path: Path) -> None:
    waits = "import plain_client\nlink = plain_client.Link()\nfor task, payload in link.tasks(): pass"
    sites = [site(tmp_path, "dies", "import no_such_module"), site(tmp_path, "works", waits)]
    result = run(job(tmp_path, sites, Ask(), min_sites=2), tmp_path / "ws")
    assert "the job needs 2 sites, and 1 are left (dies: its script ended with exit code 1" in result.error
    assert result.exit_code == 1
    assert "works" not in result.problems


class Breaks(Workflow):
    async def run(self, server: Server) -> None:
        def take(_: Answer) -> None:
            raise ValueError("a defect")

        await server.sites.ask(Task("train", FLModel()), server.sites.names, take, Patience(min_answers=1))


def test_a_component_that_fails_ends_the_job(tmp_path: Path) -> None:
    plan = job(tmp_path, [site(tmp_path, "site-1")], Breaks(), receivers=(JsonlReceiver(),), global_metrics=True)
    result = run(plan, tmp_path / "ws")
    assert result.error == "ValueError: a defect"
    statuses = {
        v["site"]: v["status"] for v in (line.value for line in read_jsonl(tmp_path / "ws/jsonl")) if "status" in v
    }
    assert statuses == {"server": "FAILED"}


# --------------------------------------------------------------------------------------------------------- late sites
SLOW = """
import time
import plain_client
from pathlib import Path

link = plain_client.Link()
for task, payload in link.tasks():
    Path("asked").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    link.answer(task, payload)
"""

QUICK = SLOW.replace('"go"', '"../slow/asked"')
"""Answers once the slow one was asked."""


class Twice(Ask):
    """Asks twice, each time with a patience of its own."""

    def __init__(self, patience: Sequence[Patience], between: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._patience, self._between = patience, between

    async def run(self, server: Server) -> None:
        for number, patience in enumerate(self._patience):
            task = Task("train", FLModel(current_round=number))
            self.outcomes.append(await server.sites.ask(task, server.sites.names, self.answers.append, patience))
            self._between()


def test_a_late_answer_is_thrown_away_and_its_site_is_asked_again(tmp_path: Path) -> None:
    patience = [Patience(min_answers=1, grace=0.3), Patience(min_answers=2, timeout=60)]
    workflow = Twice(patience, (tmp_path / "ws/sites/slow/go").touch)
    result = run(
        job(tmp_path, [site(tmp_path, "quick", QUICK), site(tmp_path, "slow", SLOW)], workflow), tmp_path / "ws"
    )
    assert result.error == ""
    assert workflow.outcomes[0].accepted == ("quick",)
    assert "within the 0.3 s that were left once 1 answers were there" in workflow.outcomes[0].problems["slow"]
    assert sorted(workflow.outcomes[1].accepted) == ["quick", "slow"]
    assert [answer.model.current_round for answer in workflow.answers if answer.site == "slow"] == [None]
    assert any("came too late, and was thrown away" in reason for reason in result.problems["slow"])


TRICKLES = """
import time
import plain_client

link = plain_client.Link()
for task, payload in link.tasks():
    head = plain_client.ModelHead(has_params=True)
    link.socket.sendall(plain_client.pack(plain_client.Result(task=task.task, model=head), len(payload)))
    for number in range(len(payload)):
        link.socket.sendall(payload[number : number + 1])
        open("../began", "w").close()
        time.sleep(1)
"""

AFTER_THE_FIRST = ECHO.replace("link.answer", "plain_client.wait_for('../began'); link.answer")


def test_a_site_that_sends_slowly_keeps_no_other_from_being_heard(tmp_path: Path) -> None:
    workflow = Ask(
        times=1,
        patience=Patience(min_answers=1, timeout=40, grace=0.1),
        make=lambda _: FLModel(params={"w": np.zeros(9)}),
    )
    sites = [
        site(tmp_path, "trickles", TRICKLES, shutdown_timeout=0.5),
        site(tmp_path, "is-heard", AFTER_THE_FIRST),
    ]
    result = run(job(tmp_path, sites, workflow), tmp_path / "ws")
    assert result.error == ""
    assert workflow.outcomes[0].accepted == ("is-heard",)
    assert list(workflow.outcomes[0].problems) == ["trickles"]


def test_a_job_ends_though_a_site_is_still_late(tmp_path: Path) -> None:
    hangs = SLOW.replace("while not", "while task.model.current_round and not")  # in its second task, for ever
    patience = [Patience(min_answers=1, timeout=60), Patience(min_answers=0, timeout=0.5)]
    workflow = Twice(patience)
    sites = [site(tmp_path, "slow", hangs, shutdown_timeout=0.5)]
    result = run(job(tmp_path, sites, workflow), tmp_path / "ws")
    assert result.error == ""
    assert workflow.outcomes == [Outcome(("slow",)), Outcome((), {"slow": "no answer to 'train' within 0.5 s"})]
    assert "its script had to be stopped: it did not end within 0.5 s" in result.problems["slow"]


STOPS = """
import os, signal, sys
import plain_client

link = plain_client.Link()
for number, (task, payload) in enumerate(link.tasks()):
    if "in an answer" in sys.argv:
        head = plain_client.ModelHead(has_params=True)
        link.socket.sendall(plain_client.pack(plain_client.Result(task=task.task, model=head), len(payload)))
        link.socket.sendall(payload[:1000])
    else:
        link.answer(task, payload)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.parametrize(("where", "times"), [("between tasks", 4), ("in an answer", 3), ("at the end", 1)])
def test_a_site_that_is_stopped_holds_nobody_up(tmp_path: Path, where: str, times: int) -> None:
    """What it is sent is more than a socket holds, so whoever sends it would wait for ever."""
    kept: list[int] = []

    class Counts(Ask):
        async def run(self, server: Server) -> None:
            await super().run(server)
            assert isinstance(server.sites, SiteGroup)
            stopped = server.sites._sites["stopped"]
            kept.append(len(stopped._errands) + (stopped._current is not None))

    weights = torch.zeros(1_000_000)
    workflow = Counts(
        times=times,
        patience=Patience(min_answers=1, timeout=60, grace=0.5),
        make=lambda number: FLModel(params={"w": weights}, current_round=number),
    )
    sites = [site(tmp_path, "well"), site(tmp_path, "stopped", STOPS, args=(where,), shutdown_timeout=1.0)]
    result = run(job(tmp_path, sites, workflow), tmp_path / "ws")
    assert result.error == ""
    assert all("well" in outcome.accepted for outcome in workflow.outcomes)
    assert "its script had to be stopped: it did not end within 1 s" in result.problems["stopped"]
    assert kept[0] <= 1
    assert result.seconds["end"] < 1.0 + TERMINATE_SECONDS + 5  # its time, SIGTERM's, which a stopped process ignores


class Fails(Workflow):
    async def run(self, server: Server) -> None:
        raise JobError("there is no such model")


def test_a_job_that_fails_at_once_waits_for_no_script(tmp_path: Path) -> None:
    begins = "from pathlib import Path\nimport time\nPath('begun').touch()\ntime.sleep(1000)"
    result = run(job(tmp_path, [site(tmp_path, "site-1", begins)], Fails()), tmp_path / "ws")
    assert (result.error, dict(result.problems)) == ("there is no such model", {})
    assert not (tmp_path / "ws/sites/site-1/begun").exists()


def test_a_task_that_can_not_be_sent_is_said_to_be_so(tmp_path: Path) -> None:
    workflow = Ask(make=lambda number: FLModel(meta={"notes": "x" * 5_000_000}))
    result = run(job(tmp_path, [site(tmp_path, "site-1")], workflow), tmp_path / "ws")
    assert "the task 'train' can't be sent: metrics and meta take 5000" in result.error


# ----------------------------------------------------------------------------------------------- no process left behind
JOB = """
import sys
from pathlib import Path
import anyio
from jobs.plain import WITH_CHILDREN, Ask, job, site
from receivers import JsonlReceiver
from training.engines import run_job

folder = Path(sys.argv[1])
sites = [
    site(folder, "inside", WITH_CHILDREN, args=("stay",)),
    site(folder, "outside", WITH_CHILDREN, args=("stay",), command=("python3",)),
]
result = anyio.run(run_job, job(folder, sites, Ask(), receivers=(JsonlReceiver(),)), folder / "ws")
"""


def pids(folder: Path) -> list[int]:
    files = [folder / "ws/sites" / name / "pids" for name in ("inside", "outside")]
    wait_until(lambda: all(file.exists() for file in files))
    return [int(pid) for file in files for pid in file.read_text().split() if int(pid) != os.getpid()]


def alive(numbers: list[int]) -> list[int]:
    """Those of the processes that live; a zombie whose parent is gone does not."""
    return [pid for pid in numbers if _state(pid) not in {"", "Z", "X"}]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_what_a_script_started_ends_with_the_job(tmp_path: Path) -> None:
    sites = [
        site(tmp_path, "inside", WITH_CHILDREN),
        site(tmp_path, "outside", WITH_CHILDREN, command=("python3",)),
    ]
    result = run(job(tmp_path, sites, Ask()), tmp_path / "ws")
    assert (result.error, dict(result.problems)) == ("", {})
    assert len(pids(tmp_path)) == 6
    assert alive(pids(tmp_path)) == []


def start_server(folder: Path) -> subprocess.Popen[bytes]:
    path = script(folder, JOB, "job.py")
    tests = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, str(path), str(folder)], env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_its_server(tmp_path: Path, number: signal.Signals) -> None:
    server = start_server(tmp_path)
    started = pids(tmp_path)
    assert len(alive(started)) == 6
    server.send_signal(number)
    assert server.wait(60) == -number
    wait_until(lambda: not alive(started))
    if number != signal.SIGKILL:  # killed, it leaves in the sites' journals what was not relayed yet
        assert statuses(tmp_path / "ws/jsonl") == dict.fromkeys(("inside", "outside"), "KILLED")
        lines = [line.value for line in read_jsonl(tmp_path / "ws/jsonl")]
        assert sum(line.get("type") == "MetricsLogged" for line in lines) == 2


def test_no_process_outlives_a_server_that_died_before_it_heard_of_a_sites_end(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    started = pids(tmp_path)
    server.send_signal(signal.SIGSTOP)
    inside = started[0]
    os.kill(inside, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{inside}").exists())
    server.kill()
    assert server.wait(60) == -signal.SIGKILL
    wait_until(lambda: not alive(started))
