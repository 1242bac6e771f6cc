"""The set-up of one campaign seed: who there is, where their files are, and what each tracker must hold.

One process holds the server's bus and those of two sites, which relay to it; three trainers only publish to the sites'
journals; a fourth trainer has a bus and receivers of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from faults.audit import Expectation, Ledger
from faults.events import EVENTS_OF_A_LIFE, Publisher, number_of
from faults.schedule import Cast

from eventbus.workspace import BusAddress

SERVER = Publisher(0, "server", "r0")
TRAINERS = (Publisher(1, "site-1", "r1"), Publisher(2, "site-1", "r2"), Publisher(3, "site-2", "r1"))
LONE = Publisher(4, "lone", "r0")
PUBLISHERS = (SERVER, *TRAINERS, LONE)

SITES = ("site-1", "site-2")
FEDERATION = "federation"

LOCAL_TRACKERS = {"site-1": ("jsonl",), "lone": ("jsonl", "tensorboard")}
"""Trackers at the sites themselves; the server's are a matter of the seed."""

KEYS = {
    "jsonl": ("loss", "accuracy", "private", "note", "param", "poison"),
    "ordered": ("loss", "accuracy", "private", "note", "param"),
    "tensorboard": ("loss", "accuracy", "private", "note", "poison"),  # parameters are one text, replaced
    "mlflow": ("loss", "accuracy", "private", "param"),  # texts are files, replaced by themselves
    "wandb": ("loss", "accuracy", "private", "note", "param", "poison"),
    "dead letters": ("poison",),  # of the receiver `ordered`, which holds all the rest
}
"""What is read back of each tracker."""

UNORDERED = {"wandb": frozenset({"param"}), "dead letters": frozenset({"poison"})}
"""Keys that a tracker keeps as a map; dead letters are in a file for each life of their publisher."""


@dataclass(frozen=True)
class Layout:
    """Where everything is.

    Attributes:
        folder: Of this seed.
        trackers: Receivers at the server.
    """

    folder: Path
    trackers: tuple[str, ...]

    def workspace(self, site: str) -> Path:
        return self.folder / site

    @property
    def ledgers(self) -> Path:
        return self.folder / "ledgers"

    @property
    def trackers_at(self) -> dict[str, tuple[str, ...]]:
        return {"server": self.trackers, **LOCAL_TRACKERS}

    @property
    def consumers(self) -> dict[str, str]:
        """Every receiver as `<site>/<name>`, and how its workers are marked."""
        return {
            f"{site}/{name}": str(self.workspace(site) / "cursors" / f"{name}.db")
            for site, names in self.trackers_at.items()
            for name in names
        }

    def make(self) -> None:
        for name in ("ledgers", "logs", "reports"):
            (self.folder / name).mkdir(parents=True)

    def cast(self) -> Cast:
        trainers = [trainer.name for trainer in TRAINERS]
        return Cast((FEDERATION, LONE.site), trainers, list(self.consumers), sinks="ordered" in self.trackers)

    def address(self, publisher: Publisher) -> str:
        """What names the site's bus in a trainer's environment."""
        workspace = str(self.workspace(publisher.site))
        rank = int(publisher.run.removeprefix("r"))
        address = BusAddress(workspace=workspace, site=publisher.site, job="campaign", rank=rank, run=publisher.run)
        return msgspec.json.encode(address).decode()

    def expectation(self, site: str, tracker: str, ledgers: dict[str, Ledger]) -> Expectation:
        """Say what a tracker must hold: the server's all that is federated, a site's what was logged there."""
        at_server = site == "server"
        there = [one for one in PUBLISHERS if (one != LONE if at_server else one.site == site)]
        return Expectation(
            tuple(ledgers[one.name] for one in there),
            KEYS[tracker],
            frozenset({site}),
            UNORDERED.get(tracker, frozenset()),
        )


def read_ledgers(folder: Path) -> dict[str, Ledger]:
    """Read what the publishers wrote down, life by life."""
    ledgers: dict[str, Ledger] = {}
    for publisher in PUBLISHERS:
        numbers: list[int] = []
        unsure: set[int] = set()
        for life, file in enumerate(sorted(folder.glob(f"{publisher.name}.*"))):
            known = [int(line) for line in file.read_text().split()]
            assert known == [number_of(publisher.index, life, one) for one in range(len(known))], file
            numbers += known
            if len(known) < EVENTS_OF_A_LIFE:
                unsure.add(number_of(publisher.index, life, len(known)))
        ledgers[publisher.name] = Ledger(publisher, tuple(numbers), frozenset(unsure))
    return ledgers
