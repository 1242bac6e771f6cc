"""Looks into a workspace: what its journals hold, and how far each consumer is. Changes nothing, needs no torch."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from eventbus.errors import WorkspaceError
from eventbus.journals._reader import JournalReader, PartitionReader
from eventbus.journals.consumer import ConsumerFile
from training._console import make_console

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from rich.console import Console

READ_RECORDS = 10_000
"""Records counted at once."""


@dataclass(slots=True)
class SiteFacts:
    """One site's part of a journal: partitions, events, and how the writing processes stand."""

    partitions: int = 0
    events: int = 0
    states: Counter[str] = field(default_factory=Counter[str])


def print_workspace(workspace: Path) -> None:
    """Print what a workspace holds, and the workspaces of the sites in it.

    Raises:
        WorkspaceError: It is none.
    """
    if not (workspace / "journal").is_dir():
        raise WorkspaceError(f"{workspace} is not a workspace: it has no journal; name a folder such as runs/demo")
    console = make_console()
    for folder in (workspace, *sorted((workspace / "sites").glob("*"))):
        _print_one(folder, console)


def _print_one(folder: Path, console: Console) -> None:
    with closing(JournalReader(folder / "journal")) as reader:
        facts = _site_facts(reader)
        console.print(f"{folder}: {sum(one.events for one in facts.values())} events")
        console.print(_sites_table(facts))
        for path, cause in reader.unreadable.items():
            console.print(f"{path} can't be read: {cause}")
        if consumers := [*_consumers(folder, reader)]:
            console.print(_consumers_table(consumers))


def _site_facts(reader: JournalReader) -> dict[str, SiteFacts]:
    facts: dict[str, SiteFacts] = {}
    for partition in reader.partitions():
        one = facts.setdefault(partition.header.origin.site, SiteFacts())
        one.partitions += 1
        one.events += _count_after(partition, 0)
        one.states[_state(partition)] += 1
    return facts


def _state(partition: PartitionReader) -> str:
    if not partition.ended():
        return "being written"
    return "ended" if partition.closed_in_order() else "broken off"


def _count_after(partition: PartitionReader, seq: int) -> int:
    count = 0
    while records := partition.after(seq, READ_RECORDS):
        count += len(records)
        seq = records[-1].seq
    return count


def _consumers(folder: Path, reader: JournalReader) -> Iterator[tuple[str, Mapping[str, int], int]]:
    """Yield each consumer's name, the events that it has stored by site, and how many wait for it."""
    for path in sorted((folder / "cursors").glob("*.db")):
        with ConsumerFile(path.parent, path.stem) as file:
            cursor, counts = file.cursor(), file.counts()
        stored = {name: value for (kind, name), value in counts.items() if kind == "delivered"}
        waiting = sum(_count_after(one, cursor.get(one.header.key, 0)) for one in reader.partitions())
        yield path.stem, stored, waiting


def _sites_table(facts: Mapping[str, SiteFacts]) -> Table:
    table = Table("site", "partitions", "events", "written by", box=box.SIMPLE_HEAD, pad_edge=False)
    for site, one in facts.items():
        states = ", ".join(f"{count} {state}" for state, count in one.states.items())
        table.add_row(Text(site), str(one.partitions), str(one.events), states)
    return table


def _consumers_table(consumers: list[tuple[str, Mapping[str, int], int]]) -> Table:
    table = Table("tracker", "site", "stored", "waiting for it", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, stored, waiting in consumers:
        total = sum(stored.values())
        table.add_row(Text(name), "all", str(total), str(waiting))
        for site, count in stored.items():
            table.add_row("", Text(site), str(count), "")
    return table
