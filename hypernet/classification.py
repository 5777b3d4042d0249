"""The server's labels reach the generator: classification through generated encoders.

Reconstruction alone makes a residual that blurs classes (measured: a loss of five points). The
sources have labels, so each is given an embedding, and the generator learns to classify and to
reconstruct them through the autoencoders that it generates.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hypernet.generators.base import WeightGenerator
from hypernet.networks.autoencoder import Autoencoder
from hypernet.networks.losses import cross_entropy
from hypernet.parameters import ParameterSpec
from hypernet.virtual_users import VirtualUsers


class _Rebuild(nn.Module):
    """Normalised windows (windows, features, time) → latent, and the windows rebuilt."""

    def __init__(self, network: Autoencoder) -> None:
        super().__init__()
        self.encoder, self.decoder = network.encoder, network.decoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode and decode."""
        z = self.encoder(x)
        return z, self.decoder(z)


class SourceClassification:
    """Steps of the generator on the sources: cross-entropy and reconstruction.

    Parameters
    ----------
    network : Autoencoder
        Layout of what is generated, in evaluation mode.
    head : nn.Linear
        The sources' head, frozen.
    users : VirtualUsers
    weight : float
        Of reconstruction beside cross-entropy.
    persons, windows : int
        Virtual users a step, and windows of each.
    """

    def __init__(
        self,
        network: Autoencoder,
        head: nn.Linear,
        users: VirtualUsers,
        weight: float = 0.3,
        persons: int = 6,
        windows: int = 16,
    ) -> None:
        self.call = _Rebuild(network).eval()
        self.spec = ParameterSpec.of(self.call)
        self.head, self.users, self.weight = head, users, weight
        self.persons, self.windows = persons, windows

    def loss(self, generator: WeightGenerator, embeddings: Tensor, buffers: Tensor) -> Tensor:
        """Draw virtual users and classify each through its source's generated encoder.

        Parameters
        ----------
        generator : WeightGenerator
        embeddings : (sources, embedding)
        buffers : (buffers,)
            Shared by all generated networks.
        """
        x, y, who = self.users.draw(self.persons, self.windows)
        vectors = generator.generate(embeddings[who])
        full = torch.cat([vectors, buffers.expand(len(vectors), -1)], dim=1)
        batches = x.reshape(self.persons, self.windows, *x.shape[1:])

        def rebuild(tensors: dict[str, Tensor], batch: Tensor) -> tuple[Tensor, Tensor]:
            z, rebuilt = functional_call(self.call, tensors, (batch,))
            return z, rebuilt

        z, rebuilt = vmap(rebuild)(self.spec.unflatten(full), batches)
        classified = cross_entropy(self.head(z.flatten(0, 1)), y)
        return classified + self.weight * (rebuilt - batches).square().mean()
