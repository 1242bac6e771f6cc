"""Reads what a machine and this process do: processor, memory, disk, network, graphics cards.

Names are MLflow's where it has one, so that its page shows them among the system metrics.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

from writers._gpus import MEGABYTE, find_gpus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_logger = logging.getLogger("trackbus.writers")


class Machine:
    """Reads the machine that this process runs on; a reading takes about half a millisecond.

    What is a rate, and what processors did, is over the time since the last reading.

    Args:
        folder: The disk that it lies on is the one whose space is told.

    Attributes:
        faults: How often something could not be read, by what it was and why.
    """

    def __init__(self, folder: Path) -> None:
        import psutil

        self.faults: Counter[str] = Counter()
        self._psutil = psutil
        self._folder = str(folder)
        self._process = psutil.Process()
        self._gpus = find_gpus()
        self._read_at = time.monotonic()
        self._begin = self._counts = self._all_counts()
        self._process.cpu_percent()  # the first time these two say nothing: what they tell begins here
        psutil.cpu_percent()

    def read(self) -> dict[str, float]:
        """Return what the machine does, by name. What can't be read is left out, and counted."""
        now = time.monotonic()
        seconds, self._read_at = now - self._read_at, now
        parts = (self._processors, self._memory, self._own, self._space, self._gpu_readings)
        values = {name: value for part in parts for name, value in self._tried(part).items()}
        before, self._counts = self._counts, self._all_counts()
        for name, count in self._counts.items():
            if name.startswith("network"):  # MLflow tells it since the beginning
                values[name] = count - self._begin.get(name, count)
            if name in before and seconds > 0:
                values[f"{name}_per_second"] = (count - before[name]) / seconds
        return values

    def age(self) -> float:
        """Return how many seconds ago the last reading was."""
        return time.monotonic() - self._read_at

    def close(self) -> None:
        """Let go of the graphics cards' driver."""
        if self._gpus is not None:
            self._gpus.close()

    def _tried(self, part: Callable[[], dict[str, float]]) -> dict[str, float]:
        try:
            return part()
        except Exception as error:  # noqa: BLE001 - border: what a kernel or driver does not tell ends no sampling
            self._note(f"{part.__name__.strip('_')}: {type(error).__name__}: {error}")
            return {}

    def _note(self, fault: str) -> None:
        self.faults[fault] += 1
        if self.faults[fault] == 1:
            _logger.warning("left out of the system metrics: %s; more of the same are only counted", fault)

    def _processors(self) -> dict[str, float]:
        return {"cpu_utilization_percentage": self._psutil.cpu_percent()}

    def _memory(self) -> dict[str, float]:
        memory = self._psutil.virtual_memory()
        return {
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
        }

    def _own(self) -> dict[str, float]:
        with self._process.oneshot():
            return {
                "process_cpu_utilization_percentage": self._process.cpu_percent(),
                "process_memory_usage_megabytes": self._process.memory_info().rss / MEGABYTE,
            }

    def _space(self) -> dict[str, float]:
        usage = self._psutil.disk_usage(self._folder)
        return {
            "disk_usage_percentage": usage.percent,
            "disk_usage_megabytes": usage.used / MEGABYTE,
            "disk_available_megabytes": usage.free / MEGABYTE,
        }

    def _gpu_readings(self) -> dict[str, float]:
        if self._gpus is None:
            return {}
        readings = self._gpus.read()
        for fault in self._gpus.faults:
            self._note(fault)
        return readings

    def _all_counts(self) -> dict[str, float]:
        return self._tried(self._disk_counts) | self._tried(self._network_counts)

    def _disk_counts(self) -> dict[str, float]:
        counts = self._psutil.disk_io_counters()
        if counts is None:  # a container may see no disk
            return {}
        return {
            "disk_read_megabytes": counts.read_bytes / MEGABYTE,
            "disk_write_megabytes": counts.write_bytes / MEGABYTE,
        }

    def _network_counts(self) -> dict[str, float]:
        counts = self._psutil.net_io_counters()
        return {
            "network_receive_megabytes": counts.bytes_recv / MEGABYTE,
            "network_transmit_megabytes": counts.bytes_sent / MEGABYTE,
        }
