import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from one_of_each import one_of_each
from pydantic import AwareDatetime
from readback import read_jsonl

from eventbus import Event, Part
from eventbus.artifacts import ArtifactFile, ArtifactLogged
from eventbus.blobs import Blob, BlobStore
from eventbus.errors import ConfigurationError, WorkspaceError
from eventbus.tracking import MetricsLogged, RunStatus, TextLogged
from receivers.abc import Position, RunInfo
from receivers.jsonl import JsonlConfig, JsonlSink
from receivers.testing import SAMPLES, check_sink, make_rows, make_run

RUN = make_run("run")


class JsonlBox(Part):
    sides: list[float]


class JsonlBoxSeen(Event):
    box: JsonlBox
    picture: bytes
    at: AwareDatetime


def sink(workspace: Path) -> JsonlSink:
    return JsonlSink(JsonlConfig(), workspace)


def lines(workspace: Path, run: RunInfo = RUN) -> list[dict[str, Any]]:
    found = read_jsonl(workspace / "jsonl" / run.id)
    assert [line.torn for line in found if line.torn] == []
    return [line.value for line in found]


def write(workspace: Path, events: Sequence[Event]) -> Position:
    opened = sink(workspace)
    opened.open(RUN, Position(0))
    opened.write(make_rows(events))
    return opened.close(None)


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    check_sink(lambda: sink(tmp_path), lambda run: [{**line, "run": ""} for line in lines(tmp_path, run)])


def test_a_line_tells_all_of_a_record(tmp_path: Path) -> None:
    write(tmp_path, [MetricsLogged(values={"loss": 0.5}, step=3)])

    assert lines(tmp_path) == [
        {
            "number": 1,
            "seq": 1,
            "partition": "site-1/0-c0ffee",
            "site": "site-1",
            "rank": 0,
            "run": "exp",
            "topic": "analytix_log_stats",
            "type": "MetricsLogged",
            "time_ns": make_rows([MetricsLogged(values={"loss": 0.5})])[0].envelope.time_ns,
            "event": {"values": {"loss": 0.5}, "step": 3, "main_tag": None},
        }
    ]


def test_every_event_is_a_line_and_none_is_counted(tmp_path: Path) -> None:
    opened = sink(tmp_path)
    opened.open(RUN, Position(0))
    opened.write(make_rows(SAMPLES))
    opened.close(None)

    assert [line["type"] for line in lines(tmp_path)] == [event.event_name for event in SAMPLES]
    assert not opened.counts


