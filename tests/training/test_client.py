"""The client API, in a process of its own: a real script talks to a site over the real socket."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from readback import read_jsonl
from servers.script_site import ScriptSite

from eventbus import EventBus
from eventbus.errors import BadInputError
from eventbus.tracking import TRACKING
from receivers.jsonl import JsonlReceiver
from training._difference import difference
from training.fl_model import FLModel, ParamsType

WEIGHTS = {"w": np.array([1.0, 2.0], np.float32), "b": np.array(0.5, np.float32)}

Site = Callable[..., ScriptSite]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Opens the site of a script that works with numpy."""
    opened: list[ScriptSite] = []

    def open_site(**welcome: Any) -> ScriptSite:
        opened.append(ScriptSite(tmp_path, **{"params_format": "numpy", **welcome}))
        return opened[-1]

    yield open_site
    for one in opened:
        one.__exit__()


def task(round_number: int = 0, **model: Any) -> FLModel:
    return FLModel(params=WEIGHTS, current_round=round_number, total_rounds=2, **model)


# --- the loop --------------------------------------------------------------------------------------------------------

LOOP = """
    import json, sys
    import training.client as flare

    flare.init()
    flare.init(rank="0")
    print(json.dumps([flare.get_job_id(), flare.get_site_name(), flare.system_info(), flare.get_config()]))
    while flare.is_running():
        model = flare.receive()
        assert flare.receive() is model
        seen = [flare.get_task_name(), flare.is_train(), flare.is_evaluate(), flare.is_submit_model()]
        print(json.dumps([*seen, model.current_round, model.total_rounds]))
        weights = {name: value + 1 for name, value in model.params.items()}
        flare.send(flare.FLModel(params=weights, metrics={"accuracy": 0.5}, meta={"NUM_STEPS_CURRENT_ROUND": 3}))
    print(json.dumps([flare.receive(), flare.receive(timeout=0.1), flare.is_running(), "torch" in sys.modules]))
    flare.shutdown()
    flare.shutdown()
"""


def test_a_script_does_task_after_task(site: Site) -> None:
    here = site(config={"TASK_EXCHANGE": {"train_with_eval": True}})
    process = here.run(LOOP)
    answers = list[FLModel]()
    for number, name in enumerate(["train", "validate", "submit_model", "my_own"]):
        here.ask(name, task(number))
        answers.append(here.answer())
    here.end()
    printed, complained, code = here.output(process)
    names = {"job_id": "job-1", "site_name": "site-1"}

    assert (complained, code) == ("", 0)
    assert [json.loads(line) for line in printed.splitlines()] == [
        ["job-1", "site-1", names, {"TASK_EXCHANGE": {"train_with_eval": True}, **names}],
        ["train", True, False, False, 0, 2],
        ["validate", False, True, False, 1, 2],
        ["submit_model", False, False, True, 2, 2],
        ["my_own", False, False, False, 3, 2],
        [None, None, False, False],
    ]
    for answer in answers:
        assert answer.params_type is ParamsType.FULL
        assert answer.params is not None
        assert answer.params["w"].tolist() == [2.0, 3.0]
        assert answer.params["b"].tolist() == 1.5
        assert (answer.metrics, answer.meta) == ({"accuracy": 0.5}, {"NUM_STEPS_CURRENT_ROUND": 3})


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="reads Linux's system calls")
def test_a_script_without_a_task_sleeps_until_one_comes(site: Site) -> None:
    here = site()
    process = here.run(LOOP)
    call = Path(f"/proc/{process.pid}/syscall")
    try:
        call.read_text(encoding="ascii")
    except PermissionError:
        pytest.skip("this system doesn't show what a process waits in")
    poll, for_ever = "7", "0xffffffff"
    deadline = time.monotonic() + 60
    seen: list[str] = []
    while seen[:1] != [poll]:
        assert time.monotonic() < deadline, seen
        seen = call.read_text(encoding="ascii").split()

    assert seen[3].endswith(for_ever[2:])
    here.ask("train", task())
    assert here.answer().params is not None
    here.end()
    assert here.output(process)[2] == 0


