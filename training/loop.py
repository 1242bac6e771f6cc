"""One site's work in one round: train an epoch, evaluate. Read top to bottom.

Everything here is synchronous and is meant for a worker thread of its own; it logs nothing, the caller's
`on_step` does. No random number comes from torch's global generator. (A network with dropout would draw from
it: sites with such a network want processes.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Optimizer

from training.data import IMAGE_SIDE, Samples, seeded_generator
from training.model import build_model


@dataclass(frozen=True, slots=True)
class StepResult:
    """One batch, measured before its step was taken.

    Attributes:
        step: The batch's number in this epoch, from 0.
        loss: Mean cross-entropy of the batch, in nats.
        accuracy: Share of the batch that was classified right, 0..1.
        samples: Size of the batch.
    """

    step: int
    loss: float
    accuracy: float
    samples: int


@dataclass(frozen=True, slots=True)
class EpochResult:
    """An epoch, averaged over its samples.

    Attributes:
        loss: Mean cross-entropy in nats; NaN when it was stopped before its first step.
        accuracy: Share classified right, each sample at the moment it was trained on, 0..1; NaN as above.
        samples: How many samples were trained on.
        steps: How many batches that took.
        stopped: Whether `should_stop` ended it early.
    """

    loss: float
    accuracy: float
    samples: int
    steps: int
    stopped: bool


@dataclass(frozen=True, slots=True)
class EvalResult:
    """A model measured on data: mean cross-entropy in nats, share classified right (0..1), samples."""

    loss: float
    accuracy: float
    samples: int


def round_generator(seed: int, site: str, round_number: int) -> torch.Generator:
    """Make the generator of one site's round: others shuffle otherwise, a rerun the same."""
    return seeded_generator(seed, "round", site, round_number)


def warm_up() -> None:
    """Pay once, before a site says it is ready, what a process's first training step costs.

    The first optimizer of a process imports torch._dynamo (1 to 2 s, unless torchvision has done so already),
    and the first step sets up torch's kernels. Call it off the event loop; a second call costs milliseconds.
    """
    model = build_model(seed=0)
    data = Samples(torch.zeros(2, 3, IMAGE_SIDE, IMAGE_SIDE), torch.zeros(2, dtype=torch.int64))
    optimizer = SGD(model.parameters(), lr=0.0)
    train_epoch(model, data, optimizer, batch_size=len(data), generator=torch.Generator())


def train_epoch(
    model: nn.Module,
    data: Samples,
    optimizer: Optimizer,
    *,
    batch_size: int,
    generator: torch.Generator,
    on_step: Callable[[StepResult], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> EpochResult:
    """Train a model on every sample once, in an order drawn from the generator.

    Args:
        model: A classifier of images; it is trained in place, on the device it is on.
        data: What to train on; the last batch may be smaller than the others.
        optimizer: Steps the model's parameters.
        batch_size: Samples per step.
        generator: A CPU generator; see `round_generator`. Hand the same one to a round's next epoch.
        on_step: Called after each step, in this thread. What it raises ends the epoch.
        should_stop: Asked before each step; true ends the epoch there.

    Raises:
        ValueError: There are no samples, or the batch size is below 1.
    """
    _require_batches(data, batch_size)
    model.train()
    device = _device_of(model)
    order = torch.randperm(len(data), generator=generator)
    tally = _Tally()
    stopped = False
    for batch in data.batches(batch_size, order):
        if should_stop is not None and should_stop():
            stopped = True
            break
        result = _train_step(model, optimizer, batch.images.to(device), batch.labels.to(device), tally.steps)
        tally.add(result)
        if on_step is not None:
            on_step(result)
    return EpochResult(tally.loss, tally.accuracy, tally.samples, tally.steps, stopped)


def _train_step(
    model: nn.Module, optimizer: Optimizer, images: torch.Tensor, labels: torch.Tensor, step: int
) -> StepResult:
    optimizer.zero_grad()
    logits: torch.Tensor = model(images)
    loss = functional.cross_entropy(logits, labels)
    loss.backward()  # pyright: ignore[reportUnknownMemberType] - torch types it in part
    optimizer.step()
    return StepResult(step, loss.item(), _accuracy(logits, labels), len(labels))


def evaluate(model: nn.Module, data: Samples, *, batch_size: int = 256) -> EvalResult:
    """Measure a model on data without changing it.

    Args:
        model: A classifier of images, on any device; its train or eval mode is restored.
        data: What to measure it on.
        batch_size: Samples per forward pass; it bounds the memory and doesn't change the result.

    Raises:
        ValueError: There are no samples, or the batch size is below 1.
    """
    _require_batches(data, batch_size)
    device = _device_of(model)
    tally = _Tally()
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in data.batches(batch_size):
                tally.add(_measure(model, batch.images.to(device), batch.labels.to(device), tally.steps))
    finally:
        model.train(was_training)
    return EvalResult(tally.loss, tally.accuracy, tally.samples)


def _measure(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, step: int) -> StepResult:
    logits: torch.Tensor = model(images)
    loss = functional.cross_entropy(logits, labels)
    return StepResult(step, loss.item(), _accuracy(logits, labels), len(labels))


class _Tally:
    """Means over samples, so that a short last batch weighs what it should."""

    def __init__(self) -> None:
        self.steps = 0
        self.samples = 0
        self._loss = 0.0
        self._right = 0.0

    def add(self, result: StepResult) -> None:
        self.steps += 1
        self.samples += result.samples
        self._loss += result.loss * result.samples
        self._right += result.accuracy * result.samples

    @property
    def loss(self) -> float:
        return self._loss / self.samples if self.samples else math.nan

    @property
    def accuracy(self) -> float:
        return self._right / self.samples if self.samples else math.nan


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return (logits.argmax(dim=1) == labels).float().mean().item()


def _device_of(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu"))


def _require_batches(data: Samples, batch_size: int) -> None:
    if not len(data):
        raise ValueError("there are no samples")
    if batch_size < 1:
        raise ValueError(f"a batch has one sample or more, not {batch_size}")
