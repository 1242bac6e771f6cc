"""What a journal does for the store of the blobs that its events name, beside the callers' path."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from eventbus import _blob_files as files
from eventbus._fork import call_in_child
from eventbus.journals._blob_garbage import KEEP_SECONDS, collect
from eventbus.journals._bound import nothing
from eventbus.journals._caretaker import blob_care

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from eventbus.blobs import BlobStore

MEASURE_SECONDS = 60.0
"""How often a store is measured in which something happens: a look at every file of it."""

MEASURE_SHARE = 0.01
"""What that may take of the time: a store of a million files is measured more rarely."""


class BlobCare:
    """Looks after a blob store, from when it holds something: syncs, computes digests, measures, removes.

    What nobody needs any more is looked for at the opening and when files of the journal were removed. Near the store's
    bounds the oldest files that every consumer has stored are removed for that.

    Args:
        store: The store.
        journal: Folder of the journal whose events name its blobs.
        make_room: Removes files of the journal that nobody needs, oldest first, of so many bytes.
    """

    def __init__(self, store: BlobStore, journal: Path, make_room: Callable[[int], object]) -> None:
        self._store = store
        self._journal = journal
        self._make_room = make_room
        self._begin()
        call_in_child(self._begin_in_child)
        store.attend = self.attend
        if store.folder is not None and store.folder.is_dir():
            self.attend()

    def _begin(self) -> None:
        self._watching = False
        self._measure_at = 0.0
        self._collect_at = self._collect_again_at = 0.0

    def _begin_in_child(self) -> None:
        """Begin anew, and leave it to the parent to remove what nobody needs."""
        self._begin()
        self._collect_at, self._make_room = inf, nothing

    def attend(self) -> None:
        """Have the store looked after from now on."""
        if not self._watching:
            self._watching = True
            blob_care.watch(self._round)

    def note_trimmed(self) -> None:
        """Have what is not needed any more looked for: files of the journal were removed."""
        self._collect_again_at = time.monotonic() + KEEP_SECONDS  # what is too young now
        self._collect_at = 0.0

    def _round(self) -> None:
        self._store.look_after()
        if time.monotonic() > self._collect_at:
            self._collect_at, self._collect_again_at = self._collect_again_at or inf, 0.0
            self._collect()
        if time.monotonic() > self._measure_at:
            self._measure()

    def _measure(self) -> None:
        started = time.monotonic()
        self._store.measure()
        ended = time.monotonic()
        self._measure_at = ended + max(MEASURE_SECONDS, (ended - started) / MEASURE_SHARE)
        if self._store.is_crowded:
            self._make_room(1)  # the oldest file; the next round sees what that has freed

    def _collect(self) -> None:
        if self._store.folder is not None:
            files.clean(self._store.folder)
            if collect(self._store.folder, self._journal).count:
                self._measure_at = 0.0

    def close(self) -> None:
        """Look after it no more; what is still to be synced, is."""
        blob_care.forget(self._round)
        self._watching = True  # never again
        self._store.flush()
