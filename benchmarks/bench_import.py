"""What `import eventbus, writers` costs a trainer: CPU and memory over a bare interpreter, and that no SDK comes along.

Every figure is of a fresh interpreter, bytecode cached; the kinds take turns, and the least of each counts. What the
three packages cost that trackbus stands on is measured too: the rest is our own.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial

from paired import Table, in_turns, options

IMPORTS = "import eventbus, writers"

DEPENDENCIES = """
import anyio, anyio.from_thread, anyio.to_thread, msgspec, sqlite3
from pydantic import BaseModel, JsonValue
class Smallest(BaseModel):
    value: JsonValue
"""

FORBIDDEN = ("wandb", "mlflow", "tensorboard", "torch", "torchvision", "sklearn", "numpy", "nats", "flwr")
"""Nothing that is slow or heavy to import belongs into a trainer for tracking's sake."""

REPORT = """
import sys, time
cpu, modules = time.process_time(), sorted(sys.modules)
import json, os
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps([cpu, pages * os.sysconf("SC_PAGE_SIZE"), modules]))
"""


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds of CPU until the imports are done, bytes of resident memory, names of the modules."""

    cpu: float
    memory: int
    modules: list[str]


def start(code: str) -> Start:
    command = [sys.executable, "-P", "-c", f"{code}\n{REPORT}"]
    with tempfile.TemporaryDirectory() as elsewhere:
        output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=elsewhere).stdout
    return Start(*json.loads(output))


def over(bare: list[Start], kind: list[Start]) -> tuple[float, float]:
    """Return seconds of CPU and megabytes over a bare interpreter."""
    cpu = min(one.cpu for one in kind) - min(one.cpu for one in bare)
    return cpu, (min(one.memory for one in kind) - min(one.memory for one in bare)) / 1e6


def main() -> None:
    args = options(__doc__).parse_args()
    kinds = {"bare": "pass", "dependencies": DEPENDENCIES, "ours": IMPORTS}
    for code in kinds.values():
        start(code)  # writes the bytecode
    starts = in_turns({name: partial(start, code) for name, code in kinds.items()}, 3 if args.quick else 7)
    bare, ours = starts["bare"], starts["ours"]
    table = Table(f"{IMPORTS}, in fresh interpreters: the least of {len(ours)}, over a bare one's")
    cpu, memory = over(bare, ours)
    table.target("CPU", cpu, 0.15, unit="s")
    table.target("resident memory", memory, 22, unit="MB")
    cpu, memory = over(bare, starts["dependencies"])
    table.row("anyio, msgspec, pydantic with one model: CPU", f"{cpu:.3f}", unit="s")
    table.row("anyio, msgspec, pydantic with one model: memory", f"{memory:.1f}", unit="MB")
    table.row("modules", len(set(ours[0].modules) - set(bare[0].modules)))
    loaded = [name for name in FORBIDDEN if any(name in one.modules for one in ours)]
    table.claim("no SDK, torch, numpy or nats loaded", ", ".join(loaded))
    table.finish()


if __name__ == "__main__":
    main()
