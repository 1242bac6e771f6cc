"""A consumer's own file: what belongs together moves together, whoever is killed in between."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eventbus.errors import SubscriptionError, WorkspaceError
from eventbus.journals._destination import Destination
from eventbus.journals.consumer import ConsumerFile, ConsumerLock, Plan, RunState, Segment

Spawn = Callable[..., "subprocess.Popen[str]"]

RUN = ("site-1", "run")


def make_plan(batch: int, first: int, last: int) -> Plan:
    return Plan(
        batch=batch,
        segments=[Segment("site-1/0-a1", first, last), Segment("site-1/1-b1", first * 10, last * 10)],
        starts=[(*RUN, first)],
        ends=[(*RUN, last)],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cursors"


def test_a_new_consumer_knows_nothing(folder: Path) -> None:
    with ConsumerFile(folder, "one") as file:
        assert (file.cursor(), file.plans(), file.runs(), file.counts()) == ({}, [], {}, {})


def test_a_cursor_moves_partition_by_partition(folder: Path) -> None:
    with ConsumerFile(folder, "one") as file:
        file.move({"a": 1, "b": 2})
        file.move({"b": 3})
        file.move({})
    with ConsumerFile(folder, "one") as file, ConsumerFile(folder, "two") as other:
        assert file.cursor() == {"a": 1, "b": 3}
        assert other.cursor() == {}


def test_a_cursor_moves_as_one(folder: Path) -> None:
    """One position that can't be stored keeps all where they were."""
    with ConsumerFile(folder, "one") as file:
        file.move({"a": 1, "b": 1})
        with pytest.raises(OverflowError):
            file.move({"a": 2, "b": 2**70})
        assert file.cursor() == {"a": 1, "b": 1}
        file.move({"a": 3})
        assert file.cursor() == {"a": 3, "b": 1}


def test_plans_are_kept_until_they_are_settled(folder: Path) -> None:
    first, second = make_plan(1, 1, 5), make_plan(2, 6, 9)
    state = RunState(name="exp", group="job", rows=9, position=5, token="offset 10", status=None)
    with ConsumerFile(folder, "one") as file:
        file.add_plan(first, {RUN: RunState(name="exp", rows=5)})
        file.add_plan(second, {RUN: RunState(name="exp", rows=9)})
        assert file.cursor() == {}
        file.settle([first], {RUN: state}, {("delivered", "site-1"): 5, ("dropped", "bad"): 1})

    with ConsumerFile(folder, "one") as file:
        assert file.plans() == [second]
        assert file.cursor() == first.cursor() == {"site-1/0-a1": 5, "site-1/1-b1": 50}
        assert file.runs() == {RUN: state}
        file.settle([second], {}, {("delivered", "site-1"): 4})
        assert file.counts() == {("delivered", "site-1"): 9, ("dropped", "bad"): 1}
        assert file.cursor() == second.cursor()
        assert file.plans() == []


def test_a_settlement_that_fails_changes_nothing(folder: Path) -> None:
    plan = make_plan(1, 1, 5)
    with ConsumerFile(folder, "one") as file:
        file.add_plan(plan, {})
        with pytest.raises(OverflowError):
            file.settle([plan], {RUN: RunState(name="exp")}, {("delivered", "site-1"): 2**70})
        assert (file.cursor(), file.plans(), file.runs(), file.counts()) == ({}, [plan], {}, {})
        file.settle([plan], {}, {})
        assert file.plans() == []


WORKER = """
    import os, sys
    from pathlib import Path
    from eventbus.journals.consumer import ConsumerFile, Plan, RunState, Segment

    key = ("site-1", "run")
    with ConsumerFile(Path(sys.argv[1]), "one") as file:
        state = file.runs().get(key, RunState(name="exp"))
        cursor = file.cursor().get("p", 0)
        for plan in file.plans():
            state.position = plan.ends[0][2]
            file.settle([plan], {key: state}, {("delivered", "site-1"): 3})
            cursor = plan.cursor()["p"]
        os.write(1, b"ready\\n")
        while True:
            batch = cursor // 3 + 1
            state.rows += 3
            ends = [(*key, state.rows)]
            plan = Plan(batch=batch, segments=[Segment("p", cursor + 1, cursor + 3)], starts=[], ends=ends)
            file.add_plan(plan, {key: state})
            os.write(1, b"planned %d\\n" % batch)
            state.position = state.rows
            cursor += 3
            file.settle([plan], {key: state}, {("delivered", "site-1"): 3})
            os.write(1, b"settled %d\\n" % batch)
"""


@pytest.mark.parametrize("word", ["planned", "settled"])
def test_kill_9_leaves_what_belongs_together_together(folder: Path, spawn: Spawn, word: str) -> None:
    """Killed again and again, between a plan and its settlement or after it: every figure tells the same story."""
    for _ in range(3):
        worker = spawn(WORKER, folder)
        assert worker.stdout is not None
        told: dict[str, int] = {"planned": 0, "settled": 0}
        for line in worker.stdout:
            what, _, batch = line.strip().partition(" ")
            told[what] = int(batch or 0)
            if what == word and told[word] % 40 == 0:
                worker.send_signal(signal.SIGKILL)
        assert worker.wait(timeout=10) == -signal.SIGKILL

        with ConsumerFile(folder, "one") as file:
            plans, counts, state = file.plans(), file.counts(), file.runs()[RUN]
            settled = file.cursor().get("p", 0) // 3
        assert settled in (told["settled"], told["settled"] + 1)
        assert [plan.batch for plan in plans] in ([], [settled + 1])
        assert counts == {("delivered", "site-1"): 3 * settled}
        assert state.rows == 3 * (settled + len(plans))
        assert state.position == 3 * settled


