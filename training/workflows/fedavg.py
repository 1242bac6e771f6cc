"""Federated averaging: rounds in which sites train the global model, and their updates make the next one."""

from __future__ import annotations

import logging
import random
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from eventbus.errors import WorkspaceError
from training._metrics import flatten_metrics, is_number
from training.abc import (
    TRAIN,
    ComponentProblem,
    ModelPersistor,
    Patience,
    RoundAggregated,
    RoundStarted,
    SiteProblem,
    StoppedEarly,
    Task,
    Workflow,
)
from training.components.persistor import GLOBAL_MODEL, PTFileModelPersistor, compile_pattern
from training.components.selector import check_weights
from training.errors import JobError, RoundFailedError
from training.fl_model import FLModel, ParamsType
from training.workflows._stopping import StopCondition, Stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from training.abc import Answer, ModelAggregator, Server
    from training.workflows._updates import RoundUpdates

_logger = logging.getLogger("trackbus.training")


@dataclass(eq=False, repr=False)
class FedAvg(Workflow):
    """Federated averaging, after McMahan et al. (https://arxiv.org/abs/1602.05629); arguments are NVFLARE's.

    In each round the global model is sent to `num_clients` sites, drawn anew from the run's seed where more are there;
    where one of them fails and too few updates would come, one that was not drawn is asked in its stead.
    An update is added to the weighted average as it comes and then forgotten, so memory doesn't grow with the sites. It
    weighs `aggregation_weights[site]` times its `NUM_STEPS_CURRENT_ROUND` (1 where it doesn't say); it may be whole
    weights or, as `ParamsType.DIFF`, the difference from what was sent. It must have all variables of the global model
    but those of `exclude_vars`, in the same shapes and any precision, without a NaN or an infinity; else it is refused,
    which is that site's problem, and the round goes on with the others.

    What sites send as metrics was measured on the model that they were sent, before they trained it. So a round's
    metrics, `stop_cond` and `patience` judge the model that the round began with. The last round's model is nobody's to
    judge yet; it is kept all the same.

    Args:
        persistor_id: The component that has the first model, and keeps the global model after each round.
        ignore_result_error: Has no effect: `min_responses` says how many sites a round can do without.
        allow_empty_global_weights: Has no effect: the first model must have weights.
        task_check_period: Has no effect: answers are taken as they come.
        num_clients: How many sites train in a round.
        num_rounds: How many rounds there are.
        start_round: Number of the first round.
        memory_gc_rounds: Has no effect: an update is forgotten once it is added.
        model: The first model, in place of the persistor's: tensors by name, an `FLModel`, a `torch.nn.Module`, or
            `{"path": "module.Class", "args": {...}}`. Then no persistor is needed.
        save_filename: Where the global model is kept if there is no persistor: in `models`, as safetensors.
        aggregator: Makes the new model in place of the weighted average.
        stop_cond: Ends the training once a metric is good enough, such as `accuracy >= 80`.
        patience: Ends it, too, after so many rounds in a row without any progress towards `stop_cond`.
        task_name: What sites are asked to do.
        exclude_vars: Regular expression; variables in whose name it is found stay as they are, and sites may leave
            them out.
        aggregation_weights: By site; 1 for those that are not named.
        enable_tensor_disk_offload: Has no effect: one update at a time is in memory.
        fedprox_mu: None or 0: the server can't add FedProx's term to the loss; a script can.
        min_responses: With fewer updates a round has failed; by default all of `num_clients` are needed.
        round_timeout: Seconds that the sites have for a round. None: as long as they live.
        grace: Seconds that the others have once `min_responses` updates are there. None: until `round_timeout`.

    Raises:
        JobError: An argument is none that can work; the message says what to write instead.
    """

    persistor_id: str = "persistor"
    ignore_result_error: bool | None = None
    allow_empty_global_weights: bool = False
    task_check_period: float = 0.5
    _: KW_ONLY
    num_clients: int = 3
    num_rounds: int = 5
    start_round: int = 0
    memory_gc_rounds: int = 0
    model: object = None
    save_filename: str = GLOBAL_MODEL
    aggregator: ModelAggregator | None = None
    stop_cond: str | None = None
    patience: int | None = None
    task_name: str = TRAIN
    exclude_vars: str | None = None
    aggregation_weights: Mapping[str, float] | None = None
    enable_tensor_disk_offload: bool = False
    fedprox_mu: float | None = None
    min_responses: int | None = None
    round_timeout: float | None = None
    grace: float | None = None

    def __post_init__(self) -> None:
        self._check()
        self._condition = StopCondition.parse(self.stop_cond) if self.stop_cond else None
        self._excluded = compile_pattern("exclude_vars", self.exclude_vars)
        if self.ignore_result_error is not None:
            _logger.info("ignore_result_error has no effect: min_responses says how many sites a round can do without")
        if self.allow_empty_global_weights:
            _logger.info("allow_empty_global_weights has no effect: the first model must have weights")

    def _check(self) -> None:
        _check_count("num_clients", self.num_clients, 1)
        _check_count("num_rounds", self.num_rounds, 1)
        _check_count("start_round", self.start_round, 0)
        _check_count("patience", self.patience, 1)
        _check_count("min_responses", self.min_responses, 1, self.num_clients)
        _check_seconds("round_timeout", self.round_timeout)
        _check_seconds("grace", self.grace)
        if self.patience and not self.stop_cond:
            raise JobError("patience needs stop_cond, which says what is to become better: such as 'accuracy >= 80'")
        if self.fedprox_mu:
            raise JobError(
                f"fedprox_mu={self.fedprox_mu!r} is not supported: leave it out, and have the script add to its loss "
                "mu / 2 times the squared distance of its weights from those that it received"
            )
        check_weights(self.aggregation_weights)

    @property
    def needed(self) -> int:
        """How many updates a round needs."""
        return self.min_responses or self.num_clients

    async def run(self, server: Server) -> None:
        """Train all rounds; after each the new global model is kept.

        Raises:
            RoundFailedError: Fewer sites than needed are left, or sent an update that counts.
            JobError: There is no first model, or the aggregator's model does not fit.
            WorkspaceError: The last model could not be kept.
        """
        persistor = self._persistor(server)
        model = await server.in_thread(lambda: self._first_model(persistor, server))
        self._describe(server)
        stopping = Stopping(self._condition, self.patience)
        unsaved: OSError | None = None
        for number in range(self.start_round, self.start_round + self.num_rounds):
            model = await self._run_round(number, model, server)
            unsaved = await self._keep(model, persistor, server)
            if reason := stopping.judge(model.metrics):
                await server.notify(StoppedEarly(number, reason))
                break
        if unsaved is not None:
            raise WorkspaceError(f"the last global model could not be kept: {unsaved}") from unsaved

    # --- the model --------------------------------------------------------------------------------------------------

    def _persistor(self, server: Server) -> ModelPersistor:
        if self.model is not None and self.persistor_id not in server.components:
            return PTFileModelPersistor(model=self.model, global_model_file_name=self.save_filename)
        return server.component(self.persistor_id, ModelPersistor)

    def _first_model(self, persistor: ModelPersistor, server: Server) -> FLModel:
        given = persistor if self.model is None else PTFileModelPersistor(model=self.model)
        return given.load_model(server)

    async def _keep(self, model: FLModel, persistor: ModelPersistor, server: Server) -> OSError | None:
        """Save a global model; a full disk may have room again by the next round, so only the last one must succeed."""
        try:
            await server.in_thread(lambda: persistor.save_model(model, server))
        except OSError as error:
            _logger.warning("the global model of round %s could not be kept: %s", model.current_round, error)
            server.tell(ComponentProblem(self.persistor_id, str(error)))
            return error
        return None

    # --- a round ----------------------------------------------------------------------------------------------------

    async def _run_round(self, number: int, model: FLModel, server: Server) -> FLModel:
        await server.notify(RoundStarted(number, self.num_rounds))
        sent = self._to_send(number, model)
        updates = await server.in_thread(lambda: self._begin(sent))
        await self._gather(Task(self.task_name, sent), updates.accept, number, server)
        aggregated = await server.in_thread(updates.result)
        event = RoundAggregated(number, sent, aggregated, updates.contributions)
        await server.notify(event)
        _log_round(event, server)
        return aggregated

    def _begin(self, sent: FLModel) -> RoundUpdates:
        from training.workflows._updates import RoundUpdates  # with torch, which takes seconds: off the loop

        return RoundUpdates(sent, self.aggregation_weights or {}, self._excluded, self.aggregator)

    def _to_send(self, number: int, model: FLModel) -> FLModel:
        return FLModel(
            params_type=ParamsType.FULL,
            params=model.params,
            start_round=self.start_round,
            current_round=number,
            total_rounds=self.num_rounds,
        )

    async def _gather(self, task: Task, accept: Callable[[Answer], object], number: int, server: Server) -> None:
        """Ask the sites of a round; where too few updates come of it, ask those that were not drawn in their stead."""
        drawn = self._draw(number, server)
        problems: dict[str, str] = {}
        accepted, wanted = 0, self.num_clients
        while accepted < self.needed:
            there = server.sites.names
            drawn = [site for site in drawn if site in there]
            targets = sorted(drawn[:wanted], key=there.index)
            drawn = drawn[wanted:]
            if not targets:
                raise RoundFailedError(f"round {number + 1}", self.needed, accepted, problems)
            patience = Patience(self.needed - accepted, self.round_timeout, self.grace)
            outcome = await server.sites.ask(task, targets, accept, patience)
            for site, reason in outcome.problems.items():
                await server.notify(SiteProblem(site, self.task_name, number, reason))
            problems.update(outcome.problems)
            accepted += len(outcome.accepted)
            wanted = self.needed - accepted

    def _draw(self, number: int, server: Server) -> list[str]:
        """Return all sites, those of the round first; their order depends on the seed and the round alone."""
        there = server.sites.names
        if len(there) < self.needed:
            what = f"round {number + 1} can't begin with {len(there)} sites"
            raise RoundFailedError(what, self.needed, 0, server.sites.left)
        return random.Random(f"{server.seed}/{number}").sample(there, len(there))

    def _describe(self, server: Server) -> None:
        if server.writer is None:
            return
        settings = {
            "num_clients": self.num_clients,
            "num_rounds": self.num_rounds,
            "min_responses": self.needed,
            "stop_cond": self.stop_cond,
            "patience": self.patience,
            "exclude_vars": self.exclude_vars,
            "aggregation_weights": self.aggregation_weights,
            "seed": server.seed,
        }
        server.writer.set_tags({"workflow": type(self).__name__, "role": "server"})
        server.writer.log_params({name: value for name, value in settings.items() if value is not None})


def _log_round(event: RoundAggregated, server: Server) -> None:
    if server.writer is None:
        return
    values = flatten_metrics(event.aggregated.metrics or {}, "global/")
    values["global/contributions"] = len(event.contributions)  # whatever sites call so: theirs stand below sites/
    for one in event.contributions:
        # By class they are many: those are in the results file, and their mean is logged.
        values |= flatten_metrics({k: v for k, v in one.metrics.items() if is_number(v)}, f"sites/{one.site}/")
    server.writer.log(values, step=event.round)


def _check_count(name: str, value: Any, least: int, most: int | None = None) -> None:
    if value is None and name in {"patience", "min_responses"}:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        limits = f"from {least}" if most is None else f"from {least} to {most}"
        raise JobError(f"{name}={value!r} won't do: it is an integer {limits}")


def _check_seconds(name: str, value: float | None) -> None:
    if value is not None and not (is_number(value) and value > 0):
        raise JobError(f"{name}={value!r} won't do: it is a number of seconds above 0, or None")
