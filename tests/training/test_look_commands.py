"""`trackbus status`, `inspect` and `replay` as people use them: beside a run that goes on, and after one that died."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from readback import read_jsonl

from eventbus import EventBus, Origin, Relay, Scope
from eventbus.abc import RelayedBatch
from eventbus.health import CircuitOpened, WorkerLost
from eventbus.journals import SqliteJournal
from eventbus.journals._destination import Destination
from eventbus.journals._look import open_unchanged
from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import DROPPED_OF, ConsumerFile, ConsumerLock
from eventbus.tracking import TRACKING, MetricsLogged, TextLogged
from receivers import JsonlReceiver

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60
HEAVY = ["torch", "torchvision", "numpy", "wandb", "mlflow", "tensorboard"]

COMMAND = f"""
import sys
for heavy in {HEAVY}:
    sys.modules[heavy] = None
from training.cli import main
main()
"""

WRITER = """
import sys
from eventbus import Event, EventBus, Scope
from eventbus.tracking import MetricsLogged

class OwnLogged(Event, topic="own.topic"):
    note: str

bus = EventBus(sys.argv[1], site="site-1", job="job")
bus.open()
for line in sys.stdin:
    for step in range(int(line)):
        bus.publish(MetricsLogged(values={"train/loss": step / 4, "odd": float("nan")}, step=step), run="run",
            scope=Scope.FEDERATED)
    bus.publish(OwnLogged(note="only here"))
    print("done", flush=True)