# ------------------------------------------------------------------------------------------------------ destinations
def test_an_old_name_with_another_destination_is_refused(folder: Path) -> None:
    with ConsumerFile(folder, "one") as file:
        file.claim(Destination.of("mlflow at http://a"))
        file.claim(Destination.of("mlflow at http://a"))
    with ConsumerFile(folder, "one") as file:
        with pytest.raises(
            SubscriptionError, match=r"'one' .* belongs to mlflow at http://a, not to .*b; give .* name="
        ):
            file.claim(Destination.of("mlflow at http://b"))
        file.claim(Destination.of("mlflow at http://a"))


LINES = ["jsonl:{}/jsonl", "mlflow:sqlite:///{}/mlflow.db (combined)", "wandb:offline:{}", "mine:Sink:{}, again {}"]


def claim(cursors: Path, line: str, workspace: Path, name: str = "one") -> None:
    with ConsumerFile(cursors, name) as file:
        file.claim(Destination.of(line.format(workspace, workspace), workspace))


@pytest.mark.parametrize("line", LINES)
def test_what_lies_within_a_workspace_moves_with_it(folder: Path, tmp_path: Path, line: str) -> None:
    old, new = tmp_path / "old", tmp_path / "else where" / "new#1"
    old.mkdir()  # as in one that was copied
    claim(folder, line, old)
    claim(folder, line, new)
    claim(folder, line, old)


@pytest.mark.parametrize("line", LINES)
def test_an_old_cursor_goes_on_where_its_workspace_is_now(folder: Path, tmp_path: Path, line: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with ConsumerFile(folder, "one") as file:
        file.claim(Destination.of(line.format(old, old)))
    with pytest.raises(SubscriptionError, match="is filled by the receiver 'one'"):
        claim(folder, line, new, "two")
    old.mkdir()
    with pytest.raises(SubscriptionError, match="belongs to"):  # it may well be another one
        claim(folder, line, new)
    old.rmdir()
    claim(folder, line, new)
    old.mkdir()
    claim(folder, line, new)


def test_what_lies_elsewhere_has_no_place_in_the_workspace(folder: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "ws"
    for index, line in enumerate(["jsonl:{}2/jsonl", "mlflow:http://host{}/x", "wandb:online:wandb.ai/{}x"]):
        told = Destination.of(line.format(workspace), workspace)
        assert told == Destination.of(line.format(workspace))
        with ConsumerFile(folder, f"n{index}") as file:
            file.claim(told)
            with pytest.raises(SubscriptionError, match="belongs to"):
                file.claim(Destination.of(line.format("/other"), tmp_path / "other"))


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WorkspaceError, match="can't be opened"):
        ConsumerFile(tmp_path / "file", "one")


def test_a_file_that_is_none_of_ours_is_said(folder: Path) -> None:
    folder.mkdir()
    (folder / "one.db").write_bytes(b"mine" * 1000)
    with pytest.raises(WorkspaceError, match="can't be opened"):
        ConsumerFile(folder, "one")


# -------------------------------------------------------------------------------------------------------------- lock
HOLDER = """
    import sys
    from pathlib import Path
    from eventbus.journals.consumer import ConsumerLock

    lock = ConsumerLock(Path(sys.argv[1]), "one")
    print(lock.try_acquire(), flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_stands_by_until_the_first_is_gone(folder: Path, spawn: Spawn) -> None:
    holder = spawn(HOLDER, folder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    lock = ConsumerLock(folder, "one")
    other = ConsumerLock(folder, "two")
    try:
        assert not lock.try_acquire()
        assert other.try_acquire()
        holder.kill()
        holder.wait(timeout=10)
        assert lock.try_acquire()
    finally:
        lock.close()
        other.close()


def test_two_owners_in_one_process_exclude_each_other(folder: Path) -> None:
    """The kernel's locks are a process's own, and are lost when any descriptor of the file is closed."""
    first, second = ConsumerLock(folder, "one"), ConsumerLock(folder, "one")
    assert first.try_acquire()
    assert not second.try_acquire()
    second.close()
    assert first.try_acquire()  # it has it already
    third = ConsumerLock(folder, "one")
    assert not third.try_acquire()
    first.close()
    assert third.try_acquire()
    third.close()


def test_of_many_threads_one_has_the_lock(folder: Path) -> None:
    locks = [ConsumerLock(folder, "one") for _ in range(8)]
    barrier = threading.Barrier(len(locks))

    def race(lock: ConsumerLock) -> bool:
        barrier.wait(10)
        return lock.try_acquire()

    with ThreadPoolExecutor(len(locks)) as pool:
        assert sum(pool.map(race, locks)) == 1
    for lock in locks:
        lock.close()
