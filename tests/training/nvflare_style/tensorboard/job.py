import argparse

from model import SimpleNetwork

from nvflare.app_opt.pt.recipes import FedAvgRecipe
from nvflare.recipe import (
    SimEnv,  # two sites on this machine
    add_experiment_tracking,
    set_per_site_config,
)

parser = argparse.ArgumentParser()
parser.add_argument("--workspace", default="/tmp/nvflare/simulation")
parser.add_argument("--launch_external_process", action="store_true")
parser.add_argument("--external_site", default="")
parser.add_argument("--client_side", action="store_true")
parser.add_argument("--no_server_side", action="store_true")
args = parser.parse_args()

recipe = FedAvgRecipe(
    name="tb",
    min_clients=2,
    num_rounds=2,
    model=SimpleNetwork(8),
    train_script="client.py",
    train_args="--hidden 8",
    launch_external_process=args.launch_external_process,
)
if args.external_site:
    set_per_site_config(
        recipe, {site: {"launch_external_process": site == args.external_site} for site in ("site-1", "site-2")}
    )
add_experiment_tracking(
    recipe,
    tracking_type="tensorboard",
    tracking_config={"tb_folder": "tb_events"},
    client_side=args.client_side,
    server_side=not args.no_server_side,
)
run = recipe.execute(SimEnv(num_clients=2, workspace_root=args.workspace))
print("Job Status is:", run.get_status())
print("Result can be found in:", run.get_result())
