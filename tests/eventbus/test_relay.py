"""From a site's journal to the server's: only what is federated, in order, each once, whoever is killed."""

from __future__ import annotations

import errno
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from pydantic import field_validator

from eventbus import Envelope, Event, EventBus, Origin, Relay, Scope, Topic
from eventbus._bus import Bus
from eventbus._codec import decode, read_frame
from eventbus._drain import DrainPolicy
from eventbus._topic import Selector
from eventbus.abc import Cursor, LocalJournal, PartitionEnd, RelayedBatch, StoredRecord
from eventbus.errors import ConfigurationError, SubscriptionError
from eventbus.journals import MemoryJournal, SqliteJournal
from eventbus.journals.consumer import ConsumerFile
from eventbus.testing import FaultyJournal, recording
from eventbus.workspace import ENVIRONMENT

pytestmark = pytest.mark.anyio

Spawn = Callable[..., "subprocess.Popen[str]"]


class Counted(Event, name="tests.relay.Counted", topic="tests.relay.count"):
    number: int


class Noted(Event, name="tests.relay.Noted", topic="tests.relay.note"):
    pass


class Elsewhere(Event, name="tests.relay.Elsewhere", topic="tests.elsewhere"):
    pass


class Split(Event, name="tests.relay.Split", topic="tests.split"):
    tags: list[str]

    @field_validator("tags", mode="before")
    @classmethod
    def split(cls, tags: str) -> list[str]:
        return tags.split(",")


COUNTS: Topic[Counted] = Topic(Counted.event_topic, Counted)

NOTES: Topic[Noted] = Topic(Noted.event_topic, Noted)

FED = Scope.FEDERATED


