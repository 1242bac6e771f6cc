"""A job while it is put together: what goes to the server, to all sites, and to single ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from training.jobs._script import ScriptRunner


@dataclass(slots=True)
class AppDraft:
    """What one target gets.

    Attributes:
        workflows: What the server does, by id, in order.
        components: Objects by id, in order.
        executors: Scripts, and the tasks that each serves.
        files: Scripts and folders for `custom/`, and the folder there that each is put into: empty where it keeps its
            relative path.
        params: Entries for the configuration file's top level.
    """

    workflows: dict[str, object] = field(default_factory=dict[str, object])
    components: dict[str, object] = field(default_factory=dict[str, object])
    executors: list[tuple[tuple[str, ...], ScriptRunner]] = field(
        default_factory=list["tuple[tuple[str, ...], ScriptRunner]"]
    )
    files: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    params: dict[str, object] = field(default_factory=dict[str, object])

    def add_workflow(self, workflow: object, wanted: str | None) -> str:
        """Append a workflow, and return its id."""
        return _put(self.workflows, workflow, wanted or "controller", self._ids())

    def add_component(self, component: object, wanted: str | None) -> str:
        """Append a component, and return its id."""
        return _put(self.components, component, wanted or "component", self._ids())

    def add_files(self, files: Iterable[str], folder: str = "") -> None:
        """Append files, each once."""
        self.files += [(file, folder) for file in files if (file, folder) not in self.files]

    def joined(self, common: AppDraft) -> AppDraft:
        """Return what a site gets that has an app of its own beside the common one."""
        both = AppDraft(params={**common.params, **self.params})
        both.executors = self.executors or common.executors
        for component_id, component in (*common.components.items(), *self.components.items()):
            both.add_component(component, component_id)
        for file, folder in (*common.files, *self.files):
            both.add_files([file], folder)
        return both

    def _ids(self) -> Sequence[str]:
        return (*self.workflows, *self.components)


def _put(place: dict[str, object], item: object, wanted: str, taken: Sequence[str]) -> str:
    free = wanted
    number = 0
    while free in taken:
        number += 1
        free = f"{wanted}{number}"
    place[free] = item
    return free
