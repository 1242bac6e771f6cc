"""Prints the events of a journal: `trackbus inspect`. Only reads, and needs no class of the events that it shows."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import msgspec

from eventbus._codec import decode_frame, read_frame
from eventbus._event import registered_event
from eventbus.errors import ConfigurationError, DecodeError
from eventbus.journals._look import open_unchanged, records_after
from eventbus.journals._reader import JournalReader
from receivers._json import as_json
from receivers.replay import find_source
from training._said import said, word

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from eventbus._codec import Frame
    from eventbus._topic import Scope
    from eventbus.abc import StoredRecord
    from eventbus.journals._partition_reader import PartitionReader

FOLLOW_SECONDS = 0.5
"""How often a journal that is followed is looked at."""

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are shown: those that meet every condition that is set. Names may be shell patterns; any one counts.

    Attributes:
        sites, ranks, runs, types, topics: Where it comes from and what it is.
        keys: Names of metrics, parameters, tags or texts in it.
        scope: How far it travels.
        since_ns, until_ns: When it was logged, both ends included; nanoseconds since the epoch.
        after: Its number within its partition is higher.
    """

    sites: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    scope: Scope | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    after: int = 0

    def admits_partition(self, partition: PartitionReader) -> bool:
        """Tell whether a partition's events may be shown."""
        origin = partition.header.origin
        return _fits(self.sites, origin.site) and (not self.ranks or origin.rank in self.ranks)

    def admits(self, entry: Entry) -> bool:
        """Tell whether an event is shown; a damaged one is, whatever it may have been."""
        frame = entry.frame
        if frame is None:
            return True
        names = ((self.runs, frame.run), (self.types, frame.type), (self.topics, frame.topic))
        return (
            all(_fits(patterns, name) for patterns, name in names)
            and self._admits_time(frame.time_ns)
            and (self.scope is None or frame.scope == self.scope.value)
            and (not self.keys or any(_fits(self.keys, key) for key in entry.names()))
        )

    def _admits_time(self, time_ns: int) -> bool:
        return (self.since_ns is None or time_ns >= self.since_ns) and (
            self.until_ns is None or time_ns <= self.until_ns
        )


