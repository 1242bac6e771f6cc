"""The house and its budgets, as CONTRIBUTING.md states them.

Complexity is bounded by ruff, and the import law by import-linter.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("eventbus", "writers", "receivers", "training")

MEDIAN_LINES, MOST_LINES, MAX_LINES = 8, 30, 40
MAX_NESTING = 3
MAX_MODULE_LINES = 400
MAX_DEPTH = 2
MAX_PUBLIC_NAMES = 25

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
IMPORT = (ast.Import, ast.ImportFrom)
BROAD = {"Exception", "BaseException"}


@dataclass(frozen=True)
class Module:
    """One source file of a room."""

    name: str
    source: str
    tree: ast.Module

    def at(self, node: ast.AST, what: str) -> str:
        return f"{self.name}:{getattr(node, 'lineno', 0)} {what}"


@cache
def modules() -> tuple[Module, ...]:
    files = (file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))
    texts = ((file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")) for file in files)
    return tuple(Module(name, text, ast.parse(text)) for name, text in texts)


def functions() -> Iterator[tuple[Module, Function]]:
    """Every function and method, those inside others too."""
    return ((module, node) for module in modules() for node in ast.walk(module.tree) if isinstance(node, FUNCTION))


def length(function: Function) -> int:
    """Lines from `def` to the end, the docstring taken out."""
    first = function.body[0]
    docstring = first if ast.get_docstring(function) is not None else None
    spoken = 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
    return (function.end_lineno or 0) - function.lineno + 1 - spoken


def nesting(node: ast.AST) -> int:
    """How many blocks lie within each other; `elif` adds none, a function inside starts anew."""
    return max(
        (_depth_below(child, in_else=_in_else(node, child)) for child in ast.iter_child_nodes(node)),
        default=0,
    )


def _in_else(node: ast.AST, child: ast.AST) -> bool:
    """Whether the child is an `elif` of the node."""
    return isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]


def _depth_below(node: ast.AST, *, in_else: bool) -> int:
    if isinstance(node, (*FUNCTION, ast.ClassDef, ast.Lambda)):
        return 0
    return nesting(node) + (isinstance(node, BLOCKS) and not in_else)


def none(found: Iterable[str]) -> None:
    """Fails with one line for each finding."""
    lines = list(found)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def test_there_is_something_to_judge() -> None:
    assert {module.name.split("/")[0] for module in modules()} == set(ROOMS)


# ------------------------------------------------------------------------ the yardsticks, measured themselves
def first_function(source: str) -> Function:
    found = ast.parse(source).body[0]
    assert isinstance(found, FUNCTION)
    return found


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        ("return 1", 0),
        ("if a: b\n elif c: d\n elif e: f", 1),
        ("for a in b:\n  if a:\n   return", 2),
        ("with a:\n  try: b\n  except c:\n   if d: e", 3),
        ("if a: b\n else:\n  for c in d: e", 2),
        ("if a:\n  def inner():\n   if b:\n    if c: d", 1),
    ],
)
def test_nesting_counts_blocks_within_blocks(body: str, depth: int) -> None:
    assert nesting(first_function(f"def f():\n {body}")) == depth


def test_length_leaves_the_docstring_out() -> None:
    assert length(first_function('def f():\n """One.\n\n Two.\n """\n a = 1\n return a')) == 3


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("try: a\nexcept Exception: b", 1),
        ("try: a\nexcept (OSError, BaseException): b", 1),
        ("try: a\nexcept: b", 1),
        ("with contextlib.suppress(Exception): a", 1),
        ("try: a\nexcept OSError: b", 0),
        ("with suppress(OSError): a", 0),
    ],
)
def test_a_broad_except_is_found(source: str, found: int) -> None:
    assert len(list(broad_places(ast.parse(source)))) == found


# ------------------------------------------------------------------------------------------------- functions
def test_no_function_is_longer_than_the_budget() -> None:
    none(
        module.at(node, f"{node.name}: {length(node)} lines, at most {MAX_LINES}")
        for module, node in functions()
        if length(node) > MAX_LINES
    )


def test_most_functions_are_short() -> None:
    sized = sorted(((length(node), module.at(node, node.name)) for module, node in functions()), reverse=True)
    long_ones = [f"{where}: {lines} lines" for lines, where in sized if lines >= MOST_LINES]
    middle = median(lines for lines, _ in sized)

    assert middle <= MEDIAN_LINES, f"the median of {len(sized)} functions is {middle} lines, at most {MEDIAN_LINES}"
    assert len(long_ones) < len(sized) / 10, (
        f"of {len(sized)} functions, too many have {MOST_LINES} lines or more:\n" + ("\n".join(long_ones))
    )


def test_no_function_nests_deeper_than_the_budget() -> None:
    none(
        module.at(node, f"{node.name}: {nesting(node)} blocks deep, at most {MAX_NESTING}")
        for module, node in functions()
        if nesting(node) > MAX_NESTING
    )


# --------------------------------------------------------------------------------------------------- modules
def test_no_module_is_longer_than_the_budget() -> None:
    sizes = {module.name: len(module.source.splitlines()) for module in modules()}
    none(f"{name}: {size} lines, at most {MAX_MODULE_LINES}" for name, size in sizes.items() if size > MAX_MODULE_LINES)


def test_folders_are_shallow() -> None:
    depths = {module.name: module.name.count("/") for module in modules()}
    none(f"{name}: {depth} folders deep, at most {MAX_DEPTH}" for name, depth in depths.items() if depth > MAX_DEPTH)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_typed(room: str) -> None:
    assert (ROOT / room / "py.typed").is_file()


@pytest.mark.parametrize("room", ROOMS)
def test_a_test_folder_does_not_hide_its_room(room: str) -> None:
    """`tests` is on the path, for `readback`: with an __init__ the folder would be imported for the room."""
    assert not (ROOT / "tests" / room / "__init__.py").exists()


# ---------------------------------------------------------------------------------------------- shop windows
def windows() -> Iterator[Module]:
    return (module for module in modules() if module.name.endswith("/__init__.py"))


def exported(module: Module) -> list[str]:
    """The names in `__all__`; without one, everything public that is bound."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    bound = (
        alias.asname or alias.name for node in module.tree.body if isinstance(node, IMPORT) for alias in node.names
    )
    return [name for name in bound if not name.startswith("_")]


