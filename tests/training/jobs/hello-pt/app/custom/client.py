"""Learns to add three numbers; logs the loss of each step."""

import argparse
from typing import Any

import torch
from model import SimpleNetwork
from torch.nn.functional import mse_loss

import training.client as flare
from writers import SummaryWriter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1)
    steps: int = parser.parse_args().steps
    flare.init()
    writer = SummaryWriter()
    model = SimpleNetwork()
    inputs = torch.rand(32, 3)
    targets = inputs.sum(dim=1, keepdim=True)
    while flare.is_running():
        received: Any = flare.receive()
        if flare.is_submit_model():
            flare.send(flare.FLModel(params=model.state_dict()))
            continue
        model.load_state_dict(received.params)
        metrics = {"accuracy": 1 / (1 + mse_loss(model(inputs), targets).item())}
        if flare.is_evaluate():
            flare.send(flare.FLModel(metrics=metrics))
            continue
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(steps):
            optimizer.zero_grad()
            loss = mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss.item(), received.current_round * steps + step)
        flare.send(flare.FLModel(params=model.state_dict(), metrics=metrics, meta={"NUM_STEPS_CURRENT_ROUND": steps}))


if __name__ == "__main__":
    main()
