"""Dead letters: the records that a tracker can't store, put aside with the reason.

`<workspace>/dead/<receiver>/` is a journal folder like any other, so whatever reads a journal reads it: per partition
a file that holds only these records, under their own numbers. Beside them, `reasons.jsonl` has one line per record.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from typing import TYPE_CHECKING

from msgspec.structs import replace

from eventbus.journals import _partition as files

if TYPE_CHECKING:
    from pathlib import Path

    from eventbus.abc import StoredRecord

REASONS = "reasons.jsonl"


def put_aside(folder: Path, record: StoredRecord, receiver: str, reason: str) -> None:
    """Store a record among a receiver's dead letters; a second time changes nothing.

    Args:
        folder: The receiver's own.
        record: The record, with its original bytes.
        receiver: Name of the receiver.
        reason: Why it can't be stored.

    Raises:
        OSError: The folder can't be written.
        sqlite3.Error: The same.
    """
    header = replace(record.header, origin=replace(record.header.origin, again=False))  # its own, if it comes again
    record = record._replace(header=header)
    _store(folder, record)
    _explain(folder / REASONS, record, receiver, reason)


def _store(folder: Path, record: StoredRecord) -> None:
    path = files.roll_path(folder, record.header.origin, 0)
    if not path.exists():
        files.create_file(path, record.header, roll=0, mark=0)
    with closing(files.open_writer(path)) as connection:
        connection.execute("PRAGMA synchronous = FULL")  # the journal may be trimmed: this is the only copy then
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            files.insert(connection, [(record.seq, record.body)])
            connection.execute("UPDATE header SET value = max(value, ?) WHERE name = 'mark'", (record.seq,))


def _explain(path: Path, record: StoredRecord, receiver: str, reason: str) -> None:
    identity = {"partition": record.header.key, "seq": record.seq}
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if any(_identity(line) == identity for line in lines):
        return
    text = json.dumps({**identity, "receiver": receiver, "reason": reason, "time_ns": time.time_ns()})
    torn = b"\n" if lines[-1] else b""  # a crash may have left half a line
    with path.open("ab") as file:
        file.write(torn + text.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _identity(line: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(line)
        return {"partition": found["partition"], "seq": found["seq"]}
    except (ValueError, KeyError, TypeError):
        return None
