"""Rows: each output's weights and bias are changed freely."""

from typing import ClassVar

import torch
from torch import Tensor

from hypernet.adapters.base import Adapter, Factors, Shape


class Rows(Adapter):
    """W + s·R, b + s·r: a full change, made to be generated output by output. No rank.

    In a classifier's head an output is a class, and its row may be made from what a condition says
    of that class alone (``ClassMemory``).
    """

    by_output: ClassVar[bool] = True

    @property
    def shapes(self) -> dict[str, Shape]:
        """``rows`` (outputs, inputs · taps + 1): the last entry is the bias's."""
        return {"rows": (self.layer.outputs, self.layer.inputs * max(1, self.layer.kernel) + 1)}

    def start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Zero."""
        return {"rows": torch.zeros(self.shapes["rows"])}

    def merge(
        self, weight: Tensor, bias: Tensor | None, factors: Factors
    ) -> tuple[Tensor, Tensor | None]:
        """W + s·R and b + s·r."""
        rows = self.scale * factors["rows"]
        change = rows[..., :-1].reshape(*rows.shape[:-2], *weight.shape)
        return weight + change, rows[..., -1] if bias is None else bias + rows[..., -1]
