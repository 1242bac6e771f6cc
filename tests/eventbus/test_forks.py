"""Forked children: each writes a partition of its own, the parent's are left alone, nobody hangs or complains."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from readback import read_jsonl

from eventbus._codec import decode
from eventbus.abc import StoredRecord
from eventbus.journals._partition_reader import PartitionReader
from eventbus.journals._reader import JournalReader
from eventbus.tracking import MetricsLogged

Spawn = Callable[..., "subprocess.Popen[str]"]


def partitions(workspace: Path) -> list[PartitionReader]:
    with closing(JournalReader(workspace / "journal")) as reader:
        found = reader.partitions()
        for one in found:
            one.ended()
    return found


def steps_of(partition: PartitionReader) -> list[int]:
    events = [_event(record) for record in partition.after(0, 100_000)]
    return [event.step or 0 for event in events if isinstance(event, MetricsLogged)]


def _event(record: StoredRecord) -> object:
    return decode(record.body, record.header.origin, record.seq).event


def delivered(workspace: Path, run: str = "run") -> tuple[list[int], list[str]]:
    """Return the steps that a tracker got, and how the run ended there."""
    values = [line.value for line in read_jsonl(workspace / "jsonl" / run)]
    steps = [value["event"]["step"] for value in values if value["type"] == "MetricsLogged"]
    return steps, [value["status"] for value in values if value["type"] == "RunStatus"]


# ------------------------------------------------------------------------------------------------------- one program
LOADERS = """
    import multiprocessing, os, sys, warnings
    from eventbus import EventBus
    from eventbus.tracking import TRACKING
    from receivers import FlushPolicy, JsonlReceiver
    from writers import TrackingWriter

    warnings.simplefilter("error")
    context = multiprocessing.get_context("fork")
    handled = []

    def load(writer, worker, tasks, results):
        for step in iter(tasks.get, None):
            assert not writer.log({f"loader-{worker}": float(step)}, step).refused
            results.put((os.getpid(), len(handled)))

    with EventBus(sys.argv[1], site="site-1", run="run").background() as bus:
        bus.subscribe(TRACKING, JsonlReceiver(name="tested", flush=FlushPolicy(max_items=20, max_delay=0.05)))
        bus.subscribe(TRACKING, lambda event: handled.append(event))
        writer = TrackingWriter(bus=bus)
        last = writer.log({"loss": 0.0}, 0)
        pids = set()
        for epoch in range(2):
            tasks, results = context.Queue(), context.Queue()
            workers = [context.Process(target=load, args=(writer, n, tasks, results)) for n in range(2)]
            [worker.start() for worker in workers]
            for step in range(1, 51):
                tasks.put(1000 * (epoch + 1) + step)
                last = writer.log({"loss": 1.0}, 100 * epoch + step)
            answers = [results.get(timeout=60) for _ in range(50)]
            [tasks.put(None) for _ in workers]
            [worker.join(60) for worker in workers]
            assert [worker.exitcode for worker in workers] == [0, 0]
            pids |= {pid for pid, _ in answers}
        last.wait_delivered(60)
        assert os.getpid() not in pids
    report = bus.report()
    print(len(pids), report.published, sum(report.refused.values()), len(handled))
