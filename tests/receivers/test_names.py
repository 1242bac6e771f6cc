import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receivers._names import MAX_FILE_NAME, escape, file_name, flattened, relative_path, shorten

UNSAFE = r"[^\w.\- ]"
# Letters that are dense in what an escape is made of.
TRICKY = st.text(st.sampled_from("_x25fh%/.a\u20ac"), max_size=12)


def unescape(name: str) -> str:
    return re.sub(r"_x([0-9a-f]+)_", lambda found: chr(int(found[1], 16)), name)


@pytest.mark.parametrize("name", ["loss", "train/loss", "grad_x", "_x", "x25_", "a__b", "top 5", "größe"])
def test_a_harmless_name_stays(name: str) -> None:
    assert escape(name, r"[%]") == name


@given(TRICKY)
def test_what_was_escaped_can_be_read_back_so_no_two_names_meet(name: str) -> None:
    escaped = escape(name, UNSAFE)

    assert not re.search(UNSAFE, escaped)
    assert (escaped if escaped == name else unescape(escaped)) == name


@given(st.sets(TRICKY, max_size=30))
def test_different_names_stay_different(names: set[str]) -> None:
    assert len({escape(name, UNSAFE) for name in names}) == len(names)
    assert len({file_name(name) for name in names}) == len(names)


@given(st.text(min_size=1, max_size=400))
def test_a_file_name_is_one_component_of_a_path(name: str) -> None:
    found = file_name(name)

    assert "/" not in found
    assert "\0" not in found
    assert found not in {"", ".", ".."}
    assert len(found.encode()) <= MAX_FILE_NAME


@given(st.text(st.sampled_from("./a\u20ac"), min_size=1, max_size=400))
def test_a_relative_path_stays_below_its_folder(name: str) -> None:
    found = relative_path(name)

    assert posixpath.normpath(found) == found
    assert not found.startswith(("/", ".."))
    assert all(len(part.encode()) <= MAX_FILE_NAME for part in found.split("/"))


def test_a_shortened_name_differs_from_others_with_the_same_start() -> None:
    first, second = shorten("a" * 300, 100), shorten("a" * 301, 100)

    assert len(first) == len(second) == 100
    assert first != second
    assert shorten("a" * 100, 100) == "a" * 100


def test_a_nested_configuration_is_named_by_its_paths() -> None:
    assert dict(flattened({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}})) == {
        "a.b.c": 1,
        "a.d": [1, {"e": 2}],
        "f": {},
    }
