"""The network, and what of it travels: a plain dict of named tensors.

The network is the one of PyTorch's "Training a Classifier" tutorial
(https://pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html), layer for layer.
"""

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

State = dict[str, torch.Tensor]
"""Parameters and buffers of a model by name: detached, on the CPU, sharing no memory with the model."""

_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


class TutorialCNN(nn.Module):
    """Two convolutions and three linear layers for small colour images (62 006 weights at ten classes)."""

    def __init__(self, classes: int = 10) -> None:
        """Build the layers with torch's own initialisation, from torch's global generator.

        Sites that run as threads share that generator: use `build_model`, which takes a seed.

        Args:
            classes: How many classes to tell apart: the width of the last layer.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, (batch, classes), of normalised float images, (batch, 3, 32, 32)."""
        x = self.pool(functional.relu(self.conv1(images)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = torch.flatten(x, start_dim=1)
        x = functional.relu(self.fc1(x))
        x = functional.relu(self.fc2(x))
        return self.fc3(x)


def build_model(seed: int, classes: int = 10) -> TutorialCNN:
    """Build a `TutorialCNN` on the CPU whose first weights depend on the seed alone.

    Torch's global generator is neither read nor moved, so this may run in many threads at once.
    """
    # On the meta device the constructor draws no random number: all of them come from our generator.
    with torch.device("meta"):
        model = TutorialCNN(classes)
    generator = torch.Generator().manual_seed(seed % 2**63)  # any whole number is a seed
    return _draw_weights(model.to_empty(device="cpu"), generator)


def _draw_weights(model: _ModuleT, generator: torch.Generator) -> _ModuleT:
    # Torch's own choice for Conv2d and Linear: weights and biases from U(-b, b), b = 1 / sqrt(fan in).
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return model


def get_state(model: nn.Module) -> State:
    """Copy a model's parameters and buffers to the CPU; training the model on doesn't change the copy."""
    return copy_state(model.state_dict())


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy a state into a model, whatever device that is on.

    Raises:
        ValueError: Names or shapes differ from the model's; the model is left as it was.
    """
    # Torch itself would find a wrong shape only after it has overwritten the tensors before it.
    if problem := explain_mismatch(model.state_dict(), state):
        raise ValueError(f"this state does not fit the model: {problem}")
    model.load_state_dict(state)


def copy_state(state: Mapping[str, torch.Tensor]) -> State:
    """Copy tensors to detached, contiguous ones on the CPU, each in memory of its own."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


def explain_mismatch(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> str:
    """Say in words how the names or shapes of `given` differ from those of `expected`; "" when they don't."""
    if missing := sorted(expected.keys() - given.keys()):
        return f"missing: {', '.join(missing)}"
    if unknown := sorted(given.keys() - expected.keys()):
        return f"unknown: {', '.join(unknown)}"
    wrong = [
        f"{name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if given[name].shape != tensor.shape
    ]
    return ", ".join(wrong)
