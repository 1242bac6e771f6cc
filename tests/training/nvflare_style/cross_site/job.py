import sys

from model import SimpleNetwork

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe import SimEnv
from nvflare.recipe.utils import add_cross_site_evaluation

recipe = FedAvgRecipe(name="cross-site", min_clients=2, num_rounds=2, model=SimpleNetwork(8), train_script="client.py",
                      launch_external_process="--external" in sys.argv)
add_cross_site_evaluation(recipe)
run = recipe.execute(SimEnv(num_clients=2, workspace_root=sys.argv[1]))
print("Result can be found in:", run.get_result())
