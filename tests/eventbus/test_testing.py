"""What is shipped for other people's tests: the recorder and the fixtures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from eventbus import Event, EventBus
from eventbus.testing import Recorder, recording

ROOT = Path(__file__).resolve().parents[2]


class Counted(Event, name="tests.testing.Counted"):
    number: int


@pytest.mark.anyio
async def test_a_recorder_says_what_came_when_too_little_did(bus: EventBus) -> None:
    with anyio.fail_after(5), recording(bus, Counted) as recorder:
        with pytest.raises(AssertionError, match=r"^0 of 1 events came within 0\.05 s$"):
            await recorder.wait_for(1, 0.05)
        bus.publish(Counted(number=7))
        with pytest.raises(
            AssertionError, match=r"^1 of 2 events came within 0\.05 s, the last one Counted\(number=7\)$"
        ):
            await recorder.wait_for(2, 0.05)


@pytest.mark.anyio
async def test_a_recording_ends_with_its_block(bus: EventBus, recorder: Recorder[Event]) -> None:
    with anyio.fail_after(5):
        with recording(bus, Counted) as recording_recorder:
            bus.publish(Counted(number=1))
            await recording_recorder.wait_for(1)
        bus.publish(Counted(number=2))
        await recorder.wait_for(2)
    assert recording_recorder.events == [Counted(number=1)]
    assert recorder.events == [Counted(number=1), Counted(number=2)]


USERS_TEST = """
    import pytest
    from eventbus import EventBus
    from eventbus.tracking import MetricsLogged

    pytestmark = pytest.mark.anyio

    async def test_mine(bus, recorder, bus_workspace):
        bus.publish(MetricsLogged(values={"loss": 1.0}))
        assert [type(event) for event in await recorder.wait_for(1)] == [MetricsLogged]
        assert not bus_workspace.exists()
        async with EventBus(bus_workspace) as other:
            assert other.publish(MetricsLogged(values={"loss": 1.0})).seq == 1

    async def test_nothing_is_left_of_it(bus, recorder):
        assert bus.report().published == 0
        assert recorder.events == []
"""


def test_the_fixtures_work_in_a_users_project(tmp_path: Path) -> None:
    import textwrap

    (tmp_path / "test_mine.py").write_text(textwrap.dedent(USERS_TEST))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_loads_the_bus_and_no_more() -> None:
    program = "import eventbus.pytest_plugin, sys; print({'writers', 'receivers', 'training'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"
