"""The server's part of a federation: average, measure, keep the best model and the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training._plan import RoundMetrics
from training._resume import FILE_NAME, LastRound, read_last_round
from training.average import ModelUpdate, WeightedAverage
from training.checkpoint import BestModel, load_state_file, save_last_round
from training.loop import evaluate
from training.model import State, build_model, get_state, load_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventbus import Receipt
    from training._plan import FederationConfig
    from training._site import RunLog
    from training.data import Dataset


def last_round(config: FederationConfig) -> LastRound | None:
    """Return how far the run got that is to be resumed, None where a new one begins.

    Raises:
        ConfigurationError: There is none, or it was trained with other settings.
    """
    if not config.resume:
        return None
    last = read_last_round(config.models_folder)
    last.check(config.settings(), config.run)
    return last


class Server:
    """Makes the global model of each round.

    Args:
        config: The federation's settings.
        data: What the global model is measured on.
        log: Where it logs.
        run: Id of the run; empty where nothing is tracked.
        last: How far the run got that is resumed.
    """

    def __init__(self, config: FederationConfig, data: Dataset, log: RunLog, run: str, last: LastRound | None) -> None:
        self._config = config
        self._test = data.test
        self._log = log
        self._run = run
        self._model = build_model(config.seed, data.classes)
        self.best = BestModel(config.models_folder)
        self.improved = False
        self.completed = 0
        if last is not None:
            load_state(self._model, load_state_file(config.models_folder / FILE_NAME))
            self.completed, self.improved = last.completed, last.has_best

    def describe(self) -> Receipt | None:
        """Log what is set once."""
        tags = {"role": "server", "samples": str(len(self._test))}
        if self._config.resume:
            tags["resumed_at_round"] = str(self.completed)
        return self._log.describe(self._config.params(), tags)

    def describe_best(self) -> None:
        """Log which round's model is kept, if it is one of this run."""
        if self.improved and (best := self.best.best):
            self._log.describe({}, {"best_round": str(best.round), "best_accuracy": f"{best.value:.4f}"})

    def state(self) -> State:
        """Return the global model."""
        return get_state(self._model)

    def keep(self) -> None:
        """Keep the global model, so that another process may go on from it; it blocks, so call it off the loop."""
        last = LastRound(self.completed, self._run, self._config.settings(), self.improved)
        save_last_round(self._config.models_folder, self._model.state_dict(), last)

    def conclude(self, round_number: int, updates: Sequence[ModelUpdate]) -> RoundMetrics:
        """Average the sites' models into the global one; it blocks, so call it off the loop.

        The model is kept last: where a process ends before, the round is trained and logged again, not left out.

        Raises:
            UpdateRefusedError: A site's model can't be averaged.
        """
        average = WeightedAverage(like=self._model.state_dict())
        for update in updates:
            average.add(update)
        load_state(self._model, average.result())
        result = evaluate(self._model, self._test)
        self._log.measure("global", result, round_number)
        metrics = {"loss": result.loss, "accuracy": result.accuracy}
        self.improved |= self.best.offer(self._model.state_dict(), round_number=round_number, metrics=metrics)
        self.completed = round_number + 1
        self.keep()
        sites = {update.site: update.metrics for update in updates}
        return RoundMetrics(round_number, result.loss, result.accuracy, sites)
