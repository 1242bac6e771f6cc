"""The journals of the buses that one worker serves, read as one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from eventbus.blobs import BlobReader, blobs_of
from eventbus.journals._reader import JournalReader
from eventbus.journals.consumer import ConsumerFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from eventbus.abc import Cursor, StoredRecord
    from eventbus.journals._reader import PartitionReader
    from receivers._control import Source

ENDLESS = 2**63 - 1
"""A position behind which nothing comes."""

NOTE = "journals"
"""Under which the consumer's file remembers the journals of other workspaces."""


class Journals:
    """Reads the journals of several buses. One thread at a time.

    A partition that stands in two of them, as a site's own and as what a relay has brought to its server, is read
    where it was written: there all of it is.

    Args:
        file: The consumer's own file. It remembers the journals of other workspaces: a plan may hold records of one
            that is not read now.
        home: Reads the journal beside that file.
        sources: The buses.

    Attributes:
        served: The buses that are read now.
        blobs: Finds the files that records of these journals name, dead letters too.
    """

    def __init__(self, file: ConsumerFile, home: JournalReader, sources: Iterable[Source] = ()) -> None:
        self._file = file
        self._home = str(home.folder)
        others: list[str] = msgspec.json.decode(file.noted(NOTE) or b"[]", type=list[str])
        self._readers = {self._home: home, **{folder: JournalReader(Path(folder)) for folder in others}}
        self.blobs = BlobReader(blobs_of(reader.folder) for reader in self._all_readers())
        self._places: dict[str, str] = {}
        self._committed: dict[str, Cursor] = {}
        self.served: dict[int, Source] = {}
        for source in sources:
            self.add(source)

    def add(self, source: Source) -> None:
        """Read the journal of one more bus."""
        self.served[source.bus] = source
        self.blobs.add(blobs_of(Path(source.journal)))
        if source.journal not in self._readers:
            self._readers[source.journal] = JournalReader(Path(source.journal))
            self._file.note(NOTE, msgspec.json.encode([folder for folder in self._readers if folder != self._home]))

    def _all_readers(self) -> Iterator[JournalReader]:
        """Yield the readers of all journals, of the home's dead letters or their origin too."""
        for reader in self._readers.values():
            yield reader
            if reader.beside is not None:
                yield reader.beside

    def remove(self, bus: int) -> None:
        """Read no more for a bus; its journal goes on if another bus stands on it."""
        self.served.pop(bus, None)

    # --- what is there ------------------------------------------------------------------------------------------

    def partitions(self) -> list[PartitionReader]:
        """Find new files and return the partitions of all journals, also of those that are not read now."""
        return list(self._find(self._readers).values())

    def stretch(self, key: str, first: int, last: int) -> list[StoredRecord]:
        """Return the records of a stretch of any journal: see `JournalReader.stretch`.

        Raises:
            KeyError: No journal holds a partition of that key.
            JournalError: It is being mended at this moment.
        """
        self.partitions()
        place = self._places.get(key, self._home)
        for folder in sorted(self._readers, key=lambda one: one != place):
            try:
                return self._readers[folder].stretch(key, first, last)
            except KeyError:
                continue
        raise KeyError(key)

    def is_gone(self, key: str) -> bool:
        """Tell whether a partition was deleted, and the others were not, whichever journal it was in."""
        return all(reader.is_gone(key) for reader in self._readers.values())

    def is_left_out(self, key: str) -> bool:
        """Tell whether a partition can't be read, or is gone."""
        return all(reader.is_left_out(key) for reader in self._readers.values())

    def has_gaps(self, key: str) -> bool:
        """Tell whether numbers may be missing in a partition, as in what a relay has brought."""
        partition = self._find(self._readers).get(key)
        return partition is None or partition.mark() is not None

    def being_mended(self) -> bool:
        """Tell whether partitions were left out a moment ago that somebody may put right."""
        return any(self._readers[folder].being_mended() for folder in self._folders())

    @property
    def unreadable(self) -> dict[str, str]:
        """Why a file is left out, by its path."""
        readers = [self._readers[folder] for folder in self._folders()]
        return {str(path): why for reader in readers for path, why in reader.unreadable.items()}

    def label_of(self, partition: str) -> str:
        """Return under which name the records of a partition are counted: see `Source`."""
        place = self._places.get(partition, self._home)
        return "" if place == self._home else place

    def _find(self, folders: Iterable[str]) -> dict[str, PartitionReader]:
        """Return the partitions of some journals by their keys, and note where each is read."""
        found: dict[str, PartitionReader] = {}
        for folder in folders:
            for partition in self._readers[folder].partitions():
                key = partition.header.key
                if key not in found or found[key].mark() is not None:
                    found[key], self._places[key] = partition, folder
        return found

    # --- reading ------------------------------------------------------------------------------------------------

    def _folders(self) -> list[str]:
        return list(dict.fromkeys(source.journal for source in self.served.values()))

    def read(self, after: Mapping[str, int], limit: int) -> list[StoredRecord]:
        """Return up to `limit` records after a cursor from the journals that are read now, as many from each."""
        folders: list[str] = self._folders()
        if len(self._readers) > 1:
            self._find(folders)  # a partition may stand in two journals
        position = dict(after)
        found: list[StoredRecord] = []
        while folders and len(found) < limit:
            share = max(1, (limit - len(found)) // len(folders))
            folders = [one for one in folders if self._take(one, position, min(share, limit - len(found)), found)]
        return found

    def _take(self, folder: str, position: Cursor, share: int, found: list[StoredRecord]) -> bool:
        """Read a share of a journal; tell whether there may be more."""
        elsewhere = {key: ENDLESS for key, place in self._places.items() if place != folder}
        records = self._readers[folder].read({**position, **elsewhere}, share)
        position.update({record.header.key: record.seq for record in records})
        found += records
        return len(records) == share

    def ends(self, bus: int | None = None) -> Cursor:
        """Return the last sequence of every partition in the journals that are read now, or in that of one bus."""
        folders = self._folders() if bus is None else [self.served[bus].journal]
        ends: Cursor = {}
        for folder in folders:
            ends.update(self._readers[folder].ends())
        return ends

    # --- telling ------------------------------------------------------------------------------------------------

    def commit(self, name: str, cursor: Mapping[str, int]) -> None:
        """Leave word of the position in the workspaces where the consumer's own file is not."""
        for source in self.served.values():
            own = {key: seq for key, seq in cursor.items() if self._places.get(key) == source.journal}
            if source.cursors and own != self._committed.get(source.journal):
                self._committed[source.journal] = own
                with ConsumerFile(Path(source.cursors), name) as file:
                    file.move(own)
