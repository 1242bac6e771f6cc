"""Names of metrics, parameters, tags and texts: checked once, then known."""

from __future__ import annotations

import re
from reprlib import Repr
from typing import TYPE_CHECKING

from eventbus.errors import BadInputError
from eventbus.tracking import MAX_KEY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable

KNOWN_KEYS = 10_000
"""So many checked keys are remembered; a run that invents more pays for the check again, not with memory."""

RESERVED = frozenset({"_step", "_timestamp", "_runtime", "_wandb"})
"""What W&B keeps for itself: it would drop or overwrite such a key."""

_SEPARATOR = re.compile(r"[/\\]")
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")

_short = Repr()
_short.maxstring = _short.maxother = 60

_FAULTS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda key: not key, "is empty: give it a name"),
    (lambda key: len(key) > MAX_KEY_LENGTH, f"is longer than {MAX_KEY_LENGTH} characters: shorten it"),
    (lambda key: not key.isprintable(), "holds a character that can't be printed: take it out"),
    (lambda key: key != key.strip(), "begins or ends with a space: strip it"),
    (lambda key: ".." in _SEPARATOR.split(key), "has a part '..', which leads out of a folder: take it out"),
    (lambda key: bool(_ABSOLUTE.match(key)), "is an absolute path: use one within the run, such as 'a/b'"),
    (lambda key: key in RESERVED, "is one that W&B keeps for itself: use another one"),
)


def shown(key: object) -> str:
    """Return a key as errors show it: its repr, shortened."""
    return _short.repr(key)


def check_key(key: object) -> str:
    """Return `key` as a plain string if every tracker can take it.

    Raises:
        BadInputError: It can't be a name; the message says why and what to do.
    """
    if not isinstance(key, str):
        msg = f"key {shown(key)} is of type {type(key).__name__}: use a str"
        raise BadInputError(msg)
    for is_faulty, advice in _FAULTS:
        if is_faulty(key):
            msg = f"key {shown(key)} {advice}"
            raise BadInputError(msg)
    return str.__str__(key)  # an enum's member or numpy's str would not travel


class Keys:
    """The keys of one writer, with its prefix put before them.

    Args:
        prefix: Put before every key as it stands, for example `train/`.

    Attributes:
        known: Full name by key, of those that were checked. Ask it first: it saves the check.

    Raises:
        BadInputError: No name can begin with the prefix.
    """

    def __init__(self, prefix: str = "") -> None:
        if prefix:
            check_key(f"{prefix}x")
        self.prefix = prefix
        self.known: dict[object, str] = {}

    def check(self, key: object) -> str:
        """Return the full name of a key.

        Raises:
            BadInputError: It can't be a name.
        """
        full = check_key(self.prefix + key if isinstance(key, str) else key)
        if len(self.known) < KNOWN_KEYS:
            self.known[key] = full
        return full
