"""What a W&B server has of a run.

The SDK doesn't say: when the server refuses the rows of a run once (any status of 400 to 499 but 429), it gives up
sending, logs on into its file, and `finish` returns as if all were well. So the server itself is asked: now and then
while a run is filled, and at its end. How to ask is handed in: this file loads no SDK.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from receivers._wandb_rows import OURS
from receivers.abc import TrackerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventbus.tracking import RunStatus

ASK_TIMEOUT = 3.0
"""Seconds that the server has for an answer: delivery waits for it."""

LOOK_SECONDS = 30.0
"""How often the server is asked, beyond twice the SDK's own interval: one that takes rows has taken some by then."""

CONFIRM_SECONDS = 4.0
"""How long the end of a run may take to show; with the SDK's own end less than a worker has to close a run."""

TRANSMIT_SECONDS = 15.0
"""The SDK's interval between two sendings, where its settings don't say otherwise."""

_POLL = 0.1

_QUERY = """
query RunPosition($entity: String, $project: String, $name: String!) {
    model(entityName: $entity, name: $project) {
        bucket(name: $name, missingOk: true) { historyTail config }
    }
}
"""


_LINK = """
mutation LinkModel(
    $entity: String!, $project: String!, $model: String!, $aliases: [ArtifactAliasInput!], $artifact: ID
) {
    linkArtifact(input: {
        entityName: $entity, projectName: $project, artifactPortfolioName: $model,
        clientID: $artifact, aliases: $aliases
    }) { versionIndex }
}
"""

_REGISTRY = "model-registry"
"""Project in which W&B keeps the registered models of an entity."""


class Standing(NamedTuple):
    """What the server has of a run.

    Attributes:
        row: Number of the last row of its history; 0 for none.
        status: How we said that it ended; empty while it runs.
    """

    row: int
    status: str


class RunPath(NamedTuple):
    """How a server finds a run; without an entity it is that of the key."""

    entity: str | None
    project: str
    name: str


class ServerRun:
    """A run as its server has it.

    Args:
        ask: How to ask the server.
        path: The run.
        interval: Seconds between two sendings of the SDK.
    """

    def __init__(self, ask: Callable[[str, Mapping[str, Any]], Any], path: RunPath, interval: float) -> None:
        self._ask = ask
        self._path = path
        self._every = LOOK_SECONDS + 2 * interval
        self._next = time.monotonic() + self._every
        self._seen = self._due = 0

    def standing(self) -> Standing | None:
        """Return what the server has, or None if it has no such run.

        Raises:
            TrackerUnavailableError: It doesn't answer, or refuses the key.
        """
        project = self._ask(_QUERY, self._path._asdict())["model"]
        bucket = project and project["bucket"]
        return _standing(bucket) if bucket else None

    def check(self, row: int) -> None:
        """Look, every so often, whether the server takes the rows.

        Args:
            row: Number of the last row that was logged.

        Raises:
            TrackerUnavailableError: It doesn't answer, refuses the key, lacks the run, or has taken nothing of what it
                lacked the last time.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every
        has = self._existing().row
        if has == self._seen and has < self._due:
            raise TrackerUnavailableError(f"the server has taken no row after {has} for {self._every:.0f} s")
        self._seen, self._due = has, row

    def confirm(self, row: int, status: RunStatus | None) -> None:
        """Return when the server has a run up to `row`, and knows how it ended.

        Raises:
            TrackerUnavailableError: It lacks something.
        """
        deadline = time.monotonic() + CONFIRM_SECONDS
        while lack := self._lack(row, status):
            if time.monotonic() > deadline:
                raise TrackerUnavailableError(f"the server {lack}, though the SDK has sent it")
            time.sleep(_POLL)

    def register(self, artifact: str, model: str, aliases: Sequence[str]) -> None:
        """Make an artifact a version of a registered model; one that is so already stays so.

        Args:
            artifact: What the SDK has called it, its client's id.
            model: Name of the registered model.
            aliases: Names of this version there.

        Raises:
            TrackerUnavailableError: The server doesn't answer, or refuses it.
        """
        named = [{"artifactCollectionName": model, "alias": alias} for alias in aliases]
        where = {"entity": self._path.entity, "project": _REGISTRY}
        self._ask(_LINK, {**where, "model": model, "aliases": named, "artifact": artifact})

    def _lack(self, row: int, status: RunStatus | None) -> str:
        has = self._existing()
        if has.row < row:
            return f"lacks rows after {has.row} of {row}"
        if status is not None and has.status != status.value:
            return f"has the status {has.status or 'running'!r} for {status.value!r}"
        return ""

    def _existing(self) -> Standing:
        found = self.standing()
        if found is None:
            raise TrackerUnavailableError("the server has no such run: somebody has deleted it")
        return found


def _standing(bucket: Mapping[str, Any]) -> Standing:
    """Read a run's answer: W&B puts JSON into JSON."""
    tail = [json.loads(line) for line in json.loads(bucket["historyTail"] or "[]")]
    config = json.loads(bucket["config"] or "{}")
    ours = config.get(OURS, {}).get("value", {})
    return Standing(max((int(row.get("_step", 0)) for row in tail), default=0), ours.get("status", ""))
