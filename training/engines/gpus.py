"""Which graphics cards each site's process sees."""

from __future__ import annotations

import re

from training.errors import JobError

_ONE = r"[^\[\],]+"
_GROUP = rf"\[{_ONE}(?:,{_ONE})*\]|{_ONE}"


def gpu_groups(text: str | None) -> tuple[str, ...]:
    """Return what `CUDA_VISIBLE_DEVICES` is for one site after the other, in turn.

    Args:
        text: Ids with commas between them; those in brackets go to one site together: `0,1` or `[0,1],[2]`.

    Raises:
        JobError: It is written otherwise.
    """
    if not text:
        return ()
    ids = "".join(text.split())
    if not re.fullmatch(rf"(?:{_GROUP})(?:,(?:{_GROUP}))*", ids):
        raise JobError(f"gpu={text!r}: name ids with commas between them, those of one site in brackets: [0,1],[2]")
    return tuple(group.strip("[]") for group in re.findall(_GROUP, ids))
