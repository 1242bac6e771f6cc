import argparse
from typing import TYPE_CHECKING

import torch
from model import SimpleNetwork

import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter

if TYPE_CHECKING:
    from nvflare.client import FLModel


def train(net, input_model: "FLModel", summary_writer: SummaryWriter):
    torch.manual_seed(1)
    x, y = torch.randn(80, 64), torch.randint(0, 10, (80,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for batch in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x[batch * 8 :][:8]), y[batch * 8 :][:8])
        loss.backward()
        optimizer.step()
        global_step = input_model.current_round * 10 + batch
        summary_writer.add_scalar(tag="train/loss", scalar=loss, global_step=global_step)
        summary_writer.add_scalar("train/progress", global_step / 4, global_step)
    summary_writer.add_scalars("norms", {"fc1": net.fc1.weight.norm().item(), "round": input_model.current_round}, input_model.current_round)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int)
    args = parser.parse_args()
    net = SimpleNetwork(args.hidden)
    flare.init()
    summary_writer = SummaryWriter()
    while flare.is_running():
        input_model = flare.receive()
        net.load_state_dict(input_model.params)
        train(net, input_model, summary_writer)
        summary_writer.flush()
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": 0.5}))


if __name__ == "__main__":
    main()
