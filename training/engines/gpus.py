"""Which graphics cards each site's process sees."""

from __future__ import annotations

import re

from training.errors import JobError

_GROUP = re.compile(r"\[([^\[\]]*)\]|([^\[\],]+)")
_WHOLE = re.compile(r"\s*(\[[^\[\]]*\]|[^\[\],]+)(\s*,\s*(\[[^\[\]]*\]|[^\[\],]+))*\s*")


def gpu_groups(text: str | None) -> tuple[str, ...]:
    """Return what `CUDA_VISIBLE_DEVICES` is for one site after the other, in turn.

    Args:
        text: Ids with commas between them; those in brackets go to one site together: `0,1` or `[0,1],[2]`.

    Raises:
        JobError: It is written otherwise.
    """
    if not text:
        return ()
    groups = [",".join(_ids(group or one)) for group, one in _GROUP.findall(text)]
    if not _WHOLE.fullmatch(text) or not all(groups):
        raise JobError(f"gpu={text!r}: name ids with commas between them, and brackets around those of one site: 0,1")
    return tuple(groups)


def _ids(group: str) -> list[str]:
    return [one.strip() for one in group.split(",") if one.strip()]
