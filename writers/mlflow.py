"""A look-alike of MLflow's module functions: the same names and arguments, and no SDK behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventbus import Receipt
from writers._look_alike import LookAlike, also_named

if TYPE_CHECKING:
    from collections.abc import Mapping

NS_PER_MILLISECOND = 1_000_000

_RUN_ADVICE = "it is an id of MLflow's own; name the run where the writer is made: MLflowWriter(run=...)"
_LINK_ADVICE = "log the value without it, and name it in a tag"


class MLflowWriter(LookAlike):
    """Logs with the functions of `mlflow`, from `log_metric` to `set_tags`.

    Each returns a `Receipt`, `log_param` too, where MLflow returns the value. `synchronous` is accepted and
    makes no difference: no call ever waits for a server. An option that would change what is logged, or
    where, and can't be honoured (`run_id`, `model_id`, `dataset`) is refused. That a parameter is set once is
    MLflow's own rule: a second value is recorded here, and refused by MLflow where the receiver writes it.
    """

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
            run_id: Refused: name the run where the writer is made.
            timestamp: When, milliseconds since the epoch; now by default.
            model_id: Refused; where bad input is counted, the numbers are logged without it.
            dataset: Refused; where bad input is counted, the numbers are logged without it.

        Raises:
            BadInputError: A key, a value, the step or an option can't be recorded, and bad input raises.
        """
        intake = self.tracking.intake
        intake.unsupported("model_id", model_id, _LINK_ADVICE)
        intake.unsupported("dataset", dataset, _LINK_ADVICE)
        moment = intake.moment("timestamp", timestamp, NS_PER_MILLISECOND)
        events = [] if self._is_other_run(run_id) else intake.metrics(metrics, step)
        return self.tracking.publish(events, metrics, moment)

    def log_param(self, key: str, value: Any, synchronous: bool | None = None) -> Receipt:
        """Log one parameter; what is no number and no text becomes its text.

        Raises:
            BadInputError: The key or the value can't be recorded, and bad input raises.
        """
        return self.log_params({key: value}, synchronous)

    @also_named(values="params")
    def log_params(
        self, params: Mapping[str, Any], synchronous: bool | None = None, run_id: str | None = None
    ) -> Receipt:
        """Log parameters; what is no number and no text becomes its text.

        Raises:
            BadInputError: A key, a value or an option can't be recorded, and bad input raises.
        """
        events = [] if self._is_other_run(run_id) else self.tracking.intake.params(params)
        return self.tracking.publish(events, params)

    @also_named(artifact_file_path="artifact_file")
    def log_text(self, text: str, artifact_file: str, run_id: str | None = None) -> Receipt:
        """Log a text as a file.

        Args:
            text: The text, up to 900 000 bytes.
            artifact_file: Path of the file within the run.
            run_id: Refused: name the run where the writer is made.

        Raises:
            BadInputError: The path, the text or an option can't be recorded, and bad input raises.
        """
        intake = self.tracking.intake
        events = [] if self._is_other_run(run_id) else intake.text(artifact_file, text, is_file=True)
        return self.tracking.publish(events, {artifact_file: text})

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
        return self.tracking.set_tags(tags)

    def _is_other_run(self, run_id: str | None) -> bool:
        return self.tracking.intake.unsupported("run_id", run_id, _RUN_ADVICE)
