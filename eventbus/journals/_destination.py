"""Where a consumer's data go: one name has one destination, and one destination one name.

What lies within the workspace is remembered by its place there: a workspace may be renamed, moved, copied, or mounted
at another path, and its consumers go on.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from eventbus.errors import SubscriptionError
from eventbus.journals._partition import read_only

_RELATIVE, _ABSOLUTE = "destination", "destination at"
"""Names of the notes in the consumer's file; the oldest files have an absolute path, and no second note."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where data go, in one line.

    Attributes:
        name: The line, the folder within it by its place in the workspace.
        absolute: The line as the consumer says it, the same as `name` where it names no folder of the workspace.
        moved: Pattern of what the line may have been in a workspace elsewhere; its group is the folder there.
    """

    name: str
    absolute: str
    moved: re.Pattern[str] | None = None

    @classmethod
    def of(cls, line: str, folder: Path | None = None, workspace: Path | None = None) -> Destination:
        """Return the destination that a line names.

        Args:
            line: What the consumer says.
            folder: Where the consumer keeps its things, an absolute path.
            workspace: The workspace that remembers it; by default that folder.
        """
        if folder is None:
            return cls(line, line)
        forms = "|".join(re.escape(form) for form in (str(folder), quote(str(folder))))
        around = re.split(rf"(?<![^\s:/=])(?:{forms})(?![^/,\s])", line)
        if len(around) == 1:
            return cls(line, line)
        first, second, *others = map(re.escape, around)
        moved = re.compile(r"\1".join([f"{first}(/.+?){second}", *others]))
        return cls(os.path.relpath(folder, workspace or folder).join(around), line, moved)

    def is_same(self, known: Destination) -> bool:
        """Tell whether data that went to `known` went here."""
        return known.name == self.name or known.absolute == self.absolute or self._has_moved(known.absolute)

    def _has_moved(self, line: str) -> bool:
        """Tell whether an absolute line is of this workspace, which was elsewhere: there is nothing any more."""
        found = self.moved.fullmatch(line) if self.moved else None
        return found is not None and not Path(found[1]).exists()


def remember(connection: sqlite3.Connection, name: str, destination: Destination) -> None:
    """Keep in a consumer's file where its data go.

    Raises:
        SubscriptionError: They go elsewhere.
    """
    connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (_RELATIVE, destination.name))
    known = _known(connection)
    if known is not None and not destination.is_same(known):
        msg = (
            f"the cursor {name!r} of this workspace belongs to {known.absolute}, not to {destination.absolute}; "
            "give the receiver another name=, or use the old destination"
        )
        raise SubscriptionError(msg)
    now = [(_RELATIVE, destination.name), (_ABSOLUTE, destination.absolute)]
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", now)


def check_free(folder: Path, name: str, destination: Destination) -> None:
    """Refuse a destination that another consumer fills; it creates no file.

    Raises:
        SubscriptionError: The message names the other one.
    """
    own = _destination_of(folder / f"{name}.db")
    if own is not None and destination.name in (own.name, own.absolute):
        return
    for sibling in folder.glob("*.db"):
        known = _destination_of(sibling) if sibling.stem != name else None
        if known is not None and destination.is_same(known):
            msg = (
                f"{destination.absolute} is filled by the receiver {sibling.stem!r} of this workspace, and two would "
                f"write over each other; use name={sibling.stem!r}, or another destination"
            )
            raise SubscriptionError(msg)


def _destination_of(path: Path) -> Destination | None:
    """Return where a consumer's data go, if its file says so."""
    try:
        with closing(open_for_reading(path)) as connection:
            return _known(connection)
    except sqlite3.Error:
        return None


def _known(connection: sqlite3.Connection) -> Destination | None:
    query = "SELECT name, value FROM meta WHERE name IN (?, ?)"
    known: dict[str, str] = dict(connection.execute(query, (_RELATIVE, _ABSOLUTE)))
    line = known.get(_RELATIVE)
    return None if line is None else Destination(line, known.get(_ABSOLUTE, line))


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a consumer's file without changing it."""
    return sqlite3.connect(read_only(path), uri=True)
