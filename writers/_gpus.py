"""Reads NVIDIA's graphics cards through their driver. A machine without them, or without a driver, has no readings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEGABYTE = 1e6


class Gpus:
    """The cards of a machine.

    Args:
        nvml: NVIDIA's module `pynvml`, of the package nvidia-ml-py.

    Attributes:
        faults: What went wrong since the last reading, one sentence each: a card that does not tell something is read
            for the rest.
    """

    def __init__(self, nvml: Any) -> None:
        self.faults: list[str] = []
        self._nvml = nvml
        nvml.nvmlInit()
        self._cards = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]

    def read(self) -> dict[str, float]:
        """Return what the cards do at this moment, by name; `gpu_0_` stands before what the first one does."""
        self.faults.clear()
        return {
            f"gpu_{number}_{name}": value
            for number, card in enumerate(self._cards)
            for read in (self._utilization, self._memory, self._power, self._temperature)
            for name, value in self._told(number, read, card)
        }

    def close(self) -> None:
        """Let go of the driver."""
        self._nvml.nvmlShutdown()

    def _told(
        self, number: int, read: Callable[[Any], Iterator[tuple[str, float]]], card: Any
    ) -> Iterator[tuple[str, float]]:
        try:
            yield from read(card)
        except self._nvml.NVMLError as error:  # not every card has a meter for everything
            self.faults.append(f"card {number} does not tell its {read.__name__.strip('_')}: {error}")

    def _utilization(self, card: Any) -> Iterator[tuple[str, float]]:
        yield "utilization_percentage", self._nvml.nvmlDeviceGetUtilizationRates(card).gpu

    def _memory(self, card: Any) -> Iterator[tuple[str, float]]:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(card)
        yield "memory_usage_percentage", memory.used / memory.total * 100
        yield "memory_usage_megabytes", memory.used / MEGABYTE

    def _power(self, card: Any) -> Iterator[tuple[str, float]]:
        milliwatts = self._nvml.nvmlDeviceGetPowerUsage(card)
        yield "power_usage_watts", milliwatts / 1000
        yield "power_usage_percentage", milliwatts / self._nvml.nvmlDeviceGetEnforcedPowerLimit(card) * 100

    def _temperature(self, card: Any) -> Iterator[tuple[str, float]]:
        yield "temperature_celsius", self._nvml.nvmlDeviceGetTemperature(card, self._nvml.NVML_TEMPERATURE_GPU)


def find_gpus() -> Gpus | None:
    """Return the machine's cards; None where there is no driver, or no package nvidia-ml-py to ask it."""
    try:
        import pynvml  # pyright: ignore[reportMissingTypeStubs] - it has none
    except ImportError:
        return None
    try:
        return Gpus(pynvml)
    except pynvml.NVMLError:
        return None
