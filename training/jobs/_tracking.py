"""Trackers for recipes: at the server, at the sites, or at both."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from receivers import JsonlReceiver, MLflowReceiver, Receiver, TensorBoardReceiver, WandBReceiver
from training._words import did_you_mean
from training.errors import JobError
from training.jobs._build import arguments_of
from training.jobs._terms import GLOBAL_METRICS, SYSTEM_METRICS

if TYPE_CHECKING:
    from training.jobs._recipe import Recipe

TrackingType = str | type[Receiver] | Receiver

_RECEIVERS: Mapping[str, type[Receiver]] = {
    "jsonl": JsonlReceiver,
    "mlflow": MLflowReceiver,
    "tensorboard": TensorBoardReceiver,
    "wandb": WandBReceiver,
}


def add_experiment_tracking(  # noqa: PLR0917 - NVFLARE's own arguments, in its order
    recipe: Recipe,
    tracking_type: TrackingType,
    tracking_config: Mapping[str, Any] | None = None,
    client_side: bool = False,  # noqa: FBT001, FBT002 - the same
    server_side: bool = True,  # noqa: FBT001, FBT002 - the same
    clients: list[str] | None = None,
    *,
    global_metrics: bool = False,
    system_metrics: bool | float = False,
) -> None:
    """Have a recipe's job tracked.

    A tracker at the server gets what all sites log. Without one nothing that they log leaves them; trackers at the
    sites get their own.

    Args:
        recipe: The recipe.
        tracking_type: `wandb`, `mlflow`, `tensorboard` or `jsonl`, or a receiver of your own: its class or, for one
            place, itself.
        tracking_config: The receiver's arguments. For MLflow, experiment and run are named after the recipe where
            nothing is said. It is written into the job: no keys, no passwords.
        client_side: Whether each site has a tracker.
        server_side: Whether the server has one.
        clients: The sites that have one; by default all.
        global_metrics: Whether the server logs a run of its own beside those of the sites: each round's averages.
        system_metrics: Whether every run has what its machine does: processor, memory, disk, network, graphics cards;
            seconds between two samples, or True for 10. It needs `pip install 'trackbus[system]'` at the sites.

    Raises:
        JobError: There is no such tracker, or no place for it, or it doesn't take these arguments.
    """
    _check_places(client_side=client_side, server_side=server_side, clients=clients)
    if global_metrics:
        if not server_side:
            raise JobError("global_metrics=True needs a tracker at the server: set server_side=True")
        recipe.job.to_server({GLOBAL_METRICS: True})
    if system_metrics:
        recipe.job.to_server({SYSTEM_METRICS: system_metrics})
    if server_side:
        recipe.job.to_server(_receiver(recipe, tracking_type, tracking_config, "Server"), "receiver")
    if client_side:
        recipe.add_to_clients(_receiver(recipe, tracking_type, tracking_config, "Client"), clients, "client_receiver")


def _check_places(*, client_side: bool, server_side: bool, clients: list[str] | None) -> None:
    if not client_side and not server_side:
        raise JobError("client_side and server_side are both False: the tracker needs a place")
    if clients is None:
        return
    if not client_side:
        raise JobError("clients names the sites that have a tracker: set client_side=True too")
    if not clients:
        raise JobError("clients is empty: leave it out, and all sites have a tracker")


def _receiver(recipe: Recipe, kind: TrackingType, config: Mapping[str, Any] | None, side: str) -> Receiver:
    if isinstance(kind, Receiver):
        if config:
            raise JobError(f"tracking_config is for a tracker's name or class; this {type(kind).__name__} has its own")
        return kind
    receiver = _RECEIVERS.get(kind) if isinstance(kind, str) else kind
    if receiver is None:
        raise JobError(f"unknown tracker {kind!r}: {did_you_mean(str(kind), _RECEIVERS)}")
    args = {key: copy.deepcopy(value) for key, value in (config or {}).items()}
    if receiver is MLflowReceiver:
        args["kw_args"] = _named(args.get("kw_args"), recipe.name, side)
    takes = arguments_of(receiver)
    for name in args:
        if takes is not None and name not in takes:
            raise JobError(f"tracking_config: {receiver.__name__} takes no {name!r}; {did_you_mean(name, takes)}")
    return receiver(**args)


def _named(kw_args: object, recipe: str, side: str) -> dict[str, Any]:
    if kw_args is not None and not isinstance(kw_args, dict):
        raise JobError(f"tracking_config: kw_args must be a dict, not {type(kw_args).__name__}")
    given: Mapping[str, Any] = kw_args or {}  # pyright: ignore[reportUnknownVariableType] - a user's
    return {"experiment_name": f"{recipe}-experiment", "run_name": f"{recipe}-{side}", **given}
