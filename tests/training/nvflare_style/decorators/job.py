import sys

from model import SimpleNetwork

from nvflare.app_opt.pt.job_config.fed_avg import FedAvgJob
from nvflare.job_config.script_runner import ScriptRunner

if __name__ == "__main__":
    job = FedAvgJob(name="decorators", n_clients=2, num_rounds=2, initial_model=SimpleNetwork(8))
    job.to_clients(ScriptRunner(script="client.py", launch_external_process="--external" in sys.argv))
    job.simulator_run(sys.argv[1], n_clients=2, threads=2)
