"""Feature-wise scale and shift: the cheapest adapter."""

import torch
from torch import Tensor

from hypernet.adapters.base import Adapter, Factors, Shape


class ScaleShift(Adapter):
    """(1 + s·γ)(Wx + b) + s·β, one γ and β an output (Perez et al., arXiv:1709.07871). No rank."""

    @property
    def shapes(self) -> dict[str, Shape]:
        """``gain`` γ and ``shift`` β, (1, outputs) each."""
        return {"gain": (1, self.layer.outputs), "shift": (1, self.layer.outputs)}

    def start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Both zero."""
        return {name: torch.zeros(shape) for name, shape in self.shapes.items()}

    def merge(
        self, weight: Tensor, bias: Tensor | None, factors: Factors
    ) -> tuple[Tensor, Tensor | None]:
        """(1 + s·γ)W and (1 + s·γ)b + s·β."""
        gain, shift = self._of(factors)
        rows = gain[(..., *(None,) * (weight.ndim - 1))]
        return rows * weight, shift if bias is None else gain * bias + shift

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors) -> Tensor:
        """Scale and shift the layer's result."""
        gain, shift = self._of(factors)
        out = self.layer.run(x, weight, bias)
        return self.layer.spread(gain, out) * out + self.layer.spread(shift, out)

    def _of(self, factors: Factors) -> tuple[Tensor, Tensor]:
        return 1 + self.scale * factors["gain"].squeeze(-2), self.scale * factors["shift"].squeeze(
            -2
        )
