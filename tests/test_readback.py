"""The readers that judge our receivers, themselves judged on files that the real SDKs wrote."""

import json
from collections.abc import Iterator
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import mlflow
import pytest
import wandb
from mlflow.entities import Metric, Param, RunTag
from readback import (
    JsonLine,
    Row,
    read_jsonl,
    read_mlflow,
    read_mlflow_runs,
    read_tensorboard,
    read_wandb,
    read_wandb_configs,
    read_wandb_runs,
    torn,
)
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

# The classes are made when the module is imported, so a type checker doesn't see them.
Event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
Summary: Any = summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
SummaryMetadata: Any = summary_pb2.SummaryMetadata  # pyright: ignore[reportAttributeAccessIssue]

LONG_TEXT = "x" * 100_000  # fills three of W&B's blocks


def metrics(rows: list[Row]) -> list[tuple[str, int | None, float | str]]:
    return [(row.key, row.step, row.value) for row in rows if row.kind == "metric"]


def cut(source: Path, target: Path, length: int) -> Path:
    """A copy of a file that ends early, in a folder of its own."""
    target.mkdir(parents=True)
    (target / source.name).write_bytes(source.read_bytes()[:length])
    return target


# ------------------------------------------------------------------------------------------------------- W&B
@pytest.fixture(scope="module")
def wandb_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        settings = wandb.Settings(silent=True, console="off", x_disable_machine_info=True)
        run = wandb.init(
            mode="offline",
            dir=folder,
            project="proof",
            name="site-1-exp",
            group="exp",
            id="abc",
            tags=["t1"],
            config={"lr": 0.1, "net": {"depth": 2}},
            settings=settings,
        )
        for step, loss in [(0, 1.0), (20, 0.25), (10, nan), (30, inf)]:  # the third one comes late
            run.log({"loss": loss, "acc": step / 2, "global_step": step}, commit=True)
        run.log({"note": LONG_TEXT, "flag": True}, commit=True)
        run.log({"loss": 0.125, "global_step": 40}, commit=True)
        run.config["late"] = [1, 2]
        run.summary["best"] = 0.125
        run.finish(exit_code=3)
        wandb.teardown()  # finish alone may return before the file is whole
        yield folder


def wandb_file(folder: Path) -> Path:
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    return file


def test_wandb_rows_come_in_file_order_with_their_own_step(wandb_folder: Path) -> None:
    losses = [found for found in metrics(read_wandb(wandb_folder)) if found[0] == "loss"]

    assert [step for _, step, _ in losses] == [0, 20, 10, 30, 40]
    assert [str(value) for _, _, value in losses] == ["1.0", "0.25", "nan", "inf", "0.125"]


def test_wandb_values_of_one_history_row_share_order_and_time(wandb_folder: Path) -> None:
    rows = read_wandb(wandb_folder)

    assert [row.order for row in rows if row.key in {"loss", "acc"}] == [0, 0, 1, 1, 2, 2, 3, 3, 5]
    assert len({row.wall_time_ns for row in rows if row.order == 0}) == 1
    assert {row.run for row in rows} == {"site-1-exp"}


def test_wandb_columns_that_nobody_logged_are_internal(wandb_folder: Path) -> None:
    assert {row.key for row in read_wandb(wandb_folder) if row.kind == "metric"} == {"loss", "acc"}


def test_wandb_value_longer_than_a_block_is_joined(wandb_folder: Path) -> None:
    texts = {row.key: row.value for row in read_wandb(wandb_folder) if row.kind == "text"}

    assert texts == {"note": LONG_TEXT, "flag": "true"}


def test_wandb_run_tells_its_name_config_summary_and_exit_code(wandb_folder: Path) -> None:
    (run,) = read_wandb_runs(wandb_folder)  # and not a second one by the link `latest-run`

    assert (run.run_id, run.name, run.group, run.project) == ("abc", "site-1-exp", "exp", "proof")
    assert (run.tags, run.exit_code, run.torn) == (("t1",), 3, None)
    assert run.summary["best"] == 0.125
    config = read_wandb_configs(wandb_folder)["site-1-exp"]
    assert {key: config[key] for key in ("lr", "net", "late")} == {
        "lr": 0.1,
        "net": {"depth": 2},
        "late": [1, 2],
    }


