"""A small cut of the campaign of random faults; `make faults` runs the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.campaign import run_seed
from faults.stores import read_store
from rich.progress import Progress

FILES = ("jsonl", "tensorboard", "ordered")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_strikes_at_random_loses_doubles_and_reorders_nothing(tmp_path: Path) -> None:
    with Progress(disable=True) as progress:
        result = run_seed(7, tmp_path / "seed", trackers=FILES, faults=14, events=3000, progress=progress)
    assert result.clean, "\n".join(result.problems)
    assert result.events >= 3000
    assert result.verdict.expected > 4 * result.events  # in several trackers
    assert read_store(tmp_path / "seed" / "server", "dead letters")  # poison was among it
    assert len(result.bitten) >= 9, (tmp_path / "seed" / "strikes.txt").read_text()
