"""The client script with TensorBoard's writer: `client.py`, and the lines that log."""

import argparse

from model import Net, accuracy, train

import training.client as flare
from training.data import load_share
from writers import SummaryWriter

EPOCHS = 2

parser = argparse.ArgumentParser()
parser.add_argument("--sites", type=int, default=2)
args = parser.parse_args()

flare.init()
writer = SummaryWriter()
data = load_share("digits", flare.get_site_name(), args.sites)
net = Net()

step = 0
while flare.is_running():
    received = flare.receive()
    if received is None or received.params is None:
        break
    net.load_state_dict(received.params)
    found = accuracy(net, data.test)
    writer.add_scalar("accuracy", found, received.current_round)
    for loss in train(net, data.train, EPOCHS):
        step += 1
        writer.add_scalar("train_loss", loss, step)
    flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": found}))
