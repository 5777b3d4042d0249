"""Evens out branches before they are concatenated, so that one scale serves all of them.

Of branches a hundred times apart the small one is left with two or three levels of the whole's, and
the weights that read it leave as few to the others'. Factors between layers mend both, and the
network computes the same.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.integer.net import Concat, Product
from edge_kernels.quantize.calibrate import largest
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.scaling import Classes, Scaling, classes, scaled

_TINY: Final = 1e-8


def evened(net: FloatNet, x: NDArray[Any]) -> FloatNet:
    """Return the network with each branch of its concatenations divided by a power of two.

    The factor is that of SmoothQuant, √(max|X| / max|W|), but one for all channels that a step
    makes, W of the layers that read several branches, and in proportion to what is held at 1 (the
    network's input, say), where that is a branch. A network without branches to even out is
    returned itself, not a copy.

    Parameters
    ----------
    net : FloatNet
        Not changed.
    x : (windows, *shape)
        What it reads.
    """
    if not any(isinstance(step, Concat) for step in net.steps):
        return net
    scaling = classes(net)
    group = _groups(scaling)
    seen, weights = np.zeros(scaling.count), np.zeros(scaling.count)
    made = largest(net, x)
    for at, step in enumerate(net.steps):
        columns = scaling.columns[at]
        if isinstance(step, Concat):
            np.maximum.at(seen, group[scaling.values[at + 1]], made[at + 1])
        elif isinstance(step, Product) and columns is not None and np.ptp(group[columns]):
            np.maximum.at(weights, group[columns], np.abs(step.weight).max((0, 1)))
    known = (seen > _TINY) & (weights > _TINY)
    if not known.any():
        return net
    sizes = np.sqrt(seen[known] / weights[known])
    factors = np.ones(scaling.count)
    factors[known] = np.exp2(np.rint(np.log2(sizes / (sizes[0] if known[0] else sizes.max()))))
    return scaled(net, scaling, factors[group]) if (factors != 1).any() else net


def _groups(scaling: Scaling) -> Classes:
    """Of each class, the first of those that the same steps make."""
    group = np.arange(scaling.count)
    for rows in scaling.rows:
        if rows is not None:
            alike = np.isin(group, group[rows])
            group[alike] = group[alike].min()
    return group
