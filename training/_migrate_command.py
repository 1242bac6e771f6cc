"""`trackbus migrate`: shows what moving files over from NVFLARE changes, and changes them where it is told to."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.segment import Segment, Segments
from rich.text import Text

from training._console import make_console
from training._files import write_atomically
from training._moves import ROOT
from training._words import count_of
from training.cli import EXIT_FAILED, EXIT_USAGE, leave
from training.errors import SourceError
from training.migrate import Left, Migration, migrate

if TYPE_CHECKING:
    from rich.console import Console

OURS = ("eventbus", "receivers", "training", "writers")
"""Our packages: a file of that name beside a script would be imported in their place."""

SKIPPED = {"__pycache__", "node_modules", "site-packages"}
"""Folders in a project that hold nobody's source; nor do those whose name begins with a dot."""

STYLES = {"---": "bold", "+++": "bold", "@@": "cyan", "-": "red", "+": "green"}

EXAMPLES = """\
[bold]Examples[/bold]

trackbus migrate client.py job.py  [dim]# shows what would change; touches nothing[/dim]

trackbus migrate client.py job.py --write  [dim]# changes the files[/dim]

trackbus migrate my_project --write  [dim]# every .py file in it, but for what is hidden and environments[/dim]

python job.py  [dim]# runs the job as before[/dim]

[bold]What it does[/bold]

Imports of nvflare become imports of training, writers and receivers. Names keep their local names, so the rest of \
the file stays as it is, to the last comment. Files are read, never run. Exported jobs (config_fed_server.json, \
config_fed_client.json) need no change: `trackbus simulator` reads them. What has no counterpart is listed with its \
line and what to use instead.

Exit codes: 0 all could be moved; 1 something is left to do by hand; 2 a file can't be found, read or written. A file \
that can't be read stops none of the others.
"""


@dataclass(frozen=True, slots=True)
class _File:
    """A file that has something to do with NVFLARE."""

    path: Path
    data: bytes
    migration: Migration
    is_readable: bool = True

    @property
    def is_changed(self) -> bool:
        return self.migration.result != self.data


def add_commands(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command("migrate", epilog=EXAMPLES)(move_over)


def move_over(
    *,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE_OR_FOLDER...", help="Python files, or folders of them.", exists=True)
    ],
    write: Annotated[bool, typer.Option("--write", help="Change the files; without it they are only read.")] = False,
) -> None:
    """Move scripts and jobs that were written for NVFLARE over: change their imports, and say what else is to do."""
    files = [file for path in dict.fromkeys(_python_files(paths)) if (file := _look_at(path)) is not None]
    console = make_console()
    for file in files:
        _show(console, file)
    if write:
        for file in files:
            if file.is_changed:
                _replace(file.path, file.migration.result)
    left = sum(len(file.migration.left) for file in files)
    _print_summary(console, files, left, is_written=write)
    if not all(file.is_readable for file in files):
        raise typer.Exit(EXIT_USAGE)
    raise typer.Exit(EXIT_FAILED if left else 0)


def _python_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from _python_files_in(path)
        elif path.suffix == ".py":
            yield path
        else:
            leave(f"{path} is no .py file; the .json files of an exported job need no change", EXIT_USAGE)


def _python_files_in(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(name for name in folders if _holds_source(here / name))
        yield from (here / name for name in sorted(names) if name.endswith(".py") and name[0] != ".")


def _holds_source(folder: Path) -> bool:
    is_environment = (folder / "pyvenv.cfg").exists()
    return not (folder.name.startswith(".") or folder.name in SKIPPED or is_environment)


def _look_at(path: Path) -> _File | None:
    """Read a file and work out its change; None where it has nothing to do with NVFLARE."""
    try:
        data = _read(path)
    except OSError as error:
        unread = Migration(b"", left=(Left(1, "can't be read", error.strerror or str(error)),))
        return _File(path, b"", unread, is_readable=False)
    try:
        migration = migrate(data)
    except SourceError as error:
        return _File(path, data, Migration(data, left=(Left(error.line, "not Python that can be read", str(error)),)))
    if not migration.moved and not migration.left:
        return None
    hiding = tuple(_in_the_way(path.parent)) if migration.moved else ()
    return _File(path, data, Migration(migration.result, migration.moved, (*migration.left, *hiding)))


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError("it is no file")  # to read from a pipe would take for ever
    return path.read_bytes()


def _in_the_way(folder: Path) -> Iterator[Left]:
    """Find what a script in this folder would import in place of our packages."""
    for name in OURS:
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.exists():
                yield Left(1, str(path), f"give it another name: in this folder it hides trackbus's own `{name}`")


def _show(console: Console, file: _File) -> None:
    before, after = (_lines(data) for data in (file.data, file.migration.result))
    for line in difflib.unified_diff(before, after, str(file.path), str(file.path), lineterm=""):
        style = next((style for start, style in STYLES.items() if line.startswith(start)), "")
        as_it_is = Segments([Segment(line, console.get_style(style))], new_lines=True)  # a text would lose its tabs
        console.print(as_it_is, end="")
    for left in file.migration.left:
        place = Text(f"{file.path}:{left.line}: ", "bold")
        console.print(place + Text(left.what, "yellow") + Text(f": {left.advice}"))
    console.print()


def _lines(data: bytes) -> list[str]:
    # Shown, not written: a byte that is not UTF-8 may look odd here, and stays what it is in the file.
    return data.decode(errors="replace").splitlines()


def _replace(path: Path, data: bytes) -> None:
    """Write a file anew, whole or not at all, with the rights that it had; a link stays one."""
    target = path.resolve()
    mode = target.stat().st_mode
    try:
        write_atomically(target, data)
        target.chmod(mode)
    except OSError as error:
        leave(f"{path} can't be written: {error.strerror}", EXIT_USAGE)


def _print_summary(console: Console, files: Sequence[_File], left: int, *, is_written: bool) -> None:
    changed = sum(file.is_changed for file in files)
    moved = sum(len(file.migration.moved) for file in files)
    if not files:
        console.print(f"nothing here imports {ROOT}")
        return
    verb = "moved" if is_written else "can be moved"
    console.print(Text(f"{count_of(moved, 'import')} {verb} in {count_of(changed, 'file')}", "green"))
    if left:
        console.print(Text(f"{count_of(left, 'thing')} left to do by hand: see above", "yellow"))
    if changed and not is_written:
        console.print("nothing is changed yet: --write does it")
