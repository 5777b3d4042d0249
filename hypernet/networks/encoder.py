"""Encoders: a window to its latent vector."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from hypernet.networks.inputs import InputSpec
from hypernet.networks.norm import BatchNorm


class ConvEncoder(nn.Module):
    """Three strided convolutions, mean and maximum over time, one linear layer.

    (windows, features, time) → (windows, latent). With 8 features, width 32 and latent 64 it has
    42 k parameters and 0.5 M multiplications a window of 100 steps.
    """

    def __init__(self, spec: InputSpec, width: int = 32, latent: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(spec.features, width, 9, 2, 4, bias=False)
        self.norm1 = BatchNorm(width)
        self.conv2 = nn.Conv1d(width, 2 * width, 5, 2, 2, bias=False)
        self.norm2 = BatchNorm(2 * width)
        self.conv3 = nn.Conv1d(2 * width, 2 * width, 5, 2, 2, bias=False)
        self.norm3 = BatchNorm(2 * width)
        self.linear = nn.Linear(4 * width, latent, bias=False)
        self.norm4 = BatchNorm(latent)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, features, time) → (windows, latent), not negative."""
        return self.project(self.pool(x))

    def pool(self, x: Tensor) -> Tensor:
        """(windows, features, time) → (windows, 4 · width): mean and maximum over time."""
        return _pooled(self._convolved(x)[-1])

    def project(self, pooled: Tensor) -> Tensor:
        """(windows, 4 · width) → (windows, latent), not negative."""
        return relu(self.norm4(self.linear(pooled)))

    def states(self, x: Tensor) -> list[Tensor]:
        """Hidden states of each layer, (windows, channels, time), and at last the latent."""
        layers = self._convolved(x)
        return [*layers, self.project(_pooled(layers[-1]))]

    def _convolved(self, x: Tensor) -> list[Tensor]:
        one = relu(self.norm1.after(self.conv1, x))
        two = relu(self.norm2.after(self.conv2, one))
        return [one, two, relu(self.norm3.after(self.conv3, two))]


def _pooled(x: Tensor) -> Tensor:
    steps = x.transpose(1, 2)  # as exported convolutions have it
    return torch.cat([steps.mean(1), steps.amax(1)], dim=1)


class MlpEncoder(nn.Module):
    """Linear layers over the flattened window, as in SemiPFL: d–256–128–latent."""

    def __init__(self, spec: InputSpec, latent: int = 64) -> None:
        super().__init__()
        sizes = (spec.features * spec.time, 256, 128, latent)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(windows, features, time) → (windows, latent)."""
        x = x.flatten(1)
        for layer in self.layers:
            x = relu(layer(x))
        return x
