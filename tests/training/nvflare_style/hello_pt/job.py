"""hello-pt as a recipe."""

import argparse

from model import SimpleNetwork

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv, set_per_site_config


def define_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n_clients", type=int, default=2)
    parser.add_argument("--num_rounds", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--workspace", type=str, default="/tmp/nvflare/simulation")
    parser.add_argument("--launch_external_process", action="store_true")
    parser.add_argument("--external_site", type=str, default="")
    parser.add_argument("--export_config", type=str, default="")
    return parser.parse_args()


def main():
    args = define_parser()
    recipe = FedAvgRecipe(
        name="hello-pt",
        min_clients=args.n_clients,
        num_rounds=args.num_rounds,
        initial_model=SimpleNetwork(),
        train_script="client.py",
        train_args=f"--batch_size {args.batch_size}",
        launch_external_process=args.launch_external_process,
    )
    if args.external_site:
        sites = [f"site-{i + 1}" for i in range(args.n_clients)]
        set_per_site_config(recipe, {site: {"launch_external_process": site == args.external_site} for site in sites})
    if args.export_config:
        recipe.export(args.export_config)
        return
    env = SimEnv(num_clients=args.n_clients, workspace_root=args.workspace)
    run = recipe.execute(env)
    print()
    print("Job Status is:", run.get_status())
    print("Result can be found in:", run.get_result())
    print()


if __name__ == "__main__":
    main()