def test_wandb_torn_tail_is_reported_and_whole_rows_are_kept(wandb_folder: Path, tmp_path: Path) -> None:
    file = wandb_file(wandb_folder)
    whole = [row for row in read_wandb(wandb_folder) if row.kind != "internal"]
    size, block = file.stat().st_size, 32 * 1024
    reasons = {
        0: "no file header",
        5: "no file header",
        2 * block: "no end",
        size - 10: "cut",
        size - 1: "cut",
    }

    for length, reason in reasons.items():
        rows = read_wandb(cut(file, tmp_path / str(length), length))
        (report,) = torn(rows)
        assert reason in str(report.value), f"cut at {length}"
        kept = [row for row in rows if row.kind not in {"internal", "torn"}]
        assert repr([row.value for row in kept]) == repr([row.value for row in whole[: len(kept)]])


def test_wandb_run_that_lost_its_end_has_no_exit_code(wandb_folder: Path, tmp_path: Path) -> None:
    file = wandb_file(wandb_folder)

    (run,) = read_wandb_runs(cut(file, tmp_path / "cut", file.stat().st_size - 1))

    assert run.exit_code is None
    assert run.torn is not None


def test_wandb_flipped_bit_is_reported(wandb_folder: Path, tmp_path: Path) -> None:
    data = bytearray(wandb_file(wandb_folder).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "run-abc.wandb").write_bytes(data)

    (report,) = torn(read_wandb(tmp_path))

    assert "checksum" in str(report.value)


# ---------------------------------------------------------------------------------------------------- MLflow
@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("exp", artifact_location=f"{folder}/artifacts")
    run = client.create_run(experiment, run_name="site-1-exp")
    points = [Metric("loss", 1.0, 5, 0), Metric("loss", nan, 6, 20), Metric("loss", inf, 6, 10)]
    client.log_batch(run.info.run_id, points, [Param("lr", "0.1")], [RunTag("site", "site-1")])
    client.log_batch(run.info.run_id, points)  # an exact repeat is no second row
    client.set_terminated(run.info.run_id, "FAILED")
    return folder / "mlflow.db"


def test_mlflow_rows_come_in_the_order_of_their_row_ids(mlflow_store: Path) -> None:
    rows = [row for row in read_mlflow(mlflow_store) if row.kind == "metric"]

    assert [(row.run, row.key, row.step, row.wall_time_ns) for row in rows] == [
        ("site-1-exp", "loss", 0, 5_000_000),
        ("site-1-exp", "loss", 20, 6_000_000),
        ("site-1-exp", "loss", 10, 6_000_000),
    ]
    assert rows[0].value == 1.0
    assert isnan(float(rows[1].value))
    assert rows[2].value == pytest.approx(1.797e308, rel=1e-3)  # what MLflow makes of an infinity
    assert [row.order for row in rows] == sorted(row.order for row in rows)


def test_mlflow_params_and_tags_are_rows_too(mlflow_store: Path) -> None:
    rows = read_mlflow(mlflow_store)

    assert [(row.key, row.value) for row in rows if row.kind == "param"] == [("lr", "0.1")]
    assert ("site", "site-1") in [(row.key, row.value) for row in rows if row.kind == "tag"]


def test_mlflow_run_tells_its_name_experiment_and_status(mlflow_store: Path) -> None:
    (run,) = read_mlflow_runs(mlflow_store)

    assert (run.name, run.experiment, run.status, run.lifecycle_stage) == (
        "site-1-exp",
        "exp",
        "FAILED",
        "active",
    )
    assert run.params == {"lr": "0.1"}
    assert run.tags["site"] == "site-1"
    assert run.end_time_ms is not None