@pytest.fixture(params=["memory", "disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path


def make_bus(folder: Path | None, site: str) -> EventBus:
    return EventBus(None if folder is None else folder / site, site=site)


@asynccontextmanager
async def site_and_server(folder: Path | None) -> AsyncIterator[tuple[EventBus, EventBus, Relay]]:
    with anyio.fail_after(30):
        async with make_bus(folder, "server") as server, make_bus(folder, "site-1") as site:
            relay = Relay(server)
            site.subscribe(COUNTS.federated, relay)
            yield site, server, relay


async def stored(journal: LocalJournal) -> dict[str, list[int]]:
    """The numbers that a journal holds, by partition, in the order in which consumers read them."""
    cursor: Cursor = {}
    found: dict[str, list[int]] = defaultdict(list)
    while records := await journal.read(cursor, 50):
        for record in records:
            event = decode(record.body, record.header.origin, record.seq).event
            assert isinstance(event, Counted)
            found[record.header.key].append(event.number)
            cursor[record.header.key] = record.seq
    return dict(found)


# ---------------------------------------------------------------------------------------------------- what may leave
async def test_only_what_is_federated_leaves(folder: Path | None) -> None:
    async with site_and_server(folder) as (site, server, relay):
        for number in range(300):
            site.publish(Counted(number=number), scope=FED if number % 3 == 0 else Scope.LOCAL)
        await site.publish(Noted()).delivered(10)

        assert await stored(server.journal) == {site.origin.partition: list(range(0, 300, 3))}
        assert await server.journal.marks() == {site.origin.partition: 301}
        assert relay.withheld == 201
        assert relay.statistics().delivered == 100
        assert relay.statistics().by_site == {"site-1": 100}
        assert relay.statistics().dropped == {}
    assert site.report().line("relay").left == 0
    assert site.report().complete


@pytest.mark.parametrize("what", [COUNTS.federated, Counted, "*.count"], ids=str)
async def test_only_what_is_subscribed_leaves(folder: Path | None, what: Any) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(30))
        server = await stack.enter_async_context(make_bus(folder, "server"))
        site = await stack.enter_async_context(make_bus(folder, "site-1"))
        relay = Relay(server)
        site.subscribe(what, relay)
        site.publish(Noted(), scope=FED)
        site.publish(Counted(number=1), scope=FED)
        await site.publish(Noted(), scope=FED).delivered(10)

        assert await stored(server.journal) == {site.origin.partition: [1]}
        assert relay.withheld == 2


@pytest.mark.parametrize("what", [COUNTS, Counted, "*"], ids=str)
async def test_what_is_local_never_leaves_whatever_is_subscribed(
    folder: Path | None, what: Topic[Counted] | type[Counted] | str
) -> None:
    with anyio.fail_after(30):
        async with make_bus(folder, "server") as server, make_bus(folder, "site-1") as site:
            site.subscribe(what, Relay(server))
            site.publish(Counted(number=1))
            await site.publish(Counted(number=2), scope=FED).delivered(10)
            assert await stored(server.journal) == {site.origin.partition: [2]}


async def test_relayed_records_stay_who_they_are(folder: Path | None) -> None:
    found: list[Envelope[Counted]] = []

    async def keep(envelope: Envelope[Counted]) -> None:
        found.append(envelope)

    async with site_and_server(folder) as (site, server, _):
        server.subscribe(Counted, keep, envelopes=True)
        site.publish(Counted(number=1))
        receipt = site.publish(Counted(number=2), scope=FED, run="run", time_ns=7)
        await receipt.delivered(10)
    (envelope,) = found
    assert envelope == Envelope(Counted(number=2), COUNTS.name, FED, "run", 7, site.origin, 2)


async def test_handlers_at_the_server_see_each_once_and_in_order(folder: Path | None) -> None:
    async with site_and_server(folder) as (site, server, _):
        with recording(server, Counted) as recorder:
            for number in range(700):
                await site.publish(Counted(number=number), scope=FED)
            assert [event.number for event in await recorder.wait_for(700, 20)] == list(range(700))


@pytest.mark.parametrize(("sites", "bound"), [(1, 16), (6, 40)])
async def test_a_slow_handler_at_the_server_holds_the_relays_and_loses_nothing(
    folder: Path | None, sites: int, bound: int
) -> None:
    """However many bring however much at once: what it is behind waits in the sites' journals."""
    got: dict[str, list[int]] = defaultdict(list)

    async def slow(envelope: Envelope[Counted]) -> None:
        await anyio.sleep(0.0003)
        got[envelope.site].append(envelope.event.number)

    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(60))
        server = await stack.enter_async_context(make_bus(folder, "server"))
        server.subscribe(Counted, slow, name="slow", envelopes=True, queue_events=bound)
        buses = [await stack.enter_async_context(make_bus(folder, f"site-{at}")) for at in range(sites)]
        for site in buses:
            site.subscribe(COUNTS.federated, Relay(server))
            for number in range(100):
                site.publish(Counted(number=number), scope=FED)
    assert server.report().line("slow").dropped == 0
    assert got == {f"site-{at}": list(range(100)) for at in range(sites)}


def test_relays_on_loops_of_their_own_hold_to_the_bound_together(tmp_path: Path) -> None:
    """Each looks and hands over in one: none takes the room that another has seen."""
    most = 0

    def slow(event: Counted) -> None:
        nonlocal most
        most = max(most, subscription.statistics().queued)

    with ExitStack() as stack:
        server = stack.enter_context(make_bus(tmp_path, "server").background())
        subscription = server.subscribe(Counted, slow, name="slow", queue_events=1)
        for at in range(6):
            site = stack.enter_context(make_bus(tmp_path, f"site-{at}").background())
            site.subscribe(COUNTS.federated, Relay(server))
            for number in range(100):
                site.publish(Counted(number=number), scope=FED)
    assert (subscription.statistics().delivered, subscription.statistics().dropped) == (600, 0)
    assert most <= 1 + 2


