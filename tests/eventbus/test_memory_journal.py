"""What only a journal in memory can get wrong: it is read while others append, and encodes when it is read."""

from __future__ import annotations

import pytest

from eventbus import Event, EventBus, Origin, Relay, Scope
from eventbus._conformance import foreign_header, relayed
from eventbus.journals import MemoryJournal

pytestmark = pytest.mark.anyio


class Large(Event, name="tests.memory.Large", topic="tests.memory.large"):
    number: int


async def test_it_is_read_while_relays_in_other_threads_append() -> None:
    journal = MemoryJournal(Origin(site="server", rank=0, incarnation="a1", job="job"))
    known, new = foreign_header("f0"), foreign_header("f1")
    await journal.append(relayed(known, [1, 2, 3], first=1, last=3))

    found = journal._after({})
    seqs = [next(found).seq]
    await journal.append(relayed(known, [4], first=4, last=4))
    await journal.append(relayed(new, [1], first=1, last=1))
    seqs += [record.seq for record in found]

    assert seqs == [1, 2, 3]
    assert await journal.marks() == await journal.ends() == {known.key: 4, new.key: 1}


async def test_what_could_not_cross_since_it_cannot_be_encoded_is_counted_by_the_relay() -> None:
    async with EventBus(site="server") as server, EventBus(site="site-1") as site:
        site.subscribe("tests.memory.*", Relay(server))
        for number, scope in [(1, Scope.FEDERATED), (2**70, Scope.FEDERATED), (2**70, Scope.LOCAL)]:
            site.publish(Large(number=number), scope=scope)
        site.publish(Large(number=2), scope=Scope.FEDERATED)
    line = site.report().line("relay")
    assert (line.delivered, line.dropped, line.left) == (2, 1, 0)
    assert "1 unreadable record" in line.notes
    assert not site.report().complete
