"""The client script with W&B's methods: `client.py`, and the lines that log."""

import argparse

from model import Net, accuracy, train

import training.client as flare
from training.data import load_share
from writers import WandBWriter

EPOCHS = 2

parser = argparse.ArgumentParser()
parser.add_argument("--sites", type=int, default=2)
args = parser.parse_args()

flare.init()
wandb = WandBWriter()
data = load_share("digits", flare.get_site_name(), args.sites)
net = Net()

step = 0
while flare.is_running():
    received = flare.receive()
    if received is None or received.params is None:
        break
    net.load_state_dict(received.params)
    found = accuracy(net, data.test)
    wandb.log({"accuracy": found, "round": received.current_round}, step)
    for loss in train(net, data.train, EPOCHS):
        step += 1
        wandb.log({"train_loss": loss}, step)
    flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": found}))