async def test_a_site_that_leaves_waits_for_a_handler_that_gets_on(folder: Path | None) -> None:
    """A batch may take longer than a drain waits without progress: each record of it is progress."""
    got: list[int] = []

    async def slow(event: Counted) -> None:
        await anyio.sleep(0.01)
        got.append(event.number)

    with anyio.fail_after(30):
        async with make_bus(folder, "server") as server:
            server.subscribe(Counted, slow, name="slow", queue_events=8)
            site = EventBus(None if folder is None else folder / "site-1", site="site-1", drain_idle_timeout=0.4)
            async with site:
                site.subscribe(COUNTS.federated, Relay(server))
                for number in range(120):
                    site.publish(Counted(number=number), scope=FED)
            assert site.report().complete
    assert got == list(range(120))
    assert server.report().line("slow").dropped == 0


async def test_what_a_relay_that_is_cut_short_has_stored_is_handled_or_counted() -> None:
    released = anyio.Event()

    async def hold(event: Counted) -> None:
        await released.wait()

    with anyio.fail_after(20):
        async with EventBus(site="server") as server:
            server.subscribe(Counted, hold, name="held", queue_events=4)
            async with EventBus(site="site-1", drain_idle_timeout=0.2) as site:
                site.subscribe(COUNTS.federated, Relay(server))
                for number in range(100):
                    site.publish(Counted(number=number), scope=FED)
            assert await stored(server.journal) == {site.origin.partition: list(range(100))}
            released.set()
    line = server.report().line("held")
    assert (line.delivered + line.dropped, line.left) == (100, 0)
    assert line.delivered >= 4


async def test_a_bus_in_memory_that_was_left_takes_nothing_more() -> None:
    with anyio.fail_after(10):
        async with EventBus(site="site-1") as site:
            async with EventBus(site="server") as server:
                site.subscribe(COUNTS.federated, Relay(server))
            site.publish(Counted(number=1), scope=FED)
    assert (site.report().line("relay").delivered, site.report().line("relay").left) == (0, 1)


async def test_many_sites_arrive_side_by_side(folder: Path | None) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(30))
        server = await stack.enter_async_context(make_bus(folder, "server"))
        sites: list[EventBus] = []
        for number in range(1, 4):
            site = await stack.enter_async_context(make_bus(folder, f"site-{number}"))
            site.subscribe(COUNTS.federated, Relay(server))
            sites.append(site)
        with recording(server, Counted) as recorder:
            for number in range(200):
                for site in sites:
                    site.publish(Counted(number=number), scope=FED)
            await recorder.wait_for(600, 20)
        assert await stored(server.journal) == {site.origin.partition: list(range(200)) for site in sites}


async def test_leaving_relays_what_was_logged(folder: Path | None) -> None:
    with anyio.fail_after(30):
        async with make_bus(folder, "server") as server:
            async with make_bus(folder, "site-1") as site:
                site.subscribe(COUNTS.federated, Relay(server))
                for number in range(500):
                    site.publish(Counted(number=number), scope=FED)
            assert await stored(server.journal) == {site.origin.partition: list(range(500))}


async def test_what_memory_has_overwritten_is_counted() -> None:
    origin = Origin(site="site-1", rank=0, incarnation="a1", job="job")
    with anyio.fail_after(10):
        async with EventBus(site="server") as server, Bus(lambda: MemoryJournal(origin, max_events=10)) as site:
            relay = Relay(server)
            site.subscribe(COUNTS.federated, relay)
            for number in range(100):
                site.publish(Counted(number=number), scope=FED)
    assert relay.statistics().delivered == 10
    assert sum(relay.statistics().dropped.values()) == 90
    assert relay.withheld == 0
    assert not site.report().complete


# ----------------------------------------------------------------------------------------------------- several topics
async def topics_stored(journal: LocalJournal) -> dict[str, int]:
    return Counter(read_frame(record.body).topic for record in await journal.read({}, 10_000))