"""


class Writer:
    """A process that logs when it is told to."""

    def __init__(self, workspace: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(workspace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def log(self, count: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    one = Writer(tmp_path / "exp")
    yield one
    one.kill()


def start(*arguments: str, folder: Path, columns: int = 100, encoding: str = "utf-8") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", COMMAND, *arguments],
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": str(columns),
            "TZ": "UTC",
            "PYTHONIOENCODING": encoding,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding=encoding,
    )


def trackbus(*arguments: str, folder: Path, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    with start(*arguments, folder=folder, encoding=encoding) as process:
        out, err = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def status(folder: Path, workspace: str = "exp") -> dict[str, Any]:
    done = trackbus("status", workspace, "--json", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)["workspaces"][0]


def inspect(folder: Path, *arguments: str, journal: str = "exp") -> list[dict[str, Any]]:
    done = trackbus("inspect", journal, "--json", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path): b"" if path.name.endswith("-shm") else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def open_bus(workspace: Path, **options: Any) -> EventBus:
    bus = EventBus(workspace, job="job", **options)
    bus.open()
    return bus


# --- status ---------------------------------------------------------------------------------------------------------


def test_the_status_of_a_run_that_goes_on_and_of_one_that_died(tmp_path: Path, writer: Writer) -> None:
    writer.log(9)
    with ConsumerFile(tmp_path / "exp" / "cursors", "mlflow") as file:
        (key,) = [one["key"] for one in status(tmp_path)["partitions"]]
        file.claim(Destination.of("mlflow:somewhere"))
        file.move({key: 4})
        file.settle([], {}, {("delivered", "site-1"): 3, ("dropped", "torn"): 1, (DROPPED_OF, key): 1})
    files = contents(tmp_path).keys()
    living = status(tmp_path)
    assert contents(tmp_path).keys() == files  # what is in them its writer may change
    writer.kill()
    before = contents(tmp_path)
    dead = status(tmp_path)
    assert contents(tmp_path) == before

    (partition,), (mlflow,) = living["partitions"], living["consumers"]
    assert (partition["state"], partition["pid"], partition["events"]) == ("being written", writer.process.pid, 10)
    assert partition["per_second"] > 0
    assert living["bytes"] > 1000
    assert (mlflow["name"], mlflow["stored"], mlflow["waiting"]) == ("mlflow", {"site-1": 3}, 6)
    assert (mlflow["dropped"], mlflow["worker"], mlflow["destination"]) == ({"torn": 1}, None, "mlflow:somewhere")
    assert 0 < mlflow["oldest_seconds"] < TIMEOUT
    assert [(one["state"], one["pid"]) for one in dead["partitions"]] == [("broken off", None)]
    assert dead["consumers"][0]["waiting"] == 6


def test_the_status_names_a_worker_and_its_troubles(tmp_path: Path) -> None:
    bus = open_bus(tmp_path / "exp", site="site-1")
    bus.publish(MetricsLogged(values={"loss": 1.0}, step=0))
    bus.tell(WorkerLost(receiver="mlflow", reason="died", restarts=4))
    bus.tell(CircuitOpened(receiver="mlflow", reason="connection refused", seconds=5.0))
    cursors = tmp_path / "exp" / "cursors"
    with ConsumerFile(cursors, "mlflow") as file:
        file.claim(Destination.of("mlflow:somewhere"))
    lock = ConsumerLock(cursors, "mlflow")
    assert lock.try_acquire()
    log = tmp_path / "exp" / "workers" / "mlflow.log"
    log.parent.mkdir()
    log.write_text("first line\nno connection to host\n\n")
    (mlflow,) = status(tmp_path)["consumers"]
    shown = trackbus("status", "exp", folder=tmp_path).stdout
    lock.close()
    bus.close()
    assert (mlflow["worker"], mlflow["restarts"], mlflow["waiting"]) == (os.getpid(), 4, 3)
    assert (mlflow["trouble"], mlflow["log"]) == ("CircuitOpened: connection refused", "no connection to host")
    assert f"pid {os.getpid()}, 4 restarts" in shown
    assert "mlflow: CircuitOpened: connection refused" in shown
    assert "mlflow: last of its log: no connection to host" in shown
    assert "WorkerLost receiver=mlflow reason=died restarts=4" in shown


def test_of_a_relay_it_is_said_what_waits_and_no_count_that_it_does_not_keep(tmp_path: Path) -> None:
    opened = EventBus(tmp_path / "server", site="server"), EventBus(tmp_path / "exp", site="site-1")
    with opened[0].background() as server, opened[1].background() as bus:
        bus.subscribe(TRACKING.federated, Relay(server))
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=0), scope=Scope.FEDERATED)
    assert trackbus("report", "exp", folder=tmp_path).stdout.splitlines()[-2].split() == ["relay", "all", "-", "0", "-"]
    shown = trackbus("status", "exp", folder=tmp_path).stdout
    assert ["relay", "-", "0", "-", "none"] in [line.split() for line in shown.splitlines()]


def test_the_status_of_a_workspace_with_a_damaged_file_shows_the_others(tmp_path: Path) -> None:
    for site in ("site-1", "site-2"):
        bus = open_bus(tmp_path / "exp", site=site)
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=0))
        bus.close()
    (file,) = (tmp_path / "exp" / "journal" / "site-2").glob("*.db")
    file.write_bytes(b"garbage" * 1000)
    found = status(tmp_path)
    assert [one["site"] for one in found["partitions"]] == ["site-1"]
    assert list(found["damaged"]) == [str(Path("exp", "journal", "site-2", file.name))]


def test_a_cursor_that_cant_be_read_keeps_nobody_from_seeing_the_others(tmp_path: Path) -> None:
    open_bus(tmp_path / "exp", site="site-1").close()
    with ConsumerFile(tmp_path / "exp" / "cursors", "mlflow") as file:
        file.claim(Destination.of("mlflow:store"))
    (tmp_path / "exp" / "cursors" / "jsonl.db").write_bytes(b"garbage" * 1000)
    (tmp_path / "exp" / "cursors" / "empty.db").touch()

    found = status(tmp_path)
    report = trackbus("report", "exp", folder=tmp_path)

    assert [one["name"] for one in found["consumers"]] == ["mlflow"]
    assert {Path(path).name for path in found["damaged"]} == {"jsonl.db", "empty.db"}
    assert "cursors/jsonl.db can't be read: file is not a database" in report.stdout.replace("\n", " ")
    done = trackbus("status", "exp/cursors/empty.db", folder=tmp_path)
    assert (done.returncode, "is not a workspace" in done.stderr) == (2, True)


def test_a_status_fits_80_columns(tmp_path: Path) -> None:
    bus = open_bus(tmp_path / "exp", site="site-1")
    bus.publish(MetricsLogged(values={"loss": 1.0}, step=0))
    with ConsumerFile(tmp_path / "exp" / "cursors", "tensorboard") as file:
        file.claim(Destination.of("tensorboard:somewhere"))
    with start("status", "exp", folder=tmp_path, columns=80) as process:
        out, err = process.communicate(timeout=TIMEOUT)
    bus.close()
    assert (process.returncode, err) == (0, "")
    assert all(len(line.rstrip()) <= 80 for line in out.splitlines()), out
    assert "exp: 1 events" in out


def test_a_watched_status_is_told_again_until_it_is_interrupted(tmp_path: Path, writer: Writer) -> None:
    writer.log(1)
    with start("status", "exp", "--watch", "--json", folder=tmp_path) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        writer.log(3)
        events = 2
        while events == 2:
            events = json.loads(process.stdout.readline())["workspaces"][0]["partitions"][0]["events"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT)
    assert first["workspaces"][0]["partitions"][0]["events"] == 2
    assert events == 6
    assert (process.returncode, err) == (0, "")


# --- inspect --------------------------------------------------------------------------------------------------------


def test_events_are_shown_with_what_they_say_whether_their_type_is_known_or_not(tmp_path: Path, writer: Writer) -> None:
    writer.log(2)
    writer.kill()
    before = contents(tmp_path)
    lines = inspect(tmp_path)
    shown = trackbus("inspect", "exp", folder=tmp_path).stdout.splitlines()
    assert contents(tmp_path) == before
    assert [(line["seq"], line["type"], line["topic"]) for line in lines] == [
        (1, "MetricsLogged", "analytix_log_stats"),
        (2, "MetricsLogged", "analytix_log_stats"),
        (3, "OwnLogged", "own.topic"),
    ]
    assert lines[1]["event"] == {"values": {"train/loss": 0.25, "odd": "NaN"}, "step": 1, "main_tag": None}
    assert (lines[1]["site"], lines[1]["run"], lines[1]["scope"]) == ("site-1", "run", "federated")
    assert lines[2]["event"] == {"note": "only here"}
    assert f"{lines[1]['partition']}#2 federated MetricsLogged run=run train/loss=0.25 odd=nan step=1" in shown[1]
    assert 'local OwnLogged topic=own.topic note="only here"' in shown[2]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of two sites with events of an hour ago and of now."""
    folder = tmp_path_factory.mktemp("journal")
    for site, rank in (("site-1", 0), ("site-2", 1)):
        bus = open_bus(folder / "exp", site=site, rank=rank)
        hour_ago = time.time_ns() - 3600 * 10**9
        bus.publish(MetricsLogged(values={"train/loss": 1.0}, step=0), run="old", time_ns=hour_ago)
        bus.publish(MetricsLogged(values={"val/loss": 1.0}, step=1), run="new", scope=Scope.FEDERATED)
        bus.publish(TextLogged(key="note", text="\x1b[31mred\nline"), run="new")
        bus.tell(WorkerLost(receiver="mlflow", reason="died", restarts=1))
        bus.close()
    return folder


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("--site site-1", ["1#1", "1#2", "1#3", "1#4"]),
        ("--site site-* --rank 1 --limit 2", ["2#1", "2#2"]),
        ("--run old", ["1#1", "2#1"]),
        ("--type Text* --site site-2", ["2#3"]),
        ("--topic trackbus.health", ["1#4", "2#4"]),
        ("--key train/*", ["1#1", "2#1"]),
        ("--key note --key val/loss --site site-1", ["1#2", "1#3"]),
        ("--scope federated", ["1#2", "2#2"]),
        ("--since 10m --site site-1", ["1#2", "1#3", "1#4"]),
        ("--until 10m", ["1#1", "2#1"]),
        ("--since 2000-01-01T00:00 --until 2001-01-01", []),
        ("--after 3", ["1#4", "2#4"]),
        ("--tail 2", ["2#3", "2#4"]),
        ("--limit 1", ["1#1"]),
    ],
)
def test_events_are_filtered(journal: Path, arguments: str, found: list[str]) -> None:
    lines = inspect(journal, *arguments.split())
    assert [f"{line['site'][-1]}#{line['seq']}" for line in lines] == found


