"""What the machine does beside a run, sampled as ordinary metrics: processor, memory, disk, network, graphics cards.

    with EventBus("runs/exp1", site="site-1").background() as bus, SystemMetrics(bus, interval=5):
        ...

With `TRACKBUS_SYSTEM_METRICS=1` in the environment every process that logs does it, scripts unchanged; with another
number it does so that often, in seconds.

Keys are MLflow's where it has one, so that its page shows them among the system metrics: `system/` and

| key | what |
| --- | --- |
| `cpu_utilization_percentage` | of all cores together |
| `process_cpu_utilization_percentage` | of this process; two busy cores are 200 |
| `system_memory_usage_megabytes`, `system_memory_usage_percentage` | of the machine |
| `process_memory_usage_megabytes` | resident set of this process |
| `disk_usage_percentage`, `disk_usage_megabytes`, `disk_available_megabytes` | of the workspace's disk |
| `disk_read_megabytes_per_second`, `disk_write_megabytes_per_second` | of all disks |
| `network_receive_megabytes`, `network_transmit_megabytes` | since sampling began |
| `network_receive_megabytes_per_second`, `network_transmit_megabytes_per_second` | |
| `gpu_<n>_utilization_percentage`, `gpu_<n>_memory_usage_percentage`, `gpu_<n>_memory_usage_megabytes`, \
`gpu_<n>_power_usage_watts`, `gpu_<n>_power_usage_percentage`, `gpu_<n>_temperature_celsius` | of each NVIDIA card |

A megabyte is 10**6 bytes. The step is the sample's number; a process that goes on with a run counts from 0 again, and
the times tell them apart. Ranks other than 0 have `system/rank_<n>/` before theirs.
"""

from __future__ import annotations

import logging
import os
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from eventbus._bus import Bus
from eventbus._mode import is_disabled
from eventbus.errors import MissingExtraError
from eventbus.tracking import MetricsLogged
from writers._look_alike import LookAlike
from writers._machine import Machine
from writers._runs import runs_of
from writers._sampling import INTERVAL_SECONDS, SYSTEM_METRICS, checked_interval, give_back, take
from writers._writer import TrackingWriter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["INTERVAL_SECONDS", "SYSTEM_METRICS", "SystemMetrics"]

FIRST_SECONDS = 1.0
"""Until the first sample, where the interval is longer: a run of seconds has some too, and a new page is not empty."""

LEAST_SECONDS = 0.1
"""What the last sample must be apart from the one before: over less a rate says nothing."""

STOP_SECONDS = 2.0
"""How long ending waits for the last sample: it takes a millisecond, and a driver that hangs must not stop an exit."""

_logger = logging.getLogger("trackbus.writers")


class SystemMetrics:
    """Samples the machine from `start` to `stop`, in a thread of its own; also as a context manager.

    It ends with the bus at the latest. A run that this process samples already is left to that sampler, so switching
    it on twice counts nothing twice. A forked child does not sample. With `TRACKBUS_MODE=disabled` nothing does.

    Args:
        to: Whose run gets the samples, in whose scope: a writer, or a bus for the run of its writers; by default the
            current bus.
        interval: Seconds between two samples.

    Raises:
        MissingExtraError: psutil is not installed.
        ConfigurationError: The interval is no number of seconds.
        NoBusError: Nothing is given and no bus is open.
        AmbiguousBusError: Nothing is given and several buses are open.
    """

    def __init__(self, to: Bus | TrackingWriter | LookAlike | None = None, interval: float = INTERVAL_SECONDS) -> None:
        if find_spec("psutil") is None:
            raise MissingExtraError("system metrics need the package psutil: pip install 'trackbus[system]'")
        self.interval = checked_interval(interval, "interval")
        self._writer = _writer_of(to)
        self._prefix = _prefix(self._writer.bus)
        self._faults: Mapping[str, int] = {}
        self._samples = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    @property
    def samples(self) -> int:
        """How many samples were logged."""
        return self._samples

    @property
    def faults(self) -> Mapping[str, int]:
        """How often something could not be read, by what it was and why."""
        return self._faults

    def start(self) -> Self:
        """Begin, unless the run has a sampler in this process already. Legal twice."""
        bus, run = self._writer.bus, self._writer.run
        if is_disabled() or os.getpid() != self._process or not take(bus, run):
            return self
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._over,), name="trackbus-system", daemon=True)
        self._thread.start()
        runs_of(bus).before_end(run, self.stop)
        return self

    def stop(self) -> None:
        """Log a last sample and end. Legal twice."""
        if self._thread is None or os.getpid() != self._process:  # a forked child has no such thread
            return
        self._over.set()
        self._thread.join(STOP_SECONDS)
        self._thread = None
        give_back(self._writer.bus, self._writer.run)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"SystemMetrics(run={self._writer.run!r}, interval={self.interval}, samples={self._samples})"

    # --- in its thread ----------------------------------------------------------------------------------------------

    def _run(self, over: threading.Event) -> None:
        try:
            machine = Machine(self._writer.bus.workspace or Path("/"))
            self._faults = machine.faults
            self._sample_until(over, machine)
            machine.close()
        except Exception:  # border: whatever psutil or a driver does, it is no business of the training
            _logger.exception("system metrics end here, after %d samples", self._samples)

    def _sample_until(self, over: threading.Event, machine: Machine) -> None:
        wait = min(self.interval, FIRST_SECONDS)
        while not over.wait(wait):
            self._sample(machine)
            wait = self.interval
        if machine.age() >= LEAST_SECONDS:
            self._sample(machine)

    def _sample(self, machine: Machine) -> None:
        values = {self._prefix + name: value for name, value in machine.read().items()}
        if values and self._thread is not None:  # else ending has not waited for this one
            self._writer.publish([MetricsLogged(values=values, step=self._samples)], values)
            self._samples += 1


def _writer_of(to: Bus | TrackingWriter | LookAlike | None) -> TrackingWriter:
    if isinstance(to, LookAlike):
        return to.tracking
    return to if isinstance(to, TrackingWriter) else TrackingWriter(bus=to)


def _prefix(bus: Bus) -> str:
    """Return what stands before the names: a run's ranks are told apart."""
    launched_as = os.environ.get("RANK", "")
    rank = bus.origin.rank or (int(launched_as) if launched_as.isdecimal() else 0)
    return f"system/rank_{rank}/" if rank else "system/"
