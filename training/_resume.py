"""Where a federation stands that a later process may go on with: its last global model, and what belongs to it.

All of it is one file, so it is whole or that of the round before. This reads what belongs to the model, without torch.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME = "last.safetensors"

MAX_HEADER_BYTES = 100_000_000
"""What safetensors itself allows."""

CHANGEABLE = frozenset(("rounds", "log_every", "system_metrics"))
"""Settings that another process may choose anew: all others decide what a round does."""


@dataclass(frozen=True, slots=True)
class LastRound:
    """What is kept beside a federation's global model.

    Attributes:
        completed: How many rounds have made it; 0 for the first weights.
        run: Id of the run; empty where nothing was tracked.
        settings: Those of the federation, as `FederationConfig.settings` gives them.
        has_best: Whether the best model that is kept is of this run.
    """

    completed: int
    run: str
    settings: Mapping[str, object]
    has_best: bool = False

    def metadata(self) -> dict[str, str]:
        """Return it as safetensors keeps it."""
        rest = {"settings": dict(self.settings), "has_best": self.has_best}
        return {"completed": str(self.completed), "run": self.run, "rest": json.dumps(rest)}

    def check(self, settings: Mapping[str, object], run: str | None) -> None:
        """Refuse to go on as another federation.

        Raises:
            ConfigurationError: A setting differs that decides what a round does, or the run; the message names them.
        """
        changed = {name for name, value in settings.items() if value != self.settings.get(name)} - CHANGEABLE
        if run not in (None, self.run):
            changed.add("run")
        if changed:
            told = ", ".join(f"{name}={self.settings.get(name, self.run)!r}" for name in sorted(changed))
            raise ConfigurationError(f"the run to be resumed has {told}: leave that as it is, or begin another run")


def read_last_round(folder: Path) -> LastRound:
    """Read how far the federation got whose models are in a folder.

    Raises:
        ConfigurationError: There is none, or its file is damaged.
    """
    path = folder / FILE_NAME
    try:
        kept = _metadata(path)
        return LastRound(int(kept["completed"]), kept["run"], **json.loads(kept["rest"]))
    except FileNotFoundError as error:
        raise ConfigurationError(f"nothing to resume: there is no {path}; begin without --resume") from error
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ConfigurationError(f"cannot resume from {path}: {type(error).__name__}: {error}") from error


def _metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file: its header is JSON, behind its length in 8 bytes."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        return json.loads(file.read(length))["__metadata__"]
