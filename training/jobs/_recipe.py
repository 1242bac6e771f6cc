"""Recipes: a whole job by a few arguments."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from eventbus.workspace import SERVER, check_name
from training._say import say
from training._words import did_you_mean
from training.errors import JobError
from training.jobs._env import SimEnv
from training.jobs._script import CommandArg, ScriptRunner
from training.jobs._terms import ALL_SITES, ExchangeFormat, FrameworkType, TransferType

if TYPE_CHECKING:
    from torch import nn

    from training.abc import ModelAggregator
    from training.jobs._env import ExecEnv, Run
    from training.jobs._job import FedJob
    from training.jobs._ready import PTModel
    from training.workflows.fedavg import FedAvg

Params = Mapping[str, Any]


class Recipe:
    """A job by a few arguments: it is run, exported, or added to.

    Args:
        job: The job, without its sites.
        runner: Arguments of the sites' `ScriptRunner`.
        least: With so many sites it begins, or with more; it may go on with `job.min_clients`.
    """

    def __init__(self, job: FedJob, runner: Mapping[str, Any], least: int) -> None:
        self.job = job
        self._least = least
        self.name = job.name
        self._runner = dict(runner)
        self._sites: dict[str, ScriptRunner] = {}
        self.job.to_clients(ScriptRunner(**runner))

    # --- sites ---------------------------------------------------------------------------------------------------

    def set_per_site_config(self, config: Mapping[str, Mapping[str, Any]]) -> None:
        """Name the sites, and say what each does otherwise than the rest.

        Args:
            config: For each site, arguments of the recipe that concern its script: `train_script`, `train_args`,
                `command`, `launch_external_process`, `params_transfer_type` ...

        Raises:
            JobError: It was said before, or there are too few sites, or an argument is none.
        """
        if self._sites:
            raise JobError("the sites are configured already: say all of it in one set_per_site_config")
        if len(config) < self._least:
            raise JobError(f"per-site config for {len(config)} sites, and min_clients is {self._least}")
        if SERVER in config or ALL_SITES in config:
            raise JobError(f"per-site config is for sites: {SERVER!r} and {ALL_SITES!r} are none")
        self._sites = {check_name("site", site): self._site_runner(site, one) for site, one in config.items()}
        self.job.drafts[ALL_SITES].executors.clear()
        for site, runner in self._sites.items():
            self.job.to(runner, site)

    def configured_sites(self) -> list[str]:
        """Return the sites that `set_per_site_config` has named."""
        return list(self._sites)

    def _site_runner(self, site: str, config: Mapping[str, Any]) -> ScriptRunner:
        names = {"train_script": "script", "train_args": "script_args"}
        own = {names.get(key, key): value for key, value in config.items()}
        known = ["train_script", "train_args", *(key for key in self._runner if key not in names.values())]
        for key in config:
            if key not in known:
                raise JobError(f"per-site config of {site}: unknown {key!r}; {did_you_mean(key, known)}")
        return ScriptRunner(**{**self._runner, **own})

    def add_to_clients(self, obj: object, clients: list[str] | None = None, id: str | None = None) -> None:  # noqa: A002
        """Put something to all sites, or to some.

        Raises:
            JobError: Sites are configured one by one, and one named here is not among them.
        """
        for target in clients if clients is not None else [ALL_SITES]:
            if self._sites and target not in (ALL_SITES, *self._sites):
                raise JobError(f"there is no site {target!r}: {did_you_mean(target, list(self._sites))}")
            self.job.to(obj, target, id)

    def add_client_config(self, config: dict[str, Any], clients: list[str] | None = None) -> None:
        """Add entries to what `get_config()` returns at sites. No keys, no passwords: it is written into the job."""
        self.add_to_clients(_checked("config", config, dict), clients)

    def add_client_file(self, file_path: str, clients: list[str] | None = None) -> None:
        """Copy a file or a folder's content to where the sites' scripts are."""
        self.add_to_clients(_checked("file_path", file_path, str), clients)

    def add_server_config(self, config: dict[str, Any]) -> None:
        """Add entries to the server's configuration."""
        self.job.to_server(_checked("config", config, dict))

    def add_server_file(self, file_path: str) -> None:
        """Copy a file or a folder's content to where the server's own modules are."""
        self.job.to_server(_checked("file_path", file_path, str))

    def add_client_input_filter(self, *_: object, **__: object) -> NoReturn:
        """Refuse: filters are not supported.

        Raises:
            JobError: Always.
        """
        raise JobError(
            "filters of tasks and results are not supported: change the params in the training script, before it sends"
        )

    add_client_output_filter = add_server_input_filter = add_server_output_filter = add_client_input_filter

    # --- what becomes of it --------------------------------------------------------------------------------------

    def export(
        self,
        job_dir: str | Path,
        server_exec_params: Params | None = None,
        client_exec_params: Params | None = None,
        env: ExecEnv | None = None,  # noqa: ARG002 - NVFLARE's own argument: an exported job runs anywhere
    ) -> Path:
        """Write the job's folder, `<job_dir>/<name>`, and return it.

        Args:
            job_dir: The folder around it.
            server_exec_params: Entries for the server's configuration, this once.
            client_exec_params: Entries for the sites' configuration, this once.
            env: Has no effect.

        Raises:
            JobError: The job lacks a part, or one can't be written into files.
        """
        return self._with_params(server_exec_params, client_exec_params).export_job(job_dir)

    def run(
        self,
        env: ExecEnv | None = None,
        server_exec_params: Params | None = None,
        client_exec_params: Params | None = None,
    ) -> Run:
        """Run the job to its end.

        Args:
            env: Where; by default a `SimEnv` with the sites that are configured, or else `min_clients` of them.
            server_exec_params: Entries for the server's configuration, this once.
            client_exec_params: Entries for the sites' configuration, this once.

        Raises:
            JobError: It can't be run as it is written.
            JobFailedError: It ended without doing all of its work, or has lost events.
        """
        sites = self.configured_sites()
        where = env or SimEnv(clients=sites, num_clients=0 if sites else self._least)
        return where.deploy(self._with_params(server_exec_params, client_exec_params))

    def execute(
        self,
        env: ExecEnv | None = None,
        server_exec_params: Params | None = None,
        client_exec_params: Params | None = None,
    ) -> Run:
        """Run the job; or, where the program was started with `--export`, write its folder and end the program.

        The folder is `--export-dir`, or `fl_job`. A program with an argument parser of its own must let the two pass.

        Args:
            env: As `run` has it.
            server_exec_params: As `run` has it.
            client_exec_params: As `run` has it.

        Raises:
            JobError: As `run` has it.
            JobFailedError: As `run` has it.
            SystemExit: The job is exported.
        """
        target = _export_folder(sys.argv[1:])
        if target is None:
            return self.run(env, server_exec_params, client_exec_params)
        say(f"exported to {self.export(target, server_exec_params, client_exec_params)}")
        raise SystemExit(0)

    def _with_params(self, server: Params | None, clients: Params | None) -> FedJob:
        more = {target: params for target, params in ((SERVER, server), (ALL_SITES, clients)) if params}
        return self.job.with_params(more) if more else self.job


