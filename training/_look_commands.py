"""The commands that look at a workspace or fill a tracker from it; none of them needs torch."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from eventbus import Scope
from eventbus.errors import ConfigurationError, SubscriptionError, TrackbusError
from receivers._layout import LAYOUTS, Layout
from receivers.replay import PREFIX, Part, find_source
from training._inspect import Filter, parse_time, print_events
from training._replay import job_of, make_receivers_for, run_replay, start_of
from training._status import print_report, print_status
from training.cli import EXIT_USAGE, leave
from training.trackers import TrackerOptions, parse_trackers

Workspace = Annotated[Path, typer.Argument(metavar="WORKSPACE", help="Folder of a run, such as runs/demo.")]
Names = list[str] | None

LAST_SEQ = 2**63 - 1
"""No record has a higher number: SQLite knows none."""

STATUS_EXAMPLES = """\
[bold]Examples[/bold]

trackbus status runs/demo

trackbus status runs/demo --watch  [dim]# anew every second, beside a run that is going on[/dim]

trackbus status runs/demo --json | jq '.workspaces[0].consumers[] | {name, waiting}'

[bold]What it says[/bold]

A partition is what one process has written: being written (by which process), ended, or broken off: the process \
vanished. For each tracker: events stored; events waiting for it, and the age of the oldest; events dropped; and its \
worker process, if one lives. A relay passes events on, and keeps no count. Words of health (a lost worker, a tracker \
that does not answer) are those of the last 20 000 events. `trackbus report` gives the account instead: who stored how \
much, by site.
"""

INSPECT_EXAMPLES = """\
[bold]Examples[/bold]

trackbus inspect runs/demo --tail 20

trackbus inspect runs/demo --site site-1 --key 'train/*' --since 10m

trackbus inspect runs/demo --topic trackbus.health  [dim]# what went wrong, and when[/dim]

trackbus inspect runs/demo/dead/mlflow  [dim]# what a tracker can't store, and why[/dim]

trackbus inspect runs/demo --json --follow | jq .event

