"""What a site of `bench_job.py` runs: the tutorial's network on its share of the digits, and when it did what."""

import argparse
import json
import time
from pathlib import Path

IMPORTED_FROM = time.monotonic()

import torch  # noqa: E402 - what importing takes is measured
from torch.optim import SGD  # noqa: E402

import training.client as flare  # noqa: E402
from training.data import DataSpec  # noqa: E402
from training.loop import StepResult, round_generator, train_epoch  # noqa: E402
from training.model import build_model, get_state, load_state  # noqa: E402
from writers import SummaryWriter  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    flare.init()
    site = flare.get_site_name()
    times = {"imported_from": IMPORTED_FROM, "initialised": time.monotonic()}
    writer = SummaryWriter()
    data = DataSpec(int(site.rpartition("-")[2]) - 1, 2).load()
    model = build_model(0, data.classes)
    steps = 0
    while flare.is_running():
        task = flare.receive()
        assert task
        assert task.params
        assert task.current_round is not None
        times.setdefault("received", time.monotonic())
        load_state(model, task.params)
        optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
        generator = round_generator(0, site, task.current_round)

        def note(result: StepResult) -> None:
            nonlocal steps
            steps += 1
            times.setdefault("stepped", time.monotonic())
            if steps % 5 == 0:
                writer.add_scalar("train/loss", result.loss, steps)

        for _ in range(args.epochs):
            train_epoch(model, data.train, optimizer, batch_size=16, generator=generator, on_step=note)
        flare.send(flare.FLModel(params=get_state(model), metrics={"accuracy": 0.0}))
        times["sent"] = time.monotonic()
    (args.times / f"{site}.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main()
