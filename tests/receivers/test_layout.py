"""One run per site, or one for all: what stands where, and how it ends."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from mlflow_stores import put_mlflow_store
from readback import read_mlflow, read_mlflow_runs, read_tensorboard, read_wandb, read_wandb_runs

from eventbus import Event, EventBus
from eventbus.blobs import Blob
from eventbus.errors import ConfigurationError, SubscriptionError
from eventbus.journals.consumer import Part
from eventbus.media import ImagesLogged, MediaFile
from eventbus.tracking import (
    MAX_KEY_LENGTH,
    TRACKING,
    TRACKING_EVENTS,
    AlertRaised,
    Chart,
    ChartsArranged,
    ConfigUpdated,
    HParamsLogged,
    KeyedEvent,
    LinkedMetricsLogged,
    MetricDefined,
    MetricsLogged,
    ParamsLogged,
    RunFinished,
    RunStarted,
    RunStatus,
    SummaryUpdated,
    TagsDeleted,
    TagsSet,
    TextLogged,
)
from receivers import JsonlReceiver, MLflowReceiver, TensorBoardReceiver, WandBReceiver
from receivers._layout import prefixed, verdict
from receivers._wandb_rows import changes
from receivers.abc import Row, RunInfo
from receivers.testing import make_rows
from writers import TrackingWriter, wandb

BLOB = Blob(name="0" * 64, size=1)

EVENTS: tuple[tuple[Event, Event], ...] = (
    (MetricsLogged(values={"a/b": 1.0}, step=3), MetricsLogged(values={"s1/a/b": 1.0}, step=3)),
    (
        MetricsLogged(values={"train": 1.0}, step=3, main_tag="loss"),
        MetricsLogged(values={"train": 1.0}, step=3, main_tag="s1/loss"),
    ),
    (ParamsLogged(values={"lr": 0.1}), ParamsLogged(values={"s1/lr": 0.1})),
    (TagsSet(values={"team": "red"}), TagsSet(values={"s1/team": "red"})),
    (
        TagsSet(values={"wandb.notes": "n", "mlflow.note.content": "c", "wandb": "w"}),
        TagsSet(
            values={
                "s1/wandb.notes": "n",
                "s1/mlflow.note.content": "c",
                "s1/wandb": "w",
                "wandb.notes": "n",
                "mlflow.note.content": "c",
            }
        ),
    ),
    (ConfigUpdated(values={"net": {"depth": 2}}), ConfigUpdated(values={"s1/net": {"depth": 2}})),
    (TextLogged(key="note", text="t", step=1), TextLogged(key="s1/note", text="t", step=1)),
    (TextLogged(key="a/b.txt", text="t", is_file=True), TextLogged(key="s1/a/b.txt", text="t", is_file=True)),
    (
        LinkedMetricsLogged(values={"loss": 1.0}, model="net"),
        LinkedMetricsLogged(values={"s1/loss": 1.0}, model="s1/net"),
    ),
    (SummaryUpdated(values={"best": 1.0}), SummaryUpdated(values={"s1/best": 1.0})),
    (TagsDeleted(keys=["team"]), TagsDeleted(keys=["s1/team"])),
    (TagsDeleted(keys=["mlflow.user"]), TagsDeleted(keys=["s1/mlflow.user", "mlflow.user"])),
    (MetricDefined(name="loss", step_metric="epoch"), MetricDefined(name="s1/loss", step_metric="s1/epoch")),
    (MetricDefined(name="loss"), MetricDefined(name="s1/loss")),
    (
        HParamsLogged(params={"lr": 1.0}, metrics={"acc": 0.5}, domain={"lr": [1.0, 2.0]}, run_name="try"),
        HParamsLogged(params={"s1/lr": 1.0}, metrics={"s1/acc": 0.5}, domain={"s1/lr": [1.0, 2.0]}, run_name="s1/try"),
    ),
    (
        ChartsArranged(charts=[Chart(title="both", category="loss", tags=["a", "b"])]),
        ChartsArranged(charts=[Chart(title="both", category="s1/loss", tags=["s1/a", "s1/b"])]),
    ),
    (AlertRaised(title="NaN", text="lost"), AlertRaised(title="s1/NaN", text="lost")),
    (
        ImagesLogged(key="cat", files=[MediaFile(blob=BLOB, media_type="image/png")]),
        ImagesLogged(key="s1/cat", files=[MediaFile(blob=BLOB, media_type="image/png")]),
    ),
    (RunStarted(name="run"), RunStarted(name="run")),
    (RunFinished(status="FAILED", reason="why"), RunFinished(status="FAILED", reason="why")),
)


@pytest.mark.parametrize(("logged", "stored"), EVENTS)
def test_a_sites_keys_begin_with_its_name(logged: Event, stored: Event) -> None:
    assert prefixed(logged, "s1") == (stored, 0)


def test_the_layout_of_every_kind_of_event_is_said() -> None:
    said = {type(logged) for logged, _ in EVENTS}
    assert [kind for kind in TRACKING_EVENTS if not issubclass(kind, (KeyedEvent, *said))] == []


def test_a_key_that_gets_too_long_is_stored_under_one_of_its_own_and_counted() -> None:
    long, other = "k" * MAX_KEY_LENGTH, "k" * (MAX_KEY_LENGTH - 1) + "l"
    event, shortened = prefixed(MetricsLogged(values={long: 1.0, other: 2.0, "short": 3.0}), "site-1")
    assert isinstance(event, MetricsLogged)
    assert MetricsLogged(values=event.values) == event  # it is a legal event
    assert sorted(event.values.values()) == [1.0, 2.0, 3.0]
    assert all(key.startswith("site-1/") for key in event.values)
    assert shortened == 2


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["FINISHED", None], None),
        (["FINISHED", "FINISHED"], RunStatus.FINISHED),
        (["FINISHED", "KILLED"], RunStatus.KILLED),
        (["KILLED", "FAILED"], RunStatus.FAILED),
    ],
)
def test_a_shared_run_ends_as_its_worst_site(statuses: list[str | None], expected: RunStatus | None) -> None:
    parts = {f"s{index}": Part(status=status, reason=status or "") for index, status in enumerate(statuses)}
    found = verdict(parts)
    assert (found and found[0]) == expected


def site_rows(site: str, first: int, **values: float) -> list[Row]:
    return make_rows(
        [MetricsLogged(values={f"{site}/{key}": value}, step=7) for key, value in values.items()],
        first=first,
        site=site,
    )


def test_wandb_rows_of_one_step_merge_within_a_site_only() -> None:
    rows = [*site_rows("s1", 1, loss=1.0, acc=2.0), *site_rows("s2", 3, loss=3.0, acc=4.0)]
    lines = [change.line | change.rest() for change in changes(rows, Counter())]
    assert [{key for key in line if "/" in key} for line in lines] == [{"s1/loss", "s1/acc"}, {"s2/loss", "s2/acc"}]
    assert [line["global_step"] for line in lines] == [7, 7]


def test_files_of_a_shared_run_have_a_name_that_no_site_can_have() -> None:
    shared = RunInfo(id="exp", site="", name="exp", group="job", started_ns=0)
    assert shared.title == "exp"
    with pytest.raises(ConfigurationError):
        EventBus(site=shared.place)


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="use one of per_site, combined"):
        JsonlReceiver(layout="stacked")  # type: ignore[arg-type] - what is under test


TRACKERS = {
    "wandb": lambda home: read_wandb(home / "wandb"),
    "mlflow": lambda home: read_mlflow(home / "mlflow.db"),
    "tensorboard": lambda home: read_tensorboard(home / "tensorboard"),
}


def check_metrics(home: Path, tracker: str) -> None:
    rows = [row for row in TRACKERS[tracker](home) if row.kind == "metric"]
    assert len({row.run for row in rows}) == 1, tracker
    for site in ("one", "two"):
        points = [(row.step, row.value) for row in rows if row.key == f"{site}/loss"]
        assert points == [(step, float(step)) for step in range(5)], (tracker, site)


@pytest.mark.slow  # three SDKs
@pytest.mark.anyio
async def test_two_sites_share_a_run_in_every_tracker_by_one_worker_each(tmp_path: Path) -> None:
    home = put_mlflow_store(tmp_path / "one")
    receivers = [one(layout="combined") for one in (WandBReceiver, MLflowReceiver, TensorBoardReceiver)]

    def open_bus(folder: Path, site: str) -> EventBus:
        return EventBus(folder, site=site, job="job", run="run", drain_idle_timeout=100, drain_timeout=100)

    async with open_bus(home, "one") as first, open_bus(tmp_path / "two", "two") as second:
        for receiver in receivers:
            for bus in (first, second):
                bus.subscribe(TRACKING, receiver)
        for bus in (first, second):
            writer = TrackingWriter(bus=bus)
            writer.log_params({"lr": 0.1})
            for step in range(5):
                writer.log({"loss": float(step)}, step=step)
        TrackingWriter(bus=first).finish("FAILED", "broke")
    for bus in (first, second):
        assert bus.report().complete, str(bus.report())
        assert bus.report().line("mlflow").by_site == {bus.site: bus.report().published}
    for tracker in TRACKERS:
        check_metrics(home, tracker)
    (run,) = read_mlflow_runs(home / "mlflow.db")
    assert (run.name, run.status, run.tags["trackbus.reason"]) == ("run", "FAILED", "one: broke")
    assert run.params == {"one/lr": "0.1", "two/lr": "0.1"}
    found = read_wandb_runs(home / "wandb")  # two files where one site had ended before the other was seen
    assert {(one.name, one.run_id) for one in found} == {("run", "run")}
    assert [(one.config["one/lr"], one.config["two/lr"]) for one in found if one.exit_code == 1] == [(0.1, 0.1)]
    ends = [row for row in read_tensorboard(home / "tensorboard") if row.key == "run/status/text_summary"]
    assert (ends[-1].run, ends[-1].value) == ("run/_combined", "FAILED: one: broke")


@pytest.mark.slow  # two SDKs
@pytest.mark.anyio
async def test_a_shared_run_has_the_notes_that_its_sites_gave_it(tmp_path: Path) -> None:
    """W&B's look-alike and MLflow's say what a run is by tags, which speak of the tracker's run, not of a site's."""
    async with EventBus(put_mlflow_store(tmp_path), site="site-1", run="both") as bus:
        bus.subscribe(TRACKING, WandBReceiver(layout="combined"))
        bus.subscribe(TRACKING, MLflowReceiver(layout="combined"))
        wandb.init(project="vision", notes="my notes", tags=["t1"], group="g")
        TrackingWriter(bus=bus).set_tags({"mlflow.note.content": "for people", "own": "x"})
    assert bus.report().complete, bus.report()

    (run,) = read_wandb_runs(tmp_path / "wandb")
    assert (run.notes, run.tags) == ("my notes", ("site-1/t1", "site-1/own=x", "mlflow.note.content=for people"))
    assert run.config["trackbus"]["tags"]["site-1/wandb.group"] == "g"
    (kept,) = read_mlflow_runs(tmp_path / "mlflow.db")
    assert (kept.tags["mlflow.note.content"], kept.tags["site-1/own"]) == ("for people", "x")


@pytest.mark.anyio
async def test_a_cursor_keeps_its_layout_and_two_layouts_live_side_by_side(tmp_path: Path) -> None:
    async with EventBus(tmp_path, site="site-1") as bus:
        bus.subscribe(TRACKING, JsonlReceiver())
        bus.subscribe(TRACKING, JsonlReceiver(name="all", layout="combined"))
        bus.subscribe(TRACKING, JsonlReceiver("elsewhere", name="third"))
        bus.publish(MetricsLogged(values={"loss": 1.0}), run="run")
    assert bus.report().complete
    assert {path.name for path in (tmp_path / "jsonl" / "run").glob("*.jsonl")} == {"site-1.jsonl", "_combined.jsonl"}
    async with EventBus(tmp_path, site="site-1") as again:
        with pytest.raises(SubscriptionError, match="give the receiver another name="):
            again.subscribe(TRACKING, JsonlReceiver("elsewhere", name="third", layout="combined"))


async def log_at_two_sites(root: Path, value: float) -> None:
    """Log a value at each of two sites, whose workspaces share one receiver that keeps its things at the first."""
    shared = JsonlReceiver(layout="combined")
    async with EventBus(root / "one", site="one", run="run") as one, EventBus(root / "two", site="two") as two:
        for bus in (one, two):
            bus.subscribe(TRACKING, shared)
            bus.publish(MetricsLogged(values={"loss": value}), run="run")
    assert one.report().complete, str(one.report())
    assert two.report().complete, str(two.report())


def forget_places(cursors: Path, workspace: Path) -> None:
    """Have a cursor say where its data go as it did when it knew absolute paths alone."""
    with closing(sqlite3.connect(cursors / "jsonl.db", isolation_level=None)) as connection:
        (line,) = connection.execute("SELECT value FROM meta WHERE name = 'destination at'").fetchone()
        assert str(workspace) in line
        connection.execute("DELETE FROM meta WHERE name = 'destination at'")
        connection.execute("UPDATE meta SET value = ? WHERE name = 'destination'", (line,))


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.anyio
async def test_a_workspace_that_was_moved_goes_on_with_its_own_receivers(tmp_path: Path, *, is_old: bool) -> None:
    root, moved = tmp_path / "runs", tmp_path / "elsewhere" / "kept"
    await log_at_two_sites(root, 1.0)
    if is_old:
        for site in ("one", "two"):
            forget_places(root / site / "cursors", root)
    moved.parent.mkdir()
    root.rename(moved)
    await log_at_two_sites(moved, 2.0)
    lines = (moved / "one" / "jsonl" / "run" / "_combined.jsonl").read_text().splitlines()
    events = [one for one in map(json.loads, lines) if "number" in one]
    assert [one["number"] for one in events] == [1, 2, 3, 4]
    assert sorted(str(one["event"]["values"]) for one in events) == [
        str({f"{site}/loss": value}) for site in ("one", "two") for value in (1.0, 2.0)
    ]
    assert not root.exists()