@dataclass(kw_only=True, eq=False, repr=False)
class FedAvgRecipe(Recipe):
    """Averages the models of the sites, weighted by what each has trained on.

    Args:
        name: Name of the job.
        model: The first model: a `torch.nn.Module`, whose weights go into the job, or
            `{"class_path": "module.Class", "args": {...}}`.
        initial_model: The same, as older scripts have it.
        initial_ckpt: File with the weights to start from.
        min_clients: How many sites train in a round.
        num_rounds: How many rounds.
        train_script: What the sites run.
        train_args: Its arguments. No keys, no passwords: they are written into the job.
        launch_external_process: Whether the script is a process of its own, started by `command`.
        command: What starts it then.
        framework: What the script gets parameters as: torch tensors, numpy arrays, or whatever was sent.
        server_expected_format: Has no effect: parameters travel as safetensors.
        params_transfer_type: DIFF sends differences where the script sends whole parameters.
        aggregator: Makes the new model in place of the weighted average.
        aggregator_data_kind: Has no effect: every update says whether it is a difference.
        model_persistor: What keeps the model, in place of a `PTFileModelPersistor`.
        model_locator: What finds it, in place of a `PTFileModelLocator`.
        per_site_config: See `set_per_site_config`.
        launch_once: Whether one external process serves the whole job; else each task starts one.
        launch_timeout: Seconds until the script must have called `init`; None waits for as long as it lives.
        shutdown_timeout: Seconds that it may take to end once the job is over; 0 means 10.
        key_metric: The metric that decides which model is the best.
        key_metric_mode: `max` or `min`; by default what `stop_cond` says of the same metric, or `max`.
        stop_cond: Ends the training early: `accuracy >= 80`, say.
        patience: Ends it after so many rounds without progress towards `stop_cond`.
        best_model_filename: Name of the best model's file.
        save_filename: The same, as older scripts have it.
        exclude_vars: Regular expression of parameters that stay as they are: they are not averaged.
        aggregation_weights: Factor of each site's weight in the average, by site.
        min_responses: With fewer updates a round has failed, and with fewer sites left the job; by default all of
            `min_clients` are needed.
        round_timeout: Seconds that the sites have for a round. None: as long as they live.
        grace: Seconds that the others have once `min_responses` updates are there. None: until `round_timeout`.
        enable_tensor_disk_offload: Has no effect, and a warning says so: the server averages in memory.
        server_memory_gc_rounds: Has no effect, as `client_memory_gc_rounds` and `cuda_empty_cache` have none.
        client_memory_gc_rounds: The same.
        cuda_empty_cache: The same.

    Raises:
        JobError: An argument can't work.
    """

    name: str = "fedavg"
    model: nn.Module | dict[str, Any] | None = None
    initial_model: nn.Module | dict[str, Any] | None = None
    initial_ckpt: str | None = None
    min_clients: int
    num_rounds: int = 2
    train_script: str
    train_args: CommandArg = ""
    launch_external_process: bool = False
    command: CommandArg = "python3 -u"
    framework: FrameworkType | str = FrameworkType.PYTORCH
    server_expected_format: ExchangeFormat | str = ExchangeFormat.NUMPY
    params_transfer_type: TransferType | str = TransferType.FULL
    aggregator: ModelAggregator | None = None
    aggregator_data_kind: object | None = None
    model_persistor: object | None = None
    model_locator: object | None = None
    per_site_config: Mapping[str, Mapping[str, Any]] | None = None
    launch_once: bool = True
    launch_timeout: float | None = 300.0
    shutdown_timeout: float = 0.0
    key_metric: str = "accuracy"
    key_metric_mode: str | None = None
    stop_cond: str | None = None
    patience: int | None = None
    best_model_filename: str | None = None
    save_filename: str | None = None
    exclude_vars: str | None = None
    aggregation_weights: dict[str, float] | None = None
    min_responses: int | None = None
    round_timeout: float | None = None
    grace: float | None = None
    enable_tensor_disk_offload: bool = False
    server_memory_gc_rounds: int = 0
    client_memory_gc_rounds: int = 0
    cuda_empty_cache: bool = False

    def __post_init__(self) -> None:
        """Put the job together."""
        from training.jobs._ready import BaseFedJob

        if self.enable_tensor_disk_offload:
            warnings.warn("enable_tensor_disk_offload has no effect: the server averages in memory", stacklevel=3)
        mode = _metric_mode(self.key_metric, self.key_metric_mode, self.stop_cond)
        job = BaseFedJob(name=self.name, min_clients=self.min_clients, key_metric=self.key_metric, key_metric_mode=mode)
        job.comp_ids.update(job.to_server(self._first_model()))
        job.to_server(self._fedavg(job.comp_ids["persistor_id"]))
        job.min_clients = self.min_responses or self.min_clients
        super().__init__(job, self._runner_options(), self.min_clients)
        if self.per_site_config is not None:
            self.set_per_site_config(self.per_site_config)

    def _first_model(self) -> PTModel:
        from training.jobs._ready import PTModel

        model = _one_of("model", self.model, "initial_model", self.initial_model)
        best = _one_of("best_model_filename", self.best_model_filename, "save_filename", self.save_filename)
        if model is None and self.initial_ckpt is None and self.model_persistor is None:
            raise JobError("the training starts from nothing: give it a model, or an initial_ckpt")
        return PTModel(
            _with_path(model),
            self.model_persistor,
            self.model_locator,
            initial_ckpt=self.initial_ckpt,
            best_model_filename=best,
        )

    def _fedavg(self, persistor_id: str) -> FedAvg:
        from training.workflows.fedavg import FedAvg

        return FedAvg(
            num_clients=self.min_clients,
            num_rounds=self.num_rounds,
            persistor_id=persistor_id,
            aggregator=self.aggregator,
            stop_cond=self.stop_cond,
            patience=self.patience,
            exclude_vars=self.exclude_vars,
            aggregation_weights=self.aggregation_weights,
            min_responses=self.min_responses,
            round_timeout=self.round_timeout,
            grace=self.grace,
        )

    def _runner_options(self) -> dict[str, Any]:
        """Return the arguments of the sites' `ScriptRunner`."""
        same = (
            "launch_external_process",
            "command",
            "framework",
            "server_expected_format",
            "params_transfer_type",
            "launch_once",
            "launch_timeout",
            "shutdown_timeout",
            "cuda_empty_cache",
        )
        options = {name: getattr(self, name) for name in same}
        return {"script": self.train_script, "script_args": self.train_args, **options}


