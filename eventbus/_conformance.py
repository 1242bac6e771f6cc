"""What every journal must do: the conformance suite behind `eventbus.testing.check_journal`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from eventbus._codec import decode, encode
from eventbus._event import Envelope, Event, Origin
from eventbus._topic import Scope
from eventbus.abc import Journal, LocalJournal, PartitionHeader, RefusedError, RelayedBatch
from eventbus.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from eventbus.abc import Cursor, StoredRecord


class Probed(Event, name="trackbus.testing.Probed", topic="probe"):
    """What the conformance suite appends.

    Attributes:
        number: Tells one from another.
        values: Room for payloads.
    """

    number: int
    values: dict[str, float] = Field(default_factory=dict)


async def check_journal(make_journal: Callable[[], Journal]) -> None:
    """Hold one kind of journal to what all kinds promise.

    Args:
        make_journal: Makes a new, empty journal at each call; the suite closes it.

    Raises:
        AssertionError: It behaves otherwise; the message begins with the name of the check.
    """
    for check in JOURNAL_CHECKS:
        journal = make_journal()
        try:
            await check(journal)
        except AssertionError as error:
            msg = f"{check.__name__}: {error}"
            raise AssertionError(msg) from error
        finally:
            if isinstance(journal, LocalJournal):
                journal.close()


def only_local(check: Callable[[LocalJournal], Awaitable[None]]) -> Callable[[Journal], Awaitable[None]]:
    """Let a check pass over journals that take no single records."""

    async def checked(journal: Journal) -> None:
        if isinstance(journal, LocalJournal):
            await check(journal)

    checked.__name__ = getattr(check, "__name__", "check")
    return checked


def foreign_header(incarnation: str = "f0", site: str = "site-f", after: tuple[str, ...] = ()) -> PartitionHeader:
    """Make the header of a partition that another journal holds."""
    origin = Origin(site=site, rank=3, incarnation=incarnation, job="suite", attempt=2)
    return PartitionHeader(origin=origin, created_ns=1, after=after)


def relayed(
    header: PartitionHeader, numbers: Iterable[int], *, first: int, last: int, ended: bool = False
) -> RelayedBatch:
    """Make a stretch of another journal's partition that carries the records of the given numbers."""
    records = tuple((seq, _body(seq)) for seq in numbers)
    return RelayedBatch(header=header, first=first, last=last, records=records, ended=ended)


def _body(number: int) -> bytes:
    return encode(Probed(number=number), "probe", Scope.FEDERATED, "run", 1_000 + number)


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        msg = f"{what}: {found!r}, not {wanted!r}"
        raise AssertionError(msg)


def _fill(journal: LocalJournal, count: int) -> list[Envelope[Event]]:
    return [
        journal.append_nowait(Probed(number=number), "probe", Scope.FEDERATED, "run", 1_000 + number)
        for number in range(1, count + 1)
    ]


async def _read_all(journal: Journal, limit: int) -> list[StoredRecord]:
    """Read as a consumer does: batch by batch, moving its cursor."""
    cursor: Cursor = {}
    found: list[StoredRecord] = []
    while records := await journal.read(cursor, limit):
        if len(records) > limit:
            msg = f"read {len(records)} records where at most {limit} were asked for"
            raise AssertionError(msg)
        found += records
        cursor.update({record.header.key: record.seq for record in records})
    return found


def _numbers(records: Iterable[StoredRecord], key: str) -> list[int]:
    return [record.seq for record in records if record.header.key == key]


async def a_mirror_keeps_origin_and_numbers(journal: Journal) -> None:
    """Records of another journal stay who they are."""
    header = foreign_header()
    batch = relayed(header, [1, 2, 3], first=1, last=3)

    _expect("mark", await journal.append(batch), 3)

    records = await journal.read({}, 10)
    _expect("records", [(one.seq, one.body) for one in records], list(batch.records))
    _expect("origins", {one.header.origin for one in records}, {header.origin})
    _expect("marks", (await journal.marks()).get(header.key), 3)
    _expect("ends", (await journal.ends()).get(header.key), 3)


