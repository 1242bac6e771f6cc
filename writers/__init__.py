"""What training code holds: writers with the methods of the trackers' SDKs, and none of the SDKs."""

from writers._writer import TrackingWriter
from writers.mlflow import MLflowWriter
from writers.tensorboard import SummaryWriter
from writers.wandb import WandBWriter

__all__ = ["MLflowWriter", "SummaryWriter", "TrackingWriter", "WandBWriter"]
