"""Bone: blocks of a weight share one change."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from hypernet.adapters.base import Adapter, Factors, Shape


class Bone(Adapter):
    """W is cut into blocks of ``rank`` inputs; one block D is added to each (arXiv:2409.15371).

    The last block may be narrower, and takes D's first inputs. Since all blocks share D, their
    inputs can be summed first: D(Σ blocks of x). D starts at zero and may have full rank.
    """

    @property
    def shapes(self) -> dict[str, Shape]:
        """``block`` (rank, outputs[, kernel]): D, its inputs first."""
        return {"block": (self.rank, self.layer.outputs, *self.layer.taps)}

    def start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """D zero."""
        return {"block": torch.zeros(self.shapes["block"])}

    def merge(
        self, weight: Tensor, bias: Tensor | None, factors: Factors
    ) -> tuple[Tensor, Tensor | None]:
        """D added to every block of W."""
        block, axis = self._block(factors), -1 - len(self.layer.taps)
        copies = -(-self.layer.inputs // self.rank)
        whole = torch.cat([block] * copies, dim=axis)
        return weight + self.scale * whole.narrow(axis, 0, self.layer.inputs), bias

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors) -> Tensor:
        """Wx + s·D(Σ blocks of x)."""
        axis = x.ndim - 1 - len(self.layer.taps)
        missing = -self.layer.inputs % self.rank
        padded = pad(x, (0, 0) * len(self.layer.taps) + (0, missing))
        shape = (*x.shape[:axis], -1, self.rank, *x.shape[axis + 1 :])
        summed = padded.reshape(shape).sum(axis)
        change = self.layer.run(summed, self._block(factors))
        return self.layer.run(x, weight, bias) + self.scale * change

    def _block(self, factors: Factors) -> Tensor:
        """D as a weight ([devices,] outputs, rank[, kernel])."""
        axis = -2 - len(self.layer.taps)
        return factors["block"].transpose(axis, axis + 1)
