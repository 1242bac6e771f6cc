"""The client script with a writer of our own."""

import argparse

from model import Net, accuracy, train
from own_tracker import ScoreWriter

import training.client as flare
from training.data import load_share

parser = argparse.ArgumentParser()
parser.add_argument("--sites", type=int, default=2)
args = parser.parse_args()

flare.init()
scores = ScoreWriter()
data = load_share("digits", flare.get_site_name(), args.sites)
net = Net()

while flare.is_running():
    received = flare.receive()
    if received is None or received.params is None:
        break
    net.load_state_dict(received.params)
    found = accuracy(net, data.test)
    scores.score("accuracy", found, received.current_round or 0)
    losses = list(train(net, data.train, epochs=2))
    scores.score("loss", sum(losses) / len(losses), received.current_round or 0)
    flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": found}))