async def test_one_relay_carries_all_topics_that_it_is_subscribed_to(folder: Path | None) -> None:
    async with site_and_server(folder) as (site, server, relay):
        site.subscribe(NOTES, relay)
        for number in range(100):
            site.publish(Counted(number=number), scope=FED)
            site.publish(Noted(), scope=FED)
            await site.publish(Noted())
        await site.publish(Elsewhere(), scope=FED).delivered(20)
        assert await topics_stored(server.journal) == {COUNTS.name: 100, Noted.event_topic: 100}
        assert [feed.selectors for feed in site._feeds] == [(Selector.of(COUNTS.federated), Selector.of(NOTES))]
    line = site.report().line("relay")
    assert (line.delivered, line.left, relay.withheld) == (200, 0, 101)
    assert site.report().complete


async def test_one_topic_more_counts_from_where_the_relay_is(folder: Path | None) -> None:
    async with site_and_server(folder) as (site, server, relay):
        await site.publish(Noted(), scope=FED).delivered(20)
        site.subscribe(NOTES, relay)
        await site.publish(Noted(), scope=FED).delivered(20)
        assert await topics_stored(server.journal) == {Noted.event_topic: 1}
    assert (relay.statistics().delivered, relay.withheld) == (1, 1)


def test_a_script_without_a_loop_names_its_topics_before_anything_is_passed_by(tmp_path: Path) -> None:
    """What an earlier opening has left is read as soon as the relay is subscribed, in another thread."""
    with make_bus(tmp_path, "site-1").background() as site:
        for _ in range(20):
            site.publish(Noted(), scope=FED)
    with make_bus(tmp_path, "server").background() as server, make_bus(tmp_path, "site-1").background() as site:
        relay = Relay(server)
        site.subscribe(COUNTS.federated, relay)
        site.subscribe(NOTES, relay)
    assert relay.statistics().delivered == 20


async def test_two_relays_to_one_server_are_refused(folder: Path | None) -> None:
    """They would share the mark of each partition, and each would take the other's records for stored."""
    async with make_bus(folder, "server-2") as second, site_and_server(folder) as (site, server, _):
        for other in (Relay(server, name="other"), Relay(server)):
            with pytest.raises(SubscriptionError, match="subscribe the same Relay to each topic"):
                site.subscribe(NOTES, other)
        site.subscribe(NOTES, Relay(second, name="other"))
        await site.publish(Noted(), scope=FED).delivered(20)
        assert await topics_stored(server.journal) == {}
        assert await topics_stored(second.journal) == {Noted.event_topic: 1}


async def test_a_relay_ends_when_the_bus_that_it_relays_to_was_left(tmp_path: Path) -> None:
    """Asking it again would hold the exit, and bring nothing."""
    with anyio.fail_after(8):
        async with make_bus(tmp_path, "site-1") as site:
            async with make_bus(tmp_path, "server") as server:
                site.subscribe(COUNTS.federated, Relay(server))
                await site.publish(Counted(number=1), scope=FED).delivered(5)
            site.publish(Counted(number=2), scope=FED)
    line = site.report().line("relay")
    assert (line.delivered, line.left) == (1, 1)
    assert any("was left before this one" in note for note in line.notes)


# ------------------------------------------------------------------------------------------ buses that relay in a ring
async def test_two_buses_may_relay_to_each_other(folder: Path | None) -> None:
    """What comes back to its writer is passed by: it is there already."""
    async with site_and_server(folder) as (site, server, relay):
        back = Relay(site)
        server.subscribe(COUNTS.federated, back)
        for start in (0, 50):
            for bus in (site, server):
                receipts = [bus.publish(Counted(number=number), scope=FED) for number in range(start, start + 50)]
                await receipts[-1].delivered(20)
        expected = {site.origin.partition: list(range(100)), server.origin.partition: list(range(100))}
        assert (await stored(site.journal), await stored(server.journal)) == (expected, expected)
    for one, bus in ((relay, site), (back, server)):
        counts = one.statistics()
        assert (counts.delivered, counts.failed, counts.dropped) == (100, {}, {})
        assert bus.report().complete


