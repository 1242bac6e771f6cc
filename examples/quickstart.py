"""Log to W&B (offline), MLflow and TensorBoard at once, from a coroutine: `python examples/quickstart.py`."""

import anyio

from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import MLflowReceiver, TensorBoardReceiver, WandBReceiver
from writers import SummaryWriter, WandBWriter


async def main() -> None:
    """Train nothing for a hundred steps."""
    async with EventBus("runs/exp1", site="site-1", job="hello") as bus:
        bus.subscribe(TRACKING, WandBReceiver(mode="offline", wandb_args={"project": "hello", "name": "exp1"}))
        bus.subscribe(TRACKING, MLflowReceiver())
        bus.subscribe(TRACKING, TensorBoardReceiver())
        wandb, tb = WandBWriter(), SummaryWriter()
        for step in range(100):
            await wandb.log({"train/loss": 1 / (step + 1)}, step=step)
            tb.add_scalar("train/lr", 0.1, step)
    print(bus.report())


anyio.run(main)
