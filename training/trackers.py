"""The trackers by the names that the command line knows, and what each of them stored. Imports no SDK and no torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventbus.errors import ConfigurationError
from eventbus.journals.consumer import ConsumerFile
from receivers import JsonlReceiver, MLflowReceiver, TensorBoardReceiver, WandBReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from eventbus import EventBus
    from eventbus._report import Line
    from receivers import Receiver

DEFAULT_TRACKERS = "wandb,mlflow,tensorboard"

NO_TRACKERS = "none"
"""Stands for an empty list on the command line."""


@dataclass(frozen=True, slots=True)
class TrackerOptions:
    """What the command line lets people choose.

    Attributes:
        job: Name of the job: W&B's project.
        wandb_mode: W&B's mode: `offline` or `online`.
    """

    job: str
    wandb_mode: str = "offline"


_MAKERS: Mapping[str, Callable[[TrackerOptions], Receiver]] = {
    "wandb": lambda options: WandBReceiver(mode=options.wandb_mode, wandb_args={"project": options.job}),
    "mlflow": lambda _: MLflowReceiver(),
    "tensorboard": lambda _: TensorBoardReceiver(),
    "jsonl": lambda _: JsonlReceiver(),
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
            raise ConfigurationError(_explain_unknown(name))
    return names


def _explain_unknown(name: str) -> str:
    close = difflib.get_close_matches(name, _MAKERS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown tracker {name!r}: {hint}known are {', '.join(_MAKERS)}, or {NO_TRACKERS!r} alone"


def make_receivers(names: Iterable[str], options: TrackerOptions, workspace: Path) -> list[Receiver]:
    """Make the receivers of the trackers named, each with its files in the workspace.

    Raises:
        ConfigurationError: Their settings can't work, such as W&B online without a key.
        MissingExtraError: An SDK is not installed.
    """
    receivers = [_MAKERS[name](options) for name in names]
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
        buses: The bus of each site whose events were all meant for the trackers, the server's own among them.
        receivers: Subscribed on the server.
        server: The bus that they read.
    """
    if server.workspace is None:
        return ()
    lines = {line.name: line for line in server.report().lines}
    subscribed = [lines[receiver.name] for receiver in receivers if receiver.name in lines]
    cursors = server.workspace / "cursors"
    return tuple(_account(site, bus, line, cursors) for site, bus in buses.items() for line in subscribed)


def _account(site: str, bus: EventBus, tracker: Line, cursors: Path) -> Account:
    published = bus.report().published
    with ConsumerFile(cursors, tracker.name) as file:
        reached = min(file.cursor().get(bus.origin.partition, 0), published)
    # The tracker counts what it dropped by cause, not by site: it is what it read of this site but did not store.
    dropped = max(0, reached - tracker.by_site.get(site, 0)) if tracker.dropped else 0
    return Account(site, tracker.name, published, reached - dropped, published - reached, dropped)
