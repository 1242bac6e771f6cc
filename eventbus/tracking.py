"""The vocabulary of experiment tracking: its events and their topic.

Every writer publishes these and every receiver understands them, so any writer's events fill any tracker.
Metric values may be NaN or infinite: they round-trip.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from eventbus._event import Part
from eventbus._topic import Topic
from eventbus._tracking import MAX_KEY_LENGTH, MAX_KEYS, Key, KeyedEvent, Scalar, Step, TrackingEvent
from eventbus.artifacts import ArtifactLogged, DatasetLogged, ModelLogged
from eventbus.media import (
    AudioLogged,
    EmbeddingLogged,
    FigureLogged,
    GraphLogged,
    HistogramLogged,
    HtmlLogged,
    ImagesLogged,
    MeshLogged,
    MoleculeLogged,
    Object3DLogged,
    PlotlyLogged,
    PrCurveLogged,
    TableLogged,
    TensorLogged,
    VideoLogged,
)

__all__ = [
    "MAX_KEYS",
    "MAX_KEY_LENGTH",
    "TRACKING",
    "TRACKING_EVENTS",
    "AlertRaised",
    "Chart",
    "ChartsArranged",
    "ConfigUpdated",
    "HParamsLogged",
    "Key",
    "KeyedEvent",
    "LinkedMetricsLogged",
    "MetricDefined",
    "MetricsLogged",
    "ParamsLogged",
    "RunFinished",
    "RunStarted",
    "RunStatus",
    "Scalar",
    "Step",
    "StyledMetricsLogged",
    "SummaryUpdated",
    "TagsDeleted",
    "TagsSet",
    "TextLogged",
    "TrackingEvent",
]


class RunStatus(Enum):
    """How a run ended, in the words of the trackers."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


class RunStarted(TrackingEvent):
    """A run began, or went on after a restart.

    Attributes:
        name: How people call the run.
        group: What its sibling runs at other sites share: the job.
        parent: Id of the run that it is nested in; empty for none.
    """

    name: Key
    group: str = ""
    parent: str = ""


class RunFinished(TrackingEvent):
    """A run ended: with success, by an error, or killed."""

    event_urgent: ClassVar[bool] = True

    status: Literal["FINISHED", "FAILED", "KILLED"]
    reason: str = ""


class MetricsLogged(TrackingEvent):
    """Numbers measured at one moment.

    Attributes:
        values: Number by key.
        step: Where on the user's axis; None where the caller gave no step.
        main_tag: For numbers drawn in one chart (`add_scalars`): the tag that they share.
    """

    values: dict[Key, float] = Field(min_length=1, max_length=MAX_KEYS)
    step: Step | None = None
    main_tag: Key | None = None

    @property
    def event_subject(self) -> Hashable:
        """Which metrics."""
        return self.main_tag, *self.values


class StyledMetricsLogged(MetricsLogged):
    """Numbers with a say in how TensorBoard stores them; to other trackers they are metrics as any.

    Attributes:
        new_style: As a tensor of the scalars plugin, not as a simple value.
        double_precision: In double precision; otherwise in single.
    """

    new_style: bool = False
    double_precision: bool = False


class LinkedMetricsLogged(MetricsLogged):
    """Numbers that speak of a model, or were measured on a dataset.

    Attributes:
        model: Name of the logged model, see `ModelLogged.key`; or a tracker's own id of one.
        dataset_name: Name of the dataset.
        dataset_digest: Its digest.
    """

    model: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class MetricDefined(TrackingEvent):
    """How a metric is to be shown: W&B's `define_metric`.

    Attributes:
        name: The metric, or a glob that ends with `*`.
        step_metric: The metric that is its x-axis.
        step_sync: Whether the last value of that one is added to rows that lack it; None leaves it to the tracker.
        hidden: Whether it has no chart of its own.
        summary: What stands for its whole history: `min`, `max`, `mean`, `last`, `first`, `best`, `copy`, `none`.
        goal: Which way is better: `minimize` or `maximize`.
        overwrite: Whether this replaces what was said before, rather than adds to it.
    """

    name: Key
    step_metric: Key | None = None
    step_sync: bool | None = None
    hidden: bool | None = None
    summary: list[str] = Field(default=[])
    goal: Literal["minimize", "maximize"] | None = None
    overwrite: bool = False

    @property
    def event_subject(self) -> Hashable:
        """Which metric."""
        return self.name


class SummaryUpdated(TrackingEvent):
    """Values that stand for the whole run, nested; later ones replace earlier ones key by key."""

    values: dict[Key, JsonValue] = Field(min_length=1, max_length=MAX_KEYS)

    @property
    def event_subject(self) -> Hashable:
        """Which values."""
        return tuple(self.values)


