import copy
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch

import writers
from eventbus import Envelope, Event, EventBus, Origin, Receipt, Scope
from eventbus._bus import Bus
from eventbus.abc import RefusedError
from eventbus.errors import AmbiguousBusError, BadInputError, BusStateError, ConfigurationError, NoBusError
from eventbus.journals import MemoryJournal
from eventbus.tracking import (
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    TagsSet,
    TextLogged,
    TrackingEvent,
)
from writers import MLflowWriter, SummaryWriter, TrackingWriter, WandBWriter
from writers._writer import LEFT_OUT

Stored = Callable[[type[Event]], list[Envelope[Any]]]
StoredOn = Callable[..., list[Envelope[Any]]]


ORIGIN = Origin(site="site", rank=0, incarnation="0", job="job")


class FullJournal(MemoryJournal):
    """A journal whose disk is full for a while."""

    is_full = True

    def append_nowait(self, event: Event, topic: str, scope: Scope, run: str, time_ns: int) -> Envelope[Event]:
        if self.is_full:
            raise RefusedError("disk full")
        return super().append_nowait(event, topic, scope, run, time_ns)


# ----------------------------------------------------------------------------------------- what is published
def test_numbers_are_published(bus: EventBus, stored: Stored) -> None:
    TrackingWriter().log({"loss": torch.tensor(0.5), "n": 3}, torch.tensor(7), time_ns=123, main_tag="chart")

    [one] = stored(MetricsLogged)
    assert one.event == MetricsLogged(values={"loss": 0.5, "n": 3.0}, step=7, main_tag="chart")
    assert (one.run, one.scope, one.time_ns, one.topic) == ("run-1", Scope.LOCAL, 123, "analytix_log_stats")


def test_params_tags_config_and_texts_are_published(bus: EventBus, stored: Stored) -> None:
    writer = TrackingWriter()

    writer.log_params({"lr": 0.1, "layers": [1, 2]})
    writer.set_tags({"owner": "me", "try": 3})
    writer.update_config({"model": {"width": (8, 16)}})
    writer.log_text("notes", "hello", 3)
    writer.log_text("notes.md", "# hello", is_file=True)

    assert [one.event for one in stored(TrackingEvent)][1:] == [
        ParamsLogged(values={"lr": 0.1, "layers": "[1, 2]"}),
        TagsSet(values={"owner": "me", "try": "3"}),
        ConfigUpdated(values={"model": {"width": [8, 16]}}),
        TextLogged(key="notes", text="hello", step=3),
        TextLogged(key="notes.md", text="# hello", is_file=True),
    ]


def test_a_record_is_stamped_at_the_caller(bus: EventBus, stored: Stored) -> None:
    writer = TrackingWriter()
    for _ in range(3):
        writer.log({"loss": 1.0})

    started, *times = [one.time_ns for one in stored(TrackingEvent)]
    assert 1_600_000_000 * 10**9 < started <= times[0] <= times[1] <= times[2]


def test_parts_of_one_call_share_its_time_and_step(bus: EventBus, stored: Stored) -> None:
    receipt = TrackingWriter().log({f"key-{i}": i for i in range(2500)}, 7)

    parts = stored(MetricsLogged)
    assert [len(one.event.values) for one in parts] == [1000, 1000, 500]
    assert len({(one.time_ns, one.event.step) for one in parts}) == 1
    assert receipt.seq == parts[-1].seq


def test_bad_input_raises_and_logs_nothing(bus: EventBus, stored: Stored) -> None:
    writer = TrackingWriter()

    with pytest.raises(BadInputError, match="'bad' is of type str"):
        writer.log({**{f"key-{i}": i for i in range(2500)}, "bad": "x"})
    with pytest.raises(BadInputError, match="'time_ns' is of type str"):
        writer.log({"loss": 1.0}, time_ns="now")  # type: ignore[arg-type] - what an unchecked caller may do

    assert stored(MetricsLogged) == []


def test_bad_input_is_counted_and_the_rest_is_logged(bus: EventBus, stored: Stored) -> None:
    writer = TrackingWriter(on_bad_input="count")

    receipts = [writer.log({"ok": 1.0, "bad": None}), writer.log({"bad": None}), writer.log({})]

    assert [one.event.values for one in stored(MetricsLogged)] == [{"ok": 1.0}]
    assert writer.bad_inputs == {"bad": 2}
    assert [receipt.refused for receipt in receipts] == [None, LEFT_OUT, None]


