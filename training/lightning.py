"""The client API for scripts that train with PyTorch Lightning: `import training.lightning as flare`.

    trainer = Trainer(max_epochs=1, logger=flare.logger())
    flare.patch(trainer)
    while flare.is_running():
        trainer.validate(model, datamodule=data)    # how good is the model that came
        trainer.fit(model, datamodule=data)         # train it, and send what came of it

`patch` has `validate` and `fit` begin with the weights that the site was sent. `fit` answers the task with the trained
weights, what `validate` has measured before it, and the number of steps. A task to validate is answered by `validate`
or `test`: call one of them `if flare.is_evaluate()`, else `fit`. `test` and `predict` after `fit` take the weights as
they are.

Works with the package `pytorch_lightning` and with `lightning`: with the one that the script has imported, so import it
first.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from eventbus.errors import MissingExtraError
from training.abc import VALIDATE
from training.client import (
    AnalyticsDataType,
    FLModel,
    ParamsType,
    get_config,
    get_job_id,
    get_site_name,
    get_task_name,
    init,
    is_evaluate,
    is_running,
    is_submit_model,
    is_train,
    log,
    receive,
    send,
    shutdown,
    system_info,
)
from training.errors import ClientError
from training.fl_model import MetaKey
from writers import TrackingWriter

if TYPE_CHECKING:
    from argparse import Namespace

    import pytorch_lightning as pl
    from pytorch_lightning.callbacks import Callback
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.utilities import rank_zero_only

__all__ = [
    "AnalyticsDataType",
    "FLCallback",
    "FLModel",
    "ParamsType",
    "RestoreState",
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
    "logger",
    "patch",
    "receive",
    "send",
    "shutdown",
    "system_info",
]

META = "__fl_meta__"
"""Attribute of a module that holds more meta for the server: a dict."""

PACKAGES = ("pytorch_lightning", "lightning.pytorch")
"""Names under which Lightning is installed; their classes don't mix."""

_logger = logging.getLogger("trackbus.client")


def _framework() -> str:
    """Return the name of the package that the script uses, else of one that is installed."""
    installed = [name for name in PACKAGES if importlib.util.find_spec(name.partition(".")[0])]
    if not installed:
        raise MissingExtraError("PyTorch Lightning is not installed: pip install 'trackbus[lightning]'")
    return next((name for name in installed if name in sys.modules), installed[0])


if not TYPE_CHECKING:
    _package = _framework()
    Callback = importlib.import_module(f"{_package}.callbacks").Callback
    Logger = importlib.import_module(f"{_package}.loggers").Logger
    rank_zero_only = importlib.import_module(f"{_package}.utilities").rank_zero_only


def patch(
    trainer: pl.Trainer,
    restore_state: bool = True,
    load_state_dict_strict: bool = True,
    update_fit_loop: bool = True,
) -> None:
    """Have a trainer receive the global weights and send what it has trained and measured. A second call does nothing.

    Args:
        trainer: The trainer; it goes on from round to round.
        restore_state: Whether optimizers, learning-rate schedules and the gradient scaler go on where the round before
            left them; else each round begins with new ones.
        load_state_dict_strict: Whether every weight that was sent must be in the module, and the other way round. Else
            what only one of them has stays as it is, with a warning.
        update_fit_loop: Whether `max_epochs` and `max_steps` count per round; else they count over all rounds.

    Raises:
        ClientError: This process was not started by a job, or its site does not take it.
    """
    callbacks = _callbacks(trainer)
    if not any(isinstance(callback, FLCallback) for callback in callbacks):
        callbacks.append(FLCallback(trainer.global_rank, load_state_dict_strict, update_fit_loop))
    if restore_state and not any(isinstance(callback, RestoreState) for callback in callbacks):
        callbacks.append(RestoreState())


def _callbacks(trainer: Any) -> list[Callback]:
    """Return the list itself: Lightning sets it where no type checker sees it."""
    return trainer.callbacks


