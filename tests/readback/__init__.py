"""Readers of what the trackers keep on disk, written without any code of the rooms they check."""

from readback._jsonl import JsonLine, read_jsonl
from readback._mlflow import MlflowRun, read_mlflow, read_mlflow_runs
from readback._raw import RawValue, raw_mlflow, raw_tensorboard, raw_wandb
from readback._rows import Row, torn
from readback._tensorboard import TensorBoardRecord, read_tensorboard, read_tensorboard_records
from readback._wandb import WandbArtifact, WandbRun, read_wandb, read_wandb_configs, read_wandb_runs

__all__ = [
    "JsonLine",
    "MlflowRun",
    "RawValue",
    "Row",
    "TensorBoardRecord",
    "WandbArtifact",
    "WandbRun",
    "raw_mlflow",
    "raw_tensorboard",
    "raw_wandb",
    "read_jsonl",
    "read_mlflow",
    "read_mlflow_runs",
    "read_tensorboard",
    "read_tensorboard_records",
    "read_wandb",
    "read_wandb_configs",
    "read_wandb_runs",
    "torn",
]
