"""A job in Python: what the server does and what the sites run."""

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
from training.jobs._load import load_job
from training.jobs._terms import ALL_SITES, check_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from training.jobs._script import ScriptRunner
    from training.plan import JobResult


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
        if obj is None:
            raise JobError(f"there is nothing to put to {target}: it is None")
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

    def add_file_to(
        self, src_path: str, target: str, dest_dir: str | None = None, app_folder_type: str | None = None
    ) -> None:
        """Copy a script or a folder's content into a target's `custom/`, or a folder there.

        Args:
            src_path: The script or folder.
            target: `server`, a site, or `@ALL`.
            dest_dir: Folder in `custom/`.
            app_folder_type: `custom`.

        Raises:
            JobError: It is to go elsewhere.
        """
        if app_folder_type not in (None, "custom"):
            raise JobError(
                f"app_folder_type={app_folder_type!r}: only files in custom/ are found by what runs at the server and "
                "the sites; leave it out, and name a folder there with dest_dir"
            )
        self._draft(target).add_files([src_path], dest_dir or "")

    def add_file_to_server(
        self, src_path: str, dest_dir: str | None = None, app_folder_type: str | None = None
    ) -> None:
        """Copy a script or a folder's content into the server's `custom/`: see `add_file_to`."""
        self.add_file_to(src_path, SERVER, dest_dir, app_folder_type)

    def add_file_to_clients(
        self, src_path: str, dest_dir: str | None = None, app_folder_type: str | None = None
    ) -> None:
        """Copy a script or a folder's content into the sites' `custom/`: see `add_file_to`."""
        self.add_file_to(src_path, ALL_SITES, dest_dir, app_folder_type)

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
