"""Cross-site evaluation: every site measures every model, the others' and the server's."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventbus.workspace import SERVER
from training._metrics import flatten_metrics, is_number, is_too_deep
from training.abc import SUBMIT_MODEL, VALIDATE, ModelLocator, ModelValidated, Patience, SiteProblem, Task, Workflow
from training.components.results import CROSS_VAL_DIR, check_inside
from training.errors import JobError, RoundFailedError, UpdateRefusedError
from training.fl_model import FLModel, MetaKey, ModelName, ParamsType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from training.abc import Answer, Server

MODELS_DIR = "models"
"""Where submitted models wait for their evaluation, within `cross_val_dir`."""


@dataclass(eq=False, repr=False)
class CrossSiteModelEval(Workflow):
    """Has every site evaluate every site's best model and the server's models; arguments are NVFLARE's.

    A site that has no model to submit, or that can't evaluate one, is left out of just that: its reason is among the
    job's problems, and the others go on. One model at a time is in memory; those that were submitted wait on disk.

    Args:
        task_check_period: Has no effect: answers are taken as they come.
        cross_val_dir: Folder of the submitted models, within the run's folder.
        submit_model_timeout: Seconds that the sites have to submit their models; 0: as long as they live.
        validation_timeout: Seconds that they have to evaluate one model; 0: as long as they live.
        model_locator_id: The component that finds the server's models; empty: only the sites' are evaluated.
        formatter_id: Has no effect: results are shown as they come.
        submit_model_task_name: What a site is asked to do for its model; empty: only the server's are evaluated.
        validation_task_name: What it is asked to do with a model.
        cleanup_models: Whether the submitted models are deleted in the end.
        participating_clients: Which sites take part; by default all that are there.
        wait_for_clients_timeout: Has no effect: a job begins when its sites are there.

    Raises:
        JobError: An argument is none that can work.
    """

    task_check_period: float = 0.5
    cross_val_dir: str = CROSS_VAL_DIR
    submit_model_timeout: float = 600
    validation_timeout: float = 6000
    model_locator_id: str = ""
    formatter_id: str = ""
    submit_model_task_name: str = SUBMIT_MODEL
    validation_task_name: str = VALIDATE
    cleanup_models: bool = False
    participating_clients: Sequence[str] | None = None
    wait_for_clients_timeout: float = 300

    def __post_init__(self) -> None:
        check_inside("cross_val_dir", self.cross_val_dir)
        _check_seconds("submit_model_timeout", self.submit_model_timeout)
        _check_seconds("validation_timeout", self.validation_timeout)
        if not self.submit_model_task_name and not self.model_locator_id:
            raise JobError("there is nothing to evaluate: name a model_locator_id, or a submit_model_task_name")

    async def run(self, server: Server) -> None:
        """Gather the models, and have them evaluated one after another.

        Raises:
            RoundFailedError: There is no model, or no site could evaluate any.
            JobError: There is no such locator, or a model of the server can't be read.
        """
        evaluation = _Evaluation(self, server)
        try:
            await evaluation.gather()
            await evaluation.run()
        finally:
            if self.cleanup_models:
                await server.in_thread(lambda: shutil.rmtree(evaluation.folder, ignore_errors=True))


class _Evaluation:
    """One run of the workflow.

    Attributes:
        folder: Where the submitted models are.
    """

    def __init__(self, settings: CrossSiteModelEval, server: Server) -> None:
        self._settings = settings
        self._server = server
        self.folder = server.folder / settings.cross_val_dir / MODELS_DIR
        self._models: dict[str, Callable[[], FLModel]] = {}  # by owner: how to load it
        self._problems: dict[str, str] = {}
        self._results = 0

    async def gather(self) -> None:
        """Find out which models there are: those of the sites, then the server's."""
        asked = self._targets()
        if self._settings.submit_model_task_name:
            wanted = FLModel(meta={MetaKey.SUBMIT_MODEL_NAME: ModelName.BEST_MODEL})
            task = Task(self._settings.submit_model_task_name, wanted)
            await self._ask(task, self._keep, self._settings.submit_model_timeout, "no model of it")
            # In the job's order, whoever was first.
            self._models = {site: self._models[site] for site in asked if site in self._models}
        if self._settings.model_locator_id:
            locator = self._server.component(self._settings.model_locator_id, ModelLocator)
            names = await self._server.in_thread(lambda: locator.get_model_names(self._server))
            if not names:
                self._problems[SERVER] = "it keeps no model yet"
            for name in names:
                self._models[f"SRV_{name}"] = lambda name=name: locator.locate_model(name, self._server)

    async def run(self) -> None:
        """Have each model evaluated by all sites."""
        for owner, load in self._models.items():
            await self._evaluate(owner, load)
        if not self._results:
            raise RoundFailedError("cross-site evaluation", 1, 0, self._problems)

    async def _evaluate(self, owner: str, load: Callable[[], FLModel]) -> None:
        # A function of its own: with it goes the model, before the next one is loaded.
        model = await self._server.in_thread(load)
        model.meta = {MetaKey.VALIDATE_TYPE: owner}
        task = Task(self._settings.validation_task_name, model)
        timeout = self._settings.validation_timeout
        await self._ask(task, lambda answer: self._take(answer, owner), timeout, f"model of {owner}")

    async def _ask(self, task: Task, accept: Callable[[Answer], object], timeout: float, what: str) -> None:
        targets = self._targets()
        if not targets:
            self._problems.update(self._server.sites.left)
            return
        outcome = await self._server.sites.ask(task, targets, accept, Patience(len(targets), timeout or None))
        for site, reason in outcome.problems.items():
            self._problems[site] = f"{what}: {reason}"
            await self._server.notify(SiteProblem(site, task.name, None, self._problems[site]))

    def _targets(self) -> tuple[str, ...]:
        there, left = self._server.sites.names, self._server.sites.left
        wanted = self._settings.participating_clients or there
        if unknown := [site for site in wanted if site not in there and site not in left]:
            known = ", ".join((*there, *left)) or "none"
            raise JobError(f"participating_clients names {', '.join(unknown)}, but the sites are: {known}")
        return tuple(site for site in there if site in wanted)

    # --- off the loop, one answer at a time ---------------------------------------------------------------------------

    def _keep(self, answer: Answer) -> None:
        from training.checkpoint import save_state_file

        params = answer.model.params
        if not params or answer.model.params_type is ParamsType.DIFF:
            raise UpdateRefusedError(answer.site, "it holds no whole weights")
        path = self.folder / f"{answer.site}.safetensors"
        try:
            save_state_file(path, params)
        except OSError as error:  # the other models, and the server's, may still be evaluated
            raise UpdateRefusedError(answer.site, f"the server could not keep it: {error}") from error
        self._models[answer.site] = lambda: _load(path)

    def _take(self, answer: Answer, owner: str) -> None:
        metrics = answer.model.metrics
        if not metrics or is_too_deep(metrics):
            raise UpdateRefusedError(answer.site, "it holds no metrics, or they are nested too deep")
        self._results += 1
        self._server.hear(ModelValidated(answer.site, owner, metrics))
        if self._server.writer is not None:
            self._server.writer.log(flatten_metrics(metrics, f"cross_site/{owner}/{answer.site}/"))


def _load(path: Path) -> FLModel:
    from training.checkpoint import load_state_file

    return FLModel(params_type=ParamsType.FULL, params=load_state_file(path))


def _check_seconds(name: str, value: float) -> None:
    if not (is_number(value) and value >= 0):
        raise JobError(f"{name}={value!r} won't do: it is a number of seconds from 0")
