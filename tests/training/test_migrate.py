"""Moving over from NVFLARE: what becomes of a source, and what `trackbus migrate` does with files."""

from __future__ import annotations

import ast
import importlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training._moves import ANY, MOVES, Move, advice, find
from training._moves_page import make_page
from training.errors import SourceError
from training.jobs._registry import ALIASES, SCRIPT_RUNNER
from training.migrate import Left, migrate

MOVED = [move for move in MOVES if move.new_module]


def moved(source: str) -> str:
    """The source with all of it moved."""
    migration = migrate(source.encode())
    assert migration.left == ()
    return migration.result.decode()


# ------------------------------------------------------------------------------------------------- the table
def test_no_name_has_two_rows() -> None:
    paths = [move.path for move in MOVES]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("move", [move for move in MOVES if not move.new_module], ids=lambda move: move.path)
def test_what_has_no_counterpart_says_what_to_do(move: Move) -> None:
    assert move.note
    assert advice(f"{move.module}.Anything" if move.name == ANY else move.path) == move.note


def test_advice_is_that_of_the_nearest_module() -> None:
    assert advice("nvflare.app_opt.pt.recipes.cyclic.CyclicRecipe") == advice("nvflare.app_opt.pt.recipes")
    assert advice("nvflare.somewhere.Else") == "there is no counterpart"


def test_scripts_and_job_files_move_to_the_same_names() -> None:
    rows = {move.name: move.new_path for move in MOVED}
    aliases = {name: alias.known for name, alias in ALIASES.items() if alias.known != SCRIPT_RUNNER and alias.known}
    assert {name: rows.get(name) for name in aliases} == aliases


def test_the_page_is_what_the_table_makes() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "migrating.md"
    assert page.read_text(encoding="utf-8") == make_page(), "python -m training._moves_page > docs/migrating.md"


# ----------------------------------------------------------------------------------------------- the rewriting
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import nvflare.client as flare", "import training.client as flare"),
        ("from nvflare import client as flare", "from training import client as flare"),
        ("from nvflare import client", "from training import client"),
        ("import nvflare.client.lightning as flare", "import training.lightning as flare"),
        (
            "import nvflare.client as flare\nflare.api.init(), flare.decorator.train(flare.FLModel.summary)",
            "import training.client as flare\nflare.init(), flare.train(flare.FLModel.summary)",
        ),
        ("from nvflare import FedJob", "from training.job import FedJob"),
        ("import nvflare\njob = nvflare.FedJob()", "import training.job\njob = training.job.FedJob()"),
        ("from nvflare.client import *", "from training.client import *"),
        ("from nvflare.client.tracking import SummaryWriter", "from writers import SummaryWriter"),
        ("from nvflare.client import tracking", "import writers as tracking"),
        ("import nvflare.client.tracking as t", "import writers as t"),
        ("import os, nvflare.client as flare, sys", "import os, training.client as flare, sys"),
        ("from nvflare.recipe import SimEnv as Env", "from training.recipe import SimEnv as Env"),
        (
            "from nvflare.app_opt.tracking.tb.tb_receiver import TBAnalyticsReceiver",
            "from receivers import TensorBoardReceiver as TBAnalyticsReceiver",
        ),
        (
            "from nvflare.app_opt.tracking.tb.tb_receiver import TBAnalyticsReceiver as R",
            "from receivers import TensorBoardReceiver as R",
        ),
        (
            "import nvflare.app_opt.tracking.tb.tb_receiver as tb\nreceiver = tb.TBAnalyticsReceiver()",
            "import receivers as tb\nreceiver = tb.TensorBoardReceiver()",
        ),
        (
            "def f(): import nvflare.app_opt.pt.fedavg as m; m.PTFedAvg\ndef g(): import nvflare.client as m; m.init",
            "def f(): import training as m; m.FedAvg\ndef g(): import training.client as m; m.init",
        ),
        ("from nvflare.apis.fl_constant import FLMetaKey", "from training.fl_model import MetaKey as FLMetaKey"),
        ("from nvflare.client \\\n    import FLModel", "from training.client \\\n    import FLModel"),
        ("from nvflare . client import(FLModel)", "from training.client import(FLModel)"),
        ("if True: import nvflare.client as flare  # why", "if True: import training.client as flare  # why"),
        (
            "from nvflare.client import (\n    FLModel,  # a model\n    init as start,\n)  # noqa: X1\n",
            "from training.client import (\n    FLModel,  # a model\n    init as start,\n)  # noqa: X1\n",
        ),
        (
            "def f():\n\tfrom nvflare.client import FLModel\n\treturn FLModel()",
            "def f():\n\tfrom training.client import FLModel\n\treturn FLModel()",
        ),
        (
            "try:\n    from nvflare.client import FLModel\nexcept ImportError:\n    FLModel = None",
            "try:\n    from training.client import FLModel\nexcept ImportError:\n    FLModel = None",
        ),
        (
            "from nvflare.app_opt.pt import PTFileModelLocator, PTFileModelPersistor",
            "from training import PTFileModelLocator, PTFileModelPersistor",
        ),
        ("from .nvflare import client", "from .nvflare import client"),
        ("from . import nvflare", "from . import nvflare"),
        ("import nvflare_tools", "import nvflare_tools"),
        ('"""Runs on nvflare."""  # import nvflare.client', '"""Runs on nvflare."""  # import nvflare.client'),
    ],
)
def test_an_import_is_moved(before: str, after: str) -> None:
    assert moved(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "from nvflare.client import FLModel, tracking, lightning as fl",
            "from training.client import FLModel\nimport writers as tracking\nfrom training import lightning as fl",
        ),
        (
            "if True:\n    from nvflare.client import (\n        tracking,  # ours\n        FLModel,\n    )\n",
            "if True:\n    # ours\n    import writers as tracking\n    from training.client import FLModel\n",
        ),
        (
            "x = 1; from nvflare.client import FLModel, tracking; y = 2",
            "x = 1; from training.client import FLModel; import writers as tracking; y = 2",
        ),
        (
            "if x: from nvflare.client import FLModel, tracking",
            "if x: from training.client import FLModel; import writers as tracking",
        ),
    ],
)
def test_names_that_go_to_several_modules_get_a_statement_for_each(before: str, after: str) -> None:
    assert moved(before) == after


