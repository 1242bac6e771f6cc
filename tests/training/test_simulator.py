"""`trackbus simulator`, as people use it: in a process of its own, on an exported job of NVFLARE's format."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from readback import read_mlflow_runs, read_tensorboard

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = Path(__file__).parent / "jobs" / "hello-pt"
TIMEOUT = 110  # seconds: importing torch on a busy machine takes 10 of them, MLflow's first store 20


def simulator(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [sys.executable, "-P", "-m", "training.cli", "simulator", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A copy of the example, to be changed."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "hello-pt"))


def test_nvflares_exported_job_runs(tmp_path: Path) -> None:
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


def test_a_folder_without_a_job_is_a_usage_error(tmp_path: Path) -> None:
    done = simulator("nowhere", folder=tmp_path)

    assert (done.returncode, done.stderr.strip()) == (
        2,
        f"trackbus: {tmp_path / 'nowhere'} is not a folder: name the one that holds the job's meta.json",
    )
