"""Runnable federated training over the bus, the writers and the receivers; nothing imports it.

This window loads no torch: what handles tensors is loaded when a job runs.
"""

from training.abc import Component, ModelAggregator, ModelLocator, ModelPersistor, Server, ServerEvent, Workflow
from training.components.persistor import PTFileModelLocator, PTFileModelPersistor
from training.components.results import RoundResultsWriter, ValidationJsonGenerator
from training.components.selector import IntimeModelSelector
from training.errors import JobError, RoundFailedError, UpdateRefusedError
from training.fl_model import FLModel, MetaKey, ModelName, ParamsType
from training.workflows.cross_site import CrossSiteModelEval
from training.workflows.fedavg import FedAvg

__all__ = [
    "Component",
    "CrossSiteModelEval",
    "FLModel",
    "FedAvg",
    "IntimeModelSelector",
    "JobError",
    "MetaKey",
    "ModelAggregator",
    "ModelLocator",
    "ModelName",
    "ModelPersistor",
    "PTFileModelLocator",
    "PTFileModelPersistor",
    "ParamsType",
    "RoundFailedError",
    "RoundResultsWriter",
    "Server",
    "ServerEvent",
    "UpdateRefusedError",
    "ValidationJsonGenerator",
    "Workflow",
]
