"""Trains the digits at one site."""

import argparse

import torch
from model import SimpleNetwork
from sklearn.datasets import load_digits
from torch import nn, optim

# (1) the client API
import nvflare.client as flare


def load(site_name):
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16.0
    y = torch.tensor(digits.target)
    half = 0 if site_name == "site-1" else 1
    train = slice(half, 1200, 2)
    return x[train], y[train], x[1200:], y[1200:]


def evaluate(net, x, y):
    net.eval()
    with torch.no_grad():
        return (net(x).argmax(dim=1) == y).float().mean().item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()

    # (2) initialise
    flare.init()
    client_name = flare.system_info().get("site_name", None)
    x, y, x_test, y_test = load(client_name)
    net = SimpleNetwork()
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    while flare.is_running():
        # (3) receive the global model
        input_model = flare.receive()
        print(f"({client_name}) current_round={input_model.current_round}, total_rounds={input_model.total_rounds}")
        net.load_state_dict(input_model.params)
        accuracy = evaluate(net, x_test, y_test)

        steps = 0
        for _ in range(args.epochs):
            net.train()
            for start in range(0, len(x), args.batch_size):
                optimizer.zero_grad()
                loss = criterion(net(x[start : start + args.batch_size]), y[start : start + args.batch_size])
                loss.backward()
                optimizer.step()
                steps += 1

        # (4) send the update
        output_model = flare.FLModel(
            params=net.cpu().state_dict(),
            metrics={"accuracy": accuracy},
            meta={"NUM_STEPS_CURRENT_ROUND": steps},
        )
        flare.send(output_model)


if __name__ == "__main__":
    main()
