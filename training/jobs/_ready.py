"""Jobs with what most of them need: a first model, what keeps it, what finds the best, and averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from training.errors import JobError
from training.jobs._job import FedJob, JobCtx

if TYPE_CHECKING:
    from torch import nn

    from receivers import Receiver


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
        convert_to_fed_event: Has no effect: what sites log reaches the server if a tracker is there.
        analytics_receiver: A receiver for the server.
        metrics_artifact_writer: What writes each round's results, in place of a `RoundResultsWriter`.
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
        convert_to_fed_event: object | None = None,  # noqa: ARG002 - the same
        analytics_receiver: Receiver | None = None,
        metrics_artifact_writer: object | None = None,
        model_persistor: object | None = None,
        model_locator: object | None = None,
        key_metric_mode: str = "max",
    ) -> None:
        from training import IntimeModelSelector, RoundResultsWriter, ValidationJsonGenerator

        if key_metric_mode not in ("max", "min"):
            raise JobError(f"key_metric_mode={key_metric_mode!r} is not known: use 'max' or 'min'")
        super().__init__(name, min_clients, mandatory_clients)
        self.to_server(validation_json_generator or ValidationJsonGenerator(), "json_generator")
        selector = model_selector
        if selector is None and key_metric:
            selector = IntimeModelSelector(key_metric=key_metric, negate_key_metric=key_metric_mode == "min")
        if selector is not None:
            self.to_server(selector, "model_selector")
        self.to_server(metrics_artifact_writer or RoundResultsWriter(), "metrics_artifact_writer")
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
        min_responses: With fewer updates a round has failed; by default all of `n_clients` are needed.
        round_timeout: Seconds that the sites have for a round. None: as long as they live.
        grace: Seconds that the others have once `min_responses` updates are there. None: until `round_timeout`.
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
        *,
        min_responses: int | None = None,
        round_timeout: float | None = None,
        grace: float | None = None,
    ) -> None:
        from training import FedAvg

        super().__init__(
            initial_model, name, min_clients, mandatory_clients, key_metric, key_metric_mode=key_metric_mode
        )
        self.to_server(
            FedAvg(
                num_clients=n_clients,
                num_rounds=num_rounds,
                persistor_id=self.comp_ids["persistor_id"],
                min_responses=min_responses,
                round_timeout=round_timeout,
                grace=grace,
            )
        )
