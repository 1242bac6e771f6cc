import json
import math
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from readback import Row, read_tensorboard, torn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eventbus import Event
from eventbus.errors import ConfigurationError, MissingExtraError, WorkspaceError
from eventbus.tracking import (
    ConfigUpdated,
    MetricsLogged,
    ParamsLogged,
    RunStarted,
    RunStatus,
    TagsSet,
    TextLogged,
)
from receivers.abc import Position, RunInfo
from receivers.tensorboard import TensorBoardConfig, TensorBoardSink
from receivers.testing import SAMPLES, START_NS, check_sink, make_rows, make_run

RUN = make_run("run")
SITE = "check-run/site-1"


def sink(workspace: Path) -> TensorBoardSink:
    return TensorBoardSink(TensorBoardConfig(), workspace)


def read(workspace: Path, run: str = "") -> list[Row]:
    rows = read_tensorboard(workspace / "tensorboard" / run)
    assert torn(rows) == []
    return rows


def write(workspace: Path, events: Sequence[Event], status: RunStatus | None = None) -> TensorBoardSink:
    opened = sink(workspace)
    opened.open(RUN, Position(0))
    opened.write(make_rows(events))
    opened.close(status)
    return opened


def metrics(rows: list[Row]) -> list[tuple[str, str, int | None, str]]:
    return [(row.run, row.key, row.step, str(row.value)) for row in rows if row.kind == "metric"]


def texts(rows: list[Row]) -> list[tuple[str, int | None, float | str]]:
    return [(row.key, row.step, row.value) for row in rows if row.kind == "text"]


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    def read_back(run: RunInfo) -> list[object]:
        return [(row.run, row.kind, row.key, row.step, row.value, row.wall_time_ns) for row in read(tmp_path, run.id)]

    check_sink(lambda: sink(tmp_path), read_back)


# ---------------------------------------------------------------------------------------------------- metrics
def test_a_scalar_keeps_its_step_and_the_callers_time(tmp_path: Path) -> None:
    write(tmp_path, [MetricsLogged(values={"loss": 0.1, "acc": 2.0}, step=3), MetricsLogged(values={"x": 1.0})])

    rows = read(tmp_path)

    assert metrics(rows) == [
        (SITE, "loss", 3, "0.10000000149011612"),  # float32, as the SDK stores it
        (SITE, "acc", 3, "2.0"),
        (SITE, "x", 0, "1.0"),
    ]
    times = [row.wall_time_ns for row in rows]
    assert times == [pytest.approx(START_NS + number * 7_000_000, abs=1000) for number in (1, 1, 2)]


def test_numbers_that_are_not_finite_stay_and_those_too_large_are_counted(tmp_path: Path) -> None:
    values = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "huge": 1e300, "low": -1e39, "ok": 3e38}
    written = write(tmp_path, [MetricsLogged(values=values, step=0)])

    found = {row.key: float(row.value) for row in read(tmp_path)}

    assert math.isnan(found["nan"])
    assert (found["inf"], found["minus"], found["huge"], found["low"]) == (
        math.inf,
        -math.inf,
        math.inf,
        -math.inf,
    )
    assert written.counts == {"float32 overflow": 2}


def test_many_values_of_one_event_are_all_stored(tmp_path: Path) -> None:
    values = {f"k{number}": float(number) for number in range(1000)}
    write(tmp_path, [MetricsLogged(values=values, step=7)])

    rows = read(tmp_path)

    assert {row.key: row.value for row in rows} == values
    assert {row.step for row in rows} == {7}


def test_it_stores_what_the_sdk_stores(tmp_path: Path) -> None:
    from torch.utils.tensorboard.writer import SummaryWriter

    write(
        tmp_path,
        [
            MetricsLogged(values={"a": 0.25}, step=3),
            MetricsLogged(values={"x": 0.5, "y/z": 1.5}, step=4, main_tag="group/of"),
            TextLogged(key="note", text="some *text*", step=5),
        ],
    )
    writer = SummaryWriter(str(tmp_path / "sdk" / "check-run" / "site-1"))
    time = START_NS / 1e9
    writer.add_scalar("a", 0.25, 3, walltime=time + 0.007)
    writer.add_scalars("group/of", {"x": 0.5, "y/z": 1.5}, 4, walltime=time + 0.014)
    writer.add_text("note", "some *text*", 5, walltime=time + 0.021)
    writer.close()

    def shape(rows: list[Row]) -> set[tuple[object, ...]]:
        return {(row.run, row.kind, row.key, row.step, row.value, round((row.wall_time_ns or 0) / 1e6)) for row in rows}

    assert shape(read(tmp_path)) == shape(read_tensorboard(tmp_path / "sdk"))
    assert len(shape(read(tmp_path))) == 4


