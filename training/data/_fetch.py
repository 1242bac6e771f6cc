"""Downloads a data set once, however many processes of this machine want it at the same time."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from training.data._samples import DatasetMissingError

DOWNLOAD_TIMEOUT = 1800.0
"""Seconds that a process waits while another one downloads: 170 MB over a slow line."""

_LOOK_SECONDS = 0.2

_FAILURES = (OSError, EOFError, RuntimeError)
"""What torchvision raises where there is no network, no room, or something else at the other end."""


def fetch(download: Callable[[], object], root: Path, title: str, advice: str) -> None:
    """Have torchvision download a data set; it does nothing where another process has just done so.

    Args:
        download: Downloads and checks it.
        root: Where to.
        title: What people call the data set.
        advice: What to do without a network.

    Raises:
        DatasetMissingError: It can't be downloaded; the message says why, and what to do.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(root / ".download.lock"):
            download()
    except _FAILURES as error:
        raise DatasetMissingError(f"{title} is not in {root}, and can't be downloaded ({error}): {advice}") from error


@contextmanager
def _one_at_a_time(path: Path) -> Generator[None]:
    with path.open("wb") as file:
        until = time.monotonic() + DOWNLOAD_TIMEOUT
        while not _locked(file.fileno()):
            if time.monotonic() > until:
                raise TimeoutError(f"another process has been downloading for {DOWNLOAD_TIMEOUT:.0f} s")
            time.sleep(_LOOK_SECONDS)
        yield


def _locked(fd: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