def _fits(patterns: Iterable[str], name: str) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record, as far as it can be read.

    Attributes:
        record: As the journal holds it.
        time_ns: When it was logged; of a damaged one, when the one before it was.
        frame: Its address, None if that is damaged.
        fields: What the event says.
        damage: What is wrong with it.
        reason: Why it was put aside, for a dead letter.
    """

    record: StoredRecord
    time_ns: int
    frame: Frame | None = None
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    damage: str = ""
    reason: str = ""

    def names(self) -> Iterator[str]:
        """Yield the names of the metrics, parameters, tags or texts in it."""
        values, key = self.fields.get("values"), self.fields.get("key")
        if isinstance(values, Mapping):
            yield from map(str, cast("Mapping[object, object]", values))
        if isinstance(key, str):
            yield key


class Inspector:
    """Reads a journal's events in the order in which they were logged, and again what was added since.

    Attributes:
        damaged: How many damaged records were met.
        unreadable: Why a file could not be read, by its path.
    """

    def __init__(self, path: Path, wanted: Filter) -> None:
        journal = find_source(path).journal
        self._reader = JournalReader(journal, open_unchanged)
        self._wanted = wanted
        self._reasons = _reasons(journal / "reasons.jsonl")
        self._position: dict[str, int] = {}
        self.damaged = 0
        self.unreadable: dict[str, str] = {}

    def news(self) -> Iterator[Entry]:
        """Yield the events that are wanted and were not yielded before; each partition keeps its own order."""
        self._reader.close()  # what was opened at rest does not show what came since
        partitions = [one for one in self._reader.partitions() if self._wanted.admits_partition(one)]
        found = merge(*map(self._entries, partitions), key=lambda entry: entry.time_ns)
        for entry in found:
            if self._wanted.admits(entry):
                self.damaged += bool(entry.damage)
                yield entry
        self.unreadable |= {str(path): cause for path, cause in self._reader.unreadable.items()}

    def close(self) -> None:
        """Let go of all files."""
        self._reader.close()

    def _entries(self, partition: PartitionReader) -> Iterator[Entry]:
        key, time_ns = partition.header.key, partition.header.created_ns
        try:
            for record in records_after(partition, self._position.get(key, self._wanted.after)):
                self._position[key] = record.seq
                entry = read_entry(record, time_ns, self._reasons.get((key, record.seq), ""))
                time_ns = entry.time_ns
                yield entry
        except sqlite3.DatabaseError as error:
            self.unreadable[key] = str(error)


def read_entry(record: StoredRecord, before_ns: int = 0, reason: str = "") -> Entry:
    """Read a record as far as possible; its event's class is used only to check it, if this process has it."""
    try:
        frame = read_frame(record.body)
    except DecodeError as error:
        return Entry(record, before_ns, damage=str(error), reason=reason)
    try:
        fields = msgspec.msgpack.decode(frame.fields, type=dict[str, Any])
        if registered_event(frame.type) is not None:
            decode_frame(frame, record.header.origin, record.seq)
        frame.in_scope()
    except (DecodeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Entry(record, frame.time_ns, frame, damage=str(error), reason=reason)
    return Entry(record, frame.time_ns, frame, fields, reason=reason)


def _reasons(path: Path) -> dict[tuple[str, int], str]:
    """Read why dead letters were put aside; a torn line explains nothing, and hides nothing."""
    found: dict[tuple[str, int], str] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            one = json.loads(line)
            found[one["partition"], one["seq"]] = str(one["reason"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


# --- printing -------------------------------------------------------------------------------------------------------


def print_events(
    path: Path, wanted: Filter, *, limit: int | None, tail: int | None, follow: bool, as_json: bool
) -> None:
    """Print a journal's events, one a line; what is damaged is counted at the end, on stderr.

    Args:
        path: A workspace, a journal's folder, or one of dead letters.
        wanted: Which events.
        limit: How many at most, the first ones.
        tail: How many at most, the last ones of those that are there.
        follow: Whether to wait for more, until interrupted.
        as_json: JSON lines rather than text.

    Raises:
        WorkspaceError: There is no journal.
    """
    show = _as_json if as_json else _as_text
    with closing(Inspector(path, wanted)) as inspector:
        try:
            for entry in islice(_entries(inspector, tail, follow=follow), limit):
                print(show(entry), flush=follow)
        except KeyboardInterrupt:
            if not follow:
                raise
        finally:
            _print_damage(inspector)


def _entries(inspector: Inspector, tail: int | None, *, follow: bool) -> Iterator[Entry]:
    yield from inspector.news() if tail is None else deque(inspector.news(), tail)
    while follow:
        time.sleep(FOLLOW_SECONDS)
        yield from inspector.news()


def _print_damage(inspector: Inspector) -> None:
    if inspector.damaged:
        print(f"trackbus: {inspector.damaged} damaged records", file=sys.stderr)
    for path, cause in inspector.unreadable.items():
        print(f"trackbus: {path} can't be read: {cause}", file=sys.stderr)


def _as_json(entry: Entry) -> str:
    header, frame = entry.record.header, entry.frame
    shown: dict[str, Any] = {
        "seq": entry.record.seq,
        "partition": header.key,
        "site": header.origin.site,
        "rank": header.origin.rank,
    }
    if frame is not None:
        shown |= {"run": frame.run, "topic": frame.topic, "scope": _scope(frame), "type": frame.type}
        shown |= {"version": frame.version, "time_ns": frame.time_ns, "event": entry.fields}
    if entry.damage:
        shown |= {"damage": entry.damage, "bytes": entry.record.body}
    if entry.reason:
        shown["reason"] = entry.reason
    return as_json(shown)


def _as_text(entry: Entry) -> str:
    """Return one line: when, what identifies it, what it is, what it says."""
    frame = entry.frame
    parts = [_clock(entry.time_ns), f"{word(entry.record.header.key)}#{entry.record.seq}"]
    if frame is not None:
        kind = registered_event(frame.type)
        parts += [_scope(frame), word(frame.type)]
        parts += [f"run={word(frame.run)}"] if frame.run else []
        if kind is None or kind.event_topic != frame.topic:
            parts.append(f"topic={word(frame.topic)}")
        parts += said(entry.fields)
    parts += [f"DAMAGED: {word(entry.damage)}"] if entry.damage else []
    parts += [f"REASON: {word(entry.reason)}"] if entry.reason else []
    return " ".join(parts)


def _scope(frame: Frame) -> str:
    try:
        return frame.in_scope().name.lower()
    except DecodeError:
        return str(frame.scope)


def _clock(time_ns: int) -> str:
    try:
        return datetime.fromtimestamp(time_ns / 1e9).astimezone().isoformat(" ", "milliseconds")[:23]
    except (ValueError, OverflowError, OSError):  # a time that no calendar has
        return str(time_ns)


def parse_time(text: str) -> int:
    """Return the nanoseconds since the epoch that `10m` (ago) or an ISO time such as `2026-11-22 14:05` stand for.

    Raises:
        ConfigurationError: It is neither.
    """
    try:
        if ago := _AGO.fullmatch(text):
            return time.time_ns() - int(float(ago[1]) * _UNITS[ago[2]] * 1e9)
        return int(datetime.fromisoformat(text).astimezone().timestamp() * 1e9)
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(f"{text!r} is no time: write 90s, 10m, 2h, 1d (ago) or 2026-11-22T14:05") from error
