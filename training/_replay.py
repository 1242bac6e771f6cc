"""`trackbus replay`: fills trackers from a journal, with a bar for each."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import anyio
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from eventbus._place import place_of
from eventbus.errors import ConfigurationError
from eventbus.journals._look import look_at_consumer, open_unchanged
from eventbus.journals._reader import JournalReader
from receivers.replay import count_refused_again, find_source, replay
from training._console import make_console
from training.trackers import make_receivers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eventbus import Report
    from eventbus._report import Line
    from eventbus.abc import Cursor
    from receivers import Receiver
    from receivers.replay import Part, Progress, Source
    from training.trackers import TrackerOptions


def job_of(source: Source) -> str:
    """Return the name of the job that wrote a journal first."""
    with closing(JournalReader(source.journal, open_unchanged)) as reader:
        return next((one.header.origin.job for one in reader.partitions()), "trackbus")


def start_of(source: Source, from_cursor: str | None, after: Sequence[str]) -> Cursor:
    """Return where a replay begins: at another consumer's position, and after what is named one by one.

    Raises:
        ConfigurationError: There is no such consumer or partition, or it isn't PARTITION=SEQ.
        WorkspaceError: The consumer's file can't be read.
    """
    cursor = _cursor_of(source, from_cursor) if from_cursor else {}
    with closing(JournalReader(source.journal, open_unchanged)) as reader:
        known = {one.header.key for one in reader.partitions()}
    for text in after:
        partition, _, seq = text.rpartition("=")
        if partition not in known or not seq.isdecimal():
            raise ConfigurationError(f"--after {text!r}: write PARTITION=SEQ; the partitions are {', '.join(known)}")
        cursor[partition] = int(seq)
    return cursor


def _cursor_of(source: Source, name: str) -> Cursor:
    cursors = source.workspace and place_of(source.workspace).cursors
    known = sorted(path.stem for path in cursors.glob("*.db")) if cursors else []
    if cursors is None or name not in known:
        raise ConfigurationError(
            f"--from-cursor {name!r}: the cursors of this workspace are {', '.join(known) or 'none'}"
        )
    return dict(look_at_consumer(cursors / f"{name}.db").cursor)


def make_receivers_for(
    source: Source, names: Sequence[str], options: TrackerOptions, workspace: Path | None, name: str | None
) -> list[Receiver]:
    """Make the receivers of a replay; those of dead letters go under the name of their own receiver.

    Raises:
        ConfigurationError: One name is given to several, or there is no tracker, or its settings can't work.
        MissingExtraError: An SDK is not installed.
    """
    name = name or source.receiver or None
    if len(names) != 1 and (name or not names):
        raise ConfigurationError("--name and dead letters go with one tracker: --to mlflow")
    target = workspace or source.workspace
    if target is None:
        raise ConfigurationError(f"{source.journal} is in no workspace: say where the trackers' files go (--workspace)")
    return make_receivers(names, options, target, name=name)


def run_replay(journal: Path, receivers: Sequence[Receiver], workspace: Path | None, part: Part) -> int:
    """Replay, say what became of it, and return the exit code: 1 where something is not stored.

    Raises:
        TrackbusError: It can't be done as asked.
    """
    console = make_console()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[stored]}"))
    with Bars(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        tasks = {one.name: bars.add_task(one.name, total=None, stored="") for one in receivers}

        def show(progress: Progress) -> None:
            stored = f"{progress.stored} events"
            bars.update(tasks[progress.name], completed=progress.done, total=progress.total, stored=stored)

        report = anyio.run(partial(replay, journal, receivers, workspace=workspace, part=part, on_progress=show))
    for line in report.lines:
        console.print(_account(line, report))
    refused = count_refused_again(find_source(journal))
    if refused:
        console.print(f"{refused} of these dead letters were refused once more, and are not tried a third time")
    return 1 if refused or not report.complete else 0


def _account(line: Line, report: Report) -> str:
    said = [f"{line.delivered} events stored" if line.delivered or line.left else "nothing was left to store"]
    said += [f"{line.left} left: the same command goes on with them"] if line.left else []
    said += ["it made no progress for a while"] if line.left and not report.drained else []
    said += line.notes
    return f"{line.name}: {'; '.join(said)}" + (f"\n  {line.look}" if line.look else "")
