"""Rewrites the imports of a script or a job that was written for NVFLARE. It reads the file and never runs it.

Every name keeps its local name, so nothing but the imports changes: a class that is called otherwise here is imported
`as` it was called. Only uses with their whole path (`nvflare.client.init()`) are rewritten where they stand.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

from training._moves import ROOT, Move, advice, find, new_module
from training._source import Edit, Source

MAX_LINE = 120
"""A new import line that is longer is broken within parentheses."""

INDENT = "    "

WITHIN = "comments stand within it: rewrite it by hand, or write it on one line"
"""What to do about a use whose rewriting would lose them."""

_HEAD = re.compile(r"(from(?:\s|\\)+).*?((?:\s|\\)+import\b)", re.DOTALL)


class Moved(NamedTuple):
    """A name that is imported from here now."""

    line: int
    old: str
    new: str


class Left(NamedTuple):
    """What a person has to do."""

    line: int
    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class Migration:
    """What came of a file.

    Attributes:
        result: Its new content; what it was where nothing could be moved.
        moved: What was moved, in the order of the lines.
        left: What could not be moved, or wants a look, in the order of the lines.
    """

    result: bytes
    moved: tuple[Moved, ...] = ()
    left: tuple[Left, ...] = ()


def migrate(data: bytes) -> Migration:
    """Rewrite the imports of a Python file.

    Args:
        data: The file's content. Its encoding, line ends, comments and layout stay as they are.

    Returns:
        The new content, and what it took.

    Raises:
        SourceError: It is no Python that this interpreter reads.
    """
    if ROOT.encode() not in data:
        return Migration(data)
    rewriter = _Rewriter(Source(data))
    rewriter.rewrite()
    result = rewriter.source.edited(rewriter.edits) if rewriter.edits else data
    return Migration(result, tuple(sorted(set(rewriter.moved))), tuple(sorted(set(rewriter.left))))


class _Place(NamedTuple):
    """A name of a `from` import, and where it is to come from.

    Attributes:
        alias: As it stands.
        module: Where it is from now on; empty for a module at the top: `import writers as tracking`.
        text: How it is written from now on: `name` or `name as local`.
        new_path: Its path here; empty where it stays.
        advice: What is to be done by hand.
    """

    alias: ast.alias
    module: str
    text: str
    new_path: str = ""
    advice: str = ""


class _Use(NamedTuple):
    """A name of a module, reached by attributes: `flare.FLModel`, `nvflare.client.init`.

    Attributes:
        path: Its path in NVFLARE.
        move: The row of the table, if it has one.
        node: The attribute that names it.
    """

    path: str
    move: Move | None
    node: ast.Attribute


class _Rewriter:
    """Collects the edits of one file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.edits: list[Edit] = []
        self.moved: list[Moved] = []
        self.left: list[Left] = []
        self._modules: dict[str, dict[str, str]] = {}  # by variable: old module -> new module

    def rewrite(self) -> None:
        dotted: list[ast.alias] = []
        for node in ast.walk(self.source.tree):
            if isinstance(node, ast.ImportFrom) and not node.level and _is_old(node.module or ""):
                self._rewrite_from(node, node.module or "")
            elif isinstance(node, ast.Import):
                old = [alias for alias in node.names if _is_old(alias.name)]
                dotted += [alias for alias in old if alias.asname is None]
                for alias in old:
                    self._rewrite_alias(alias)
            elif isinstance(node, ast.Call):
                self._look_at_call(node)
        self._rewrite_dotted(dotted)
        for local, modules in self._modules.items():
            self._follow(local, modules)

    # --- from nvflare.client import FLModel, tracking as t

    def _rewrite_from(self, node: ast.ImportFrom, module: str) -> None:
        places = [_place(module, alias) for alias in node.names]
        targets = {place.module for place in places}
        if not any(place.new_path for place in places):
            pass
        elif len(targets) == 1 and "" not in targets:
            self._edit_in_place(node, places)
        elif self.source.before(node).strip() and self.source.comments(node):
            by_hand = "its names go to several modules, and comments stand among them: split it by hand"
            self.left.append(Left(node.lineno, module, by_hand))
            return
        else:
            self._split(node, places)
        for place in places:
            self._note(module, place)

    def _edit_in_place(self, node: ast.ImportFrom, places: list[_Place]) -> None:
        """Change the module, and the names that are called otherwise; all else stays where it is."""
        start, end = self.source.span(node)[0], self.source.span(node.names[0])[0]
        head = _HEAD.sub(rf"\g<1>{places[0].module}\g<2>", self.source.text(start, end), count=1)
        self.edits.append(Edit(start, end, head))
        for place in places:
            if place.text != _as(place.alias.name, place.alias.asname or place.alias.name):
                self.edits.append(Edit(*self.source.span(place.alias), place.text))

    def _split(self, node: ast.ImportFrom, places: list[_Place]) -> None:
        """Write a statement for each module that the names come from now, in the order of their first names."""
        before = self.source.before(node)
        is_alone = not before.strip()
        margin = before if is_alone else ""
        statements = [*self.source.comments(node), *_statements(places, margin, self.source.newline)]
        self.edits.append(
            Edit(*self.source.span(node), (self.source.newline + margin if is_alone else "; ").join(statements))
        )

    def _note(self, module: str, place: _Place) -> None:
        line, path = place.alias.lineno, f"{module}.{place.alias.name}"
        if place.new_path:
            self.moved.append(Moved(line, path, place.new_path))
        if place.advice:
            self.left.append(Left(line, path, place.advice))
        if new_module(path) and find(path) is None:
            self._modules.setdefault(place.alias.asname or place.alias.name, {})[path] = new_module(path)

    # --- import nvflare.client as flare

    def _rewrite_alias(self, alias: ast.alias) -> None:
        if alias.asname is None:
            return
        target = new_module(alias.name)
        if not target:
            self.left.append(Left(alias.lineno, alias.name, f"import its names one by one; {advice(alias.name)}"))
            return
        self.moved.append(Moved(alias.lineno, alias.name, target))
        self.edits.append(Edit(*self.source.span(alias), f"{target} as {alias.asname}"))
        self._modules.setdefault(alias.asname, {})[alias.name] = target

    def _follow(self, local: str, modules: Mapping[str, str]) -> None:
        """Look at what is used of the modules that a variable holds: several, where functions import their own."""
        for uses in zip(*(_uses(self.source.tree, local, module) for module in modules), strict=True):
            pairs = zip(uses, modules.values(), strict=True)
            there = [(use.node, use.move) for use, target in pairs if _is_in(use.move, target)]
            if there:
                self._rename(local, *there[0])
            else:
                use = max(uses, key=lambda use: use.move is not None)
                self.left.append(Left(use.node.lineno, use.path, _instead(use)))

    def _rename(self, local: str, node: ast.Attribute, move: Move) -> None:
        """Write `flare.init` in place of `flare.api.init`, and new names in place of old ones."""
        if isinstance(node.value, ast.Attribute) or move.new_name != move.name:
            self.edits.append(Edit(*self.source.span(node), f"{local}.{move.new_name}"))
        if move.note:
            self.left.append(Left(node.lineno, move.path, move.note))

    # --- import nvflare.client; nvflare.client.init()

    def _rewrite_dotted(self, aliases: list[ast.alias]) -> None:
        """Rewrite imports without a name of their own, and the uses of what they import: all of them, or none."""
        if not aliases:
            return
        uses = list(_uses(self.source.tree, ROOT, ROOT))
        moves = [(use.node, use.move) for use in uses if use.move is not None and use.move.new_module]
        targets = {alias: _targets(alias.name, aliases, [move for _, move in moves]) for alias in aliases}
        left = [Left(use.node.lineno, use.path, advice(use.path)) for use in uses if not _has_moved(use)]
        left += [Left(use.node.lineno, use.path, WITHIN) for use in uses if "#" in self._text(use.node)]
        left += [Left(line, ROOT, f"`{ROOT}` itself is used: import its names one by one") for line in self._bare()]
        left += [Left(alias.lineno, alias.name, advice(alias.name)) for alias in aliases if not targets[alias]]
        taken = _bound(self.source.tree) & {path.partition(".")[0] for paths in targets.values() for path in paths}
        if taken:
            by_hand = f"import its names one by one: something else is called {', '.join(sorted(taken))} here"
            left += [Left(alias.lineno, alias.name, by_hand) for alias in aliases]
        self.left += left or [Left(node.lineno, move.path, move.note) for node, move in moves if move.note]
        if left:
            return
        for alias in aliases:
            self.moved += [Moved(alias.lineno, alias.name, target) for target in targets[alias]]
            self.edits.append(Edit(*self.source.span(alias), ", ".join(targets[alias])))
        self.edits += [Edit(*self.source.span(node), move.new_path) for node, move in moves]

    def _text(self, node: ast.expr) -> str:
        return self.source.text(*self.source.span(node))

    def _bare(self) -> Iterator[int]:
        """Yield the lines in which the package's own name stands, without an attribute."""
        nodes = list(ast.walk(self.source.tree))
        owners = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
        for node in nodes:
            match node:
                case ast.Name(id=name) if name == ROOT and id(node) not in owners:
                    yield node.lineno
                case ast.Global(names=names) | ast.Nonlocal(names=names) if ROOT in names:
                    yield node.lineno
                case _:
                    pass

    # --- modules that are imported by a call

    def _look_at_call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = node.args[0] if node.args else None
        if name not in {"import_module", "__import__"} or not isinstance(given, ast.Constant):
            return
        path = str(given.value)
        if _is_old(path):
            target = new_module(path)
            self.left.append(Left(node.lineno, path, f"import {target} there" if target else advice(path)))


