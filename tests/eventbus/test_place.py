"""Where the journal lives: network file systems are told from local ones, and refused with the way out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from eventbus import EventBus, _place
from eventbus._place import NETWORK, POINTER, VARIABLE, file_system, place_of
from eventbus.errors import ConfigurationError, JournalError, WorkspaceError
from eventbus.journals._reader import JournalReader
from eventbus.tracking import MetricsLogged

# Lines of real machines: a workstation with autofs homes, a cluster's node, a container, WSL.
MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
35 27 0:30 / /home rw,relatime shared:5 - autofs systemd-1 rw,fd=29,pgrp=1,timeout=0,minproto=5,maxproto=5,direct
410 35 0:52 / /home/anna rw,relatime shared:221 - nfs4 filer:/export/anna rw,vers=4.2,rsize=1048576,hard,proto=tcp
412 27 0:53 / /scratch rw,noatime shared:230 - lustre 10.0.0.1@o2ib:/scratch rw,flock,lazystatfs
413 412 254:3 / /scratch/local rw,noatime - xfs /dev/nvme0n1p1 rw,attr2,inode64
414 27 0:54 / /mnt/c rw,noatime - 9p drvfs rw,dirsync,aname=drvfs;path=C:\\134,mmap,access=client,trans=fd
415 27 0:55 / /mnt/with\\040space rw,relatime - cifs //nas/data rw,vers=3.1.1
416 27 0:56 / /remote rw,nosuid,nodev,relatime shared:300 - fuse.sshfs anna@host:/data rw,user_id=1000
417 27 0:57 / /over rw,relatime - nfs4 filer:/x rw
418 417 254:4 / /over rw,relatime - ext4 /dev/vdb rw
419 27 0:58 / /var/lib/docker rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
a broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/anna/runs", "nfs4"),
        ("/home/anna", "nfs4"),
        ("/home/annabelle", "autofs"),
        ("/home/bert", "autofs"),
        ("/scratch/x", "lustre"),
        ("/scratch/local/x", "xfs"),
        ("/scratch/localx", "lustre"),
        ("/mnt/c/Users", "9p"),
        ("/mnt/with space/x", "cifs"),
        ("/remote/x", "fuse.sshfs"),
        ("/over/x", "ext4"),
        ("/var/lib/docker/x", "overlay"),
        ("/tmp", "ext4"),
        ("/", "ext4"),
    ],
)
def test_the_kind_of_file_system_is_that_of_the_longest_mount(path: str, kind: str) -> None:
    assert file_system(MOUNTS, Path(path)) == kind


def test_without_mounts_nothing_is_known() -> None:
    assert file_system("", Path("/tmp")) == ""


def test_what_is_shared_is_refused_and_what_is_local_is_not() -> None:
    assert {"nfs", "nfs4", "lustre", "cifs", "9p", "fuse.sshfs"} <= NETWORK
    assert NETWORK.isdisjoint({"", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "apfs"})


def use(workspace: Path, journal_dir: Path | None = None, number: int = 1) -> None:
    bus = EventBus(workspace, site="site-1", journal_dir=journal_dir)
    bus.open()
    assert not bus.publish(MetricsLogged(values={"loss": float(number)})).refused
    bus.close()


def count(folder: Path) -> int:
    with closing(JournalReader(folder)) as reader:
        return sum(reader.ends().values())


@pytest.fixture
def on_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace that the kernel says is on NFS."""
    workspace = tmp_path / "home" / "exp1"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"{MOUNTS}500 27 0:60 / {tmp_path}/home rw - nfs4 filer:/home rw\n")
    monkeypatch.setattr(_place, "MOUNTS", mounts)
    return workspace


def test_a_workspace_on_a_network_is_refused_with_the_way_out(on_network: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"nfs4.*journal_dir=.*export TRACKBUS_JOURNAL_DIR="):
        EventBus(on_network).open()
    assert not (on_network / "journal").exists()


def test_a_journal_dir_on_a_network_is_refused_too(on_network: Path) -> None:
    with pytest.raises(WorkspaceError, match="nfs4"):
        EventBus(on_network, journal_dir=on_network.parent / "other").open()


def test_the_journal_is_kept_on_a_local_disk_and_found_again(on_network: Path, tmp_path: Path) -> None:
    use(on_network, tmp_path / "local")
    use(on_network)
    use(on_network, tmp_path / "local")

    place = place_of(on_network)
    assert place.journal.is_relative_to(tmp_path / "local")
    assert not (on_network / "journal").exists()
    assert not (on_network / "cursors").exists()
    assert count(place.journal) == 3


