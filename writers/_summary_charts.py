"""The methods of `SummaryWriter` that say how runs and charts are shown, and how a model computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

from eventbus import Receipt
from eventbus.errors import BadInputError
from eventbus.media import GraphLogged
from eventbus.tracking import Chart, ChartsArranged, HParamsLogged, Scalar
from writers._graph import traced
from writers._keys import check_key, shown
from writers._summary import Place, SummaryMethods
from writers._values import squeezed

GRAPH = "graph"
"""Under which name a graph travels: TensorBoard has one per run."""

BAND = 3
"""Tags of a line with a band: value, lower and upper bound."""


class ChartMethods(SummaryMethods):
    """Hyperparameters, custom charts and graphs."""

    def add_hparams(
        self,
        hparam_dict: Mapping[str, Any],
        metric_dict: Mapping[str, Any],
        hparam_domain_discrete: Mapping[str, Sequence[Any]] | None = None,
        run_name: str | None = None,
        global_step: Any = None,
    ) -> Receipt:
        """Log a set of hyperparameters with what it reached.

        Args:
            hparam_dict: Value by hyperparameter: a number, a text, a bool; None is left out.
            metric_dict: What was reached, by metric.
            hparam_domain_discrete: The values that a hyperparameter may have.
            run_name: Name of the session's own run; by default the time.
            global_step: An integer from 0; None is stored as 0.

        Raises:
            BadInputError: A name, a value or the step can't be recorded, and bad input raises.
        """
        name = run_name or "hparams"

        def make(at: Place) -> HParamsLogged:
            params = self._checked_params(hparam_dict)
            return HParamsLogged(
                params=params,
                metrics=self._checked_metrics(metric_dict),
                domain=_domain(hparam_domain_discrete or {}, params),
                run_name=run_name or "",
                step=at.step,
            )

        return self._log(name, make, global_step)

    def add_custom_scalars(self, layout: Mapping[str, Mapping[str, Sequence[Any]]]) -> Receipt:
        """Say which scalars are drawn together. A later layout replaces an earlier one.

        Args:
            layout: `{category: {title: [kind, tags]}}`; kind is `Multiline`, or `Margin` for a line with a band, whose
                tags are value, lower and upper bound.

        Raises:
            BadInputError: It is no such layout, and bad input raises.
        """
        return self._log("layout", lambda _at: ChartsArranged(charts=_charts(layout)))

    def add_custom_scalars_multilinechart(
        self, tags: Sequence[str], category: str = "default", title: str = "untitled"
    ) -> Receipt:
        """Draw several scalars in one chart.

        Args:
            tags: Their names, or regular expressions that match them.
            category: What the chart stands under.
            title: What it is called.

        Raises:
            BadInputError: A tag can't be recorded, and bad input raises.
        """
        return self.add_custom_scalars({category: {title: ["Multiline", tags]}})

    def add_custom_scalars_marginchart(
        self, tags: Sequence[str], category: str = "default", title: str = "untitled"
    ) -> Receipt:
        """Draw a scalar with a band.

        Args:
            tags: Names of the value, its lower and its upper bound.
            category: What the chart stands under.
            title: What it is called.

        Raises:
            BadInputError: They are not three, or can't be recorded, and bad input raises.
        """
        return self.add_custom_scalars({category: {title: ["Margin", tags]}})

    def add_graph(
        self, model: Any, input_to_model: Any = None, verbose: bool = False, use_strict_trace: bool = True
    ) -> Receipt:
        """Log how a model of torch computes: it is traced here, by torch, with TensorBoard's own helper.

        Args:
            model: The model.
            input_to_model: What it is called with: a tensor, or a tuple of them.
            verbose: Whether the graph is printed.
            use_strict_trace: Whether a trace refuses lists and dicts that the model changes.

        Raises:
            BadInputError: The model can't be traced with this input, and bad input raises.
            MissingExtraError: torch or tensorboard is not installed.
        """

        def make(at: Place) -> GraphLogged:
            graph, profile = traced(model, input_to_model, verbose=verbose, strict=use_strict_trace)
            return GraphLogged(key=at.key, graph=at.store.put(graph), profile=at.store.put(profile))

        return self._log(GRAPH, make)

    def add_onnx_graph(self, prototxt: str | PathLike[str]) -> Receipt:
        """Log how a model of ONNX computes.

        Args:
            prototxt: Path of the model's file.

        Raises:
            BadInputError: The file can't be read, and bad input raises.
        """

        def make(at: Place) -> GraphLogged:
            try:
                graph = at.store.put_file(Path(prototxt))
            except (OSError, TypeError) as error:
                raise BadInputError(f"add_onnx_graph({shown(prototxt)}): the file can't be read: {error}") from error
            return GraphLogged(key=at.key, graph=graph, kind="onnx")

        return self._log(GRAPH, make)

    def _checked_params(self, given: object) -> dict[str, Scalar]:
        if not isinstance(given, Mapping):
            raise BadInputError(f"hparam_dict is a {type(given).__name__}: pass a dict of value by hyperparameter")
        values = {name: squeezed(value) for name, value in cast("Mapping[str, Any]", given).items()}
        events = self.tracking.intake.params({name: value for name, value in values.items() if value is not None})
        return _one(events, "hparam_dict")

    def _checked_metrics(self, given: object) -> dict[str, float]:
        if not isinstance(given, Mapping):
            raise BadInputError(f"metric_dict is a {type(given).__name__}: pass a dict of number by metric")
        values = {name: squeezed(value) for name, value in cast("Mapping[str, Any]", given).items()}
        return _one(self.tracking.intake.metrics(values), "metric_dict")


def _one(events: Sequence[Any], name: str) -> dict[str, Any]:
    if len(events) > 1:
        raise BadInputError(f"{name} has more values than one record has room for: log fewer")
    return events[0].values if events else {}


def _domain(given: Any, params: Mapping[str, Scalar]) -> dict[str, list[Scalar]]:
    if not isinstance(given, Mapping):
        raise BadInputError(f"hparam_domain_discrete is a {type(given).__name__}: pass a dict of lists")
    domain = {name: list(values) for name, values in cast("Mapping[str, Sequence[Scalar]]", given).items()}
    for name, values in domain.items():
        if name not in params or not all(isinstance(one, type(params[name])) for one in values):
            raise BadInputError(
                f"hparam_domain_discrete[{shown(name)}] is not of hparam_dict[{shown(name)}]: pass a list of values of "
                "its type"
            )
    return domain


def _charts(layout: object) -> list[Chart]:
    charts: list[Chart] = []
    for category, titles in _items("layout", layout):
        charts += [_chart(category, title, described) for title, described in _items(category, titles)]
    return charts


def _items(name: object, given: object) -> Sequence[tuple[str, Any]]:
    if not isinstance(given, Mapping):
        raise BadInputError(
            f"{shown(name)} is a {type(given).__name__}: a layout is {{category: {{title: [kind, tags]}}}}"
        )
    return list(cast("Mapping[str, Any]", given).items())


def _chart(category: str, title: str, described: Any) -> Chart:
    try:
        kind, tags = described[0], [check_key(tag) for tag in described[1]]
    except (TypeError, LookupError) as error:
        raise BadInputError(f"the chart {shown(title)} is not [kind, tags], such as ['Multiline', ['loss']]") from error
    if kind == "Margin" and len(tags) != BAND:
        raise BadInputError(f"the chart {shown(title)} has {len(tags)} tags: Margin takes value, lower and upper bound")
    return Chart(title=title, category=category, kind="Margin" if kind == "Margin" else "Multiline", tags=tags)
