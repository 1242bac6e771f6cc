"""Results as files at the server: of each round, and of cross-site evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training._files import write_atomically
from training.abc import Component, ModelValidated, RoundAggregated, RoundStarted, SiteProblem
from training.errors import JobError

if TYPE_CHECKING:
    from training.abc import Server, ServerEvent

CROSS_VAL_DIR = "cross_site_val"


class ValidationJsonGenerator(Component):
    """Writes the results of cross-site evaluation as JSON, anew as each of them comes; arguments are NVFLARE's.

    The file is `{site: {model: metrics}}`: the site whose data it was measured on, and whose model it was, a site's or
    the server's (`SRV_best_FL_global_model.pt`). What sites send by class is there as they sent it, with its support. A
    site that could not evaluate a model has no entry for it; why stands in the job's problems.

    Args:
        results_dir: Folder of the file, within the run's folder.
        json_file_name: Its name.

    Raises:
        JobError: The file would lie outside the run's folder.
    """

    def __init__(self, results_dir: str = CROSS_VAL_DIR, json_file_name: str = "cross_val_results.json") -> None:
        self.results_dir = check_inside("results_dir", results_dir)
        self.json_file_name = check_inside("json_file_name", json_file_name)
        self._results: dict[str, dict[str, Any]] = {}

    def handle(self, event: ServerEvent, server: Server) -> ServerEvent | None:
        """Add a result to the file."""
        if isinstance(event, ModelValidated):
            self._results.setdefault(event.site, {})[event.model_owner] = dict(event.metrics)
            data = json.dumps(dict(sorted(self._results.items())), indent=2, default=str).encode()
            write_atomically(server.folder / self.results_dir / self.json_file_name, data)


class RoundResultsWriter(Component):
    """Writes what each round gave, one JSON object a line: as a whole, by site, and by class as sites sent it.

    A line is `{"round", "global", "sites": {site: {"weight", "steps", "metrics"}}, "problems": {site: reason}}`. The
    metrics speak of the model that the round began with. `global` is their weighted mean; by class it is weighted by
    `support`, which is summed. NaN and infinities stand there as Python's `json` writes and reads them.

    Args:
        results_dir: Folder of the file, within the run's folder.
        round_file_name: Its name.

    Raises:
        JobError: The file would lie outside the run's folder.
    """

    def __init__(self, results_dir: str = ".", round_file_name: str = "round_results.jsonl") -> None:
        self.results_dir = check_inside("results_dir", results_dir)
        self.round_file_name = check_inside("round_file_name", round_file_name)
        self._problems: dict[str, str] = {}
        self._lines = 0

    def handle(self, event: ServerEvent, server: Server) -> ServerEvent | None:
        """Gather what went wrong in a round, and write its line when it is averaged."""
        if isinstance(event, RoundStarted):
            self._problems.clear()
        elif isinstance(event, SiteProblem):
            self._problems[event.site] = event.reason
        elif isinstance(event, RoundAggregated):
            self._append(_round_record(event, self._problems), server)

    def _append(self, record: dict[str, Any], server: Server) -> None:
        file = server.folder / self.results_dir / self.round_file_name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a" if self._lines else "w", encoding="utf-8") as lines:
            lines.write(json.dumps(record, default=str) + "\n")
        self._lines += 1


def _round_record(event: RoundAggregated, problems: dict[str, str]) -> dict[str, Any]:
    return {
        "round": event.round,
        "global": event.aggregated.metrics or {},
        "sites": {
            one.site: {"weight": one.weight, "steps": one.steps, "metrics": dict(one.metrics)}
            for one in event.contributions
        },
        "problems": dict(problems),
    }


def check_inside(argument: str, name: str) -> str:
    """Return a path that stays within the folder it is taken from.

    Raises:
        JobError: It leads out of it.
    """
    path = Path(name)
    if not name or path.is_absolute() or ".." in path.parts:
        raise JobError(f"{argument}={name!r} leads out of the run's folder: use a relative path without '..'")
    return name
