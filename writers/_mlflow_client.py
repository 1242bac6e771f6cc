"""A look-alike of MLflow's client: its logging calls, each with the id of a run first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from writers import _mlflow_payloads as payloads
from writers._mlflow_tables import log_image, log_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventbus import Receipt
    from writers._mlflow_runs import ActiveRun, Runs
    from writers._writer import TrackingWriter


class MLflowClient:
    """Logs with the methods of `mlflow.MlflowClient`, to runs that this writer started.

    Args:
        runs: Those runs.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> ActiveRun:
        """Begin a run that does not become the active one.

        Raises:
            BadInputError: The name or a tag can't be recorded, and bad input raises.
        """
        run = self._runs.begin(run_name, "")
        self.log_batch(run.info.run_id, tags=list((tags or {}).items()))
        return run

    def get_run(self, run_id: str) -> ActiveRun:
        """Return a run of this writer.

        Raises:
            BadInputError: There is none of that id.
        """
        return self._runs.find(run_id)

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> Receipt:
        """End a run.

        Raises:
            BadInputError: The id or the status is not known, and bad input raises.
        """
        return self._to(run_id, lambda _to: self._runs.end(self._runs.find(run_id), status or "FINISHED"))

    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> Receipt:
        """End a run, or call it otherwise.

        Raises:
            BadInputError: The id, the status or the name is not known, and bad input raises.
        """
        if name is not None:
            self._to(run_id, lambda _to: self._runs.rename(self._runs.find(run_id), name))
        return self.set_terminated(run_id, status) if status not in (None, "RUNNING") else self._runs.own.flush()

    def log_metric(  # noqa: PLR0917 - MLflow's own arguments, in its order
        self,
        run_id: str,
        key: str,
        value: float,
        timestamp: int | None = None,
        step: int | None = None,
        synchronous: bool | None = None,
        dataset_name: str | None = None,
        dataset_digest: str | None = None,
        model_id: str | None = None,
    ) -> Receipt:
        """Log one number, see `MLflowWriter.log_metrics`."""
        dataset = payloads.DatasetName(dataset_name, dataset_digest) if dataset_name else None
        return self._to(run_id, lambda to: payloads.log_metrics(to, {key: value}, step, timestamp, model_id, dataset))

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Any] = (),
        params: Sequence[Any] = (),
        tags: Sequence[Any] = (),
        synchronous: bool | None = None,
    ) -> Receipt:
        """Log numbers, parameters and tags: MLflow's `Metric`, `Param` and `RunTag`, or tuples of their fields."""
        return self._to(run_id, lambda to: payloads.log_batch(to, metrics, params, tags))

    def log_param(self, run_id: str, key: str, value: Any, synchronous: bool | None = None) -> Receipt:
        """Log one parameter."""
        return self._to(run_id, lambda to: to.log_params({key: value}))

    def set_tag(self, run_id: str, key: str, value: Any, synchronous: bool | None = None) -> Receipt:
        """Label a run; a later label replaces an earlier one."""
        return self._to(run_id, lambda to: to.set_tags({key: value}))

    def delete_tag(self, run_id: str, key: str) -> Receipt:
        """Take a label of a run away."""
        return self._to(run_id, lambda to: payloads.delete_tags(to, [key]))

    def log_text(self, run_id: str, text: str, artifact_file: str) -> Receipt:
        """Log a text as a file."""
        return self._to(run_id, lambda to: payloads.log_text(to, text, artifact_file))

    def log_dict(self, run_id: str, dictionary: dict[str, Any], artifact_file: str) -> Receipt:
        """Log a dict as a file of YAML or JSON, by its suffix."""
        return self._to(run_id, lambda to: payloads.log_dict(to, dictionary, artifact_file))

    def log_figure(
        self, run_id: str, figure: Any, artifact_file: str, *, save_kwargs: dict[str, Any] | None = None
    ) -> Receipt:
        """Log a figure of matplotlib or Plotly as a file."""
        return self._to(run_id, lambda to: payloads.log_figure(to, figure, artifact_file, save_kwargs))

    def log_image(  # noqa: PLR0917 - MLflow's own arguments, in its order
        self,
        run_id: str,
        image: Any,
        artifact_file: str | None = None,
        key: str | None = None,
        step: int | None = None,
        timestamp: int | None = None,
        synchronous: bool | None = None,
    ) -> Receipt:
        """Log a picture as a file, or under a key at a step."""
        return self._to(run_id, lambda to: log_image(to, image, artifact_file, key, step, timestamp))

    def log_table(self, run_id: str, data: Any, artifact_file: str) -> Receipt:
        """Log rows of a table, after those that are there."""
        return self._to(run_id, lambda to: log_table(to, data, artifact_file))

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> Receipt:
        """Log a file, or a folder under its own name."""
        return self._to(run_id, lambda to: payloads.log_files(to, local_path, artifact_path))

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> Receipt:
        """Log all files of a folder."""
        return self._to(run_id, lambda to: payloads.log_folder(to, local_dir, artifact_path))

    def log_stream(self, run_id: str, stream: Any, artifact_file: str) -> Receipt:
        """Log what a binary stream holds as a file."""
        return self._to(run_id, lambda to: payloads.log_stream(to, stream, artifact_file))

    def log_inputs(
        self, run_id: str, datasets: Sequence[Any] | None = None, models: Sequence[Any] | None = None
    ) -> Receipt:
        """Log what a run used: MLflow's `DatasetInput` and `LoggedModelInput`."""
        return self._to(run_id, lambda to: payloads.log_dataset_inputs(to, datasets or (), models or ()))

    def log_outputs(self, run_id: str, models: list[Any]) -> Receipt:
        """Log that models are a run's: MLflow's `LoggedModelOutput`."""
        return self._to(run_id, lambda to: payloads.log_outputs(to, models))

    def _to(self, run_id: str, log: Callable[[TrackingWriter], Receipt]) -> Receipt:
        return self._runs.log_to(run_id, log)
