"""What a script finds when it runs in a process that was forked for it, and how it ends there.

It looks like `python script.py ARGS` from within: `__main__`, `sys.argv`, `sys.path`, exit code, traceback, threads
that are waited for, `atexit`.
"""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

MAX_NUMPY_SEED = 2**32


def set_scene(script: str, args: tuple[str, ...], search_path: tuple[str, ...], threads: int, seed: int) -> None:
    """Make this process look as the script expects it.

    Args:
        script: Its file.
        args: Its arguments.
        search_path: Folders in which it finds modules, after its own.
        threads: How many threads a torch operation may use.
        seed: Of the global random states; a fork would give all sites the same.
    """
    sys.argv = [script, *args]
    sys.path[:0] = dict.fromkeys((str(Path(script).parent), *search_path))
    for stream in (sys.stdout, sys.stderr):
        cast("io.TextIOWrapper", stream).reconfigure(line_buffering=True)  # the last lines say why it was killed
    random.seed(seed)
    numpy, torch = _loaded("numpy"), _loaded("torch")
    if numpy:
        numpy.random.seed(seed % MAX_NUMPY_SEED)
    if torch:
        torch.manual_seed(seed)
        torch.set_num_threads(threads)


def _loaded(module: str) -> Any:
    return sys.modules.get(module)


def play(script: str) -> None:
    """Run the script as `__main__`; whoever called this lets the interpreter end afterwards, and does nothing else."""
    main = ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    try:
        with io.open_code(script) as file:
            code = compile(file.read(), script, "exec")
        exec(code, main.__dict__)  # noqa: S102 - the job's own script
    except SystemExit as error:
        sys.exit(error.code)  # where the bus of the process takes note of it, also of one that was raised by hand
    except BaseException as error:  # noqa: BLE001 - border: the interpreter's own last words, without our frames in them
        _say_last_words(error)
        sys.exit(1)


def _say_last_words(error: BaseException) -> None:
    traceback = error.__traceback__.tb_next if error.__traceback__ else None
    error.__traceback__ = traceback  # what is printed is the error's own
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, traceback
    sys.excepthook(type(error), error, traceback)
