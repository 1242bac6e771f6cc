"""The command line as people use it: in processes of its own, on real folders."""

import re
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from readback import read_jsonl

from receivers import JsonlReceiver

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 100  # seconds: importing torch on a busy machine takes 10 of them

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None

sys.meta_path.insert(0, Blocker())
sys.argv[1:] = {arguments!r}
from training.cli import main
main()
"""


def environment() -> Mapping[str, str]:
    """What a plain shell has: no tracker's key, no bus."""
    return {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "training.cli", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def trackbus(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    with start(*arguments, folder=folder) as process:
        out, err = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def without(blocked: Sequence[str], *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in an interpreter that lacks some packages."""
    return subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT.format(blocked=set(blocked), arguments=list(arguments))],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def table(out: str) -> list[list[str]]:
    """The cells of the table's rows: those lines that end with a count."""
    return [line.split() for line in out.splitlines() if re.search(r"\s\d+\s*$", line) and "/" not in line]


def global_rounds(workspace: Path) -> list[int]:
    """The rounds of which the server's measurement is stored."""
    return [
        line.value["event"]["step"]
        for line in read_jsonl(workspace / "jsonl")
        if "global/loss" in line.value.get("event", {}).get("values", {})
    ]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A small run into JSON lines, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    done = trackbus(
        *("run", "--sites", "2", "--rounds", "1", "--trackers", "jsonl", "--workspace", "exp", "--strict"),
        folder=folder,
    )
    return folder, done


# ---------------------------------------------------------------------------------------------------------- run
def test_a_run_ends_well_and_says_nothing_on_stderr(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = ran
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_shows_plain_lines_where_there_is_no_terminal(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = ran
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert done.stdout.splitlines()[0] == "2 sites, 1 round, digits -> jsonl in exp"
    assert re.search(
        r"^round 1/1  loss \d\.\d+  accuracy 0\.\d{3}  \(site-1 0\.\d{3}, site-2 0\.\d{3}\)$", done.stdout, re.MULTILINE
    )


def test_a_run_trains_what_it_is_told_to_and_shows_who_has_what(tmp_path: Path) -> None:
    write_idx_files(tmp_path / "data")
    options = "--data fashion-mnist --partition shards:1 --sites 3 --rounds 1 --trackers jsonl --data-root data"
    done = trackbus("run", *options.split(), "--workspace", "ws", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *table = done.stdout.splitlines()[:5]
    assert first == "3 sites, 1 round, fashion-mnist -> jsonl in ws"
    assert table[0].split() == ["class", *map(str, range(10)), "samples"]
    held = [[int(cell) for cell in line.split()[1:11]] for line in table[1:]]
    assert sorted(map(max, held)) == [40, 40, 40]
    assert [sum(counts) for counts in zip(*held, strict=True)] == [40, 40, 40, 0, 0, 0, 0, 0, 0, 0]
    logged = [line.value.get("event", {}) for line in read_jsonl(tmp_path / "ws" / "jsonl")]
    params = [event["values"] for event in logged if "partition" in event.get("values", {})]
    assert {(one["dataset"], one["partition"]) for one in params} == {("fashion-mnist", "shards:1")}


def write_idx_files(folder: Path) -> None:
    """Write a Fashion-MNIST of three classes in its own format."""
    folder.mkdir()
    for part, count in (("train", 120), ("t10k", 30)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">HBB3I", 0, 8, 3, count, 28, 28) + bytes(count * 28 * 28)
        )
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">HBBI", 0, 8, 1, count) + bytes(number % 3 for number in range(count))
        )


def test_a_run_is_resumed_with_its_own_settings(tmp_path: Path) -> None:
    common = ("--trackers", "jsonl", "--workspace", "exp")
    trackbus("run", "--rounds", "1", "--sites", "1", *common, folder=tmp_path)
    again = trackbus("run", "--resume", "--rounds", "2", *common, folder=tmp_path)

    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("1 site, 2 rounds")
    assert re.search(r"^going on with federated-\w{4} at round 2/2$", again.stdout, re.MULTILINE)
    assert "round 1/2" not in again.stdout
    assert global_rounds(tmp_path / "exp") == [0, 1]


def test_what_cannot_be_resumed_is_said(ran: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    empty = trackbus("run", "--resume", "--workspace", "none", folder=tmp_path)
    other = trackbus("run", "--resume", "--seed", "7", "--trackers", "none", "--workspace", "exp", folder=ran[0])

    assert (empty.returncode, "nothing to resume" in empty.stderr) == (2, True)
    assert (other.returncode, "seed=0: leave that as it is" in other.stderr) == (2, True)


def test_a_run_says_what_each_tracker_has_of_each_site(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = ran
    stored: dict[str, int] = {}
    for line in read_jsonl(folder / "exp" / "jsonl"):
        stored[line.value["site"]] = stored.get(line.value["site"], 0) + (line.value["type"] != "RunStatus")
    assert list(stored) == ["server", "site-1", "site-2"]
    assert table(done.stdout) == [[site, "jsonl", str(count), str(count), "0", "0"] for site, count in stored.items()]


def test_a_run_says_where_to_look(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = ran
    look = done.stdout.partition("look at it:\n  ")[2].splitlines()[0]
    shown = subprocess.run(look, shell=True, capture_output=True, text=True, check=True)
    assert '"status": "FINISHED"' in shown.stdout
    assert "best model: exp/models/best.safetensors (accuracy 0." in done.stdout
    assert (folder / "exp" / "models" / "best.safetensors").is_file()


@pytest.mark.slow  # the bus waits 10 s for a worker that gets on
@pytest.mark.parametrize("strict", [False, True])
def test_a_tracker_that_is_late_makes_the_exit_code_1_if_strict(
    strict: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training._launch import launch
    from training._plan import FederationConfig

    config = FederationConfig(workspace=tmp_path, sites=1, rounds=1)
    dead = JsonlReceiver("late", name="dead", python="/nowhere/python")
    code = launch(config, [dead, JsonlReceiver()], strict=strict)

    shown = capsys.readouterr()
    counts = {site: int(count) for site, _, _, count, _, _ in table(shown.out)[1::2]}
    assert code == strict
    assert table(shown.out)[::2] == [[site, "dead", str(n), "0", str(n), "0"] for site, n in counts.items()]
    assert f"{sum(counts.values())} are late: they stay in the journal" in shown.out
    assert f"trackbus status {tmp_path}" in shown.out
    assert f"trackbus replay {tmp_path} --to dead --name dead" in shown.out
    assert "dead" in shown.err
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_and_stores_what_was_logged(number: signal.Signals, tmp_path: Path) -> None:
    arguments = ("run", "--rounds", "1000", "--trackers", "jsonl", "--workspace", "exp", "--sites", "1")
    with start(*arguments, folder=tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("round 1/"):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 128 + number
    assert "stopping" in err
    assert "Traceback" not in out + err
    ends = [line.value for line in read_jsonl(tmp_path / "exp" / "jsonl") if line.value["type"] == "RunStatus"]
    assert {end["site"]: end["status"] for end in ends} == {"server": "KILLED", "site-1": "KILLED"}
    assert all((late, dropped) == ("0", "0") for *_, late, dropped in table(out))


# --------------------------------------------------------------------------------------------------- wrong inputs
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --sites 0", "'--sites'"),
        ("run --sites 51", "'--sites'"),
        ("run --sites two", "'--sites'"),
        ("run --rounds -1", "'--rounds'"),
        ("run --trackers tensorbord", "unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
        ("run --trackers wandb,,mlflow", "unknown tracker ''"),
        ("run --trackers wandb --wandb-mode online", "needs an API key for W&B"),
        ("run --trackers wandb --wandb-mode sometimes", "unknown mode 'sometimes'"),
        ("run --name a/b", "name 'a/b' is not a name"),
        ("run --lr 0", "learning_rate=0.0: Input should be greater than 0"),
        ("run --lr nan", "learning_rate=nan"),
        ("run --data mnist", "dataset='mnist': Input should be 'digits', 'cifar10' or 'fashion-mnist'"),
        ("run --partition dirichlet", "use one of iid, dirichlet:ALPHA"),
        ("run --partition shards:2 --trackers jsonl", "take 5 classes per site or more, or more sites"),
        ("demo --workspace /dev/null/x", "the workspace /dev/null/x can't be written"),
        ("report nothing", "nothing is not a workspace"),
        ("status nothing", "nothing is not a workspace"),
        ("inspect nothing", "nothing holds no journal"),
        ("inspect . --since yesterday", "'yesterday' is no time"),
        (f"inspect . --since {'9' * 400}d", "is no time"),
        (f"inspect . --tail {'9' * 20}", "--tail"),
        ("inspect . --scope both", "--scope 'both': it is local or federated"),
        ("replay nothing --to jsonl", "nothing holds no journal"),
        ("replay .", "'--to'"),
        ("report", "WORKSPACE"),
        ("simulate", "No such command 'simulate'"),
        ("run --nodes 2", "No such option"),
    ],
)
def test_a_wrong_command_gets_one_clear_message(arguments: str, message: str, tmp_path: Path) -> None:
    done = trackbus(*arguments.split(), folder=tmp_path)

    assert message in re.sub(r"[│\s]+", " ", done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("blocked", "arguments", "message"),
    [
        (["torch"], "run --trackers jsonl", "this needs torch: pip install 'trackbus[train]'"),
        (["typer"], "report x", "this needs typer: pip install 'trackbus[cli]'"),
        (["rich"], "run", "this needs rich: pip install 'trackbus[cli]'"),
    ],
)
def test_a_missing_extra_is_named(blocked: list[str], arguments: str, message: str, tmp_path: Path) -> None:
    done = without(blocked, *arguments.split(), folder=tmp_path)

    assert done.stderr == f"trackbus: {message}\n"
    assert done.returncode == 2


# ------------------------------------------------------------------------------------------- what changes nothing
def test_a_report_needs_neither_torch_nor_an_sdk(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = ran
    published = sum(int(row[2]) for row in table(done.stdout))

    shown = without(["torch", "torchvision", "numpy", "wandb", "mlflow", "tensorboard"], "report", "exp", folder=folder)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"exp: {published} events\n")
    assert ["jsonl", "all", str(published), "0", "0"] in table(shown.stdout)
    server = shown.stdout.partition("exp/sites")[0]
    sites = re.findall(r"^ (s\S+) +(\d+) +1 ended", server, re.MULTILINE)
    assert sites == [(site, events) for site, _, events, *_ in table(done.stdout)]


def test_a_report_changes_nothing(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = ran
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.db")}

    trackbus("report", "exp", folder=folder)

    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.db")} == before


@pytest.mark.parametrize("command", [[], ["demo"], ["run"], ["report"], ["status"], ["inspect"], ["replay"]])
def test_the_help_teaches(command: list[str], tmp_path: Path) -> None:
    done = without(["torch"], *command, "--help", folder=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: trackbus" in done.stdout
    examples = done.stdout.replace("Usage: trackbus", "")
    assert f" trackbus {' '.join(command)}" in examples


def test_the_version_is_told(tmp_path: Path) -> None:
    done = without(["torch"], "--version", folder=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"trackbus \S.*\n", done.stdout)


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(tmp_path: Path) -> None:
    arguments = ("run", "--sites", "1", "--rounds", "2", "--trackers", "jsonl", "--workspace", "exp")
    with start(*arguments, folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()  # as `| head -1` does
        errors = process.stderr.read()

    assert (process.returncode, errors) == (0, "")
    assert global_rounds(tmp_path / "exp") == [0, 1]
