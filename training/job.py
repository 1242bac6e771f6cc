"""Jobs in Python: what the server does and what the sites run, exported to a folder or run at once.

    job = FedAvgJob(name="hello", n_clients=2, num_rounds=3, initial_model=Net())
    job.to_clients(ScriptRunner("client.py", "--epochs 2"))
    job.to_server(TensorBoardReceiver())
    job.simulator_run("runs/hello", n_clients=2)

Names and arguments are those of NVFLARE's job API, so its job scripts run here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from eventbus.workspace import SERVER, check_name
from receivers import Receiver
from training.abc import Workflow
from training.errors import JobError
from training.jobs._describe import is_module
from training.jobs._draft import AppDraft
from training.jobs._env import site_names
from training.jobs._export import write_job
from training.jobs._load import LoadedJob, load_job
from training.jobs._script import ScriptRunner
from training.jobs._terms import ALL_SITES, ExchangeFormat, FrameworkType, TransferType, check_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from training.plan import JobResult

__all__ = [
    "BaseFedJob",
    "ExchangeFormat",
    "FedAvgJob",
    "FedJob",
    "FrameworkType",
    "JobCtx",
    "LoadedJob",
    "PTModel",
    "ScriptRunner",
    "TransferType",
    "load_job",
]


@dataclass(frozen=True, slots=True)
class JobCtx:
    """Where an object is being put: handed to its `add_to_fed_job`.

    Attributes:
        target: `server`, `@ALL`, or a site.
        comp_id: The id that was asked for.
    """

    target: str
    comp_id: str | None = None


class FedJob:
    """A job.

    Args:
        name: Its name, and that of its folder: W&B's project, MLflow's experiment.
        min_clients: With fewer sites left it ends.
        mandatory_clients: Sites that must be there when it starts.
        meta_props: Further entries for `meta.json`.
        fail_fast: Has no effect: a site that dies is missed at once.

    Raises:
        JobError: An argument can't work.
    """

    def __init__(
        self,
        name: str = "fed_job",
        min_clients: int = 1,
        mandatory_clients: list[str] | None = None,
        meta_props: dict[str, Any] | None = None,
        fail_fast: bool = False,  # noqa: FBT001, FBT002 - the same
    ) -> None:
        if min_clients < 1:
            raise JobError(f"min_clients={min_clients}: a job needs one site or more")
        self.name = check_name("job", name)
        self.min_clients = min_clients
        self.mandatory_clients = list(mandatory_clients or ())
        self.meta_props = dict(meta_props or {})
        self.fail_fast = fail_fast
        self.comp_ids: dict[str, str] = {}
        self.drafts: dict[str, AppDraft] = {}
        self._awaited: dict[str, object] = {}

    @property
    def clients(self) -> list[str]:
        """The sites that something was put to by name."""
        return [target for target in self.drafts if target not in (SERVER, ALL_SITES)]

    def to(self, obj: object, target: str, id: str | None = None, **kwargs: Any) -> Any:  # noqa: A002 - NVFLARE's name
        """Put something to the server or to sites.

        Args:
            obj: A workflow, component, receiver or `ScriptRunner`; the path of a script or folder, which is copied
                into `custom/`; or a dict of entries for the configuration's top level.
            target: `server`, a site, or `@ALL`.
            id: Id of the component; a number follows it where it is taken.
            kwargs: For the object's own `add_to_fed_job`, such as `tasks`.

        Returns:
            The component's id, or what `add_to_fed_job` returned.

        Raises:
            JobError: The object has no business there.
        """
        check_target(target)
        if "filter_type" in kwargs:
            raise JobError(f"{type(obj).__name__}: filters of tasks and results are not supported")
        if isinstance(obj, str | Path):
            return self._draft(target).add_files([str(obj)])
        if isinstance(obj, dict):
            return self._draft(target).params.update(obj)  # pyright: ignore[reportUnknownArgumentType]
        context = JobCtx(target, id)
        if hasattr(obj, "add_to_fed_job"):
            return cast("Any", obj).add_to_fed_job(self, context, **kwargs)
        if kwargs:
            raise JobError(f"{type(obj).__name__} takes no {', '.join(kwargs)}")
        if isinstance(obj, Workflow):
            return self.add_controller(obj, context)
        return self.add_component(id, obj, context)

    def to_server(self, obj: object, id: str | None = None, **kwargs: Any) -> Any:  # noqa: A002 - NVFLARE's name
        """Put something to the server: see `to`."""
        return self.to(obj, SERVER, id, **kwargs)

    def to_clients(self, obj: object, id: str | None = None, **kwargs: Any) -> Any:  # noqa: A002 - NVFLARE's name
        """Put something to all sites: see `to`. A site that has something of its own has it besides."""
        return self.to(obj, ALL_SITES, id, **kwargs)

    # --- for what has an `add_to_fed_job` ------------------------------------------------------------------------

    def add_component(self, comp_id: str | None, obj: object, ctx: JobCtx) -> str:
        """Put a component to a target, and return its id.

        Raises:
            JobError: It is none, or not for this target.
        """
        if ctx.target != SERVER and not isinstance(obj, Receiver):
            raise JobError(f"{type(obj).__name__} can't run at a site: sites run a script, and receivers beside it")
        if is_module(obj):
            raise JobError(
                "a model is no component: give it to FedAvgJob(initial_model=...), or to_server(PTModel(...))"
            )
        added = self._draft(ctx.target).add_component(obj, comp_id or ctx.comp_id)
        self._add_referenced(obj, ctx)
        return added

    def add_controller(self, obj: Workflow, ctx: JobCtx) -> str:
        """Append a workflow to what the server does, and return its id.

        Raises:
            JobError: It is not for the server.
        """
        if ctx.target != SERVER:
            raise JobError(f"{type(obj).__name__} is for the server: to_server({type(obj).__name__}(...))")
        added = self._draft(SERVER).add_workflow(obj, ctx.comp_id)
        self._add_referenced(obj, ctx)
        return added

    def add_executor(self, obj: ScriptRunner, tasks: Sequence[str], ctx: JobCtx) -> None:
        """Have sites run a script for some tasks; `*` is any.

        Raises:
            JobError: It is for the server.
        """
        if ctx.target == SERVER:
            raise JobError(f"{type(obj).__name__} is for sites: to_clients({type(obj).__name__}(...))")
        self._draft(ctx.target).executors.append((tuple(tasks), obj))

    def add_resources(self, resources: Sequence[str], ctx: JobCtx) -> None:
        """Copy scripts or folders into a target's `custom/`."""
        self._draft(ctx.target).add_files(resources)

    def as_id(self, obj: object) -> str:
        """Return an id for an object that is put to wherever the first component is put that names the id."""
        reference = str(uuid4())
        self._awaited[reference] = obj
        return reference

    def _add_referenced(self, obj: object, ctx: JobCtx) -> None:
        held = [value for value in getattr(obj, "__dict__", {}).values() if isinstance(value, str)]
        for reference in [value for value in held if value in self._awaited]:
            self.add_component(reference, self._awaited.pop(reference), JobCtx(ctx.target))

    def _draft(self, target: str) -> AppDraft:
        return self.drafts.setdefault(check_target(target), AppDraft())

    # --- files ---------------------------------------------------------------------------------------------------

    def add_file_to(self, src_path: str, target: str, dest_dir: str | None = None) -> None:
        """Copy a script or a folder's content into a target's `custom/`, or a folder there."""
        self._draft(target).add_files([src_path], dest_dir or "")

    def add_file_to_server(self, src_path: str, dest_dir: str | None = None) -> None:
        """Copy a script or a folder's content into the server's `custom/`."""
        self.add_file_to(src_path, SERVER, dest_dir)

    def add_file_to_clients(self, src_path: str, dest_dir: str | None = None) -> None:
        """Copy a script or a folder's content into the sites' `custom/`."""
        self.add_file_to(src_path, ALL_SITES, dest_dir)

    def export_job(self, job_root: str | Path) -> Path:
        """Write the job's folder, `<job_root>/<name>`, in place of an older one, and return it.

        Raises:
            JobError: The job lacks a part, or one can't be written into files.
        """
        folder = Path(job_root) / self.name
        self.write(folder)
        return folder

    def write(self, folder: Path) -> None:
        """Write the job into exactly this folder.

        Raises:
            JobError: As `export_job`.
        """
        write_job(folder, self._meta(), self.drafts)

    def with_params(self, more: Mapping[str, Mapping[str, Any]]) -> FedJob:
        """Return the same job with further entries in the targets' configurations."""
        other = copy.copy(self)
        drafts = {target: self.drafts.get(target, AppDraft()) for target in (*self.drafts, *more)}
        other.drafts = {
            target: replace(draft, params={**draft.params, **more.get(target, {})}) for target, draft in drafts.items()
        }
        return other

    # --- running -------------------------------------------------------------------------------------------------

    def simulator_run(  # noqa: PLR0917 - NVFLARE's own arguments, in its order
        self,
        workspace: str | Path,
        n_clients: int | None = None,
        clients: list[str] | None = None,
        threads: int | None = None,
        gpu: str | None = None,
        log_config: str | None = None,  # noqa: ARG002 - NVFLARE's own: what a script prints is in its site's folder
    ) -> int:
        """Run the job on this machine to its end, and show it.

        Args:
            workspace: Folder of the run; `job/` in it is the job as it was run.
            n_clients: How many sites: `site-1`, `site-2` ...; by default those that something was put to by name.
            clients: Their names, instead.
            threads: How many sites may work at the same time; all by default.
            gpu: Graphics cards for the sites in turn.
            log_config: Has no effect.

        Returns:
            0: the job did all of its work, and nothing that was logged is lost.

        Raises:
            JobError: It can't be run as it is written.
            JobFailedError: It ended without doing all of its work, or has lost events.
        """
        sites = site_names(n_clients or 0, clients) if n_clients or clients else self.clients
        return self.run(workspace, sites, threads=threads, gpu=gpu).exit_code

    def run(
        self,
        workspace: str | Path,
        sites: Sequence[str],
        *,
        threads: int | None = None,
        gpu: str | None = None,
        seed: int = 0,
    ) -> JobResult:
        """Run the job on this machine to its end, show it, and return what it did: see `simulator_run`."""
        from training._simulator import JOB_FOLDER, Simulation, check, simulate

        folder = Path(workspace) / JOB_FOLDER
        self.write(folder)
        return check(simulate(load_job(folder), Simulation(Path(workspace), sites, threads, gpu, seed)))

    def _meta(self) -> Mapping[str, object]:
        mandatory = {"mandatory_clients": self.mandatory_clients} if self.mandatory_clients else {}
        return {"name": self.name, "min_clients": self.min_clients, **mandatory, **self.meta_props}


