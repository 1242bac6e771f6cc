"""System metrics: what is sampled, for whom, and that it ends and harms nothing."""

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from waiting import wait_until

from eventbus import Envelope, EventBus, Scope
from eventbus._bus import Bus
from eventbus._mode import MODE
from eventbus.errors import ConfigurationError, MissingExtraError
from eventbus.tracking import MetricsLogged, RunFinished
from writers import MLflowWriter, SummaryWriter, TrackingWriter, wandb
from writers._gpus import Gpus
from writers._machine import Machine
from writers.system import SYSTEM_METRICS, SystemMetrics

StoredOn = Callable[..., list[Envelope[Any]]]

WAIT_SECONDS = 30.0
OFTEN = 0.02
SELDOM = 1000.0


def samplers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "trackbus-system"]


# ------------------------------------------------------------------------------------------------ what is read
def test_every_name_of_mlflow_is_read(tmp_path: Path) -> None:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    theirs: dict[str, Any] = {}
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        theirs |= monitor.aggregate_metrics()
    ours = Machine(tmp_path).read()

    assert theirs.keys() - ours.keys() == set()
    assert ours["system_memory_usage_megabytes"] == pytest.approx(theirs["system_memory_usage_megabytes"], rel=0.5)
    assert ours["disk_usage_megabytes"] + ours["disk_available_megabytes"] > 0


def test_this_process_is_read_apart_from_the_machine(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    ballast = bytearray(b"x") * 50_000_000
    begin, rounds = time.process_time(), 0
    while time.process_time() - begin < 0.1:
        rounds += len(ballast) > 0

    read = machine.read()

    assert read["process_memory_usage_megabytes"] == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.2)
    assert read["process_memory_usage_megabytes"] > 50
    assert read["process_cpu_utilization_percentage"] > 0
    assert 0 <= read["cpu_utilization_percentage"] <= 100


def test_rates_are_over_the_time_since_the_last_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments, received = iter([100.0, 102.0, 103.0]), iter([1_000_000, 6_000_000, 6_500_000])
    monkeypatch.setattr("writers._machine.time", SimpleNamespace(monotonic=lambda: next(moments)))
    monkeypatch.setattr(
        psutil, "net_io_counters", lambda: SimpleNamespace(bytes_recv=next(received), bytes_sent=7_000_000)
    )
    machine = Machine(tmp_path)

    readings = [machine.read() for _ in range(2)]

    assert [one["network_receive_megabytes_per_second"] for one in readings] == [2.5, 0.5]
    assert [one["network_receive_megabytes"] for one in readings] == [5.0, 5.5]
    assert [one["network_transmit_megabytes_per_second"] for one in readings] == [0.0, 0.0]


def test_what_the_system_does_not_tell_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)
    monkeypatch.setattr(psutil, "disk_usage", lambda _: (_ for _ in ()).throw(PermissionError("not yours")))

    first, second = machine.read(), machine.read()

    assert "disk_usage_percentage" not in first | second
    assert "cpu_utilization_percentage" in second
    assert machine.faults == {"space: PermissionError: not yours": 2}


class NvmlError(Exception):
    """NVIDIA's own error: here of a card without a meter for its power."""


def nvml() -> SimpleNamespace:
    """What NVIDIA's module answers on a machine with two cards."""

    def power(card: int) -> int:
        if card == 1:
            raise NvmlError("Not Supported")
        return 300_000

    return SimpleNamespace(
        NVMLError=NvmlError,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUtilizationRates=lambda card: SimpleNamespace(gpu=90 + card, memory=3),
        nvmlDeviceGetMemoryInfo=lambda card: SimpleNamespace(used=20_000_000_000, total=80_000_000_000),
        nvmlDeviceGetPowerUsage=power,
        nvmlDeviceGetEnforcedPowerLimit=lambda card: 600_000,
        nvmlDeviceGetTemperature=lambda card, sensor: 60 + card,
    )


def test_each_graphics_card_is_read_as_far_as_it_tells() -> None:
    gpus = Gpus(nvml())

    assert gpus.read() == {
        "gpu_0_utilization_percentage": 90,
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_0_memory_usage_megabytes": 20_000.0,
        "gpu_0_power_usage_watts": 300.0,
        "gpu_0_power_usage_percentage": 50.0,
        "gpu_0_temperature_celsius": 60,
        "gpu_1_utilization_percentage": 91,
        "gpu_1_memory_usage_percentage": 25.0,
        "gpu_1_memory_usage_megabytes": 20_000.0,
        "gpu_1_temperature_celsius": 61,
    }
    assert gpus.faults == ["card 1 does not tell its power: Not Supported"]


# ------------------------------------------------------------------------------------------- what is logged, and where
def test_samples_are_numbered_metrics_of_the_writers_run(bus: EventBus, stored_on: StoredOn) -> None:
    with SystemMetrics(TrackingWriter(run="other", scope=Scope.FEDERATED, prefix="mine/"), OFTEN) as metrics:
        wait_until(lambda: metrics.samples >= 3)
    found = stored_on(bus, MetricsLogged)

    assert [one.event.step for one in found] == list(range(metrics.samples))
    assert {(one.run, one.scope) for one in found} == {("other", Scope.FEDERATED)}
    assert all(key.startswith("system/") for one in found for key in one.event.values)
    assert metrics.faults == {}
    assert not samplers()


