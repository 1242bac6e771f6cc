"""What a bus is made with: what can't work is said at once, by name."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventbus import EventBus
from eventbus.errors import ConfigurationError
from eventbus.journals._reader import JournalReader
from eventbus.tracking import MetricsLogged

REFUSED: list[tuple[str, Any]] = [
    ("max_bytes", "10GB"),
    ("max_bytes", None),
    ("full_timeout", None),
    ("drain_timeout", None),
    ("drain_timeout", float("nan")),
    ("drain_idle_timeout", "10"),
    ("rank", "1"),
    ("rank", 1.0),
    ("rank", -1),
    ("site", 5),
    ("job", 5),
    ("run", 5),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_is_no_number_or_no_name_is_refused_where_the_bus_is_made(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}[= ]{value!r}"):
        EventBus(tmp_path, **{name: value})


class Whole:
    """An integer of somebody else's, as numpy's are."""

    def __index__(self) -> int:
        return 2


@pytest.mark.parametrize(("rank", "known"), [(True, 1), (Whole(), 2)])
def test_any_integer_is_a_rank_that_is_read_back(tmp_path: Path, rank: Any, known: int) -> None:
    bus = EventBus(tmp_path, rank=rank)
    bus.open()
    bus.publish(MetricsLogged(values={"loss": 1.0}))
    bus.close()
    with closing(JournalReader(tmp_path / "journal")) as reader:
        assert [one.header.origin.rank for one in reader.read({}, 10)] == [known]
        assert not reader.unreadable


@pytest.mark.parametrize(("text", "attempt"), [("", 0), ("3", 3)])
def test_restarts_are_counted_as_torchelastic_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, attempt: int
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", text)
    bus = EventBus(tmp_path)
    bus.open()
    assert bus.journal.origin.attempt == attempt
    bus.close()


def test_a_count_of_restarts_that_is_none_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "many")
    with pytest.raises(ConfigurationError, match=r"TORCHELASTIC_RESTART_COUNT='many' .* unset it"):
        EventBus(tmp_path).open()
