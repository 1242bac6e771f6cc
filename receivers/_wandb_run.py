"""A run of the W&B SDK as a sink uses it; loads no SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from eventbus.tracking import RunStatus
from receivers._wandb_args import run_notes, run_tags
from receivers._wandb_rows import OURS, merge
from receivers.abc import TrackerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXIT_CODES = {None: 1, RunStatus.FINISHED: 0, RunStatus.FAILED: 1, RunStatus.KILLED: 255}
"""By status; a run that goes on elsewhere has none."""


class Run(Protocol):
    """What we use of the SDK's Run, whose own types are too wide for a strict checker."""

    id: str
    entity: str
    project: str
    config: Any
    summary: Any
    settings: Any
    tags: Sequence[str] | None
    notes: str | None

    @property
    def url(self) -> str | None:
        """Address of its page; None offline."""
        ...

    @property
    def starting_step(self) -> int:
        """Number after the last row that the server has; 0 offline and for a new run."""
        ...

    def log(self, data: dict[str, Any], step: int, commit: bool) -> None:  # noqa: FBT001 - the SDK's
        """Add a row to the history."""
        ...

    def define_metric(self, name: str, **options: object) -> object:
        """Say how metrics are shown."""
        ...

    def alert(self, title: str, text: str, level: str, wait_duration: float) -> None:
        """Tell people something."""
        ...

    def save(self, glob_str: str, base_path: str, policy: str, glob: bool) -> object:  # noqa: FBT001 - the SDK's
        """Add a file to the run's."""
        ...

    def mark_preempting(self) -> None:
        """Say that the run goes on elsewhere."""
        ...

    def finish(self, exit_code: int) -> None:
        """End the run, and send what is left."""
        ...


def update(run: Run, new: Mapping[str, Any]) -> tuple[str, ...]:
    """Merge into the run's configuration and return the keys that changed; a tag that is None is taken away."""
    merged = {key: merge(run.config.get(key), value) for key, value in new.items()}
    if tags := merged.get(OURS, {}).get("tags"):
        merged[OURS]["tags"] = {key: value for key, value in tags.items() if value is not None}
    run.config.update(merged, allow_val_change=True)
    return tuple(merged)


def present(run: Run, args: Mapping[str, Any]) -> None:
    """Give the run the tags and the notes that its configuration says."""
    run.tags = run_tags(args, run.config)
    if (notes := run_notes(args, run.config)) != (run.notes or ""):
        run.notes = notes


def mark(run: Run, status: RunStatus | None, reason: str) -> None:
    """Say how the run ended, beside the exit code; a run that goes on elsewhere was preempted."""
    if status is None:
        run.mark_preempting()
        return
    ours = cast("dict[str, Any]", run.config.get(OURS) or {})
    ended = {**ours, "status": status.value, "reason": reason}
    said = {key: value for key, value in ended.items() if value or key in ours}
    run.config.update({OURS: said}, allow_val_change=True)


def take_back_end(run: Run) -> bool:
    """Take back how a run ended that goes on; tell whether it had ended.

    A server merges what it is told into what it has: it can be told to forget by an empty text alone.
    """
    ours = cast("dict[str, Any]", run.config.get(OURS) or {})
    if not ours.get("status"):
        return False
    run.config.update({OURS: {**ours, "status": "", "reason": ""}}, allow_val_change=True)
    return True


def finish(run: Run, exit_code: int) -> None:
    """End a run and wait until the SDK has sent it.

    Raises:
        TrackerUnavailableError: The server didn't take all in time.
    """
    try:
        run.finish(exit_code=exit_code)
    except TimeoutError as error:
        raise TrackerUnavailableError(
            f"the server has not taken all after {run.settings.finish_timeout:.0f} s; if uploads take longer, raise "
            "the receiver's worker=WorkerPolicy(process_timeout=...): they have half of it"
        ) from error