class FLCallback(Callback):
    """What `patch` adds to a trainer: receives before `validate` and `fit`, and sends after `fit`.

    On several ranks rank 0 talks to the site and broadcasts what it gets.

    Args:
        rank: Global rank of this process.
        load_state_dict_strict: As in `patch`.
        update_fit_loop: As in `patch`.

    Raises:
        ClientError: This process was not started by a job, or its site does not take it.
    """

    def __init__(
        self,
        rank: int = 0,
        load_state_dict_strict: bool = True,
        update_fit_loop: bool = True,
    ) -> None:
        super().__init__()
        init(rank=rank)
        self._is_strict = load_state_dict_strict
        self._counts_per_round = update_fit_loop
        self._limits: tuple[int | None, int] | None = None
        self._first_step = 0
        self._has_trained = False
        self._forget()

    def _forget(self) -> None:
        self._task: str | None = None
        self._metrics: dict[str, float] | None = None

    # --- fit ---------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch whether there is anything to train on: if not, Lightning skips the training without a word."""
        self._has_trained = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the global weights; without a task there is nothing to train."""
        self._has_trained = True
        self._begin(trainer, pl_module)
        if self._task is None:
            _logger.warning("there are no more tasks, so nothing is trained: call fit() `while flare.is_running()`")
            trainer.should_stop = True
        if self._task == VALIDATE:
            raise ClientError("this task is to validate: call trainer.validate() `if flare.is_evaluate()`, else fit()")
        self._first_step = trainer.global_step
        self._limits = self._limits or (trainer.max_epochs, trainer.max_steps)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Answer with the trained weights."""
        if self._task is None:
            return
        params = trainer.strategy.lightning_module_state_dict()
        steps = {MetaKey.NUM_STEPS_CURRENT_ROUND: trainer.global_step - self._first_step}
        send(FLModel(params=params, metrics=self._metrics, meta=steps | getattr(pl_module, META, {})))
        self._forget()
        trainer.num_sanity_val_steps = 0  # it was sane in the first round
        if self._counts_per_round:
            self._allow_another_round(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise where a task can't be answered: `while flare.is_running()` would offer it for ever."""
        if self._has_trained:
            return
        self._begin(trainer, pl_module)
        if self._task is not None:
            raise ClientError(
                f"fit() has trained nothing, so the task {self._task!r} has no answer: there are no training batches "
                "(fewer samples than batch_size with drop_last=True, or limit_train_batches=0), or max_epochs or "
                "max_steps was reached in an earlier round"
            )

    def _allow_another_round(self, trainer: pl.Trainer) -> None:
        epochs, steps = self._limits or (None, -1)
        if epochs is not None and epochs >= 0:
            trainer.fit_loop.max_epochs = trainer.current_epoch + epochs
        if steps >= 0:
            trainer.fit_loop.epoch_loop.max_steps = trainer.global_step + steps

    # --- validate and test -------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the global weights, once for a task; validation within `fit` measures those in training."""
        if self._is_to_measure(trainer):
            self._begin(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was measured for the answer of `fit`; answer a task to validate with it."""
        if self._is_to_measure(trainer):
            self._measured(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the global weights if that is the task in hand; never wait for one."""
        is_asked = trainer.is_global_zero and is_evaluate()
        if trainer.strategy.broadcast(is_asked, src=0):
            self._begin(trainer, pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Answer a task to validate."""
        if self._task == VALIDATE:
            self._measured(trainer)

    def _is_to_measure(self, trainer: pl.Trainer) -> bool:
        return trainer.state.fn == "validate" and self._metrics is None

    def _measured(self, trainer: pl.Trainer) -> None:
        self._metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if self._task == VALIDATE:
            send(FLModel(metrics=self._metrics))
            self._forget()

    # --- the global weights ------------------------------------------------------------------------------------------

    def _begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Get the task in hand, or wait for one; the same task may be got again until it is answered."""
        model = receive()  # None at other ranks, and at once
        found = None if model is None else (get_task_name(), model.params)
        task = trainer.strategy.broadcast(found, src=0)
        self._task, params = task or (None, None)
        if params:
            _load(module, params, strict=self._is_strict)


def _load(module: torch.nn.Module, params: Mapping[str, Any], *, strict: bool) -> None:
    """Load weights into a module.

    Raises:
        ClientError: None of them is the module's; or some are not, or it has others, and that is not allowed; or a
            shape differs.
    """
    own = module.state_dict()
    sent = {name: torch.as_tensor(value) for name, value in params.items()}
    shapes = [
        f"{name}: {tuple(sent[name].shape)}, here {tuple(own[name].shape)}"
        for name in own.keys() & sent.keys()
        if sent[name].shape != own[name].shape
    ]
    if shapes:
        raise ClientError(f"the weights that were sent are of another shape: {'; '.join(sorted(shapes))}")
    unknown, missing = sorted(sent.keys() - own.keys()), sorted(own.keys() - sent.keys())
    if len(unknown) == len(sent) or (strict and (unknown or missing)):
        raise ClientError(
            f"the weights that were sent are not this module's: unknown here {unknown}, not sent {missing}; give the "
            "server the same module, or patch(trainer, load_state_dict_strict=False) where a part is meant to differ"
        )
    if unknown or missing:
        _logger.warning("weights that were sent and are unknown here: %s; not sent and left: %s", unknown, missing)
    module.load_state_dict({name: sent[name] for name in sent if name in own}, strict=False)


class RestoreState(Callback):
    """Has optimizers, learning-rate schedules and the gradient scaler go on where the `fit` before left them."""

    def __init__(self) -> None:
        super().__init__()
        self._optimizers: list[dict[str, Any]] = []
        self._schedulers: list[dict[str, Any]] = []
        self._scaler: dict[str, Any] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the states back."""
        if not self._optimizers:
            return
        trainer.strategy.load_optimizer_state_dict({"optimizer_states": self._optimizers})
        for config, state in zip(trainer.lr_scheduler_configs, self._schedulers, strict=True):
            config.scheduler.load_state_dict(state)
        if self._scaler is not None and trainer.scaler is not None:
            trainer.scaler.load_state_dict(self._scaler)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the states."""
        self._optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
        self._schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        self._scaler = None if trainer.scaler is None else trainer.scaler.state_dict()


class logger(Logger):  # noqa: N801 - NVFLARE's own name
    """A Lightning logger: metrics, and hyperparameters, go to the job's trackers. `Trainer(logger=flare.logger())`.

    What can't be recorded is left out, counted, and warned about once: it does not end the training.

    Args:
        prefix: Put before every metric's name, joined by a hyphen.
    """

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self._writer = TrackingWriter(prefix=f"{prefix}-" if prefix else "", on_bad_input="count")

    @property
    def name(self) -> str:
        """Name of the folder of checkpoints that Lightning makes where none is given."""
        return "trackbus"

    @property
    def version(self) -> str:
        """Id of the run."""
        return self._writer.run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers."""
        self._writer.log(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log hyperparameters, nested as they are, as the run's configuration."""
        self._writer.update_config(params if isinstance(params, Mapping) else vars(params))
