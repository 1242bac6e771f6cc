import argparse

import torch

import nvflare
import nvflare.client
from nvflare.apis.analytix import AnalyticsDataType
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import ModelName  # noqa: F401
from src.net import SimpleNetwork


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--name", default="")
    args = parser.parse_args()
    assert args.name == "a name with spaces", args.name

    nvflare.client.init()
    torch.manual_seed(7)
    x, y = torch.randn(64, 64), torch.randint(0, 10, (64,))
    net = SimpleNetwork(hidden=8)
    while nvflare.client.is_running():
        received: FLModel = nvflare.client.receive(timeout=120)
        if received is None:
            break
        before = {name: value.clone() for name, value in received.params.items()}
        net.load_state_dict(received.params)
        optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
        for _ in range(4):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
        difference = {name: value - before[name] for name, value in net.state_dict().items()}
        nvflare.client.log("loss", loss.item(), AnalyticsDataType.SCALAR, global_step=received.current_round)
        nvflare.client.send(
            FLModel(params_type=ParamsType.DIFF, params=difference, metrics={"loss": loss.item()}, meta={"NUM_STEPS_CURRENT_ROUND": 4})
        )


if __name__ == "__main__":
    main()
