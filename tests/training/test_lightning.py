"""A Lightning script in a process of its own, over rounds: weights, metrics, optimizers and limits are right."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from readback import read_jsonl
from servers.script_site import ScriptSite

from eventbus import EventBus
from eventbus.tracking import TRACKING
from receivers.jsonl import JsonlReceiver
from training.fl_model import FLModel

X = torch.tensor([[1.0], [2.0], [3.0]])
EPOCHS, STEPS_PER_EPOCH = 2, 3

MODULE = """
    import warnings
    warnings.filterwarnings("ignore")
    import pytorch_lightning as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    import training.lightning as flare

    class Net(pl.LightningModule):
        def __init__(self, lr=0.01):
            super().__init__()
            self.save_hyperparameters()
            self.line = torch.nn.Linear(1, 1, bias=False)
            self.__fl_meta__ = {"mine": "yes"}

        def _loss(self, batch):
            return (self.line(batch[0]) ** 2).mean()

        def training_step(self, batch, _):
            loss = self._loss(batch)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, _):
            self.log("val_loss", self._loss(batch))

        def test_step(self, batch, _):
            self.log("test_loss", self._loss(batch))

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    loader = DataLoader(TensorDataset(torch.tensor([[1.0], [2.0], [3.0]])), batch_size=1)

    def trainer(**options):
        quiet = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        return pl.Trainer(accelerator="cpu", log_every_n_steps=1, **quiet, **options)
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ScriptSite]:
    with ScriptSite(tmp_path) as opened:
        yield opened


class Reference:
    """The same training in plain torch: optimizer and schedule go on from round to round."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(1, 1))
        self.optimizer = torch.optim.SGD([self.weight], lr=0.01, momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)

    def round(self, weight: float, epochs: int = EPOCHS) -> float:
        with torch.no_grad():
            self.weight.fill_(weight)
        for _ in range(epochs):
            for row in X:
                self.optimizer.zero_grad()
                (self.weight * row).square().mean().backward()
                self.optimizer.step()
            self.schedule.step()
        return self.weight.item()


def loss(weight: float) -> float:
    return ((weight * X) ** 2).mean().item()


def ask(site: ScriptSite, name: str, weight: float, number: int = 0) -> FLModel:
    site.ask(name, FLModel(params={"line.weight": torch.tensor([[weight]])}, current_round=number))
    return site.answer()


def weight_of(answer: FLModel) -> float:
    assert answer.params is not None
    assert list(answer.params) == ["line.weight"]
    return float(answer.params["line.weight"].item())


def test_two_rounds_and_an_evaluation(site: ScriptSite, tmp_path: Path) -> None:
    reference = Reference()
    with EventBus(tmp_path / "w", site="site-1", run="run-1").background() as bus:
        bus.subscribe(TRACKING, JsonlReceiver())
        process = site.run(
            MODULE
            + f"""
    flare.init()
    net, one = Net(), trainer(max_epochs={EPOCHS}, logger=flare.logger(prefix="one"))
    flare.patch(one)
    flare.patch(one)
    while flare.is_running():
        if flare.is_evaluate():
            print(one.test(net, loader, verbose=False))
            continue
        one.validate(net, loader, verbose=False)
        one.fit(net, loader, loader)
        one.test(net, loader, verbose=False)
        print(one.current_epoch, one.global_step, one.max_epochs, sum("FLC" in str(c) for c in one.callbacks))
    """,
            TRACKBUS_BUS=json.dumps({"workspace": str(tmp_path / "w"), "site": "site-1", "job": "j", "run": "run-1"}),
        )
        answers = [(weight, ask(site, "train", weight, number)) for number, weight in enumerate((1.0, 3.0))]
        evaluated = ask(site, "validate", 2.0)
        site.end()
        printed, complained, code = site.output(process)

    assert code == 0, complained
    for weight, answer in answers:
        assert weight_of(answer) == pytest.approx(reference.round(weight), rel=1e-6)
        assert answer.metrics is not None
        assert answer.metrics["val_loss"] == pytest.approx(loss(weight), rel=1e-6)
        assert answer.meta == {"NUM_STEPS_CURRENT_ROUND": EPOCHS * STEPS_PER_EPOCH, "mine": "yes"}
    assert (evaluated.params, evaluated.metrics) == (None, {"test_loss": pytest.approx(loss(2.0), rel=1e-6)})
    lines = [line for line in printed.splitlines() if line[:1].isdigit()]
    assert lines == ["2 6 4 1", "4 12 6 1"]
    check_logged(tmp_path / "w")


def check_logged(workspace: Path) -> None:
    """Every step's loss, in both rounds, and the hyperparameters are in the tracker."""
    found = [line.value for line in read_jsonl(workspace / "jsonl")]
    metrics = [line["event"] for line in found if line["type"] == "MetricsLogged"]
    steps = [event["step"] for event in metrics if "one-train_loss" in event["values"]]

    assert steps == list(range(2 * EPOCHS * STEPS_PER_EPOCH))
    assert next(line["event"]["values"] for line in found if line["type"] == "ConfigUpdated") == {"lr": 0.01}