def test_a_wait_that_is_bounded_ends(site: Site) -> None:
    here = site()
    process = here.run("""
        import training.client as flare

        flare.init()
        print(flare.receive(timeout=0.01), flush=True)
        while not (model := flare.receive(timeout=0.01)):
            pass
        flare.send(model)
        flare.send(flare.receive(timeout=float("inf")))
        print(flare.receive(timeout=0))
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "None\n"
    for _ in range(2):
        here.ask("train", task())
        assert here.answer().params is not None
    assert here.left() == ""

    assert here.output(process) == ("None\n", "", 0)


def test_the_difference_is_sent_where_it_is_asked_for(site: Site) -> None:
    here = site(transfer="DIFF")
    process = here.run("""
        import training.client as flare

        flare.init()
        while flare.is_running():
            model = flare.receive()
            model.params["w"] += 1                      # in place: what was received is still known
            mine = flare.FLModel(params=dict(model.params))
            flare.send(mine)
            print(mine.params_type, sorted(mine.params))
    """)
    for _ in range(2):
        here.ask("train", task())
        answer = here.answer()
        assert answer.params_type is ParamsType.DIFF
        assert answer.params is not None
        assert {name: value.tolist() for name, value in answer.params.items()} == {"w": [1.0, 1.0], "b": 0.0}
    here.end()

    assert here.output(process)[0] == "FULL ['b', 'w']\n" * 2


def test_a_model_without_params_has_no_difference(site: Site) -> None:
    here = site(transfer="DIFF")
    process = here.run("""
        import training.client as flare

        flare.init()
        flare.receive()
        flare.send(flare.FLModel(metrics={"accuracy": 1}))
    """)
    here.ask("validate", task())

    assert here.answer().metrics == {"accuracy": 1}
    assert here.output(process)[2] == 0


# --- decorators ------------------------------------------------------------------------------------------------------


def test_decorated_functions_receive_and_send(site: Site) -> None:
    here = site()
    process = here.run("""
        import training.client as flare

        @flare.train
        def fit(model, step, scale=1):
            return flare.FLModel(params={name: value + step * scale for name, value in model.params.items()})

        @flare.evaluate()
        def measure(model=None):
            return {"accuracy": float(model.params["b"])}

        @flare.evaluate
        def score(input_model):
            return 0.75

        flare.init()
        while flare.is_running():
            if flare.is_train():
                print(measure(), fit(None, 2, scale=3).metrics)
            else:
                print(score("replaced"))
        try:
            measure()
        except flare.ClientError as error:
            print(error)
    """)
    here.ask("train", task())
    trained = here.answer()
    here.ask("validate", task())
    measured = here.answer()
    here.end()
    printed, complained, code = here.output(process)

    assert (complained, code) == ("", 0)
    assert printed.splitlines() == [
        "{'accuracy': 0.5} {'accuracy': 0.5}",
        "0.75",
        "there is no task for measure(): call it `while flare.is_running()`",
    ]
    assert trained.params is not None
    assert trained.params["w"].tolist() == [7.0, 8.0]
    assert trained.metrics == {"accuracy": 0.5}
    assert (measured.params, measured.metrics) == (None, {"accuracy": 0.75})


# --- wrong use -------------------------------------------------------------------------------------------------------

REFUSED = """
    import training.client as flare

    def refused(call, *args, **kwargs):
        try:
            call(*args, **kwargs)
        except (flare.ClientError, ValueError) as error:
            print(type(error).__name__, error)
        else:
            print("was not refused")
"""


def test_calls_out_of_order_are_refused_and_harm_nothing(site: Site) -> None:
    here = site()
    process = here.run(
        REFUSED
        + """
    refused(flare.is_running)
    refused(flare.init, rank="first")
    flare.init()
    refused(flare.get_task_name)
    refused(flare.send, flare.FLModel(metrics={}))
    model = flare.receive()
    refused(flare.send, model.params)
    refused(flare.send, flare.FLModel())
    refused(flare.send, flare.FLModel(params={"w": [1.0]}))
    refused(flare.send, flare.FLModel(metrics={"notes": "x" * 5_000_000}))
    refused(flare.clear)
    flare.send(model, clear_cache=False)
    assert flare.receive() is model
    refused(flare.send, model)
    flare.clear()
    refused(flare.send, model)
    assert not flare.is_running()
    """
    )
    here.ask("train", task())
    assert here.answer().params is not None
    here.end()
    printed, complained, code = here.output(process)

    assert (complained, code) == ("", 0)
    assert printed.splitlines() == [
        "ClientError this process has not met its site yet: call flare.init() first",
        "BadInputError rank='first' is not a rank: ranks are integers from 0",
        "ClientError there is no task in hand: call receive() first",
        "ClientError there is no task to answer: call receive() first, and send() once for each task",
        "BadInputError a dict can't be sent: send a flare.FLModel",
        "ClientError the model to send has neither params nor metrics: give it FLModel(params=..., metrics=...)",
        "BadInputError params['w'] (list) can't be sent: tensors, numpy arrays, numbers and booleans travel (a list)",
        "BadInputError metrics and meta take 5000046 bytes; 4194304 may travel: send large values as params",
        "ClientError the task 'train' is not answered: send() a model first",
        "ClientError the task 'train' is answered: clear(), then receive() the next one",
        "ClientError there is no task to answer: call receive() first, and send() once for each task",
    ]


def test_outside_a_job_it_says_how_to_run_it(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRACKBUS_CLIENT"}
    child = subprocess.run(
        [sys.executable, "-P", "-c", "import training.client as flare; flare.init()"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
        cwd=tmp_path,
    )

    assert child.returncode == 1
    assert "ClientError: this script was not started by a job: run the job" in child.stderr.splitlines()[-1]


def test_a_site_that_does_not_take_the_script_says_why(site: Site) -> None:
    here = site()
    process = here.start("import training.client as flare; flare.init()")
    here.refuse("it came too late")
    _, complained, code = here.output(process)

    assert code == 1
    assert "the site 'site-1' does not take this script: it came too late" in complained


def test_a_site_that_is_gone_is_named(site: Site) -> None:
    here = site()
    here.__exit__()
    process = here.start("import training.client as flare; flare.init()")
    _, complained, code = here.output(process)

    assert code == 1
    assert "the site 'site-1' can't be reached" in complained


# --- ranks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment", [{"RANK": "1", "LOCAL_RANK": "0"}, {"LOCAL_RANK": "2"}, {"LOCAL_RANK": "0", "NODE_RANK": "1"}]
)
def test_other_ranks_stand_by(site: Site, environment: dict[str, str]) -> None:
    here = site()
    process = here.start(
        REFUSED
        + """
    flare.init()
    flare.send(flare.FLModel(metrics={"a": 1}))
    flare.clear()
    print(flare.is_running(), flare.receive(), flare.get_site_name(), flare.get_config()["job_id"])
    for call in (flare.is_train, flare.is_evaluate, flare.is_submit_model, flare.get_task_name):
        refused(call)
    refused(flare.log, "loss", 1.0, flare.AnalyticsDataType.SCALAR)
    flare.shutdown()
    """,
        **environment,
    )
    printed, complained, code = here.output(process)
    lines = printed.splitlines()

    assert (complained, code) == ("", 0)
    assert lines[0] == "False None site-1 job-1"
    assert len(lines) == 6
    assert all("rank 0 alone is told" in line for line in lines[1:])


def test_rank_0_of_several_talks(site: Site) -> None:
    here = site()
    process = here.run(
        "import training.client as flare; flare.init(rank=0); flare.shutdown()", RANK="0", LOCAL_RANK="0"
    )

    assert here.left() == ""
    assert here.output(process) == ("", "", 0)


# --- the end ---------------------------------------------------------------------------------------------------------

ANSWER_LATE = """
    import training.client as flare

    flare.init()
    while flare.is_running():
        model = flare.receive()
        print("training", flush=True)
        input()
        flare.send(model)
    print("saved")
"""


def answer_after(here: ScriptSite, end: Callable[[], None]) -> tuple[str, str, int]:
    """Let something happen at the site while the script trains."""
    process = here.run(ANSWER_LATE)
    here.ask("train", task())
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "training\n"
    end()
    process.stdin.write("go on\n")
    return here.output(process)


def test_an_answer_that_a_killed_server_waited_for_is_lost_with_an_error(site: Site) -> None:
    here = site()
    printed, complained, code = answer_after(here, here.close)

    assert (printed, code) == ("", 1)
    assert "ClientError: the answer to the task 'train' is lost, since the connection to the site is: " in complained


def test_an_answer_to_a_job_that_is_over_is_dropped_and_the_script_ends_well(site: Site) -> None:
    here = site()
    printed, complained, code = answer_after(here, lambda: here.end("the job was stopped"))

    assert (printed, code) == ("saved\n", 0)
    assert complained == "no more tasks come: the job was stopped; this answer was not waited for\n"


@pytest.mark.parametrize(
    ("last", "reason", "code"),
    [
        ("raise ValueError('no such layer')", "ValueError: no such layer", 1),
        ("sys.exit(3)", "exit code 3", 3),
        ("pass", "it ended without an answer to the task 'train'", 0),
        ("flare.shutdown(); print(flare.is_running())", "it called shutdown() before it answered the task 'train'", 0),
        ("flare.send(model)", "", 0),
    ],
)
def test_a_script_that_ends_tells_its_site_why(site: Site, last: str, reason: str, code: int) -> None:
    here = site()
    process = here.run(f"""
        import sys
        import training.client as flare

        flare.init()
        model = flare.receive()
        {last}
    """)
    here.ask("train", task())
    if "send" in last:
        assert here.answer().params is not None

    assert here.left() == reason
    assert here.output(process)[2] == code


def test_an_interrupt_while_it_waits_is_told(site: Site) -> None:
    here = site()
    process = here.run("""
        import signal
        import training.client as flare

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process ignores it
        flare.init()
        print("waiting", flush=True)
        flare.receive()
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)

    assert here.left() == "KeyboardInterrupt"
    assert here.output(process)[2] == -signal.SIGINT


