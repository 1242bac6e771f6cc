"""A look-alike of TensorBoard's `SummaryWriter`: the same methods, and no SDK behind them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventbus import Receipt, Scope
from eventbus.tracking import MetricsLogged, StyledMetricsLogged
from writers._folders import run_of_folder
from writers._look_alike import also_named
from writers._mode import bus_for
from writers._summary_arrays import ArrayMethods
from writers._summary_charts import ChartMethods
from writers._summary_media import MediaMethods
from writers._values import squeezed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from eventbus._bus import Bus
    from writers._intake import OnBadInput


class SummaryWriter(MediaMethods, ArrayMethods, ChartMethods):
    """Logs with the methods of `torch.utils.tensorboard.SummaryWriter`; each returns a `Receipt`.

    Where the files go is the receiver's choice. A `log_dir` tells runs apart, as it does in TensorBoard: the first one
    on a bus stands for the bus's own run, and each other one for a run of its own that is called by its last part.

    Args:
        log_dir: Returned by `get_logdir`, and the attribute of that name.
        comment: Ends the name that `get_logdir` returns where no `log_dir` is given.
        purge_step: Accepted, and hides nothing: what was logged before a restart stays.
        max_queue: Accepted. Every call is in the journal when it returns.
        flush_secs: Accepted, for the same reason.
        filename_suffix: Accepted.
        bus: Where to publish; by default the current bus.
        run: Id of the run; by default that of the `log_dir`.
        scope: Whether what is logged stays at its site or may cross to the server; by default what the bus says.
        on_bad_input: Whether what can't be recorded raises, or is left out and counted.
    """

    def __init__(  # noqa: PLR0917 - TensorBoard's own arguments, in its order
        self,
        log_dir: str | PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: int = 120,
        filename_suffix: str = "",
        *,
        bus: Bus | None = None,
        run: str | None = None,
        scope: Scope | None = None,
        on_bad_input: OnBadInput = "raise",
    ) -> None:
        bus = bus_for(bus)
        own = run if run or not log_dir else run_of_folder(bus, os.fspath(log_dir), scope)
        super().__init__(bus=bus, run=own, scope=scope, on_bad_input=on_bad_input)
        self._log_dir = str(log_dir) if log_dir else f"runs/{self.tracking.run}{comment}"

    @property
    def log_dir(self) -> str:
        """What `get_logdir` returns."""
        return self.get_logdir()

    @also_named(scalar="scalar_value")
    def add_scalar(  # noqa: PLR0917 - TensorBoard's own arguments, in its order
        self,
        tag: str,
        scalar_value: Any,
        global_step: Any = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> Receipt:
        """Log one number.

        Args:
            tag: Its name.
            scalar_value: A number, a numpy scalar, or an array or tensor of one number.
            global_step: An integer from 0; None is stored as 0.
            walltime: When, seconds since the epoch; now by default.
            new_style: Whether TensorBoard stores it as a tensor, not as a simple value.
            double_precision: Whether TensorBoard stores it in double precision; only where `new_style` is set.

        Raises:
            BadInputError: The tag, the value or the step can't be recorded, and bad input raises.
        """
        moment = self._moment(walltime)
        values = {tag: scalar_value if type(scalar_value) is float else squeezed(scalar_value)}
        if not (new_style or double_precision):
            return self.tracking.log(values, global_step, time_ns=moment)
        plain = self.tracking.intake.metrics(values, global_step)
        return self.tracking.publish([_styled(one, new_style, double_precision) for one in plain], values, moment)

    @also_named(tag="main_tag", scalars="tag_scalar_dict")
    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: Mapping[str, Any],
        global_step: Any = None,
        walltime: float | None = None,
    ) -> Receipt:
        """Log numbers that are drawn in one chart.

        Args:
            main_tag: Name of the chart.
            tag_scalar_dict: Number by name within the chart.
            global_step: An integer from 0; None is stored as 0.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: A tag, a value or the step can't be recorded, and bad input raises.
        """
        moment = self._moment(walltime)
        values = _all_squeezed(tag_scalar_dict)
        return self.tracking.log(values, global_step, time_ns=moment, main_tag=main_tag)

    def add_text(self, tag: str, text_string: str, global_step: Any = None, walltime: float | None = None) -> Receipt:
        """Log a text.

        Args:
            tag: Its name.
            text_string: The text.
            global_step: An integer from 0; None is stored as 0.
            walltime: When, seconds since the epoch; now by default.

        Raises:
            BadInputError: The tag, the text or the step can't be recorded, and bad input raises.
        """
        moment = self._moment(walltime)
        events = self.tracking.intake.text(tag, text_string, global_step)
        return self.tracking.publish(events, {tag: text_string}, moment)

    def get_logdir(self) -> str:
        """Return `log_dir` as it was given, else `runs/<run><comment>`.

        The folder is made, for a script that saves something beside; the event files are the receiver's.
        """
        with suppress(OSError):  # whoever writes there is told
            Path(self._log_dir).mkdir(parents=True, exist_ok=True)
        return self._log_dir

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "log_dir": self._log_dir}


def _styled(event: MetricsLogged, new_style: bool, double_precision: bool) -> StyledMetricsLogged:
    return StyledMetricsLogged(
        values=event.values, step=event.step, new_style=new_style, double_precision=double_precision
    )


def _all_squeezed(values: Any) -> Any:
    """Squeeze the values of a mapping; what is none is refused where it is logged."""
    return {name: squeezed(value) for name, value in values.items()} if hasattr(values, "items") else values
