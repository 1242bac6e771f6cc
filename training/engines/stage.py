"""What a script finds when it runs in a process that was forked for it, and how it ends there.

It looks like `python script.py ARGS` from within: `__main__`, `sys.argv`, `sys.path`, exit code, traceback, threads
that are waited for, `atexit`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import os
import random
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, cast

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


def play(script: str) -> NoReturn:
    """Run the script as `__main__`, and end the process as the interpreter would, with the same last words.

    The interpreter itself is not taken down: that would touch, and so copy, every page of what the nursery has loaded,
    and torch's libraries complain of what is not freed. `multiprocessing` ends its forked children likewise.
    """
    code = _run(script)
    for module, last_act in ((threading, "_shutdown"), (atexit, "_run_exitfuncs")):  # there is no public way
        getattr(module, last_act)()
    flush_all()
    os._exit(code)


def _run(script: str) -> int:
    """Run the script; return the exit code of a program that ends so."""
    main = ModuleType("__main__")
    main.__file__ = script
    sys.modules["__main__"] = main
    try:
        with io.open_code(script) as file:
            code = compile(file.read(), script, "exec")
        exec(code, main.__dict__)  # noqa: S102 - the job's own script
    except SystemExit as error:
        return _exit_code(error.code)
    except BaseException as error:  # noqa: BLE001 - border: the interpreter's own last words, without our frames in them
        _say_last_words(error)
        return 1
    return 0


def _exit_code(status: object) -> int:
    with suppress(SystemExit):
        sys.exit(status)  # type: ignore[arg-type] # where the bus takes note of it, also of one that was raised by hand
    if status is None or isinstance(status, int):
        return (status or 0) & 0xFF
    print(status, file=sys.stderr)
    return 1


def _say_last_words(error: BaseException) -> None:
    traceback = error.__traceback__.tb_next if error.__traceback__ else None
    error.__traceback__ = traceback  # what is printed is the error's own
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, traceback
    sys.excepthook(type(error), error, traceback)


def flush_all() -> None:
    """Write out what files hold that the script has left open: nothing else will."""
    buffered = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
    for file in (*gc.get_objects(), sys.stdout, sys.stderr):
        if isinstance(file, buffered):
            with suppress(OSError, ValueError):  # closed, or its disk is full
                file.flush()
    ctypes.CDLL(None).fflush(None)
