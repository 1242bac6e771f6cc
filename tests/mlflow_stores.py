"""Fresh stores of MLflow, ready made: its migrations take seconds of a processor, and are tested by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

CREATE = """
import sys
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

SqlAlchemyStore(f"sqlite:///{sys.argv[1]}", sys.argv[2]).engine.dispose()
"""


def put_mlflow_store(folder: Path) -> Path:
    """Put an empty store where a workspace has its own, and return the folder, made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_template(), folder / "mlflow.db")
    return folder


@cache
def _template() -> Path:
    """Create one for all tests of this version of MLflow; several processes may do so at once."""
    name = f"trackbus-tests-{os.getuid()}-mlflow-{version('mlflow')}-sqlalchemy-{version('sqlalchemy')}.db"
    template = Path(tempfile.gettempdir()) / name
    if not template.exists():
        draft = template.with_name(f"{name}-{os.getpid()}")
        draft.unlink(missing_ok=True)
        command = [sys.executable, "-P", "-c", CREATE, str(draft), str(draft.with_suffix(".artifacts"))]
        subprocess.run(command, check=True, capture_output=True, timeout=100)
        draft.replace(template)
    return template
