"""Where the names of NVFLARE are here: the one table that `trackbus migrate` applies and `docs/migrating.md` shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ROOT = "nvflare"

ANY = "*"
"""A row for whatever has no row of its own in a module or below it."""


@dataclass(frozen=True, slots=True)
class Move:
    """A row of the table.

    Attributes:
        module: Where the name is in NVFLARE.
        name: The name, or `ANY`.
        new_module: Where it is here; empty where there is nothing that could stand in its place unseen.
        new_name: What it is called here.
        note: What is to be done by hand. With a `new_module`: beside the change of the import.
    """

    module: str
    name: str
    new_module: str = ""
    new_name: str = ""
    note: str = ""

    @property
    def path(self) -> str:
        """The name with its module; for a row of `ANY`, the module."""
        return self.module if self.name == ANY else f"{self.module}.{self.name}"

    @property
    def new_path(self) -> str:
        """The same here, or an empty string."""
        return f"{self.new_module}.{self.new_name}" if self.new_module else ""


def _moved(modules: str, names: str, target: str, note: str = "") -> Iterator[Move]:
    """Make the rows of names that are in any of these modules; `old=new` is a name that has changed."""
    for module in modules.split():
        for name in names.split():
            old, _, new = name.partition("=")
            yield Move(_full(module), old, target, new or old, note)


def _left(modules: str, names: str, note: str) -> Iterator[Move]:
    for module in modules.split():
        yield from (Move(_full(module), name, note=note) for name in names.split())


def _full(module: str) -> str:
    return module if module == ROOT else f"{ROOT}.{module}"


_CLIENT = (
    "init receive send is_running is_train is_evaluate is_submit_model system_info get_config get_job_id "
    "get_site_name get_task_name log shutdown"
)
_RECIPE_TOOLS = "add_experiment_tracking add_cross_site_evaluation set_per_site_config set_recipe_meta"

_SCRIPT = "write it as a training script: `flare.init()`, then `while flare.is_running(): model = flare.receive()`, ..."
_NO_FL_CONTEXT = "a script asks `training.client` (`get_site_name`, `get_config`); a workflow is given a `Server`"
_NO_NETWORK = "jobs run on one machine: `SimEnv` here, or `trackbus simulator JOB_FOLDER`"
_ONLY_TORCH = "only PyTorch and numpy scripts have recipes here: `training.recipe.FedAvgRecipe`"
_OWN_ALGORITHM = "subclass `training.abc.Workflow`, and ask the sites through `server.sites`"

MOVES: tuple[Move, ...] = (
    # --- what a training script imports
    *_moved("client", f"{_CLIENT} train evaluate FLModel ParamsType AnalyticsDataType", "training.client"),
    *_moved("client.api", f"{_CLIENT} clear", "training.client"),
    *_moved("client.decorator", "train evaluate", "training.client"),
    *_moved("app_common.abstract.fl_model", "FLModel ParamsType MetaKey", "training.fl_model"),
    *_moved("apis.fl_constant", "FLMetaKey=MetaKey", "training.fl_model"),
    *_moved("apis.analytix", "AnalyticsDataType", "training.client"),
    *_moved("apis.analytix", "ANALYTIC_EVENT_TYPE", "training.job"),
    *_moved(
        "client.lightning",
        f"patch logger {_CLIENT} FLModel ParamsType AnalyticsDataType FLCallback",
        "training.lightning",
    ),
    *_moved("app_opt.lightning app_opt.lightning.api", "patch FLCallback", "training.lightning"),
    *_moved("app_opt.lightning.loggers.client_logger", "ClientLogger=logger", "training.lightning"),
    *_moved("client.tracking", "SummaryWriter WandBWriter MLflowWriter", "writers"),
    # --- what a job script imports
    *_moved("recipe app_opt.pt.recipes app_opt.pt.recipes.fedavg recipe.fedavg", "FedAvgRecipe", "training.recipe"),
    *_moved("recipe recipe.sim_env", "SimEnv", "training.recipe"),
    *_moved("recipe recipe.run", "Run", "training.recipe"),
    *_moved("recipe recipe.utils", _RECIPE_TOOLS, "training.recipe"),
    *_moved("recipe.spec", "Recipe ExecEnv", "training.recipe"),
    *_moved(f"job_config.api {ROOT}", "FedJob", "training.job"),
    *_moved("job_config.script_runner", "ScriptRunner FrameworkType", "training.job"),
    *_moved("fuel.utils.constants", "FrameworkType", "training.job"),
    *_moved("client.config", "ExchangeFormat TransferType", "training.job"),
    *_moved("app_opt.pt.job_config.fed_avg", "FedAvgJob", "training.job"),
    *_moved("app_opt.pt.job_config.base_fed_job job_config.base_fed_job", "BaseFedJob", "training.job"),
    *_moved("app_opt.pt.job_config.model", "PTModel", "training.job"),
    *_moved("app_common.widgets.convert_to_fed_event", "ConvertToFedEvent", "training.job"),
    # --- workflows and components
    *_moved("app_common.workflows.fedavg", "FedAvg", "training"),
    *_moved("app_opt.pt.fedavg", "PTFedAvg=FedAvg", "training"),
    *_moved("app_common.workflows.cross_site_model_eval", "CrossSiteModelEval", "training"),
    *_moved("app_common.widgets.intime_model_selector", "IntimeModelSelector", "training"),
    *_moved("app_common.widgets.validation_json_generator", "ValidationJsonGenerator", "training"),
    *_moved("app_common.widgets.metrics_artifact_writer", "MetricsArtifactWriter=RoundResultsWriter", "training"),
    *_moved("app_common.aggregators.model_aggregator", "ModelAggregator", "training"),
    *_moved(
        "app_common.abstract.model_persistor",
        "ModelPersistor",
        "training",
        "its methods are `load_model(server)` and `save_model(model, server)`, with an `FLModel`: adapt the class",
    ),
    *_moved(
        "app_common.abstract.model_locator",
        "ModelLocator",
        "training",
        "its methods are `get_model_names(server)` and `locate_model(model_name, server)`: adapt the class",
    ),
    *_moved("app_opt.pt app_opt.pt.file_model_persistor", "PTFileModelPersistor", "training"),
    *_moved("app_opt.pt app_opt.pt.file_model_locator", "PTFileModelLocator", "training"),
    *_moved("app_common.app_constant", "ModelName", "training"),
    # --- trackers
    *_moved("app_opt.tracking.tb.tb_receiver", "TBAnalyticsReceiver=TensorBoardReceiver", "receivers"),
    *_moved("app_opt.tracking.mlflow.mlflow_receiver", "MLflowReceiver", "receivers"),
    *_moved("app_opt.tracking.wandb.wandb_receiver", "WandBReceiver", "receivers"),
    *_moved("app_opt.tracking.tb.tb_writer", "TBWriter=SummaryWriter", "writers", "make it in the training script"),
    *_moved("app_opt.tracking.mlflow.mlflow_writer", "MLflowWriter", "writers", "make it in the training script"),
    *_moved("app_opt.tracking.wandb.wandb_writer", "WandBWriter", "writers", "make it in the training script"),
    *_moved(
        "app_common.widgets.streaming",
        "AnalyticsReceiver",
        "receivers.abc",
        "its methods are `initialize(run)`, `save(event)` and `finalize(status)`, and run in a worker: adapt the class",
    ),
    *_moved(
        "app_common.tracking.log_writer",
        "LogWriter",
        "writers.abc",
        "make it in the training script; `super().__init__()` takes no event type, and a writer's name is a text",
    ),
    # --- what has no counterpart, and what to use instead
    *_left(
        "client", "IPCAgent", "a script is always started by its job: give `ScriptRunner` or the recipe a `command`"
    ),
    *_left("client.tracking", "init shutdown get_context log", "`flare.init()` is enough; log through a writer"),
    *_left("client.hf", ANY, "use `training.client` around the Trainer, and a writer in a callback"),
    *_left("recipe", "PocEnv ProdEnv", _NO_NETWORK),
    *_left("recipe.poc_env recipe.prod_env recipe.session_mgr", ANY, _NO_NETWORK),
    *_left("recipe recipe.secrets", "secret_ref secret_file_ref", "scripts read secrets from their environment"),
    *_left(
        "recipe recipe.utils",
        "add_final_global_evaluation",
        "`add_cross_site_evaluation` measures the final and the best global model at every site",
    ),
    *_left(
        "app_common.np.recipes",
        ANY,
        "`FedAvgRecipe` with `framework=FrameworkType.NUMPY`, and a torch module whose parameters are the arrays",
    ),
    *_left("app_common.widgets.convert_to_fed_event", ANY, "delete it: what the server tracks is relayed without it"),
    *_left("app_common.widgets.streaming", "AnalyticsSender", "log through a writer of `writers`"),
    *_left("app_common.workflows", ANY, _OWN_ALGORITHM),
    *_left(
        "app_common.aggregators", ANY, "subclass `training.ModelAggregator`, and give it to `FedAvg` as `aggregator`"
    ),
    *_left("app_common.widgets", ANY, "subclass `training.abc.Component`: it hears what happens at the server"),
    *_left("app_common.executors", ANY, "`training.job.ScriptRunner` runs the script, in-process or with a `command`"),
    *_left("app_common.abstract.model_learner app_common.abstract.learner_spec", ANY, _SCRIPT),
    *_left("app_common.abstract", ANY, "subclass `training.abc.Component` or `training.abc.Workflow`"),
    *_left("app_common.np", ANY, "a numpy script is sent dicts of numpy arrays, whatever their names"),
    *_left("app_common.app_constant", ANY, "write the text of the constant where your code needs it"),
    *_left("app_opt.lightning", ANY, "`training.lightning.patch(trainer)`"),
    *_left("app_opt.pt.recipes", ANY, f"only FedAvg has a recipe here; for another algorithm {_OWN_ALGORITHM}"),
    *_left("app_opt.pt", ANY, _OWN_ALGORITHM),
    *_left("app_opt.tf app_opt.sklearn app_opt.xgboost", ANY, _ONLY_TORCH),
    *_left("app_opt.he app_opt.psi app_opt.flower", ANY, "there is no counterpart; that part of a job stays there"),
    *_left("apis.dxo apis.shareable", ANY, "weights and metrics travel as `training.fl_model.FLModel`"),
    *_left("apis.executor apis.impl.executor", ANY, _SCRIPT),
    *_left("apis.controller_spec apis.impl.controller", ANY, _OWN_ALGORITHM),
    *_left("apis.fl_context apis.fl_constant apis.signal", ANY, _NO_FL_CONTEXT),
    *_left("apis.fl_component", ANY, "subclass `training.abc.Component`: it hears what happens at the server"),
    *_left("apis.event_type", ANY, "a `training.abc.Component` is told `RoundStarted`, `BestModelFound` and the like"),
    *_left("apis.filter", ANY, "change the model in the training script before `flare.send`"),
    *_left("apis.analytix apis.utils.analytix_utils", ANY, "log through a writer of `writers`"),
    *_left("private.fed.app.simulator fuel.flare_api", ANY, _NO_NETWORK),
    *_left("fuel.utils.log_utils", ANY, "`logging.getLogger(__name__)`"),
    *_left(ROOT, "SimulatorRunner", _NO_NETWORK),
    *_left(f"{ROOT} job_config.defs", "FilterType", "change the model in the training script before `flare.send`"),
    *_left(ROOT, ANY, "there is no counterpart"),
)

_BY_PATH = {move.path: move for move in MOVES}


def find(path: str) -> Move | None:
    """Return the row of a name, given with its module; None where it has none of its own."""
    move = _BY_PATH.get(path)
    return None if move is None or move.name == ANY else move


def new_module(module: str) -> str:
    """Return where all that has moved out of a module is, or an empty string: nothing has, or to several places."""
    targets = {move.new_module for move in MOVES if move.module == module != ROOT and move.new_module}
    return targets.pop() if len(targets) == 1 else ""


def advice(path: str) -> str:
    """Say what to do instead of a name that can't be moved: its own row's note, or that of the nearest module."""
    while path not in _BY_PATH or not _BY_PATH[path].note:
        path = path.rpartition(".")[0]
    return _BY_PATH[path].note
