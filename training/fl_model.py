"""What travels between the server and a training script: parameters, metrics and what is known of the round.

Names and rules are those of NVFLARE's `FLModel`, so its scripts run here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, cast

from eventbus.errors import BadInputError


class ParamsType(StrEnum):
    """What a model's `params` are: whole weights, or their difference from those that the site was sent."""

    FULL = "FULL"
    DIFF = "DIFF"


class MetaKey:
    """Keys of `FLModel.meta` that the server heeds.

    Attributes:
        NUM_STEPS_CURRENT_ROUND: What the site's update weighs in the average: steps, or samples.
        SITE_NAME: Who sent it; set by the server from the connection.
        CLIENT_NAME: The same, as aggregators written for NVFLARE ask for it.
        VALIDATE_TYPE: Of a validation task: whose model it is.
        SUBMIT_MODEL_NAME: Of a task that asks for a model: which one; see `ModelName`.
    """

    NUM_STEPS_CURRENT_ROUND = "NUM_STEPS_CURRENT_ROUND"
    SITE_NAME = "site_name"
    CLIENT_NAME = "client_name"
    VALIDATE_TYPE = "validate_type"
    SUBMIT_MODEL_NAME = "submit_model_name"


class ModelName:
    """Names of models that a site may be asked for (`submit_model`)."""

    BEST_MODEL = "best_model"
    FINAL_MODEL = "final_model"


class FLModel:
    """A model on its way between the server and a site.

    Args:
        params_type: What `params` are; FULL where params are given without it.
        params: Tensors or numpy arrays by name; any shapes. None where only metrics travel.
        optimizer_params: Tensors or numpy arrays by name, in the same form.
        metrics: Numbers by name; a metric by class is a dict of such numbers, with a `support` among them.
        start_round: Number of the job's first round.
        current_round: The round, from `start_round`; None outside rounds.
        total_rounds: How many rounds the job has.
        meta: What else is to be known; see `MetaKey`. JSON values.

    Raises:
        BadInputError: A type of params without params, metrics or meta that are not dicts, or a negative round.
    """

    def __init__(  # noqa: PLR0917 - NVFLARE's own arguments, in its order
        self,
        params_type: str | ParamsType | None = None,
        params: dict[str, Any] | None = None,
        optimizer_params: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        start_round: int | None = 0,
        current_round: int | None = None,
        total_rounds: int | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.params_type = _params_type(params_type, params)
        self.params = params
        self.optimizer_params = optimizer_params
        self.metrics = _dict("metrics", metrics)
        self.start_round = _round("start_round", start_round)
        self.current_round = _round("current_round", current_round)
        self.total_rounds = _round("total_rounds", total_rounds)
        self.meta = _dict("meta", meta) or {}

    def summary(self) -> dict[str, Any]:
        """Return what it holds, with the number of entries in place of what may be large."""
        held = cast("dict[str, object]", vars(self))
        return {
            name: len(cast("dict[str, object]", value)) if isinstance(value, dict) else value
            for name, value in held.items()
            if value
        }

    def __repr__(self) -> str:
        return f"FLModel({', '.join(f'{name}={value!r}' for name, value in self.summary().items())})"


def _params_type(given: str | ParamsType | None, params: object) -> ParamsType | None:
    if given is None:
        return None if params is None else ParamsType.FULL
    try:
        kind = ParamsType(given)
    except ValueError as error:
        raise BadInputError(f"params_type={given!r} is not known: use ParamsType.FULL or ParamsType.DIFF") from error
    if params is None:
        raise BadInputError(f"params_type is {kind.value}, but there are no params")
    return kind


def _dict(name: str, value: object) -> dict[str, Any] | None:
    if value is None or isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType] - keys are checked when it is sent
    raise BadInputError(f"{name} must be a dict, not {type(value).__name__}")


def _round(name: str, value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise BadInputError(f"{name}={value!r} is not a round: rounds are integers from 0")
