"""Scripts that use the client API run in jobs: in their site's process, by a command, and once for each task."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import pytest
import torch
from jobs.plain import job, site
from safetensors.torch import load_file

from training import FedAvg
from training.engines import run_job

SCRIPT = """
import numpy as np
import sys
import training.client as flare

step = float(sys.argv[1])
flare.init()
while flare.is_running():
    model = flare.receive()
    if (model.current_round, flare.get_site_name()) == (1, "site-3"):
        raise RuntimeError("out of data")
    params = {name: np.asarray(value, np.float64) + step for name, value in model.params.items()}
    steps = 3 if flare.get_site_name() == "site-1" else 1
    flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": steps}))
print("torch" in sys.modules, flare.get_job_id())
"""

MODEL = {"w": torch.zeros(2, 3), "n": torch.tensor(5)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"command": ("python3", "-u"), "transfer": "DIFF"},
        {"command": ("python3",), "launch_once": False},
    ],
    ids=["in-process", "external", "once for each task"],
)
def test_a_script_trains_and_the_average_is_exact(tmp_path: Path, options: dict[str, object]) -> None:
    sites = [site(tmp_path, f"site-{step}", SCRIPT, args=(str(step),), **options) for step in (1, 2)]
    plan = job(tmp_path, sites, FedAvg(num_clients=2, num_rounds=2, model=MODEL))
    result = anyio.run(partial(run_job, plan, tmp_path / "ws"))
    per_round = (3 * 1 + 1 * 2) / 4
    weights = load_file(tmp_path / "ws/models/FL_global_model.safetensors")

    assert (result.error, dict(result.problems), result.exit_code) == ("", {}, 0)
    assert torch.equal(weights["w"], torch.full((2, 3), 2 * per_round))
    assert weights["n"].item() == 7  # 6.25 is rounded to 6, and 7.25 to 7
    assert (tmp_path / "ws/sites/site-1/log.txt").read_text().startswith("False engine-test")


def test_the_error_that_ends_a_script_is_its_sites_problem(tmp_path: Path) -> None:
    sites = [site(tmp_path, f"site-{step}", SCRIPT, args=(str(step),)) for step in (1, 3)]
    plan = job(tmp_path, sites, FedAvg(num_clients=2, num_rounds=2, min_responses=1, model=MODEL))
    result = anyio.run(partial(run_job, plan, tmp_path / "ws"))

    assert result.error == ""
    assert set(result.problems) == {"site-3"}
    assert "RuntimeError: out of data" in " ".join(result.problems["site-3"])


def test_scripts_that_end_after_their_last_answer_have_done_their_work(tmp_path: Path) -> None:
    script = """
    import training.client as flare

    flare.init()
    for _ in range(2):
        model = flare.receive()
        flare.send(flare.FLModel(params={name: value + 1 for name, value in model.params.items()}))
    """
    sites = [site(tmp_path, name, script) for name in ("site-1", "site-2")]
    plan = job(tmp_path, sites, FedAvg(num_clients=2, num_rounds=2, model=MODEL), min_sites=2)
    result = anyio.run(partial(run_job, plan, tmp_path / "ws"))

    assert (result.error, result.exit_code) == ("", 0)
    assert torch.equal(load_file(tmp_path / "ws/models/FL_global_model.safetensors")["w"], torch.full((2, 3), 2.0))
