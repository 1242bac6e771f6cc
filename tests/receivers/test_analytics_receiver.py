"""A receiver of one's own, in a worker process: nothing lost, and what it needs for nothing twice."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventbus import EventBus
from eventbus.errors import ConfigurationError, SubscriptionError
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, WorkerPolicy
from receivers._processes import marked_processes
from receivers.abc import AnalyticsConfig, AnalyticsReceiver, AnalyticsSink, RunInfo
from receivers.testing import check_sink

MODULE = '''
import json
from pathlib import Path

from receivers.abc import AnalyticsReceiver


class NotesReceiver(AnalyticsReceiver):
    """Writes a line per event."""

    def __init__(self, folder, slow=0.0, events=None, **options):
        super().__init__(events=events, **options)
        self.folder = folder
        self._slow = slow

    def initialize(self, run):
        folder = self.workspace / self.folder
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{run.id}-{run.site}.jsonl"
        self.file = self.path.open("a")

    def save(self, event):
        if not hasattr(event.event, "values"):
            self.counts["no values"] += 1
            return
        if self._slow:
            import time
            time.sleep(self._slow)
        self.write({"id": event.id, "event": repr(event.event)})

    def write(self, line):
        self.file.write(json.dumps(line) + "\\n")
        self.file.flush()

    def finalize(self, status):
        if status is not None:
            self.write({"status": status.value})
        self.file.close()


class ExactReceiver(NotesReceiver):
    """Keeps how far it got with what it stores."""

    def initialize(self, run):
        super().initialize(run)
        whole = self.path.read_bytes().rpartition(b"\\n")
        with self.path.open("r+b") as file:
            file.truncate(len(whole[0] + whole[1]))
        self.stored = {tuple(json.loads(line)["id"]) for line in self.path.read_text().splitlines()}

    def save(self, event):
        if event.id not in self.stored:
            self.write({"id": event.id, "event": repr(event.event)})
            self.stored.add(event.id)

    def finalize(self, status):
        self.file.close()


class LateReceiver(NotesReceiver):
    """Takes a name that every receiver has."""

    def __init__(self, home, **options):
        super().__init__("out", **options)
        self._home = home


class EarlyReceiver(NotesReceiver):
    """The same, before its base does."""

    def __init__(self, home, **options):
        self._home = home
        super().__init__("out", **options)


class ForgetfulReceiver(NotesReceiver):
    """Doesn't keep its argument."""

    def __init__(self, place, **options):
        super().__init__(place, **options)


class PositionalReceiver(NotesReceiver):
    """Can't be given its argument by name."""

    def __init__(self, folder="out", /, **options):
        super().__init__(folder, **options)


class ManyReceiver(NotesReceiver):
    """Takes any number of them."""

    def __init__(self, *folders, **options):
        super().__init__("/".join(folders), **options)


class PlacedReceiver(NotesReceiver):
    """Says where its data go."""

    def destination(self):
        return f"folder {self.folder}"


class OptionalReceiver(NotesReceiver):
    """Takes one of its own from among the options."""

    def __init__(self, folder, **options):
        self.token = options.pop("token", "")
        super().__init__(folder, **options)
