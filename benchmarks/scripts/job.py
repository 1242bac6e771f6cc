"""A job as its users write it; says when it did what, and what its process took."""

import time

STARTED = time.monotonic()

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
from pathlib import Path  # noqa: E402

from torch.nn import Module  # noqa: E402

from training.job import FrameworkType  # noqa: E402
from training.recipe import FedAvgRecipe, SimEnv, add_experiment_tracking  # noqa: E402

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--script", choices=["digits", "tiny"], default="digits")
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--trackers", default="")
    parser.add_argument("--export", action="store_true", help="write the job's folder, and don't run it")
    args = parser.parse_args()
    times = args.workspace / "times"
    times.mkdir(parents=True)
    recipe = FedAvgRecipe(
        name="bench",
        min_clients=args.sites,
        num_rounds=args.rounds,
        model=model(args.script),
        train_script=str(HERE / f"{args.script}.py"),
        train_args=f"--times {times} --epochs {args.epochs}" if args.script == "digits" else "",
        framework=FrameworkType.PYTORCH if args.script == "digits" else FrameworkType.NUMPY,
    )
    for tracker in filter(None, args.trackers.split(",")):
        add_experiment_tracking(recipe, tracker)
    if args.export:
        recipe.export(str(args.workspace))
        return
    began = time.monotonic()
    run = recipe.execute(SimEnv(num_clients=args.sites, workspace_root=str(args.workspace)))
    result = {
        "started": STARTED,
        "began": began,
        "ended": time.monotonic(),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    assert run.get_status() == "FINISHED:COMPLETED", run.get_status()
    (times / "job.json").write_text(json.dumps(result))


def model(script: str) -> "Module":
    if script == "tiny":
        from tiny_model import TinyModel

        return TinyModel()
    from training.model import TutorialCNN

    return TutorialCNN()


if __name__ == "__main__":
    main()
