"""A bus in memory, and what was published on it, read back from its journal's bytes."""

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from eventbus import Envelope, Event, EventBus
from eventbus._bus import Bus
from eventbus._codec import decode

Stored = Callable[[type[Event]], list[Envelope[Any]]]
StoredOn = Callable[..., list[Envelope[Any]]]


def read_back(bus: Bus, kind: type[Event] | tuple[type[Event], ...]) -> list[Envelope[Any]]:
    records = anyio.run(bus.journal.read, {}, 1_000_000)
    envelopes = [decode(record.body, record.header.origin, record.seq) for record in records]
    return [one for one in envelopes if isinstance(one.event, kind)]


@pytest.fixture
def bus() -> Iterator[EventBus]:
    with EventBus(job="hello", run="run-1").background() as bus:
        yield bus


@pytest.fixture
def stored(bus: EventBus) -> Stored:
    return lambda kind: read_back(bus, kind)


@pytest.fixture
def stored_on() -> StoredOn:
    return read_back