def test_the_environment_names_it_too(on_network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "local"))
    use(on_network)
    use(on_network.with_name("exp2"))
    monkeypatch.delenv(VARIABLE)
    use(on_network)

    assert count(place_of(on_network).journal) == 2
    assert count(place_of(on_network.with_name("exp2")).journal) == 1


def test_a_journal_that_is_there_already_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(tmp_path / "w")
    with pytest.raises(ConfigurationError, match="already"):
        EventBus(tmp_path / "w", journal_dir=tmp_path / "local").open()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "local"))
    use(tmp_path / "w")
    assert count(tmp_path / "w" / "journal") == 2

    use(tmp_path / "v", tmp_path / "one")
    with pytest.raises(ConfigurationError, match="already"):
        EventBus(tmp_path / "v", journal_dir=tmp_path / "other").open()


def test_what_a_workspace_of_the_same_path_has_left_behind_is_no_journal_of_this_one(tmp_path: Path) -> None:
    workspace, local = tmp_path / "w", tmp_path / "local"
    use(workspace, local)
    before = place_of(workspace)
    shutil.rmtree(workspace)

    use(workspace, local)
    use(workspace, local)

    now = place_of(workspace)
    assert now.journal != before.journal
    assert (count(before.journal), count(now.journal)) == (1, 2)


def test_a_workspace_that_was_moved_finds_its_journal_elsewhere(tmp_path: Path) -> None:
    use(tmp_path / "w", tmp_path / "local")
    (tmp_path / "w").rename(tmp_path / "v")
    use(tmp_path / "v", tmp_path / "local")
    assert count(place_of(tmp_path / "v").journal) == 2


def test_another_machines_disk_is_named(tmp_path: Path) -> None:
    use(tmp_path / "w", tmp_path / "local")
    pointer = json.loads((tmp_path / "w" / POINTER).read_text())
    (tmp_path / "w" / POINTER).write_text(json.dumps({**pointer, "folder": "/not/here", "host": "node-7"}))

    with pytest.raises(WorkspaceError, match="node-7"):
        EventBus(tmp_path / "w").open()
    with pytest.raises(WorkspaceError, match="node-7"):
        place_of(tmp_path / "w")


def test_two_that_open_at_once_agree(tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]) -> None:
    program = """
        import sys
        from eventbus import EventBus
        from eventbus.tracking import MetricsLogged

        bus = EventBus(sys.argv[1], journal_dir=sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
        bus.open()
        bus.publish(MetricsLogged(values={"loss": 1.0}))
        bus.close()
    """
    children = [spawn(program, tmp_path / "w", tmp_path / "local") for _ in range(3)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.communicate("go\n", timeout=60) == ("", "")
    assert count(place_of(tmp_path / "w").journal) == 3
    assert [path.name for path in (tmp_path / "w").glob(f".{POINTER}*")] == []


# ------------------------------------------------------------------------------------- disks that can't be written
@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small file systems of their own."""
    points: list[Path] = []

    def mount(options: str) -> Path:
        point = tmp_path / f"disk-{len(points)}"
        point.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(point)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", "-l", str(point)], check=True)


def test_a_read_only_disk_is_said_at_the_entry(mounted: Callable[..., Path]) -> None:
    with pytest.raises(WorkspaceError, match=r"can't be written: Read-only file system; choose another"):
        EventBus(mounted("ro") / "w").open()


def test_a_workspace_that_became_read_only_is_said_at_the_entry(mounted: Callable[..., Path]) -> None:
    disk = mounted("size=4m")
    use(disk / "w")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(WorkspaceError, match="Read-only"):
        EventBus(disk / "w").open()


@pytest.mark.parametrize("filled", [0, 1])
def test_a_full_disk_is_said_at_the_entry(mounted: Callable[..., Path], filled: int) -> None:
    """With no room at all, and with too little for a journal."""
    disk = mounted("size=64k,nr_inodes=200")
    (disk / "w").mkdir()
    with (disk / "w" / "filling").open("wb", buffering=0) as filling:
        with suppress(OSError):
            while filling.write(b"x" * 4096):
                pass
        if filled:
            filling.truncate(48 * 1024)
    with pytest.raises((WorkspaceError, JournalError), match=r"full|No space"):
        EventBus(disk / "w").open()


def test_a_journal_dir_that_cannot_be_made_is_said_at_the_entry(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WorkspaceError, match="choose another journal_dir"):
        EventBus(tmp_path / "w", journal_dir=tmp_path / "file" / "below").open()


def test_the_report_reads_through_the_pointer(on_network: Path, tmp_path: Path) -> None:
    use(on_network, tmp_path / "local")
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", "report", str(on_network)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 events" in done.stdout
