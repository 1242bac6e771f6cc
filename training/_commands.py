"""The commands of `trackbus` and their options. What needs torch is imported by the commands that train."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from eventbus.errors import (
    ConfigurationError,
    JournalError,
    SubscriptionError,
    TrackbusError,
    WorkspaceError,
)
from training._launch import launch
from training._look_commands import add_commands
from training._migrate_command import add_commands as add_migration
from training._plan import MAX_SITES, FederationConfig
from training._resume import read_last_round
from training._simulator_command import simulator
from training.cli import EXIT_FAILED, EXIT_USAGE, leave
from training.trackers import DEFAULT_TRACKERS, TrackerOptions, make_receivers, parse_trackers
from writers.system import INTERVAL_SECONDS

WRONG_SET_UP = (ConfigurationError, JournalError, SubscriptionError, ValidationError, WorkspaceError)
"""What a person can put right by another command; anything else is a failure of the training."""

EXAMPLES = """\
[bold]Examples[/bold]

trackbus demo  [dim]# a small federation into W&B (offline), MLflow and TensorBoard[/dim]

trackbus run --sites 4 --rounds 5 --trackers tensorboard,mlflow --name exp1

trackbus run --sites 5 --partition shards:2  [dim]# two classes at each site; also dirichlet:0.5, quantity[/dim]

trackbus run --data fashion-mnist --epochs 2  [dim]# or cifar10: downloaded where it is not there[/dim]

trackbus run --system-metrics  [dim]# processor, memory, disk, network and GPUs beside what is trained[/dim]

trackbus run --trackers jsonl --workspace /tmp/exp2  [dim]# plain JSON lines, no SDK[/dim]

trackbus run --trackers wandb --wandb-mode online  [dim]# after `wandb login`[/dim]

trackbus simulator -n 2 exported/hello-pt  [dim]# a job from recipe.export, or from NVFLARE[/dim]

trackbus status runs/demo --watch  [dim]# how far behind each tracker is, and why[/dim]

trackbus inspect runs/demo --tail 20  [dim]# the events themselves[/dim]

trackbus replay runs/demo --to mlflow  [dim]# fills a tracker that was not there at the time[/dim]

trackbus report runs/demo  [dim]# who stored how much, by site[/dim]

trackbus migrate client.py job.py  [dim]# what moving over from NVFLARE would change[/dim]

All that is logged is in the workspace's journal when the log call returns. A slow or dead tracker never slows the \
training: what it lacks is stored when the workspace is opened again.

Exit codes: 0 all is well: what a tracker lacks is safe in the journal; 1 the training failed, or something is lost, \
or (with --strict) a tracker is late; 2 the command can't be carried out as given; 130 interrupted.
"""

app = typer.Typer(
    name="trackbus",
    help="Train one model at several sites, and see every number in the trackers you already use.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with 1 also where a tracker is late: not all is stored in it yet.")
]

Trackers = Annotated[
    str,
    typer.Option(metavar="NAMES", help="wandb, mlflow, tensorboard, jsonl, in a list with commas; or none."),
]

SystemMetrics = Annotated[
    bool,
    typer.Option("--system-metrics", help="Log what the machine does too: processor, memory, disk, network, GPUs."),
]

Workspace = Annotated[
    Path | None, typer.Option(help="Folder for the journal and the trackers' files.", show_default="runs/NAME")
]

Data = Annotated[str, typer.Option(metavar="NAME", help="What to train on: digits, cifar10, fashion-mnist.")]

DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of downloaded data sets.", show_default="one in the user's cache")
]

Partition = Annotated[
    str,
    typer.Option(metavar="HOW", help="Who gets what: iid, dirichlet:ALPHA, shards:CLASSES (of so few each), quantity."),
]


def _print_version(is_wanted: bool) -> None:  # noqa: FBT001 - what typer calls it with
    if is_wanted:
        typer.echo(f"trackbus {_version()}")
        raise typer.Exit


def _version() -> str:
    try:
        return version("trackbus")
    except PackageNotFoundError:
        return "(run from its source: no version)"


@app.callback()
def options(
    *,
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Take the options that come before a command; their callbacks do the work."""


