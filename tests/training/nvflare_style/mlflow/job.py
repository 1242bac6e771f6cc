import argparse

from model import SimpleNetwork

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.app_opt.tracking.mlflow.mlflow_receiver import MLflowReceiver
from nvflare.recipe.sim_env import SimEnv
from nvflare.recipe.utils import add_experiment_tracking, set_per_site_config as per_site


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-w", "--workspace", default="/tmp/nvflare/simulation")
    parser.add_argument("--launch_external_process", action="store_true")
    parser.add_argument("--external_site", default="")
    parser.add_argument("--tracking_uri", default=None)
    parser.add_argument("--by_hand", action="store_true", help="add the receivers to the job at every site")
    args = parser.parse_args()
    recipe = FedAvgRecipe(
        name="fl-mlflow",
        model=SimpleNetwork(8),
        min_clients=2,
        num_rounds=2,
        train_script="client.py",
        launch_external_process=args.launch_external_process,
    )
    if args.external_site:
        per_site(recipe, {site: {"launch_external_process": site == args.external_site} for site in ("site-1", "site-2")})
    kw_args = {"experiment_name": "fl-experiment", "run_name": "fl-run", "experiment_tags": {"mlflow.note.content": "a note"}}
    if args.by_hand:
        receiver = MLflowReceiver(
            tracking_uri=args.tracking_uri,
            kw_args=kw_args,
            artifact_location="artifacts",
            events=["analytix_log_stats"],
            buffer_flush_time=1,
        )
        recipe.job.to_clients(receiver, id="mlflow_receiver")
    else:
        config = {"tracking_uri": args.tracking_uri, "kw_args": kw_args}
        add_experiment_tracking(recipe, "mlflow", tracking_config=config)
    run = recipe.execute(env=SimEnv(num_clients=2, num_threads=2, workspace_root=args.workspace))
    print("Result can be found in:", run.get_result())


if __name__ == "__main__":
    main()
