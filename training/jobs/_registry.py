"""Who is who in job files: the components that a file may name, under our names and under NVFLARE's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import cast

from training._words import did_you_mean
from training.errors import JobError

Arguments = dict[str, object]

SCRIPT_RUNNER = "training.job.ScriptRunner"

_TRAINING = (
    "CrossSiteModelEval",
    "FedAvg",
    "IntimeModelSelector",
    "PTFileModelLocator",
    "PTFileModelPersistor",
    "RoundResultsWriter",
    "ValidationJsonGenerator",
)
_RECEIVERS = (
    "FlushPolicy",
    "JsonlReceiver",
    "MLflowReceiver",
    "TensorBoardReceiver",
    "WandBReceiver",
    "WorkerPolicy",
)

KNOWN = (
    *(f"training.{name}" for name in _TRAINING),
    *(f"receivers.{name}" for name in _RECEIVERS),
    SCRIPT_RUNNER,
)
"""Paths that job files may name whoever wrote them."""

FOREIGN = "nvflare."
"""How paths of NVFLARE's begin."""


@dataclass(frozen=True, slots=True)
class Alias:
    """What a component of NVFLARE's is here.

    Attributes:
        known: Our path; empty where nothing stands for it.
        why: Why it is left out, where nothing stands for it.
        unused: Arguments that mean nothing here.
        adapt: Makes our arguments of its own, less those that mean nothing.
    """

    known: str = ""
    why: str = ""
    unused: frozenset[str] = frozenset()
    adapt: Callable[[Arguments], Arguments] = dict


@dataclass(frozen=True, slots=True)
class Resolved:
    """A component as it is to be made.

    Attributes:
        known: Its path in the registry; empty where it is left out, or is the job's own class.
        args: Its arguments.
        notes: What of it has no effect.
        left_out: Whether there is nothing to make.
    """

    known: str = ""
    args: Arguments = field(default_factory=Arguments)
    notes: tuple[str, ...] = ()
    left_out: bool = False


def _adapt_executor(args: Arguments) -> Arguments:
    """Turn the arguments of NVFLARE's script executors into those of a `ScriptRunner`."""
    adapted = dict(args)
    mode = adapted.get("execution_mode", "in_process")
    if mode == "attach":
        raise JobError("execution_mode='attach': a script that somebody else starts is not supported")
    framework = adapted.pop("params_exchange_format", None)
    if framework is not None:
        adapted["framework"] = framework
    if "task_script_path" in adapted:
        adapted["script"] = adapted.pop("task_script_path")
        adapted["script_args"] = adapted.pop("task_script_args", "")
    if adapted.get("command") and "script" not in adapted:
        adapted.update(_parted(adapted["command"]))
    return adapted


def _adapt_fedavg(args: Arguments) -> Arguments:
    adapted = dict(args)
    mu = adapted.pop("fedprox_mu", None)
    if mu is not None:
        raise JobError(
            f"fedprox_mu={mu!r} is not sent to the sites: let the script add FedProx's term to its loss, with the "
            "params that it has received, and take the argument out"
        )
    return adapted


def _parted(command: object) -> Arguments:
    """Part `python3 -u custom/client.py --epochs 2` into what starts the script, the script, and its arguments."""
    from training.jobs._script import split

    words = split("command", cast("str | list[str]", command))
    place = next((number for number, word in enumerate(words) if word.startswith("custom/")), None)
    if place is None:
        raise JobError(f"command={command!r} starts no script in custom/")
    script = words[place].removeprefix("custom/")
    return {"command": list(words[:place]), "script": script, "script_args": list(words[place + 1 :])}


