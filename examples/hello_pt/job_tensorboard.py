"""Hello-pt with TensorBoard at the server: `python job_tensorboard.py`, then `tensorboard --logdir runs`."""

import argparse

from model import make_net

from training.recipe import FedAvgRecipe, SimEnv, add_experiment_tracking

parser = argparse.ArgumentParser()
parser.add_argument("--n_clients", type=int, default=2)
parser.add_argument("--num_rounds", type=int, default=4)
args = parser.parse_args()

recipe = FedAvgRecipe(
    name="hello-pt-tensorboard",
    min_clients=args.n_clients,
    num_rounds=args.num_rounds,
    initial_model=make_net(seed=0),
    train_script="client_tensorboard.py",
    train_args=f"--sites {args.n_clients}",
)
add_experiment_tracking(recipe, "tensorboard", tracking_config={"tb_folder": "tb_events"})
run = recipe.run(SimEnv(num_clients=args.n_clients))
print(f"{run.get_status()}: tensorboard --logdir {run.get_result()}/tb_events")
