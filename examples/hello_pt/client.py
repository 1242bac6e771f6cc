"""What each site runs: an ordinary training, between a `receive` and a `send`."""

import argparse

from model import Net, accuracy, train

import training.client as flare
from training.data import label_histogram, load_share

parser = argparse.ArgumentParser()
parser.add_argument("--sites", type=int, default=2)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--data", default="digits")
parser.add_argument("--partition", default="iid")
args = parser.parse_args()

flare.init()
data = load_share(args.data, flare.get_site_name(), args.sites, partition=args.partition)
print(f"{flare.get_site_name()}: samples by class {label_histogram(data.train.labels, data.classes)}")
net = Net()

while flare.is_running():
    received = flare.receive()
    if received is None or received.params is None:
        break
    net.load_state_dict(received.params)
    found = accuracy(net, data.test)  # of the global model: it decides which round's is the best
    steps = len(list(train(net, data.train, args.epochs)))
    print(f"{flare.get_site_name()}: round {received.current_round}, accuracy {found:.3f} before training")
    flare.send(
        flare.FLModel(params=net.state_dict(), metrics={"accuracy": found}, meta={"NUM_STEPS_CURRENT_ROUND": steps})
    )