# ---------------------------------------------------------------------------------------------------- binding
def test_a_bound_writer_is_a_new_one(bus: EventBus, stored: Stored) -> None:
    writer = TrackingWriter()
    bound = writer.bind(run="run-2", scope=Scope.FEDERATED, prefix="train/").bind(prefix="a/")

    bound.log({"loss": 1.0})
    bound.log({"loss": 1.0}, main_tag="chart")
    bound.log_text("note", "text")
    bound.log_params({"lr": 0.1})
    writer.log({"loss": 2.0})

    metrics = stored(MetricsLogged)
    assert [(one.run, one.scope, one.event.main_tag, one.event.values) for one in metrics] == [
        ("run-2", Scope.FEDERATED, None, {"train/a/loss": 1.0}),
        ("run-2", Scope.FEDERATED, "train/a/chart", {"loss": 1.0}),
        ("run-1", Scope.LOCAL, None, {"loss": 2.0}),
    ]
    assert [one.event.key for one in stored(TextLogged)] == ["train/a/note"]
    assert [one.event.values for one in stored(ParamsLogged)] == [{"lr": 0.1}]
    assert repr(bound) == "TrackingWriter(run='run-2', scope=FEDERATED, prefix='train/a/')"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": "a b"}, "run 'a b' is not a name"),
        ({"scope": "federated"}, "scope='federated' is not a scope: use Scope.LOCAL or Scope.FEDERATED"),
        ({"on_bad_input": "ignore"}, "on_bad_input='ignore' is not known"),
    ],
)
def test_an_option_that_can_not_work_is_refused(bus: EventBus, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TrackingWriter(**options)


# --------------------------------------------------------------------------------------------------- receipts
def test_a_receipt_can_be_awaited(stored_on: StoredOn) -> None:
    async def main() -> Bus:
        async with EventBus() as bus:
            with TrackingWriter() as writer:
                receipt = await writer.log({"loss": 1.0})
                assert isinstance(receipt, Receipt)
                assert receipt.seq == 2
                assert (await writer.flush().delivered(timeout=5)).seq == 2
        return bus

    assert len(stored_on(anyio.run(main), MetricsLogged)) == 1


def test_flush_and_close_cover_all_that_was_published_on_the_bus(bus: EventBus) -> None:
    writer, other = TrackingWriter(), TrackingWriter()

    last = other.log({"loss": 1.0})

    for receipt in (writer.flush(), writer.close(), writer.close(), writer.finish()):
        assert (receipt.seq, receipt.refused) == (last.seq, None)
        receipt.wait_delivered(timeout=5)


def test_what_the_environment_refuses_does_not_raise() -> None:
    with EventBus().background():
        writer = TrackingWriter()

    receipts = [writer.log({"loss": 1.0}), writer.log_text("a", "b"), writer.bind(run="r").log({"loss": 1.0})]

    assert [receipt.refused for receipt in receipts] == ["the bus is closed"] * 3


def test_a_run_whose_start_was_refused_starts_with_the_next_record(stored_on: StoredOn) -> None:
    journal = FullJournal(ORIGIN)
    bus = Bus(lambda: journal)
    bus.open()

    writer = TrackingWriter(bus=bus)
    refused = writer.log({"loss": 1.0}).refused
    journal.is_full = False
    writer.log({"loss": 2.0})

    assert refused == "disk full"
    assert [type(one.event) for one in stored_on(bus, Event)] == [RunStarted, MetricsLogged]


# --------------------------------------------------------------------------------------------------- which bus
def test_without_any_bus_the_error_says_how_to_open_one() -> None:
    with pytest.raises(NoBusError, match=r"no bus is open; .*`async with EventBus\(\.\.\.\)`"):
        TrackingWriter()


def test_with_two_buses_the_error_says_to_name_one() -> None:
    errors: list[Exception] = []

    def in_thread() -> None:
        try:
            TrackingWriter()
        except AmbiguousBusError as error:
            errors.append(error)

    with EventBus().background(), EventBus().background():
        run_in_threads(in_thread, 1)

    assert [str(error) for error in errors] == ["2 buses are open; say which one: bus=..."]


def test_a_named_bus_comes_before_the_current_one(stored_on: StoredOn) -> None:
    with EventBus(run="outer").background() as outer, EventBus(run="inner").background() as inner:
        TrackingWriter(bus=outer).log({"a": 1})
        TrackingWriter().log({"b": 1})

        assert [one.run for one in stored_on(outer, MetricsLogged)] == ["outer"]
        assert [one.run for one in stored_on(inner, MetricsLogged)] == ["inner"]


def test_a_bus_that_is_not_entered_is_refused() -> None:
    with pytest.raises(BusStateError, match="the bus is not open; enter it"):
        TrackingWriter(bus=EventBus())


def test_a_bus_without_a_run_has_one_by_its_job(stored_on: StoredOn) -> None:
    bus = Bus(lambda: MemoryJournal(ORIGIN))
    bus.open()

    assert TrackingWriter(bus=bus).run == "job"


def test_disabled_writers_need_no_bus_and_record_nothing(
    bus: EventBus, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKBUS_MODE", "disabled")
    writer = TrackingWriter()

    for _ in range(100):
        assert writer.log({"loss": 1.0}).refused is None
    assert writer.log({"loss": 1.0}).wait(1).wait_delivered(1).refused is None
    with pytest.raises(BadInputError, match="'loss' is of type str"):
        writer.log({"loss": "x"})

    assert stored(Event) == []


def test_another_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKBUS_MODE", "off")

    with pytest.raises(ConfigurationError, match="TRACKBUS_MODE='off' is not known: use 'disabled', or unset it"):
        TrackingWriter()


# ----------------------------------------------------------------------------------------------------- threads
def test_threads_share_a_writer(bus: EventBus, stored: Stored) -> None:
    writer = TrackingWriter(on_bad_input="count")

    def log() -> None:
        for step in range(100):
            writer.log({threading.current_thread().name: step, "bad": None}, step)

    run_in_threads(log, 8)

    steps: dict[str, list[int]] = {}
    for one in stored(MetricsLogged):
        [name] = one.event.values
        steps.setdefault(name, []).append(one.event.step)
    assert list(steps.values()) == [list(range(100))] * 8  # all there, each thread's in order
    assert writer.bad_inputs == {"bad": 800}
    assert len(stored(RunStarted)) == 1


def test_writers_made_in_threads_start_a_run_once_and_first(bus: EventBus, stored: Stored) -> None:
    run_in_threads(lambda: TrackingWriter().log({"a": 1}), 8)

    kinds = [type(one.event) for one in stored(TrackingEvent)]
    assert Counter(kinds) == {RunStarted: 1, MetricsLogged: 8}
    assert kinds[0] is RunStarted


def run_in_threads(call: Callable[[], object], count: int) -> None:
    threads = [threading.Thread(target=call, name=f"thread-{i}") for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


# ------------------------------------------------------------------------------------------------------ on disk
def test_what_is_logged_is_on_disk_and_reaches_handlers(tmp_path: Path) -> None:
    seen: list[Envelope[TrackingEvent]] = []

    async def main() -> None:
        async with EventBus(tmp_path / "w", site="site-1") as bus:
            bus.subscribe(TrackingEvent, seen.append, envelopes=True)
            TrackingWriter().log({"loss": float("nan")}, 3)

    anyio.run(main)

    assert [type(one.event) for one in seen] == [RunStarted, MetricsLogged, RunFinished]
    assert {(one.site, one.run) for one in seen} == {("site-1", seen[0].run)}
    assert list((tmp_path / "w" / "journal" / "site-1").glob("*.db"))


def test_training_code_loads_no_sdk() -> None:
    program = (
        "import sys, eventbus, writers\n"
        "with eventbus.EventBus().background():\n"
        "    writers.WandBWriter().log({'loss': 1.0})\n"
        "print(sys.modules.keys() & {'wandb', 'mlflow', 'tensorboard', 'torch', 'numpy', 'nats'} or 'none')"
    )
    home = str(Path(writers.__file__).parents[1])

    child = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": home},
    )

    assert (child.stdout.strip(), child.stderr) == ("none", "")


def test_where_no_scope_is_named_the_bus_says_how_far_records_travel(tmp_path: Path) -> None:
    with EventBus(tmp_path, scope=Scope.FEDERATED).background() as bus:
        assert TrackingWriter().scope is Scope.FEDERATED
        assert SummaryWriter().tracking.scope is Scope.FEDERATED
        assert TrackingWriter(scope=Scope.LOCAL).scope is Scope.LOCAL
        assert bus.address.scope is Scope.FEDERATED
    with EventBus(tmp_path).background():
        assert TrackingWriter().scope is Scope.LOCAL


# ----------------------------------------------------------------------------------------------- other processes
@pytest.mark.parametrize("kind", [TrackingWriter, WandBWriter, MLflowWriter, SummaryWriter])
def test_a_writer_crosses_to_another_process(tmp_path: Path, kind: Any, stored_on: StoredOn) -> None:
    code = (
        "import pickle, sys; from writers import TrackingWriter\n"
        "writer = pickle.load(sys.stdin.buffer); tracking = getattr(writer, 'tracking', writer)\n"
        "tracking.log({'loss': 1.0}); print(type(writer).__name__, tracking.run, tracking.scope.name)"
    )
    with EventBus(tmp_path, job="hello").background() as bus:
        writer = kind(run="mine", scope=Scope.FEDERATED, on_bad_input="count")
        assert copy.deepcopy([writer, copy.copy(writer)]) == [writer, writer]
        command = [sys.executable, "-P", "-c", code]
        said = subprocess.run(command, input=pickle.dumps(writer), capture_output=True, check=True, timeout=60).stdout
        found = [one.run for one in stored_on(bus, MetricsLogged)]

    assert said.decode().split() == [kind.__name__, "mine", "FEDERATED"]
    assert found == ["mine"]