def test_a_text_can_not_draw_on_the_terminal(journal: Path) -> None:
    shown = trackbus("inspect", "exp", "--type", "TextLogged", folder=journal).stdout
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 2
    assert r'text="\u001b[31mred\nline"' in shown


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "l\\xf6ss-\\u635f"), ("latin-1", "löss-\\u635f")])
def test_what_the_screen_has_no_characters_for_is_escaped(tmp_path: Path, encoding: str, shown: str) -> None:
    with EventBus(tmp_path / "ü失", site="site-1").background() as bus:
        bus.publish(MetricsLogged(values={"löss-损": 1.0}, step=0))
    out = trackbus("inspect", "ü失", folder=tmp_path, encoding=encoding)
    assert (out.returncode, shown in out.stdout) == (0, True), out.stderr
    assert json.loads(trackbus("status", "ü失", "--json", folder=tmp_path, encoding=encoding).stdout)


def test_damaged_records_are_shown_and_counted(tmp_path: Path) -> None:
    bus = open_bus(tmp_path / "exp", site="site-1")
    for step in range(3):
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=step))
    bus.close()
    (file,) = (tmp_path / "exp" / "journal" / "site-1").glob("*.db")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE records SET body = x'00ff' WHERE seq = 2")
    done = trackbus("inspect", "exp", "--json", "--key", "loss", folder=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["seq"], "damage" in line) for line in lines] == [(1, False), (2, True), (3, False)]
    assert done.stderr == "trackbus: 1 damaged records\n"
    assert done.returncode == 0


