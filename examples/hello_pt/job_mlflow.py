"""Hello-pt with MLflow at the server: `python job_mlflow.py`; `--from_tensorboard` logs with TensorBoard's writer."""

import argparse

from model import make_net

from training.recipe import FedAvgRecipe, SimEnv, add_experiment_tracking

parser = argparse.ArgumentParser()
parser.add_argument("--n_clients", type=int, default=2)
parser.add_argument("--num_rounds", type=int, default=4)
parser.add_argument("--tracking_uri", help="an MLflow server; by default a database in the run's folder")
parser.add_argument("--from_tensorboard", action="store_true", help="any writer fills any tracker")
args = parser.parse_args()

recipe = FedAvgRecipe(
    name="hello-pt-mlflow",
    min_clients=args.n_clients,
    num_rounds=args.num_rounds,
    initial_model=make_net(seed=0),
    train_script="client_tensorboard.py" if args.from_tensorboard else "client_mlflow.py",
    train_args=f"--sites {args.n_clients}",
)
add_experiment_tracking(
    recipe,
    "mlflow",
    tracking_config={
        "tracking_uri": args.tracking_uri,
        "kw_args": {"experiment_name": "hello-pt", "run_name": "hello-pt-mlflow"},
    },
)
run = recipe.run(SimEnv(num_clients=args.n_clients))
store = args.tracking_uri or f"sqlite:///{run.get_result()}/mlflow.db"
print(f"{run.get_status()}: mlflow ui --backend-store-uri {store}")
