"""A bus in a script that has no event loop: the body runs in the calling thread, the bus on a loop of its own."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from contextvars import copy_context
from pathlib import Path

import anyio
import pytest

from eventbus import Event, EventBus, Receipt, current_bus
from eventbus.errors import BusStateError, NoBusError, NotDeliveredError
from eventbus.testing import Recorder


class Counted(Event, name="tests.background.Counted"):
    number: int


@pytest.fixture(params=["memory", "disk"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> EventBus:
    return EventBus(None if request.param == "memory" else tmp_path)


def test_leaving_delivers_what_was_published(bus: EventBus) -> None:
    recorder: Recorder[Counted] = Recorder()
    in_thread: list[int] = []
    with bus.background() as entered:
        assert entered is bus
        bus.subscribe(Counted, recorder)
        bus.subscribe(Counted, lambda event: in_thread.append(event.number), name="synchronous")
        for number in range(300):
            bus.publish(Counted(number=number))

    assert [event.number for event in recorder.events] == list(range(300)) == in_thread
    assert bus.report().complete


def test_threads_publish_and_wait(bus: EventBus) -> None:
    recorder: Recorder[Counted] = Recorder()
    receipts: list[Receipt] = []

    def publish() -> None:
        for number in range(100):
            receipt = bus.publish(Counted(number=number))
            receipt.wait_delivered(5)
            receipts.append(receipt)

    with bus.background():
        bus.subscribe(Counted, recorder)
        threads = [threading.Thread(target=publish) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert sorted(receipt.seq for receipt in receipts) == list(range(1, 401))
    assert len(recorder.events) == 400


def test_an_error_of_the_body_passes_as_it_is(bus: EventBus) -> None:
    error = KeyError("mine")
    seen: list[BaseException | None] = []
    recorder: Recorder[Counted] = Recorder()
    with pytest.raises(KeyError) as caught, bus.background():  # noqa: PT012 - the block's own error is meant
        bus.subscribe(Counted, recorder)
        bus.at_close(seen.append)
        bus.publish(Counted(number=1))
        raise error

    assert caught.value is error
    assert seen == [error]
    assert len(recorder.events) == 1
    assert bus.publish(Counted(number=2)).refused == "the bus is closed"


def test_a_workspace_that_cannot_be_written_raises_at_the_entry(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="can't be written"), EventBus(tmp_path / "file").background():
        pytest.fail("entered")


def test_an_interrupt_in_the_body_drains_too(tmp_path: Path, run_program: Callable[..., str]) -> None:
    program = """
        import os, signal, sys
        from eventbus import EventBus
        from eventbus.tracking import MetricsLogged

        got = []
        try:
            with EventBus(sys.argv[1]).background() as bus:
                bus.subscribe(MetricsLogged, got.append)
                bus.at_close(lambda error: print(type(error).__name__))
                for number in range(100):
                    bus.publish(MetricsLogged(values={"loss": float(number)}))
                os.kill(os.getpid(), signal.SIGINT)
                signal.pause()
        except KeyboardInterrupt:
            print(len(got), bus.report().complete)
    """
    assert run_program(program, tmp_path) == "KeyboardInterrupt\n100 True\n"


def test_a_handler_that_hangs_keeps_no_process_from_ending(run_program: Callable[..., str]) -> None:
    program = """
        import threading
        from eventbus import EventBus
        from eventbus.tracking import MetricsLogged

        with EventBus(drain_idle_timeout=0.2).background() as bus:
            bus.subscribe(MetricsLogged, lambda event: threading.Event().wait(), name="hanging")
            bus.publish(MetricsLogged(values={"loss": 1.0}))
        print(bus.report().line("hanging").dropped)
    """
    assert run_program(program) == "1\n"


def test_another_loop_may_use_it(bus: EventBus) -> None:
    async def main() -> int:
        with anyio.fail_after(10):
            receipt = await bus.publish(Counted(number=1))
            await receipt.delivered(5)
        return receipt.seq

    with bus.background():
        assert anyio.run(main) == 1


def test_after_the_end_nothing_waits(bus: EventBus) -> None:
    with bus.background():
        receipt = bus.publish(Counted(number=1))
    assert receipt.wait_delivered(1) is receipt
    with pytest.raises(NotDeliveredError, match="the bus is closed"):
        bus.publish(Counted(number=2)).wait_delivered(1)
    with pytest.raises(BusStateError):
        bus.subscribe(Counted, Recorder[Counted]())


NEVER_LEFT = """
    import gc, sys
    from eventbus import Event, EventBus

    class Counted(Event, name="tests.background.Counted"):
        number: int

    bus = EventBus(sys.argv[1]).background().__enter__()
    bus.subscribe(Counted, lambda event: print(event.number))
    gc.collect()
    assert bus.publish(Counted(number=1)).refused is None
"""


def test_a_bus_that_is_never_left_is_left_when_the_interpreter_exits(
    tmp_path: Path, run_program: Callable[..., str]
) -> None:
    """A notebook keeps the bus, and not what it was entered by."""
    assert run_program(NEVER_LEFT, tmp_path) == "1\n"
    (partition,) = tmp_path.glob("journal/local/*.db")
    with closing(sqlite3.connect(partition)) as journal:
        assert journal.execute("SELECT value FROM header WHERE name = 'closed'").fetchall() == [(1,)]


def test_a_bus_may_be_left_in_a_copy_of_the_context_that_entered_it(bus: EventBus) -> None:
    """As a shutdown hook does: every task, and every run of a loop, has a copy of its own."""
    recorder: Recorder[Counted] = Recorder()
    background = bus.background()
    context = copy_context()
    context.run(background.__enter__)
    bus.subscribe(Counted, recorder)
    bus.publish(Counted(number=1))
    context.copy().run(background.__exit__, None, None, None)

    assert len(recorder.events) == 1
    assert bus.publish(Counted(number=2)).refused == "the bus is closed"
    with pytest.raises(NoBusError):
        context.run(current_bus)