def test_a_long_line_is_broken() -> None:
    names = ", ".join(f"FLModel as a_model_with_a_long_name_{number}" for number in range(3))
    lines = moved(f"if 1:\n    from nvflare.client import {names}, tracking\n").splitlines()
    assert lines[1:3] == [
        "    from training.client import (",
        "        FLModel as a_model_with_a_long_name_0,",
    ]
    assert lines[5:] == ["    )", "    import writers as tracking"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import nvflare.client\nnvflare.client.init()", "import training.client\ntraining.client.init()"),
        (
            "import nvflare.client\ndef f(m: nvflare.client.FLModel): return nvflare . client.FLModel.summary(m)",
            "import training.client\ndef f(m: training.client.FLModel): return training.client.FLModel.summary(m)",
        ),
        (
            "import nvflare.client, nvflare.client.tracking\nnvflare.client.tracking.SummaryWriter()",
            "import training.client, writers\nwriters.SummaryWriter()",
        ),
        (
            "import nvflare.client.tracking\nnvflare.client.init(), nvflare.client.tracking.WandBWriter()",
            "import writers\ntraining.client.init(), writers.WandBWriter()",
        ),
        ("import nvflare.recipe.utils", "import training.recipe"),
        (
            "import nvflare\nimport nvflare.client\nnvflare.client.init()",
            "import training\nimport training.client\ntraining.client.init()",
        ),
    ],
)
def test_whole_paths_are_rewritten_where_they_stand(before: str, after: str) -> None:
    assert moved(before) == after


def test_the_bytes_around_stay_what_they_are() -> None:
    source = "# -*- coding: latin-1 -*-\r\nfrom nvflare.client import FLModel as Modèle  # déjà\r\nx = 'é'\r\n"
    result = migrate(source.encode("latin-1")).result
    assert result == source.replace("nvflare", "training").encode("latin-1")


def test_a_byte_order_mark_and_wide_characters_stay() -> None:
    source = "名 = '𝄞'; import nvflare.client as flare; π = flare.FLModel"
    result = migrate(b"\xef\xbb\xbf" + source.encode()).result
    assert result == b"\xef\xbb\xbf" + source.replace("nvflare", "training").encode()


def test_lines_of_a_split_statement_end_as_the_others_do() -> None:
    assert moved("import os\r\nfrom nvflare.client import FLModel, tracking\r\n") == (
        "import os\r\nfrom training.client import FLModel\r\nimport writers as tracking\r\n"
    )


# --------------------------------------------------------------------------------------------- what is left
@pytest.mark.parametrize(
    ("source", "line", "what"),
    [
        ("\nfrom nvflare.apis.dxo import DXO", 2, "nvflare.apis.dxo.DXO"),
        ("import nvflare.client as flare\n\nflare.IPCAgent()", 3, "nvflare.client.IPCAgent"),
        ("import nvflare.client as flare\nflare.tracking.SummaryWriter()", 2, "nvflare.client.tracking.SummaryWriter"),
        ("import nvflare.apis.dxo as d", 1, "nvflare.apis.dxo"),
        ("import nvflare", 1, "nvflare"),
        ("import nvflare.client as flare\nflare.__version__", 2, "nvflare.client.__version__"),
        (
            "import nvflare.app_common.widgets.streaming as s\ns.AnalyticsReceiver",
            2,
            "nvflare.app_common.widgets.streaming.AnalyticsReceiver",
        ),
        ("from nvflare import *", 1, "nvflare.*"),
        ("from nvflare.app_common.tracking.log_writer import LogWriter", 1, None),
        ("from importlib import import_module\nimport_module('nvflare.client')", 2, "nvflare.client"),
        ("x = 1; from nvflare.client import (FLModel, # a\n tracking)", 1, "nvflare.client"),
    ],
)
def test_what_can_not_be_moved_is_named_with_its_line(source: str, line: int, what: str | None) -> None:
    (left,) = migrate(source.encode()).left
    assert left.line == line
    assert left.what == what or what is None
    assert left.advice


