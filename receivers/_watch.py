"""What a supervisor knows of a worker: whether it is overdue, and what it did. Pure: it is given news and time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, PositiveFloat

from receivers._control import Phase

if TYPE_CHECKING:
    from eventbus.abc import TrackerRun
    from eventbus.journals.consumer import RunKey
    from receivers._control import News

CAUSES = 20
"""Causes of failures that are kept apart: an error that names an address or a time is new each time."""


class WorkerPolicy(BaseModel):
    """Deadlines of a worker process, in seconds.

    Attributes:
        start_timeout: From the start to the first look into the journal, and for opening a run: SDKs take 0.5 to 6 s
            to import, and a fresh MLflow store up to 20 s to create.
        process_timeout: For one batch, or for closing a run: beyond it the SDK hangs.
        heartbeat_timeout: Without a sign of life: the process is stopped or its GIL is stuck.
        orphan_timeout: How long a worker goes on when its parent has died.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_timeout: PositiveFloat = 60.0
    process_timeout: PositiveFloat = 30.0
    heartbeat_timeout: PositiveFloat = 10.0
    orphan_timeout: PositiveFloat = 30.0


@dataclass(slots=True)
class Watch:
    """Says whether a worker is overdue.

    Attributes:
        policy: The deadlines.
        phase: What the worker does.
        phase_since: Since when, in seconds of any steady clock.
        extra: What that may take beyond its deadline, seconds.
        last_beat: When it last said anything.
        isolates: Whether it looks for the event that ended those before it: to be lost is what it is started for.
        has_closed: Whether the last thing it did was to end or let go of a run: its tracker has taken everything.
    """

    policy: WorkerPolicy
    phase: str = "starting"
    phase_since: float = 0.0
    extra: float = 0.0
    last_beat: float | None = None
    has_closed: bool = False
    isolates: bool = False

    def hear(self, news: News, now: float) -> None:
        """Take note of a message."""
        self.last_beat = now
        if isinstance(news, Phase):
            self.has_closed = self.phase == "closing" and news.name == "idle"
            self.isolates = self.isolates or news.name == "isolating"
            self.phase, self.phase_since, self.extra = news.name, now, news.seconds

    @property
    def is_writing(self) -> bool:
        """Whether it writes events: what happens to it now may be their fault."""
        return self.phase in ("batch", "isolating")

    @property
    def is_starting(self) -> bool:
        """Whether it is busy with what takes long and is no sign of trouble."""
        return self.phase in ("starting", "standing by", "opening")

    def overdue(self, now: float) -> str | None:
        """Return what the worker has failed to do in time, or None."""
        if self.last_beat is not None and now - self.last_beat > self.policy.heartbeat_timeout:
            return f"gave no sign of life for {self.policy.heartbeat_timeout:g} s"
        limit = self._limit()
        if limit is not None and now - self.phase_since > limit:
            return f"was {self.phase} for more than {limit:g} s"
        return None

    def _limit(self) -> float | None:
        if self.phase in ("starting", "opening"):
            return self.policy.start_timeout
        return self.policy.process_timeout + self.extra if self.is_writing or self.phase == "closing" else None


@dataclass(slots=True)
class Health:
    """What the supervisor knows of its workers.

    Attributes:
        state: What the worker does now.
        restarts: How often it was started again.
        failures: Why it was, by cause.
        counts: The consumer's totals by (kind, name) since it exists.
        baseline: The same when this supervisor's first worker began.
        runs: What the tracker calls the runs that were opened, by site and run.
    """

    state: str = "new"
    restarts: int = 0
    failures: dict[str, int] = field(default_factory=dict[str, int])
    counts: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    baseline: dict[tuple[str, str], int] | None = None
    runs: dict[RunKey, TrackerRun] = field(default_factory=dict["RunKey", "TrackerRun"])

    def settle(self, counts: dict[tuple[str, str], int]) -> bool:
        """Take the totals that a worker reports; tell whether they have grown."""
        grown = counts != self.counts
        if self.baseline is None:
            self.baseline = counts
        self.counts = counts
        return grown

    def fail(self, reason: str) -> None:
        """Count a failure."""
        if reason not in self.failures and len(self.failures) >= CAUSES:
            reason = "other causes"
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def since_start(self) -> dict[tuple[str, str], int]:
        """Return what this supervisor's workers did."""
        baseline = self.baseline or {}
        return {key: value - baseline.get(key, 0) for key, value in self.counts.items()}
