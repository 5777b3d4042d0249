"""Encoder and head: the model of every baseline."""

import torch
from torch import Tensor, nn

from hypernet.networks.encoder import ConvEncoder
from hypernet.networks.inputs import InputSpec
from hypernet.networks.losses import cross_entropy


class Classifier(nn.Module):
    """Encoder and linear head on the personal input."""

    def __init__(self, spec: InputSpec, classes: int, width: int = 32, latent: int = 64) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = ConvEncoder(spec, width, latent)
        self.head = nn.Linear(latent, classes)

    def encode(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows (windows, time, channels) → (windows, latent)."""
        z: Tensor = self.encoder(self.spec.normalise(x, mean, deviation))
        return z

    def forward(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows → logits (windows, classes)."""
        logits: Tensor = self.head(self.encode(x, mean, deviation))
        return logits

    def classification_loss(self, x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Cross-entropy with class indices y (windows,); a scalar."""
        return cross_entropy(self(x, mean, deviation), y)


def dropout(z: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Inverted dropout from a generator of one's own, so that one seed gives one result."""
    keep = torch.rand(z.shape, generator=generator) >= rate
    return z * keep / (1 - rate)