"""


def test_loaders_log_beside_their_trainer(tmp_path: Path, run_program: Callable[..., str]) -> None:
    pids, published, refused, handled = map(int, run_program(LOADERS, tmp_path).split())

    steps, statuses = delivered(tmp_path)
    found = partitions(tmp_path)
    (root,) = [one for one in found if not one.header.parent]
    children = [one for one in found if one.header.parent]

    own = [0, *range(1, 51), *range(101, 151)]
    theirs = [*range(1001, 1051), *range(2001, 2051)]
    assert sorted(steps) == sorted(own + theirs)
    assert [step for step in steps if step < 1000] == own  # in order
    assert statuses == ["FINISHED"]
    assert steps_of(root) == own
    assert sorted(step for one in children for step in steps_of(one)) == theirs
    assert len(children) == pids >= 2
    assert {one.header.parent for one in children} == {root.header.key}
    assert published == len(root.after(0, 1000))  # the report is the parent's own
    assert (refused, handled) == (0, published)


# ---------------------------------------------------------------------------------------------------------- exits
EXITS = """
    import os, sys, warnings
    from eventbus import EventBus
    from eventbus.tracking import MetricsLogged

    warnings.simplefilter("error")
    mode, bus = sys.argv[2], EventBus(sys.argv[1])

    def publish(step):
        receipt = bus.publish(MetricsLogged(values={"loss": 1.0}, step=step))
        assert not receipt.refused, receipt

    def child_ends():
        if mode == "_exit":
            os._exit(0)
        if mode == "close":
            bus.close()
            os._exit(0)
        if mode == "sys.exit":
            sys.exit(0)
        if mode == "raise":
            sys.excepthook = lambda *_: None
            raise ValueError("from the child")

    with bus.background():
        publish(1)
        parent = os.getpid()
        child = os.fork()
        if not child:
            publish(101)
            if not (grandchild := os.fork()):
                publish(201)
                child_ends()
            elif mode != "leave":
                assert os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) in (0, 1)
                publish(102)
                child_ends()
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            publish(2)
    if os.getpid() == parent:
        print(status, bus.report().published)
    elif mode == "leave" and grandchild:
        os.waitpid(grandchild, 0)
"""


@pytest.mark.parametrize("mode", ["_exit", "close", "sys.exit", "raise", "leave"])
def test_a_child_may_end_in_any_way(tmp_path: Path, run_program: Callable[..., str], mode: str) -> None:
    status, published = map(int, run_program(EXITS, tmp_path, mode).split())

    root, *children = partitions(tmp_path)

    assert status == (mode == "raise")
    assert published == 2
    assert steps_of(root) == [1, 2]
    assert root.closed_in_order()
    assert sorted(map(str, map(steps_of, children))) == (
        ["[101]", "[201]"] if mode == "leave" else ["[101, 102]", "[201]"]
    )
    assert {one.header.parent for one in children} == {root.header.key}
    assert all(one.ended() for one in children)


def test_a_child_that_logs_nothing_leaves_nothing(tmp_path: Path, run_program: Callable[..., str]) -> None:
    program = """
        import logging, os, sys
        from eventbus import EventBus
        from eventbus.tracking import MetricsLogged

        logging.disable()
        bus = EventBus(sys.argv[1])
        bus.open()
        if not (child := os.fork()):
            bus.close()
            assert bus.publish(MetricsLogged(values={"loss": 1.0})).refused == "the bus is closed"
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=1))
        bus.close()
    """
    assert run_program(program, tmp_path) == "0\n"
    (root,) = partitions(tmp_path)
    assert steps_of(root) == [1]


ORPHAN = """
    import os, sys
    from eventbus import EventBus
    from eventbus.tracking import MetricsLogged

    bus = EventBus(sys.argv[1])
    bus.open()
    for step in range(100):
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=step))
    if not os.fork():
        bus.publish(MetricsLogged(values={"loss": 1.0}, step=1000))
        os.write(1, b"ready\\n")
        sys.stdin.readline()
        os.write(1, b"end\\n")
        sys.exit(0)  # the interpreter takes itself apart, connections that it inherited too
    sys.stdin.readline()
