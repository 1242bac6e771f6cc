"""A publisher of the campaign: logs numbers at a rate, and keeps its own ledger of the calls that returned.

As a process (`python -P -m faults.publisher NAME INDEX RATE LEDGERS`) it is a training script: it holds writers, opens
no bus of its own, and logs to the one that its environment names, until its standard input ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from faults.events import EVENTS_OF_A_LIFE, Publisher, keys_of, number_of

from eventbus import Scope
from writers import TrackingWriter

PAUSE = 0.02
"""Seconds between two bursts of calls; the rate holds on average."""


def publish(publisher: Publisher, writer: TrackingWriter, rate: float, ledgers: Path, stop: threading.Event) -> None:
    """Log until told to stop; a call that is refused ends it, loudly."""
    life = len(list(ledgers.glob(f"{publisher.name}.*")))
    private = writer.bind(scope=Scope.LOCAL)
    ledger = os.open(ledgers / f"{publisher.name}.{life:02}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
    started, event = time.monotonic(), 0
    while not stop.wait(PAUSE):
        due = min(int((time.monotonic() - started) * rate), EVENTS_OF_A_LIFE)
        for number in (number_of(publisher.index, life, one) for one in range(event, due)):
            log(writer, private, number)
            os.write(ledger, b"%d\n" % number)
        event = max(event, due)
    os.close(ledger)


def log(writer: TrackingWriter, private: TrackingWriter, number: int) -> None:
    keys = keys_of(number)
    if keys == ("param",):
        receipt = writer.log_params({f"param{number}": number})
    elif keys in (("note",), ("poison",)):
        receipt = writer.log_text(keys[0], str(number), step=number)
    elif keys == ("private",):
        receipt = private.log({"private": number}, step=number)
    else:
        receipt = writer.log(dict.fromkeys(keys, number), step=number)
    if receipt.refused is not None:
        raise SystemExit(f"log call {number} was refused: {receipt.refused}")


def stop_at_end_of_input() -> threading.Event:
    """Return an event that is set when whoever started this process closes its standard input, or dies."""
    stop = threading.Event()

    def wait() -> None:
        sys.stdin.buffer.read()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    return stop


def main() -> None:
    site, run, index, rate, ledgers = sys.argv[1:]
    publisher = Publisher(int(index), site, run)
    writer = TrackingWriter(run=run, scope=Scope.FEDERATED)
    publish(publisher, writer, float(rate), Path(ledgers), stop_at_end_of_input())


if __name__ == "__main__":
    main()
