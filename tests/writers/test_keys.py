from enum import StrEnum

import numpy as np
import pytest

from eventbus.errors import BadInputError
from writers._keys import KNOWN_KEYS, Keys, check_key


class Name(StrEnum):
    LOSS = "loss"


@pytest.mark.parametrize(
    "key",
    ["loss", "train/loss", "a b", "a.b", "lösung", "🔥", "x" * 250, "__class__", "a..b", "_private", "C:", "50%"],
)
def test_a_printable_name_is_taken_as_it_is(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize("key", [Name.LOSS, np.str_("loss")], ids=["enum", "numpy"])
def test_a_kind_of_str_becomes_a_str(key: str) -> None:
    assert (check_key(key), type(check_key(key))) == ("loss", str)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "key '' is empty: give it a name"),
        ("x" * 251, r"key 'x+\.\.\.x+' is longer than 250 characters: shorten it"),
        ("x" * 10_000, r"key 'x+\.\.\.x+' is longer than 250 characters"),
        ("a\0b", r"key 'a\\x00b' holds a character that can't be printed: take it out"),
        ("a\nb", r"key 'a\\nb' holds a character"),
        ("a\u2028b", r"key 'a\\u2028b' holds a character"),
        ("a\u202eb", r"key 'a\\u202eb' holds a character"),
        ("\ud800", r"key '\\ud800' holds a character"),
        (" loss", "key ' loss' begins or ends with a space: strip it"),
        ("loss ", "key 'loss ' begins or ends with a space"),
        ("../../x", r"key '\.\./\.\./x' has a part '\.\.', which leads out of a folder: take it out"),
        ("a/..", r"has a part '\.\.'"),
        ("a\\..\\b", r"has a part '\.\.'"),
        ("/etc/passwd", "is an absolute path: use one within the run, such as 'a/b'"),
        ("\\share", "is an absolute path"),
        ("C:\\x", "is an absolute path"),
        ("_step", "key '_step' is one that W&B keeps for itself: use another one"),
        ("_timestamp", "keeps for itself"),
        ("_runtime", "keeps for itself"),
        ("_wandb", "keeps for itself"),
        (1, "key 1 is of type int: use a str"),
        (None, "key None is of type NoneType: use a str"),
        (b"loss", "key b'loss' is of type bytes: use a str"),
        (("a", "b"), r"key \('a', 'b'\) is of type tuple: use a str"),
    ],
)
def test_what_is_no_name_is_refused_with_the_way_out(key: object, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as refused:
        check_key(key)

    assert len(str(refused.value)) < 200


def test_a_prefix_is_part_of_the_name() -> None:
    keys = Keys("train/")

    assert keys.check("loss") == "train/loss"
    assert keys.known["loss"] == "train/loss"
    with pytest.raises(BadInputError, match="longer than 250"):
        keys.check("x" * 245)
    with pytest.raises(BadInputError, match="is an absolute path"):
        Keys("/train/")


def test_names_made_up_without_end_do_not_fill_the_memory() -> None:
    keys = Keys()

    for i in range(KNOWN_KEYS + 10):
        assert keys.check(f"key-{i}") == f"key-{i}"

    assert len(keys.known) == KNOWN_KEYS
