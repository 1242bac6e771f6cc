"""Whose a run's files are: workspaces may share a folder, and none may cut off what another one wrote.

A workspace has an id, which goes with it where it is moved and is gone when it is removed. It is laid down beside the
first file of a run, and whoever finds another's there leaves the files alone.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from eventbus.errors import WorkspaceError
from receivers.abc import TrackerUnavailableError

ID = ".trackbus-id"
"""File of a workspace that holds its id."""

MARK = ".{}.owner"
"""File beside a run's file or folder that holds the id of the workspace that fills it."""


class TrackerTakenError(TrackerUnavailableError, WorkspaceError):
    """Raised by a sink that finds another workspace's run in its place: nothing is sent until a person acts."""

    needs_person = True


def take(place: Path, workspace: Path, *, is_used: bool) -> None:
    """Take a place for a run of which nothing is known to be stored; what lies there must be this workspace's own.

    Args:
        place: The run's file or folder; the folder that holds it is made.
        workspace: Whose run it is.
        is_used: Whether something lies there.

    Raises:
        TrackerTakenError: Another workspace has filled it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    own = _first_word(workspace / ID, secrets.token_hex(8))
    mark = place.with_name(MARK.format(place.name))
    if (is_used and not mark.exists()) or _first_word(mark, own) != own:
        raise TrackerTakenError(
            f"{place} was written by another workspace than {workspace}: give the run or the receiver's folder "
            f"another name, or move that run away together with {mark.name}"
        )


def _first_word(path: Path, word: str) -> str:
    """Return what stands in a file; who comes first writes it, and it is there whole or not at all."""
    if not path.exists():
        draft = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
        try:
            draft.write_text(word)
            path.hardlink_to(draft)
        except FileExistsError:  # another worker was faster
            pass
        except OSError:  # a file system without links: of two that come at the very same moment, the second one has it
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    return path.read_text()
