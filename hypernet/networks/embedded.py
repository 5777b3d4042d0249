"""A classifier that also tells what a frozen embedding network makes of a person's windows."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hypernet.networks.adapted import version_of
from hypernet.networks.classifier import Classifier
from hypernet.networks.encoder import ConvEncoder
from hypernet.networks.norm import adapt_norms, rest_norms
from hypernet.parameters import ParameterSpec


class EmbeddedClassifier(Classifier):
    """All of the classifier's weights travel; the embedding network is a constant of its graphs.

    Parameters
    ----------
    backbone : Classifier
        Its weights are where this one starts.
    embedding : int
    width, latent : int
        Of the backbone.
    """

    def __init__(self, backbone: Classifier, embedding: int, width: int, latent: int) -> None:
        super().__init__(backbone.spec, backbone.head.out_features, width, latent)
        self.load_state_dict(backbone.state_dict(), strict=True)
        self.version = version_of(backbone)
        self.embedder = ConvEncoder(backbone.spec, 16, embedding)

    def condition(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Raw windows → (1, embedding): the mean of their embeddings."""
        return self.embedded(self.spec.normalise(x, mean, deviation))[None]

    def embedded(self, x: Tensor) -> Tensor:
        """Normalised inputs (windows, features, time) of one person → (embedding,)."""
        z: Tensor = self.embedder(x)
        return z.mean(0)

    def freeze(self) -> "EmbeddedClassifier":
        """Make a constant of the embedding network, once it is trained."""
        for child in self.embedder.modules():
            for name, parameter in list(child._parameters.items()):
                if parameter is not None:
                    del child._parameters[name]
                    child.register_buffer(name, parameter.detach())
            child._non_persistent_buffers_set.update(child._buffers)
        return self.eval()

    def batched(self, x: Tensor, weights: Tensor, spec: ParameterSpec) -> Tensor:
        """Logits of normalised inputs (persons, windows, …), a person with weights of its own.

        Statistics are mixed with those of each person's windows (AdaBN).

        Parameters
        ----------
        x : (persons, windows, features, time)
        weights : (persons, trainable length)
        spec : ParameterSpec
            Of the classifier alone.
        """
        names, shapes = spec.names[: spec.trainable], spec.shapes[: spec.trainable]
        head = _Head(self)
        adapt_norms(self.encoder, keep=False)

        def one(vector: Tensor, windows: Tensor) -> Tensor:
            parts = torch.split(vector, list(spec.sizes[: spec.trainable]))
            tensors = {
                f"network.{n}": p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)
            }
            logits: Tensor = functional_call(head, tensors, (windows,))
            return logits

        try:
            result: Tensor = vmap(one)(weights, x)
        finally:
            rest_norms(self.encoder)
        return result


class _Head(nn.Module):
    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network.head(self.network.encoder(x))
        return logits
