"""HY-WU's functional memory: from a set of unlabelled windows to an adapter, in one pass."""

from typing import Any

import torch
from torch import Tensor, nn

from hypernet.generators.attention import Attention, FeedForward
from hypernet.generators.conditioned import ConditionedGenerator, ConditionError
from hypernet.generators.memory_slots import MemorySlot
from hypernet.generators.tokens import TokenPlan
from hypernet.parameters import ParameterSpec


class FunctionalMemory(ConditionedGenerator):
    """Tokens over layers × (patch, rank slot) attend to each other and to the condition.

    HY-WU; the condition enters through cross-attention alone. Factors of all kinds (LoRA's A and B)
    are cut into patches; each kind has its own head. Heads start at zero, so that before training
    every device gets ``start``: an adapter that changes nothing. What is generated is a difference
    from what the mean condition gets: ``start`` alone learns what serves everybody.

    Parameters
    ----------
    start : (length,)
        Factors that change nothing; learned, and all that a static adapter has.
    spec : ParameterSpec
        Of the adapter: names ``layer.factor``, a factor's first axis its rank slots.
    tokens, channels : int
        Of a condition, which is given flat: (tokens · channels,).
    backbone : str
        Hash of the network that conditions are measured on and adapters are made for.
    width, blocks, heads, patch : int
        Of the generator; entries that one token makes.
    scale : float
        What generated residuals are multiplied by.
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
        super().__init__(tokens, channels, backbone)
        self.plan = TokenPlan.of(spec, patch)
        self.scale, self.width = scale, width
        self.start = nn.Parameter(start.detach().clone())
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
        self.slots = nn.ModuleList()
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def generate(self, conditions: Tensor) -> Tensor:
        """Conditions (cohort, tokens · channels) → adapters (cohort, length)."""
        made = self._made(torch.cat([conditions, self.center[None]]))
        return self.start + self.scale * (made[:-1] - made[-1:])

    def _made(self, conditions: Tensor) -> Tensor:
        """What tokens say to conditions: (conditions, length)."""
        normal = self.normal(conditions)
        seen = self.read(normal.reshape(-1, self.tokens, self.channels))
        seen = self.read_norm(seen + self.which)
        slots: list[Any] = list(self.slots)
        members = [slot.members(normal) for slot in slots]
        x = (self.layer + self.place)[None]  # alike for all, up to the first cross-attention
        there = self.plan.there
        for number, block in enumerate(self.blocks):
            x = block(x, seen, there)
            for slot, member in zip(slots, members, strict=True):
                x = slot(x, number, member)
        x = self.norm(x)
        made = {kind: head(x) for kind, head in self.heads_of.items()}
        return self.plan.join(made)

    def add_slot(self, near: Tensor, old: Tensor, size: int = 8, reach: float = 3.0) -> MemorySlot:
        """Add memory that only conditions near ``near`` read; everything else is frozen.

        The mean condition, from which all others differ, counts as an old one.

        Parameters
        ----------
        near : (condition,)
        old : (conditions, condition)
            Must stay out of reach: these get what they got, bit for bit, now and later.
        size : int
            Tokens of the slot.
        reach : float
            Largest distance (see ``distance``) at which a condition reads it; cut to half of that
            to the nearest old one.

        Raises
        ------
        ConditionError
            Where an old condition is ``near`` itself.
        """
        old = torch.cat([old.reshape(-1, len(near)), self.center[None]])
        nearest = float(self.distance(old, near).min())
        if nearest < 1e-6:
            raise ConditionError("an old condition lies where the new slot would; it would change")
        self.requires_grad_(False)
        slot = MemorySlot(
            self.normal(near), min(reach, nearest / 2), size, self.width, len(self.blocks)
        )
        self.slots.append(slot)
        return slot


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


def _make_room(module: FunctionalMemory, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add the slots that a state has, so that it can be loaded."""
    found = {key[len(prefix) :].split(".")[1] for key in state if key.startswith(f"{prefix}slots.")}
    for number in range(len(module.slots), len(found)):
        keys = state[f"{prefix}slots.{number}.keys"]
        near = state[f"{prefix}slots.{number}.center"]
        slot = MemorySlot(near, 0.0, keys.shape[1], module.width, len(module.blocks))
        module.slots.append(slot.to(keys.dtype))
