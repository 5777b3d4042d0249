"""HY-WU's functional memory: from a set of unlabelled windows to an adapter, in one pass."""

import torch
from torch import Tensor, nn

from hypernet.generators.attention import Attention, FeedForward
from hypernet.generators.memory import Memory
from hypernet.generators.tokens import TokenPlan
from hypernet.parameters import ParameterSpec


class FunctionalMemory(Memory):
    """Tokens over layers × (patch, rank slot) attend to each other and to the condition.

    HY-WU; the condition enters through cross-attention alone. Factors of all kinds (LoRA's A and B)
    are cut into patches; each kind has its own head. Heads start at zero.

    Parameters
    ----------
    start : (length,)
    spec : ParameterSpec
        Of the adapter: names ``layer.factor``, a factor's first axis its rank slots.
    tokens, channels, backbone, width, blocks, scale
        See ``Memory``.
    heads, patch : int
        Of attention; entries that one token makes.
    """

    def __init__(
        self,
        start: Tensor,
        spec: ParameterSpec,
        tokens: int,
        channels: int,
        backbone: str = "",
        *,
        width: int = 64,
        blocks: int = 2,
        heads: int = 4,
        patch: int = 64,
        scale: float = 0.1,
    ) -> None:
        super().__init__(start, tokens, channels, backbone, width=width, blocks=blocks, scale=scale)
        self.plan = TokenPlan.of(spec, patch)
        self.layer = nn.Parameter(0.5 * torch.randn(self.plan.layers, 1, width))
        self.place = nn.Parameter(0.5 * torch.randn(self.plan.places, width))
        self.read = nn.Linear(channels, width)
        self.which = nn.Parameter(0.5 * torch.randn(tokens, width))
        self.read_norm = nn.RMSNorm(width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = nn.RMSNorm(width)
        heads_of = {kind: nn.Linear(width, patch) for kind in self.plan.kinds}
        for head in heads_of.values():
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.heads_of = nn.ModuleDict(heads_of)

    def made(self, normal: Tensor) -> Tensor:
        """What tokens say to standardised conditions: (conditions, length)."""
        seen = self.read(normal.reshape(-1, self.tokens, self.channels))
        seen = self.read_norm(seen + self.which)
        members = self.members(normal)
        x = (self.layer + self.place)[None]  # alike for all, up to the first cross-attention
        there = self.plan.there
        for number, block in enumerate(self.blocks):
            x = self.read_slots(block(x, seen, there), number, members)
        x = self.norm(x)
        made = {kind: head(x) for kind, head in self.heads_of.items()}
        return self.plan.join(made)


class _Block(nn.Module):
    """Across layers, within a layer, to the condition, feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.across = Attention(width, heads)
        self.within = Attention(width, heads)
        self.condition = Attention(width, heads)
        self.forth = FeedForward(width)

    def forward(self, x: Tensor, seen: Tensor, there: Tensor) -> Tensor:
        """(devices or 1, layers, places, width) → (devices, layers, places, width)."""
        devices, layers, places, _ = x.shape
        columns = x.transpose(1, 2).flatten(0, 1)
        x = self.across(columns, mask=there.T.repeat(devices, 1))
        x = x.reshape(devices, places, layers, -1).transpose(1, 2).flatten(0, 1)
        x = self.within(x, mask=there.repeat(devices, 1))
        x = self.condition(x.reshape(devices, layers * places, -1), seen)
        out: Tensor = self.forth(x).reshape(len(x), layers, places, -1)
        return out
