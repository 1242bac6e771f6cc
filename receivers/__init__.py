"""What fills the trackers: subscribe a receiver, and its worker process does the rest.

What becomes of every kind of event in each tracker stands in `receivers.matrix`. No tracker's SDK is imported here:
each is loaded in its own worker.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from receivers._batch import FlushPolicy
    from receivers._receiver import Receiver
    from receivers._watch import WorkerPolicy
    from receivers.jsonl import JsonlReceiver
    from receivers.mlflow import MLflowReceiver
    from receivers.tensorboard import TensorBoardReceiver
    from receivers.wandb import WandBReceiver

__all__ = [
    "FlushPolicy",
    "JsonlReceiver",
    "MLflowReceiver",
    "Receiver",
    "TensorBoardReceiver",
    "WandBReceiver",
    "WorkerPolicy",
]

_HOMES = {
    "FlushPolicy": "receivers._batch",
    "JsonlReceiver": "receivers.jsonl",
    "MLflowReceiver": "receivers.mlflow",
    "Receiver": "receivers._receiver",
    "TensorBoardReceiver": "receivers.tensorboard",
    "WandBReceiver": "receivers.wandb",
    "WorkerPolicy": "receivers._watch",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: a worker needs its own receiver alone."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
