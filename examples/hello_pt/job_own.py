"""Hello-pt with a tracker of our own at the server: `python job_own.py`."""

import argparse

from model import make_net
from own_tracker import CsvReceiver

from training.recipe import FedAvgRecipe, SimEnv

parser = argparse.ArgumentParser()
parser.add_argument("--n_clients", type=int, default=2)
parser.add_argument("--num_rounds", type=int, default=4)
args = parser.parse_args()

recipe = FedAvgRecipe(
    name="hello-pt-own",
    min_clients=args.n_clients,
    num_rounds=args.num_rounds,
    initial_model=make_net(seed=0),
    train_script="client_own.py",
    train_args=f"--sites {args.n_clients}",
)
recipe.job.to(CsvReceiver("scores"), "server", id="scores")
run = recipe.run(SimEnv(num_clients=args.n_clients))
print(f"{run.get_status()}: the scores are in {run.get_result()}/scores")