async def a_batch_counts_once(journal: Journal) -> None:
    """A batch that comes again, or overlaps, adds only what is new; the mark never falls."""
    header = foreign_header()
    await journal.append(relayed(header, [1, 2, 3], first=1, last=3))

    _expect("mark after a repetition", await journal.append(relayed(header, [1, 2, 3], first=1, last=3)), 3)
    _expect("mark after an overlap", await journal.append(relayed(header, [2, 3, 4, 5], first=2, last=5)), 5)
    _expect("mark after an old batch", await journal.append(relayed(header, [1], first=1, last=1)), 5)

    _expect("numbers", _numbers(await journal.read({}, 10), header.key), [1, 2, 3, 4, 5])


async def what_was_withheld_leaves_a_gap(journal: Journal) -> None:
    """The mark moves over records that stayed at their site, and a batch may carry none."""
    header = foreign_header()

    _expect("mark", await journal.append(relayed(header, [3, 7], first=1, last=10)), 10)
    _expect("mark of an empty batch", await journal.append(relayed(header, [], first=11, last=20)), 20)
    _expect("mark after the gap", await journal.append(relayed(header, [21], first=21, last=21)), 21)

    _expect("numbers", _numbers(await journal.read({}, 10), header.key), [3, 7, 21])


async def a_partition_ends_once(journal: Journal) -> None:
    """The last stretch may be empty and may come again; what was appended stays."""
    header = foreign_header()
    await journal.append(relayed(header, [1, 2], first=1, last=2))

    for _ in range(2):
        _expect("mark", await journal.append(relayed(header, [], first=3, last=2, ended=True)), 2)

    _expect("numbers", _numbers(await journal.read({}, 10), header.key), [1, 2])


async def reads_are_bounded_and_complete(journal: Journal) -> None:
    """Whatever the limit: each record once, each partition in order, never more than asked for."""
    headers = [foreign_header(f"f{i}", site=f"site-{i}") for i in range(3)]
    for header in headers:
        await journal.append(relayed(header, range(1, 8), first=1, last=7))
    for limit in (1, 2, 5, 100):
        records = await _read_all(journal, limit)
        for header in headers:
            _expect(f"numbers at limit {limit}", _numbers(records, header.key), list(range(1, 8)))
    _expect("what is read at the end", await journal.read({header.key: 7 for header in headers}, 10), [])


async def a_successor_is_read_after_its_predecessor(journal: Journal) -> None:
    """Whatever the limit, a restarted writer's records come after all that it wrote before."""
    old = foreign_header("f0")
    new = foreign_header("f1", after=(old.key,))
    await journal.append(relayed(old, range(1, 6), first=1, last=5))
    await journal.append(relayed(new, range(1, 6), first=1, last=5))
    for limit in (1, 3, 100):
        records = await _read_all(journal, limit)
        order = [record.header.key for record in records]
        _expect(f"order at limit {limit}", order, [old.key] * 5 + [new.key] * 5)


async def cursors_are_kept_apart(journal: Journal) -> None:
    """A new consumer has read nothing; a commit moves the named partitions of one consumer."""
    _expect("cursor of a new consumer", await journal.cursor("one"), {})

    await journal.commit("one", {"a/0-1": 5, "b/0-2": 6})
    await journal.commit("one", {"b/0-2": 8})
    await journal.commit("two", {"a/0-1": 1})

    _expect("cursor", await journal.cursor("one"), {"a/0-1": 5, "b/0-2": 8})
    _expect("the other's cursor", await journal.cursor("two"), {"a/0-1": 1})


