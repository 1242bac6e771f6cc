"""A type checker rejects what would fail at run time, and nothing else: the files beside this one say where."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CASES = sorted(path for path in HERE.glob("*.py") if path != Path(__file__).resolve())
REJECTED = "# pyright: ignore["


def check(folder: Path) -> list[str]:
    """Run the type checker over a folder and return what it finds."""
    config = {
        "include": ["."],
        "extraPaths": [str(HERE.parents[1])],
        "typeCheckingMode": "standard",
        "pythonVersion": "3.11",
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(folder)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    answer = json.loads(done.stdout)
    assert answer["summary"]["filesAnalyzed"] == len(list(folder.glob("*.py")))
    return [
        f"{Path(one['file']).name}:{one['range']['start']['line'] + 1} {one['message']}"
        for one in answer["generalDiagnostics"]
    ]


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_what_is_wrong_is_rejected_and_what_is_right_is_not(tmp_path: Path) -> None:
    rejected = 0
    for case in CASES:
        text = case.read_text()
        rejected += text.count(REJECTED)
        (tmp_path / case.name).write_text(text)
    # One line that is accepted though it says that it is not: the check must see it.
    (tmp_path / "control.py").write_text("number: int = 1  # pyright: ignore[reportAssignmentType]\n")

    assert [line.split()[0] for line in check(tmp_path)] == ["control.py:1"]
    assert rejected > 20
