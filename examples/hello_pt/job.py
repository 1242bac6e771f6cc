"""Train the digits at some sites: `python examples/hello_pt/job.py`; `--partition dirichlet:0.5` makes it harder."""

import argparse

from model import make_net

from training.recipe import FedAvgRecipe, SimEnv

parser = argparse.ArgumentParser()
parser.add_argument("--n_clients", type=int, default=2)
parser.add_argument("--num_rounds", type=int, default=4)
parser.add_argument("--data", default="digits", help="or fashion-mnist, or cifar10")
parser.add_argument("--partition", default="iid", help="or dirichlet:0.5, shards:5, quantity")
args = parser.parse_args()

recipe = FedAvgRecipe(
    name="hello-pt",
    min_clients=args.n_clients,
    num_rounds=args.num_rounds,
    initial_model=make_net(seed=0),
    train_script="client.py",
    train_args=f"--sites {args.n_clients} --data {args.data} --partition {args.partition}",
)
run = recipe.run(SimEnv(num_clients=args.n_clients))
print(f"{run.get_status()}: the results are in {run.get_result()}")