"""


def test_a_child_that_outlives_its_parent_leaves_its_files_alone(tmp_path: Path, spawn: Spawn) -> None:
    parent = spawn(ORPHAN, tmp_path)
    assert parent.stdout is not None
    assert parent.stdin is not None
    assert parent.stdout.readline() == "ready\n"
    before = {path: path.read_bytes() for path in tmp_path.glob("journal/*/*-0.db*") if not str(path).endswith("shm")}
    logs = [path for path in before if str(path).endswith("-wal") and len(before[path]) > 10_000]

    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    parent.stdin.write("end\n")
    parent.stdin.flush()
    assert parent.stdout.read() == "end\n"  # and the pipe is closed: the child is gone

    assert len(logs) == 1
    assert logs[0].read_bytes() == before[logs[0]]
    root, child = partitions(tmp_path)
    assert steps_of(root) == list(range(100))
    assert not root.closed_in_order()
    assert steps_of(child) == [1000]


# ------------------------------------------------------------------------------------------------- what they can't do
def test_what_a_child_cannot_see_it_says(tmp_path: Path, run_program: Callable[..., str]) -> None:
    program = """
        import json, os, sys
        import anyio
        from eventbus import EventBus
        from eventbus.errors import TrackbusError
        from eventbus.tracking import TRACKING, MetricsLogged

        event = MetricsLogged(values={"loss": 1.0})
        with EventBus(sys.argv[1], strength="durable").background() as bus:
            bus.subscribe(TRACKING, lambda event: None)
            parents = bus.publish(event)
            parents.wait(60)
            if not (child := os.fork()):
                said = [parents.wait(1).refused]
                own = bus.publish(event)
                said.append(own.wait(60).refused)
                for ask in (lambda: own.wait_delivered(1), lambda: anyio.run(own.delivered, 1),
                            lambda: bus.subscribe(TRACKING, print)):
                    try:
                        ask()
                    except TrackbusError as error:
                        said.append(type(error).__name__ + ": " + str(error)[:30])
                print(json.dumps([said, len(bus.report().lines), bus.report().published]), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
    """
    said, lines, published = json.loads(run_program(program, tmp_path))

    assert said == [
        "the event was logged by another process than this one",
        None,
        "BusStateError: a forked child can't wait for ",
        "BusStateError: a forked child can't wait for ",
        "BusStateError: the bus is not entered; subscr",
    ]
    assert (lines, published) == (0, 1)


def test_the_environment_s_bus_is_the_parent_s_in_a_child(tmp_path: Path, run_program: Callable[..., str]) -> None:
    program = """
        import os
        from eventbus import current_bus
        from writers import TrackingWriter

        TrackingWriter().log({"loss": 1.0}, 1)
        if not (child := os.fork()):
            TrackingWriter().log({"loss": 1.0}, 2)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    address = json.dumps({"workspace": str(tmp_path), "site": "site-1", "job": "job", "run": "run"})
    assert run_program(program, TRACKBUS_BUS=address) == "0\n"
    root, child = partitions(tmp_path)
    assert child.header.parent == root.header.key
    assert (steps_of(root), steps_of(child)) == ([1], [2])


# -------------------------------------------------------------------------------------------------- amid other threads
BUSY = """
    import logging, os, sys, threading
    from pathlib import Path
    from eventbus import EventBus
    from eventbus.journals._caretaker import syncing, upkeep
    from eventbus.tracking import MetricsLogged
    from writers import WandBWriter

    logging.disable()
    with EventBus(sys.argv[1], run="run").background() as bus:
        writer, stop = WandBWriter(bus=bus), threading.Event()

        def log():
            while not stop.is_set():
                writer.log({"loss": 1.0})
                upkeep.ring()
                syncing.ring()

        threads = [threading.Thread(target=log) for _ in range(2)]
        [thread.start() for thread in threads]
        stuck = 0
        for number in range(40):
            if not (child := os.fork()):
                threading.Timer(20, os._exit, [1]).start()
                os._exit(2 if writer.log({"child": float(number)}).refused else 0)
            stuck += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        stop.set()
        [thread.join() for thread in threads]
    print(stuck)
"""


def test_forks_amid_threads_that_log_and_a_caretaker_at_work(tmp_path: Path, run_program: Callable[..., str]) -> None:
    """Whoever is within SQLite at the moment of a fork holds locks that nobody lets go of in the child."""
    assert run_program(BUSY, tmp_path) == "0\n"
    root, *children = partitions(tmp_path)
    assert len(children) == 40
    assert all(len(steps_of(one)) == 1 for one in children)
    assert [record.seq for record in root.after(0, 10**6)] == list(range(1, root.end() + 1))
