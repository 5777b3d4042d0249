"""How far a network with quantizers in it is from the one in float."""

from __future__ import annotations

from typing import Final

from torch import Tensor
from torch.nn import functional

_LEAST: Final = 1e-12
_TEMPERATURE: Final = 4.0


def error(found: Tensor, right: Tensor) -> Tensor:
    """Return the squared error, in shares of the float values' square."""
    return (found - right).square().mean() / right.square().mean().clamp(min=_LEAST)


def divergence(found: Tensor, right: Tensor) -> Tensor:
    """Return Kullback and Leibler's divergence of the odds, softened (arXiv:1503.02531).

    Parameters
    ----------
    found, right : (windows, ..., classes)
        Logits; any other outputs are read as such.
    """
    odds, wanted = (functional.log_softmax(each / _TEMPERATURE, -1) for each in (found, right))
    return (wanted.exp() * (wanted - odds)).sum(-1).mean()
