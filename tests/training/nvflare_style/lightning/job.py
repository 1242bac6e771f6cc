import argparse

from model import LitNet

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", default="/tmp/nvflare/simulation")
    parser.add_argument("--launch_external_process", action="store_true")
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
    run = recipe.execute(SimEnv(num_clients=2, workspace_root=args.workspace))
    print("Job Status is:", run.get_status())
    print("Result can be found in:", run.get_result())
