"""A transformer encoder for windows: patches, blocks of attention, the mean over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from hypernet.networks.inputs import InputSpec
from hypernet.networks.norm import BatchNorm


class Linear(nn.Linear):
    """A linear layer over the last axis whose training step is exported for any number of windows.

    `nn.functional.linear` of three axes and a bias fixes that number when traced (torch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(windows, positions, inputs) → (windows, positions, outputs)."""
        flat = torch.addmm(self.bias, x.reshape(-1, self.in_features), self.weight.t())
        return flat.reshape(*x.shape[:-1], self.out_features)


class Attention(nn.Module):
    """Self-attention with heads over (windows, positions, width), every position reads all."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads = heads
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.output = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, positions, width) → the same shape."""
        query, key, value = (self._split(of(x)) for of in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        mixed = (scores.softmax(-1) @ value).transpose(1, 2)
        out: Tensor = self.output(mixed.reshape(x.shape))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """Attention and a feed-forward part, each with its norm and a residual sum.

    Parameters
    ----------
    width, heads, hidden : int
        ``hidden`` is the feed-forward part's.
    pre_norm : bool
        Norms before each part (arXiv:2002.04745), which trains without warm-up; else after each
        sum, as in BERT.
    eps : float
        Of the norms.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, pre_norm: bool = True, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps)
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, positions, width) → the same shape."""
        if self.pre_norm:
            x = x + self.attention(self.norm1(x))
            return x + self._forward(self.norm2(x))
        x = self.norm1(x + self.attention(x))
        out: Tensor = self.norm2(x + self._forward(x))
        return out

    def _forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(gelu(self.up(x)))
        return out


class TransformerEncoder(nn.Module):
    """Patches of time, learned positions, blocks, the mean over positions, one linear layer.

    In the place of `ConvEncoder`: (windows, features, time) → (windows, latent). Batch norms after
    the patches and after the last layer hold the person's statistics, so that AdaBN serves. With 8
    features, width 32, two layers and latent 64 it has 21 k parameters and .4 M multiplications a
    window of 100 steps.

    Parameters
    ----------
    spec : InputSpec
    width, latent, layers, heads : int
    patch : int
        Steps of time that make one position; what is left at the end is filled up with zeros.
    pre_norm : bool
        As `Block`'s.
    """

    def __init__(
        self,
        spec: InputSpec,
        width: int = 32,
        latent: int = 64,
        *,
        layers: int = 2,
        heads: int = 4,
        patch: int = 5,
        pre_norm: bool = True,
    ) -> None:
        super().__init__()
        self.positions = -(-spec.time // patch)
        pad = self.positions * patch - spec.time
        self.pads = (pad // 2, pad - pad // 2)
        self.embed = nn.Conv1d(spec.features, width, patch, patch, bias=False)
        self.embed_norm = BatchNorm(width)
        self.place = nn.Parameter(torch.randn(self.positions, width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(width, heads, 2 * width, pre_norm=pre_norm) for _ in range(layers)
        )
        self.last_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.linear = nn.Linear(width, latent, bias=False)
        self.norm = BatchNorm(latent)

    def hidden(self, x: Tensor) -> list[Tensor]:
        """(windows, features, time) → (windows, positions, width) of the patches and each block."""
        patches = self.embed_norm(self.embed(nn.functional.pad(x, self.pads)))
        states = [patches.transpose(1, 2) + self.place]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def forward(self, x: Tensor) -> Tensor:
        """(windows, features, time) → (windows, latent), not negative."""
        return self.states(x)[-1]

    def states(self, x: Tensor) -> list[Tensor]:
        """States of each layer, (windows, width, positions), and at last the latent."""
        hidden = self.hidden(x)
        pooled = self.last_norm(hidden[-1]).mean(1)
        return [*(each.transpose(1, 2) for each in hidden), self.project(pooled)]

    def project(self, pooled: Tensor) -> Tensor:
        """(windows, width) → (windows, latent), not negative."""
        return relu(self.norm(self.linear(pooled)))
