"""Results as files at the server: of each round, and of cross-site evaluation."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training._files import set_aside, write_atomically
from training.abc import Component, ModelValidated, RoundAggregated, RoundStarted, SiteProblem
from training.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from training.abc import Server, ServerEvent

CROSS_VAL_DIR = "cross_site_val"

_SUMMARY = "metrics_summary.json"

_logger = logging.getLogger("trackbus.training")


class _RunFile:
    """A file of one run: what an earlier run has left in its place is set aside once anything happens in this one."""

    def __init__(self, folder: str, name: str) -> None:
        self._place = Path(folder, name)
        self._is_ours = False

    def at(self, server: Server) -> Path:
        """Return where it is.

        Raises:
            OSError: The file of an earlier run can't be set aside.
        """
        path = server.folder / self._place
        if not self._is_ours:
            self._is_ours = True
            set_aside(path)
        return path


class ValidationJsonGenerator(Component):
    """Writes the results of cross-site evaluation as JSON, anew as each of them comes; arguments are NVFLARE's.

    The file is `{site: {model: metrics}}`: the site whose data it was measured on, and whose model it was, a site's or
    the server's (`SRV_best_FL_global_model.pt`). What sites send by class is there as they sent it, with its support. A
    site that could not evaluate a model has no entry for it; why stands in the job's problems. The file of an earlier
    run is set aside as soon as anything happens in this one: `.earlier` is put behind its name.

    Args:
        results_dir: Folder of the file, within the run's folder.
        json_file_name: Its name.

    Raises:
        JobError: The file would lie outside the run's folder.
    """

    def __init__(self, results_dir: str = CROSS_VAL_DIR, json_file_name: str = "cross_val_results.json") -> None:
        self.results_dir = check_inside("results_dir", results_dir)
        self.json_file_name = check_inside("json_file_name", json_file_name)
        self._file = _RunFile(results_dir, json_file_name)
        self._results: dict[str, dict[str, Any]] = {}

    def handle(self, event: ServerEvent, server: Server) -> ServerEvent | None:
        """Add a result to the file."""
        path = self._file.at(server)
        if isinstance(event, ModelValidated):
            self._results.setdefault(event.site, {})[event.model_owner] = dict(event.metrics)
            data = json.dumps(dict(sorted(self._results.items())), indent=2, default=str).encode()
            write_atomically(path, data)


class RoundResultsWriter(Component):
    """Writes what each round gave, one JSON object a line: as a whole, by site, and by class as sites sent it.

    A line is `{"round", "global", "sites": {site: {"weight", "steps", "metrics"}}, "problems": {site: reason}}`. The
    metrics speak of the model that the round began with. `global` is their weighted mean; by class it is weighted by
    `support`, which is summed. NaN and infinities stand there as Python's `json` writes and reads them. The file of an
    earlier run is set aside as soon as anything happens in this one: `.earlier` is put behind its name.

    It stands where NVFLARE has a `MetricsArtifactWriter`, and takes its arguments; what it writes is its own.

    Args:
        results_dir: Folder of the file, within the run's folder.
        summary_file_name: Has no effect: there is no summary; the last round's line and the best model's metadata tell
            what stands in it.
        round_file_name: Its name.
        limits: Has no effect: nothing is cut short.

    Raises:
        JobError: The file would lie outside the run's folder.
    """

    def __init__(
        self,
        results_dir: str = ".",
        summary_file_name: str = _SUMMARY,
        round_file_name: str = "round_results.jsonl",
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.results_dir = check_inside("results_dir", results_dir)
        self.summary_file_name = summary_file_name
        self.round_file_name = check_inside("round_file_name", round_file_name)
        self.limits = limits
        self._file = _RunFile(results_dir, round_file_name)
        self._problems: dict[str, str] = {}
        self._size = 0
        if summary_file_name != _SUMMARY or limits:
            _logger.info(
                "summary_file_name and limits have no effect: each round is a whole line of %s", round_file_name
            )

    def handle(self, event: ServerEvent, server: Server) -> ServerEvent | None:
        """Gather what went wrong in a round, and write its line when it is averaged."""
        path = self._file.at(server)
        if isinstance(event, RoundStarted):
            self._problems.clear()
        elif isinstance(event, SiteProblem):
            self._problems[event.site] = event.reason
        elif isinstance(event, RoundAggregated):
            self._append(_round_record(event, self._problems), path)

    def _append(self, record: dict[str, Any], path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as lines:
            lines.truncate(min(self._size, lines.tell()))  # a disk that was full has left a part of a line
            lines.write(json.dumps(record, default=str).encode() + b"\n")
            lines.flush()
            size = lines.tell()
        self._size = size


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