def test_mlflow_store_that_is_cut_off_is_reported(mlflow_store: Path, tmp_path: Path) -> None:
    size = mlflow_store.stat().st_size
    for length in (50, size // 2, size - 4096):
        rows = read_mlflow(cut(mlflow_store, tmp_path / str(length), length) / "mlflow.db")

        assert [row.kind for row in rows] == ["torn"], f"cut at {length}"


def test_mlflow_store_with_a_lost_page_is_reported(mlflow_store: Path, tmp_path: Path) -> None:
    """The page holds none of the rows read here: a plain SELECT would not meet it."""
    data = mlflow_store.read_bytes()
    (tmp_path / "mlflow.db").write_bytes(data[:-4096] + bytes(4096))

    assert [row.kind for row in read_mlflow(tmp_path / "mlflow.db")] == ["torn"]


def test_mlflow_store_that_is_missing_is_reported_and_not_made(tmp_path: Path) -> None:
    assert len(torn(read_mlflow(tmp_path / "mlflow.db"))) == 1
    assert not (tmp_path / "mlflow.db").exists()


# ----------------------------------------------------------------------------------------------- TensorBoard
def tensor_value(tag: str, plugin: str, value: object) -> Any:
    metadata = SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    return Summary.Value(tag=tag, tensor=tensor_util.make_tensor_proto(value), metadata=metadata)


@pytest.fixture(scope="module")
def event_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorboard")
    simple = Summary.Value
    values = [
        simple(tag="loss", simple_value=0.5),
        simple(tag="loss", simple_value=nan),
        tensor_value("acc", "scalars", 0.25),
        tensor_value("note", "text", [b"hello", b"there"]),
        tensor_value("curve", "pr_curves", [[1.0, 2.0]]),
        simple(tag="loss", simple_value=0.125),
    ]
    writer = EventFileWriter(str(folder / "exp" / "site-1"))
    for step, value in enumerate(values):
        summary = Summary(value=[value])
        writer.add_event(Event(step=step, wall_time=step + 0.5, summary=summary))
    writer.close()
    return folder


def event_file(folder: Path) -> Path:
    (file,) = folder.rglob("*tfevents*")
    return file


def test_tensorboard_rows_come_in_file_order(event_folder: Path) -> None:
    rows = read_tensorboard(event_folder)

    assert [(row.kind, row.key, row.step, str(row.value)) for row in rows] == [
        ("metric", "loss", 0, "0.5"),
        ("metric", "loss", 1, "nan"),
        ("metric", "acc", 2, "0.25"),
        ("text", "note", 3, "hello\nthere"),
        ("pr_curves", "curve", 4, "float32[1, 2]"),
        ("metric", "loss", 5, "0.125"),
    ]
    assert {row.run for row in rows} == {"exp/site-1"}
    assert [row.order for row in rows] == list(range(6))
    assert rows[5].wall_time_ns == 5_500_000_000


def test_tensorboard_plugin_named_in_the_first_event_only_is_remembered(tmp_path: Path) -> None:
    first = tensor_value("acc", "scalars", 0.25)
    second = Summary.Value(tag="acc", tensor=tensor_util.make_tensor_proto(0.75))
    writer = EventFileWriter(str(tmp_path))
    for value in (first, second):
        writer.add_event(Event(step=1, summary=Summary(value=[value])))
    writer.close()

    assert metrics(read_tensorboard(tmp_path)) == [("acc", 1, 0.25), ("acc", 1, 0.75)]


def test_tensorboard_torn_tail_is_reported_and_whole_rows_are_kept(event_folder: Path, tmp_path: Path) -> None:
    file = event_file(event_folder)
    whole = read_tensorboard(event_folder)
    size = file.stat().st_size

    for length in (3, 10, size // 2, size - 5, size - 4, size - 1):
        rows = read_tensorboard(cut(file, tmp_path / str(length), length))
        kept = [row for row in rows if row.kind != "torn"]
        assert len(torn(rows)) == 1, f"cut at {length}"
        assert len(kept) < len(whole)
        assert repr([row.value for row in kept]) == repr([row.value for row in whole[: len(kept)]])


def test_tensorboard_flipped_bit_is_reported(event_folder: Path, tmp_path: Path) -> None:
    file = event_file(event_folder)
    data = bytearray(file.read_bytes())
    data[-6] ^= 1
    (tmp_path / file.name).write_bytes(data)

    (report,) = torn(read_tensorboard(tmp_path))

    assert "checksum" in str(report.value)


# ---------------------------------------------------------------------------------------------- JSON lines
def test_jsonl_lines_come_file_by_file_and_a_torn_one_is_reported(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"loss": NaN}\n{"loss": 0.5')
    (tmp_path / "a").mkdir()
    separator = json.dumps({"text": "a\u2028b"}, ensure_ascii=False)  # a line's end for str, not for JSON lines
    (tmp_path / "a" / "x.jsonl").write_text(f"{separator}\n[1]\n", encoding="utf-8")

    lines = read_jsonl(tmp_path)

    assert [(line.file, line.order) for line in lines] == [
        ("a/x.jsonl", 0),
        ("a/x.jsonl", 1),
        ("b.jsonl", 2),
        ("b.jsonl", 3),
    ]
    assert lines[0] == JsonLine("a/x.jsonl", 0, {"text": "a\u2028b"})
    assert isnan(lines[2].value["loss"])
    assert [line.torn is not None for line in lines] == [False, True, False, True]