def test_the_rest_of_a_statement_is_moved_all_the_same() -> None:
    migration = migrate(b"from nvflare.recipe import SimEnv, PocEnv as Env\n")
    assert migration.result == b"from training.recipe import SimEnv\nfrom nvflare.recipe import PocEnv as Env\n"
    assert [left.what for left in migration.left] == ["nvflare.recipe.PocEnv"]


@pytest.mark.parametrize(
    "source",
    [
        "import nvflare.client\ntraining = True\nnvflare.client.init()",
        "import nvflare.client\nnvflare.client.init(), nvflare.apis.dxo.DXO()",
        "import nvflare.client\nnvflare.client.init(), nvflare.__version__",
        "import nvflare.client\nprint(nvflare)\nnvflare.client.init()",
        "import nvflare.client\nnvflare.client.init()\ndel nvflare",
        "def start():\n    global nvflare\n    import nvflare.client\nnvflare.client.init()",
        "import nvflare.client\nfrom mine import training\nnvflare.client.init()\ntraining.x()",
        "import nvflare.client\ntry: pass\nexcept OSError as training: nvflare.client.init()",
        "import nvflare.client\n(nvflare\n .client  # why\n .init())",
    ],
)
def test_whole_paths_stay_as_they_are_where_moving_them_would_break_the_file(source: str) -> None:
    migration = migrate(source.encode())
    assert migration.result == source.encode()
    assert migration.left


@pytest.mark.parametrize(
    "source", ["from nvflare import (", "import nvflare\n  x", "nvflare\0", "# coding: what\nnvflare"]
)
def test_what_is_no_python_is_refused(source: str) -> None:
    with pytest.raises(SourceError):
        migrate(source.encode())


# ------------------------------------------------------------------------------------------ whatever comes
STATEMENTS = st.sampled_from(MOVED).flatmap(
    lambda move: st.sampled_from(
        [
            f"from {move.module} import {move.name}",
            f"from {move.module} import {move.name} as local",
            f"from {move.module} import (  # why\n    {move.name},  # this\n)",
            f"import {move.module} as local\nlocal.{move.name}()",
            f"import {move.module}\n{move.module}.{move.name}()",
            f"def f():\n    import os, {move.module} as m; return m.{move.name}",
        ]
    )
)


