import sys

from model import Zeros

from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.base_fed_job import BaseFedJob
from nvflare.app_opt.pt.job_config.model import PTModel
from nvflare.client.config import ExchangeFormat
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner

job = BaseFedJob(name="numpy", min_clients=2)
job.to_server(FedAvg(num_clients=2, num_rounds=2))
job.to_server(PTModel(Zeros()))
job.to_clients(
    ScriptRunner(
        script="client.py",
        framework=FrameworkType.NUMPY,
        server_expected_format=ExchangeFormat.NUMPY,
        launch_external_process="--external" in sys.argv,
    )
)
job.simulator_run(sys.argv[1], n_clients=2)