def _is_old(module: str) -> bool:
    return module == ROOT or module.startswith(f"{ROOT}.")


def _as(name: str, local: str) -> str:
    return name if name == local else f"{name} as {local}"


def _place(module: str, alias: ast.alias) -> _Place:
    """Find where a name that is imported from a module is now: a name of the table, a module, or all of a module."""
    path = f"{module}.{alias.name}"
    local = alias.asname or alias.name
    move = find(path)
    if move is not None and move.new_module:
        return _Place(alias, move.new_module, _as(move.new_name, local), move.new_path, move.note)
    target = "" if move is not None else new_module(module if alias.name == "*" else path)
    if not target:
        return _Place(alias, module, _as(alias.name, local), advice=advice(path))
    if alias.name == "*":
        return _Place(alias, target, "*", target)
    parent, _, leaf = target.rpartition(".")
    return _Place(alias, parent, _as(leaf, local), target)


def _statements(places: list[_Place], margin: str, newline: str) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for place in places:
        groups.setdefault(place.module, []).append(place.text)
    for module, texts in groups.items():
        line = f"from {module} import {', '.join(texts)}" if module else f"import {', '.join(texts)}"
        if len(margin) + len(line) > MAX_LINE and module:
            inner = "".join(f"{margin}{INDENT}{text},{newline}" for text in texts)
            line = f"from {module} import ({newline}{inner}{margin})"
        yield line


