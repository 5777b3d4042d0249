"""Autoencoders with a linear output: standardised windows exceed what a tanh can give."""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from hypernet.networks.encoder import ConvEncoder, MlpEncoder
from hypernet.networks.inputs import InputSpec


class ConvDecoder(nn.Module):
    """Latent vector → a coarse sequence → two rounds of doubling and convolution.

    Doubling repeats each step and convolves: unlike a transposed convolution it leaves no
    checkerboard, and it needs no further operator in the exported step.
    """

    def __init__(self, spec: InputSpec, width: int = 16, latent: int = 64) -> None:
        super().__init__()
        self.time, self.width = spec.time, width
        self.coarse = -(-spec.time // 4)
        self.linear = nn.Linear(latent, width * self.coarse)
        self.conv1 = nn.Conv1d(width, width, 5, 1, 2)
        self.conv2 = nn.Conv1d(width, spec.features, 5, 1, 2)

    def forward(self, z: Tensor) -> Tensor:
        """(windows, latent) → (windows, features, time)."""
        x = relu(self.linear(z)).reshape(-1, self.width, self.coarse)
        x = relu(self.conv1(_double(x)))
        rebuilt: Tensor = self.conv2(_double(x))[..., : self.time]
        return rebuilt


class MlpDecoder(nn.Module):
    """The mirror of the linear encoder: latent–128–256–d."""

    def __init__(self, spec: InputSpec, latent: int = 64) -> None:
        super().__init__()
        self.shape = (spec.features, spec.time)
        self.layers = nn.ModuleList([nn.Linear(latent, 128), nn.Linear(128, 256)])
        self.last = nn.Linear(256, spec.features * spec.time)

    def forward(self, z: Tensor) -> Tensor:
        """(windows, latent) → (windows, features, time)."""
        for layer in self.layers:
            z = relu(layer(z))
        rebuilt: Tensor = self.last(z).reshape(-1, *self.shape)
        return rebuilt


class Autoencoder(nn.Module):
    """Convolutional encoder and decoder on the personal input.

    Encodes raw windows (windows, time, channels) with the person's statistics (features,) each.
    """

    def __init__(self, spec: InputSpec, width: int = 32, latent: int = 64) -> None:
        super().__init__()
        self.spec = spec
        self.encoder: nn.Module = ConvEncoder(spec, width, latent)
        self.decoder: nn.Module = ConvDecoder(spec, max(4, width // 4), latent)

    def encode(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows → (windows, latent)."""
        z: Tensor = self.encoder(self.spec.normalise(x, mean, deviation))
        return z

    def errors(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Mean squared reconstruction error of each window (windows,), in deviations²."""
        target = self.spec.normalise(x, mean, deviation)
        rebuilt: Tensor = self.decoder(self.encoder(target))
        return (rebuilt - target).square().mean((1, 2))

    def reconstruction_loss(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Mean of ``errors``; a scalar."""
        return self.errors(x, mean, deviation).mean()

    forward = errors


class MlpAutoencoder(Autoencoder):
    """SemiPFL's own: d–256–128–latent–128–256–d, with a linear output."""

    def __init__(self, spec: InputSpec, latent: int = 64) -> None:
        nn.Module.__init__(self)
        self.spec = spec
        self.encoder = MlpEncoder(spec, latent)
        self.decoder = MlpDecoder(spec, latent)


def _double(x: Tensor) -> Tensor:
    """(windows, channels, time) → (windows, channels, 2·time), each step twice.

    By steps × channels, as exported convolutions have it: no copy element by element.
    """
    rows = x.transpose(1, 2)
    return torch.cat([rows, rows], dim=2).reshape(-1, 2 * x.shape[2], x.shape[1]).transpose(1, 2)
