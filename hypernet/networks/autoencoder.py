"""Autoencoders with a linear output: standardised windows exceed what a tanh can give."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, relu

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
        x = relu(_doubled(x, self.conv1))
        rebuilt: Tensor = _doubled(x, self.conv2)[..., : self.time]
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


def _doubled(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """(windows, channels, time) → (windows, outputs, 2·time): each step twice, then convolved.

    Five taps on doubled steps see three different ones. So this is a convolution of three taps
    with an output for the even step and one for the odd: 3/5 of the multiplications.
    """
    outputs = conv.weight.shape[0]
    tap = conv.weight
    even = torch.cat([_pairs(tap[..., :4]), tap[..., 4:]], 2)
    odd = torch.cat([tap[..., :1], _pairs(tap[..., 1:])], 2)
    bias = None if conv.bias is None else conv.bias.repeat(2)
    pairs = conv1d(x, torch.cat([even, odd]), bias, padding=1)
    return pairs.transpose(1, 2).reshape(-1, 2 * x.shape[2], outputs).transpose(1, 2)


def _pairs(taps: Tensor) -> Tensor:
    """Sums of taps 0 and 1, 2 and 3: (…, 4) → (…, 2)."""
    return taps.reshape(*taps.shape[:2], 2, 2).sum(3)
