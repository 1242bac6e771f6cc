"""One round's updates on their way into the global model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from training._metrics import is_number, is_too_deep, merge_metrics
from training.abc import Contribution
from training.average import MAX_WEIGHT, ModelUpdate, WeightedAverage
from training.errors import JobError, UpdateRefusedError
from training.fl_model import FLModel, MetaKey, ParamsType
from training.model import State

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping

    from training.abc import Answer, ModelAggregator


class RoundUpdates:
    """Takes each site's update as it comes, and forgets it: held is one sum, however many sites there are.

    Args:
        sent: The global model that the sites were sent.
        weights: What a site's steps are multiplied with; 1 for a site that is not named.
        exclude: What is found in the names of variables that stay as they are.
        aggregator: Makes the new model in place of the weighted average; told that a round begins.
    """

    def __init__(
        self,
        sent: FLModel,
        weights: Mapping[str, float],
        exclude: re.Pattern[str] | None = None,
        aggregator: ModelAggregator | None = None,
    ) -> None:
        self._sent = sent
        self._state: State = sent.params or {}
        self._weights = weights
        self._average = WeightedAverage(self._state, exclude)
        self._aggregator = aggregator
        self._contributions: list[Contribution] = []
        if aggregator is not None:
            aggregator.reset_stats()

    @property
    def contributions(self) -> tuple[Contribution, ...]:
        """One for each update taken, by the names of the sites."""
        return tuple(sorted(self._contributions, key=lambda one: one.site))

    def accept(self, answer: Answer) -> None:
        """Take a site's update.

        Raises:
            UpdateRefusedError: It is of another round, has no weights or no steps, or does not fit the model.
        """
        model = answer.model
        steps = model.meta.get(MetaKey.NUM_STEPS_CURRENT_ROUND, 1.0)
        if reason := self._reason_to_refuse(model) or _explain_steps(steps):
            raise UpdateRefusedError(answer.site, reason)
        weight = steps * self._weights.get(answer.site, 1.0)
        self._take(answer.site, model, weight)
        self._contributions.append(Contribution(answer.site, weight, model.metrics or {}, steps))

    def result(self) -> FLModel:
        """Return the new global model, with the mean of what the sites measured on the one before.

        Its metrics don't depend on who came first. Its weights do, in float64's last bit: they are summed as they come.

        Raises:
            JobError: The aggregator has returned what does not fit the model.
        """
        metrics = merge_metrics((one.metrics, one.weight) for one in self.contributions)
        made = FLModel() if self._aggregator is None else self._aggregator.aggregate_model()
        return FLModel(
            params_type=ParamsType.FULL,
            params=self._average.result() if self._aggregator is None else self._apply(made),
            metrics=made.metrics or metrics,
            start_round=self._sent.start_round,
            current_round=self._sent.current_round,
            total_rounds=self._sent.total_rounds,
        )

    def _take(self, site: str, model: FLModel, weight: float) -> None:
        if self._aggregator is None:
            is_diff = model.params_type is ParamsType.DIFF
            self._average.add(ModelUpdate(site, model.params or {}, weight, is_diff=is_diff))
        else:
            model.meta[MetaKey.SITE_NAME] = model.meta[MetaKey.CLIENT_NAME] = site
            self._aggregator.accept_model(model)

    def _reason_to_refuse(self, model: FLModel) -> str:
        if not model.params:
            return "it holds no weights"
        if model.current_round not in {None, self._sent.current_round}:
            return f"it is of round {model.current_round}, and this is round {self._sent.current_round}"
        return "its metrics are nested too deep" if is_too_deep(model.metrics) else ""

    def _apply(self, made: FLModel) -> State:
        """Put what the aggregator returned into the global model, by the rules of the average."""
        if not made.params:
            raise JobError(f"{type(self._aggregator).__name__}.aggregate_model() returned no params")
        params = {name: torch.as_tensor(value) for name, value in made.params.items()}
        average = WeightedAverage({name: self._state[name] for name in params if name in self._state})
        try:
            average.add(ModelUpdate("server", params, 1, is_diff=made.params_type is ParamsType.DIFF))
        except UpdateRefusedError as error:
            name = type(self._aggregator).__name__
            raise JobError(f"what {name}.aggregate_model() returned does not fit the model: {error.reason}") from error
        return self._state | average.result()


def _explain_steps(steps: object) -> str:
    if is_number(steps) and 0 < steps <= MAX_WEIGHT:
        return ""
    return f"{MetaKey.NUM_STEPS_CURRENT_ROUND} is {steps!r}: it stands for no steps"