class PTModel:
    """A torch model that a job starts from, with what keeps it and what finds it again.

    Args:
        model: The model; its weights go into the job. Or its class by import path, as in
            `{"path": "model.Net", "args": {}}`.
        persistor: What keeps it, in place of a `PTFileModelPersistor`.
        locator: What finds it, in place of a `PTFileModelLocator`.
        allow_numpy_conversion: Has no effect: weights travel as safetensors.
        initial_ckpt: A checkpoint to start from, in place of the model's own weights.
        best_model_filename: Name of the file of the best model.
    """

    def __init__(  # noqa: PLR0917 - NVFLARE's own arguments, in its order
        self,
        model: nn.Module | dict[str, Any],
        persistor: object | None = None,
        locator: object | None = None,
        allow_numpy_conversion: bool = True,  # noqa: ARG002, FBT001, FBT002 - the same
        initial_ckpt: str | None = None,
        best_model_filename: str | None = None,
    ) -> None:
        self.model = model
        self.persistor = persistor
        self.locator = locator
        self.initial_ckpt = initial_ckpt
        self.best_model_filename = best_model_filename

    def add_to_fed_job(self, job: FedJob, ctx: JobCtx) -> dict[str, str]:
        """Put persistor and locator to the server, and return their ids: `persistor_id`, `locator_id`."""
        from training import PTFileModelLocator

        persistor_id = job.add_component("persistor", self.persistor or self._make_persistor(), ctx)
        locator_id = job.add_component("locator", self.locator or PTFileModelLocator(persistor_id), ctx)
        return {"persistor_id": persistor_id, "locator_id": locator_id}

    def _make_persistor(self) -> object:
        from training import PTFileModelPersistor

        options: dict[str, Any] = {}
        if self.best_model_filename:
            options["best_global_model_file_name"] = self.best_model_filename
        if self.initial_ckpt:
            options["source_ckpt_file_full_name"] = self.initial_ckpt
        return PTFileModelPersistor(model=self.model, **options)


