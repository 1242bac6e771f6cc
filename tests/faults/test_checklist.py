"""The table of faults names every row once, and every test that it and the page of guarantees name exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
ROWS = [line for line in TABLE.splitlines() if re.match(r"\| \d+ \|", line)]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(one.name for one in functions if one.name.startswith("test_"))


def missing(text: str) -> list[str]:
    """Name the tests that do not exist."""
    found = NAMED.findall(text)
    return [f"{file}::{name}" for file, name in found if not (ROOT / file).is_file() or name not in names_in(file)]


def test_the_table_has_every_row_once_and_in_order() -> None:
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, 56))


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED.findall(TABLE)) > 100
    assert missing(TABLE) == []


def test_every_test_that_shows_a_guarantee_exists() -> None:
    assert len(NAMED.findall(GUARANTEES)) > 30
    assert missing(GUARANTEES) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_a_row_names_its_tests_or_says_that_it_is_to_come(row: str) -> None:
    *_, outcome, tests, _ = row.split("|")
    assert NAMED.search(tests) or "not yet" in outcome or "to come" in outcome


def test_a_test_that_is_gone_would_be_named() -> None:
    here = "tests/faults/test_checklist.py"
    assert missing(f"`{here}::test_gone` `{here}::test_every_test_that_is_named_exists` `tests/gone.py::test_a`") == [
        f"{here}::test_gone",
        "tests/gone.py::test_a",
    ]