@app.command(epilog="trackbus demo --workspace /tmp/demo --trackers tensorboard")
def demo(
    *,
    workspace: Annotated[Path, typer.Option(help="Folder for the journal and the trackers' files.")] = Path(
        "runs/demo"
    ),
    trackers: Trackers = DEFAULT_TRACKERS,
    strict: Strict = False,
) -> None:
    """Train the digits at 2 sites for 3 rounds, and track it: some seconds, no account, no download."""
    _train({"workspace": workspace, "name": "demo"}, trackers, "offline", strict=strict)


@app.command(epilog="trackbus run --sites 4 --rounds 5 --epochs 2 --trackers tensorboard,mlflow --name exp1")
def run(
    context: typer.Context,
    *,
    sites: Annotated[int, typer.Option(min=1, max=MAX_SITES, help="How many sites.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="How often the sites' models are averaged.")] = 3,
    trackers: Trackers = DEFAULT_TRACKERS,
    workspace: Workspace = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs that a site trains per round.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 16,
    lr: Annotated[float, typer.Option(help="Learning rate of the sites' SGD.")] = 0.02,
    data: Data = "digits",
    data_root: DataRoot = None,
    partition: Partition = "iid",
    seed: Annotated[int, typer.Option(help="The same seed trains the same.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the job: W&B's project, MLflow's experiment.")] = "federated",
    wandb_mode: Annotated[
        str, typer.Option(metavar="MODE", help="offline: files for `wandb sync`. online: needs a key.")
    ] = "offline",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the workspace's last run, with its settings.")
    ] = False,
    system_metrics: SystemMetrics = False,
    strict: Strict = False,
) -> None:
    """Train a small network at several sites, and track it."""
    options: dict[str, tuple[str, object]] = {
        "sites": ("sites", sites),
        "rounds": ("rounds", rounds),
        "epochs": ("local_epochs", epochs),
        "batch_size": ("batch_size", batch_size),
        "lr": ("learning_rate", lr),
        "data": ("dataset", data),
        "partition": ("partition", partition),
        "seed": ("seed", seed),
        "name": ("name", name),
    }
    settings = {key: value for option, (key, value) in options.items() if not resume or _is_given(context, option)}
    settings |= {"workspace": workspace or Path("runs", name), "data_root": data_root, "resume": resume}
    if system_metrics:
        settings["system_metrics"] = INTERVAL_SECONDS
    _train(settings, trackers, wandb_mode, strict=strict)


app.command(epilog="trackbus simulator -n 2 -w runs/hello exported/hello-pt")(simulator)
add_commands(app)
add_migration(app)


def _train(settings: dict[str, object], trackers: str, wandb_mode: str, *, strict: bool) -> None:
    try:
        names = parse_trackers(trackers)
        config = FederationConfig.model_validate(_with_earlier(settings))
        receivers = make_receivers(names, TrackerOptions(config.name, wandb_mode), config.workspace)
        code = launch(config, receivers, strict=strict)
    except WRONG_SET_UP as error:
        leave(_sentence(error), EXIT_USAGE)
    except (TrackbusError, OSError) as error:
        leave(str(error), EXIT_FAILED)
    else:
        raise typer.Exit(code)


def _is_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _with_earlier(settings: dict[str, object]) -> dict[str, object]:
    """Fill up what was not given with the settings of the run that is resumed."""
    if not settings.get("resume"):
        return settings
    last = read_last_round(FederationConfig(workspace=Path(str(settings["workspace"]))).models_folder)
    return {**last.settings, **settings}


def _sentence(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(map(str, one['loc']))}={one['input']!r}: {one['msg'].removeprefix('Value error, ')}"
        for one in error.errors()
    )
