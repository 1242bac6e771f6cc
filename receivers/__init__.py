"""What fills the trackers: subscribe a receiver, and its worker process does the rest.

What becomes of every kind of event in each tracker stands in `receivers.matrix`. No tracker's SDK is imported here:
each is loaded in its own worker.
"""

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