class BaseFedJob(FedJob):
    """A job whose server keeps the best model and the results of evaluations.

    Args:
        initial_model: The model that it starts from.
        name: As `FedJob` has it.
        min_clients: As `FedJob` has it.
        mandatory_clients: As `FedJob` has it.
        key_metric: The metric that decides which model is the best.
        validation_json_generator: What writes `cross_val_results.json`, in place of a `ValidationJsonGenerator`.
        model_selector: What selects the best model, in place of an `IntimeModelSelector`.
        analytics_receiver: A receiver for the server.
        model_persistor: What keeps the model.
        model_locator: What finds it.
        key_metric_mode: `max` or `min`: whether more or less of the metric is better.

    Raises:
        JobError: An argument can't work.
    """

    def __init__(  # noqa: PLR0917 - NVFLARE's own arguments, in its order
        self,
        initial_model: nn.Module | dict[str, Any] | None = None,
        name: str = "fed_job",
        min_clients: int = 1,
        mandatory_clients: list[str] | None = None,
        key_metric: str = "accuracy",
        validation_json_generator: object | None = None,
        model_selector: object | None = None,
        analytics_receiver: Receiver | None = None,
        model_persistor: object | None = None,
        model_locator: object | None = None,
        key_metric_mode: str = "max",
    ) -> None:
        from training import IntimeModelSelector, ValidationJsonGenerator

        if key_metric_mode not in ("max", "min"):
            raise JobError(f"key_metric_mode={key_metric_mode!r} is not known: use 'max' or 'min'")
        super().__init__(name, min_clients, mandatory_clients)
        self.to_server(validation_json_generator or ValidationJsonGenerator(), "json_generator")
        selector = model_selector
        if selector is None and key_metric:
            selector = IntimeModelSelector(key_metric=key_metric, negate_key_metric=key_metric_mode == "min")
        if selector is not None:
            self.to_server(selector, "model_selector")
        if analytics_receiver is not None:
            self.to_server(analytics_receiver, "receiver")
        if initial_model is not None or model_persistor is not None:
            model = PTModel(initial_model or {}, model_persistor, model_locator)
            self.comp_ids.update(self.to_server(model))


class FedAvgJob(BaseFedJob):
    """A job that averages the sites' models; what the sites run is put to it with `to` or `to_clients`.

    Args:
        initial_model: The model that it starts from.
        n_clients: How many sites answer in a round.
        num_rounds: How many rounds.
        name: As `FedJob` has it.
        min_clients: As `FedJob` has it.
        mandatory_clients: As `FedJob` has it.
        key_metric: The metric that decides which model is the best.
        key_metric_mode: `max` or `min`: whether more or less of it is better.
    """

    def __init__(  # noqa: PLR0917 - NVFLARE's own arguments, in its order
        self,
        initial_model: nn.Module,
        n_clients: int,
        num_rounds: int,
        name: str = "fed_job",
        min_clients: int = 1,
        mandatory_clients: list[str] | None = None,
        key_metric: str = "accuracy",
        key_metric_mode: str = "max",
    ) -> None:
        from training import FedAvg

        super().__init__(
            initial_model, name, min_clients, mandatory_clients, key_metric, key_metric_mode=key_metric_mode
        )
        self.to_server(FedAvg(num_clients=n_clients, num_rounds=num_rounds, persistor_id=self.comp_ids["persistor_id"]))
