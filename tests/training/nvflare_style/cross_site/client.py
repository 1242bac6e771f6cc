import torch
from model import SimpleNetwork

import nvflare.client as flare

PATH = "local_model.pt"


def main():
    flare.init()
    info = flare.system_info()
    site = info["site_name"]
    torch.manual_seed(len(site))
    x, y = torch.randn(100, 64), torch.randint(0, 10, (100,))
    net = SimpleNetwork(8)
    local = None

    while flare.is_running():
        input_model = flare.receive()
        if flare.is_train():
            net.load_state_dict(input_model.params)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(net(x), y)
                loss.backward()
                optimizer.step()
            local = {name: value.clone() for name, value in net.state_dict().items()}
            flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": accuracy(net, x, y)}))
        elif flare.is_evaluate():
            net.load_state_dict(input_model.params)
            flare.send(flare.FLModel(metrics={"accuracy": accuracy(net, x, y), "samples": 100}))
        elif flare.is_submit_model():
            flare.send(flare.FLModel(params=local))


def accuracy(net, x, y):
    with torch.no_grad():
        return (net(x).argmax(dim=1) == y).float().mean().item()


if __name__ == "__main__":
    main()
