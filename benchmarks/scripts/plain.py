"""The torch work of `digits.py` and nothing else: one site's rounds in a plain loop."""

import argparse
import json
import time
from pathlib import Path

STARTED = time.monotonic()

import torch  # noqa: E402 - what importing takes is measured
from torch.optim import SGD  # noqa: E402

from training.data import DataSpec  # noqa: E402
from training.loop import round_generator, train_epoch  # noqa: E402
from training.model import build_model  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=Path)
    parser.add_argument("--site", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = DataSpec(args.site, 2).load()
    model = build_model(0, data.classes)
    SGD(model.parameters(), lr=0.02)
    ready = time.monotonic()
    for number in range(args.rounds):
        optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
        generator = round_generator(0, f"site-{args.site + 1}", number)
        for _ in range(args.epochs):
            train_epoch(model, data.train, optimizer, batch_size=16, generator=generator)
    times = {"started": STARTED, "ready": ready, "trained": time.monotonic()}
    (args.times / f"plain-{args.site}.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main()