@only_local
async def own_records_are_numbered_from_one(journal: LocalJournal) -> None:
    """Each append gets the next number, and the envelope says what was given."""
    envelopes = _fill(journal, 5)

    _expect("numbers", [one.seq for one in envelopes], [1, 2, 3, 4, 5])
    _expect("last number", journal.last_seq, 5)
    _expect("origins", {one.origin for one in envelopes}, {journal.origin})
    _expect("end", await journal.ends(), {journal.origin.partition: 5})
    _expect("header", (journal.header.key, journal.header.origin), (journal.origin.partition, journal.origin))


@only_local
async def own_records_are_read_as_they_were_given(journal: LocalJournal) -> None:
    """What is read decodes to what was appended, in order, at any limit."""
    given = _fill(journal, 9)
    for limit in (1, 4, 100):
        records = await _read_all(journal, limit)
        _expect("records", [decode(one.body, one.header.origin, one.seq) for one in records], given)


@only_local
async def an_empty_journal_has_no_end(journal: LocalJournal) -> None:
    """Nothing was appended: no records, no ends, no marks."""
    _expect("last number", journal.last_seq, 0)
    _expect("records", await journal.read({}, 10), [])
    _expect("ends", await journal.ends(), {})
    _expect("marks", await journal.marks(), {})


@only_local
async def what_cannot_be_encoded_is_said_at_once(journal: LocalJournal) -> None:
    """A bad value costs no other record; on disk, it raises at the append that brings it."""
    _fill(journal, 1)
    try:
        journal.append_nowait(Probed(number=2**70), "probe", Scope.LOCAL, "run", 1)
        said = journal.folder is None  # in memory nothing is encoded before it is read
    except BadInputError:
        said = True
    _expect("whether an integer over 64 bits was refused", said, wanted=True)

    after = journal.append_nowait(Probed(number=2), "probe", Scope.LOCAL, "run", 2)

    _expect("numbers", _numbers(await _read_all(journal, 10), journal.origin.partition), [1, after.seq])


@only_local
async def own_records_and_mirrors_stand_side_by_side(journal: LocalJournal) -> None:
    """A mirror's numbers and the own ones don't mix, and own records have no mark."""
    header = foreign_header()
    await journal.append(relayed(header, [1, 2], first=1, last=2))
    _fill(journal, 3)
    await journal.append(relayed(header, [3], first=3, last=3))

    records = await _read_all(journal, 2)

    _expect("mirrored numbers", _numbers(records, header.key), [1, 2, 3])
    _expect("own numbers", _numbers(records, journal.origin.partition), [1, 2, 3])
    _expect("marks", await journal.marks(), {header.key: 3})


@only_local
async def a_closed_journal_takes_nothing(journal: LocalJournal) -> None:
    """Closing twice is legal; on disk, nothing is appended behind the end of the partition."""
    _fill(journal, 1)
    journal.close()
    journal.close()
    if journal.folder is None:
        return
    _expect_refusal("append_nowait", lambda: journal.append_nowait(Probed(number=2), "probe", Scope.LOCAL, "", 1))
    try:
        await journal.append(relayed(foreign_header(), [1], first=1, last=1))
    except RefusedError:
        return
    msg = "append: taken after the close"
    raise AssertionError(msg)


def _expect_refusal(what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except RefusedError:
        return
    msg = f"{what}: taken after the close"
    raise AssertionError(msg)


JOURNAL_CHECKS: tuple[Callable[[Journal], Awaitable[None]], ...] = (
    a_mirror_keeps_origin_and_numbers,
    a_batch_counts_once,
    what_was_withheld_leaves_a_gap,
    a_partition_ends_once,
    reads_are_bounded_and_complete,
    a_successor_is_read_after_its_predecessor,
    cursors_are_kept_apart,
    own_records_are_numbered_from_one,
    own_records_are_read_as_they_were_given,
    an_empty_journal_has_no_end,
    what_cannot_be_encoded_is_said_at_once,
    own_records_and_mirrors_stand_side_by_side,
    a_closed_journal_takes_nothing,
)
"""The suite, check by check: for a test that wants a line for each."""
