"""`trackbus simulator`, as people use it: in a process of its own, on an exported job of NVFLARE's format."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

import anyio
import pytest
from mlflow_stores import put_mlflow_store
from readback import read_mlflow_runs, read_tensorboard

from eventbus import Report
from eventbus._report import Line
from receivers import JsonlReceiver
from training import FLModel
from training._job_screen import JobScreen
from training._simulator import _in_loop, keep_job
from training.abc import RoundAggregated, RoundStarted
from training.errors import JobError
from training.job import load_job
from training.plan import JobPlan, JobResult

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = Path(__file__).parent / "jobs" / "hello-pt"
TIMEOUT = 110  # seconds: importing torch on a busy machine takes 10 of them, MLflow's first store 20


def simulator(*arguments: str, folder: Path, out: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [sys.executable, "-P", "-m", "training.cli", "simulator", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONPATH": path, "COLUMNS": "100"},
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A copy of the example, to be changed."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "hello-pt"))


def test_nvflares_exported_job_runs(tmp_path: Path) -> None:
    put_mlflow_store(tmp_path / "run")
    done = simulator(str(EXAMPLE), "-w", "run", "-n", "2", "-t", "2", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert next(line for line in lines if line.startswith("note: ")).endswith("memory_gc_rounds=1 has no effect here")
    assert "hello-pt: site-1, site-2 -> tensorboard at the server, mlflow at the server in run" in lines
    assert sum(line.startswith("round ") for line in lines) == 2
    folder = tmp_path / "run"
    assert (folder / "models" / "FL_global_model.safetensors").is_file()
    assert json.loads((folder / "job" / "meta.json").read_text(encoding="utf-8"))["name"] == "hello-pt"
    results = json.loads((folder / "cross_site_val" / "cross_val_results.json").read_text(encoding="utf-8"))
    assert set(results) >= {"site-1", "site-2"}
    losses = [row for row in read_tensorboard(folder / "tensorboard") if row.key == "loss"]
    assert sorted({Path(row.run).name for row in losses}) == ["site-1", "site-2"]
    assert len(losses) == 2 * 2 * 3
    runs = read_mlflow_runs(folder / "mlflow.db")
    assert {run.name for run in runs} >= {"site-1-hello-pt-Server", "site-2-hello-pt-Server"}


def test_a_script_that_dies_ends_the_job_and_is_named(tmp_path: Path, job: Path) -> None:
    (job / "app" / "custom" / "client.py").write_text("import no_such_module", encoding="utf-8")

    done = simulator(str(job), "-n", "2", folder=tmp_path)

    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "the job has failed" in done.stderr
    assert (tmp_path / "runs" / "hello-pt").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the job is for any sites: say how many, or which"),
        (("-n", "2", "-gpu", "[0"), "gpu='[0': name ids"),
        (("-n", "1"), "min_clients is 2, and there are 1 sites"),
        (("-n", "2", "-c", "one"), "2 sites, and 1 names: one"),
    ],
)
def test_a_job_that_cant_be_run_is_a_usage_error(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = simulator(str(EXAMPLE), *arguments, folder=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("trackbus: ")
    assert message in done.stderr


def test_a_workspace_with_a_folder_of_ones_own_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.py").touch()

    done = simulator(str(EXAMPLE), "-n", "2", "-w", ".", folder=tmp_path)

    assert done.returncode == 2
    assert "job is there already, and is no job" in done.stderr
    assert (tmp_path / "job" / "job.py").exists()


def test_a_job_within_the_folder_of_its_copy_stays(tmp_path: Path) -> None:
    for folder in (tmp_path / "job", tmp_path / "job" / "hello"):
        shutil.copytree(EXAMPLE, folder)

    done = simulator("job/hello", "-n", "2", "-w", ".", folder=tmp_path)

    assert done.returncode == 2
    assert "the run keeps a copy of its job in" in done.stderr
    assert (tmp_path / "job" / "hello" / "meta.json").is_file()


def test_a_job_is_copied_without_the_runs_in_its_folder(tmp_path: Path, job: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "run" / "job")
    (tmp_path / "run" / "job" / "app" / "custom" / "older.py").touch()
    (job / "runs").mkdir()
    (job / "runs" / "big").touch()

    for workspace in (tmp_path / "run", job / "runs" / "hello-pt"):
        copy = keep_job(load_job(job), workspace)
        assert copy == workspace / "job"
        names = {file.relative_to(copy) for file in copy.rglob("*") if "__pycache__" not in file.parts}
        assert names == {file.relative_to(EXAMPLE) for file in EXAMPLE.rglob("*") if "__pycache__" not in file.parts}
        assert keep_job(load_job(copy), workspace) == copy
    with pytest.raises(JobError, match="name another workspace"):
        keep_job(load_job(job), job / "app" / "run")


def test_a_job_goes_on_when_nobody_reads_what_it_prints(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    put_mlflow_store(tmp_path / "run")
    with os.fdopen(write, "w") as closed:
        done = simulator(str(EXAMPLE), "-w", "run", "-n", "2", folder=tmp_path, out=closed)

    assert (done.returncode, "BrokenPipe" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "run" / "models" / "FL_global_model.safetensors").is_file()


def test_rounds_count_from_the_workflows_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = JobPlan(name="later", workflows=(), components={}, sites=(), app_folder=tmp_path)
    screen = JobScreen(plan, tmp_path)
    for number in (4, 5):
        screen.tell(RoundStarted(number, 2))
        screen.tell(RoundAggregated(number, FLModel(metrics={"loss": 1.0}), FLModel(params={"w": [1.0]}), ()))

    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["round 5/6", "round 6/6"]


def test_only_trackers_and_losses_stand_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receiver = JsonlReceiver()
    plan = JobPlan(name="j", workflows=(), components={}, sites=(), app_folder=tmp_path, receivers=(receiver,))
    lines = (Line("jsonl", by_site={"site-1": 3}), Line("relay", by_site={"site-1": 3}))
    reports = {"server": Report(3, {}, lines), "site-2": Report(3, {}, (Line("relay", dropped=2, lost=2),))}

    JobScreen(plan, tmp_path).print_result(JobResult(tmp_path, "r", reports=reports))

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1:] == [["jsonl", "server", "site-1", "3", "0"], ["relay", "site-2", "site-2", "0", "2"]]


def test_a_folder_without_a_job_is_a_usage_error(tmp_path: Path) -> None:
    done = simulator("nowhere", folder=tmp_path)

    assert (done.returncode, done.stderr.strip()) == (
        2,
        f"trackbus: {tmp_path / 'nowhere'} is not a folder: name the one that holds the job's meta.json",
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_runs_already_is_noticed(backend: str) -> None:
    async def look() -> bool:
        return _in_loop()

    assert not _in_loop()
    assert anyio.run(look, backend=backend)
