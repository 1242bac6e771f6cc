"""A whole federated job by a few arguments.

    recipe = FedAvgRecipe(name="hello", model=Net(), min_clients=2, num_rounds=3, train_script="client.py")
    add_experiment_tracking(recipe, "tensorboard")
    recipe.run(SimEnv(num_clients=2))

Names and arguments are those of NVFLARE's recipes, so its scripts run here.
"""

from __future__ import annotations

from typing import Any

from eventbus.workspace import SERVER
from training.errors import JobError
from training.jobs._env import ExecEnv, Run, SimEnv
from training.jobs._recipe import FedAvgRecipe, Recipe
from training.jobs._tracking import add_experiment_tracking

__all__ = [
    "ExecEnv",
    "FedAvgRecipe",
    "Recipe",
    "Run",
    "SimEnv",
    "add_cross_site_evaluation",
    "add_experiment_tracking",
    "set_per_site_config",
    "set_recipe_meta",
]

_META = ("resource_spec", "launcher_spec", "scope", "custom_props")


def set_per_site_config(recipe: Recipe, config: dict[str, dict[str, Any]]) -> None:
    """Name a recipe's sites, and say what each does otherwise: see `Recipe.set_per_site_config`."""
    recipe.set_per_site_config(config)


def set_recipe_meta(recipe: Recipe, key: str, value: object) -> None:
    """Set an entry of the job's `meta.json`.

    Args:
        recipe: The recipe.
        key: `resource_spec`, `launcher_spec`, `scope` or `custom_props`.
        value: JSON; no keys, no passwords.

    Raises:
        JobError: The entry is none that can be set.
    """
    if key not in _META:
        raise JobError(f"{key!r} can't be set: {', '.join(_META)} can; the rest are arguments of the recipe")
    recipe.job.meta_props[str(key)] = value


def add_cross_site_evaluation(
    recipe: Recipe,
    submit_model_timeout: int = 600,
    validation_timeout: int = 6000,
    participating_clients: list[str] | None = None,
) -> None:
    """Have every site measure every site's model and the server's, once the training is over.

    Scripts do it where `is_evaluate()` is true: they send metrics alone. Results are in `cross_val_results.json`.

    Args:
        recipe: The recipe.
        submit_model_timeout: Seconds that sites have to hand in their models.
        validation_timeout: Seconds that they have to measure one.
        participating_clients: The sites; by default all.

    Raises:
        JobError: The recipe has it already, or keeps no model.
    """
    from training import CrossSiteModelEval

    if any(isinstance(one, CrossSiteModelEval) for one in recipe.job.drafts[SERVER].workflows.values()):
        raise JobError("the recipe evaluates across sites already")
    recipe.job.to_server(
        CrossSiteModelEval(
            model_locator_id=recipe.job.comp_ids["locator_id"],
            submit_model_timeout=submit_model_timeout,
            validation_timeout=validation_timeout,
            participating_clients=participating_clients,
        )
    )
