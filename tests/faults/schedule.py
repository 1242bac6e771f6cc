"""Which faults strike when: pure and seeded, so a campaign that found something can be run again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

SDK_CONSUMERS = ("mlflow", "wandb")
"""Receivers whose workers run a tracker's real SDK."""

SINK_FAULTS = tuple(
    f"{how} {point}"
    for how, points in {
        "hang before": ("open", "write", "flush", "close"),
        "hang deaf before": ("write",),  # deaf: SIGTERM is ignored as well
        "raise before": ("write", "flush"),
        "exit after": ("write",),
        "die before": ("open", "write"),
        "die after": ("write", "flush", "close"),
    }.items()
    for point in points
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        at: When, in seconds from the start.
        kind: `kill` or `stop` a process, `core` (kill what an SDK started), `sink` (order a sink to misbehave) or
            `everything` (kill all but the workers, who are orphans then).
        target: Name of an actor or of a consumer; for `sink` what it is to do.
    """

    at: float
    kind: str
    target: str

    def hits_sdk(self) -> bool:
        return self.target.rpartition("/")[2] in SDK_CONSUMERS


@dataclass(frozen=True, slots=True)
class Cast:
    """Who may be struck.

    Attributes:
        hosts: Processes that run buses.
        trainers: Processes that only publish.
        consumers: Names of the receivers, `<site>/<receiver>`, whose workers may be struck.
        sinks: Whether a receiver takes orders to misbehave.
    """

    hosts: Sequence[str]
    trainers: Sequence[str]
    consumers: Sequence[str]
    sinks: bool = True


WEIGHTS = {"kill worker": 30, "stop": 12, "sink": 22, "core": 12, "kill trainer": 14, "kill host": 7, "everything": 2}
"""How often each kind strikes, relative to the others; what has no target is left out."""

SDK_SHARE = 0.65
"""Share of the strikes at workers that go to those with a real SDK, where there are any."""


def make_schedule(seed: int, cast: Cast, count: int, seconds: float) -> list[Fault]:
    """Return so many faults within so many seconds, at random moments: they may overlap."""
    chance = random.Random(f"faults-{seed}")
    moments = sorted(chance.uniform(0.02, 1.0) * seconds for _ in range(count))
    kinds = _kinds(chance, cast, count)
    return [_fault(chance, cast, at, kind) for at, kind in zip(moments, kinds, strict=True)]


def _kinds(chance: random.Random, cast: Cast, count: int) -> list[str]:
    """Deal kinds by weight, each at least once where there are enough."""
    possible = [kind for kind in WEIGHTS if _targets(cast, kind)]
    kinds = possible[:count] + chance.choices(possible, [WEIGHTS[kind] for kind in possible], k=count)
    kinds = kinds[:count]
    chance.shuffle(kinds)
    return kinds


def _targets(cast: Cast, kind: str) -> Sequence[str]:
    return {
        "kill worker": cast.consumers,
        "stop": cast.consumers,
        "sink": SINK_FAULTS if cast.sinks else (),
        "core": [name for name in cast.consumers if name.endswith("/wandb")],
        "kill trainer": cast.trainers,
        "kill host": cast.hosts,
        "everything": ["all"],
    }[kind]


def _fault(chance: random.Random, cast: Cast, at: float, kind: str) -> Fault:
    targets = _targets(cast, kind)
    if kind in ("kill worker", "stop"):
        real = [name for name in targets if name.rpartition("/")[2] in SDK_CONSUMERS]
        targets = real if real and chance.random() < SDK_SHARE else targets
    return Fault(at, kind, chance.choice(targets))
