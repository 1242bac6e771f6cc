"""A federation whose process ends, and that another process goes on with."""

import json
import signal
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest
import torch
from readback import JsonLine, read_jsonl

from eventbus.errors import ConfigurationError
from receivers import JsonlReceiver
from training._resume import LastRound, read_last_round
from training.checkpoint import load_state_file, save_last_round
from training.federation import FederationConfig, FederationResult, Progress, RunResumed, run_federation

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import os, signal, sys
from pathlib import Path
import anyio
from receivers import JsonlReceiver
from training.federation import FederationConfig, StepDone, run_federation

def die_in_the_second_round(fact):
    if isinstance(fact, StepDone) and fact.done > 70:
        os.kill(os.getpid(), signal.SIGKILL)

config = FederationConfig(workspace=Path(sys.argv[1]), name="digits", rounds=3, log_every=20)
anyio.run(lambda: run_federation(config, receivers=[JsonlReceiver()], on_progress=die_in_the_second_round))
"""


def train(config: FederationConfig, facts: list[Progress] | None = None) -> FederationResult:
    async def run() -> FederationResult:
        tell = (lambda _: None) if facts is None else facts.append
        return await run_federation(config, receivers=[JsonlReceiver()], on_progress=tell)

    return anyio.run(run)


def last_model(workspace: Path) -> dict[str, torch.Tensor]:
    return dict(load_state_file(workspace / "models" / "last.safetensors"))


def points(lines: list[JsonLine], site: str, key: str) -> Counter[int]:
    """How often each step of a metric is stored."""
    events = [line.value["event"] for line in lines if line.value.get("site") == site and "event" in line.value]
    return Counter(event["step"] for event in events if key in event.get("values", {}))


@pytest.mark.slow
def test_a_killed_federation_goes_on_after_its_last_complete_round(tmp_path: Path) -> None:
    whole = train(FederationConfig(workspace=tmp_path / "whole", name="digits", rounds=3, log_every=20))
    killed = tmp_path / "killed"
    dead = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, str(killed)], env={"PYTHONPATH": str(ROOT)}, timeout=100, check=False
    )
    assert dead.returncode == -signal.SIGKILL
    before = read_last_round(killed / "models")
    assert before.completed == 1

    facts: list[Progress] = []
    result = train(FederationConfig(workspace=killed, name="digits", rounds=3, log_every=20, resume=True), facts)

    assert facts[1] == RunResumed(before.run, 1)
    assert result.run == before.run
    assert result.rounds == whole.rounds[1:]  # the same numbers as without a break
    assert all(torch.equal(one, last_model(killed)[name]) for name, one in last_model(tmp_path / "whole").items())
    lines = read_jsonl(killed / "jsonl")
    assert {line.file for line in lines} == {f"{before.run}/{site}.jsonl" for site in ("server", "site-1", "site-2")}
    assert points(lines, "server", "global/loss") == {0: 1, 1: 1, 2: 1}
    for site in ("site-1", "site-2"):
        assert points(lines, site, "validation/loss") == {0: 1, 1: 1, 2: 1}
        steps = points(lines, site, "train/loss")
        assert set(steps) == {47 * round_ + step for round_ in range(3) for step in (0, 20, 40, 46)}
        assert {step for step, times in steps.items() if times > 1} <= set(range(47, 94))  # of the round it died in
        assert max(steps.values()) <= 2
    ends = {line.file: line.value["status"] for line in lines if line.value.get("type") == "RunStatus"}
    assert set(ends.values()) == {"FINISHED"}


def test_a_complete_run_says_so_and_may_be_trained_on(tmp_path: Path) -> None:
    config = FederationConfig(workspace=tmp_path, rounds=1, run="r")
    train(config)
    facts: list[Progress] = []

    again = train(config.model_copy(update={"resume": True, "run": None}), facts)
    assert (again.run, again.rounds, again.best_is_new) == ("r", (), True)
    assert facts[1] == RunResumed("r", 1)

    more = train(config.model_copy(update={"resume": True, "rounds": 2}))
    assert [one.round for one in more.rounds] == [1]
    assert read_last_round(tmp_path / "models").completed == 2


def test_what_decides_on_a_round_stays_as_it_was(tmp_path: Path) -> None:
    config = FederationConfig(workspace=tmp_path, run="r", seed=3)
    save_last_round(config.models_folder, {"w": torch.zeros(2)}, LastRound(1, "r", config.settings()))

    for change in ({"seed": 4}, {"sites": 3}, {"run": "other"}, {"learning_rate": 0.5}, {"name": "other"}):
        with pytest.raises(ConfigurationError, match=next(iter(change))):
            train(config.model_copy(update={"resume": True, **change}))
    read_last_round(config.models_folder).check({**config.settings(), "rounds": 9, "log_every": 1}, None)


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing to resume"):
        train(FederationConfig(workspace=tmp_path, resume=True))


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", struct.pack("<Q", 1 << 40), struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 9) + b'{"__metad'],
)
def test_a_damaged_file_is_told_from_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.safetensors").write_bytes(content)

    with pytest.raises(ConfigurationError, match="cannot resume from"):
        read_last_round(tmp_path)


def test_what_stands_beside_the_model_comes_back_without_torch(tmp_path: Path) -> None:
    last = LastRound(2, "run-1", {"seed": 0, "name": "x"}, has_best=True)
    save_last_round(tmp_path, {"w": torch.ones(3)}, last)
    code = "import sys; from pathlib import Path; from training._resume import read_last_round; "
    code += "found = read_last_round(Path(sys.argv[1])); print(found.completed, found.run, 'torch' in sys.modules)"

    out = subprocess.check_output([sys.executable, "-P", "-c", code, str(tmp_path)], env={"PYTHONPATH": str(ROOT)})
    assert out == b"2 run-1 False\n"
    assert read_last_round(tmp_path) == last
    assert json.dumps(dict(read_last_round(tmp_path).settings)) == '{"seed": 0, "name": "x"}'
