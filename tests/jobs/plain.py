"""Jobs for the engine's tests: scripts that speak to the link by themselves, and workflows that ask and keep answers.

The scripts know nothing of the client API: what is tested is the engine, with the bytes that a script may send.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from training.abc import Answer, Outcome, Patience, Server, Task, Workflow
from training.fl_model import FLModel
from training.plan import JobPlan, ScriptPlan, SitePlan

CLIENT = '''
import glob, os, socket, sys, time
import msgspec
from training._wire import PREFIX, End, Hello, Leave, LinkAddress, ModelHead, Result, pack, unpack, unpack_prefix


def meet(count):
    """Return when so many sites of the job are here."""
    open("here", "w").close()
    while len(glob.glob("../*/here")) < count:
        time.sleep(0.01)


def wait_for(path):
    """Return when the file is there."""
    while not os.path.exists(path):
        time.sleep(0.01)


address = msgspec.json.decode(os.environ["TRACKBUS_CLIENT"], type=LinkAddress)


class Link:
    """A script's end of the link, as plain as can be."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(address.socket)
        self.send(Hello(token=address.token))
        self.welcome, _ = self.read()

    def send(self, message, payload=b""):
        self.socket.sendall(pack(message, len(payload)) + payload)

    def read(self):
        header, size = unpack_prefix(self.exactly(PREFIX.size))
        return unpack(self.exactly(header)), self.exactly(size)

    def exactly(self, size):
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                raise SystemExit("the server is gone")
            data += piece
        return data

    def tasks(self):
        while True:
            message, payload = self.read()
            if isinstance(message, End):
                return
            yield message, payload

    def answer(self, task, payload=b"", **head):
        self.send(Result(task=task.task, model=ModelHead(has_params=bool(payload), **head)), payload)
'''

ECHO = """
import plain_client
link = plain_client.Link()
for task, payload in link.tasks():
    link.answer(task, payload, metrics={"round": task.model.current_round or 0})
"""
"""Sends back what it is sent."""

WITH_CHILDREN = """
import os, subprocess, sys, time
import plain_client
from writers import TrackingWriter

link = plain_client.Link()
child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
for number, (task, payload) in enumerate(link.tasks()):
    TrackingWriter().log({"number": number}, step=number)
    with open("pids.tmp", "w") as file:
        print(os.getpid(), os.getppid(), child.pid, file=file)
    os.rename("pids.tmp", "pids")
    if "stay" in sys.argv:
        time.sleep(1000)
    link.answer(task, payload)
"""
"""Starts a process in a session of its own, and writes down who there is; with the argument `stay` it never answers."""


@dataclass
class Ask(Workflow):
    """Asks all sites the same, several times, and keeps what came."""

    times: int = 2
    patience: Patience = field(default_factory=lambda: Patience(min_answers=1))
    name: str = "train"
    make: Callable[[int], FLModel] = lambda number: FLModel(current_round=number)
    targets: Sequence[str] | None = None
    answers: list[Answer] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    before: Callable[[int, Server], object] = lambda number, server: None

    async def run(self, server: Server) -> None:
        for number in range(self.times):
            self.before(number, server)
            targets = server.sites.names if self.targets is None else self.targets
            task = Task(self.name, self.make(number))
            self.outcomes.append(await server.sites.ask(task, targets, self.answers.append, self.patience))


def script(folder: Path, text: str, name: str = "script.py") -> Path:
    """Write a script, with the plain client beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plain_client.py").write_text(CLIENT)
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def site(folder: Path, name: str, text: str = ECHO, **options: object) -> SitePlan:
    """A site whose script is this text; numpy's, so that nothing loads torch, unless the options say otherwise."""
    path = script(folder / "scripts", text, f"{name}.py")
    plan = ScriptPlan(path, **({"params_format": "numpy"} | options))  # type: ignore[arg-type]
    return SitePlan(name, plan)


def job(folder: Path, sites: Sequence[SitePlan], workflow: Workflow, **options: object) -> JobPlan:
    return JobPlan("engine-test", [workflow], {}, sites, folder, **options)  # type: ignore[arg-type]
