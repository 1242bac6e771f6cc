"""The pure half of supervision: when a worker is overdue; and the messages that say so."""

import pytest

from receivers import WorkerPolicy
from receivers._control import MAX_MESSAGE_BYTES, Beat, Done, Inbox, Phase, Settled, decode_news, pack
from receivers._watch import Health, Watch

POLICY = WorkerPolicy(start_timeout=60, process_timeout=30, heartbeat_timeout=10)


def heard(watch: Watch, phase: str, now: float) -> Watch:
    watch.hear(Phase(phase), now)
    return watch


@pytest.mark.parametrize(
    ("phase", "beats_until", "now", "complaint"),
    [
        ("starting", 61, 59, None),
        ("starting", 61, 61, "was starting for more than 60 s"),
        ("opening", 61, 61, "was opening for more than 60 s"),
        ("batch", 31, 29, None),
        ("batch", 31, 31, "was batch for more than 30 s"),
        ("closing", 31, 31, "was closing for more than 30 s"),
        ("idle", 1000, 1000, None),
        ("standing by", 1000, 1000, None),
        ("idle", 5, 16, "gave no sign of life for 10 s"),
        ("batch", 5, 16, "gave no sign of life for 10 s"),
    ],
)
def test_deadlines(phase: str, beats_until: int, now: float, complaint: str | None) -> None:
    watch = heard(Watch(POLICY), phase, 0.0)
    for second in range(1, beats_until + 1):
        watch.hear(Beat(), float(second))
    assert watch.overdue(now) == complaint


def test_a_process_that_never_spoke_has_the_start_timeout() -> None:
    watch = Watch(POLICY, phase_since=100.0)
    assert watch.overdue(159.0) is None
    assert watch.overdue(161.0) == "was starting for more than 60 s"


def test_a_new_batch_winds_the_deadline_up_again() -> None:
    watch = heard(Watch(POLICY), "batch", 0.0)
    heard(watch, "batch", 25.0)
    watch.hear(Beat(), 40.0)
    assert watch.overdue(40.0) is None


def test_a_step_that_takes_long_by_its_size_has_more_time() -> None:
    watch = heard(Watch(POLICY), "batch", 0.0)
    watch.hear(Phase("batch", seconds=100.0), 10.0)
    watch.hear(Beat(), 141.0)
    assert watch.overdue(139.0) is None
    assert watch.overdue(141.0) == "was batch for more than 130 s"
    assert heard(watch, "batch", 141.0).overdue(141.0) is None
    watch.hear(Beat(), 172.0)
    assert watch.overdue(172.0) == "was batch for more than 30 s"


def test_counts_are_told_since_the_first_worker_began() -> None:
    health = Health()
    assert not health.settle({}) or health.baseline == {}
    health = Health()
    health.settle({("delivered", "a"): 100})
    assert health.settle({("delivered", "a"): 130, ("delivered", "b"): 5})
    assert not health.settle({("delivered", "a"): 130, ("delivered", "b"): 5})
    assert health.since_start() == {("delivered", "a"): 30, ("delivered", "b"): 5}


def test_messages_arrive_whole_however_the_bytes_are_cut() -> None:
    sent = [Phase("batch"), Settled({"s/0-a": 7}, [("delivered", "s", 7)]), Beat(), Done()]
    data = b"".join(pack(message) for message in sent)
    for size in (1, 3, len(data)):
        inbox = Inbox(decode_news)
        got = [message for at in range(0, len(data), size) for message in inbox.feed(data[at : at + size])]
        assert got == sent


@pytest.mark.parametrize("nonsense", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02hi", (MAX_MESSAGE_BYTES + 1).to_bytes(4)])
def test_nonsense_is_refused(nonsense: bytes) -> None:
    with pytest.raises(ValueError, match=r"bytes|expected|Expected|MessagePack|trailing|malformed"):
        Inbox(decode_news).feed(nonsense + b"x" * 10)
