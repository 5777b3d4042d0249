"""Low-rank adapters: kept, they are an integer side path of their own; or merged into the layer."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np

from edge_kernels.integer.net import Add, Product
from edge_kernels.integer.shapes import reads
from edge_kernels.quantize.floats import FloatNet, simplified

_PLACES = ("linear", "stride", "dilation", "pad_begin", "pad_end")


def merged(net: FloatNet) -> FloatNet:
    """Return the network with each W x + B (A x) as one layer of W + B A; it computes the same.

    As a side path (``Product``, ``Product``, ``Product``, ``Add``), which is what a quantizer makes
    of it otherwise, an adapter costs its own bytes alone and the layer under it can be shared;
    merged it costs no time. (LoRA, arXiv:2106.09685.)

    Parameters
    ----------
    net : FloatNet
        Not changed.
    """
    made = copy.deepcopy(net)
    for at, step in enumerate(made.steps):
        if isinstance(step, Add):
            found = _together(made, step.x, step.y) or _together(made, step.y, step.x)
            if found is not None:
                made.steps[at] = replace(found, relu=step.relu)
    return simplified(made)  # drops what nobody reads now


def _together(net: FloatNet, base: int, side: int) -> Product | None:
    """The layer that makes the sum of two values, where the one is an adapter of the other."""
    layer, up = _own(net, base), _own(net, side)
    down = None if up is None else _own(net, up.x)
    if layer is None or up is None or down is None or layer.x != down.x:
        return None
    same = all(getattr(layer, name) == getattr(down, name) for name in _PLACES)
    place_by_place = up.weight.shape[1] == 1 and (up.stride, up.pad_begin, up.pad_end) == (1, 0, 0)
    if not (same and place_by_place) or layer.weight.shape[1:] != down.weight.shape[1:]:
        return None
    rows = up.weight[:, 0, :]
    weight = layer.weight + np.einsum("or,rkc->okc", rows, down.weight)
    return replace(layer, weight=weight, bias=layer.bias + up.bias + rows @ down.bias)


def _own(net: FloatNet, value: int) -> Product | None:
    """The layer without ReLU that made a value, where one step alone reads it."""
    step = net.steps[value - 1] if value > 0 else None
    readers = sum(reads(each).count(value) for each in net.steps)
    if not isinstance(step, Product) or step.relu or readers != 1 or value == net.output:
        return None
    return step
