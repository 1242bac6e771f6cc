"""What is read of a damaged file is what was written, whatever happened to it; and of a sound one it is everything."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventbus import Origin
from eventbus.abc import PartitionHeader
from eventbus.journals import _partition as files
from eventbus.journals._salvage import FRAME_HEADER, LOG_HEADER, logged_end, salvage

PAGE = files.PAGE_BYTES
HEADER = PartitionHeader(
    origin=Origin(site="site-1", rank=0, incarnation="a1", job="job"),
    created_ns=1,
    after=tuple(f"site-1/0-{number:08x}" for number in range(60)),  # more than fits on a page
)


@dataclass(frozen=True)
class Sample:
    """A partition's files as a killed writer leaves them, and what was written."""

    database: bytes
    log: bytes
    records: dict[int, bytes]


@cache
def sample(kind: str) -> Sample:
    """`log`: all is in the log still. `file`: all is in the file. `both`: half each, and some records span pages."""
    dice = random.Random(kind)
    sizes = [20, 200, 900, 980, 1000, 3000, 20_000] if kind == "both" else [30, 200]
    records = {number: dice.randbytes(dice.choice(sizes)) for number in range(1, 301)}
    with TemporaryDirectory() as folder:
        path = files.roll_path(Path(folder), HEADER.origin, 0)
        files.create_file(path, HEADER, roll=0)
        with closing(files.open_writer(path)) as writer:
            for number, body in records.items():
                files.insert(writer, [(number, body)])
                if (kind, number) in (("both", 150), ("file", 300)):
                    writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            log = path.with_name(f"{path.name}-wal").read_bytes()
            return Sample(path.read_bytes(), b"" if kind == "file" else log, records)


KINDS = ["log", "file", "both"]


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_sound_file_everything_is_read(kind: str) -> None:
    one = sample(kind)

    found = salvage(one.database, one.log)

    assert found.records == one.records
    assert files.unpack_header(found.header) == HEADER
    assert logged_end(one.log) == (0 if kind == "file" else 300)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Flip bits, overwrite stretches, cut the end off, move pages, all at random places."""
    found = bytearray(data)
    for _ in range(draw(st.integers(0, 6))):
        if not found:
            break
        place = draw(st.integers(0, len(found) - 1))
        match draw(st.sampled_from(["flip", "overwrite", "zero", "truncate", "swap"])):
            case "flip":
                found[place] ^= 1 << draw(st.integers(0, 7))
            case "overwrite":
                junk = draw(st.binary(min_size=1, max_size=64))
                found[place : place + len(junk)] = junk
            case "zero":
                size = draw(st.integers(1, 5 * PAGE))
                found[place : place + size] = bytes(len(found[place : place + size]))
            case "truncate":
                del found[place:]
            case _:
                first, second = place // PAGE * PAGE, draw(st.integers(0, len(found) // PAGE)) * PAGE
                one, other = found[first : first + PAGE], found[second : second + PAGE]
                if len(one) == len(other) == PAGE:
                    found[first : first + PAGE], found[second : second + PAGE] = other, one
    return bytes(found)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.sampled_from(KINDS))
def test_no_damage_makes_a_record_that_was_not_written(data: st.DataObject, kind: str) -> None:
    one = sample(kind)
    database, log = data.draw(damaged(one.database)), data.draw(damaged(one.log))

    found = salvage(database, log)

    assert found.records.items() <= one.records.items()
    with suppress(files.DamagedError):  # that is known, then
        assert files.unpack_header(found.header) == HEADER


def test_what_a_flip_does_not_touch_is_there() -> None:
    one = sample("file")
    content = bytearray(one.database)
    lost: list[int] = []
    for number in (100, 200):
        place = one.database.index(one.records[number])
        content[place] ^= 1
        lost.append(number)

    found = salvage(bytes(content), b"")

    assert one.records.keys() - found.records.keys() == set(lost)


def test_sqlite_itself_gives_up_where_we_go_on(tmp_path: Path) -> None:
    """The control: the damage is of the kind that matters."""
    one = sample("file")
    content = bytearray(one.database)
    content[: 4 * PAGE] = bytes(4 * PAGE)
    (tmp_path / "damaged.db").write_bytes(content)

    with closing(sqlite3.connect(tmp_path / "damaged.db")) as connection, pytest.raises(sqlite3.DatabaseError):
        connection.execute("SELECT * FROM records").fetchall()

    assert len(salvage(bytes(content), b"").records) > 280


def test_what_lies_behind_a_flip_in_the_log_is_seen(tmp_path: Path) -> None:
    one = sample("log")
    log = bytearray(one.log)
    frame = FRAME_HEADER + PAGE
    log[LOG_HEADER + 100 * frame + FRAME_HEADER + 500] ^= 1
    (tmp_path / "damaged.db").write_bytes(one.database)
    (tmp_path / "damaged.db-wal").write_bytes(log)

    with closing(sqlite3.connect(tmp_path / "damaged.db")) as connection:
        (shown,) = connection.execute("SELECT max(seq) FROM records").fetchone()

    assert shown < 200  # SQLite says nothing of the others
    assert logged_end(bytes(log)) == 300
    assert len(salvage(one.database, bytes(log)).records) >= 299


def test_what_was_not_committed_is_no_loss() -> None:
    """A killed writer leaves a transaction half written: that is no damage."""
    one = sample("log")
    frame = FRAME_HEADER + PAGE
    frames = (len(one.log) - LOG_HEADER) // frame
    for kept in range(frames - 8, frames):
        log = one.log[: LOG_HEADER + kept * frame + 700]
        commits = [one.log[LOG_HEADER + number * frame + 4 : LOG_HEADER + number * frame + 8] for number in range(kept)]
        last = max(number for number, size in enumerate(commits) if any(size))
        whole = one.log[: LOG_HEADER + (last + 1) * frame]
        assert logged_end(log) == max(salvage(b"", whole).records)
