import torch
from model import SimpleNetwork

import nvflare.client as flare

torch.manual_seed(3)
X, Y = torch.randn(32, 64), torch.randint(0, 10, (32,))


@flare.train
def train(input_model=None, lr=0.1):
    net = SimpleNetwork(8)
    net.load_state_dict(input_model.params)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    loss = torch.nn.functional.cross_entropy(net(X), Y)
    loss.backward()
    optimizer.step()
    return flare.FLModel(params=net.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": 1})


@flare.evaluate
def evaluate(input_model):
    net = SimpleNetwork(8)
    net.load_state_dict(input_model.params)
    with torch.no_grad():
        return (net(X).argmax(dim=1) == Y).float().mean().item()


def main():
    flare.init()
    while flare.is_running():
        input_model = flare.receive()
        print("accuracy of the global model:", evaluate(input_model))
        train(input_model, lr=0.05)


if __name__ == "__main__":
    main()