class HParamsLogged(TrackingEvent):
    """A set of hyperparameters with what it reached: TensorBoard's `add_hparams`.

    Attributes:
        params: Value by hyperparameter.
        metrics: What was reached, by metric.
        domain: The values that a hyperparameter may have, where they were given.
        run_name: Name of the session's own run; empty where none was given.
        step: Where on the user's axis; None where the caller gave no step.
    """

    params: dict[Key, Scalar] = Field(max_length=MAX_KEYS)
    metrics: dict[Key, float] = Field(max_length=MAX_KEYS)
    domain: dict[Key, list[Scalar]] = Field(default={})
    run_name: str = ""
    step: Step | None = None


class Chart(Part):
    """A chart of several metrics.

    Attributes:
        title: What it is called.
        category: What it stands under.
        kind: Lines, or a line with a band: then the tags are value, lower and upper bound, by threes.
        tags: The metrics, or regular expressions that match them.
    """

    title: str
    category: str = ""
    kind: Literal["Multiline", "Margin"] = "Multiline"
    tags: list[Key] = Field(min_length=1, max_length=MAX_KEYS)


class ChartsArranged(TrackingEvent):
    """Which metrics are drawn together: TensorBoard's `add_custom_scalars`. A later one replaces an earlier one.

    Attributes:
        charts: The charts, in order.
    """

    charts: list[Chart] = Field(min_length=1, max_length=MAX_KEYS)


class AlertRaised(TrackingEvent):
    """Something that a person should see.

    Attributes:
        title: In one line.
        text: What happened.
        level: How bad it is.
        wait_seconds: An alert of the same title within so many seconds is not sent again.
    """

    event_urgent: ClassVar[bool] = True

    title: Key
    text: str
    level: Literal["INFO", "WARN", "ERROR"] = "INFO"
    wait_seconds: float = 60.0

    @property
    def event_subject(self) -> Hashable:
        """Which alert."""
        return self.title


class ParamsLogged(TrackingEvent):
    """Parameters of the run: set once, not measured."""

    values: dict[Key, Scalar] = Field(min_length=1, max_length=MAX_KEYS)

    @property
    def event_subject(self) -> Hashable:
        """Which parameters."""
        return tuple(self.values)


class TagsSet(TrackingEvent):
    """Labels of the run; a later one replaces an earlier one."""

    values: dict[Key, str] = Field(min_length=1, max_length=MAX_KEYS)

    @property
    def event_subject(self) -> Hashable:
        """Which labels."""
        return tuple(self.values)


class TagsDeleted(TrackingEvent):
    """Labels of the run that were taken away."""

    keys: list[Key] = Field(min_length=1, max_length=MAX_KEYS)

    @property
    def event_subject(self) -> Hashable:
        """Which labels."""
        return tuple(self.keys)


class ConfigUpdated(TrackingEvent):
    """Nested configuration of the run; later values replace earlier ones key by key."""

    values: dict[Key, JsonValue] = Field(min_length=1, max_length=MAX_KEYS)

    @property
    def event_subject(self) -> Hashable:
        """Which settings."""
        return tuple(self.values)


class TextLogged(KeyedEvent):
    """A text.

    Attributes:
        text: The text itself.
        is_file: Whether `key` is the path of a file, as MLflow's `log_text` has it, or a tag.
    """

    text: str
    is_file: bool = False


TRACKING: Topic[TrackingEvent] = Topic(TrackingEvent.event_topic, TrackingEvent)
"""All tracking events of this bus; `TRACKING.federated` only those that may cross to a server."""

TRACKING_EVENTS: tuple[type[TrackingEvent], ...] = (
    RunStarted,
    RunFinished,
    MetricsLogged,
    StyledMetricsLogged,
    LinkedMetricsLogged,
    MetricDefined,
    SummaryUpdated,
    HParamsLogged,
    ChartsArranged,
    ParamsLogged,
    ConfigUpdated,
    TagsSet,
    TagsDeleted,
    AlertRaised,
    TextLogged,
    HistogramLogged,
    PrCurveLogged,
    TensorLogged,
    MeshLogged,
    EmbeddingLogged,
    GraphLogged,
    TableLogged,
    ImagesLogged,
    FigureLogged,
    AudioLogged,
    VideoLogged,
    HtmlLogged,
    PlotlyLogged,
    Object3DLogged,
    MoleculeLogged,
    ArtifactLogged,
    ModelLogged,
    DatasetLogged,
)
"""Everything that can be logged: what every receiver must have an answer to."""
