"""Bad input from the wire, the disk and the user: refused in time, counted, and the stream goes on."""

from __future__ import annotations

import codecs
import os
import pickle
import sqlite3
import time
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from readback import read_jsonl

from eventbus import EventBus, Scope
from eventbus._codec import decode, encode
from eventbus._event import Origin
from eventbus.errors import ConfigurationError, DecodeError
from eventbus.journals._partition import insert
from eventbus.tracking import TRACKING, MetricsLogged
from receivers import FlushPolicy, JsonlReceiver
from writers import TrackingWriter

pytestmark = pytest.mark.anyio

ORIGIN = Origin(site="site-1", rank=0, incarnation="c0ffee", job="job")
REFUSED_SECONDS = 0.5
"""Refusing takes milliseconds; a parser that follows what the bytes announce takes minutes, or all memory."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def record(fields: bytes, *, version: int = 1) -> bytes:
    """A record of metrics whose fields are these bytes."""
    head = b"\x97" + msgspec.msgpack.encode(version)
    parts = [msgspec.msgpack.encode(one) for one in ("MetricsLogged", "analytix_log_stats", 0, "run", 1)]
    return head + b"".join(parts) + fields


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def metrics(values: bytes) -> bytes:
    """The fields of metrics whose values are these bytes."""
    return b"\x81\xa6values" + values


SOUND = encode(MetricsLogged(values={"loss": 1.0}, step=1), "analytix_log_stats", Scope.LOCAL, "run", 1)

HOSTILE: dict[str, bytes] = {
    "truncated": SOUND[:-3],
    "trailing bytes": SOUND + b"\x00",
    "BOM": codecs.BOM_UTF8 + SOUND,
    "UTF-16": '{"values": {"loss": 1.0}}'.encode("utf-16"),
    "invalid UTF-8": record(metrics(b"\x81\xa2\xff\xfe\xca\x00\x00\x00\x00")),
    "lone surrogate": record(metrics(b"\x81\xa3\xed\xa0\x80\xca\x00\x00\x00\x00")),
    "nesting 100 000": record(metrics(b"\x91" * 100_000 + b"\x01")),
    "nested maps 100 000": record(metrics(b"\x81\xa1a" * 100_000 + b"\x01")),
    "a million digits": record(metrics(b"\x81\xa1a\xdb\x00\x0f\x42\x40" + b"9" * 1_000_000)),
    "huge map announced": record(metrics(b"\xdf\xff\xff\xff\xff")),
    "4 GB announced": record(metrics(b"\xdb\xff\xff\xff\xff")),
    "JSON": b'{"values": {"loss": 1.0}}',
    "extra field": record(msgspec.msgpack.encode({"values": {"a": 1.0}, "more": 1})),
    "unknown version": record(msgspec.msgpack.encode({"values": {"a": 1.0}}), version=2),
    "a class by its path": SOUND.replace(b"MetricsLogged", b"os.system....", 1),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused_at_once(body: bytes) -> None:
    assert decode(SOUND, ORIGIN, 1)
    began = time.thread_time()
    with pytest.raises(DecodeError):
        decode(body, ORIGIN, 1)
    assert time.thread_time() - began < REFUSED_SECONDS


def test_of_two_values_of_one_key_the_last_counts() -> None:
    twice = metrics(b"\x82" + b"".join(msgspec.msgpack.encode(one) for one in ("loss", 1.0, "loss", 2.0)))
    found = decode(record(twice), ORIGIN, 1).event
    assert isinstance(found, MetricsLogged)
    assert found.values == {"loss": 2.0}


async def test_hostile_records_in_the_journal_are_counted_and_the_stream_goes_on(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    bodies = [*HOSTILE.values(), pickle.dumps(Trap(trap)), record(pickle.dumps(Trap(trap)))]
    async with EventBus(tmp_path, site="site-1", run="run") as bus:
        for step in range(10):
            bus.publish(MetricsLogged(values={"loss": float(step)}, step=step), run="run")
    (file,) = (tmp_path / "journal" / "site-1").glob("*.db")
    with closing(sqlite3.connect(file)) as store, store:
        last = store.execute("SELECT max(seq) FROM records").fetchone()[0]
        after = encode(MetricsLogged(values={"loss": 10.0}, step=10), TRACKING.name, Scope.LOCAL, "run", 1)
        insert(store, enumerate([*bodies, after], last + 1))  # with the checksum that a hostile writer would put there
    async with EventBus(tmp_path, site="site-1", run="other") as again:
        again.subscribe(TRACKING, JsonlReceiver(flush=FlushPolicy(max_items=4)))
    line = again.report().line("jsonl")
    assert (line.delivered, line.dropped, line.failed, line.left) == (11, len(bodies), 0, 0), str(again.report())
    assert any("unreadable record" in note for note in line.notes)
    lines = [line.value for line in read_jsonl(tmp_path / "jsonl") if line.value["type"] == "MetricsLogged"]
    assert [one["event"]["step"] for one in lines] == list(range(11))
    assert not trap.exists()


@pytest.mark.parametrize("name", ["a.b", "*", ">", "site-1\n", "site-\u0661", "", "a b", "../x", "-a", "x" * 64])
def test_a_site_or_run_of_another_name_is_refused(tmp_path: Path, name: str) -> None:
    for what in ("site", "job", "run"):
        if name:
            with pytest.raises(ConfigurationError, match="is not a name"):
                EventBus(tmp_path / "ws", **{what: name})  # type: ignore[arg-type] - one of its names
    assert not (tmp_path / "ws").exists()


async def test_a_hundred_thousand_names_do_not_fill_the_trainers_memory(tmp_path: Path) -> None:
    async with EventBus(tmp_path, site="site-1", run="run") as bus:
        writer = TrackingWriter(bus=bus)
        log_names(writer, range(5))
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        log_names(writer, range(5, 105))
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert bus.report().published == 105 + 2  # with the run's start and end
    assert after - before < 4 << 20


def log_names(writer: TrackingWriter, thousands: range) -> None:
    for thousand in thousands:
        writer.log({f"key-{thousand}-{number}": 1.0 for number in range(1000)}, step=thousand)
