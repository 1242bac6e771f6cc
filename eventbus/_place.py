"""Where a workspace's journal and its consumers' cursors are: in the workspace, or on a local disk that it points to.

SQLite's write-ahead log needs memory that all its processes share. On a network's file system there is none, and a
journal would be damaged without a word. So it is refused there, and the refusal says what to do.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path
from typing import NamedTuple

import msgspec

from eventbus.errors import ConfigurationError, WorkspaceError

VARIABLE = "TRACKBUS_JOURNAL_DIR"
"""Names a folder on a local disk for the journals of workspaces that are on a network's."""

POINTER = "journal_dir.json"
"""File of a workspace that says where its journal is, if not inside."""

MOUNTS = Path("/proc/self/mountinfo")

NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "panfs",
    "pvfs2", "smb3", "smbfs", "vboxsf", "wekafs", "fuse.beegfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.gcsfuse",
    "fuse.glusterfs", "fuse.juicefs", "fuse.mfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "fuse.vmhgfs-fuse",
})  # fmt: skip
"""File systems, as the kernel names them, whose files several machines or kernels may change."""


class Place(NamedTuple):
    """Where a workspace keeps its journal, and its consumers' cursors."""

    journal: Path
    cursors: Path


class Pointer(msgspec.Struct, frozen=True):
    """What a workspace says of a journal elsewhere.

    Attributes:
        folder: Holds the journal and the cursors.
        host: The machine whose disk it is on.
    """

    folder: str
    host: str


def place_of(workspace: Path) -> Place:
    """Return where a workspace's journal is, for whoever reads it.

    Raises:
        WorkspaceError: It is on the disk of another machine.
    """
    pointer = _read_pointer(workspace)
    return _place_in(workspace if pointer is None else _folder_of(pointer, workspace))


def make_place(workspace: Path, journal_dir: Path | None) -> Place:
    """Return where a workspace's journal is, or is to be, for whoever writes it.

    Args:
        workspace: The workspace; it exists.
        journal_dir: What the caller wants; None for what the environment says.

    Raises:
        ConfigurationError: The journal is elsewhere already.
        WorkspaceError: Its folder can't be written, or is on a file system on which it would be damaged.
    """
    pointer = _read_pointer(workspace)
    if pointer is None and not (workspace / "journal").is_dir():
        pointer = _point(workspace, journal_dir or _from_environment())
    folder = workspace if pointer is None else _folder_of(pointer, workspace)
    if journal_dir is not None and folder.parent != journal_dir.resolve():
        msg = f"the journal of {workspace} is in {folder} already; leave journal_dir= out, or use another workspace"
        raise ConfigurationError(msg)
    kind = file_system(_mounts(), folder.resolve())
    if kind in NETWORK:
        raise WorkspaceError(_refusal(folder, kind))
    return _place_in(folder)


def _place_in(folder: Path) -> Place:
    return Place(folder / "journal", folder / "cursors")


def _from_environment() -> Path | None:
    text = os.environ.get(VARIABLE)
    return Path(text) if text else None


def _own_folder(workspace: Path, journal_dir: Path) -> Path:
    """Return a new folder for a workspace in one that several may share.

    It is random: one that was left behind by a workspace of the same path, which was removed since, is another's.
    """
    return journal_dir.resolve() / f"{workspace.name}-{secrets.token_hex(4)}"


def _refusal(folder: Path, kind: str) -> str:
    return (
        f"{folder} is on a network's file system ({kind}), where the journal would be damaged; keep it on a disk of "
        f"this machine: EventBus(..., journal_dir='/var/tmp/trackbus'), or `export {VARIABLE}=/var/tmp/trackbus`"
    )


# --- the pointer --------------------------------------------------------------------------------------------------


def _read_pointer(workspace: Path) -> Pointer | None:
    path = workspace / POINTER
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pointer)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        msg = f"{path}, which says where the journal is, can't be read: {error}"
        raise WorkspaceError(msg) from error


def _point(workspace: Path, journal_dir: Path | None) -> Pointer | None:
    """Make a workspace's folder elsewhere and say so in it; who comes second goes where the first one went."""
    if journal_dir is None:
        return None
    folder = _own_folder(workspace, journal_dir)
    unfinished = workspace / f".{POINTER}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
        pointer = Pointer(str(folder), socket.gethostname())
        unfinished.write_bytes(msgspec.json.encode(pointer))
        try:
            (workspace / POINTER).hardlink_to(unfinished)
        except FileExistsError:
            folder.rmdir()
            return _read_pointer(workspace)
        finally:
            unfinished.unlink()
    except OSError as error:
        msg = f"the journal can't be kept in {folder}: {error}; choose another journal_dir"
        raise WorkspaceError(msg) from error
    return pointer


def _folder_of(pointer: Pointer, workspace: Path) -> Path:
    folder = Path(pointer.folder)
    if not folder.is_dir():
        msg = (
            f"the journal of {workspace} is in {folder} on the machine {pointer.host}, and this is "
            f"{socket.gethostname()}; work there, or use a workspace of its own here"
        )
        raise WorkspaceError(msg)
    return folder


# --- file systems -------------------------------------------------------------------------------------------------


def _mounts() -> str:
    try:
        return MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def file_system(mounts: str, path: Path) -> str:
    """Return the kind of file system that a path is on.

    Args:
        mounts: The mounts as Linux lists them in `/proc/self/mountinfo`.
        path: An absolute path without links.

    Returns:
        Its kind as the kernel names it, empty if it is unknown.
    """
    found, longest = "", -1
    for line in mounts.splitlines():
        point, kind = _mount(line)
        parts = len(Path(point).parts)
        if kind and parts >= longest and path.is_relative_to(point):  # of two on one point the later one lies on top
            found, longest = kind, parts
    return found


def _mount(line: str) -> tuple[str, str]:
    """Return the mount point and the kind that a line names; two empty strings if it names none."""
    before, _, after = line.partition(" - ")
    fields = before.split()
    if len(fields) < 5 or not after:  # noqa: PLR2004 - the fifth is the mount point
        return "", ""
    point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
    return point, after.split()[0]
