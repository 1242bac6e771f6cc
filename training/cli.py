"""The command `trackbus`: sets the process up, and turns every error that a person can cause into one clear line.

Exit codes: 0 all is well, though a tracker may be late: what it lacks is safe in the journal; 1 the training failed, or
something that was published is lost (refused or dropped) or, with --strict, late; 2 the command can't be carried out as
given; 130 and 143 ended by SIGINT or SIGTERM.
"""

import os
import sys
import warnings
from typing import NoReturn

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_EXTRAS = {
    "typer": "cli",
    "rich": "cli",
    "torch": "train",
    "torchvision": "train",
    "safetensors": "train",
    "numpy": "train",
}


def main() -> None:
    """Run the command line, and exit with its code."""
    # Threads of an OpenMP pool that wait by spinning cost the other sites their core; torch reads this once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if reconfigure := getattr(sys.stdout, "reconfigure", None):  # where stdout is closed, it is None
        reconfigure(errors="backslashreplace")  # as stderr has it: what there are no characters for is escaped
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of torch and of the SDKs are none of the user's doing
    try:
        run_app()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        leave(f"this needs {error.name}: pip install 'trackbus[{_EXTRAS[error.name]}]'", EXIT_USAGE)
    except KeyboardInterrupt:
        leave("left at once; what is not stored stays in the journal", EXIT_INTERRUPTED)


def run_app() -> None:
    """Carry out the command that `sys.argv` holds."""
    from training._commands import app

    app(prog_name="trackbus")


def leave(message: str, code: int) -> NoReturn:
    """Say why on stderr, and exit."""
    print(f"trackbus: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