def test_many_series_in_one_chart_need_no_open_files(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    values = {f"k{number}": float(number) for number in range(500)}
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 50, limit[1]))
    try:
        write(tmp_path, [MetricsLogged(values=values, step=step, main_tag="all") for step in (0, 1)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)

    rows = read(tmp_path)
    assert len(rows) == 1000
    assert {row.run for row in rows} == {f"{SITE}/all_k{number}" for number in range(500)}


@pytest.mark.parametrize(
    ("main_tag", "key"),
    [("..", "/../../../x"), ("a", "b/../../../../x"), ("é" * 200, "é" * 200), ("a", "/")],
)
def test_no_name_of_a_chart_leaves_the_run(tmp_path: Path, main_tag: str, key: str) -> None:
    workspace = tmp_path / "a" / "b" / "c"
    written = write(workspace, [MetricsLogged(values={key: 1.0}, step=0, main_tag=main_tag)])

    (row,) = read(workspace)

    assert (row.key, row.value) == (main_tag, 1.0)
    assert row.run.startswith(f"{SITE}/")
    assert list(tmp_path.rglob("*tfevents*")) == list(workspace.rglob("*tfevents*"))
    assert written.counts == {"renamed folder": 1}


@pytest.mark.parametrize("name", ["../../x", "/etc/x", ".."])
def test_no_run_leaves_the_folder(tmp_path: Path, name: str) -> None:
    opened = sink(tmp_path / "a" / "b")
    opened.open(RunInfo(id=name, site=name, name="n", group="g", started_ns=0), Position(0))
    opened.write(make_rows([MetricsLogged(values={"loss": 1.0})]))
    opened.close(None)

    (file,) = tmp_path.rglob("*tfevents*")
    assert len(file.relative_to(tmp_path / "a" / "b" / "tensorboard").parts) == 3


# ------------------------------------------------------------------------------------------------------ texts
def test_params_tags_and_config_are_tables(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            ParamsLogged(values={"lr": 0.1, "note": "a|b\nc"}),
            TagsSet(values={"team": "red"}),
            ConfigUpdated(values={"model": {"depth": 2, "sizes": [1, 2]}, "seed": None}),
        ],
    )

    head = "| key | value |\n| --- | --- |\n"
    assert texts(read(tmp_path)) == [
        ("params/text_summary", 0, f"{head}| lr | 0.1 |\n| note | a\\|b<br>c |"),
        ("tags/text_summary", 0, f"{head}| team | red |"),
        ("config/text_summary", 0, f"{head}| model.depth | 2 |\n| model.sizes | [1, 2] |\n| seed | None |"),
    ]


def test_the_status_of_the_run_is_a_text(tmp_path: Path) -> None:
    opened = sink(tmp_path)
    opened.open(RUN, Position(0))
    opened.write(make_rows([RunStarted(name="exp", group="job")]))
    opened.close(RunStatus.KILLED, "the writing process vanished")

    assert texts(read(tmp_path)) == [
        ("run/status/text_summary", 0, "RUNNING: exp (job)"),
        ("run/status/text_summary", 0, "KILLED: the writing process vanished"),
    ]


class UnheardByTensorBoard(Event):
    size: int


class TensorBoardLossLogged(MetricsLogged):
    pass


def test_an_unknown_event_is_counted_and_a_subclass_is_known(tmp_path: Path) -> None:
    written = write(
        tmp_path,
        [UnheardByTensorBoard(size=1), TensorBoardLossLogged(values={"loss": 1.0}), UnheardByTensorBoard(size=2)],
    )

    assert written.counts == {"unsupported UnheardByTensorBoard": 2}
    assert metrics(read(tmp_path)) == [(SITE, "loss", 0, "1.0")]


# ---------------------------------------------------------------------------------------------- opened again
def half_written(workspace: Path) -> Position:
    """Seven rows of which four are acknowledged, and files that nobody acknowledged."""
    opened = sink(workspace)
    opened.open(RUN, Position(0))
    opened.write(make_rows(steps(range(4))))
    committed = opened.flush()
    opened.write(make_rows([*steps(range(4, 7)), chart(7)], first=5))
    opened.flush()
    return committed


def steps(wanted: Sequence[int]) -> list[MetricsLogged]:
    return [MetricsLogged(values={"loss": float(step)}, step=step) for step in wanted]


def chart(step: int) -> MetricsLogged:
    return MetricsLogged(values={"a": 1.0, "b": 2.0}, step=step, main_tag="chart")


