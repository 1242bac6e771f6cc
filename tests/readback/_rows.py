"""The one shape in which every reader tells what it found."""

from collections.abc import Iterable
from dataclasses import dataclass


class TornError(Exception):
    """Raised where a file stops making sense, with the place and the reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """One value that a tracker keeps.

    run: the name a person sees there (W&B's display name, MLflow's run name, the folder below TensorBoard's).
    kind: "metric", "text", "param", "tag", "internal" (a column of W&B's own, and `global_step`), the name of
        another of TensorBoard's plugins, or "torn": the file breaks off here; the key of a torn row is the
        file, its value the reason.
    step: the user's step; None where the tracker keeps none.
    order: the place in the files. Rows of one read grow in it; values that W&B keeps in one row share it.
    wall_time_ns: when it was logged, as far as the tracker resolves it (MLflow: ms).
    """

    run: str
    kind: str
    key: str
    step: int | None
    value: float | str
    order: int
    wall_time_ns: int | None = None


def torn(rows: Iterable[Row]) -> list[Row]:
    """Those rows that report a torn file. One cut between two records can't be told from a whole one."""
    return [row for row in rows if row.kind == "torn"]


def torn_row(run: str, file: str, reason: str, order: int) -> Row:
    """The row that reports a torn file."""
    return Row(run=run, kind="torn", key=file, step=None, value=reason, order=order)
