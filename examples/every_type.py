"""Log one of everything with the methods of three SDKs, and look at it in any tracker: `python examples/every_type.py`.

Each tracker gets all of it, whichever writer logged it; `docs/matrix.md` says as what.
"""

# pyright: standard
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import numpy as np
import plotly.graph_objects as go
import torch
from matplotlib.figure import Figure

from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers import JsonlReceiver, MLflowReceiver, TensorBoardReceiver, WandBReceiver
from writers import MLflowWriter, SummaryWriter, WandBWriter
from writers.wandb import Html, Molecule, Object3D, Plotly, Table

WATER = "".join(
    f"HETATM{at:>5}  {name:<3} HOH A   1    {x:8.3f}{y:8.3f}   0.000  1.00  0.00           {name[0]}\n"
    for at, (name, x, y) in enumerate([("O", 0.0, 0.0), ("H1", 0.757, 0.586), ("H2", -0.757, 0.586)], 1)
)
random = np.random.default_rng(7)
kinds = np.repeat(np.arange(3), 50)
points = (random.normal(0, 1.3, (150, 8)) + random.normal(0, 1, (3, 8))[kinds]).astype("float32")
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def train(tb: SummaryWriter, wandb: WandBWriter) -> np.ndarray:
    """Fit a small network to three clouds of points; return the likelihood of each kind at each point."""
    inputs, wanted = torch.from_numpy(points), torch.from_numpy(kinds)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(60):
        loss = torch.nn.functional.cross_entropy(model(inputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found = torch.softmax(model(inputs), 1)
        accuracy = (found.argmax(1) == wanted).float().mean()
        wandb.log({"train/loss": loss.item(), "train/accuracy": accuracy.item()}, step=step)
        tb.add_scalars("recall", {f"kind {k}": found[wanted == k, k].mean() for k in range(3)}, step)
        if step % 5 == 0:
            tb.add_histogram("layer 1/weights", model[0].weight, step)
    return torch.softmax(model(inputs), 1).detach().numpy()


def log_as_with_tensorboard(tb: SummaryWriter, found: np.ndarray) -> None:
    """Distributions, pictures, sounds, shapes."""
    x, y = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
    pictures = np.stack([np.stack([x, y, np.full_like(x, blue)]) for blue in (0.1, 0.5, 0.9)])
    figure = Figure(figsize=(4, 3), layout="constrained")
    figure.subplots().scatter(*points[:, :2].T, c=kinds)
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    corners = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], "float32")
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]], "uint8")
    tb.add_scalar("exact", 0.1, 0, new_style=True, double_precision=True)
    tb.add_text("notes", "Three clouds of points, **told apart** by a small network.")
    tb.add_images("gradients", pictures)
    tb.add_figure("clouds", figure)
    tb.add_audio("tone", tone * 0.5, sample_rate=8000)
    tb.add_video("fading", (pictures[None].repeat(2, 1) * 255).astype("uint8"), fps=2)
    tb.add_pr_curve("kind 0", kinds == 0, found[:, 0])
    tb.add_tensor("likelihood", torch.from_numpy(found))
    tb.add_mesh("pyramid", corners, colors, np.array([[[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]], "int32"))
    tb.add_embedding(points, [f"kind {kind}" for kind in kinds])
    tb.add_graph(model, torch.from_numpy(points))
    accuracy = float((found.argmax(1) == kinds).mean())
    tb.add_hparams({"rate": 0.02, "layers": 2}, {"hparam/accuracy": accuracy}, run_name="hparams")
    tb.add_custom_scalars({"training": {"both": ["Multiline", ["train/loss", "train/accuracy"]]}})


def log_as_with_mlflow(mlflow: MLflowWriter, folder: Path) -> None:
    """Params, tags, files, the dataset and the model."""
    (folder / "report.md").write_text("# All went well\n")
    mlflow.log_params({"rate": 0.02, "layers": 2})
    mlflow.set_tags({"team": "red", "draft": "yes"})
    mlflow.delete_tag("draft")
    mlflow.log_table({"kind": [0, 1, 2], "points": [50, 50, 50]}, "tables/kinds.json")
    mlflow.log_image(np.uint8(255 * np.eye(64)), key="diagonal", step=0)
    mlflow.log_artifact(str(folder / "report.md"), "reports")
    dataset = {"name": "clouds", "digest": "c10ud5", "source_type": "code", "source": "{}"}
    mlflow.log_input(dataset, context="training")
    logged = mlflow.pytorch.log_model(model, name="net", input_example=points[:3], pip_requirements=["torch"])
    mlflow.log_metric("test/loss", 0.04, step=60, model_id=logged.model_id)


def log_as_with_wandb(wandb: WandBWriter) -> None:
    """What has a page of its own in W&B."""
    wandb.define_metric("test/*", step_metric="epoch", summary="min")
    wandb.config.update({"model": {"layers": [8, 16, 3]}})
    wandb.summary.update({"best": {"epoch": 59}})
    wandb.alert("done", "the clouds are told apart")
    rows = [[int(kind), *map(float, row[:2])] for kind, row in zip(kinds[::50], points[::50], strict=True)]
    chart = go.Figure(go.Bar(x=["a", "b", "c"], y=[3, 1, 2]))
    wandb.log({"samples": Table(columns=["kind", "x", "y"], data=rows), "page": Html("<h1>A page</h1>")})
    wandb.log(
        {"chart": Plotly(chart), "cloud": Object3D(points[:, :3]), "water": Molecule(StringIO(WATER), file_type="pdb")}
    )


async def main() -> None:
    """Log to all trackers at once."""
    async with EventBus("runs/every-type", site="site-1", job="every-type") as bus:
        for receiver in (JsonlReceiver(), TensorBoardReceiver(), MLflowReceiver(), WandBReceiver(mode="offline")):
            bus.subscribe(TRACKING, receiver)
        tb, wandb = SummaryWriter(), WandBWriter()
        log_as_with_tensorboard(tb, train(tb, wandb))
        log_as_with_wandb(wandb)
        with TemporaryDirectory() as folder:
            log_as_with_mlflow(MLflowWriter(), Path(folder))
    print(bus.report())


anyio.run(main)
