"""What is shown of a training never ends it: programs with screens that can't take everything, or that aren't there."""

import subprocess
import sys
from pathlib import Path

import pytest

from training._say import say

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 60  # seconds for an interpreter on a busy machine

SAYS = """
from training._say import say
say("accuracy-ü损失 1.0")
say("round 2")
open("end", "w").close()
"""

SHOWS = """
from training._console import LastingConsole
console = LastingConsole()
console.print("round 1")
console.print("round 2")
open("end", "w").close()
"""

JOB = """
from pathlib import Path
from training._job_screen import JobScreen
from training.abc import RoundStarted
from training.plan import JobPlan
plan = JobPlan("hello", sites=(), workflows=(), components={}, app_folder=Path())
with JobScreen(plan, Path("run")) as screen:
    screen.tell(RoundStarted(0, 2))
open("end", "w").close()
"""


def program(text: str, folder: Path, out: str, encoding: str = "utf-8") -> subprocess.CompletedProcess[str]:
    """Run a program whose stdout is what the shell makes of it; it leaves the file `end` where it comes to its end."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -P -c "$1" {out}', sys.executable, text],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (folder / "end").exists(), done.stderr
    return done


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", "ü\\u635f\\u5931"), ("ascii", "\\xfc\\u635f\\u5931")])
def test_what_the_screen_has_no_characters_for_is_spelled_out(tmp_path: Path, encoding: str, shown: str) -> None:
    done = program(SAYS, tmp_path, "> out", encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out").read_text(encoding) == f"accuracy-{shown} 1.0\nround 2\n"


def test_a_line_can_not_draw_on_the_terminal_or_be_two(capsys: pytest.CaptureFixture[str]) -> None:
    say("site-1: bad \x1b[2J\nserver: all is well\u2028")
    assert capsys.readouterr().out == "site-1: bad \\x1b[2J\\nserver: all is well\\u2028\n"


@pytest.mark.parametrize("text", [SAYS, SHOWS])
def test_a_full_disk_ends_the_lines_and_not_the_program_and_is_said_once(tmp_path: Path, text: str) -> None:
    done = program(text, tmp_path, "> /dev/full")
    assert (done.returncode, done.stderr) == (0, "trackbus: nothing more is shown: No space left on device\n")


@pytest.mark.parametrize("text", [SAYS, SHOWS, JOB])
def test_a_program_without_stdout_goes_on(tmp_path: Path, text: str) -> None:
    done = program(text, tmp_path, ">&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_whose_every_stream_is_full_goes_on(tmp_path: Path) -> None:
    assert program(SAYS, tmp_path, "> /dev/full 2>&1").returncode == 0