def test_a_forked_child_ends_without_a_word(site: Site) -> None:
    here = site()
    process = here.run("""
        import os, sys
        import training.client as flare

        flare.init()
        model = flare.receive()
        if os.fork() == 0:
            sys.exit(5)
        os.wait()
        flare.send(model)
    """)
    here.ask("train", task())

    assert here.answer().params is not None
    assert here.left() == ""
    assert here.output(process)[2] == 0


def test_a_killed_server_ends_the_wait_for_a_task(site: Site) -> None:
    here = site()
    process = here.run(LOOP)
    here.close()
    printed, complained, code = here.output(process)

    assert code == 0
    assert (
        complained
        == "no more tasks come: the connection to the site is lost: the other end has closed the connection\n"
    )
    assert printed.splitlines()[-1] == "[null, null, false, false]"


@pytest.mark.parametrize(
    ("garbage", "word"),
    [
        pytest.param(b"\xff" * 64, "a header of", id="prefix"),
        pytest.param(b"\0\0\0\1" + bytes(8) + b"\xc1", "not a message", id="header"),
    ],
)
def test_what_can_not_be_read_is_an_error_and_the_end(site: Site, garbage: bytes, word: str) -> None:
    here = site()
    process = here.run("""
        import training.client as flare
        from eventbus.errors import DecodeError

        flare.init()
        try:
            flare.is_running()
        except DecodeError as error:
            print(error)
        assert not flare.is_running()
    """)
    here.send_raw(garbage)
    printed, complained, code = here.output(process)

    assert code == 0
    assert word in printed
    assert complained == "no more tasks come: the connection to the site is lost: the link is closed\n"


