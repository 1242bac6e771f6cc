# A job put together by hand: FedJob, a controller, a model, and a script runner for each site.
import sys

from src.net import SimpleNetwork

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.app_common.widgets.intime_model_selector import IntimeModelSelector
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.pt.job_config.model import PTModel
from nvflare.app_opt.tracking.tb.tb_receiver import TBAnalyticsReceiver
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner

if __name__ == "__main__":
    n_clients, num_rounds = 2, 2
    workspace = sys.argv[1] if len(sys.argv) > 1 else "/tmp/nvflare/jobs/workdir"

    job = FedJob(name="by_hand", min_clients=n_clients)
    controller = FedAvg(num_clients=n_clients, num_rounds=num_rounds)
    job.to(controller, "server")
    job.to(PTModel(SimpleNetwork(hidden=8)), "server")
    job.to(IntimeModelSelector(key_metric="loss", negate_key_metric=True), "server", id="model_selector")

    for i in range(n_clients):
        runner = ScriptRunner(
            script="src/train.py",
            script_args="--lr 0.05 --name 'a name with spaces'",
            launch_external_process=i == 1,
            command="python3 -u",
            framework=FrameworkType.PYTORCH,
        )
        job.to(runner, f"site-{i + 1}")
        job.to(ConvertToFedEvent(events_to_convert=[ANALYTIC_EVENT_TYPE]), f"site-{i + 1}", id="event_to_fed")
    job.to(TBAnalyticsReceiver(events=["fed." + ANALYTIC_EVENT_TYPE]), "server")

    if len(sys.argv) > 2:
        job.export_job(sys.argv[2])
    else:
        job.simulator_run(workspace, gpu="0")