async def test_buses_in_a_ring_that_are_opened_again_go_on(tmp_path: Path) -> None:
    """What a bus wrote when it was open before is its own as well."""
    numbers: dict[str, list[int]] = {}
    for number in range(2):
        async with AsyncExitStack() as stack:
            stack.enter_context(anyio.fail_after(40))
            ring = [await stack.enter_async_context(make_bus(tmp_path, name)) for name in ("a", "b", "c")]
            relays = [Relay(ring[(at + 1) % 3]) for at in range(3)]
            for bus, relay in zip(ring, relays, strict=True):
                bus.subscribe(COUNTS.federated, relay)
            numbers |= {bus.origin.partition: [number] for bus in ring}
            for bus in ring:
                bus.publish(Counted(number=number), scope=FED)
            for bus in ring:
                while await stored(bus.journal) != numbers:  # noqa: ASYNC110 - a journal announces nothing
                    await anyio.sleep(0.01)
        assert [relay.statistics().failed for relay in relays] == [{}, {}, {}]


# ------------------------------------------------------------------------------------------------------- what is odd
async def test_an_event_whose_validator_fails_at_the_server_stops_no_relay(folder: Path | None) -> None:
    async with site_and_server(folder) as (site, server, relay):
        site.subscribe("tests.split", relay)
        with recording(server, Counted) as recorder:
            server.subscribe(Split, list[Split]().append, name="split")
            site.publish(Split.model_validate({"tags": "a,b"}), scope=FED)
            await site.publish(Counted(number=1), scope=FED).delivered(20)
            await recorder.wait_for(1)
    assert relay.statistics().delivered == 2
    assert (server.report().line("split").delivered, server.report().line("split").dropped) == (0, 1)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "x" * 300])
async def test_a_relay_has_a_name_that_a_file_may_have(name: str) -> None:
    with pytest.raises(ConfigurationError, match="relay name"):
        Relay(EventBus(), name=name)


async def test_a_relay_serves_one_bus(folder: Path | None) -> None:
    """Its cursor, its counts and the files that it brings are one site's."""
    async with site_and_server(folder) as (site, server, relay), make_bus(folder, "site-2") as other:
        with pytest.raises(SubscriptionError, match="make one for each"):
            other.subscribe(COUNTS.federated, relay)
        other.subscribe(COUNTS.federated, Relay(server))
        for bus in (site, other):
            await bus.publish(Counted(number=1), scope=FED).delivered(20)
        assert relay.statistics().by_site == {"site-1": 1}


async def test_a_journal_is_not_relayed_to_itself(tmp_path: Path) -> None:
    with anyio.fail_after(10):
        async with EventBus(tmp_path) as bus, EventBus(tmp_path, site="server") as other:
            for target in (bus, other):
                with pytest.raises(SubscriptionError, match="two journals"):
                    bus.subscribe(COUNTS.federated, Relay(target))


async def test_a_far_side_that_refuses_is_asked_again(tmp_path: Path) -> None:
    journal = FaultyJournal(
        SqliteJournal(tmp_path / "server", Origin(site="server", rank=0, incarnation="c1", job="j"))
    )
    with anyio.fail_after(30):
        async with Bus(lambda: journal) as server, make_bus(tmp_path, "site-1") as site:
            relay = Relay(server)
            site.subscribe(COUNTS.federated, relay)
            with journal.refusing("disk full"):
                receipt = site.publish(Counted(number=1), scope=FED)
                while not journal.refusals:  # noqa: ASYNC110 - the journal announces nothing
                    await anyio.sleep(0.001)
            await receipt.delivered(10)
            assert await stored(journal) == {site.origin.partition: [1]}
            assert relay.statistics().failed == {"refused: disk full": 1}
            assert relay.statistics().delivered == 1


class NotAlways(FaultyJournal):
    """Fails as one in a process that is short of descriptors does."""

    failing = True

    async def append(self, batch: RelayedBatch) -> int:
        if self.failing:
            self.failing = False
            raise OSError(errno.EMFILE, "Too many open files")
        return await super().append(batch)


