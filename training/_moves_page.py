"""Makes `docs/migrating.md` from the table of moves: `python -m training._moves_page > docs/migrating.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from training._moves import ANY, MOVES, Move

FRAME = """\
# Moving over from NVFLARE

Training scripts, recipes and jobs that were written for NVFLARE's client, job and recipe APIs run here once their
imports are changed. Argument names are NVFLARE's.

```sh
pip install 'trackbus[all]'
trackbus migrate my_project            # shows what would change, and what can't be moved
trackbus migrate my_project --write    # changes the files
python my_project/job.py               # runs it as before
```

`trackbus migrate` reads files and never runs them. It changes imports only: a class that has another name here is
imported `as` it was called, so the rest of the file stays as it is, comments and all. What it can't move it lists with
file and line; its exit code is 1 then. Exported jobs need no change: `trackbus simulator -w WORKSPACE -n 2 JOB_FOLDER`
runs a folder with NVFLARE's `config_fed_server.json` and `config_fed_client.json`.

In `requirements.txt`, `nvflare` becomes `trackbus[all]`.

## What is different

- **Nothing that is logged gets lost, and no order changes.** A log call appends to a file at its site and returns; it
  waits for no tracker. What a tracker lacks when the job ends is counted and shown.
- **Trackers at the sites alone mean just that**: with `client_side=True, server_side=False` nothing that is logged
  leaves its site.
- **Where a receiver is says what it gets**: at a site, what is logged there; at the server, what all sites log.
  `events=` and `ConvertToFedEvent` are accepted, and make no difference.
- **The best model is the one that was measured.** Metrics that a site sends speak of the model that it was sent, so
  the model selector keeps that one, not the average that comes after it.
- **Models are safetensors files**, never pickled. Files that end in `.pt` are read with `weights_only=True`.
- **A task arrives in milliseconds**: there is no polling interval to set. `receive()` returns None when there are no
  more tasks.
- **A site that fails, is late or sends what can't be averaged does not end the job**: it is named, with the reason, and
  the others go on as long as there are `min_clients`.
- **Each round's results** are a whole line of JSON in `round_results.jsonl`, by site and by class. `RoundResultsWriter`
  stands where NVFLARE has a `MetricsArtifactWriter` and takes its arguments; there is no `metrics_summary.json`, and
  nothing is cut short.
- **FedProx** is a matter of the script: `FedAvg(fedprox_mu=0.1)` is refused, and says what to do there.
- **A run is a folder**: `<workspace_root>/<job name>`, or what `simulator_run` is given. It holds journal, models,
  results, the trackers' files, and `job/`, the job as it was run. Each site works in `sites/<site>/`; what its script
  prints is in `log.txt` there. MLflow's default store is a SQLite file in the folder.
- **There is one machine.** Every site is a process of its own, which is what the simulator was; there is no proof of
  concept and no production mode, no filters, and no job submission.

## Where things are

| NVFLARE | here | names |
| --- | --- | --- |
{moved}

## What has no counterpart

| NVFLARE | instead |
| --- | --- |
{left}
"""


Row = tuple[str, str, str]


def make_page() -> str:
    """Return the page."""
    return FRAME.format(moved="\n".join(_moved_rows()), left="\n".join(_left_rows()))


def _moved_rows() -> Iterator[str]:
    for (modules, target, note), names in _merged(move for move in MOVES if move.new_module).items():
        yield f"| {modules} | `{target}` | {names}{f': {note}' if note else ''} |"


def _left_rows() -> Iterator[str]:
    by_note: dict[str, list[str]] = {}
    for (modules, _, note), names in _merged(move for move in MOVES if not move.new_module).items():
        by_note.setdefault(note, []).append(f"{modules}: {names}" if names else modules)
    for note, places in by_note.items():
        yield f"| {'; '.join(places)} | {note} |"


def _merged(moves: Iterable[Move]) -> dict[Row, str]:
    """Put the names of a module into one row, and the modules with the same names too."""
    names: dict[Row, list[str]] = {}
    for move in moves:
        names.setdefault((move.module, move.new_module, move.note), []).append(_name(move))
    modules: dict[Row, list[str]] = {}
    for (module, target, note), of_module in names.items():
        modules.setdefault((", ".join(filter(None, of_module)), target, note), []).append(f"`{module}`")
    return {(", ".join(all_), target, note): texts for (texts, target, note), all_ in modules.items()}


def _name(move: Move) -> str:
    if move.name == ANY:
        return ""
    return f"`{move.name}`" + (f", here `{move.new_name}`" if move.new_name not in ("", move.name) else "")


if __name__ == "__main__":
    print(make_page(), end="")
