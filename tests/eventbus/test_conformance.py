"""One suite over every kind of journal, and the suite itself: it must find what is wrong."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from eventbus import Origin
from eventbus._event import Envelope, Event
from eventbus._topic import Scope
from eventbus.abc import Journal, RefusedError, RelayedBatch
from eventbus.journals import MemoryJournal, SqliteJournal
from eventbus.testing import JOURNAL_CHECKS, FaultyJournal, check_journal

pytestmark = pytest.mark.anyio

Make = Callable[[], Journal]


@pytest.fixture(params=["memory", "sqlite", "faulty"])
def make_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    numbers = itertools.count(1)

    def make() -> Journal:
        number = next(numbers)
        origin = Origin(site="site-1", rank=0, incarnation=f"a{number}", job="job")
        if request.param == "memory":
            return MemoryJournal(origin)
        journal = SqliteJournal(tmp_path / str(number) / "journal", origin)
        return journal if request.param == "sqlite" else FaultyJournal(journal)

    return make


@pytest.mark.parametrize("check", JOURNAL_CHECKS, ids=lambda check: check.__name__)
async def test_a_journal_keeps_its_promises(make_journal: Make, check: Callable[[Journal], Awaitable[None]]) -> None:
    journal = make_journal()
    with anyio.fail_after(20):
        try:
            await check(journal)
        finally:
            journal.close()  # type: ignore[attr-defined]


class ForgetfulJournal(MemoryJournal):
    """Numbers from 0, and appends whatever comes twice."""

    def append_nowait(self, event: Event, topic: str, scope: Scope, run: str, time_ns: int) -> Envelope[Event]:
        envelope = super().append_nowait(event, topic, scope, run, time_ns)
        return Envelope(event, topic, scope, run, time_ns, envelope.origin, envelope.seq - 1)

    async def append(self, batch: RelayedBatch) -> int:
        for mirror in self._mirrors.values():
            mirror.mark = 0
        return await super().append(batch)


async def test_the_suite_names_the_promise_that_is_broken(origin: Origin) -> None:
    with anyio.fail_after(10):
        with pytest.raises(AssertionError, match=r"^a_batch_counts_once: "):
            await check_journal(lambda: ForgetfulJournal(origin))


async def test_the_suite_passes_over_a_sound_journal(tmp_path: Path, origin: Origin) -> None:
    numbers = itertools.count()
    with anyio.fail_after(30):
        await check_journal(lambda: SqliteJournal(tmp_path / str(next(numbers)), origin))


async def test_a_faulty_journal_refuses_on_demand(origin: Origin) -> None:
    from eventbus._conformance import Probed, foreign_header, relayed

    journal = FaultyJournal(MemoryJournal(origin))
    with journal.refusing("disk full"):
        with pytest.raises(RefusedError, match="disk full"):
            journal.append_nowait(Probed(number=1), "probe", Scope.LOCAL, "", 1)
        with pytest.raises(RefusedError, match="disk full"):
            await journal.append(relayed(foreign_header(), [1], first=1, last=1))
    assert journal.refusals == {"disk full": 2}
    assert journal.append_nowait(Probed(number=1), "probe", Scope.LOCAL, "", 1).seq == 1
