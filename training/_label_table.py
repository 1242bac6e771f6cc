"""Who got what: how often each class occurs at each site, for people. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_BARS = "▁▂▃▄▅▆▇█"
_NONE = "·"


def label_table(counts: Mapping[str, Sequence[int]]) -> str:
    """Render how often each class occurs at each site: a line per site, without a line break at the end.

    The bars of all sites have one scale; a dot stands for none at all.

    Args:
        counts: By site, how often each class 0, 1, ... occurs; all of one length.
    """
    if not counts:
        return ""
    classes = max(map(len, counts.values()))
    most = max((count for one in counts.values() for count in one), default=0)
    wide = max(len(site) for site in counts)
    cell = max(len(str(most)), len(str(classes - 1)), 3)
    header = "".join(f" {number:>{cell}}" for number in range(classes))
    return "\n".join(
        [
            f"{'class':<{wide}}{header}  samples",
            *(_line(f"{site:<{wide}}", one, cell, most) for site, one in counts.items()),
        ]
    )


def _line(site: str, counts: Sequence[int], cell: int, most: int) -> str:
    numbers = "".join(f" {count:>{cell}}" for count in counts)
    bars = "".join(_bar(count, most) for count in counts)
    return f"{site}{numbers}  {sum(counts):>7}  {bars}"


def _bar(count: int, most: int) -> str:
    return _BARS[(count * len(_BARS) - 1) // most] if count else _NONE
