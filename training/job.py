"""Jobs in Python: what the server does and what the sites run, exported to a folder or run at once.

    job = FedAvgJob(name="hello", n_clients=2, num_rounds=3, initial_model=Net())
    job.to_clients(ScriptRunner("client.py", "--epochs 2"))
    job.to_server(TensorBoardReceiver())
    job.simulator_run("runs/hello", n_clients=2)

Names and arguments are those of NVFLARE's job API, so its job scripts run here.
"""

from training.jobs._accepted import ANALYTIC_EVENT_TYPE, ConvertToFedEvent
from training.jobs._job import FedJob, JobCtx
from training.jobs._load import LoadedJob, load_job
from training.jobs._ready import BaseFedJob, FedAvgJob, PTModel
from training.jobs._script import ScriptRunner
from training.jobs._terms import ExchangeFormat, FrameworkType, TransferType

__all__ = [
    "ANALYTIC_EVENT_TYPE",
    "BaseFedJob",
    "ConvertToFedEvent",
    "ExchangeFormat",
    "FedAvgJob",
    "FedJob",
    "FrameworkType",
    "JobCtx",
    "LoadedJob",
    "PTModel",
    "ScriptRunner",
    "TransferType",
    "load_job",
]
