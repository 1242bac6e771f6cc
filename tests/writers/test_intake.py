import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus._codec import MAX_RECORD_BYTES, encode
from eventbus._topic import Scope
from eventbus.errors import BadInputError, ConfigurationError
from eventbus.tracking import MetricsLogged
from writers._intake import MAX_BAD_NAMES, OTHERS, Intake


@pytest.fixture
def counting() -> Intake:
    return Intake(on_bad_input="count")


# ------------------------------------------------------------------------------------------ a bad one raises
@pytest.mark.parametrize(
    ("values", "step", "message"),
    [
        ({"ok": 1.0, "loss": "0.5"}, None, "'loss' is of type str"),
        ({"ok": 1.0, "_step": 1}, None, "key '_step'"),
        ({"ok": 1.0}, -1, "'step' is -1"),
        ([1.0], None, "values by key are logged, not list: pass a dict"),
        (None, None, "values by key are logged, not NoneType"),
        ("loss", None, "values by key are logged, not str"),
    ],
)
def test_bad_input_raises_and_makes_no_event(values: object, step: object, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Intake().metrics(values, step)


def test_another_policy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="on_bad_input='ignore' is not known: use 'raise' or 'count'"):
        Intake(on_bad_input="ignore")  # type: ignore[arg-type] - what a caller without a type checker may do


# -------------------------------------------------------------------------------------- or is left out, counted
def test_a_bad_value_is_left_out_and_the_rest_is_logged(counting: Intake) -> None:
    [event] = counting.metrics({"loss": None, "": 1.0, 3: 1.0, "ok": 0.5})

    assert event.values == {"ok": 0.5}
    assert counting.bad.counts == {"loss": 1, "": 1, "3": 1}


def test_values_without_their_bad_step_are_kept(counting: Intake) -> None:
    [event] = counting.metrics({"ok": 0.5}, 1.5)

    assert (event.values, event.step) == ({"ok": 0.5}, None)
    assert counting.bad.counts == {"step": 1}


def test_values_under_a_bad_main_tag_are_left_out(counting: Intake) -> None:
    assert counting.metrics({"ok": 0.5}, main_tag="../x") == []
    assert counting.bad.counts == {"../x": 1}


def test_what_is_no_mapping_is_counted_by_its_type(counting: Intake) -> None:
    assert counting.metrics([1.0]) == []
    assert counting.bad.counts == {"<list>": 1}


def test_a_bad_key_warns_once(counting: Intake, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trackbus.writers"):
        for _ in range(5):
            counting.metrics({"loss": "0.5"})
        counting.metrics({"other": "0.5"})

    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == [
        "left out of the log: 'loss'",
        "left out of the log: 'other'",
    ]
    assert counting.bad.counts == {"loss": 5, "other": 1}


def test_bad_keys_made_up_without_end_do_not_fill_the_memory(counting: Intake) -> None:
    for i in range(MAX_BAD_NAMES + 5):
        counting.metrics({f"_{i}": None})
    counting.metrics({"x" * 10_000: 1.0})

    assert len(counting.bad.counts) == MAX_BAD_NAMES + 1
    assert counting.bad.counts[OTHERS] == 6


# -------------------------------------------------------------------------------------------- many and large
@pytest.mark.parametrize(("count", "sizes"), [(1000, [1000]), (1001, [1000, 1]), (2500, [1000, 1000, 500])])
def test_more_keys_than_an_event_takes_are_split(count: int, sizes: list[int]) -> None:
    events = Intake().metrics({f"key-{i}": i for i in range(count)}, 7)

    assert [len(event.values) for event in events] == sizes
    assert {event.step for event in events} == {7}
    assert {key for event in events for key in event.values} == {f"key-{i}" for i in range(count)}


def test_what_is_split_fits_into_records() -> None:
    intake = Intake()
    wide = {f"{i}-{'🔥' * 240}": "x" * 5000 for i in range(1500)}

    for events in (intake.params(wide), intake.tags(wide), intake.config(wide), intake.metrics(dict.fromkeys(wide, 1))):
        sizes = [len(encode(event, event.event_topic, Scope.LOCAL, "run", 1)) for event in events]
        assert max(sizes) <= MAX_RECORD_BYTES
        assert sum(len(event.values) for event in events) == len(wide)


def test_nothing_makes_no_event() -> None:
    intake = Intake()

    assert [*intake.metrics({}), *intake.params({}), *intake.tags({}), *intake.config({})] == []


# -------------------------------------------------------------------------------------------------- properties
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=5,
)


@given(values=st.dictionaries(st.text() | st.integers(), anything), step=anything)
def test_whatever_is_logged_is_recorded_or_counted(values: dict[object, object], step: object) -> None:
    for make in ("metrics", "params", "tags", "config"):
        intake = Intake(on_bad_input="count")

        events = getattr(intake, make)(values, step) if make == "metrics" else getattr(intake, make)(values)

        for event in events:
            encode(event, event.event_topic, Scope.LOCAL, "run", 1)
        recorded = sum(len(event.values) for event in events)
        assert recorded + sum(intake.bad.counts.values()) - intake.bad.counts["step"] >= len(values)


@given(values=st.dictionaries(st.from_regex(r"[a-z][a-z/]{0,20}", fullmatch=True), st.floats(), min_size=1))
def test_numbers_stay_what_they_are(values: dict[str, float]) -> None:
    [event] = Intake().metrics(values)

    assert isinstance(event, MetricsLogged)
    assert event.values.keys() == values.keys()
    assert all(_same(event.values[key], value) for key, value in values.items())


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
