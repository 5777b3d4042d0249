"""SemiPFL's hypernetwork: from a person's embedding to all weights of the person's network."""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from hypernet.generators.base import WeightGenerator


class Hypernetwork(WeightGenerator):
    """θ = centre + residual(v): the residual is made chunk by chunk by one shared head.

    A linear head a tensor, as in the public codes, costs hidden × length parameters (18–69 M for
    an autoencoder). Here the vector is cut into chunks; each has a learned code, and one head maps
    (hidden state, code) to the chunk's entries. The head starts at zero: before the first update
    every person gets the centre.

    Parameters
    ----------
    centre : (length,)
        Where all weights start.
    embedding : int
        Length of a condition.
    hidden, code, chunk : int
        Widths of the trunk and of a chunk's code; entries a chunk.
    scale : float
        What the residual is multiplied by: the unit in which embeddings act.
    """

    def __init__(
        self,
        centre: Tensor,
        embedding: int,
        hidden: int = 64,
        code: int = 32,
        chunk: int = 1024,
        scale: float = 0.1,
    ) -> None:
        super().__init__()
        self.length, self.scale = centre.numel(), scale
        chunks = -(-self.length // chunk)
        self.centre = nn.Parameter(centre.detach().clone())
        self.trunk = nn.Linear(embedding, hidden)
        self.codes = nn.Parameter(torch.randn(chunks, code))
        self.mix_hidden = nn.Linear(hidden, hidden)
        self.mix_code = nn.Linear(code, hidden, bias=False)
        self.head = nn.Linear(hidden, chunk)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def generate(self, conditions: Tensor) -> Tensor:
        """Embeddings (cohort, embedding) → weights (cohort, length)."""
        hidden = self.mix_hidden(relu(self.trunk(conditions)))
        joined = relu(hidden[:, None] + self.mix_code(self.codes))
        residual = self.head(joined).flatten(1)[:, : self.length]
        weights: Tensor = self.centre + self.scale * residual
        return weights
