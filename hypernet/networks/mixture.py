"""SemiPFL's personal model as in the paper's figure: a base model and a weight a source."""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softmax

from hypernet.networks.encoder import ConvEncoder
from hypernet.networks.inputs import InputSpec

HIDDEN = 16


class BaseModels(nn.Module):
    """One small network latent–16–classes a source, all computed at once."""

    def __init__(self, sources: int, classes: int, latent: int = 64) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.randn(sources, latent, HIDDEN) * latent**-0.5)
        self.bias1 = nn.Parameter(torch.zeros(sources, 1, HIDDEN))
        self.weight2 = nn.Parameter(torch.randn(sources, HIDDEN, classes) * HIDDEN**-0.5)
        self.bias2 = nn.Parameter(torch.zeros(sources, 1, classes))

    def forward(self, z: Tensor) -> Tensor:
        """(windows, latent) or (sources, windows, latent) → logits (sources, windows, classes)."""
        hidden = relu(z @ self.weight1 + self.bias1)
        logits: Tensor = hidden @ self.weight2 + self.bias2
        return logits


class Mixture(nn.Module):
    """The user's encoder, frozen base models, and the weights that combine them.

    p(y | x) = Σ_m softmax(a)_m · softmax(f_m(encoder(x))).
    """

    def __init__(
        self, spec: InputSpec, classes: int, sources: int, width: int = 32, latent: int = 64
    ) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = ConvEncoder(spec, width, latent)
        self.models = BaseModels(sources, classes, latent)
        self.combination = nn.Parameter(torch.zeros(sources))

    def encode(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows (windows, time, channels) → (windows, latent)."""
        z: Tensor = self.encoder(self.spec.normalise(x, mean, deviation))
        return z

    def forward(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows → log-probabilities (windows, classes)."""
        probabilities = softmax(self.models(self.encode(x, mean, deviation)), 2)
        weights = softmax(self.combination, 0)[:, None, None]
        return ((weights * probabilities).sum(0) + 1e-6).log()

    def classification_loss(self, x: Tensor, y: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Negative log-likelihood; a scalar."""
        logits: Tensor = self(x, mean, deviation)
        target = (y[:, None] == torch.arange(logits.shape[1])).to(logits.dtype)
        return -(target * logits).sum(1).mean()
