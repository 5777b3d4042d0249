"""Generators whose conditions are measured on a device: checked, standardised, compared."""

import torch
from torch import Tensor

from hypernet.generators.base import WeightGenerator


class ConditionError(ValueError):
    """A condition that a generator cannot answer; says why."""


class ConditionedGenerator(WeightGenerator):
    """Answers conditions of ``tokens`` × ``channels`` numbers that one backbone measured.

    Parameters
    ----------
    tokens, channels : int
        Of a condition, which is given flat: (tokens · channels,).
    backbone : str
        Hash of the network that conditions are measured on and weights are made for.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, tokens: int, channels: int, backbone: str) -> None:
        super().__init__()
        self.tokens, self.channels, self.backbone = tokens, channels, backbone
        self.register_buffer("center", torch.zeros(tokens * channels))
        self.register_buffer("spread", torch.ones(tokens * channels))

    def standardise(self, conditions: Tensor) -> None:
        """Measure mean and deviation of training conditions (devices, condition)."""
        self.center.copy_(conditions.mean(0))
        self.spread.copy_(conditions.std(0, correction=0).clamp_min(1e-3))

    def normal(self, conditions: Tensor) -> Tensor:
        """Conditions (…, condition) in training deviations from the mean one; far ones are cut."""
        return ((conditions - self.center) / self.spread).clamp(-10, 10)

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Root mean square difference of conditions, in training deviations: drift."""
        return ((one - other) / self.spread).clamp(-10, 10).square().mean(-1).sqrt()

    def check(self, condition: Tensor, backbone: str) -> Tensor:
        """Return a device's condition (tokens · channels,) if it can be answered.

        Raises
        ------
        ConditionError
            Where it was measured on another backbone, has another length or is not finite.
        """
        if backbone != self.backbone:
            raise ConditionError(
                f"the condition is of backbone {backbone[:12] or '(none)'}; this memory makes "
                f"adapters for {self.backbone[:12]}: measure it anew"
            )
        expected = self.tokens * self.channels
        if condition.numel() != expected:
            raise ConditionError(
                f"the condition has {condition.numel()} numbers; expected {self.tokens} tokens of "
                f"{self.channels}: {expected}"
            )
        if not bool(torch.isfinite(condition).all()):
            raise ConditionError("the condition holds NaN or infinity")
        return condition.reshape(-1).float()
