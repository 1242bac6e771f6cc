"""The network of PyTorch's tutorial, and how it is trained at one place: no federation in here."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from training.data import Samples


class Net(nn.Module):
    """Two convolutions and three linear layers, for images of 3 x 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, (batch, 10)."""
        x = self.pool(functional.relu(self.conv1(images)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = functional.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc3(functional.relu(self.fc2(x)))


def make_net(seed: int) -> Net:
    """Make a network whose first weights follow from a seed."""
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType] - torch types it in part
    return Net()


def train(net: nn.Module, samples: Samples, epochs: int, lr: float = 0.01) -> Iterator[float]:
    """Train on all samples so many times, and yield the loss of each step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for _ in range(epochs):
        for batch in samples.batches(16, torch.randperm(len(samples))):
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(batch.images), batch.labels)
            loss.backward()  # pyright: ignore[reportUnknownMemberType] - torch types it in part
            optimizer.step()  # pyright: ignore[reportUnknownMemberType] - the same
            yield loss.item()


def accuracy(net: nn.Module, samples: Samples) -> float:
    """Return the share of samples that the network gets right."""
    with torch.no_grad():
        return (net(samples.images).argmax(1) == samples.labels).float().mean().item()
