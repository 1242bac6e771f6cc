"""Which bus a writer finds when none is named."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, closing
from contextvars import copy_context
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from eventbus import Event, EventBus, TrackbusError, current_bus
from eventbus._codec import read_frame
from eventbus.errors import AmbiguousBusError, ConfigurationError, NoBusError
from eventbus.journals._reader import JournalReader
from eventbus.workspace import ENVIRONMENT

pytestmark = pytest.mark.anyio


class Told(Event, name="tests.current.Told", topic="tests.current.tell"):
    number: int


def found_in_fresh_thread() -> object:
    """What a thread finds that inherits no context."""
    found: list[object] = []

    def look() -> None:
        try:
            found.append(current_bus())
        except TrackbusError as error:
            found.append(type(error))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(5)
    return found[0]


async def test_none_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(NoBusError, match="or pass bus="):
        current_bus()


async def test_the_innermost_one() -> None:
    with anyio.fail_after(10):
        async with EventBus() as outer:
            assert current_bus() is outer
            async with EventBus() as inner:
                assert current_bus() is inner
            assert current_bus() is outer
        with pytest.raises(NoBusError):
            current_bus()


async def test_tasks_and_worker_threads_inherit_it() -> None:
    found: list[object] = []

    async def look() -> None:
        found.append(current_bus())

    with anyio.fail_after(10):
        async with EventBus(), EventBus() as inner:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(look)
            found.append(await anyio.to_thread.run_sync(current_bus))
            assert found == [inner, inner]


async def test_a_fresh_thread_finds_the_only_open_one_and_several_are_ambiguous() -> None:
    with anyio.fail_after(10):
        async with EventBus() as outer:
            assert found_in_fresh_thread() is outer
            async with EventBus():
                assert found_in_fresh_thread() is AmbiguousBusError
            assert found_in_fresh_thread() is outer
        assert found_in_fresh_thread() is NoBusError


async def test_a_task_that_outlives_its_bus_does_not_find_it() -> None:
    left = anyio.Event()
    found: list[object] = []

    async def look() -> None:
        await left.wait()
        try:
            found.append(current_bus())
        except NoBusError:
            found.append(None)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            async with EventBus():
                tasks.start_soon(look)
            left.set()
    assert found == [None]


async def test_leaving_in_another_order_leaves_none_behind() -> None:
    first, second = EventBus(), EventBus()
    with anyio.fail_after(10):
        async with first:
            async with second:
                assert current_bus() is second
            assert current_bus() is first


def test_a_bus_left_in_a_copied_context_leaves_the_one_before() -> None:
    """As a hook does that a server calls at its shutdown: each task has a copy."""
    inner = ExitStack()

    def leave() -> object:
        inner.close()
        return current_bus()

    with EventBus().background(), EventBus().background() as outer:
        inner.enter_context(EventBus().background())
        assert copy_context().run(leave) is outer


def test_a_bus_left_by_another_task_is_drained_and_closed_and_cancels_nobody() -> None:
    """What anyio says of it is raised in the end: cancel scopes belong to their task."""
    released = asyncio.Event()
    got: list[int] = []

    async def slow(event: Told) -> None:
        await released.wait()
        got.append(event.number)

    async def main() -> EventBus:
        exits = AsyncExitStack()
        bus = await exits.enter_async_context(EventBus())
        bus.subscribe(Told, slow)
        for number in range(3):
            bus.publish(Told(number=number))
        leaving = asyncio.ensure_future(exits.aclose())
        await asyncio.sleep(0)
        released.set()
        with pytest.raises(RuntimeError, match="different task"):
            await leaving
        await asyncio.sleep(0)
        return bus

    bus = asyncio.run(main())
    assert got == [0, 1, 2]
    assert bus.publish(Told(number=3)).refused == "the bus is closed"
    with pytest.raises(NoBusError):
        current_bus()


def test_in_the_background_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with EventBus().background() as bus:
        assert current_bus() is bus
        assert found_in_fresh_thread() is bus
    with pytest.raises(NoBusError):
        current_bus()


# -------------------------------------------------------------------------------------------------- the environment
CHILD = """
    from eventbus import current_bus
    from eventbus.tracking import MetricsLogged

    bus = current_bus()
    assert current_bus() is bus
    print(bus.site, bus.rank, bus.job, bus.run, bus.publish(MetricsLogged(values={"loss": 1.0}), run=bus.run))
"""


def environment_of(bus: EventBus) -> dict[str, str]:
    return {ENVIRONMENT: msgspec.json.encode(bus.address).decode()}


def test_the_environment_names_one(tmp_path: Path, run_program: Callable[..., str]) -> None:
    parent = EventBus(tmp_path, site="site-1", job="job", rank=3, run="mine")
    address = {"workspace": str(tmp_path), "site": "site-1", "job": "job", "rank": 3, "run": "mine"}
    assert json.loads(environment_of(parent)[ENVIRONMENT]) == address

    assert run_program(CHILD, **environment_of(parent)) == "site-1 3 job mine Receipt(seq=1)\n"

    with closing(JournalReader(tmp_path / "journal")) as reader:
        (record,) = reader.read({}, 10)
        (partition,) = reader.partitions()
        assert partition.ended()
        assert partition.closed_in_order()
    origin = record.header.origin
    assert (origin.site, origin.rank, read_frame(record.body).run) == ("site-1", 3, "mine")


def test_threads_that_look_at_once_find_the_same_one(tmp_path: Path, run_program: Callable[..., str]) -> None:
    program = """
        import threading
        from eventbus import current_bus

        found, start = set(), threading.Barrier(8)

        def look():
            start.wait()
            found.add(current_bus())

        threads = [threading.Thread(target=look) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(len(found))
    """
    assert run_program(program, **environment_of(EventBus(tmp_path))) == "1\n"
    assert len(list(tmp_path.glob("journal/*/*.db"))) == 1


def test_an_open_bus_comes_before_the_environment(tmp_path: Path, run_program: Callable[..., str]) -> None:
    program = """
        from eventbus import EventBus, current_bus
        with EventBus().background() as bus:
            print(current_bus() is bus)
    """
    assert run_program(program, **environment_of(EventBus(tmp_path))) == "True\n"
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize("text", ["nonsense", "{}", '{"workspace": 1}', "[]"])
def test_an_environment_that_names_nothing_is_an_error(run_program: Callable[..., str], text: str) -> None:
    program = """
        from eventbus import TrackbusError, current_bus
        try:
            current_bus()
        except TrackbusError as error:
            print(type(error).__name__, "TRACKBUS_BUS" in str(error))
    """
    assert run_program(program, **{ENVIRONMENT: text}) == "ConfigurationError True\n"


def test_a_bus_in_memory_has_no_address() -> None:
    with pytest.raises(ConfigurationError, match="workspace"):
        _ = EventBus().address
