"""What memories have in common: a start for everybody, a difference by condition, later slots."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from hypernet.generators.conditioned import ConditionedGenerator, ConditionError
from hypernet.generators.memory_slots import MemorySlot


class Memory(ConditionedGenerator):
    """Generates ``start`` + ``scale`` · (what the condition makes − what the mean one makes).

    ``start`` alone learns what serves everybody; before training every device gets it.

    Parameters
    ----------
    start : (length,)
        Factors that change nothing; learned, and all that a static adapter has.
    tokens, channels : int
        Of a condition, which is given flat: (tokens · channels,).
    backbone : str
        Hash of the network that conditions are measured on and adapters are made for.
    width, blocks : int
        Of the generator.
    scale : float
        What generated residuals are multiplied by.
    """

    def __init__(
        self,
        start: Tensor,
        tokens: int,
        channels: int,
        backbone: str,
        *,
        width: int,
        blocks: int,
        scale: float,
    ) -> None:
        super().__init__(tokens, channels, backbone)
        self.scale, self.width, self.depth = scale, width, blocks
        self.start = nn.Parameter(start.detach().clone())
        self.slots = nn.ModuleList()
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def generate(self, conditions: Tensor) -> Tensor:
        """Conditions (cohort, tokens · channels) → adapters (cohort, length)."""
        normal = self.normal(torch.cat([conditions, self.center[None]]))
        made = self.made(normal)
        return self.start + self.scale * (made[:-1] - made[-1:])

    @abstractmethod
    def made(self, normal: Tensor) -> Tensor:
        """What standardised conditions (conditions, tokens · channels) make: (…, length).

        After the attention of each block the tokens go through ``read_slots``.
        """

    def members(self, normal: Tensor) -> list[Tensor]:
        """For each slot, which standardised conditions read it: (conditions,)."""
        slots: list[Any] = list(self.slots)
        return [slot.members(normal) for slot in slots]

    def read_slots(self, x: Tensor, block: int, members: list[Tensor]) -> Tensor:
        """Tokens (conditions, layers, places, width) with what they read in later memory."""
        for slot, member in zip(self.slots, members, strict=True):
            x = slot(x, block, member)
        return x

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
        slot = MemorySlot(self.normal(near), min(reach, nearest / 2), size, self.width, self.depth)
        self.slots.append(slot)
        return slot


def _make_room(module: Memory, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Add the slots that a state has, so that it can be loaded."""
    found = {key[len(prefix) :].split(".")[1] for key in state if key.startswith(f"{prefix}slots.")}
    for number in range(len(module.slots), len(found)):
        keys = state[f"{prefix}slots.{number}.keys"]
        near = state[f"{prefix}slots.{number}.center"]
        slot = MemorySlot(near, 0.0, keys.shape[1], module.width, module.depth)
        module.slots.append(slot.to(keys.dtype))
