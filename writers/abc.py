"""What a look-alike of your own implements: methods with the names that your scripts know, and one call beneath them.

    class ScoreWriter(LogWriter):
        def score(self, name: str, value: float, step: int) -> Receipt:
            return self.write(name, value, AnalyticsDataType.SCALAR, step)

Whatever it logs fills every tracker, as what the other writers log does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from writers._look_alike import LookAlike
from writers._typed import AnalyticsDataType, log_typed

if TYPE_CHECKING:
    from eventbus import Receipt

__all__ = ["AnalyticsDataType", "LogWriter", "log_typed"]


class LogWriter(LookAlike):
    """Base of a look-alike of your own; it takes `bus`, `run`, `scope` and `on_bad_input`, as every look-alike does."""

    def write(
        self,
        tag: str,
        value: Any,
        data_type: AnalyticsDataType | None = None,
        global_step: int | None = None,
        **kwargs: Any,
    ) -> Receipt:
        """Log a value.

        Args:
            tag: Its name.
            value: A number, a text, a picture, a path, or a dict, as the data type has it.
            data_type: What it is; by default what `get_default_metric_data_type` says.
            global_step: Where on your own axis: an integer from 0. Parameters, tags and models have none.
            **kwargs: `path` of a text's or picture's file, `dataformats` of a picture. Any other is refused.

        Raises:
            BadInputError: The tag, the value, the step, the type or an option can't be recorded, and bad input raises.
        """
        kind = self.get_default_metric_data_type() if data_type is None else data_type
        return log_typed(self.tracking, tag, value, kind, global_step, **kwargs)

    def get_writer_name(self) -> str:
        """Return what people call this writer; by default the name of its class."""
        return type(self).__name__

    def get_default_metric_data_type(self) -> AnalyticsDataType:
        """Return what a value is that `write` is told nothing of; by default numbers by their own keys."""
        return AnalyticsDataType.METRICS

    def __repr__(self) -> str:
        return f"{self.get_writer_name()}(run={self.tracking.run!r}, scope={self.tracking.scope.name})"
