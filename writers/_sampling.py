"""Whether the environment asks for system metrics, and which runs have them: one sampler a run and process."""

from __future__ import annotations

import math
import os
import threading
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from eventbus._fork import held_by_forks
from eventbus._mode import is_disabled
from eventbus.errors import ConfigurationError
from writers._mode import is_nowhere
from writers._runs import runs_of

if TYPE_CHECKING:
    from eventbus._bus import Bus
    from writers._writer import TrackingWriter

SYSTEM_METRICS = "TRACKBUS_SYSTEM_METRICS"
"""Environment variable: `1` samples the machine every 10 seconds, another number so often in seconds; `0` does not."""

INTERVAL_SECONDS = 10.0
"""Between two samples: MLflow's own, and enough to see what starves a training."""

_ON, _OFF = ("1", "on", "true", "yes"), ("", "0", "off", "false", "no")

_sampled: WeakKeyDictionary[Bus, set[str]] = WeakKeyDictionary()
_asked_for: WeakKeyDictionary[Bus, set[str]] = WeakKeyDictionary()
_lock = held_by_forks(threading.Lock())


def sample_if_asked(writer: TrackingWriter) -> None:
    """Sample the machine for the run of a writer, if the environment asks for it; a run of several writers once.

    Raises:
        ConfigurationError: What it says is no number of seconds.
        MissingExtraError: psutil is not installed.
    """
    if not os.environ.get(SYSTEM_METRICS):
        return
    interval = asked_interval()
    if interval is None or is_disabled() or is_nowhere(writer.bus):
        return
    runs = _asked_for.setdefault(writer.bus, set())
    if writer.run in runs:
        return
    runs.add(writer.run)  # also in a forked child, which does not sample its parent's runs
    from writers.system import SystemMetrics  # psutil is looked for only where it is wanted

    SystemMetrics(writer, interval).start()
    runs_of(writer.bus).before_end(writer.run, partial(runs.discard, writer.run))  # it may go on after its end


def asked_interval() -> float | None:
    """Return how often the environment wants the machine sampled, in seconds; None: not at all.

    Raises:
        ConfigurationError: What it says is no number of seconds.
    """
    text = os.environ.get(SYSTEM_METRICS, "").strip().lower()
    if text in _OFF:
        return None
    return INTERVAL_SECONDS if text in _ON else checked_interval(text, SYSTEM_METRICS)


def checked_interval(given: object, name: str) -> float:
    """Return a number of seconds between samples.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        seconds = float(given)  # pyright: ignore[reportArgumentType] - what can't be a number raises
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigurationError(f"{name}={given!r} is no time between samples: give seconds, such as 10")
    return seconds


def take(bus: Bus, run: str) -> bool:
    """Claim a run for one sampler; False where it has one already."""
    with _lock:
        runs = _sampled.setdefault(bus, set())
        is_free = run not in runs
        runs.add(run)
    return is_free


def give_back(bus: Bus, run: str) -> None:
    """Let another sampler have a run."""
    with _lock:
        _sampled.get(bus, set[str]()).discard(run)
