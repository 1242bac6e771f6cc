"""What `trackbus inspect` says of an event: one readable line, whatever its payload."""

from pathlib import Path

import msgspec
import pytest
from one_of_each import one_of_each

from eventbus.blobs import BlobStore
from eventbus.media import HistogramLogged
from eventbus.tracking import ConfigUpdated, MetricsLogged, ParamsLogged, TrackingEvent
from training._said import said, size


def line(event: TrackingEvent) -> str:
    """As the journal has it: decoded without the class."""
    return " ".join(said(msgspec.msgpack.decode(msgspec.msgpack.encode(event.model_dump()))))


def test_every_event_is_said_with_its_key_its_step_and_its_sizes_on_one_line(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    lines = {name: line(event) for name, event in one_of_each(store).items()}

    assert all("\n" not in one and "{'" not in one and len(one) < 320 for one in lines.values())
    digests = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert digests
    assert not [name for name, one in lines.items() for digest in digests if digest[:12] in one]
    assert lines["TensorLogged"] == "key=grid step=1 tensor=float32[2, 3] (24 B)"
    assert lines["FigureLogged"].startswith("key=figure step=1 files=[image/png 32x32 (")
    assert lines["AudioLogged"] == "key=sound step=1 files=[audio/wav (4.04 kB)]"
    assert (
        "files=[notes.txt (12 B), weights/w.bin (16.4 kB), big.tar -> s3://bucket/big.tar]" in lines["ArtifactLogged"]
    )
    assert lines["PrCurveLogged"] == "key=pr step=1 curve=[6 x 4 numbers]"
    assert lines["GraphLogged"] == "key=graph graph=46 B kind=graph_def"


def test_many_numbers_are_said_by_their_ends() -> None:
    event = HistogramLogged(
        key="w", step=0, limits=[float(n) for n in range(30)], counts=[1.0] * 30, low=0.0,
        min=0, max=29, num=30, sum=435, sum_squares=8555,
    )  # fmt: skip
    assert line(event).startswith("key=w step=0 limits=[30 numbers, 0 .. 29] counts=[30 numbers, 1 .. 1] low=0 min=0")


def test_many_files_are_counted() -> None:
    files = [{"path": f"{n}.bin", "blob": {"name": "0" * 64, "size": 5}, "reference": ""} for n in range(5)]
    assert list(said({"files": files})) == ["files=[0.bin (5 B), 1.bin (5 B), 2.bin (5 B), 2 more]"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (MetricsLogged(values={"loss": 0.0}, step=0), "loss=0 step=0"),
        (ParamsLogged(values={"nesterov": False, "name": ""}), 'nesterov=false name=""'),
        (ConfigUpdated(values={"path": 5, "reference": 4, "more": 3}), "path=5 reference=4 more=3"),
        (ConfigUpdated(values={"path": 5, "reference": 4}), "path=5 reference=4"),
        (ConfigUpdated(values={"data": {"name": "digits", "size": 1797}}), 'data={"name": "digits", "size": 1797}'),
    ],
)
def test_what_a_user_has_set_is_said_as_it_is(event: TrackingEvent, expected: str) -> None:
    assert line(event) == expected


@pytest.mark.parametrize(
    ("count", "said_as"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (999_500, "1 MB"), (2.5e15, "2.5e+03 TB")],
)
def test_sizes_are_said_in_thousands(count: float, said_as: str) -> None:
    assert size(count) == said_as