Names may be shell patterns, and an option given twice means either. A line holds the time, what identifies the event \
(PARTITION#SEQ), how far it travels, its type and run, and what it says. Events of types that are not known here are \
shown all the same. Damaged records are shown as such, whatever is asked for, and counted at the end.
"""


REPLAY_EXAMPLES = """\
[bold]Examples[/bold]

trackbus replay runs/demo --to mlflow  [dim]# a tracker that was not there at the time[/dim]

trackbus replay runs/demo --to mlflow --name mlflow  [dim]# goes on where the run's own receiver stopped[/dim]

trackbus replay runs/demo --to mlflow --name mlflow --layout combined  [dim]# ... with all sites in one run[/dim]

trackbus replay runs/demo --to tensorboard,jsonl --workspace /tmp/copy

trackbus replay runs/demo --to mlflow --mlflow-uri http://host:5000 --from-cursor mlflow

trackbus replay runs/demo --to jsonl --workspace /tmp/one --site site-1

trackbus replay runs/demo/dead/mlflow --to mlflow  [dim]# once the cause is mended: into the same runs[/dim]

The journal is only read, and no other tracker is touched: a replay has a cursor of its own, replay-TRACKER. Run \
again, it goes on where it stopped, or says that nothing is left; where it begins (--from-cursor, --after) counts only \
the first time. What one replay leaves out (--site, --run) it leaves out for good: another part goes into another \
--workspace.

Exit codes: 0 all is stored; 1 something is not, or was dropped; 2 the command can't be carried out as given.
"""


WAYS_OUT = "here: --name, --layout or --workspace; for settings of its own, call receivers.replay.replay in Python"
"""What can be done about a cursor that belongs to another destination."""


@contextmanager
def clear_errors() -> Generator[None]:
    """Turn what a person can put right into one line; what a reader would log is shown by the commands themselves."""
    logging.getLogger("trackbus.journal").setLevel(logging.ERROR)
    try:
        yield
    except TrackbusError as error:
        leave(str(error), EXIT_USAGE)


def report(*, workspace: Workspace) -> None:
    """Show the account of a workspace: what it holds, and what each tracker has stored, by site. Changes nothing.

    For how a run stands while it is going on, or why a tracker is late, see `trackbus status`.
    """
    with clear_errors():
        print_report(workspace)


def status(
    *,
    workspace: Workspace,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every second, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for machines.")] = False,
) -> None:
    """Show how a workspace stands now: writers, size, and how far behind each tracker is, and why. Changes nothing."""
    with clear_errors():
        try:
            print_status(workspace, watch=watch, as_json=as_json)
        except KeyboardInterrupt:
            if not watch:
                raise


def inspect(
    *,
    journal: Annotated[
        Path, typer.Argument(metavar="JOURNAL", help="A workspace, a journal's folder, or one of dead letters.")
    ],
    site: Annotated[Names, typer.Option(metavar="NAME", help="Events of this site.")] = None,
    rank: Annotated[list[int] | None, typer.Option(metavar="N", help="... of this rank.")] = None,
    run: Annotated[Names, typer.Option(metavar="NAME", help="... of this run.")] = None,
    event_type: Annotated[Names, typer.Option("--type", metavar="NAME", help="... such as MetricsLogged.")] = None,
    topic: Annotated[Names, typer.Option(metavar="NAME", help="... on this topic.")] = None,
    key: Annotated[Names, typer.Option(metavar="NAME", help="... with a metric, param, tag or text so named.")] = None,
    scope: Annotated[str | None, typer.Option(metavar="SCOPE", help="local or federated.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="10m (ago) or 2026-11-22T14:05.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="The same.")] = None,
    after: Annotated[int, typer.Option(metavar="SEQ", min=0, max=LAST_SEQ, help="Numbers beyond this one.")] = 0,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, max=LAST_SEQ, help="The first so many.")] = None,
    tail: Annotated[int | None, typer.Option(metavar="N", min=1, max=LAST_SEQ, help="The last so many.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, for machines.")] = False,
) -> None:
    """Print a journal's events, one a line, in the order in which they were logged. Changes nothing."""
    with clear_errors():
        wanted = Filter(
            sites=tuple(site or ()),
            ranks=tuple(rank or ()),
            runs=tuple(run or ()),
            types=tuple(event_type or ()),
            topics=tuple(topic or ()),
            keys=tuple(key or ()),
            scope=None if scope is None else _scope(scope),
            since_ns=_time(since),
            until_ns=_time(until),
            after=after,
        )
        print_events(journal, wanted, limit=limit, tail=tail, follow=follow, as_json=as_json)


def _time(text: str | None) -> int | None:
    return None if text is None else parse_time(text)


def _scope(name: str) -> Scope:
    try:
        return Scope[name.upper()]
    except KeyError as error:
        raise ConfigurationError(f"--scope {name!r}: it is local or federated") from error


def _layout(name: str) -> Layout:
    for known in LAYOUTS:
        if name == known:
            return known
    raise ConfigurationError(f"--layout {name!r}: it is {' or '.join(LAYOUTS)}")


def replay(
    *,
    journal: Annotated[
        Path, typer.Argument(metavar="JOURNAL", help="A workspace, a journal's folder, or dead letters.")
    ],
    to: Annotated[list[str], typer.Option(metavar="NAMES", help="wandb, mlflow, tensorboard, jsonl, with commas.")],
    workspace: Annotated[
        Path | None, typer.Option(help="Where the trackers' files go.", show_default="that of the journal")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the cursor.", show_default="replay-TRACKER")
    ] = None,
    site: Annotated[Names, typer.Option(metavar="NAME", help="Only this site's events.")] = None,
    run: Annotated[Names, typer.Option(metavar="NAME", help="Only this run's events.")] = None,
    from_cursor: Annotated[
        str | None, typer.Option(metavar="NAME", help="Begin where this receiver of the workspace is.")
    ] = None,
    after: Annotated[Names, typer.Option(metavar="PARTITION=SEQ", help="Begin there in this partition.")] = None,
    layout: Annotated[str, typer.Option(metavar="LAYOUT", help="per_site or combined.")] = "per_site",
    mlflow_uri: Annotated[str | None, typer.Option(metavar="URI", help="MLflow's database or server.")] = None,
    wandb_mode: Annotated[str, typer.Option(metavar="MODE", help="offline or online.")] = "offline",
    wandb_project: Annotated[
        str | None, typer.Option(metavar="NAME", help="W&B's project.", show_default="the journal's job")
    ] = None,
) -> None:
    """Fill trackers from a journal: one that was not there at the time, one that is late, or one that is mended."""
    with clear_errors():
        source = find_source(journal)
        part = Part(tuple(site or ()), tuple(run or ()), start_of(source, from_cursor, after or ()))
        options = TrackerOptions(wandb_project or job_of(source), wandb_mode, mlflow_uri, PREFIX, _layout(layout))
        receivers = make_receivers_for(source, parse_trackers(",".join(to)), options, workspace, name)
        try:
            code = run_replay(journal, receivers, workspace, part)
        except SubscriptionError as error:
            leave(f"{error} ({WAYS_OUT})", EXIT_USAGE)
    raise typer.Exit(code)


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command(epilog="trackbus report runs/demo")(report)
    app.command(epilog=STATUS_EXAMPLES)(status)
    app.command(epilog=INSPECT_EXAMPLES)(inspect)
    app.command(epilog=REPLAY_EXAMPLES)(replay)
