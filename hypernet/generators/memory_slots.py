"""Slots of a functional memory that are added after it was trained."""

import torch
from torch import Tensor, nn

from hypernet.generators.attention import attend


class MemorySlot(nn.Module):
    """Learned keys and values that tokens attend to, for conditions within reach only.

    Values start at zero: adding a slot changes nothing for anybody. Training it changes nothing for
    conditions out of reach, whose tokens never read it.

    Parameters
    ----------
    center : (condition,)
        Standardised.
    radius : float
        Root mean square distance within which a condition reads the slot.
    size, width, blocks : int
        Tokens, their width, and the generator's blocks: each has keys and values of its own.
    """

    center: Tensor
    radius: Tensor

    def __init__(self, center: Tensor, radius: float, size: int, width: int, blocks: int) -> None:
        super().__init__()
        self.register_buffer("center", center.detach().clone())
        self.register_buffer("radius", torch.tensor(radius))
        self.keys = nn.Parameter(torch.randn(blocks, size, width))
        self.values = nn.Parameter(torch.zeros(blocks, size, width))

    def members(self, normal: Tensor) -> Tensor:
        """Which standardised conditions (devices, condition) read the slot."""
        return (normal - self.center).square().mean(1).sqrt() <= self.radius

    def forward(self, x: Tensor, block: int, member: Tensor) -> Tensor:
        """(devices, layers, places, width): what members read is added."""
        query = x.flatten(1, 2)
        read = attend(query[:, None], self.keys[block, None, None], self.values[block, None, None])
        changed = x + read.reshape(x.shape)
        return torch.where(member[:, None, None, None], changed, x)
