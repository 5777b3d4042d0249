"""LoRA: a change of low rank."""

import torch
from torch import Tensor

from hypernet.adapters.base import Adapter, Factors, Shape


class Lora(Adapter):
    """W + s·BA (Hu et al., arXiv:2106.09685); ``up`` is B transposed, ``down`` is A.

    For a convolution A has the kernel and B is pointwise. A starts as layers do, B at zero.
    """

    @property
    def shapes(self) -> dict[str, Shape]:
        """``down`` (rank, inputs[, kernel]) and ``up`` (rank, outputs)."""
        layer = self.layer
        return {
            "down": (self.rank, layer.inputs, *layer.taps),
            "up": (self.rank, layer.outputs),
        }

    def start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A uniform in ±1/√(inputs · kernel), B zero."""
        shape = self.shapes["down"]
        bound = (self.layer.inputs * max(1, self.layer.kernel)) ** -0.5
        down = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        return {"down": down, "up": torch.zeros(self.shapes["up"])}

    def merge(
        self, weight: Tensor, bias: Tensor | None, factors: Factors
    ) -> tuple[Tensor, Tensor | None]:
        """W + s·BA."""
        up, down = factors["up"], factors["down"]
        rows = down.flatten(-2) if self.layer.kernel else down
        batch = down.shape[: down.ndim - weight.ndim]
        change = (up.mT @ rows).reshape(*batch, *weight.shape)
        return weight + self.scale * change, bias

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors) -> Tensor:
        """Wx + s·B(Ax)."""
        up, down = factors["up"].mT, factors["down"]
        inner = self.layer.run(x, down)
        if self.layer.kernel:
            devices = up if up.ndim == 3 else up[None]
            rows = inner.reshape(len(devices), -1, *inner.shape[1:])
            change = (devices[:, None] @ rows).flatten(0, 1)
        else:
            change = self.layer.run(inner, up)
        return self.layer.run(x, weight, bias) + self.scale * change
