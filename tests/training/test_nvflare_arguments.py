"""Arguments and members are NVFLARE's: `nvflare_arguments.json` has those of version 2.9, written down once.

After a "*" come those that can be given by name alone.
"""

from __future__ import annotations

import importlib
import inspect
import json
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from training._moves import MOVES

NAMES: dict[str, list[str]] = json.loads((Path(__file__).parent / "nvflare_arguments.json").read_text())


def found(path: str) -> Any:
    """What a path names: in a module, or a method of a class in one."""
    parts = path.split(".")
    module = next(name for end in range(len(parts), 0, -1) if importable(name := ".".join(parts[:end])))
    thing: Any = importlib.import_module(module)
    for part in parts[module.count(".") + 1 :]:
        thing = getattr(thing, part)
    return thing


def importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def accepted(thing: Any) -> set[str] | None:
    """The names that it takes; None if it takes any."""
    if isinstance(thing, type) and issubclass(thing, Enum):
        return set(thing.__members__)
    parameters = inspect.signature(thing).parameters.values()
    if any(one.kind == one.VAR_KEYWORD for one in parameters) and not thing.__module__.startswith("receivers"):
        return None
    own = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return own | {"events"} if thing.__module__.startswith("receivers") else own


@pytest.mark.parametrize("path", NAMES)
def test_every_argument_is_accepted(path: str) -> None:
    takes = accepted(found(path))
    wanted = set(NAMES[path]) - {"*"}
    assert wanted - (wanted if takes is None else takes) == set()


@pytest.mark.parametrize("path", [path for path in NAMES if not isinstance(found(path), type(Enum))])
def test_arguments_by_place_are_in_nvflares_order(path: str) -> None:
    parameters = inspect.signature(found(path)).parameters.values()
    ours = [one.name for one in parameters if one.kind == one.POSITIONAL_OR_KEYWORD and one.name != "self"]
    theirs = [*NAMES[path], "*"]
    assert all(mine == other for mine, other in zip(ours, theirs[: theirs.index("*")], strict=False))


def test_what_is_written_down_is_in_the_table() -> None:
    paths = {move.new_path for move in MOVES}
    assert [path for path in NAMES if path not in paths and path.rpartition(".")[0] not in paths] == []
