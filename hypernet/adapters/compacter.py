"""Compacter: sums of Kronecker products of shared and cheap matrices."""

from typing import ClassVar

import torch
from torch import Tensor

from hypernet.adapters.base import Adapter, Factors, Shape


class Compacter(Adapter):
    """W + s·Σ_i A_i ⊗ (u_i v_iᵀ) (Karimi Mahabadi et al., arXiv:2106.04647).

    ``slow`` A_i (rank × rank) is one for all layers of a network; ``left`` u_i and ``right`` v_i
    are a layer's own. There are ``rank`` terms. Where a layer's width is no multiple of the rank,
    the product is larger than W and is cut. u starts at zero.
    """

    shared: ClassVar[frozenset[str]] = frozenset({"slow"})

    @property
    def shapes(self) -> dict[str, Shape]:
        """``slow`` (rank, rank, rank), ``left`` (rank, ⌈outputs/rank⌉), ``right`` of inputs."""
        rank, layer = self.rank, self.layer
        return {
            "slow": (rank, rank, rank),
            "left": (rank, -(-layer.outputs // rank)),
            "right": (rank, -(-layer.inputs // rank), *layer.taps),
        }

    def start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A normal with deviation 1/√rank, v 1/√inputs, u zero."""
        shapes = self.shapes
        slow = torch.randn(shapes["slow"], generator=generator) * self.rank**-0.5
        fan = self.layer.inputs * max(1, self.layer.kernel)
        right = torch.randn(shapes["right"], generator=generator) * fan**-0.5
        return {"slow": slow, "left": torch.zeros(shapes["left"]), "right": right}

    def merge(
        self, weight: Tensor, bias: Tensor | None, factors: Factors
    ) -> tuple[Tensor, Tensor | None]:
        """W + s·Σ_i A_i ⊗ (u_i v_iᵀ)."""
        slow, left, right = (factors[name] for name in ("slow", "left", "right"))
        taps = "t" if self.layer.taps else ""
        whole = torch.einsum(f"...iab,...io,...ic{taps}->...aobc{taps}", slow, left, right)
        first = whole.ndim - 4 - len(taps)
        product = whole.flatten(first, first + 1).flatten(first + 1, first + 2)
        cut = product.narrow(first, 0, self.layer.outputs)
        return weight + self.scale * cut.narrow(first + 1, 0, self.layer.inputs), bias
