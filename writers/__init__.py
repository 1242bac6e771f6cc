"""What training code holds: writers with the methods of the trackers' SDKs, and none of the SDKs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from writers._writer import TrackingWriter
    from writers.mlflow import MLflowWriter
    from writers.tensorboard import SummaryWriter
    from writers.wandb import WandBWriter

__all__ = [
    "MLflowWriter",
    "SummaryWriter",
    "TrackingWriter",
    "WandBWriter",
]

_HOMES = {
    "MLflowWriter": "writers.mlflow",
    "SummaryWriter": "writers.tensorboard",
    "TrackingWriter": "writers._writer",
    "WandBWriter": "writers.wandb",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: nobody waits for the look-alikes of trackers that they do not use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