def test_limits_and_modules_that_differ(site: ScriptSite) -> None:
    process = site.run(
        MODULE
        + """
    one = trainer(max_steps=4, logger=False)
    flare.patch(one, restore_state=False)
    net = Net()
    for _ in range(2):
        one.fit(net, loader)
        print("steps", one.global_step)
    partial = Net()
    partial.head = torch.nn.Linear(1, 1)
    two = trainer(max_epochs=1, logger=False)
    flare.patch(two, load_state_dict_strict=False)
    two.fit(partial, loader)
    print(sorted(partial.state_dict()))

    wide = Net()
    wide.line = torch.nn.Linear(2, 1, bias=False)
    other = Net()
    other.line = torch.nn.Identity()
    other.head = torch.nn.Linear(1, 1)
    for module in (partial, wide, other, Net()):
        three = trainer(max_epochs=1, logger=False)
        flare.patch(three)
        try:
            three.fit(module, loader)
        except flare.ClientError as error:
            print(error)
    four = trainer(max_epochs=1, logger=False)
    flare.patch(four)
    try:
        four.fit(Net(), loader)
    except flare.ClientError as error:
        print(error)
    four.validate(Net(), loader, verbose=False)
    flare.is_running()
    four.fit(Net(), loader)
    print("steps", four.global_step)
    """
    )
    for weight in (1.0, 3.0):
        answer = ask(site, "train", weight)
        assert answer.meta == {"NUM_STEPS_CURRENT_ROUND": 4, "mine": "yes"}
        assert answer.metrics is None
    partial = ask(site, "train", 1.0)
    assert sorted(partial.params or ()) == ["head.bias", "head.weight", "line.weight"]
    assert ask(site, "train", 1.0).meta == {"NUM_STEPS_CURRENT_ROUND": 3, "mine": "yes"}
    assert ask(site, "validate", 3.0).metrics == {"val_loss": pytest.approx(loss(3.0))}
    site.end()
    printed, complained, code = site.output(process)

    assert code == 0, complained
    assert [line.partition("; give the server")[0] for line in printed.splitlines()] == [
        "steps 4",
        "steps 8",
        "['head.bias', 'head.weight', 'line.weight']",
        "the weights that were sent are not this module's: unknown here [], not sent ['head.bias', 'head.weight']",
        "the weights that were sent are of another shape: line.weight: (1, 1), here (1, 2)",
        "the weights that were sent are not this module's: unknown here ['line.weight'], not sent "  # noqa: ISC004
        "['head.bias', 'head.weight']",
        "this task is to validate: call trainer.validate() `if flare.is_evaluate()`, else fit()",
        "steps 0",
    ]
    assert "not sent and left: ['head.bias', 'head.weight']" in complained
    assert "there are no more tasks, so nothing is trained" in complained


def test_a_fit_that_trains_nothing_says_why_and_leaves_the_loop(site: ScriptSite) -> None:
    process = site.run(
        MODULE
        + """
    full_batches = DataLoader(TensorDataset(torch.zeros(1, 1)), batch_size=2, drop_last=True)
    one = trainer(max_epochs=1, logger=False)
    flare.patch(one)
    while flare.is_running():
        one.validate(Net(), loader, verbose=False)
        one.fit(Net(), full_batches)
    """
    )
    site.ask("train", FLModel(params={"line.weight": torch.tensor([[1.0]])}, current_round=0))
    site.left()
    _, complained, code = site.output(process)

    assert code == 1
    assert "ClientError: fit() has trained nothing, so the task 'train' has no answer" in complained


def test_a_fit_that_trains_nothing_is_well_where_nothing_is_asked(site: ScriptSite) -> None:
    process = site.run(
        MODULE
        + """
    one = trainer(max_epochs=0, logger=False)
    flare.patch(one)
    one.fit(Net(), loader)
    """
    )
    site.end()
    _, complained, code = site.output(process)
    assert code == 0, complained


@pytest.mark.slow
def test_ranks_train_together_and_rank_0_talks(site: ScriptSite) -> None:
    process = site.run(
        MODULE
        + """
    one = trainer(max_epochs=1, logger=False, devices=2, strategy="ddp")
    flare.patch(one)
    net = Net()
    one.validate(net, loader, verbose=False)
    one.fit(net, loader)
    print(f"rank {one.global_rank}: {one.global_step} steps, {net.line.weight.item():.6f}", flush=True)
    """
    )
    answer = ask(site, "train", 1.0)

    assert site.left() == ""
    printed, complained, code = site.output(process)
    assert code == 0, complained
    assert answer.metrics is not None
    assert answer.metrics["val_loss"] == pytest.approx(loss_of_rank_0(1.0))
    assert answer.meta["NUM_STEPS_CURRENT_ROUND"] == 2
    ranks = sorted(line for line in printed.splitlines() if line.startswith("rank"))
    assert ranks == [f"rank {rank}: 2 steps, {weight_of(answer):.6f}" for rank in (0, 1)]


def loss_of_rank_0(weight: float) -> float:
    """Of three rows it has the first and the third."""
    return ((weight * X[::2]) ** 2).mean().item()
