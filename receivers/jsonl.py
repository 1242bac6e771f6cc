"""One JSON line per record: the reference sink, and the simplest thing that keeps every promise.

A run's file is `<folder>/<run id>/<site>.jsonl`, or `_combined.jsonl` there where one run holds all sites. Every event
of every type is stored, with all its fields:

| In the line | What it is |
| --- | --- |
| `number` | number of the row within the run, from 1 |
| `partition`, `seq` | who wrote the record, and as which of its records: its identity everywhere |
| `site`, `rank`, `run`, `topic`, `type`, `time_ns` | its envelope |
| `event` | the event's fields |
| `files` | where its payloads lie, by the blob's name: the path below the run's folder; left out where it has none |

Payloads lie beside the run's file in `<site>.files`, as they were logged. One that can't be found is counted as
`payload missing: <event>`, and `files` does not name it.

NaN and infinities are the strings "NaN", "Infinity" and "-Infinity", bytes are base64, date-times ISO 8601.
How the run ended is one more line, of type `RunStatus`: a run that was killed and said no goodbye has it too.

The position is the file's length. Whatever stands behind the acknowledged length is cut off when the run is
opened again, so redelivered rows stand there once. A file of another workspace is left alone: see `receivers._owner`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Unpack

from eventbus import Envelope, Event
from eventbus._blob_names import may_name_blobs
from eventbus.errors import BlobError, ConfigurationError
from eventbus.tracking import RunStatus
from receivers._files import check_length, folder_below, length_of, put_file
from receivers._json import as_json
from receivers._kept import KeptFile
from receivers._names import file_name
from receivers._owner import take
from receivers._payloads import payloads
from receivers._receiver import Receiver, ReceiverOptions
from receivers.abc import Position, Row, RunInfo, Sink, SinkConfig, TrackerRun


class JsonlConfig(SinkConfig):
    """Settings of the JSON lines.

    Attributes:
        path: Folder of the files, relative to the workspace; by default `jsonl` there.
    """

    kind: ClassVar[str] = "jsonl"
    sink: ClassVar[str] = "receivers.jsonl:JsonlSink"

    path: str | None = None

    def folder(self, workspace: Path) -> Path:
        """Return the folder that holds a folder per run."""
        return folder_below(workspace, self.path or self.kind)

    def check(self, workspace: Path) -> None:
        """Refuse a path that names a file: every run and site has a file of its own."""
        folder = self.folder(workspace)
        if folder.suffix == ".jsonl" or folder.is_file():
            raise ConfigurationError(
                f"path={self.path!r} names a file; name a folder: it will hold <run id>/<site>.jsonl"
            )

    def destination(self, workspace: Path) -> str:
        """Name the folder."""
        return f"{self.kind}:{self.folder(workspace)}"

    def look(self, workspace: Path) -> str:
        """Show the last lines of every file."""
        return f"tail -n 5 {shlex.quote(str(self.folder(workspace)))}/*/*.jsonl"


class JsonlSink(Sink[JsonlConfig]):
    """Appends one line per row to the run's file."""

    _run: RunInfo
    _path: Path
    _file: BinaryIO
    _length: int
    _row: int

    def open(self, run: RunInfo, committed: Position) -> int:
        """Cut the file back to its acknowledged length.

        Raises:
            TrackerLostError: The file is shorter than what was acknowledged: somebody else changed it.
            TrackerTakenError: Another workspace has written it.
        """
        folder = self.config.folder(self.workspace)
        path = folder / file_name(run.id) / f"{file_name(run.place)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not committed.token:
            take(path, self.workspace, is_used=length_of(path) > 0)
        self._run, self._row = run, committed.row
        self._path, self._length = path, int(committed.token or 0)
        check_length(path, self._length)
        self._file = path.open("ab")
        self._file.truncate(self._length)
        self.tracker_run = TrackerRun(path.relative_to(folder).as_posix(), str(path))
        return self._row

    def write(self, rows: Sequence[Row]) -> None:
        """Append the rows that are new, each behind its payloads."""
        for row in rows:
            if row.number > self._row:
                files = self._put_payloads(row.envelope.event)
                self._append({**_fields(row), "files": files} if files else _fields(row))
                self._row = row.number

    def _put_payloads(self, event: Event) -> dict[str, str]:
        """Put what an event names beside the run's file; return the paths by the blobs' names."""
        folder, paths = self._path.parent, dict[str, str]()
        for blob, suffix in payloads(event) if may_name_blobs(event.event_name) else ():
            try:
                source = self.blobs.path(blob)
            except BlobError:
                self.counts[f"payload missing: {event.event_name}"] += 1
                continue
            path = put_file(folder, KeptFile(f"{self._path.stem}.files/{blob.name}{suffix}", source), self.counts)
            paths[blob.name] = path.relative_to(folder).as_posix()
        return paths

    def _append(self, fields: Mapping[str, Any]) -> None:
        self._length += self._file.write(_line(fields))

    def flush(self) -> Position:
        """Hand everything to the operating system.

        Raises:
            TrackerLostError: The file is not the one that was opened, or somebody else has cut it.
        """
        self._file.flush()
        check_length(self._path, self._length, most=self._length)
        return Position(self._row, str(self._length))

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        """Store how the run ended, and close the file."""
        if status is not None:
            end = {"type": "RunStatus", "status": status.value, "reason": reason}
            self._append({"site": self._run.site, "run": self._run.id, **end})
        position = self.flush()
        self._file.close()
        return position

    def abandon(self) -> bool:
        """Close the file: what stands behind its acknowledged length is cut off when it is opened again."""
        if hasattr(self, "_file"):
            self._file.close()
        return True


def _fields(row: Row) -> dict[str, Any]:
    envelope: Envelope[Event] = row.envelope
    return {
        "number": row.number,
        "seq": envelope.seq,
        "partition": envelope.origin.partition,
        "site": envelope.site,
        "rank": envelope.rank,
        "run": envelope.run,
        "topic": envelope.topic,
        "type": envelope.event.event_name,
        "time_ns": envelope.time_ns,
        "event": envelope.event.__dict__,
    }


def _line(fields: Mapping[str, Any]) -> bytes:
    return as_json(fields).encode() + b"\n"


class JsonlReceiver(Receiver):
    """Fills files of JSON lines: the reference, and the fastest.

    Args:
        path: Folder of the files, relative to the workspace; by default `jsonl` there.
        options: `name`, `layout`, `flush`, `worker` and `python`, as `Receiver` takes them.
    """

    def __init__(
        self,
        path: str | None = None,
        **options: Unpack[ReceiverOptions],
    ) -> None:
        super().__init__(JsonlConfig(path=path), **options)