def test_numbers_that_json_lacks_are_strings(tmp_path: Path) -> None:
    write(tmp_path, [MetricsLogged(values={"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e-300})])

    (line,) = lines(tmp_path)
    assert line["event"]["values"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1e-300}


def test_parts_bytes_and_dates_have_a_form(tmp_path: Path) -> None:
    seen = JsonlBoxSeen(box=JsonlBox(sides=[1.0, math.inf]), picture=b"\x00\xff", at=datetime(2024, 5, 1, tzinfo=UTC))
    write(tmp_path, [seen])

    (line,) = lines(tmp_path)
    assert line["event"] == {
        "box": {"sides": [1.0, "Infinity"]},
        "picture": "AP8=",
        "at": "2024-05-01T00:00:00+00:00",
    }


def test_a_text_of_many_lines_is_one_line(tmp_path: Path) -> None:
    text = "a\nb\u2028c\x85d\r\n"
    write(tmp_path, [TextLogged(key="note", text=text)])

    (line,) = lines(tmp_path)
    assert line["event"]["text"] == text


def test_what_was_not_acknowledged_is_cut_off(tmp_path: Path) -> None:
    rows = make_rows(SAMPLES)
    opened = sink(tmp_path)
    opened.open(RUN, Position(0))
    opened.write(rows[:3])
    committed = opened.flush()
    opened.write(rows[3:5])
    opened.close(None)
    (file,) = (tmp_path / "jsonl").rglob("*.jsonl")
    with file.open("ab") as broken:
        broken.write(b'{"number": 6, "se')
    assert torn_lines(tmp_path) == 1

    opened = sink(tmp_path)
    assert opened.open(RUN, committed) == 3
    assert [line["number"] for line in lines(tmp_path)] == [1, 2, 3]
    opened.write(rows)
    opened.close(None)
    assert [line["number"] for line in lines(tmp_path)] == [row.number for row in rows]


def torn_lines(workspace: Path) -> int:
    return sum(line.torn is not None for line in read_jsonl(workspace / "jsonl"))


def test_a_file_that_lost_what_was_stored_is_an_error(tmp_path: Path) -> None:
    committed = write(tmp_path, SAMPLES)
    (file,) = (tmp_path / "jsonl").rglob("*.jsonl")
    file.write_bytes(file.read_bytes()[:100])

    with pytest.raises(WorkspaceError, match="holds 100 bytes, but"):
        sink(tmp_path).open(RUN, committed)
    assert file.stat().st_size == 100


def test_the_end_of_a_run_is_a_line(tmp_path: Path) -> None:
    opened = sink(tmp_path)
    opened.open(RUN, Position(0))
    opened.close(RunStatus.KILLED, "the writing process vanished")

    assert lines(tmp_path) == [
        {
            "site": "site-1",
            "run": RUN.id,
            "type": "RunStatus",
            "status": "KILLED",
            "reason": "the writing process vanished",
        }
    ]


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "", "a\0b", "n" * 300])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    opened = sink(tmp_path / "work")
    opened.open(RunInfo(id=name, site=name, name="n", group="g", started_ns=0), Position(0))
    opened.close(None)

    (file,) = tmp_path.rglob("*.jsonl")
    assert len(file.relative_to(tmp_path / "work" / "jsonl").parts) == 2


def test_the_folder_is_relative_to_the_workspace(tmp_path: Path) -> None:
    config = JsonlConfig(path="rows")

    assert config.folder(tmp_path) == tmp_path / "rows"
    assert config.destination(tmp_path) == f"jsonl:{tmp_path}/rows"
    assert JsonlConfig(path="./x/../rows").destination(tmp_path) == config.destination(tmp_path)
    assert config.look(tmp_path) == f"tail -n 5 {tmp_path}/rows/*/*.jsonl"
    assert JsonlConfig(path="/elsewhere").folder(tmp_path) == Path("/elsewhere")


def test_a_path_that_names_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    for path in ("rows.jsonl", "taken"):
        with pytest.raises(ConfigurationError, match="name a folder"):
            JsonlConfig(path=path).check(tmp_path)
    JsonlConfig().check(tmp_path)


# --------------------------------------------------------------------------------------------------- payloads
def write_kept(workspace: Path, events: Sequence[Event]) -> JsonlSink:
    opened = sink(workspace)
    opened.open(RUN, Position(0))
    opened.write(make_rows(events))
    opened.close(None)
    return opened


def test_payloads_lie_beside_the_file_as_they_were_logged(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    events = list(one_of_each(store).values())
    counts = [write_kept(tmp_path, events).counts for _ in range(2)]  # as if the first had not been acknowledged

    blobs = {file.name: file.read_bytes() for file in (tmp_path / "blobs").rglob("*") if file.is_file()}
    found = lines(tmp_path)
    named = {name: path for line in found for name, path in line.get("files", {}).items()}
    assert set(named) == set(blobs)
    for name, path in named.items():
        assert (tmp_path / "jsonl" / RUN.id / path).read_bytes() == blobs[name]
    assert counts == [{}, {}]
    assert len(files_of(tmp_path)) == len(blobs)
    assert {path.suffix for path in files_of(tmp_path)} >= {".png", ".wav", ".gif", ".html", ".pdb", ".txt", ""}
    assert not any("files" in line for line in found if line["type"] in ("MetricsLogged", "TextLogged"))


def files_of(workspace: Path) -> list[Path]:
    return list((workspace / "jsonl" / RUN.id / "site-1.files").iterdir())


class JsonlScanSeen(Event):
    parts: list[Blob]


def test_payloads_of_a_users_own_event_are_found(tmp_path: Path) -> None:
    blob = BlobStore(tmp_path / "blobs").put(b"scan")
    write_kept(tmp_path, [JsonlScanSeen(parts=[blob])])

    (line,) = lines(tmp_path)
    assert line["files"] == {blob.name: f"site-1.files/{blob.name}"}
    assert (tmp_path / "jsonl" / RUN.id / line["files"][blob.name]).read_bytes() == b"scan"


def test_a_payload_without_an_ending_has_none(tmp_path: Path) -> None:
    blob = BlobStore(tmp_path / "blobs").put(b"x")
    write_kept(tmp_path, [ArtifactLogged(key="k", files=[ArtifactFile(path="Makefile", blob=blob)])])

    assert [path.name for path in files_of(tmp_path)] == [blob.name]


def test_a_missing_payload_is_counted_and_its_event_stays(tmp_path: Path) -> None:
    there, gone = BlobStore(tmp_path / "blobs").put(b"there"), Blob(name="0" * 64, size=1)
    opened = write_kept(tmp_path, [JsonlScanSeen(parts=[gone, there])])

    (line,) = lines(tmp_path)
    assert line["event"]["parts"][0] == {"name": gone.name, "size": 1}
    assert list(line["files"]) == [there.name]
    assert opened.counts == {"payload missing: JsonlScanSeen": 1}


def test_a_store_that_loses_a_payload_later_takes_nothing_from_the_run(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    blob = store.put(b"scan")
    write_kept(tmp_path, [JsonlScanSeen(parts=[blob])])
    store.path(blob).unlink()

    assert [path.read_bytes() for path in files_of(tmp_path)] == [b"scan"]


def test_payloads_of_several_sites_in_one_run_lie_in_one_folder(tmp_path: Path) -> None:
    blob = BlobStore(tmp_path / "blobs").put(b"scan")
    opened = sink(tmp_path)
    opened.open(RunInfo(id="all", site="", name="n", group="g", started_ns=0), Position(0))
    opened.write(make_rows([JsonlScanSeen(parts=[blob])]))
    opened.close(None)

    (line,) = (line.value for line in read_jsonl(tmp_path / "jsonl"))
    assert line["files"] == {blob.name: f"_combined.files/{blob.name}"}
