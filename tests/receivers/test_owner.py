"""Two workspaces that fill one folder: neither cuts off what the other one wrote."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from eventbus import EventBus, Report
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import JsonlReceiver, TensorBoardReceiver
from receivers._owner import TrackerTakenError
from receivers.abc import Position, Sink
from receivers.jsonl import JsonlConfig, JsonlSink
from receivers.tensorboard import TensorBoardConfig, TensorBoardSink
from receivers.testing import make_rows, make_run

RUN = make_run("baseline")
ROWS = make_rows([MetricsLogged(values={"loss": float(step)}, step=step) for step in range(5)])

MakeSink = Callable[[Path, Path], Sink[Any]]


def jsonl(workspace: Path, folder: Path) -> Sink[Any]:
    return JsonlSink(JsonlConfig(path=str(folder)), workspace)


def tensorboard(workspace: Path, folder: Path) -> Sink[Any]:
    return TensorBoardSink(TensorBoardConfig(tb_folder=str(folder)), workspace)


@pytest.fixture(params=[jsonl, tensorboard])
def make_sink(request: pytest.FixtureRequest) -> MakeSink:
    return request.param


@pytest.fixture
def workspaces(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "a", tmp_path / "b"]
    for one in made:
        one.mkdir()
    return made


def write(sink: Sink[Any], rows: int = 5) -> Position:
    sink.open(RUN, Position(0))
    sink.write(ROWS[:rows])
    return sink.close(None)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_another_workspace_wrote_is_left_alone(
    workspaces: list[Path], tmp_path: Path, make_sink: MakeSink
) -> None:
    write(make_sink(workspaces[0], tmp_path / "shared"))
    before = files(tmp_path / "shared")

    for _ in range(2):  # the second time as a worker that was started again
        with pytest.raises(TrackerTakenError, match=r"was written by another workspace than .*/b: give the"):
            make_sink(workspaces[1], tmp_path / "shared").open(RUN, Position(0))

    assert files(tmp_path / "shared") == before


def test_a_workspace_made_anew_is_another_one(workspaces: list[Path], tmp_path: Path, make_sink: MakeSink) -> None:
    write(make_sink(workspaces[0], tmp_path / "shared"))
    before = files(tmp_path / "shared")
    shutil.rmtree(workspaces[0])
    workspaces[0].mkdir()

    with pytest.raises(TrackerTakenError):
        make_sink(workspaces[0], tmp_path / "shared").open(RUN, Position(0))

    assert files(tmp_path / "shared") == before


def test_files_that_nobody_has_marked_are_anothers(workspaces: list[Path], tmp_path: Path, make_sink: MakeSink) -> None:
    write(make_sink(workspaces[0], tmp_path / "shared"))
    for mark in (tmp_path / "shared").rglob("*.owner"):
        mark.unlink()
    before = files(tmp_path / "shared")

    with pytest.raises(TrackerTakenError):
        make_sink(workspaces[0], tmp_path / "shared").open(RUN, Position(0))

    assert files(tmp_path / "shared") == before


def test_a_workspace_that_was_moved_or_lost_its_cursor_writes_its_own_anew(
    workspaces: list[Path], tmp_path: Path, make_sink: MakeSink
) -> None:
    """So does a worker that was killed before anything was acknowledged."""
    write(make_sink(workspaces[0], tmp_path / "shared"), rows=3)
    moved = workspaces[0].rename(tmp_path / "moved")

    committed = write(make_sink(moved, tmp_path / "shared"))

    assert committed.row == 5
    again = make_sink(moved, tmp_path / "shared")
    assert again.open(RUN, committed) == 5
    assert again.close(None) == committed


@pytest.mark.anyio
async def test_a_refused_run_stays_in_the_journal_and_is_stored_when_there_is_room(tmp_path: Path) -> None:
    async def session(workspace: str, count: int, *, refused: bool = False) -> Report:
        idle = 0.5 if refused else 30.0
        async with EventBus(tmp_path / workspace, site="site-1", run="run", drain_idle_timeout=idle) as bus:
            receivers = [JsonlReceiver(str(tmp_path / "lines")), TensorBoardReceiver(str(tmp_path / "shown"))]
            for one in receivers:
                bus.subscribe(TRACKING, one)
            for step in range(count):
                bus.publish(MetricsLogged(values={"loss": 0.5}, step=step), run="run")
            if refused:
                await until(lambda: all(one.statistics().failed for one in receivers))
        return bus.report()

    assert (await session("a", 7)).complete
    report = await session("b", 7, refused=True)
    for line in report.lines:
        assert (line.delivered, line.left >= 7) == (0, True)
        assert any("was written by another workspace" in note for note in line.notes)

    shutil.rmtree(tmp_path / "lines" / "run")
    shutil.rmtree(tmp_path / "shown" / "run")
    assert (await session("b", 0)).complete