def test_it_ends_with_the_bus_and_before_the_run_does(stored_on: StoredOn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writers.system.LEAST_SECONDS", 0.0)
    with EventBus(job="hello").background() as bus:
        metrics = SystemMetrics(bus, OFTEN).start()
        wait_until(lambda: metrics.samples >= 1)
    kinds = [type(one.event) for one in stored_on(bus, (MetricsLogged, RunFinished))]

    assert kinds == [MetricsLogged] * metrics.samples + [RunFinished]
    assert not samplers()
    assert bus.report().refused == {}


def test_a_short_run_has_a_sample(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writers.system.LEAST_SECONDS", 0.0)

    with SystemMetrics(bus, SELDOM) as metrics:
        wait_until(lambda: bool(samplers()))

    assert metrics.samples == 1


def test_a_run_is_sampled_once_however_often_it_is_switched_on(bus: EventBus) -> None:
    with SystemMetrics(bus, SELDOM) as first, SystemMetrics(SummaryWriter(), OFTEN) as second:
        assert len(samplers()) == 1
    with SystemMetrics(bus, OFTEN) as third:  # the run is free again
        wait_until(lambda: third.samples > 0)

    assert (first.samples <= 1, second.samples) == (True, 0)


def test_ranks_have_names_of_their_own(stored_on: StoredOn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("writers.system.FIRST_SECONDS", OFTEN)
    with EventBus(rank=3).background() as third, SystemMetrics(third) as of_bus:
        wait_until(lambda: of_bus.samples > 0)
    monkeypatch.setenv("RANK", "1")
    with EventBus().background() as launched, SystemMetrics(launched) as of_launcher:
        wait_until(lambda: of_launcher.samples > 0)

    for bus, prefix in ((third, "system/rank_3/"), (launched, "system/rank_1/")):
        (first, *_) = stored_on(bus, MetricsLogged)
        assert all(key.startswith(prefix) for key in first.event.values)


# ------------------------------------------------------------------------------------------------------ the switch
@pytest.mark.parametrize(("said", "seconds"), [("1", 10.0), ("true", 10.0), ("2.5", 2.5), ("0", None), ("off", None)])
def test_the_environment_switches_it_on(
    said: str, seconds: float | None, stored_on: StoredOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SYSTEM_METRICS, said)
    monkeypatch.setattr("writers.system.FIRST_SECONDS", OFTEN)
    with EventBus(job="hello").background() as bus:
        SummaryWriter()
        SummaryWriter(run="another")
        SummaryWriter(run="another")
        if seconds:
            wait_until(lambda: len({one.run for one in stored_on(bus, MetricsLogged)}) > 1)
        running = len(samplers())

    assert running == (2 if seconds else 0)
    assert {one.run for one in stored_on(bus, MetricsLogged)} == ({bus.run, "another"} if seconds else set())


def test_a_run_that_goes_on_is_sampled_again(stored_on: StoredOn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SYSTEM_METRICS, "1000")
    monkeypatch.setattr("writers.system.FIRST_SECONDS", OFTEN)

    def samples_of(bus: Bus, run: str) -> int:
        return sum(one.run == run and "loss" not in one.event.values for one in stored_on(bus, MetricsLogged))

    with EventBus(job="hello").background() as bus:
        writer = MLflowWriter()
        writer.start_run()
        writer.end_run()
        with writer.start_run() as run:
            writer.log_metric("loss", 1.0)
        before = samples_of(bus, run.info.run_id)
        with writer.start_run(run_id=run.info.run_id):
            writer.log_metric("loss", 2.0)
            wait_until(lambda: samples_of(bus, run.info.run_id) > before)

    assert not samplers()


def test_a_run_that_records_nothing_is_not_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SYSTEM_METRICS, "1")

    with wandb.init(mode="disabled") as run:
        run.log({"loss": 1.0})
        assert not samplers()


@pytest.mark.parametrize("said", ["often", "-1", "nan", "inf"])
def test_an_interval_that_is_none_is_refused(said: str, bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="is no time between samples"):
        SystemMetrics(bus, said)  # pyright: ignore[reportArgumentType] - on purpose
    monkeypatch.setenv(SYSTEM_METRICS, said)
    with pytest.raises(ConfigurationError, match=SYSTEM_METRICS):
        TrackingWriter()


def test_without_psutil_it_says_what_to_install(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)

    with pytest.raises(MissingExtraError, match=r"pip install 'trackbus\[system\]'"):
        SystemMetrics(bus)


def test_nothing_is_sampled_where_recording_is_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE, "disabled")
    monkeypatch.setenv(SYSTEM_METRICS, "1")

    with SystemMetrics(TrackingWriter(), OFTEN) as metrics:
        assert not samplers()
    assert metrics.samples == 0


# ------------------------------------------------------------------------------------------------------ other processes
FORKED = """
    import os, threading
    from eventbus import EventBus
    from writers import TrackingWriter
    from writers.system import SystemMetrics

    with EventBus("forked", site="site-1").background() as bus, SystemMetrics(bus, 0.01) as metrics:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                before = metrics.samples
                TrackingWriter().log({"child": 1.0}, 0).wait(30)
                SystemMetrics(bus, 0.01).start()
                metrics.stop()
                names = [one.name for one in threading.enumerate()]
                os._exit("trackbus-system" in names or metrics.samples != before)
            assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_does_not_sample_and_does_not_hang(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(FORKED)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
