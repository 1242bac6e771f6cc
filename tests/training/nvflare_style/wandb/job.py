import argparse

from model import SimpleNetwork

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv, add_experiment_tracking
from nvflare.recipe.utils import set_per_site_config

WANDB_CONFIG = {
    "mode": "offline",
    "wandb_args": {"project": "wandb-experiment", "name": "wandb", "group": "nvidia", "job_type": "training"},
}


def main(args):
    recipe = FedAvgRecipe(
        name="fl-wandb",
        min_clients=args.n_clients,
        num_rounds=args.num_rounds,
        model={"class_path": "model.SimpleNetwork", "args": {"hidden": 8}},
        train_script=args.script,
        launch_external_process=args.launch_external_process,
    )
    if args.external_site:
        sites = [f"site-{i + 1}" for i in range(args.n_clients)]
        set_per_site_config(recipe, {site: {"launch_external_process": site == args.external_site} for site in sites})
    add_experiment_tracking(
        recipe,
        tracking_type="wandb",
        tracking_config=WANDB_CONFIG,
        client_side=args.streamed_to_clients,
        server_side=not args.disable_server_tracking,
    )
    if args.export_config:
        recipe.export(job_dir=args.workspace)
    else:
        run = recipe.execute(SimEnv(num_clients=args.n_clients, workspace_root=args.workspace))
        print("Job Status is:", run.get_status())
        print("Result can be found in:", run.get_result())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--n_clients", type=int, default=2)
    parser.add_argument("--num_rounds", type=int, default=2)
    parser.add_argument("--script", default="client.py")
    parser.add_argument("--launch_external_process", action="store_true")
    parser.add_argument("--external_site", default="")
    parser.add_argument("--streamed_to_clients", action="store_true")
    parser.add_argument("--disable_server_tracking", action="store_true")
    parser.add_argument("--export_config", action="store_true")
    parser.add_argument("--workspace", default="/tmp/nvflare/jobs/workdir")
    main(parser.parse_args())
