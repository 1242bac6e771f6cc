"""A look-alike of MLflow's module functions: the same names and arguments, and no SDK behind them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from eventbus import Receipt
from writers import _mlflow_payloads as payloads
from writers._look_alike import also_named
from writers._mlflow_absent import Absent
from writers._mlflow_fluent import MLflowRuns
from writers._mlflow_models import Flavor, ModelReceipt
from writers._mlflow_models import log_model as log_any_model
from writers._mlflow_tables import log_image, log_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class MLflowWriter(MLflowRuns, Absent):
    """Logs with the functions of `mlflow`, from `log_metric` to `log_image`; `client` has those of its client.

    Each returns a `Receipt`, `log_param` too, where MLflow returns the value. `synchronous` is accepted and
    makes no difference: no call ever waits for a server. An option that would change what is logged, or
    where, and can't be honoured is refused. That a parameter is set once is MLflow's own rule: a second value is
    recorded here, and where the receiver writes it the first one stays, the last is a tag, and it is counted.

    The first `start_run` goes on with the writer's own run, which all writers of the bus share, so a script that starts
    one run logs to the same as its other writers. Any further one, and every nested one, is a run of its own. `run_id`
    names one of them. Files are as they were when they were logged, whatever becomes of them afterwards.
    """

    @cached_property
    def pytorch(self) -> Flavor:
        """`mlflow.pytorch`, as far as it logs."""
        return Flavor(self._active_writer, "pytorch")

    # --- numbers, parameters, tags --------------------------------------------------------------------------

    def log_metric(  # noqa: PLR0917 - MLflow's own arguments, in its order
        self,
        key: str,
        value: float,
        step: int | None = None,
        synchronous: bool | None = None,
        timestamp: int | None = None,
        run_id: str | None = None,
        model_id: str | None = None,
        dataset: Any = None,
    ) -> Receipt:
        """Log one number; the arguments are those of `log_metrics`.

        Raises:
            BadInputError: The key, the value, the step or an option can't be recorded, and bad input raises.
        """
        return self.log_metrics({key: value}, step, synchronous, run_id, timestamp, model_id, dataset)

    def log_metrics(  # noqa: PLR0917 - MLflow's own arguments, in its order
        self,
        metrics: Mapping[str, float],
        step: int | None = None,
        synchronous: bool | None = None,
        run_id: str | None = None,
        timestamp: int | None = None,
        model_id: str | None = None,
        dataset: Any = None,
    ) -> Receipt:
        """Log numbers measured at one moment.

        Args:
            metrics: Number by key.
            step: An integer from 0; None is stored as 0.
            synchronous: Accepted: no call waits.
            run_id: A run of this writer; by default the active one.
            timestamp: When, milliseconds since the epoch; now by default.
            model_id: The model that they speak of: its name, or MLflow's own id of one.
            dataset: What they were measured on: a dataset of `mlflow.data`.

        Raises:
            BadInputError: A key, a value, the step or an option can't be recorded, and bad input raises.
        """
        return self._to(run_id, lambda to: payloads.log_metrics(to, metrics, step, timestamp, model_id, dataset))

    def log_param(self, key: str, value: Any, synchronous: bool | None = None) -> Receipt:
        """Log one parameter; what is no number and no text becomes its text.

        Raises:
            BadInputError: The key or the value can't be recorded, and bad input raises.
        """
        return self.log_params({key: value}, synchronous)

    @also_named(values="params")
    def log_params(
        self,
        params: Mapping[str, Any],
        synchronous: bool | None = None,
        run_id: str | None = None,
    ) -> Receipt:
        """Log parameters; what is no number and no text becomes its text.

        Raises:
            BadInputError: A key, a value or an option can't be recorded, and bad input raises.
        """
        return self._to(run_id, lambda to: to.log_params(params))

    @also_named(tag="value")
    def set_tag(self, key: str, value: Any, synchronous: bool | None = None) -> Receipt:
        """Label the run; a later label replaces an earlier one.

        Raises:
            BadInputError: The key or the value can't be recorded, and bad input raises.
        """
        return self.set_tags({key: value}, synchronous)

    def set_tags(self, tags: Mapping[str, Any], synchronous: bool | None = None) -> Receipt:
        """Label the run; a later label replaces an earlier one.

        Raises:
            BadInputError: A key or value can't be recorded, and bad input raises.
        """
        return self._active_writer().set_tags(tags)

    def delete_tag(self, key: str) -> Receipt:
        """Take a label of the run away.

        Raises:
            BadInputError: The key can't be recorded, and bad input raises.
        """
        return payloads.delete_tags(self._active_writer(), [key])

    # --- files ----------------------------------------------------------------------------------------------

    @also_named(artifact_file_path="artifact_file")
    def log_text(self, text: str, artifact_file: str, run_id: str | None = None) -> Receipt:
        """Log a text as a file.

        Args:
            text: The text.
            artifact_file: Path of the file within the run.
            run_id: A run of this writer; by default the active one.

        Raises:
            BadInputError: The path, the text or an option can't be recorded, and bad input raises.
        """
        return self._to(run_id, lambda to: payloads.log_text(to, text, artifact_file))

    def log_dict(self, dictionary: dict[str, Any], artifact_file: str, run_id: str | None = None) -> Receipt:
        """Log a dict or a list as a file: YAML where it is called so, else JSON.

        Raises:
            BadInputError: It can't be written so, or the path or an option is not legal, and bad input raises.
            MissingExtraError: It is YAML, and PyYAML is not installed here.
        """
        return self._to(run_id, lambda to: payloads.log_dict(to, dictionary, artifact_file))

    def log_figure(self, figure: Any, artifact_file: str, *, save_kwargs: dict[str, Any] | None = None) -> Receipt:
        """Draw a figure of matplotlib or Plotly and log it as a file, in the form that its suffix says.

        Raises:
            BadInputError: It is no figure, or the path is not legal, and bad input raises.
        """
        return payloads.log_figure(self._active_writer(), figure, artifact_file, save_kwargs)

    def log_image(  # noqa: PLR0917 - MLflow's own arguments, in its order
        self,
        image: Any,
        artifact_file: str | None = None,
        key: str | None = None,
        step: int | None = None,
        timestamp: int | None = None,
        synchronous: bool | None = False,
    ) -> Receipt:
        """Log a picture as a file, or under a key at a step.

        Args:
            image: Pixels as an array of height x width (x channels), integers from 0 to 255 or floats from 0 to 1; or a
                picture of Pillow, or an `mlflow.Image`.
            artifact_file: Path of the file within the run.
            key: Its name, where it is one of several over the steps.
            step: An integer from 0; None is stored as 0.
            timestamp: When, milliseconds since the epoch; now by default.
            synchronous: Accepted: no call waits.

        Raises:
            BadInputError: It is no picture, or can't be recorded so, and bad input raises.
        """
        return log_image(self._active_writer(), image, artifact_file, key, step, timestamp)

    def log_table(self, data: Any, artifact_file: str, run_id: str | None = None) -> Receipt:
        """Log rows of a table: a dict of columns or a DataFrame; they follow those that are in the file.

        Raises:
            BadInputError: It is no table, or can't be recorded, and bad input raises.
        """
        return self._to(run_id, lambda to: log_table(to, data, artifact_file))

    def log_artifact(self, local_path: str, artifact_path: str | None = None, run_id: str | None = None) -> Receipt:
        """Log a file, or a folder under its own name.

        Raises:
            BadInputError: It can't be read, or its path is not legal, and bad input raises.
        """
        return self._to(run_id, lambda to: payloads.log_files(to, local_path, artifact_path))

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None, run_id: str | None = None) -> Receipt:
        """Log all files of a folder.

        Raises:
            BadInputError: It can't be read, or a path is not legal, and bad input raises.
        """
        return self._to(run_id, lambda to: payloads.log_folder(to, local_dir, artifact_path))

    def log_stream(self, stream: Any, artifact_file: str, run_id: str | None = None) -> Receipt:
        """Log what a binary stream holds as a file.

        Raises:
            BadInputError: It is no stream, or the path is not legal, and bad input raises.
        """
        return self._to(run_id, lambda to: payloads.log_stream(to, stream, artifact_file))

    # --- datasets and models --------------------------------------------------------------------------------

    def log_input(
        self,
        dataset: Any = None,
        context: str | None = None,
        tags: dict[str, str] | None = None,
        model: Any = None,
    ) -> Receipt:
        """Log a dataset of `mlflow.data` that the run used, or a model.

        Raises:
            BadInputError: It is no dataset, or can't be recorded, and bad input raises.
        """
        uses = [] if dataset is None else [(dataset, context, tags)]
        return payloads.log_inputs(self._active_writer(), uses, [] if model is None else [model])

    def log_inputs(
        self,
        datasets: Sequence[Any] | None = None,
        contexts: Sequence[str | None] | None = None,
        tags_list: Sequence[dict[str, str] | None] | None = None,
        models: Sequence[Any] | None = None,
    ) -> Receipt:
        """Log datasets of `mlflow.data` that the run used, each with its context and tags.

        Raises:
            BadInputError: The lists have different lengths, or one is no dataset, and bad input raises.
        """
        lists = (datasets or [], contexts or [], tags_list or [])
        if len({len(one) for one in lists}) > 1:
            self._note("datasets", "datasets, contexts and tags_list have different lengths: give each its place")
        uses = [use for use in zip(*lists, strict=False) if use[0] is not None]
        return payloads.log_inputs(self._active_writer(), uses, [one for one in models or () if one is not None])

    def log_outputs(self, models: list[Any] | None = None) -> Receipt:
        """Log that models which stand in the tracker already are the run's: MLflow's `LoggedModelOutput`.

        Raises:
            BadInputError: One of them can't be recorded, and bad input raises.
        """
        return payloads.log_outputs(self._active_writer(), models or [])

    def log_model(
        self,
        model: Any,
        name: str | None = None,
        *,
        flavor: str = "pytorch",
        registered_model_name: str | None = None,
        params: dict[str, Any] | None = None,
        tags: dict[str, Any] | None = None,
        model_type: str | None = None,
        step: int = 0,
        **save: Any,
    ) -> ModelReceipt:
        """Save a model with one of MLflow's flavors and log its files; `pytorch.log_model` has MLflow's own arguments.

        Args:
            model: The model, or the path of a folder that holds a saved one.
            name: What it is called; `model` by default.
            flavor: MLflow's module that saves it: `pytorch`, `sklearn`, ...
            registered_model_name: Under which name the receiver registers it.
            params: Its parameters.
            tags: Its labels.
            model_type: What kind it is.
            step: At which step it is as it is.
            save: What the flavor's `save_model` is told.

        Raises:
            BadInputError: It can't be saved or recorded, and bad input raises.
            MissingExtraError: MLflow, or what the flavor needs, is not installed here.
        """
        return log_any_model(
            self._active_writer(),
            model,
            name,
            flavor,
            save,
            registered_model_name=registered_model_name,
            params=params,
            tags=tags,
            model_type=model_type,
            step=step,
        )
