"""How the metrics of a W&B run are shown: what the user has defined, and the user's step as axis for all else.

W&B's core looks for a key that has no definition of its own among the globs, in no order, and takes the first that
matches; our own `*` is one of them. So a key that a glob of the user's matches is defined by its name before its first
row: by the longest of the globs, where several match. That is one definition per key, as the core makes one itself.
Loads no SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventbus.tracking import MetricDefined
from receivers._wandb_proof import Proof
from receivers._wandb_rows import STEP, public

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from receivers._wandb_run import Run

EVERYTHING = "*"

_OPERATIONS = ("min", "max", "mean", "last", "first", "copy", "none")
_BEST = {"maximize": "max", "minimize": "min", None: "last"}


class Metrics:
    """Defines the metrics of one run.

    Args:
        run: The run, just opened.
        earlier: What its earlier files say of metrics, in order.
    """

    def __init__(self, run: Run, earlier: list[Any]) -> None:
        self._run = run
        self._named = {STEP}
        self._globs: dict[str, list[dict[str, Any]]] = {}  # what was said of each, by what its keys begin with
        self._with_axis: set[str] = set()
        self._covered: set[str] = set()
        run.define_metric(STEP, hidden=True)
        run.define_metric(EVERYTHING, step_metric=STEP, step_sync=False)
        for record in earlier:
            self._define_again(record)

    def define(self, event: MetricDefined, counts: Counter[str]) -> Proof:
        """Define a metric or a glob; one whose x-axis nobody names has the user's step, not our row's number."""
        has_axis = event.step_metric not in (None, "_step")
        wanted = [_BEST[event.goal] if one == "best" else one for one in event.summary]
        if wanted != event.summary or event.goal:
            counts["goal of a metric left out"] += 1
        name = public(event.name)
        keeps_axis = not has_axis and name in self._with_axis and not event.overwrite
        axis = public(event.step_metric) if event.step_metric and has_axis else STEP
        self._define(
            name,
            step_metric=None if keeps_axis else axis,
            step_sync=event.step_sync if has_axis else False,
            hidden=event.hidden,
            summary=",".join(one for one in wanted if one in _OPERATIONS) or None,
            overwrite=event.overwrite or None,
        )
        return Proof("metric", (name,))

    def cover(self, row: Mapping[str, Any]) -> None:
        """Define the keys of a row that are new and match a glob of the user's; to be called before it is logged."""
        if not self._globs:
            return
        for key in [key for key in row if key not in self._covered and not key.startswith("_")]:
            self._covered.add(key)
            begins = max((one for one in self._globs if key.startswith(one)), key=len, default=None)
            if begins is not None:
                self._cover(key, self._globs[begins], is_plain=isinstance(row[key], str | int | float))

    def _cover(self, key: str, said: list[dict[str, Any]], *, is_plain: bool) -> None:
        """Define one key as was said of a glob.

        The core judges a picture or a table by the fields that it consists of, and all of them have a `_type`: that has
        the axis, and stays in the summary as it is.
        """
        name = key if is_plain else f"{key}._type"
        if name in self._named:
            return
        self._named.add(name)
        for options in said:
            self._run.define_metric(name, **(options if is_plain else {**options, "summary": None}))

    def _define(self, name: str, **options: Any) -> None:
        self._run.define_metric(name, **options)
        if options["step_metric"] not in (None, STEP):
            self._with_axis.add(name)
        elif options["step_metric"]:
            self._with_axis.discard(name)
        if not name.endswith("*"):
            self._named.add(name)
            return
        said = self._globs.setdefault(name.removesuffix("*"), [])
        if options["overwrite"]:
            said.clear()
        if options not in said:
            said.append(options)
        self._covered.clear()  # what was none of a glob's so far may be one of this one's

    def _define_again(self, record: Any) -> None:
        """Define a metric as a record of an earlier file says."""
        name, axis = record.name or record.glob_name, record.step_metric or None
        summary = ",".join(one for one in _OPERATIONS if getattr(record.summary, one)) or None
        options = record.options
        if name == EVERYTHING and axis == STEP and not (options.step_sync or options.hidden or summary):
            return  # our own
        self._define(
            name,
            step_metric=axis,
            step_sync=options.step_sync,
            hidden=options.hidden,
            summary=summary,
            overwrite=record._control.overwrite or None,  # noqa: SLF001 - the SDK's name for it
        )
