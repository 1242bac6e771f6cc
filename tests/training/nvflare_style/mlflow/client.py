import torch
from model import SimpleNetwork

from nvflare import client as flare
from nvflare.client import tracking


def main():
    flare.init()
    mlflow = tracking.MLflowWriter()
    mlflow.log_params({"lr": 0.05, "optimizer": "SGD"})
    mlflow.log_param("site", flare.get_site_name())
    mlflow.set_tag("data", "synthetic")
    mlflow.set_tags({"kind": "test"})
    net = SimpleNetwork(8)
    while flare.is_running():
        input_model = flare.receive()
        current_round = input_model.current_round
        net.load_state_dict(input_model.params)
        with torch.no_grad():
            net.fc1.weight.add_(0.01)
        for step in range(5):
            global_step = current_round * 5 + step
            mlflow.log_metric(key="loss", value=1 / (1 + global_step), step=global_step)
        mlflow.log_metrics({"accuracy": current_round / 2, "round": current_round}, step=current_round)
        mlflow.log_text(f"round {current_round}", artifact_file_path=f"notes/round_{current_round}.txt")
        flare.send(flare.FLModel(params=net.state_dict(), metrics={"accuracy": current_round / 2}))


if __name__ == "__main__":
    main()
