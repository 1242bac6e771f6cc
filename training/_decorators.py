"""`@flare.train` and `@flare.evaluate`: a function that is given the model received, and whose result is sent."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast, overload

from training._session import AnySession, session
from training.abc import TRAIN
from training.errors import ClientError
from training.fl_model import FLModel

P = ParamSpec("P")
R = TypeVar("R")

ONLY_METRIC = "accuracy"
"""What a metric is called that a function returns as a mere number: what the model selector looks for by default."""


@overload
def train(_func: Callable[P, FLModel], /) -> Callable[P, FLModel]: ...
@overload
def train(_func: None = None, /) -> Callable[[Callable[P, FLModel]], Callable[P, FLModel]]: ...
def train(_func: Callable[..., FLModel] | None = None, /) -> Any:
    """Make a training function receive the model as its first argument, and send the one that it returns.

    Metrics that an `evaluate` function has measured for the same task go with it.

    Args:
        _func: The function, where the decorator is used bare.

    Raises:
        ClientError: When it is called, there is no task; or it returns no FLModel.
    """
    return _decorated(_func, _send_trained)


@overload
def evaluate(_func: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def evaluate(_func: None = None, /) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def evaluate(_func: Callable[..., Any] | None = None, /) -> Any:
    """Make an evaluation function receive the model as its first argument, and send the metrics that it returns.

    In a training task they wait for what `train` sends: call this one before. A mere number becomes the metric
    `accuracy`.

    Args:
        _func: The function, where the decorator is used bare.

    Raises:
        ClientError: When it is called, there is no task; or it returns nothing.
    """
    return _decorated(_func, _send_measured)


def _decorated(function: Callable[..., Any] | None, finish: Callable[[AnySession, Any], None]) -> Any:
    def decorate(decorated: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(decorated)
        first = next(iter(signature.parameters), None)
        if first is None:
            raise ClientError(f"{decorated.__name__}() takes no argument: its first one is given the model received")

        @wraps(decorated)
        def run(*args: Any, **kwargs: Any) -> Any:
            current = session()
            model = current.receive()
            if model is None:
                raise ClientError(f"there is no task for {decorated.__name__}(): call it `while flare.is_running()`")
            bound = signature.bind_partial(*args, **kwargs)
            bound.arguments[first] = model
            result = decorated(*bound.args, **bound.kwargs)
            if result is None:
                raise ClientError(f"{decorated.__name__}() returned nothing: it returns what is to be sent")
            finish(current, result)
            return result

        return run

    return decorate if function is None else decorate(function)


def _send_trained(current: AnySession, result: object) -> None:
    if not isinstance(result, FLModel):
        raise ClientError(f"a training function returns a flare.FLModel, not {type(result).__name__}")
    if current.measured is not None:
        result.metrics = current.measured
    current.send(result)


def _send_measured(current: AnySession, result: object) -> None:
    metrics = dict(cast("Mapping[str, Any]", result)) if isinstance(result, Mapping) else {ONLY_METRIC: result}
    if current.is_task(TRAIN):
        current.measured = metrics
    else:
        current.send(FLModel(metrics=metrics))