def test_a_followed_journal_shows_what_comes(tmp_path: Path, writer: Writer) -> None:
    writer.log(1)
    with start("inspect", "exp", "--follow", "--tail", "1", "--json", folder=tmp_path) as process:
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["seq"]]
        writer.log(1)
        seen += [json.loads(process.stdout.readline())["seq"] for _ in range(2)]
        other = open_bus(tmp_path / "exp", site="site-2")  # a partition that was not there
        other.publish(MetricsLogged(values={"loss": 1.0}, step=0))
        last = json.loads(process.stdout.readline())
        other.close()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT)
    assert (seen, last["site"]) == ([2, 3, 4], "site-2")
    assert (process.returncode, err) == (0, "")


# --- replay, and dead letters ---------------------------------------------------------------------------------------


def test_a_replay_says_what_it_stored_and_then_that_all_is_there(journal: Path, tmp_path: Path) -> None:
    arguments = ("replay", "exp", "--to", "jsonl", "--workspace", str(tmp_path))
    first, second = trackbus(*arguments, folder=journal), trackbus(*arguments, folder=journal)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert first.stdout.splitlines()[0] == "replay-jsonl: 6 events stored"
    assert second.stdout.splitlines()[0] == "replay-jsonl: nothing was left to store"
    assert len([line for line in read_jsonl(tmp_path / "jsonl") if line.value["type"] != "RunStatus"]) == 6


def test_a_replay_begins_where_it_is_told(journal: Path, tmp_path: Path) -> None:
    key = inspect(journal, "--site", "site-1", "--limit", "1")[0]["partition"]
    done = trackbus(
        *("replay", "exp", "--to", "jsonl", "--workspace", str(tmp_path), "--after", f"{key}=2"), folder=journal
    )
    assert done.stdout.startswith("replay-jsonl: 4 events stored"), done.stderr
    for wrong in ("nowhere=1", f"{key}=x", "5"):
        done = trackbus("replay", "exp", "--to", "jsonl", "--after", wrong, folder=journal)
        assert (done.returncode, "write PARTITION=SEQ" in done.stderr) == (2, True)
    done = trackbus("replay", "exp", "--to", "jsonl", "--from-cursor", "mlflow", folder=journal)
    assert (done.returncode, "the cursors of this workspace are none" in done.stderr) == (2, True)


