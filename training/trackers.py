"""The trackers by the names that the command line knows, and what each of them stored. Imports no SDK and no torch."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventbus._codec import read_frame
from eventbus._place import place_of
from eventbus.errors import ConfigurationError, DecodeError
from eventbus.journals._look import ConsumerFacts, look_at_consumer, open_unchanged, records_after
from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import DROPPED_OF
from eventbus.tracking import TRACKING
from receivers import JsonlReceiver, MLflowReceiver, TensorBoardReceiver, WandBReceiver
from training._words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from eventbus import EventBus
    from receivers import Receiver
    from receivers._layout import Layout

DEFAULT_TRACKERS = "wandb,mlflow,tensorboard"

NO_TRACKERS = "none"
"""Stands for an empty list on the command line."""


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """What the command line lets people choose.

    Attributes:
        job: Name of the job: W&B's project.
        wandb_mode: W&B's mode: `offline` or `online`.
        mlflow_uri: MLflow's database or server; by default `mlflow.db` in the workspace.
        prefix: What the receivers' names begin with; behind it comes the tracker's.
        layout: How the sites of a run are laid out.
    """

    job: str
    wandb_mode: str = "offline"
    mlflow_uri: str | None = None
    prefix: str = ""
    layout: Layout = "per_site"


_MAKERS: Mapping[str, Callable[[TrackerOptions, str], Receiver]] = {
    "wandb": lambda options, name: WandBReceiver(
        options.wandb_mode, {"project": options.job}, name=name, layout=options.layout
    ),
    "mlflow": lambda options, name: MLflowReceiver(options.mlflow_uri, name=name, layout=options.layout),
    "tensorboard": lambda options, name: TensorBoardReceiver(name=name, layout=options.layout),
    "jsonl": lambda options, name: JsonlReceiver(name=name, layout=options.layout),
}


def parse_trackers(text: str) -> tuple[str, ...]:
    """Return the trackers that a list such as `wandb,mlflow` names, each once.

    Raises:
        ConfigurationError: One of them is unknown; the message says which ones are known.
    """
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    if names == (NO_TRACKERS,):
        return ()
    for name in names:
        if name not in _MAKERS:
            raise ConfigurationError(
                f"unknown tracker {name!r}: {did_you_mean(name, _MAKERS)}, or {NO_TRACKERS!r} alone"
            )
    return names


def make_receivers(
    names: Iterable[str], options: TrackerOptions, workspace: Path, *, name: str | None = None
) -> list[Receiver]:
    """Make the receivers of the trackers named, each with its files in the workspace; `name` is the only one's own.

    Raises:
        ConfigurationError: Their settings can't work, such as W&B online without a key.
        MissingExtraError: An SDK is not installed.
    """
    receivers = [_MAKERS[kind](options, name or options.prefix + kind) for kind in names]
    for receiver in receivers:
        receiver.config.check(workspace.absolute())
    return receivers


@dataclass(frozen=True, slots=True)
class Account:
    """What became of one site's events in one tracker; counts of events.

    Attributes:
        site: Who published them.
        tracker: Name of the receiver.
        published: Taken by the site's journal.
        stored: In the tracker.
        late: Not there yet: they stay in the journal, and are stored when the workspace is opened again.
        dropped: Given up; the causes stand in the server's report.
    """

    site: str
    tracker: str
    published: int
    stored: int
    late: int
    dropped: int


def settle_accounts(
    buses: Mapping[str, EventBus], receivers: Sequence[Receiver], server: EventBus
) -> tuple[Account, ...]:
    """Compare what each site published with what each tracker has; all the buses are closed.

    Args:
        buses: The bus of each site whose events were all meant for the trackers, the server's own among them. Words of
            health are not: they are left out.
        receivers: Subscribed on the server.
        server: The bus that they read.
    """
    if server.workspace is None:
        return ()
    subscribed = {line.name for line in server.report().lines}
    files = [place_of(server.workspace).cursors / f"{one.name}.db" for one in receivers if one.name in subscribed]
    trackers = [look_at_consumer(file) for file in files]
    return tuple(_account(site, bus, tracker) for site, bus in buses.items() for tracker in trackers)


def _account(site: str, bus: EventBus, tracker: ConsumerFacts) -> Account:
    report, partition = bus.report(), bus.origin.partition
    published = report.published - report.health
    late = min(published, _count_late(bus, tracker.cursor.get(partition, 0)))
    dropped = min(tracker.counts.get((DROPPED_OF, partition), 0), published - late)
    return Account(site, tracker.name, published, published - late - dropped, late, dropped)


def _count_late(bus: EventBus, reached: int) -> int:
    """Count a bus's own tracking events beyond a number; where they can't be read, all events beyond it."""
    folder = bus.journal.folder
    if folder is None or reached >= bus.journal.last_seq:
        return 0
    with closing(JournalReader(folder, open_unchanged)) as reader:
        try:
            records = records_after(reader.partition(bus.origin.partition), reached)
            return sum(_is_tracking(record.body) for record in records)
        except (KeyError, sqlite3.DatabaseError):
            return bus.journal.last_seq - reached


def _is_tracking(body: bytes) -> bool:
    try:
        return read_frame(body).topic == TRACKING.name
    except DecodeError:
        return True  # who knows what it was
