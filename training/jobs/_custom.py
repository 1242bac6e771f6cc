"""The folder `custom/` of an app while it is written: scripts, the user's own modules, first weights."""

from __future__ import annotations

import ast
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import JobError
from training.jobs._terms import INITIAL_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.machinery import ModuleSpec

    from torch import nn

ROOMS = ("eventbus", "receivers", "training", "writers")
"""Our own packages."""

_NEEDED = {*ROOMS, "torch"}

_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".git")


class CustomFolder:
    """Fills `custom/`; the folder is made with the first file.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._modules: set[Path] = set()

    def add(self, given: str, subfolder: str = "") -> str:
        """Copy a script with the modules of the user's that it imports, or a folder's content; return its path.

        Modules are looked for beside the script, and from where a relative path begins: `src/client.py` may say
        `import net` or `import src.net`.

        Args:
            given: Path as the user gave it: a relative one is kept, of any other the name.
            subfolder: Folder in `custom/` to put it into.

        Raises:
            JobError: There is no such file.
        """
        source = find(given)
        if source.is_dir():
            shutil.copytree(source, self.folder / subfolder, dirs_exist_ok=True, ignore=_IGNORED)
            return subfolder
        place = Path(subfolder) / relative(given)
        self._copy(source, place)
        if source.suffix == ".py":
            begin = source.parents[len(relative(given).parts) - 1]
            for root, into in {source.parent: place.parent, begin: Path(subfolder)}.items():
                self._add_imports(source, root, into)
        return place.as_posix()

    def add_module(self, name: str) -> bool:
        """Copy a module, with the packages around it and the modules beside it that it imports.

        Returns:
            Whether it is the user's own: what is installed is left where it is, and what is not found too.
        """
        file = _file_of(name)
        if file is None or is_installed(file):
            return False
        source = file.resolve()
        depth = name.count(".") + (source.name == "__init__.py")
        self._add_source(source, source.parents[depth], Path())
        return True

    def save_weights(self, module: nn.Module) -> str:
        """Write a model's weights, and return the file's name."""
        from training.checkpoint import encode_state

        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / INITIAL_MODEL
        if file.exists():
            raise JobError("two components of the job hold a model to start from; give it one")
        file.write_bytes(encode_state(module.state_dict(), {}))
        return INITIAL_MODEL

    def _add_source(self, source: Path, root: Path, place: Path) -> None:
        """Copy a module from below its import root, with what makes its packages."""
        if source in self._modules or is_installed(source):
            return
        self._modules.add(source)
        inner = source.relative_to(root)
        for package in inner.parents[:-1]:
            initial = root / package / "__init__.py"
            if initial.exists() and initial != source:
                self._add_source(initial, root, place)
        self._copy(source, place / inner)
        self._add_imports(source, root, place)

    def _add_imports(self, source: Path, root: Path, place: Path) -> None:
        for found in _imports(source, root):
            self._add_source(found, root, place)

    def _copy(self, source: Path, place: Path) -> None:
        target = self.folder / place
        if target.exists() and target.read_bytes() != source.read_bytes():
            raise JobError(f"two files of the job would be custom/{place}: one of them is {source}; rename one")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _file_of(module: str) -> Path | None:
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
    else:
        spec = find_module(module)
        file = spec.origin if spec is not None and spec.has_location else None
    return None if file is None else Path(file)


def find_module(name: str) -> ModuleSpec | None:
    """Return where a module is that could be imported here; None if there is none. The packages around it are run."""
    try:
        return find_spec(name) if name else None
    except (ImportError, ValueError):
        return None


def find(given: str) -> Path:
    """Return a file or folder that the user names: from the working folder, or beside the program.

    Raises:
        JobError: There is none.
    """
    beside = Path(getattr(sys.modules["__main__"], "__file__", None) or ".").parent
    for place in (Path(given).expanduser(), beside / given):
        if place.exists():
            return place.resolve()
    raise JobError(f"{given!r} does not exist, neither in {Path.cwd()} nor beside the program")


def relative(given: str) -> Path:
    """Return the path in `custom/` of a script as the user gave it."""
    path = Path(given)
    return Path(path.name) if path.is_absolute() or ".." in path.parts or given.startswith("~") else path


def check_names(custom: Path) -> None:
    """Refuse modules that would hide those which every script needs: Python's, torch, and trackbus itself.

    Raises:
        JobError: There is such a module.
    """
    for place in sorted(custom.glob("*")):
        name = place.stem if place.suffix == ".py" else place.name
        if (name in _NEEDED and _has_modules(place)) or (name in sys.stdlib_module_names and _is_module(place)):
            raise JobError(
                f"{custom.parent.name}/custom/{place.name}: scripts that import {name} would get this in place of the "
                f"{name} that they need; rename {place.name} where the job is made"
            )


def _has_modules(place: Path) -> bool:
    return place.suffix == ".py" or any(place.glob("*.py"))


def _is_module(place: Path) -> bool:
    """Tell whether a name is taken from Python: a folder without `__init__.py` is looked at last."""
    return place.suffix == ".py" or (place / "__init__.py").is_file()


def is_installed(file: Path) -> bool:
    """Tell whether a module's file belongs to Python or to an installed package."""
    here = Path(__file__).resolve().parents[2]
    rooms = [here / room for room in ROOMS]
    places = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return any(file.resolve().is_relative_to(place) for place in (*rooms, *places))


def _imports(source: Path, root: Path) -> Iterator[Path]:
    """Find the modules below the import root that a source names in its import statements."""
    package = source.parent.relative_to(root).parts
    for node in ast.walk(_parse(source)):
        for name in _names(node, package):
            yield from _found(root, name)


def _parse(source: Path) -> ast.Module:
    try:
        return ast.parse(source.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise JobError(f"{source} is no Python that could be run: {error}") from error


def _names(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        base = ".".join((*above, *filter(None, [node.module])))
        yield from filter(None, [base])
        yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _found(root: Path, name: str) -> Iterator[Path]:
    place = root.joinpath(*name.split("."))
    yield from (file for file in (place.with_name(f"{place.name}.py"), place / "__init__.py") if file.is_file())
