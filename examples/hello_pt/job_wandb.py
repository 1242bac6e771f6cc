"""Hello-pt with W&B (offline) at the server, at the sites, or at both: see the switches.

python job_wandb.py                                                   one tracker at the server, with a run per site
python job_wandb.py --streamed_to_clients --disable_server_tracking   a tracker at each site: nothing leaves it
python job_wandb.py --streamed_to_clients                             both
"""

import argparse

from model import make_net

from training.recipe import FedAvgRecipe, SimEnv, add_experiment_tracking

parser = argparse.ArgumentParser()
parser.add_argument("--n_clients", type=int, default=2)
parser.add_argument("--num_rounds", type=int, default=4)
parser.add_argument("--script", default="client_wandb.py")
parser.add_argument("--launch_external_process", action="store_true", help="run the script as a process of its own")
parser.add_argument("--streamed_to_clients", action="store_true", help="track at each site")
parser.add_argument("--disable_server_tracking", action="store_true", help="don't track at the server")
parser.add_argument("--layout", default="per_site", help="combined: one run at the server, whatever sites there are")
parser.add_argument("--export_config", action="store_true", help="write the job's folder, and don't run it")
args = parser.parse_args()

recipe = FedAvgRecipe(
    name="hello-pt-wandb",
    min_clients=args.n_clients,
    num_rounds=args.num_rounds,
    initial_model=make_net(seed=0),
    train_script=args.script,
    train_args=f"--sites {args.n_clients}",
    launch_external_process=args.launch_external_process,
)
if args.streamed_to_clients or not args.disable_server_tracking:
    add_experiment_tracking(
        recipe,
        "wandb",
        tracking_config={
            "mode": "offline",
            "layout": args.layout,
            "wandb_args": {"project": "hello-pt", "name": "hello-pt-wandb", "tags": ["digits"]},
        },
        client_side=args.streamed_to_clients,
        server_side=not args.disable_server_tracking,
    )
if args.export_config:
    print(f"exported to {recipe.export('jobs')}")
else:
    run = recipe.run(SimEnv(num_clients=args.n_clients))
    print(f"{run.get_status()}: the results are in {run.get_result()}")
