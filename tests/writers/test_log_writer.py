"""A look-alike of one's own: what it writes is published as what its data type says."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from eventbus import Envelope, Event, EventBus, Receipt, Scope
from eventbus.artifacts import ModelLogged
from eventbus.errors import BadInputError
from eventbus.media import ImagesLogged
from eventbus.tracking import ConfigUpdated, MetricsLogged, ParamsLogged, TagsSet, TextLogged, TrackingEvent
from writers.abc import AnalyticsDataType, LogWriter

StoredOn = Callable[..., list[Envelope[Any]]]
Stored = Callable[[type[Event]], list[Envelope[Any]]]


class ScoreWriter(LogWriter):
    """A tracker that nobody has."""

    def score(self, name: str, value: object, step: int | None = None) -> Receipt:
        return self.write(name, value, AnalyticsDataType.SCALAR, step)

    def get_writer_name(self) -> str:
        return "SCORES"


KINDS: list[tuple[AnalyticsDataType, object, Event]] = [
    (AnalyticsDataType.SCALAR, 0.5, MetricsLogged(values={"it": 0.5}, step=3)),
    (AnalyticsDataType.METRIC, 1, MetricsLogged(values={"it": 1.0}, step=3)),
    (AnalyticsDataType.SCALARS, {"a": 1, "b": 2}, MetricsLogged(values={"a": 1.0, "b": 2.0}, step=3, main_tag="it")),
    (AnalyticsDataType.METRICS, {"a": 1, "b": 2}, MetricsLogged(values={"a": 1.0, "b": 2.0}, step=3)),
    (AnalyticsDataType.PARAMETER, "adam", ParamsLogged(values={"it": "adam"})),
    (AnalyticsDataType.PARAMETERS, {"lr": 0.1}, ParamsLogged(values={"lr": 0.1})),
    (AnalyticsDataType.TAG, "red", TagsSet(values={"it": "red"})),
    (AnalyticsDataType.TAGS, {"team": "red"}, TagsSet(values={"team": "red"})),
    (AnalyticsDataType.TEXT, "hello", TextLogged(key="it", text="hello", step=3)),
    (AnalyticsDataType.INIT_DATA, {"net": {"width": 3}}, ConfigUpdated(values={"net": {"width": 3}})),
]


@pytest.mark.parametrize(("kind", "value", "event"), KINDS, ids=[kind.name for kind, _, _ in KINDS])
def test_a_value_is_what_its_type_says(
    bus: EventBus, stored: Stored, kind: AnalyticsDataType, value: object, event: Event
) -> None:
    ScoreWriter(bus=bus).write("it", value, kind, 3)
    assert [one.event for one in stored(TrackingEvent)][1:] == [event]


def test_a_text_with_a_path_is_a_file(bus: EventBus, stored: Stored) -> None:
    ScoreWriter().write("text", "all of it", AnalyticsDataType.TEXT, path="report/summary.txt")
    assert [one.event for one in stored(TextLogged)] == [
        TextLogged(key="report/summary.txt", text="all of it", is_file=True)
    ]


def test_its_methods_go_to_its_run_and_scope(bus: EventBus, stored: Stored) -> None:
    with ScoreWriter(run="other", scope=Scope.FEDERATED) as writer:
        receipt = writer.score("f1", 0.5, 7)
        writer.write("all", {"f1": 0.25})

    assert receipt.refused is None
    assert [(one.run, one.scope, one.event.values) for one in stored(MetricsLogged)] == [
        ("other", Scope.FEDERATED, {"f1": 0.5}),
        ("other", Scope.FEDERATED, {"f1": 0.25}),
    ]
    assert repr(writer) == "SCORES(run='other', scope=FEDERATED)"


PIXELS = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[EventBus]:
    """A bus that keeps payloads."""
    with EventBus(tmp_path / "ws", job="hello", run="run-1").background() as bus:
        yield bus


def pixels_of(bus: EventBus, event: ImagesLogged) -> Any:
    """The one picture of an event, as Pillow reads it."""
    (file,) = event.files
    assert file.media_type == "image/png"
    return np.asarray(PIL.Image.open(bus.blobs.path(file.blob)).convert("RGB"))


@pytest.mark.parametrize(
    ("value", "off_by"),
    [
        (PIXELS, 0),
        (PIXELS.transpose(2, 0, 1), 0),
        ((PIXELS / 255).tolist(), 1),
        (torch.tensor(PIXELS.transpose(2, 0, 1) / 255), 1),
        (PIL.Image.fromarray(PIXELS), 0),
    ],
    ids=["HWC", "CHW", "list", "tensor", "Pillow"],
)
def test_an_image_is_known_by_its_shape(on_disk: EventBus, stored_on: StoredOn, value: object, off_by: int) -> None:
    ScoreWriter().write("picture", value, AnalyticsDataType.IMAGE, 3)
    (found,) = stored_on(on_disk, ImagesLogged)

    assert (found.event.key, found.event.step, found.event.is_file) == ("picture", 3, False)
    assert np.abs(pixels_of(on_disk, found.event).astype(int) - PIXELS).max() <= off_by


def test_an_image_may_be_grey_or_a_file_and_its_axes_may_be_named(
    on_disk: EventBus, stored_on: StoredOn, tmp_path: Path
) -> None:
    PIL.Image.fromarray(PIXELS).save(tmp_path / "there.bmp")
    writer = ScoreWriter()
    writer.write("grey", PIXELS[:, :, 0], AnalyticsDataType.IMAGE)
    writer.write("file", tmp_path / "there.bmp", AnalyticsDataType.IMAGE, path="plots/there.png")
    writer.write("named", PIXELS.transpose(1, 0, 2), AnalyticsDataType.IMAGE, dataformats="WHC")
    grey, file, named = (one.event for one in stored_on(on_disk, ImagesLogged))

    assert (pixels_of(on_disk, grey) == PIXELS[:, :, :1]).all()
    assert (file.key, file.is_file) == ("plots/there.png", True)
    assert (pixels_of(on_disk, file) == PIXELS).all()
    assert (pixels_of(on_disk, named) == PIXELS).all()


def test_a_model_is_what_was_saved_and_stays_so(on_disk: EventBus, stored_on: StoredOn, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    ScoreWriter().write("net", folder, AnalyticsDataType.MODEL, 3)
    ScoreWriter().write("net", str(folder / "weights.bin"), AnalyticsDataType.MODEL)
    (folder / "weights.bin").write_bytes(b"changed")
    found = [one.event for one in stored_on(on_disk, ModelLogged)]

    assert [(one.key, one.kind, [file.path for file in one.files]) for one in found] == [
        ("net", "model", ["weights.bin"])
    ] * 2
    assert {on_disk.blobs.read(one.files[0].blob) for one in found} == {b"weights"}


@pytest.mark.parametrize(
    ("value", "message"),
    [({"w": [1.0]}, "'net' is a dict: log the path of the file"), ("no/such/file", "can't be read")],
)
def test_a_model_that_is_no_file_is_refused(bus: EventBus, stored: Stored, value: object, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        ScoreWriter().write("net", value, AnalyticsDataType.MODEL)
    assert stored(ModelLogged) == []


def test_a_line_of_a_log_is_a_text(bus: EventBus, stored: Stored) -> None:
    record = logging.LogRecord("train", logging.WARNING, __file__, 1, "loss is %s", ("high",), None)
    ScoreWriter().write("log", record, AnalyticsDataType.LOG_RECORD, 3)
    ScoreWriter().write("log", "as it stands", AnalyticsDataType.LOG_RECORD, path="train.log")
    first, second = (one.event for one in stored(TextLogged))

    assert first.text.endswith(" WARNING train: loss is high")
    assert (first.key, first.step, first.is_file) == ("log", 3, False)
    assert (second.key, second.text, second.is_file) == ("train.log", "as it stands", True)


@pytest.mark.parametrize("kind", ["SCALAR", []])
def test_a_type_that_is_none_is_refused_by_name(bus: EventBus, stored: Stored, kind: Any) -> None:
    with pytest.raises(BadInputError, match=r"can't be logged: use AnalyticsDataType\.SCALAR"):
        ScoreWriter().write("it", 0.5, kind)
    assert stored(MetricsLogged) == []


def test_an_unknown_option_is_refused(bus: EventBus) -> None:
    with pytest.raises(BadInputError, match="colour= is not supported: leave it out"):
        ScoreWriter().write("it", 0.5, AnalyticsDataType.SCALAR, colour="red")


def test_bad_input_is_counted_where_it_does_not_raise(bus: EventBus, stored: Stored) -> None:
    writer = ScoreWriter(on_bad_input="count")
    assert writer.write("picture", b"", AnalyticsDataType.IMAGE).refused
    assert writer.score("word", "high").refused
    writer.score("f1", 0.5)
    assert writer.bad_inputs == {"picture": 1, "word": 1}
    assert [one.event.values for one in stored(MetricsLogged)] == [{"f1": 0.5}]
