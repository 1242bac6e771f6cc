"""Reads what is left of a damaged partition file: from its bytes, without SQLite, which gives up at the first fault.

Every page that looks like a leaf is taken at its word, wherever it lies, in the file or in its write-ahead log; what it
says is believed only where a record's checksum bears it out. So nothing is invented: a page from an older state of the
log holds records of the same partition, which never change once they are written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from eventbus._codec import MAX_RECORD_BYTES
from eventbus.journals._partition import PAGE_BYTES, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TABLE_LEAF, INDEX_LEAF = 0x0D, 0x0A
"""First byte of a page that holds rows of `records`, or of `header`."""

CELLS = 8
"""Where a leaf's list of cells begins."""

CHAIN_BYTES = PAGE_BYTES - 4
"""What a page of a spilled row carries beside the number of the next one."""

MOST_LOCAL = {TABLE_LEAF: PAGE_BYTES - 35, INDEX_LEAF: (PAGE_BYTES - 12) * 64 // 255 - 23}
LEAST_LOCAL = (PAGE_BYTES - 12) * 32 // 255 - 23
"""How much of a row stands on its leaf at most, and at least when it spills over (SQLite's file format, 1.6)."""

MAX_ROW_BYTES = MAX_RECORD_BYTES + PAGE_BYTES
"""A row that claims to be longer is none of ours."""

LOG_HEADER, FRAME_HEADER = 32, 24
"""Bytes before a log's first frame, and before the page in a frame."""

_WIDTHS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_FIXED = {0: None, 8: 0, 9: 1}

Value = int | bytes | str | None


@dataclass(slots=True)
class Salvaged:
    """What could be read.

    Attributes:
        header: The values of the file's header.
        records: Bodies by number.
    """

    header: dict[str, Value] = field(default_factory=dict[str, Value])
    records: dict[int, bytes] = field(default_factory=dict[int, bytes])

    def take(self, page: bytes, pages: Mapping[int, bytes]) -> None:
        """Take what a page holds; what a later one holds replaces it.

        Args:
            page: Any page.
            pages: All pages by number: long rows spill over to others.
        """
        for number, columns in _rows(page, pages):
            if page[0] == TABLE_LEAF:
                self._take_record(number, columns)
            elif len(columns) == 2 and isinstance(columns[0], str):  # noqa: PLR2004 - (name, value)
                self.header[columns[0]] = columns[1]

    def _take_record(self, number: int, columns: list[Value]) -> None:
        body = columns[1] if len(columns) == 3 else None  # noqa: PLR2004 - (seq, body, crc)
        if isinstance(body, bytes) and checksum(number, body) == columns[2]:
            self.records[number] = body


def salvage(database: bytes, log: bytes) -> Salvaged:
    """Read all that can be read.

    Args:
        database: Content of the file.
        log: Content of its write-ahead log.
    """
    in_file = [(number, _page(database, (number - 1) * PAGE_BYTES)) for number in _numbers(len(database))]
    in_log = [(number, page) for number, page, _ in _frames(log)]
    pages = dict(in_file) | dict(in_log)
    found = Salvaged()
    for _, page in [*in_file, *in_log]:
        found.take(page, pages)
    return found


def logged_end(log: bytes) -> int:
    """Return the number of the last record that was committed to a write-ahead log, 0 for none.

    SQLite ends its look at the first frame that is damaged, and says nothing; this looks at those behind it too. What a
    killed writer had not committed does not count: each round of the log is taken up to its last commit.
    """
    log = log[: len(log) - (len(log) - LOG_HEADER) % (FRAME_HEADER + PAGE_BYTES)]  # the last frame may be torn
    rounds: dict[bytes, list[tuple[int, bytes, int]]] = {}
    for frame in _frames(log):
        rounds.setdefault(log[frame[2] + 8 : frame[2] + 16], []).append(frame)
    found = Salvaged()
    for frames in rounds.values():
        commits = [place for place, (_, _, at) in enumerate(frames) if any(log[at + 4 : at + 8])]
        committed = frames[: commits[-1] + 1] if commits else []
        pages = {number: page for number, page, _ in committed}
        for _, page, _ in committed:
            found.take(page, pages)
    return max(found.records, default=0)


def _numbers(size: int) -> range:
    return range(1, -(-size // PAGE_BYTES) + 1)


def _page(data: bytes, at: int) -> bytes:
    return data[at : at + PAGE_BYTES].ljust(PAGE_BYTES, b"\0")


def _frames(log: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield each frame's page number, its page, and where in the log it begins."""
    for at in range(LOG_HEADER, len(log) - FRAME_HEADER, FRAME_HEADER + PAGE_BYTES):
        yield int.from_bytes(log[at : at + 4]), _page(log, at + FRAME_HEADER), at


def _rows(page: bytes, pages: Mapping[int, bytes]) -> Iterator[tuple[int, list[Value]]]:
    """Yield number and columns of a leaf's rows, those that can be read; an index's rows have the number 0."""
    if page[0] not in MOST_LOCAL:
        return
    end = CELLS + 2 * int.from_bytes(page[3:5])
    for at in range(CELLS, min(end, PAGE_BYTES - 1), 2):
        try:
            yield _row(page, int.from_bytes(page[at : at + 2]), pages)
        except (IndexError, KeyError, ValueError):  # it points nowhere, or at no row
            continue


def _row(page: bytes, at: int, pages: Mapping[int, bytes]) -> tuple[int, list[Value]]:
    size, at = _varint(page, at)
    number, at = _varint(page, at) if page[0] == TABLE_LEAF else (0, at)
    if size > MAX_ROW_BYTES:
        raise ValueError("too long")
    most = MOST_LOCAL[page[0]]
    local = size
    if size > most:
        local = LEAST_LOCAL + (size - LEAST_LOCAL) % CHAIN_BYTES
        local = local if local <= most else LEAST_LOCAL
    row = page[at : at + local]
    following = page[at + local : at + local + 4]
    while len(row) < size:
        spilled = pages[int.from_bytes(following)]
        row, following = row + spilled[4:], spilled[:4]
    return number, _columns(row[:size])


def _columns(row: bytes) -> list[Value]:
    """Take a row apart.

    Raises:
        IndexError: It ends before its header does.
        ValueError: It holds what ours never do.
    """
    end, at = _varint(row, 0)
    columns: list[Value] = []
    position = end
    while at < end:
        kind, at = _varint(row, at)
        size = _width(kind)
        columns.append(_value(kind, row[position : position + size]))
        position += size
    return columns


def _width(kind: int) -> int:
    if kind in _FIXED:
        return 0
    return _WIDTHS[kind] if kind in _WIDTHS else (kind - 12) // 2


def _value(kind: int, data: bytes) -> Value:
    if kind in _FIXED:
        return _FIXED[kind]
    if kind in _WIDTHS:
        return int.from_bytes(data, signed=True)
    return data.decode() if kind % 2 else data


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of one to nine bytes; return it and where it ends."""
    value = 0
    for place in count(at):
        byte = data[place]
        if place - at == 8:  # noqa: PLR2004 - the ninth byte counts whole
            return value << 8 | byte, place + 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the last one
            return value, place + 1
    raise AssertionError