def may_stand_in_a_window(node: ast.stmt) -> bool:
    """A docstring, imports, a lazy `__getattr__` with its table, and assignments to private names."""
    if isinstance(node, FUNCTION):
        return node.name == "__getattr__"
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING" and all(isinstance(part, IMPORT) for part in node.body)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return all(ast.unparse(target).startswith("_") for target in targets)
    return isinstance(node, IMPORT) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def test_an_init_defines_nothing() -> None:
    none(
        module.at(node, f"{ast.unparse(node).splitlines()[0]!r}: an __init__ is a shop window")
        for module in windows()
        for node in module.tree.body
        if not may_stand_in_a_window(node)
    )


def test_a_window_shows_few_names() -> None:
    counts = {module.name: len(exported(module)) for module in windows()}
    none(
        f"{name}: {count} public names, at most {MAX_PUBLIC_NAMES}"
        for name, count in counts.items()
        if count > MAX_PUBLIC_NAMES
    )


# ------------------------------------------------------------------------------------------------ docstrings
def undocumented(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Public classes, functions and methods without a docstring."""
    for child in node.body:
        if not isinstance(child, (*FUNCTION, ast.ClassDef)) or child.name.startswith("_") or excused(child):
            continue
        if ast.get_docstring(child) is None:
            yield child, prefix + child.name
        if isinstance(child, ast.ClassDef):
            yield from undocumented(child, f"{prefix}{child.name}.")


def excused(node: Function | ast.ClassDef) -> bool:
    """An overload, a setter and an override are described by the function they belong to."""
    marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
    return bool(marks & {"overload", "override", "setter"})


def is_public(module: Module, name: str) -> bool:
    """Public by its module's name, or shown in a window."""
    private = any(re.match(r"_(?!_)", part) for part in module.name.split("/"))
    return not private or name.partition(".")[0] in {shown for window in windows() for shown in exported(window)}


def test_what_is_public_has_a_docstring() -> None:
    none(
        module.at(node, f"{name}: no docstring")
        for module in modules()
        for node, name in undocumented(module.tree)
        if is_public(module, name)
    )


def test_a_module_says_what_it_is() -> None:
    none(f"{module.name}: no docstring" for module in modules() if ast.get_docstring(module.tree) is None)


# ---------------------------------------------------------------------------------------------- broad excepts
def broad_places(tree: ast.Module) -> Iterator[ast.AST]:
    """`except:`, `except Exception` and `suppress(Exception)`, alone or in a tuple."""
    return (node for node in ast.walk(tree) if catches_all(node) or suppresses_all(node))


def catches_all(node: ast.AST) -> bool:
    return isinstance(node, ast.ExceptHandler) and (node.type is None or bool(names(node.type) & BROAD))


def suppresses_all(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] != "suppress":
        return False
    return any(names(argument) & BROAD for argument in node.args)


def names(node: ast.expr) -> set[str]:
    return {ast.unparse(part) for part in (node.elts if isinstance(node, ast.Tuple) else [node])}


def test_a_broad_except_stands_at_a_border_and_says_so() -> None:
    none(
        module.at(node, "catches everything without saying `border: <why>` in a comment on its line")
        for module in modules()
        for node in broad_places(module.tree)
        if not re.search(r"#.*\bborder: \S", module.source.splitlines()[getattr(node, "lineno", 1) - 1])
    )


# ---------------------------------------------------------------------------------------------------- promise
@pytest.mark.parametrize(
    "line", ["import eventbus, writers", "from writers import *", "import eventbus.tracking", "from receivers import *"]
)
def test_the_trainer_loads_no_sdk(line: str) -> None:
    sdks = ["wandb", "mlflow", "tensorboard", "torch", "torchvision", "nats", "flwr"]
    heavy = [*sdks, "numpy", "PIL", "matplotlib", "pandas", "psutil", "pynvml"]
    program = f"{line}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"

    child = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (child.stdout.strip(), child.stderr) == ("[]", "")


@pytest.mark.parametrize("line", ["import training", "import training.client", "import training.job, training.recipe"])
def test_jobs_are_written_without_torch(line: str) -> None:
    program = f"{line}\nimport sys\nprint('torch' in sys.modules)"

    child = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (child.stdout.strip(), child.stderr) == ("False", "")


# ----------------------------------------------------------------------------------------------- dependencies
WITH_OTHERS = {"pydantic_core", "pytest"}
"""What comes with a dependency, or with who loads the module: pytest its plugins."""


IMPORTED_AS = {"nvidia_ml_py": "pynvml", "pillow": "PIL"}
"""Packages whose module has another name."""


def imported(tree: ast.Module) -> set[str]:
    """Top-level names of what a module imports, also inside functions; not relative imports."""
    nodes = list(ast.walk(tree))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in whole | parts}


def test_what_is_imported_is_declared() -> None:
    """What comes with the tools of development alone is not there at the users'."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [one for name, found in project["optional-dependencies"].items() if name != "dev" for one in found]
    declared = {re.split(r"[^\w-]", one)[0].replace("-", "_") for one in [*project["dependencies"], *extras]}
    known = {IMPORTED_AS.get(name, name) for name in declared} | WITH_OTHERS | set(ROOMS) | sys.stdlib_module_names

    none(f"{module.name} imports {name}" for module in modules() for name in sorted(imported(module.tree) - known))
