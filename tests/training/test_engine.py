"""A job runs: scripts get tasks, the server their answers, the trackers what was logged."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
import pytest
from jobs.plain import Ask, job, site
from readback import read_jsonl

from receivers import JsonlReceiver
from training.engines import run_job
from training.plan import JobPlan, JobResult

LOGGING = """
import plain_client
from writers import TrackingWriter

link, writer = plain_client.Link(), TrackingWriter()
for task, payload in link.tasks():
    writer.log({"loss": task.model.current_round + 0.5}, step=task.model.current_round)
    link.answer(task, payload, metrics={"round": task.model.current_round})
"""


def run(plan: JobPlan, folder: Path, **options: object) -> JobResult:
    return anyio.run(partial(run_job, plan, folder, **options))


def losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What the server's tracker holds, by site."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_jsonl(folder):
        event = line.value.get("event", {})
        if "values" in event:
            found.setdefault(line.value["site"], []).append((event["step"], event["values"]["loss"]))
    return found


def statuses(folder: Path) -> dict[str, str]:
    """How the runs ended, by site."""
    return {line.value["site"]: line.value["status"] for line in read_jsonl(folder) if "status" in line.value}


@pytest.mark.parametrize("command", [(), ("python3", "-u")])
def test_two_sites_answer_and_what_they_log_is_stored_at_the_server(tmp_path: Path, command: tuple[str, ...]) -> None:
    workflow = Ask(times=2)
    sites = [site(tmp_path, name, LOGGING, command=command) for name in ("site-1", "site-2")]
    result = run(job(tmp_path, sites, workflow, receivers=(JsonlReceiver(),)), tmp_path / "ws")
    assert (result.error, dict(result.problems), result.exit_code) == ("", {}, 0)
    assert [sorted(outcome.accepted) for outcome in workflow.outcomes] == [["site-1", "site-2"]] * 2
    assert [answer.model.metrics for answer in workflow.answers] == [{"round": 0}] * 2 + [{"round": 1}] * 2
    expected = [(0, 0.5), (1, 1.5)]
    assert losses(tmp_path / "ws/jsonl") == {"site-1": expected, "site-2": expected}
    assert statuses(tmp_path / "ws/jsonl") == {"server": "FINISHED", "site-1": "FINISHED", "site-2": "FINISHED"}
