"""Log from the threads of a script that has no event loop: `python examples/script.py`."""

from concurrent.futures import ThreadPoolExecutor

from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import MLflowReceiver, TensorBoardReceiver
from writers import MLflowWriter


def train(writer: MLflowWriter, worker: int) -> None:
    """Train nothing for fifty steps."""
    for step in range(50):
        writer.log_metric(f"loss/{worker}", 1 / (step + 1), step)


with EventBus("runs/exp2", site="site-1").background() as bus:
    bus.subscribe(TRACKING, MLflowReceiver())
    bus.subscribe(TRACKING, TensorBoardReceiver())
    mlflow = MLflowWriter()
    mlflow.log_params({"lr": 0.1, "workers": 2})
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, [mlflow, mlflow], [0, 1]))
    mlflow.set_tag("stage", "trained").wait_delivered(60)
print(bus.report())