async def test_a_far_side_that_fails_is_asked_again_and_what_is_gone_is_counted_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    far = NotAlways(MemoryJournal(Origin(site="server", rank=0, incarnation="c1", job="j")))
    with anyio.fail_after(30):
        async with Bus(lambda: far) as server, EventBus(site="site-1") as site:
            relay = Relay(server)
            site.subscribe(COUNTS.federated, relay)
            for number in range(1100):
                site.publish(Counted(number=number), scope=FED)
    counts = relay.statistics()
    assert (counts.delivered, sum(counts.dropped.values())) == (1000, 100)
    assert counts.failed == {"OSError: [Errno 24] Too many open files": 1}
    assert sum("relay tries again" in record.message for record in caplog.records) == 1


async def test_a_site_that_left_badly_comes_back_while_the_server_is_up(tmp_path: Path) -> None:
    """Its last partition was never declared to have ended; what it logs next must not wait for that."""
    journal = FaultyJournal(
        SqliteJournal(tmp_path / "server", Origin(site="server", rank=0, incarnation="c1", job="j"))
    )

    def open_site() -> Bus:
        origin = Origin(site="site-1", rank=0, incarnation=f"a{len(expected)}", job="job")
        policy = DrainPolicy(idle_timeout=0.2, timeout=0.5)
        return Bus(lambda: SqliteJournal(tmp_path / "site", origin), policy)

    expected: dict[str, list[int]] = {}
    with anyio.fail_after(30):
        async with Bus(lambda: journal) as server:
            for number in range(3):
                async with open_site() as site:
                    site.subscribe(COUNTS.federated, Relay(server))
                    await site.publish(Counted(number=number), scope=FED).delivered(10)
                    expected[site.origin.partition] = [number]
                    journal.reason = "disk full"
                journal.reason = None
                assert await stored(journal) == expected


SHORT_OF_DESCRIPTORS = """
    import logging, resource, sys
    import anyio
    from eventbus import Event, EventBus, Relay, Scope, Topic

    class Counted(Event, name="tests.relay.Counted", topic="tests.relay.count"):
        number: int

    def allow(descriptors):
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, 1024))

    async def main(folder):
        server, site = EventBus(f"{folder}/server", site="server"), EventBus(f"{folder}/site-1", site="site-1")
        async with server, site:
            relay = Relay(server)
            site.subscribe(Topic(Counted.event_topic, Counted).federated, relay)
            await site.publish(Counted(number=0), scope=Scope.FEDERATED).delivered(20)
            allow(3)
            site.publish(Counted(number=1), scope=Scope.FEDERATED)
            while not relay.statistics().failed:
                await anyio.sleep(0.01)
            during = relay.statistics().state
            allow(1024)
            await site.publish(Counted(number=2), scope=Scope.FEDERATED).delivered(20)
            print(during, relay.statistics().state, relay.statistics().delivered)
        print(site.report().complete)

    logging.getLogger("trackbus").addHandler(logging.NullHandler())
    anyio.run(main, sys.argv[1])
"""


def test_a_process_that_is_short_of_descriptors_for_a_while_relays_on(
    tmp_path: Path, run_program: Callable[..., str]
) -> None:
    assert run_program(SHORT_OF_DESCRIPTORS, tmp_path) == "trying again waiting 3\nTrue\n"