@pytest.mark.parametrize("option", ["--site", "--run"])
def test_a_replay_of_what_is_not_there_is_refused(journal: Path, tmp_path: Path, option: str) -> None:
    arguments = ("replay", "exp", "--to", "jsonl", "--workspace", str(tmp_path))
    done = trackbus(*arguments, option, "nosuch", folder=journal)
    assert (done.returncode, "the journal holds nothing of nosuch; its sites are" in done.stderr) == (2, True)

    done = trackbus(*arguments, "--site", "site-1", folder=journal)
    assert (done.returncode, done.stdout.startswith("replay-jsonl: ")) == (0, True), done.stderr


def test_a_replay_goes_on_for_a_receiver_with_all_sites_in_one_run(tmp_path: Path) -> None:
    with EventBus(tmp_path / "exp", site="site-1", job="job").background() as bus:
        bus.subscribe(TRACKING, JsonlReceiver(layout="combined"))
        bus.publish(MetricsLogged(values={"loss": 1.0}), run="run")
    bus = open_bus(tmp_path / "exp", site="site-2")
    bus.publish(MetricsLogged(values={"loss": 2.0}), run="run")
    bus.close()
    arguments = ("replay", "exp", "--to", "jsonl", "--name", "jsonl")

    done = trackbus(*arguments, folder=tmp_path)
    assert (done.returncode, "here: --name, --layout or --workspace" in done.stderr.replace("\n", " ")) == (2, True)
    done = trackbus(*arguments, "--layout", "all", folder=tmp_path)
    assert (done.returncode, "it is per_site or combined" in done.stderr) == (2, True)
    done = trackbus(*arguments, "--layout", "combined", folder=tmp_path)
    assert done.stdout.startswith("jsonl: 1 events stored"), done.stderr

    (file,) = (tmp_path / "exp" / "jsonl").rglob("*.jsonl")
    assert file.name == "_combined.jsonl"


async def put_aside(workspace: Path, seq: int) -> None:
    with closing(JournalReader(workspace / "journal", open_unchanged)) as reader:
        record = next(one for one in reader.read({}, 100) if one.seq == seq)
    folder = workspace / "dead" / "jsonl"
    dead = SqliteJournal(folder, Origin(site="nobody", rank=0, incarnation="a1", job="job"))
    await dead.append(RelayedBatch(header=record.header, first=seq, last=seq, records=((seq, record.body),)))
    dead.close()
    reason = {"partition": record.header.key, "seq": seq, "receiver": "jsonl", "reason": "too odd", "time_ns": 1}
    (folder / "reasons.jsonl").write_text(json.dumps(reason) + '\n{"torn')


def test_dead_letters_are_shown_with_their_reason_and_replayed(tmp_path: Path) -> None:
    bus = open_bus(tmp_path / "exp", site="site-1")
    for step in range(3):
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=step), run="run")
    bus.close()
    anyio.run(put_aside, tmp_path / "exp", 2)
    done = trackbus("replay", "exp", "--to", "jsonl", "--name", "jsonl", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = inspect(tmp_path, journal="exp/dead/jsonl")
    assert (line["seq"], line["reason"], line["event"]["step"]) == (2, "too odd", 1)
    text = trackbus("inspect", "exp/dead/jsonl", folder=tmp_path).stdout
    assert 'REASON: "too odd"' in text
    (consumer,) = status(tmp_path)["consumers"]
    assert consumer["dead"] == 1
    assert "jsonl: 1 dead letters: trackbus inspect exp/dead/jsonl" in trackbus("status", "exp", folder=tmp_path).stdout
    done = trackbus("replay", "exp/dead/jsonl", "--to", "jsonl", folder=tmp_path)
    assert done.stdout.startswith("jsonl: 1 events stored"), done.stderr
    lines = [line.value for line in read_jsonl(tmp_path / "exp" / "jsonl")]
    stored = [line["event"]["step"] for line in lines if line["type"] == "MetricsLogged"]
    assert stored == [0, 1, 2, 1]  # it was stored before as well: only here, where nothing was wrong with it