def _export_folder(arguments: Sequence[str]) -> str | None:
    """Return the folder to export to, if the program's arguments ask for it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--export-dir", default="fl_job")
    asked, _ = parser.parse_known_args(arguments)
    return asked.export_dir if asked.export else None


def _metric_mode(metric: str, mode: str | None, stop_cond: str | None) -> str:
    """Tell whether more or less of the metric is better: a condition on it says so too."""
    from training.workflows._stopping import StopCondition

    condition = StopCondition.parse(stop_cond) if stop_cond else None
    said = None
    if condition is not None and condition.key == metric:
        said = {">": "max", "<": "min"}.get(condition.operator[0])
    if mode and said and mode != said:
        raise JobError(f"key_metric_mode={mode!r} and stop_cond={stop_cond!r} contradict each other")
    return mode or said or "max"


def _one_of(name: str, value: Any, other: str, older: Any) -> Any:
    if value is not None and older is not None:
        raise JobError(f"{name} and {other} are the same: give one of them")
    return value if value is not None else older


def _with_path(model: Any) -> Any:
    """Call a model's class `path`, as job files do."""
    if not isinstance(model, dict) or "class_path" not in model:
        return model  # pyright: ignore[reportUnknownVariableType] - a module, or a dict that has its path
    given = cast("Params", model)
    return {"path": given["class_path"], "args": given.get("args", {})}


def _checked(name: str, value: object, kind: type) -> object:
    if not isinstance(value, kind):
        raise JobError(f"{name} must be a {kind.__name__}, not {type(value).__name__}")
    return value
