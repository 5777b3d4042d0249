"""PeFLL: an embedding of a person's data, and a hypernetwork from it to all weights."""

from torch import Tensor

from hypernet.generators.conditioned import ConditionedGenerator
from hypernet.generators.hypernetwork import Hypernetwork


class PeFLL(ConditionedGenerator):
    """θ = centre + residual(v), v the mean of an embedding network over the person's windows.

    Scott et al., arXiv:2306.05515; there the embedding network is trained on the devices too, here
    at the server only, and devices run it as part of a graph. The functional memory's closest
    kin: whole weights in place of an adapter, one vector in place of tokens.

    Parameters
    ----------
    centre : (length,)
        Where all weights start.
    embedding : int
        Length of v.
    backbone : str
        Hash of the network that the centre was taken from.
    hidden, chunk, scale
        See ``Hypernetwork``.
    """

    def __init__(
        self,
        centre: Tensor,
        embedding: int,
        backbone: str,
        hidden: int = 64,
        chunk: int = 1024,
        scale: float = 0.1,
    ) -> None:
        super().__init__(1, embedding, backbone)
        self.whole = Hypernetwork(centre, embedding, hidden, chunk=chunk, scale=scale)

    @property
    def start(self) -> Tensor:
        """Where all weights start."""
        return self.whole.centre

    def generate(self, conditions: Tensor) -> Tensor:
        """Embeddings (cohort, embedding) → weights (cohort, length)."""
        return self.whole.generate(self.normal(conditions))
