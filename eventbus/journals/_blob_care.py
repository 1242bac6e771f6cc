"""What a journal does for the store of the blobs that its events name, beside the callers' path."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from eventbus import _blob_files as files
from eventbus._fork import call_in_child
from eventbus.journals._caretaker import blob_care

if TYPE_CHECKING:
    from eventbus.blobs import BlobStore

MEASURE_SECONDS = 60.0
"""How often a store is measured in which something happens: a look at every file of it."""


class BlobCare:
    """Looks after a blob store, from when it holds something.

    Args:
        store: The store.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._begin()
        call_in_child(self._begin)
        store.attend = self.attend
        if store.folder is not None and store.folder.is_dir():
            self.attend()

    def _begin(self) -> None:
        """Begin with nothing to do, as a forked child does: its parent's thread is not its own."""
        self._watching = False
        self._is_tidy = False
        self._measured_at = -MEASURE_SECONDS

    def attend(self) -> None:
        """Have the store looked after from now on: at once where somebody has put something into it."""
        if not self._watching:
            self._watching = True
            blob_care.watch(self._round)

    def _round(self) -> None:
        store = self._store
        store.look_after()
        if time.monotonic() > self._measured_at + MEASURE_SECONDS:
            self._measured_at = time.monotonic()
            store.measure()
        if not self._is_tidy and store.folder is not None:
            self._is_tidy = True
            files.clean(store.folder)

    def close(self) -> None:
        """Look after it no more; what is still to be synced, is."""
        if self._watching:
            self._watching = False
            blob_care.forget(self._round)
        self._store.sync()
