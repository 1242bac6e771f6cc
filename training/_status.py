"""Two views of a workspace: `trackbus status`, how it is now, and `trackbus report`, the account of what it holds."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Never

import msgspec
from rich import box
from rich.bar import Bar
from rich.console import Group
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text

from receivers._json import as_json
from training._console import make_console
from training._facts import look_at, workspaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rich.console import Console, RenderableType

    from training._facts import ConsumerStatus, PartitionStatus, WorkspaceStatus

WATCH_SECONDS = 1.0
"""How often a watched status is looked at again."""

HEALTH_WORDS = 5
"""So many words of health are shown, the newest."""

BAR_WIDTH = 10
LOG_CHARACTERS = 200


def print_status(workspace: Path, *, watch: bool, as_json: bool) -> None:
    """Print how a workspace and the sites in it stand.

    Args:
        workspace: The folder.
        watch: Print it anew every second, until interrupted.
        as_json: One JSON object per look and line, {"time_ns": ..., "workspaces": [...]}, for machines.

    Raises:
        WorkspaceError: It is no workspace.
    """
    console = make_console()
    if watch and console.is_terminal and not as_json:
        _watch(workspace, console)
    while True:
        if as_json:
            print(_json(workspace), flush=True)
        else:
            console.print(_status(workspace))
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def _watch(workspace: Path, console: Console) -> Never:
    with Live(_status(workspace), console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(_status(workspace), refresh=True)


def _json(workspace: Path) -> str:
    found = [look_at(one) for one in workspaces(workspace)]
    return as_json(msgspec.to_builtins({"time_ns": time.time_ns(), "workspaces": found}))


# --- status ---------------------------------------------------------------------------------------------------------


def _status(workspace: Path) -> Group:
    return Group(*(part for one in workspaces(workspace) for part in _status_of(look_at(one))))


def _status_of(status: WorkspaceStatus) -> Iterator[RenderableType]:
    rate = sum(one.per_second for one in status.partitions)
    living = f"; {rate:.1f} events/s" if any(one.pid is not None for one in status.partitions) else ""
    payloads = f", {decimal(status.blob_bytes)} in {status.blobs} payloads" if status.blobs else ""
    head = f"{status.events} events, {decimal(status.bytes)} in {status.files} files{payloads}{living}"
    yield Text(f"{status.workspace}: {head}", style="bold")
    yield _partitions_table(status.partitions)
    if status.consumers:
        yield _lags_table(status)
    yield from (Text(note) for note in _notes(status))


def _partitions_table(partitions: Iterable[PartitionStatus]) -> Table:
    table = _table("site", events="right", partitions="left")
    by_site: dict[str, list[PartitionStatus]] = {}
    for one in partitions:
        by_site.setdefault(one.site, []).append(one)
    for site, those in by_site.items():
        states = Counter(one.state + (f" by {one.pid}" if one.pid else "") for one in those)
        events = sum(one.events for one in those)
        table.add_row(Text(site), str(events), Text(", ".join(f"{count} {state}" for state, count in states.items())))
    return table


def _lags_table(status: WorkspaceStatus) -> Table:
    table = _table(
        "tracker", stored="right", waiting="right", done="left", oldest="right", dropped="right", worker="left"
    )
    for one in status.consumers:
        late = one.waiting > 0
        table.add_row(
            Text(one.name),
            _count(one, one.stored),
            str(one.waiting),
            Bar(status.events, 0, max(0, status.events - one.waiting), width=BAR_WIDTH) if late else "",
            _age(one.oldest_seconds) if late else "",
            _count(one, one.dropped),
            Text(_worker(one)),
            style="yellow" if late or one.dropped or one.dead else "",
        )
    return table


def _count(one: ConsumerStatus, counts: Mapping[str, int]) -> str:
    return str(sum(counts.values())) if one.destination or counts else "-"


def _worker(one: ConsumerStatus) -> str:
    if one.worker is not None:
        return f"pid {one.worker or '?'}" + (f", {one.restarts} restarts" if one.restarts else "")
    return "starting" if one.starting else "none"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _notes(status: WorkspaceStatus) -> Iterator[str]:
    """What went otherwise than it should, and what its makers said of it."""
    for one in status.consumers:
        yield from (f"{one.name}: {count} dropped ({cause})" for cause, count in one.dropped.items())
        if one.dead:
            folder = shlex.quote(str(Path(status.workspace, "dead", one.name)))
            yield f"{one.name}: {one.dead} dead letters: trackbus inspect {folder}"
        if one.trouble:
            yield f"{one.name}: {one.trouble}"
        if one.log and (one.trouble or (one.waiting and one.worker is None)):
            yield f"{one.name}: last of its log: {one.log[:LOG_CHARACTERS]}"
    yield from (f"{path} can't be read: {cause}" for path, cause in status.damaged.items())
    yield from (f"{path} was put aside" for path in status.put_aside)
    yield from (f"{_clock(word.time_ns)} {word}" for word in status.health[-HEALTH_WORDS:])


def _clock(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9).astimezone().strftime("%H:%M:%S")


# --- report ---------------------------------------------------------------------------------------------------------


def print_report(workspace: Path) -> None:
    """Print what a workspace holds, and what each tracker has of it, by site.

    Raises:
        WorkspaceError: It is no workspace.
    """
    console = make_console()
    for status in map(look_at, workspaces(workspace)):
        console.print(f"{status.workspace}: {status.events} events")
        console.print(_partitions_table(status.partitions))
        if status.consumers:
            console.print(_stored_table(status.consumers))
        for path, cause in status.damaged.items():
            console.print(f"{path} can't be read: {cause}")


def _stored_table(consumers: Iterable[ConsumerStatus]) -> Table:
    table = _table("tracker", site="left", stored="right", waiting="right", dropped="right")
    for one in consumers:
        table.add_row(Text(one.name), "all", _count(one, one.stored), str(one.waiting), _count(one, one.dropped))
        for site, count in one.stored.items():
            table.add_row("", Text(site), str(count), "", "")
    return table


def _table(first: str, **columns: Literal["left", "right"]) -> Table:
    table = Table(first, box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in columns.items():
        table.add_column(name, justify=side)
    return table
