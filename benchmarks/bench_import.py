"""What `import eventbus, writers` costs a trainer: CPU and memory over a bare interpreter, and that no SDK comes along.

Every figure is of a fresh interpreter, bytecode cached; the two kinds take turns, and the least of each counts.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from paired import Table, in_turns, options

IMPORTS = "import eventbus, writers"

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


def main() -> None:
    args = options(__doc__).parse_args()
    start(IMPORTS)  # writes the bytecode
    starts = in_turns({"bare": lambda: start("pass"), "ours": lambda: start(IMPORTS)}, 3 if args.quick else 7)
    bare, ours = starts["bare"], starts["ours"]
    table = Table(f"{IMPORTS}, in fresh interpreters: the least of {len(ours)}, over a bare one's")
    table.row("bare interpreter, CPU", f"{min(one.cpu for one in bare):.3f}", unit="s")
    cpu = min(one.cpu for one in ours) - min(one.cpu for one in bare)
    table.target("CPU over it", cpu, 0.15, unit="s")
    memory = min(one.memory for one in ours) - min(one.memory for one in bare)
    table.target("resident memory over it", memory / 1e6, 22, unit="MB")
    table.row("modules over it", len(set(ours[0].modules) - set(bare[0].modules)))
    loaded = [name for name in FORBIDDEN if any(name in one.modules for one in ours)]
    table.claim("no SDK, torch, numpy or nats loaded", ", ".join(loaded))
    table.finish()


if __name__ == "__main__":
    main()