'''


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a user's module, as a script does that lies beside it."""
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "my_notes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "script")
    monkeypatch.delitem(sys.modules, "my_notes", raising=False)
    import my_notes  # pyright: ignore[reportMissingImports] - it is written above

    return my_notes


def read(folder: Path, run: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{run}-site-1.jsonl").read_text().splitlines()]


def test_one_that_keeps_its_position_keeps_the_contract_of_a_sink(tmp_path: Path, notes: Any) -> None:
    def make_sink() -> AnalyticsSink:
        return AnalyticsSink(AnalyticsConfig(receiver="my_notes:ExactReceiver", args={"folder": "out"}), tmp_path)

    def read_back(run: RunInfo) -> list[object]:
        return [line["event"] for line in read(tmp_path / "out", run.id)]

    check_sink(make_sink, read_back)


@pytest.mark.anyio
async def test_it_is_made_again_in_its_worker_and_told_how_the_run_ended(tmp_path: Path, notes: Any) -> None:
    receiver = notes.NotesReceiver(Path("out"), slow=0.001)
    async with EventBus(tmp_path / "ws", site="site-1", run="run") as bus:
        bus.subscribe(TRACKING, receiver)
        for step in range(3):
            bus.publish(MetricsLogged(values={"loss": step / 2}, step=step), run="run")
        bus.publish(MetricsLogged(values={"loss": 9.0}), run="run")
    line = bus.report().line("NotesReceiver")
    assert (line.delivered, line.left) == (4, 0)
    *saved, end = read(tmp_path / "ws" / "out")
    assert [one["event"] for one in saved] == [
        *(repr(MetricsLogged(values={"loss": step / 2}, step=step)) for step in range(3)),
        repr(MetricsLogged(values={"loss": 9.0})),
    ]
    assert end == {"status": "FINISHED"}


@pytest.mark.anyio
async def test_kill_9_of_its_worker_loses_nothing(tmp_path: Path, notes: Any) -> None:
    """What was not acknowledged comes again: at least once, in order, and twice only around the kill."""
    count, batch = 300, 25
    receiver = notes.NotesReceiver(
        "out",
        0.005,
        flush=FlushPolicy(max_items=batch, max_delay=0.05),
        worker=WorkerPolicy(start_timeout=20, process_timeout=10, heartbeat_timeout=10, orphan_timeout=10),
    )
    path = tmp_path / "out" / "run-site-1.jsonl"
    with anyio.fail_after(90):
        async with EventBus(tmp_path, site="site-1", run="run") as bus:
            bus.subscribe(TRACKING, receiver)
            for step in range(count):
                bus.publish(MetricsLogged(values={"loss": 0.5}, step=step), run="run")
            while not path.exists() or path.read_text().count("\n") < count // 4:  # noqa: ASYNC110 - by another process
                await anyio.sleep(0.02)
            (worker,) = marked_processes(str(tmp_path / "cursors" / "NotesReceiver.db"))
            os.kill(worker, signal.SIGKILL)
    assert bus.report().line("NotesReceiver").failed >= 1  # the fault did bite
    *saved, _end = read(tmp_path / "out")
    times = Counter(one["id"][1] for one in saved)
    assert sorted(times) == list(range(1, count + 1))
    assert sum(times.values()) <= count + batch
    firsts = list(dict.fromkeys(one["id"][1] for one in saved))
    assert firsts == sorted(firsts)


@pytest.mark.anyio
async def test_what_it_leaves_out_is_counted(tmp_path: Path, notes: Any) -> None:
    from writers import MLflowWriter

    receiver = notes.NotesReceiver("out")
    async with EventBus(tmp_path, site="site-1", run="run") as bus:
        bus.subscribe(TRACKING, receiver)
        MLflowWriter().log_text("all of it", "report.txt")
    assert receiver.statistics().altered == {"no values": 3}  # beside the text the run's beginning and end


@pytest.mark.anyio
async def test_what_cannot_be_made_again_in_another_process_is_refused(tmp_path: Path, notes: Any) -> None:
    class Local(AnalyticsReceiver):
        def initialize(self, run: object) -> None: ...
        def save(self, event: object) -> None: ...
        def finalize(self, status: object) -> None: ...

    async with EventBus(tmp_path, site="site-1") as bus:
        with pytest.raises(SubscriptionError, match="move the class to the top level of a module beside the script"):
            bus.subscribe(TRACKING, Local())
        with pytest.raises(ConfigurationError, match=r"keep its argument as self\.place = place"):
            bus.subscribe(TRACKING, notes.ForgetfulReceiver("out"))
        with pytest.raises(ConfigurationError, match="attributes _home of its own: LateReceiver must call"):
            bus.subscribe(TRACKING, notes.LateReceiver("out"))
        with pytest.raises(ConfigurationError, match="attributes _home of its own: EarlyReceiver must call"):
            notes.EarlyReceiver("out")
        with pytest.raises(ConfigurationError, match="folder must be JSON there, or a path"):
            bus.subscribe(TRACKING, notes.NotesReceiver(object()))


@pytest.mark.anyio
async def test_an_argument_that_has_no_name_is_refused(tmp_path: Path, notes: Any) -> None:
    """In the worker it would be missing, or be another one."""
    async with EventBus(tmp_path, site="site-1") as bus:
        for receiver, name in [
            (notes.PositionalReceiver("out"), "folder"),
            (notes.ManyReceiver("a", "b"), "folders"),
            (notes.OptionalReceiver("out", token="abc", name="mine"), "token"),
        ]:
            with pytest.raises(ConfigurationError, match=f"let its __init__ take {name} by name"):
                bus.subscribe(TRACKING, receiver)


@pytest.mark.anyio
async def test_two_of_one_class_fill_what_each_says_and_keep_to_it(tmp_path: Path, notes: Any) -> None:
    async with EventBus(tmp_path, site="site-1", run="run") as bus:
        for name in ("a", "b"):
            bus.subscribe(TRACKING, notes.PlacedReceiver(name, name=name))
        bus.publish(MetricsLogged(values={"loss": 1.0}), run="run")
        bus.subscribe(TRACKING, notes.NotesReceiver("c", name="c"))
        with pytest.raises(SubscriptionError, match="is filled by the receiver 'c'"):
            bus.subscribe(TRACKING, notes.NotesReceiver("d", name="d"))
    assert bus.report().complete, str(bus.report())
    assert [len(read(tmp_path / name)) for name in "ab"] == [2, 2]  # the metric and the run's end
    async with EventBus(tmp_path, site="site-1") as bus:
        bus.subscribe(TRACKING, notes.PlacedReceiver("a", 0.5, name="a"))
        with pytest.raises(SubscriptionError, match=r"'b' .* belongs to my_notes:PlacedReceiver:folder b, not to .*a;"):
            bus.subscribe(TRACKING, notes.PlacedReceiver("x/a", name="b"))


@pytest.mark.parametrize("name", ["my_notes", "my.notes.of", "my.notes"])
@pytest.mark.anyio
async def test_its_worker_finds_what_was_imported_from_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A notebook, `python -c`: they import from the working directory, and change it."""
    script, elsewhere = tmp_path / "script", tmp_path / "elsewhere"
    path = (
        (script / name.replace(".", "/")).with_suffix(".py") if name != "my.notes" else script / "my/notes/__init__.py"
    )
    path.parent.mkdir(parents=True)
    path.write_text(MODULE)
    elsewhere.mkdir()
    for parent in ("my", "my.notes", name):
        monkeypatch.delitem(sys.modules, parent, raising=False)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.chdir(script)
    notes = importlib.import_module(name)
    monkeypatch.chdir(elsewhere)
    async with EventBus(tmp_path / "ws", site="site-1", run="run") as bus:
        bus.subscribe(TRACKING, notes.NotesReceiver("out"))
        bus.publish(MetricsLogged(values={"loss": 1.0}), run="run")
    assert bus.report().complete, str(bus.report())


def test_what_is_not_used_needs_no_name(tmp_path: Path, notes: Any) -> None:
    for receiver, args in [
        (notes.PositionalReceiver(), {}),
        (notes.ManyReceiver(), {}),
        (notes.OptionalReceiver("out", name="mine"), {"folder": "out"}),
    ]:
        assert receiver._describe().args == args


def test_its_worker_gets_numbers_that_json_lacks(notes: Any) -> None:
    config = notes.NotesReceiver({"limits": [math.inf, -math.inf]}, slow=math.nan)._describe()

    in_worker = AnalyticsConfig.model_validate_json(config.model_dump_json()).args
    assert in_worker["folder"] == {"limits": [math.inf, -math.inf]}
    assert math.isnan(in_worker["slow"])  # pyright: ignore[reportArgumentType] - a float


def test_a_class_without_its_methods_cannot_be_made() -> None:
    class Half(AnalyticsReceiver):
        def save(self, event: object) -> None: ...

    with pytest.raises(TypeError, match="abstract"):
        Half()  # pyright: ignore[reportAbstractUsage]
