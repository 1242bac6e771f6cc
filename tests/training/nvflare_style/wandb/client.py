from model import SimpleNetwork

import nvflare.client as flare
from nvflare.client.tracking import WandBWriter


def main():
    flare.init()
    wandb_writer = WandBWriter()
    net = SimpleNetwork(8)
    while flare.is_running():
        input_model = flare.receive()
        net.load_state_dict(input_model.params)
        for i in range(4):
            step = input_model.current_round * 4 + i
            wandb_writer.log({"train_loss": 2.0 - step / 8}, step=step)
            wandb_writer.log(metrics={"round": input_model.current_round}, step=step)
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": 0.1}))


if __name__ == "__main__":
    main()