# ----------------------------------------------------------------------------------------------------------- kill -9
BOTH = """
    import os, sys
    import anyio
    from eventbus import Event, EventBus, Relay, Scope, Topic

    class Counted(Event, name="tests.relay.Counted", topic="tests.relay.count"):
        number: int

    COUNTS = Topic(Counted.event_topic, Counted)

    async def main(folder, start, count):
        server, site = EventBus(f"{folder}/server", site="server"), EventBus(f"{folder}/site-1", site="site-1")
        async with server, site:
            site.subscribe(COUNTS.federated, Relay(server))
            for number in range(start, start + count):
                scope = Scope.FEDERATED if number % 2 else Scope.LOCAL
                await site.publish(Counted(number=number), scope=scope)
                os.write(1, b"%d\\n" % number)

    anyio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


async def test_each_once_after_kill_9_of_a_process_that_holds_both(tmp_path: Path, spawn: Spawn) -> None:
    start, last, lasts = 0, 0, list[int]()
    for count in (50, 900, 1700):
        child = spawn(BOTH, tmp_path, start, 1_000_000)
        assert child.stdout is not None
        for line in child.stdout:
            last = int(line)
            if last == start + count:
                child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=10) == -signal.SIGKILL
        lasts.append(last)
        start = last + 100_000
    child = spawn(BOTH, tmp_path, start, 10)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (0, "")

    with anyio.fail_after(30):
        async with make_bus(tmp_path, "server") as server, make_bus(tmp_path, "site-1") as site:
            at_site = await stored(site.journal)
            at_server = await stored(server.journal)
            assert await server.journal.marks() == await site.journal.ends()

    assert list(at_server) == list(at_site)  # the predecessors' partitions first, as at the site
    for partition, numbers in at_site.items():
        assert at_server[partition] == [number for number in numbers if number % 2]
    for numbers, last in zip(at_site.values(), lasts, strict=False):
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[-1] in (last, last + 1)


# ------------------------------------------------------------------------------ processes of a site beside its own bus
BESIDE = """
    import os, signal, sys
    from eventbus import Event, Scope, Topic, current_bus

    class Counted(Event, name="tests.relay.Counted", topic="tests.relay.count"):
        number: int

    current_bus().publish(Counted(number=1), scope=Scope.FEDERATED)
    print("logged", flush=True)
    if sys.argv[1] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    for number in map(int, sys.stdin):
        current_bus().publish(Counted(number=number), scope=Scope.FEDERATED)
"""


async def begun_beside(site: EventBus, spawn: Spawn, how: str = "ends") -> subprocess.Popen[str]:
    """A process of the site that has logged once, and logs the numbers that it is sent."""
    child = spawn(BESIDE, how, **{ENVIRONMENT: msgspec.json.encode(site.address).decode()})
    assert child.stdout is not None
    assert await anyio.to_thread.run_sync(child.stdout.readline) == "logged\n"
    return child


async def end(child: subprocess.Popen[str], *numbers: int) -> None:
    await anyio.to_thread.run_sync(child.communicate, "".join(f"{number}\n" for number in numbers))


def ends_at(server: EventBus) -> list[tuple[bool, bool]]:
    """Whether each relayed partition has ended there, and in order."""
    journal = server.journal
    assert isinstance(journal, SqliteJournal)
    mirrors = [one for one in journal._reader.partitions() if one.mark()]
    return [(one.ended(), one.closed_in_order()) for one in mirrors]


@pytest.mark.parametrize(("how", "orderly"), [("ends", True), ("dies", False)])
async def test_the_server_learns_how_another_process_of_a_site_has_ended(
    tmp_path: Path, spawn: Spawn, how: str, orderly: bool
) -> None:
    async with make_bus(tmp_path, "server") as server:
        async with make_bus(tmp_path, "site-1") as site:
            site.subscribe(COUNTS.federated, Relay(server))
            child = await begun_beside(site, spawn, how)
            await end(child)
            assert child.returncode == (0 if orderly else -signal.SIGKILL)
        assert ends_at(server) == [(True, orderly)]


async def test_what_a_process_logs_last_is_relayed_before_it_is_said_to_have_ended(
    tmp_path: Path, spawn: Spawn
) -> None:
    """It logs and ends between the relay's last look for records and its question who has ended."""
    async with make_bus(tmp_path, "server") as server:
        async with make_bus(tmp_path, "site-1") as site:
            relay = Relay(server)
            site.subscribe(COUNTS.federated, relay)
            child = await begun_beside(site, spawn)
            ended = site.journal.ended

            async def late() -> list[PartitionEnd]:
                if child.poll() is None:
                    await end(child, 2, 3)
                return await ended()

            site.journal.ended = late
        assert list((await stored(server.journal)).values()) == [[1, 2, 3]]
        assert relay.statistics().delivered == 3
        assert ends_at(server) == [(True, True)]


