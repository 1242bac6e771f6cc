"""When a training has done enough: pure."""

from __future__ import annotations

import logging
import math
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training._metrics import flatten_metrics
from training.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_logger = logging.getLogger("trackbus.training")

_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}

_CONDITION = re.compile(r"\s*(?P<key>[^<>=!]+?)\s*(?P<operator>>=|<=|==|!=|=|>|<)\s*(?P<target>[^\s<>=!]+)\s*")


@dataclass(frozen=True, slots=True)
class StopCondition:
    """When a metric is good enough.

    Attributes:
        key: The metric; `per_class/cat/f1` is that of a class.
        operator: `>=`, `<=`, `>`, `<`, `==` or `!=`.
        target: What it is compared with.
    """

    key: str
    operator: str
    target: float

    @classmethod
    def parse(cls, text: str) -> StopCondition:
        """Read a condition such as `accuracy >= 80`.

        Raises:
            JobError: It is none.
        """
        found = _CONDITION.fullmatch(text)
        try:
            if found and not math.isnan(target := float(found["target"])):
                return cls(found["key"], found["operator"], target)
        except ValueError:
            pass
        raise JobError(
            f"stop_cond={text!r} is not a condition: write a metric, one of {', '.join(_OPERATORS)} and a "
            "number, such as 'accuracy >= 80'"
        )

    def is_met(self, value: float) -> bool:
        """Whether a value is good enough; NaN never is."""
        return not math.isnan(value) and _OPERATORS[self.operator](value, self.target)


class Stopping:
    """Decides after each round whether the training goes on.

    Args:
        condition: When it is good enough.
        patience: After so many rounds in a row in which the metric came no closer to its target it ends, too.
    """

    def __init__(self, condition: StopCondition | None, patience: int | None = None) -> None:
        self._condition = condition
        self._patience = patience
        self._distance = math.inf
        self._idle = 0
        self._has_warned = False

    def judge(self, metrics: Mapping[str, Any] | None) -> str:
        """Take a round's metrics, and return why the training should end; "" if it should go on."""
        condition = self._condition
        if condition is None:
            return ""
        value = self._value(condition.key, flatten_metrics(metrics or {}))
        if value is None:
            return ""
        if condition.is_met(value):
            return f"{condition.key} is {value:g}, so {condition.operator} {condition.target:g}"
        return self._judge_progress(condition.key, abs(value - condition.target))

    def _judge_progress(self, key: str, distance: float) -> str:
        # A condition that is not met yet is met by coming closer to its target, whichever its operator.
        if distance < self._distance:  # not so of NaN
            self._distance, self._idle = distance, 0
        else:
            self._idle += 1
        if self._patience is None or self._idle < self._patience:
            return ""
        return f"{key} has not become better in {self._idle} rounds"

    def _value(self, key: str, metrics: Mapping[str, float]) -> float | None:
        if key not in metrics and not self._has_warned:
            self._has_warned = True
            given = ", ".join(sorted(metrics)) or "none"
            _logger.warning("stop_cond asks for the metric %r, which no site gave; given: %s", key, given)
        return metrics.get(key)
