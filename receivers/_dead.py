"""Dead letters: the records that a tracker can't store, put aside with the reason.

`<workspace>/dead/<receiver>/` is a journal folder like any other, so whatever reads a journal reads it: per partition
a file that holds only these records, under their own numbers. Beside them, `reasons.jsonl` has one line per record. The
files that they name are kept in `<workspace>/dead/blobs`, where no journal's trimming reaches them.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import closing
from typing import TYPE_CHECKING

from msgspec.structs import replace

from eventbus._blob_intake import bring_along
from eventbus._blob_names import blobs_named
from eventbus.abc import RefusedError
from eventbus.blobs import BlobStore, blobs_of
from eventbus.errors import BlobError
from eventbus.journals import _partition as files

if TYPE_CHECKING:
    from pathlib import Path

    from eventbus.abc import StoredRecord
    from eventbus.blobs import BlobReader

REASONS = "reasons.jsonl"

_logger = logging.getLogger("trackbus.worker")


def put_aside(folder: Path, record: StoredRecord, receiver: str, reason: str, blobs: BlobReader) -> None:
    """Store a record among a receiver's dead letters; a second time changes nothing.

    Args:
        folder: The receiver's own.
        record: The record, with its original bytes.
        receiver: Name of the receiver.
        reason: Why it can't be stored.
        blobs: Finds the files that it names; one that can't be had, or not be kept, is left out with a warning.

    Raises:
        OSError: The folder can't be written.
        sqlite3.Error: The same.
    """
    header = replace(record.header, origin=replace(record.header.origin, again=False))  # its own, if it comes again
    record = record._replace(header=header)
    _keep_blobs(blobs_of(folder), record, blobs)
    _store(folder, record)
    _explain(folder / REASONS, record, receiver, reason)


def _keep_blobs(folder: Path, record: StoredRecord, source: BlobReader) -> None:
    store = BlobStore(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for blob in blobs_named(record.body)[1]:
        try:
            bring_along(store, blob, source)
        except (BlobError, RefusedError) as error:
            _logger.warning("a payload of record %s of %s is not kept: %s", record.seq, record.header.key, error)
    store.sync()


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