_EXECUTOR_UNUSED = frozenset(
    {
        "config_file_name",
        "external_pre_init_timeout",
        "from_nvflare_converter_id",
        "last_result_transfer_timeout",
        "launcher_id",
        "monitor_interval",
        "peer_read_timeout",
        "pipe_id",
        "read_interval",
        "to_nvflare_converter_id",
        "workers",
        "allow_insecure_attach",
        "allow_reconnect",
        "attach_id",
        "attach_timeout",
        "evaluate_task_name",
        "heartbeat_interval",
        "heartbeat_timeout",
        "log_pull_interval",
        "result_pull_interval",
        "result_wait_timeout",
        "stop_grace_period",
        "submit_model_task_name",
        "task_wait_time",
        "task_wait_timeout",
        "train_task_name",
        "train_with_evaluation",
    }
)
_executor = Alias(SCRIPT_RUNNER, unused=_EXECUTOR_UNUSED, adapt=_adapt_executor)
_pipe = Alias(why="scripts reach their site by a socket of their own")
_fedavg = Alias(
    "training.FedAvg",
    unused=frozenset(
        {
            "allow_empty_global_weights",
            "enable_tensor_disk_offload",
            "ignore_result_error",
            "memory_gc_rounds",
            "task_check_period",
        }
    ),
    adapt=_adapt_fedavg,
)

ALIASES: Mapping[str, Alias] = {
    "CellPipe": _pipe,
    "ClientAPIExecutor": _executor,
    "ClientAPILauncherExecutor": _executor,
    "ConvertToFedEvent": Alias(why="records are federated as soon as a tracker at the server wants them"),
    "CrossSiteModelEval": Alias(
        "training.CrossSiteModelEval",
        unused=frozenset({"formatter_id", "task_check_period", "wait_for_clients_timeout"}),
    ),
    "ExternalConfigurator": _pipe,
    "FedAvg": _fedavg,
    "FilePipe": _pipe,
    "InProcessClientAPIExecutor": _executor,
    "IntimeModelSelector": Alias("training.IntimeModelSelector"),
    "MLflowReceiver": Alias("receivers.MLflowReceiver"),
    "MetricsArtifactWriter": Alias("training.RoundResultsWriter", unused=frozenset({"limits", "summary_file_name"})),
    "MetricRelay": _pipe,
    "PTClientAPILauncherExecutor": _executor,
    "PTFedAvg": _fedavg,
    "PTFileModelLocator": Alias("training.PTFileModelLocator"),
    "PTFileModelPersistor": Alias(
        "training.PTFileModelPersistor",
        unused=frozenset({"filter_id", "load_device"}),
    ),
    "PTInProcessClientAPIExecutor": _executor,
    "SubprocessLauncher": Alias(why="the executor that names it starts the script"),
    "TBAnalyticsReceiver": Alias("receivers.TensorBoardReceiver"),
    "ValidationJsonGenerator": Alias("training.ValidationJsonGenerator"),
    "WandBReceiver": Alias("receivers.WandBReceiver"),
}
"""NVFLARE's components by the name of their class: it moves them from module to module, and keeps that."""


def resolve(path: str, args: Mapping[str, object]) -> Resolved | None:
    """Return what a path of a job file is; None if it is no name of the registry's, and may be the job's own class.

    Raises:
        JobError: It is a component of NVFLARE's that has no counterpart here, or its arguments can't work.
    """
    if path in KNOWN:
        return Resolved(path, dict(args))
    if not path.startswith(FOREIGN):
        return None
    name = path.rpartition(".")[2]
    alias = ALIASES.get(name)
    if alias is None:
        raise JobError(f"there is no counterpart of {path}; {did_you_mean(name, ALIASES)}")
    if not alias.known:
        return Resolved(notes=(f"{name} is left out: {alias.why}",), left_out=True)
    kept = {key: value for key, value in args.items() if key not in alias.unused}
    notes = tuple(f"{name}: {key}={args[key]!r} has no effect here" for key in args if key in alias.unused)
    return Resolved(alias.known, alias.adapt(kept), notes)


def load_known(path: str) -> type:
    """Return the class behind a path of the registry."""
    module, _, name = path.rpartition(".")
    return cast("type", getattr(import_module(module), name))


def path_of(kind: type) -> str | None:
    """Return the path under which job files name a class of ours; None if it is not one."""
    room = kind.__module__.partition(".")[0]
    for path in KNOWN:
        if path.startswith(f"{room}.") and path.rpartition(".")[2] == kind.__name__:
            return path
    return None
