import argparse

from model import LitNet

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare import recipe as flare_recipe
from nvflare.recipe import SimEnv

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", default="/tmp/nvflare/simulation")
    parser.add_argument("--launch_external_process", action="store_true")
    parser.add_argument("--external_site", default="")
    args = parser.parse_args()
    recipe = FedAvgRecipe(
        name="lightning",
        min_clients=2,
        num_rounds=2,
        model=LitNet(),
        train_script="client.py",
        key_metric="val_acc_epoch",
        launch_external_process=args.launch_external_process,
    )
    if args.external_site:
        sites = {site: {"launch_external_process": site == args.external_site} for site in ("site-1", "site-2")}
        flare_recipe.set_per_site_config(recipe, sites)
    run = recipe.execute(SimEnv(num_clients=2, workspace_root=args.workspace))
    print("Job Status is:", run.get_status())
    print("Result can be found in:", run.get_result())