def test_a_task_that_can_not_be_read_ends_the_session_and_the_site_is_told(site: Site) -> None:
    import torch

    here = site()
    process = here.run("""
        import training.client as flare
        from eventbus.errors import DecodeError

        flare.init()
        try:
            flare.receive()
        except DecodeError as error:
            print(error)
        print(flare.is_running())
    """)
    here.ask("train", FLModel(params={"w": torch.ones(2).to(torch.float8_e4m3fn)}))
    reason = here.left()
    printed, complained, code = here.output(process)

    assert "the task 'train' can't be read: " in reason
    assert "numpy has no F8" in reason
    assert "numpy has no F8" in printed
    assert printed.endswith("\nFalse\n")
    assert (complained, code) == ("", 0)


# --- log -------------------------------------------------------------------------------------------------------------


def test_values_of_every_type_are_logged(site: Site, tmp_path: Path) -> None:
    here = site()
    with EventBus(tmp_path / "w", site="site-1", run="run-1").background() as bus:
        bus.subscribe(TRACKING, JsonlReceiver())
        address = {"workspace": str(tmp_path / "w"), "site": "site-1", "job": "job", "rank": 0, "run": "run-1"}
        process = here.run(
            REFUSED
            + """
    import threading
    from training.client import AnalyticsDataType as Kind

    flare.init()
    flare.log("loss", 0.5, Kind.SCALAR, global_step=3)
    flare.log("unused", {"a": 1.0, "b": 2.0}, Kind.METRICS, global_step=4)
    flare.log("lr", 0.1, Kind.PARAMETER)
    flare.log("site", "one", Kind.TAG)
    flare.log("notes", "hello", Kind.TEXT, path="notes.txt")
    flare.log("grey", [[0.0, 1.0]], Kind.IMAGE, global_step=5)
    threads = [threading.Thread(target=flare.log, args=(f"t{n}", n, Kind.METRIC)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused(flare.log, "picture", b"...", Kind.IMAGE)
    refused(flare.log, "loss", 0.5, "SCALAR")
    refused(flare.log, "loss", "high", Kind.SCALAR)
    """,
            TRACKBUS_BUS=json.dumps(address),
        )
        assert here.left() == ""
        printed, complained, code = here.output(process)
    found = [(line.value["type"], line.value.get("event", {})) for line in read_jsonl(tmp_path / "w" / "jsonl")]
    metrics = [event["values"] | {"step": event.get("step")} for kind, event in found if kind == "MetricsLogged"]

    assert (complained, code) == ("", 0)
    assert {"loss": 0.5, "step": 3} in metrics
    assert {"a": 1.0, "b": 2.0, "step": 4} in metrics
    assert all({f"t{n}": n, "step": None} in metrics for n in range(4))
    assert len(metrics) == 6
    assert [event["values"] for kind, event in found if kind in ("ParamsLogged", "TagsSet")] == [
        {"lr": 0.1},
        {"site": "one"},
    ]
    assert [(event["key"], event["text"]) for kind, event in found if kind == "TextLogged"] == [("notes.txt", "hello")]
    (picture,) = [event for kind, event in found if kind == "ImagesLogged"]
    (file,) = picture["files"]
    assert (picture["key"], picture["step"], file["details"]["width"]) == ("grey", 5, 2)
    assert [line.split()[0] for line in printed.splitlines()] == ["BadInputError"] * 3


# --- the difference --------------------------------------------------------------------------------------------------


def test_differences_of_tensors_and_arrays_mix() -> None:
    import torch

    trained = {"t": torch.ones(2, requires_grad=True), "a": np.array([3, 1], np.uint8), "on": torch.tensor(True)}
    received = {"t": np.zeros(2, np.float32), "a": np.array([1, 3], np.uint8), "on": torch.tensor(False), "frozen": 1}

    found = difference(trained, received)

    assert {name: value.tolist() for name, value in found.items()} == {"t": [1, 1], "a": [2, -2], "on": 1}
    assert found["t"].requires_grad is False


@pytest.mark.parametrize(
    ("trained", "reason"),
    [
        ({"head": np.ones(1)}, "params 'head' have no difference: the model that was received lacks them"),
        ({"w": np.ones(3)}, r"params\['w'\] has the shape \(3,\); \(2,\) was received"),
        ({"w": np.ones((2, 2))}, r"params\['w'\] has the shape \(2, 2\)"),
        ({"w": "text"}, r"params\['w'\] is a str"),
    ],
)
def test_what_has_no_difference_is_named(trained: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        difference(trained, {"w": np.ones(2)})