def _uses(tree: ast.Module, root: str, module: str) -> Iterator[_Use]:
    """Return what is used of a module that a variable holds; of `flare.FLModel.summary`, that is `flare.FLModel`."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in attributes}
    for node in attributes:
        chain = _chain(node)
        if id(node) not in inner and isinstance(chain[0].value, ast.Name) and chain[0].value.id == root:
            yield _longest(module, chain)


def _chain(node: ast.Attribute) -> list[ast.Attribute]:
    """Return an attribute and those that it is an attribute of, the first of the name foremost."""
    chain = [node]
    while isinstance(chain[0].value, ast.Attribute):
        chain.insert(0, chain[0].value)
    return chain


def _longest(module: str, chain: list[ast.Attribute]) -> _Use:
    """Return the longest part of a chain that the table has a row for; all of it if there is none."""
    for end in range(len(chain), 0, -1):
        path = ".".join((module, *(node.attr for node in chain[:end])))
        move = find(path)
        if move is not None:
            return _Use(path, move, chain[end - 1])
    return _Use(".".join((module, *(node.attr for node in chain))), None, chain[-1])


def _is_in(move: Move | None, module: str) -> TypeGuard[Move]:
    return move is not None and move.new_module == module


def _instead(use: _Use) -> str:
    if use.move is not None and use.move.new_module:
        return f"import it by name from {use.move.new_module}"
    return advice(use.path)


def _has_moved(use: _Use) -> bool:
    return use.move is not None and bool(use.move.new_module)


def _targets(module: str, aliases: list[ast.alias], moves: list[Move]) -> list[str]:
    """Return what to import in place of a module: where those of its names are that are used, else where all are."""
    if module == ROOT and len(aliases) > 1:
        return ["training"]  # beside imports of its parts it adds nothing
    longer = [alias.name for alias in aliases if alias.name.startswith(f"{module}.")]
    used = [
        move.new_module
        for move in moves
        if _is_within(move.module, module) and not any(_is_within(move.module, other) for other in longer)
    ]
    return list(dict.fromkeys(used)) or [target for target in [new_module(module)] if target]


def _is_within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def _bound(tree: ast.Module) -> set[str]:
    """Return the names that a file gives to things of its own."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.alias(asname=str(name)):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.ImportFrom(names=aliases):
                bound |= {alias.name for alias in aliases if alias.asname is None}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case _:
                pass
    return bound
