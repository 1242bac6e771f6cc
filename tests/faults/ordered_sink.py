"""A JSON lines sink that misbehaves on order, at the very next call of the kind that the order names.

Texts under the key `poison` it can't store at all.

An order is a file in the folder `orders` beside the sink's own; it is moved to `obeyed` before it is carried out, which
is the proof that the fault struck.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from eventbus.tracking import RunStatus, TextLogged
from receivers.abc import Position, Row, RunInfo
from receivers.jsonl import JsonlConfig, JsonlSink

ORDERS, OBEYED = "orders", "obeyed"


class OrderedConfig(JsonlConfig):
    kind: ClassVar[str] = "ordered"
    sink: ClassVar[str] = "faults.ordered_sink:OrderedSink"


class OrderedSink(JsonlSink):
    def open(self, run: RunInfo, committed: Position) -> int:
        self._obey("before open")
        return super().open(run, committed)

    def write(self, rows: Sequence[Row]) -> None:
        """Misbehave between two rows, and between the last row and its acknowledgement."""
        half = len(rows) // 2
        self._store(rows[:half])
        self._obey("before write")
        self._store(rows[half:])
        self._obey("after write")

    def _store(self, rows: Sequence[Row]) -> None:
        for row in rows:
            event = row.envelope.event
            if isinstance(event, TextLogged) and event.key == "poison":
                raise ValueError("this event is poison")
            super().write([row])

    def flush(self) -> Position:
        self._obey("before flush")
        position = super().flush()
        self._obey("after flush")
        return position

    def close(self, status: RunStatus | None, reason: str = "") -> Position:
        self._obey("before close")
        position = super().close(status, reason)
        self._obey("after close")
        return position

    def _obey(self, point: str) -> None:
        for order in sorted((self.workspace / ORDERS).glob(f"*{point}")):
            order.rename(self.workspace / OBEYED / order.name)
            misbehave(order.name)


def give_order(workspace: Path, number: int, fault: str) -> Path:
    """Order `<how> <before or after> <point>`; return the file that will prove that it was obeyed."""
    for folder in (ORDERS, OBEYED):
        (workspace / folder).mkdir(exist_ok=True)
    name = f"{number:04} {fault}"
    (workspace / ORDERS / name).touch()
    return workspace / OBEYED / name


def awaits_orders(workspace: Path) -> bool:
    """Tell whether an order is still to be obeyed."""
    folder = workspace / ORDERS
    return folder.is_dir() and any(folder.iterdir())


def misbehave(order: str) -> None:
    if "raise" in order:
        raise RuntimeError("this sink fails on order")
    if "exit" in order:
        os._exit(3)
    if "die" in order:
        os.kill(os.getpid(), signal.SIGKILL)
    if "deaf" in order:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    never = threading.Event()
    while True:
        never.wait()
