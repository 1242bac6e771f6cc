"""What a W&B look-alike says of its run: names, labels, where it stands."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from eventbus.errors import BadInputError
from eventbus.tracking import TagsDeleted
from writers._keys import check_key, shown
from writers._look_alike import LookAlike
from writers._mode import nowhere
from writers._runs import runs_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from eventbus import Receipt
    from eventbus._bus import Bus


class Standing(NamedTuple):
    """How far a run's records got.

    Attributes:
        sync_items_total: Records of this process.
        sync_items_pending: Those of them that a receiver has not stored yet.
        sync_time: Always None: what a tracker does with them is the receivers' business.
    """

    sync_items_total: int
    sync_items_pending: int
    sync_time: datetime | None = None


class RunFacts(LookAlike):
    """What a run is called and where it stands. What W&B is told of it travels as tags `wandb.<what>`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._name = self.id
        self._facts: dict[str, str] = {}
        self._tags: tuple[str, ...] = ()
        self._started = time.time()

    def status(self) -> Standing:
        """Return how far the records of this process got."""
        seen = self._bus.statistics()
        return Standing(seen.published, max((one.lag for one in seen.consumers.values()), default=0))

    def describe(self, **facts: str | None) -> Receipt:
        """Record what W&B is to know of the run: `project`, `entity`, `group`, `job_type`, `notes`.

        Which project of which entity takes the run is the receivers' business.
        """
        given = {name: value for name, value in facts.items() if value is not None}
        self._facts.update(given)
        return self.tracking.set_tags({f"wandb.{name}": value for name, value in given.items()})

    @property
    def id(self) -> str:
        """Id of the run."""
        return self.tracking.run

    @property
    def name(self) -> str:
        """How people call the run."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        try:
            self._name = check_key(name)
        except BadInputError as error:
            self.tracking.intake.bad.note("name", error)
        else:
            if name != self.id:
                runs_of(self._bus).start(self._bus, self.id, self.tracking.scope, title=name)

    @property
    def project(self) -> str:
        """W&B's project, as `init` was told; empty where nothing was said."""
        return self._facts.get("project", "")

    @property
    def entity(self) -> str:
        """Who owns the project at W&B, as `init` was told; empty where nothing was said."""
        return self._facts.get("entity", "")

    @property
    def group(self) -> str:
        """What the run's siblings share, as `init` was told; else the job."""
        return self._facts.get("group", self._bus.origin.job)

    @property
    def job_type(self) -> str:
        """What the run does in its group, as `init` was told; empty where nothing was said."""
        return self._facts.get("job_type", "")

    @property
    def notes(self) -> str | None:
        """What people wrote of the run."""
        return self._facts.get("notes")

    @notes.setter
    def notes(self, notes: str) -> None:
        self.describe(notes=notes)

    @property
    def tags(self) -> tuple[str, ...]:
        """Labels of the run."""
        return self._tags

    @tags.setter
    def tags(self, tags: Sequence[str]) -> None:
        given = self._labels(tags)
        if given is None:
            return
        gone = [tag for tag in self._tags if tag not in given]
        self.add_tags(given)
        self._tags = given
        if gone:
            self.tracking.publish([TagsDeleted(keys=gone)], gone)

    def add_tags(self, tags: Iterable[str]) -> Receipt:
        """Add labels to the run.

        Raises:
            BadInputError: One can't be recorded, and bad input raises.
        """
        new = dict.fromkeys(tag for tag in self._labels(tags) or () if tag not in self._tags)
        self._tags = (*self._tags, *new)
        return self.tracking.set_tags(dict.fromkeys(new, ""))

    @property
    def path(self) -> str:
        """Entity, project and id, as far as they are known."""
        return "/".join(part for part in (self.entity, self.project, self.id) if part)

    @property
    def url(self) -> str | None:
        """Always None: a tracker's page of the run is known to its receiver, see `bus.report()`."""
        return None

    project_url = sweep_id = sweep_url = url

    @property
    def offline(self) -> bool:
        """Whether W&B gets the run later; always False: its receiver decides that."""
        return False

    @property
    def disabled(self) -> bool:
        """Whether nothing is recorded."""
        return self._bus is nowhere()

    @property
    def resumed(self) -> bool:
        """Whether the run goes on that was begun before; always False: it goes on where its id is the same."""
        return False

    @property
    def start_time(self) -> float:
        """When this object was made, seconds since the epoch."""
        return self._started

    @property
    def settings(self) -> dict[str, Any]:
        """What is known of the run, by the names of W&B's settings."""
        return {"run_id": self.id, "run_name": self.name, "run_group": self.group, "run_tags": self.tags, **self._facts}

    def _labels(self, tags: Any) -> tuple[str, ...] | None:
        """Return labels; those that are none and do not raise are counted, and none.

        Raises:
            BadInputError: They are no labels, and bad input raises.
        """
        if isinstance(tags, Iterable) and not isinstance(tags, str):
            several = tuple(cast("Iterable[Any]", tags))
            if all(isinstance(tag, str) for tag in several):
                return several
        self.tracking.intake.bad.note("tags", BadInputError(f"tags={shown(cast('object', tags))} are no list of texts"))
        return None

    @property
    def _bus(self) -> Bus:
        return self.tracking.bus