@settings(max_examples=50)
@given(st.lists(STATEMENTS, min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_nothing_of_nvflare_is_left_of_what_the_table_holds(statements: list[str], newline: str) -> None:
    source = newline.join("\n".join(statements).split("\n")).encode()
    migration = migrate(source)
    if all(find(left.what) is not None for left in migration.left):  # by name: notes that go with a move
        names = [
            node for node in ast.walk(ast.parse(migration.result)) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not [node for node in names if "nvflare" in ast.unparse(node)]
    assert migrate(migration.result).result == migration.result
    assert migration.result.count(b"# ") == source.count(b"# ")


# ------------------------------------------------------------------------------------------------- the corpus
CORPUS = Path(__file__).parent / "nvflare_style"
BY_HAND = {"own_receiver/receiver.py": 5}
"""How much of a file of the corpus is left to do by hand."""


@pytest.mark.parametrize("file", sorted(CORPUS.rglob("*.py")), ids=lambda file: str(file.relative_to(CORPUS)))
def test_a_file_of_the_corpus_is_moved(file: Path) -> None:
    migration = migrate(file.read_bytes())
    assert len(migration.left) == BY_HAND.get(str(file.relative_to(CORPUS)), 0), migration.left
    imports = [node for node in ast.walk(ast.parse(migration.result)) if isinstance(node, ast.Import | ast.ImportFrom)]
    remaining = sum("nvflare" in ast.unparse(node) for node in imports)
    assert remaining <= len(migration.left)
    assert migrate(migration.result).result == migration.result


# ------------------------------------------------------------------------------------------------ the command
def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from training.cli import main; main()", "migrate", *map(str, arguments)]
    wide = os.environ | {"COLUMNS": "400"}  # a message in a box would break a long path
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=wide)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {
        "client.py": "import nvflare.client as flare\n",
        "deep/job.py": "from nvflare.recipe import SimEnv\n",
        "other.py": "import os\n",
        ".venv/lib.py": "import nvflare.client\n",
        "env/pyvenv.cfg": "",
        "env/lib.py": "import nvflare.client\n",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_it_shows_the_change_and_touches_nothing(project: Path) -> None:
    done = run(project)
    assert done.returncode == 0, done.stderr
    assert "-import nvflare.client as flare\n+import training.client as flare\n" in done.stdout
    assert "2 imports can be moved in 2 files" in done.stdout
    assert "--write" in done.stdout
    assert (project / "client.py").read_text() == "import nvflare.client as flare\n"


def test_it_writes_where_told_to_and_then_finds_nothing_more(project: Path) -> None:
    (project / "client.py").chmod(0o755)
    (project / "link.py").symlink_to("client.py")
    assert run(project, "--write").returncode == 0
    assert (project / "client.py").read_text() == "import training.client as flare\n"
    assert stat.S_IMODE((project / "client.py").stat().st_mode) == 0o755
    assert (project / "link.py").is_symlink()
    assert (project / "deep" / "job.py").read_text() == "from training.recipe import SimEnv\n"
    assert (project / "env" / "lib.py").read_text() == "import nvflare.client\n"
    assert not list(project.glob("**/*.tmp"))
    again = run(project)
    assert (again.returncode, again.stdout) == (0, "nothing here imports nvflare\n")


def test_what_is_left_is_listed_and_makes_the_exit_code_1(project: Path) -> None:
    (project / "client.py").write_text("\nfrom nvflare.apis.dxo import DXO\n")
    (project / "broken.py").write_text("import nvflare\n\ndef (\n")
    done = run(project, "--write")
    assert done.returncode == 1
    assert f"{project}/client.py:2: nvflare.apis.dxo.DXO: weights and metrics travel as" in done.stdout
    assert f"{project}/broken.py:3: not Python that can be read: " in done.stdout
    assert "2 things left to do by hand" in done.stdout
    assert (project / "deep" / "job.py").read_text() == "from training.recipe import SimEnv\n"


def test_a_file_that_would_hide_our_packages_is_named(project: Path) -> None:
    (project / "training.py").write_text("")
    done = run(project / "client.py")
    assert done.returncode == 1
    assert f"{project}/training.py: give it another name" in done.stdout


def test_a_file_that_can_not_be_read_is_named_and_stops_no_other(project: Path) -> None:
    (project / ".#client.py").symlink_to("me@here.17:5")  # Emacs' lock
    os.mkfifo(project / "pipe.py")
    (project / "lost.py").symlink_to("nowhere")
    done = run(project, "--write")
    assert done.returncode == 2
    assert f"{project}/lost.py:1: can't be read: No such file or directory" in done.stdout
    assert f"{project}/pipe.py:1: can't be read: it is no file" in done.stdout
    assert ".#client" not in done.stdout
    assert (project / "deep" / "job.py").read_text() == "from training.recipe import SimEnv\n"


def test_the_shown_change_has_the_tabs_of_the_file(project: Path) -> None:
    (project / "client.py").write_text("if True:\n\timport nvflare.client as flare\n")
    assert "\n-\timport nvflare.client as flare\n+\timport training.client as flare\n" in run(project).stdout


@pytest.mark.parametrize("name", ["nowhere.py", "config_fed_server.json"])
def test_what_it_can_not_work_with_is_exit_code_2(project: Path, name: str) -> None:
    (project / "config_fed_server.json").write_text("{}")
    done = run(project / name)
    assert done.returncode == 2
    assert name in done.stderr


def test_a_file_that_can_not_be_written_is_exit_code_2_and_whole(project: Path) -> None:
    (project / ".client.py.tmp").mkdir()
    done = run(project / "client.py", "--write")
    assert done.returncode == 2
    assert "client.py can't be written: " in done.stderr
    assert (project / "client.py").read_text() == "import nvflare.client as flare\n"


def test_it_loads_nothing_heavy() -> None:
    heavy = "torch numpy wandb mlflow tensorboard"
    script = (
        f"import sys; sys.argv[1:] = ['migrate', '--help']\nfor name in '{heavy}'.split(): sys.modules[name] = None\n"
        "from training.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing" in done.stdout


def test_left_sorts_by_line() -> None:
    lefts = migrate(b"from nvflare.apis import dxo\nimport nvflare.apis.filter as f\n").left
    assert [left.line for left in lefts] == [1, 2]
    assert all(isinstance(left, Left) for left in lefts)


@pytest.mark.parametrize("target", sorted({(move.new_module, move.new_name) for move in MOVED}), ids=".".join)
def test_every_new_name_is_there(target: tuple[str, str]) -> None:
    module, name = target
    assert hasattr(importlib.import_module(module), name)
