"""Which run a folder stands for, where folders tell runs apart."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING

from writers._runs import runs_of
from writers._writer import run_name

if TYPE_CHECKING:
    from eventbus import Scope
    from eventbus._bus import Bus

MAX_STEM, MAX_NAME = 41, 12
"""Characters of the bus's own run and of the folder that a run's id has; with 8 of a digest it is legal."""


class _Folders:
    """The folder that stands for a run itself."""

    first: str | None = None


def run_of_folder(bus: Bus, folder: str, scope: Scope | None) -> str | None:
    """Return the id of the run that a folder stands for; None for the bus's own, which the first one stands for.

    Args:
        bus: Where the run is logged.
        folder: The folder, as the script names it: it need not exist.
        scope: How far the run's records travel; by default what the bus says.
    """
    own, place = run_name(bus, None), os.path.normpath(folder)
    folders = runs_of(bus).shared(own, _Folders)
    folders.first = folders.first or place
    if place == folders.first:
        return None
    name = re.sub(r"[^A-Za-z0-9]+", "-", os.path.basename(place)).strip("-")  # noqa: PTH119 - of a name, no path
    digest = sha256(place.encode(errors="surrogateescape")).hexdigest()[:8]
    run = "-".join(part for part in (own[:MAX_STEM], name[:MAX_NAME].strip("-"), digest) if part)
    runs_of(bus).start(bus, run, bus.scope if scope is None else scope, title=name)
    return run