def test_what_was_not_acknowledged_goes_and_foreign_files_stay(tmp_path: Path) -> None:
    committed = half_written(tmp_path)
    folder = tmp_path / "tensorboard" / "check-run" / "site-1"
    foreign = folder / "events.out.tfevents.1700000000.host"
    foreign.write_bytes(b"")
    (folder / "chart_a" / "notes.txt").write_text("mine")

    opened = sink(tmp_path)
    assert opened.open(RUN, committed) == 4

    assert [row.step for row in read(tmp_path)] == [0, 1, 2, 3]
    assert foreign.exists()
    assert (folder / "chart_a" / "notes.txt").exists()
    assert list(folder.rglob("chart_*/*tfevents*")) == []


def test_new_rows_go_into_a_file_that_sorts_behind(tmp_path: Path) -> None:
    committed = half_written(tmp_path)
    for first in (5, 6, 7):
        opened = sink(tmp_path)
        opened.open(RUN, committed)
        opened.write(make_rows(steps([first - 1]), first=first))
        committed = opened.close(None)

    assert [row.step for row in read(tmp_path)] == [0, 1, 2, 3, 4, 5, 6]
    assert len(json.loads(committed.token)) == 4


def test_tensorboard_itself_reads_every_point_late_ones_too(tmp_path: Path) -> None:
    committed = half_written(tmp_path)
    opened = sink(tmp_path)
    opened.open(RUN, committed)
    opened.write(make_rows([*steps([100, 4]), TextLogged(key="note", text="hello")], first=5))
    opened.close(RunStatus.FINISHED)

    accumulator = EventAccumulator(str(tmp_path / "tensorboard" / "check-run" / "site-1"))
    accumulator.Reload()

    found = [event.step for event in accumulator.Scalars("loss")]
    assert found == [0, 1, 2, 3, 100, 4]
    assert accumulator.Tags()["tensors"] == ["note/text_summary", "run/status/text_summary"]
    assert accumulator.file_version == 2.0


def test_a_tensorboard_that_looks_on_sees_what_comes_after_a_restart(tmp_path: Path) -> None:
    committed = half_written(tmp_path)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard" / "check-run" / "site-1"))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("loss")] == list(range(7))

    opened = sink(tmp_path)
    opened.open(RUN, committed)
    opened.write(make_rows(steps(range(4, 40)), first=5))
    opened.close(None)
    accumulator.Reload()

    assert {event.step for event in accumulator.Scalars("loss")} == set(range(40))


def test_a_file_that_lost_what_was_stored_is_an_error(tmp_path: Path) -> None:
    committed = half_written(tmp_path)
    file = next(tmp_path.rglob("*.trackbus"))
    size = json.loads(committed.token)[file.name]
    file.write_bytes(file.read_bytes()[:50])

    with pytest.raises(WorkspaceError, match=f"holds 50 bytes, but {size} were stored"):
        sink(tmp_path).open(RUN, committed)
    file.unlink()
    with pytest.raises(WorkspaceError, match=f"holds 0 bytes, but {size} were stored"):
        sink(tmp_path).open(RUN, committed)


def test_opening_alone_makes_no_file(tmp_path: Path) -> None:
    opened = sink(tmp_path)
    opened.open(RUN, Position(0))
    assert opened.close(None) == Position(0, "{}")
    assert list(tmp_path.rglob("*tfevents*")) == []


# ----------------------------------------------------------------------------------------------------- config
def test_the_folder_is_relative_to_the_workspace(tmp_path: Path) -> None:
    config = TensorBoardConfig(tb_folder="tb events")

    assert config.folder(tmp_path) == tmp_path / "tb events"
    assert config.destination(tmp_path) == f"tensorboard:{tmp_path}/tb events"
    assert TensorBoardConfig(tb_folder="./x/../tb events").destination(tmp_path) == config.destination(tmp_path)
    assert config.look(tmp_path) == f"tensorboard --logdir '{tmp_path}/tb events'"
    assert TensorBoardConfig().folder(tmp_path) == tmp_path / "tensorboard"


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()

    with pytest.raises(ConfigurationError, match="is a file"):
        TensorBoardConfig().check(tmp_path)


def test_a_missing_sdk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'trackbus\[tensorboard\]'"):
        TensorBoardConfig().check(tmp_path)


def test_the_config_loads_no_sdk_and_the_sink_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from receivers.tensorboard import TensorBoardConfig, TensorBoardSink\n"
        f"TensorBoardConfig().check(Path({str(tmp_path)!r}))\n"
        "print('tensorboard' in sys.modules)\n"
        f"TensorBoardSink(TensorBoardConfig(), Path({str(tmp_path)!r}))\n"
        "print([name for name in ('torch', 'tensorflow') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert child.stdout.splitlines() == ["False", "[]"]


def test_all_samples_are_known(tmp_path: Path) -> None:
    assert not write(tmp_path, SAMPLES).counts
