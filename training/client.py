"""The client API of a training script: `import training.client as flare`.

    flare.init()
    while flare.is_running():
        received = flare.receive()
        model.load_state_dict(received.params)
        ...
        flare.send(flare.FLModel(params=model.state_dict(), metrics={"accuracy": accuracy}))

The script is started by a job, within its site's process or by a command of its own; it is the same either way.
Names, arguments and rules are NVFLARE's; there is one session, so its `ctx` is accepted and has no effect. A task is
waited for without polling.

**Ranks.** Of a script on several ranks (torchrun, Lightning's ddp) rank 0 talks; it is known by `init(rank=)`, else by
`RANK`, else by `LOCAL_RANK` and `NODE_RANK`. On the others `is_running()` is False, `receive()` returns None and
`send()` does nothing; what asks for the task, and `log`, raise. So let rank 0 tell the others, with the means of the
training's own framework, whether there is a task, and broadcast the weights.

**The end.** When the job is over, or the site is gone, `is_running()` is False and `receive()` returns None. An answer
that a site still waits for and can't get raises a `ClientError`; one that nobody waits for any more is dropped with a
warning. A script that ends with a task in hand, or with an error, tells its site why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from training._decorators import evaluate, train
from training._session import open_session, session
from training.abc import SUBMIT_MODEL, TRAIN, VALIDATE
from training.errors import ClientError
from training.fl_model import FLModel, ParamsType
from writers.abc import AnalyticsDataType, log_typed

if TYPE_CHECKING:
    from eventbus import Receipt

__all__ = [
    "AnalyticsDataType",
    "ClientError",
    "FLModel",
    "ParamsType",
    "clear",
    "evaluate",
    "get_config",
    "get_job_id",
    "get_site_name",
    "get_task_name",
    "init",
    "is_evaluate",
    "is_running",
    "is_submit_model",
    "is_train",
    "log",
    "receive",
    "send",
    "shutdown",
    "system_info",
    "train",
]


def init(rank: str | int | None = None, config_file: str | None = None) -> None:
    """Meet the site that started this script. A second call does nothing.

    Args:
        rank: Global rank of this process; by default what its launcher says.
        config_file: Accepted: the site says what such a file would.

    Raises:
        BadInputError: The rank is not a number.
        ClientError: This process was not started by a job, or its site does not take it.
    """
    open_session(rank)


def is_running(ctx: object = None) -> bool:
    """Wait for the next task.

    Returns:
        True when there is one: `receive` returns its model. False when the job is over or the site is gone.

    Raises:
        DecodeError: The model that was sent can't be read here; the message says why.
    """
    return session().is_running()


def receive(timeout: float | None = None, ctx: object = None) -> FLModel | None:
    """Return the model of the task in hand; without one, wait for the next task.

    Until it is answered, the same model is returned again.

    Args:
        timeout: Seconds to wait; None waits for as long as the job goes on.
        ctx: Has no effect.

    Returns:
        The model; None when there is no task in time, or no more at all.

    Raises:
        DecodeError: The model that was sent can't be read here; the message says why.
    """
    return session().receive(timeout)


def send(model: FLModel, clear_cache: bool = True, ctx: object = None) -> None:  # noqa: FBT001, FBT002 - NVFLARE's
    """Answer the task in hand; returns when the answer is on its way.

    Where the job is to transfer differences (DIFF) and the model holds whole weights, the difference from those that
    were received is sent.

    Args:
        model: Params, metrics, or both. It is left as it is.
        clear_cache: Whether `receive` waits for the next task from now on; else it returns the same model until
            `clear` is called.
        ctx: Has no effect.

    Raises:
        BadInputError: A value of the model can't travel, or has no difference; the message names it.
        ClientError: There is no task to answer, the model is empty, or the site is gone and the answer is lost.
    """
    session().send(model, clear_cache)


def clear(ctx: object = None) -> None:
    """Forget the model that was received, after `send(..., clear_cache=False)`.

    Raises:
        ClientError: Its task is not answered.
    """
    session().clear()


def is_train(ctx: object = None) -> bool:
    """Tell whether the task in hand is to train."""
    return session().is_task(TRAIN)


def is_evaluate(ctx: object = None) -> bool:
    """Tell whether the task in hand is to validate a model."""
    return session().is_task(VALIDATE)


def is_submit_model(ctx: object = None) -> bool:
    """Tell whether the task in hand is to send the site's own best model."""
    return session().is_task(SUBMIT_MODEL)


def get_task_name(ctx: object = None) -> str:
    """Return the name of the task in hand.

    Raises:
        ClientError: There is none.
    """
    return session().get_task_name()


def system_info(ctx: object = None) -> dict[str, Any]:
    """Return `job_id` and `site_name`."""
    return session().system_info()


def get_config(ctx: object = None) -> dict[str, Any]:
    """Return what the job says to its scripts, `job_id` and `site_name` among it."""
    return session().get_config()


def get_job_id(ctx: object = None) -> str:
    """Return the name of the job."""
    return session().system_info()["job_id"]


def get_site_name(ctx: object = None) -> str:
    """Return the name of this site."""
    return session().system_info()["site_name"]


def log(key: str, value: Any, data_type: AnalyticsDataType, ctx: object = None, **kwargs: Any) -> Receipt:
    """Log a value to the job's trackers; legal from any thread. The writers in `writers` say more with less.

    Args:
        key: Its name.
        value: A number, a text, a picture, a path, or a dict, as the data type has it.
        data_type: What it is.
        ctx: Has no effect.
        **kwargs: `global_step`, `path` of a text's or picture's file, `dataformats` of a picture. Any other is refused.

    Raises:
        BadInputError: The key, the value, the step, the type or an option can't be recorded.
        ClientError: This is not rank 0.
    """
    return log_typed(session().writer, key, value, data_type, **kwargs)


def shutdown(ctx: object = None) -> None:
    """Leave the job: there are no more tasks for this script. A second call does nothing."""
    session().shutdown()
