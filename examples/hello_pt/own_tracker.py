"""A tracker of your own: how scripts log to it, and how what they logged gets there."""

import csv
import os
from pathlib import Path
from typing import Unpack

from eventbus import Envelope, Event, Receipt
from eventbus.tracking import MetricsLogged, RunStatus
from receivers.abc import AnalyticsReceiver, ReceiverOptions, RunInfo
from writers.abc import AnalyticsDataType, LogWriter


class ScoreWriter(LogWriter):
    """Logs with a method of our own; any other writer would do, and any tracker takes what this one logs."""

    def score(self, name: str, value: float, step: int) -> Receipt:
        """Log a score."""
        return self.write(f"score/{name}", value, AnalyticsDataType.SCALAR, step)


class CsvReceiver(AnalyticsReceiver):
    """Writes a CSV file per run and site; a number that comes again after a crash is left out by its id."""

    def __init__(self, folder: str = "csv", **options: Unpack[ReceiverOptions]) -> None:
        super().__init__(**options)
        self.folder = folder

    def initialize(self, run: RunInfo) -> None:
        """Open the run's file, and see what it has; a worker that was killed may have left half a line."""
        self.path = Path(self.workspace, self.folder, f"{run.id}-{run.site}.csv")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        self.known = {(row[0], row[3]) for row in csv.reader(self.path.read_text().splitlines())}
        self.file = self.path.open("a", newline="")

    def save(self, event: Envelope[Event]) -> None:
        """Append the event's numbers."""
        found, name = event.event, ":".join(map(str, event.id))
        if not isinstance(found, MetricsLogged):
            self.counts["no metric"] += 1
            return
        rows = [(name, event.time_ns, found.step, key, value) for key, value in found.values.items()]
        csv.writer(self.file).writerows(row for row in rows if (name, row[3]) not in self.known)

    def flush(self) -> None:
        """Hand what is held back to the operating system."""
        self.file.flush()

    def finalize(self, status: RunStatus | None) -> None:
        """Close the file, and say how the run ended."""
        self.file.close()
        if status is not None:
            self.path.with_suffix(".end").write_text(status.value)