async def test_a_partition_that_cannot_be_read_to_its_end_is_not_said_to_have_ended(
    tmp_path: Path, spawn: Spawn
) -> None:
    """The next relay reads on, and says it."""
    async with make_bus(tmp_path, "server") as server:
        async with make_bus(tmp_path, "site-1") as site:
            read = site.journal.read

            async def waiting(after: Mapping[str, int], limit: int) -> list[StoredRecord]:
                return [record for record in await read(after, limit) if record.seq == 1]

            site.journal.read = waiting
            site.subscribe(COUNTS.federated, Relay(server))
            await end(await begun_beside(site, spawn), 2, 3)
        assert list((await stored(server.journal)).values()) == [[1]]
        assert ends_at(server) == [(False, False)]

        async with make_bus(tmp_path, "site-1") as site:
            site.subscribe(COUNTS.federated, Relay(server))
        assert list((await stored(server.journal)).values()) == [[1, 2, 3]]
        assert ends_at(server) == [(True, True)]


async def test_an_end_is_said_once_by_the_first_relay_that_can(tmp_path: Path, spawn: Spawn) -> None:
    batches: list[tuple[int, bool, bool]] = []

    async def relay_once(*, outlives: bool = False) -> list[tuple[int, bool, bool]]:
        batches.clear()
        async with make_bus(tmp_path, "server") as server:
            append = server.journal.append

            async def watched(batch: RelayedBatch) -> int:
                batches.append((len(batch.records), batch.ended, batch.vanished))
                return await append(batch)

            server.journal.append = watched
            async with make_bus(tmp_path, "site-1") as site:
                site.subscribe(COUNTS.federated, Relay(server))
                child = await begun_beside(site, spawn, "ends" if outlives else "dies")
                if not outlives:
                    await end(child)
            if outlives:
                await end(child)
        return batches

    event, ended, vanished = (1, False, False), (0, True, False), (0, False, True)
    assert await relay_once() == [event, vanished]
    assert await relay_once(outlives=True) == [event]
    assert sorted(await relay_once()) == sorted([event, ended, vanished])
    assert await relay_once() == [event, vanished]


# ------------------------------------------------------------------------------------------ its cursor at its own site
async def test_a_site_knows_how_far_its_server_is(tmp_path: Path) -> None:
    async with site_and_server(tmp_path) as (site, server, _):
        partition = site.origin.partition
        for number in range(500):
            site.publish(Counted(number=number), scope=FED)
        await site.publish(Counted(number=500), scope=FED).delivered(20)
        assert (await site.journal.cursor("relay")).get(partition, 0) <= 501
        assert await server.journal.marks() == {partition: 501}
    with ConsumerFile(tmp_path / "site-1" / "cursors", "relay") as file:
        assert file.cursor() == {partition: 501}


async def test_another_server_has_nothing_yet_whatever_the_last_one_had(tmp_path: Path) -> None:
    """Else what it lacks could be trimmed away."""
    async with site_and_server(tmp_path) as (site, _, _):
        old = site.origin.partition
        site.publish(Counted(number=1), scope=FED)
    with anyio.fail_after(30):
        async with make_bus(tmp_path, "other") as other, make_bus(tmp_path, "site-1") as site:
            committed: list[Cursor] = []
            commit = site.journal.commit

            async def watched(consumer: str, cursor: Mapping[str, int]) -> None:
                await commit(consumer, cursor)
                committed.append(await site.journal.cursor(consumer))

            site.journal.commit = watched
            site.subscribe(COUNTS.federated, Relay(other))
    assert committed[0] == {old: 0}
    assert committed[-1][old] == 1
