"""Makes the objects that a job file names: those of the registry, and a trusted job's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from receivers import Receiver
from receivers._receiver import ReceiverOptions
from training._words import did_you_mean
from training.errors import JobError
from training.jobs._custom import find_module, is_installed
from training.jobs._describe import CHECKPOINT, MODEL, signature_of
from training.jobs._registry import KNOWN, load_known, resolve
from training.jobs._script import ScriptRunner
from training.jobs._terms import INITIAL_MODEL

if TYPE_CHECKING:
    from types import ModuleType

LEFT_OUT = object()
"""Stands for a component that has no counterpart here, and needs none."""

_INTERPRETER = (("python3", "-u"), ("python3",), ("python", "-u"), ("python",))
"""Commands that start nothing but the interpreter which runs the job."""

_CONFIG_KEYS = {"path", "args", "class_path", "name"}


@dataclass(slots=True)
class Builder:
    """Makes components.

    Attributes:
        custom: The folder that the job's own classes come from.
        trust_custom: Whether they may be imported at all.
        notes: What has no effect; it grows.
    """

    custom: Path
    trust_custom: bool
    notes: list[str] = field(default_factory=list[str])

    def build(self, path: str, args: Mapping[str, object], place: str, **more: object) -> object:
        """Make a component, or return `LEFT_OUT`.

        Args:
            path: What it is, as the file names it.
            args: Its arguments, as the file has them.
            place: Where that stands, for errors.
            more: Arguments that are given where the file has none, and the component takes them.

        Raises:
            JobError: It is not known, or its arguments can't work.
        """
        try:
            found = resolve(path, args)
        except JobError as error:
            raise JobError(f"{place}: {error}") from error
        if found is not None and found.left_out:
            self._note(found.notes, place)
            return LEFT_OUT
        kind = self._own_class(path, place) if found is None else load_known(found.known)
        given = dict(args) if found is None else found.args
        self._note(found.notes if found else (), place)
        return self._make(kind, given, more, place)

    def _note(self, notes: tuple[str, ...], place: str) -> None:
        self.notes += [f"{place}: {note}" for note in notes]

    def _make(self, kind: type, given: Mapping[str, object], more: Mapping[str, object], place: str) -> object:
        takes = arguments_of(kind)
        if given.get(CHECKPOINT) == INITIAL_MODEL:  # the weights say all: the class may have been made otherwise
            given = {name: value for name, value in given.items() if name != MODEL}
        for name in given:
            if takes is not None and name not in takes:
                raise JobError(f"{place}: {kind.__name__} has no argument {name!r}; {did_you_mean(name, takes)}")
        args = {name: self._value(name, value, f"{place}, argument {name!r}") for name, value in given.items()}
        args = {**{name: value for name, value in more.items() if takes is None or name in takes}, **args}
        try:
            made = kind(**args)
        except JobError as error:
            raise JobError(f"{place}: {error}") from error
        except Exception as error:  # border: a component's constructor may raise anything
            raise JobError(f"{place}: {kind.__name__}: {type(error).__name__}: {error}") from error
        if not self.trust_custom:
            _refuse_programs(made, place)
        return made

    def _value(self, name: str, value: object, place: str) -> object:
        """Make the component that an argument describes; any other value stays what it is.

        A model stays what it is as well: the component makes it, at the run's seed.
        """
        if not isinstance(value, dict):
            return value
        config = cast("dict[str, Any]", value)
        path = config.get("path") or config.get("class_path")
        if not isinstance(path, str):
            return config
        args = cast("Mapping[str, object]", config.get("args") or {})
        unknown = sorted(map(str, set(config) - _CONFIG_KEYS))
        if name != MODEL:
            return config if unknown else self.build(path, args, place)
        if unknown:
            raise JobError(f"{place}: a model has a path and args, and no {', '.join(unknown)}")
        self._check_own(path, place)
        return {"path": path, "args": args}

    def _own_class(self, path: str, place: str) -> type:
        self._check_own(path, place)
        module, _, name = path.rpartition(".")
        return self._import(module, name, place)

    def _check_own(self, path: str, place: str) -> None:
        """Refuse what is not in the registry, unless it belongs to a trusted job, or is installed where one is run."""
        module = path.rpartition(".")[0]
        inside = self.custom.joinpath(*module.split("."))
        is_own = bool(module) and (
            inside.with_name(f"{inside.name}.py").is_file() or (inside / "__init__.py").is_file()
        )
        if is_own and not self.trust_custom:
            raise JobError(f"{place}: {path!r} is the job's own code, and this job's code is not trusted")
        if not is_own and not (self.trust_custom and find_module(module) is not None):
            raise JobError(
                f"{place}: unknown component {path!r}, and {self.custom} has no module {module!r} either; "
                f"{did_you_mean(path, KNOWN)}"
            )

    def _import(self, module: str, name: str, place: str) -> type:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except Exception as error:  # border: a job's own module may raise anything when it is imported
            raise JobError(f"{place}: importing {module}: {type(error).__name__}: {error}") from error
        if not isinstance(found, type):
            raise JobError(f"{place}: {module} has no class {name!r}; {did_you_mean(f'{module}.{name}', KNOWN)}")
        return found


def _refuse_programs(made: object, place: str) -> None:
    """Refuse what would start a program of the job's choice."""
    program = ""
    if isinstance(made, Receiver) and made.python != sys.executable:
        program = f"python={made.python!r}"
    if isinstance(made, ScriptRunner) and made.launch_external_process and made.argv()[1] not in _INTERPRETER:
        program = f"command={made.command!r}"
    if program:
        raise JobError(f"{place}: {program} names a program to start, and this job is not trusted")


def arguments_of(kind: type) -> tuple[str, ...] | None:
    """Return the names of a constructor's arguments; None if it takes any."""
    parameters = signature_of(kind).parameters.values()
    names = tuple(one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))
    if not any(one.kind == one.VAR_KEYWORD for one in parameters):
        return names
    return (*names, *ReceiverOptions.__annotations__) if _is_receiver(kind) else None


def _is_receiver(kind: type) -> bool:
    return issubclass(kind, Receiver)


@contextmanager
def importing_from(folders: Sequence[Path]) -> Generator[None]:
    """Import from a job's own folders first, whatever modules of these names the process has; then as before."""
    own = {name for folder in folders for name in _modules_in(folder)}
    held = _take_modules(own)
    path = [str(folder.absolute()) for folder in folders]
    sys.path[:0] = path
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in path:
            sys.path.remove(folder)
        _take_modules(own)
        sys.modules.update(held)


def _modules_in(folder: Path) -> Iterator[str]:
    yield from (file.stem for file in folder.glob("*.py"))
    yield from (inner.name for inner in folder.glob("*") if inner.is_dir())


def _take_modules(names: set[str]) -> dict[str, ModuleType]:
    """Take modules out of the process, but for what is installed: a folder of that name in a job hides none of it."""
    taken = {name for name in names if not _has_installed(name)}
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in taken}


def _has_installed(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and is_installed(Path(file))
