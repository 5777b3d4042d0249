"""Attention between generator tokens: plain, RMSNorm first, no dropout."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu


class Attention(nn.Module):
    """Multi-head attention of tokens to others, added to what they were.

    Parameters
    ----------
    width, heads : int
        Of a token; heads share its width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, seen: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : (batch, tokens, width)
        seen : (batch or 1, others, width), optional
            What is attended to; the tokens themselves if left out. ``x`` may have batch 1.
        mask : (batch or 1, others), optional
            Which of them are there.
        """
        normal = self.norm(x)
        key, value = self.key_value(normal if seen is None else seen).chunk(2, -1)
        query = self._split(self.query(normal))
        attended = attend(query, self._split(key), self._split(value), mask)
        out: Tensor = x + self.out(attended)
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with SiLU between, added to what the tokens were."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.rise = nn.Linear(width, 2 * width)
        self.fall = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) → the same."""
        out: Tensor = x + self.fall(silu(self.rise(self.norm(x))))
        return out


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of (batch, heads, tokens, width); heads side by side."""
    batch = max(len(query), len(key))
    q, k, v = (each.expand(batch, -1, -1, -1) for each in (query, key, value))
    there = None if mask is None else mask[:, None, None]
    out: Tensor = scaled_dot_product_attention(q, k, v, attn_mask=there)
    return out.transpose(1, 2).flatten(2)


def cosine_squared(update: Tensor, previous: Tensor) -> Tensor:
    """Mean cos² between rows of (devices, length): 1 where all devices get one update."""
    return torch.cosine_similarity(update, previous, dim=1, eps=1e-8).square().mean()
